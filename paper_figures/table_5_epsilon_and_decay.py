"""Table 5: what Adam's ε and decoupled weight decay must do with width, and where a constant ε starts to bite."""

from pathlib import Path
from typing import Any

from derive.decays import DECAYS
from derive.epsilon import Onset, onsets
from derive.parameterizations import SCHEMES, parameterization
from derive.solve import prescribe, solve_kinds
from paper_figures.items import Cell, Item, Table
from paper_figures.paths import result
from verify.checksums import read_document

DEFAULT = 1e-8
VALUES = (1e-6, DEFAULT)
"""Constant ε: one that is in use, and Adam's default."""
LARGEST = 16_384
"""The largest width of the paper."""


def item(data: Path) -> Item:
    """Exponents of ε and λ per layer, and onsets from the gradients at the base width of the study `epsilon`."""
    content = read_document(result(data, "epsilon", "float32/epsilon.json"))
    (study,) = content["studies"]
    table, found = _onsets(study)
    first = {value: min(found, key=lambda each: each[2][value].width or float("inf")) for value in VALUES}
    told = "; ".join(
        f"ε = {value:g} meets the {layer} gradient of {scheme} first, at width {_width(at[value], study['widths'][0])}"
        for value, (scheme, layer, at) in first.items()
    )
    within = {value: sum((at[value].width or float("inf")) <= LARGEST for *_, at in found) for value in VALUES}
    counted = ", ".join(f"{count} of {len(found)} layers for ε = {value:g}" for value, count in within.items())
    return Item(
        title="Exponents of ε and weight decay, and where ε underflows",
        claim="Adam's ε must shrink as the gradients do, layer by layer; a constant one ends scale invariance at some "
        "width, within the range of the paper's models.",
        measured=f"{told}. Up to width {LARGEST:,} this happens in {counted}. These gradients are "
        "those of a small network at its first step, by their RMS; entries are unequal, and what halves an update is "
        "several times smaller: figure 6 shows that it bites before.",
        scale=f"Exponents exact; gradients of multilayer perceptrons at width {study['widths'][0]}, after the first "
        f"step, mean over seeds ({content['device']}).",
        verdict="held" if within[DEFAULT] else "not decided",
        tables={"table_5_epsilon_and_decay": _exponents(), "table_5_epsilon_onsets": table},
    )


def _exponents() -> Table:
    rows: list[list[Cell]] = []
    for scheme in SCHEMES:
        problem = prescribe("adam", scheme, "full").problem
        answers = [solve_kinds(problem, decay) for decay in DECAYS]
        for index, layer in enumerate(answers[0].layers):
            if layer.epsilon is None:
                continue
            decays = [answer.layers[index].decay for answer in answers]
            rows.append([scheme.name, layer.kind, layer.g, layer.epsilon, layer.c, *decays])
    columns = ["parameterization", "layer", "gradient g", "ε exponent", "rate c", *(f"λ: {decay}" for decay in DECAYS)]
    note = (
        "Adam, full alignment; an entry x means size n^-x. Decoupled decay W ← (1 − ηλ) W: ηλ is n^0 (independent), "
        "n^(−c/2) (sqrt) or n^-c (constant λ)."
    )
    return Table(columns, rows, range(0, len(rows), 3), [note])


def _onsets(study: dict[str, Any]) -> tuple[Table, list[tuple[str, str, dict[float, Onset]]]]:
    """The table, and (parameterization, layer, onset of every value)."""
    base = study["widths"][0]
    measured = {(row["parameterization"], row["layer"]): row for row in study["layers"] if row["step"] == 1}
    rows: list[list[Cell]] = []
    found = []
    for (scheme, layer), row in measured.items():
        problem = prescribe("adam", parameterization(scheme), "full").problem
        kind, size = layer.partition(".")[0], row["rms"]
        at = {
            value: next(each for each in onsets(problem, value, base, (size, size, size), None) if each.kind == kind)
            for value in VALUES
        }
        found.append((scheme, layer, at))
        exponent = at[VALUES[0]].exponent
        rows.append([scheme, layer, exponent, f"{size:.2g}", *(_width(at[value], base) for value in VALUES)])
    starts = [place for place, row in enumerate(rows) if not place or row[0] != rows[place - 1][0]]
    columns = [
        "parameterization",
        "layer",
        "gradient g",
        f"RMS(G) at {base}",
        *(f"width where it meets ε: {value:g}" for value in VALUES),
    ]
    note = (
        f"RMS of the gradient over its entries that are not zero, at width {base}, and the width at which it has "
        "shrunk to ε as n^-g; never where the gradient does not shrink."
    )
    return Table(columns, rows, starts, [note]), found


def _width(onset: Onset, base: int) -> str:
    """Two digits of the width, which is no better known."""
    if onset.width is None:
        return "never"
    if onset.width < base:
        return f"below {base}"
    rounded = float(f"{onset.width:.2g}")
    return f"{rounded:,.0f}" if rounded < 1e6 else f"{rounded:.1e}"
