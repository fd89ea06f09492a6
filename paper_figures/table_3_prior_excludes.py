"""Table 3: what earlier alignment assumptions exclude: `prior` beside `full`."""

from collections.abc import Iterable
from pathlib import Path

from derive.parameterizations import SCHEMES
from derive.solve import Prescription, prescribe, solve_kinds
from paper_figures.items import Cell, Item, Table

OPTIMIZERS = ("sgd", "adam", "adafactor")
ASSUMED = ("full", "prior")


def item(data: Path) -> Item:  # noqa: ARG001
    """Per-layer rates c, the change r_L of the last hidden layer, and whether it learns. Needs no study."""
    pairs = [
        [solve_kinds(prescribe(optimizer, scheme, assumed).problem) for assumed in ASSUMED]
        for optimizer in OPTIMIZERS
        for scheme in SCHEMES
    ]
    shown = ("c embedding", "c hidden", "c readout", "r", "learns")
    columns = [f"{assumed}: {what}" for assumed in ASSUMED for what in shown]
    rows: list[list[Cell]] = [
        [full.optimizer_name, full.problem.parameterization.name, *_cells(full), *_cells(prior)]
        for full, prior in pairs
    ]
    excluded = _names(prior for _, prior in pairs if prior.feature_learning is False)
    kept = _names(prior for full, prior in pairs if prior.c == full.c)
    slower = {new - old for full, prior in pairs if prior.c != full.c for old, new in zip(full.c, prior.c, strict=True)}
    learning = sum(full.feature_learning is True for full, _ in pairs)
    note = (
        "Rates are n^-c, per layer; r: the last hidden layer's activations change by n^-r, and it learns "
        "features where r = 0. Both assume α = u = 1 and ω = 1/2 on hidden layers; on the readout ω is 1/2 in full and "
        "1 in prior."
    )
    return Item(
        title="What earlier assumptions exclude",
        claim="Work that took the readout's initial weights to align with the features' change (ω = 1) had to conclude "
        "that only muP and mean field learn features; without that assumption every parameterization does.",
        measured=f"Under full {learning} of {len(pairs)} settings learn features. Under prior "
        f"{', '.join(excluded)} do not, whatever the optimizer: rates of theirs are lower by "
        f"{' or '.join(f'n^(-{each})' for each in sorted(slower) if each)}; {', '.join(kept)} keep the same rates.",
        scale="Exact; nothing is trained.",
        verdict="derived",
        tables={
            "table_3_prior_excludes": Table(
                ["optimizer", "parameterization", *columns], rows, range(0, len(rows), len(SCHEMES)), [note]
            )
        },
    )


def _cells(answer: Prescription) -> list[Cell]:
    return [*answer.c, answer.layers[-2].r, {True: "yes", False: "no", None: "open"}[answer.feature_learning]]


def _names(answers: Iterable[Prescription]) -> list[str]:
    return list(dict.fromkeys(answer.problem.parameterization.name for answer in answers))
