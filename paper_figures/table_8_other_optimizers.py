"""Table 8: the prescriptions of every optimizer known to `derive`, for SP and muP under full alignment."""

from pathlib import Path

from sympy import Expr

from derive.parameterizations import MUP, SP
from derive.registry import REGISTRY
from derive.solve import Prescription, prescribe, solve_kinds
from paper_figures.items import NONE, Cell, Item, Table

PUBLISHED = ("sgd", "adam", "adafactor")
SHOWN = (SP, MUP)


def item(data: Path) -> Item:  # noqa: ARG001
    """Exponents of rate, ε and update, and the bound on α that the rule's operator norm sets. Needs no study."""
    rows: list[list[Cell]] = []
    sections: list[int] = []
    found: dict[str, list[Prescription]] = {}
    for rule in REGISTRY:
        answers = found[rule.name] = [solve_kinds(prescribe(rule, scheme, "full").problem) for scheme in SHOWN]
        sections.append(len(rows))
        for index, layer in enumerate(answers[0].layers):
            rows.append([rule.name, layer.kind, *(cell for answer in answers for cell in _cells(answer, index))])
    distinct = {tuple(answer.c for answer in answers) for answers in found.values()}
    known = {tuple(answer.c for answer in found[name]) for name in PUBLISHED}
    as_adam = [name for name, answers in found.items() if [a.c for a in answers] == [a.c for a in found["adam"]]]
    learning = sum(answer.feature_learning is True for answers in found.values() for answer in answers)
    notes = [
        "Rate n^-c, ε n^-e (- where the rule has none), RMS of the update n^-s, and α at most the cap (none on the "
        "embedding, whose input is fixed).",
        "For rules on singular values s is that of a gradient of full rank; only their operator norm and α − s are "
        "laws of the width at any rank, and the rates depend on these alone.",
    ]
    columns = [f"{scheme.name}: {what}" for scheme in SHOWN for what in ("c", "e", "s", "α cap")]
    return Item(
        title="Optimizers beyond the paper",
        claim="What an optimizer contributes to the theory is the size of its update and how well that can align, so "
        "the analysis extends beyond the three optimizers of the paper.",
        measured=f"{len(found)} update rules have {len(distinct)} different prescriptions for SP and muP together, "
        f"{len(distinct - known)} of them unlike SGD's, Adam's and Adafactor's; {len(as_adam)} rules share Adam's. "
        f"{learning} of {len(found) * len(SHOWN)} settings learn features.",
        scale="Exact; nothing is trained.",
        verdict="derived",
        tables={"table_8_other_optimizers": Table(["optimizer", "layer", *columns], rows, sections, notes)},
    )


def _cells(answer: Prescription, index: int) -> list[Cell]:
    layer = answer.layers[index]
    rule = answer.problem.optimizers[layer.kind]
    cap = None if layer.alpha is None else rule.alignment_cap(layer.kind, layer.g, layer.b)
    return [layer.c, _or_none(layer.epsilon), layer.s, _or_none(cap)]


def _or_none(exponent: Expr | None) -> Cell:
    return NONE if exponent is None else exponent
