"""Table 7: predicted exponents beside those measured in trained networks, with 95 % intervals over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sympy import Rational

from paper_figures.items import NONE, Cell, Item, Table, verdict
from paper_figures.paths import result
from verify.checksums import read_document
from verify.fit.four_steps import rejected_by
from verify.fit.judging import Row, row_json
from verify.studies.exponents.measured import judged_again, read_measured

Rows = Sequence[dict[str, Any]]
UPDATES = ("update_exponents", "update_exponents_rank")
"""The latter are matrix rules that came later, some of which are of a known size only where the batch is small."""
PROPAGATION = {"Adam SP": "exponents_adam_sp_full_4096", "Adam muP": "exponents_adam_mup_full_4096"}
VERDICTS = {True: "holds", False: "fails", None: "open"}
QUANTITIES = {
    "delta_w": "ΔW",
    "cancellation": "cancellation",
    "nonlinearity": "nonlinearity",
    "alpha": "α",
    "omega": "ω",
    "u": "u",
    "delta_z": "Δz",
    "largest": "Δz by its own update",
    "consistent": "Δz, consistent",
    "weight": "W",
    "size": "z",
    "epsilon": "ε",
    "gradient": "gradient",
    "alpha - s": "α − s",
}


def item(data: Path) -> Item:
    """Every optimizer's update exponents, the propagation of Adam in SP and muP, and how many hold."""
    update_studies = [_read(data, study, "updates.json") for study in UPDATES]
    changes = {name: read_measured(result(data, study)) for name, study in PROPAGATION.items()}
    judged = {name: judged_again(each) for name, each in changes.items()}
    studies: dict[str, Rows] = {
        "updates": [row for each in update_studies for row in each["rows"]],
        **{name: [row_json(row) for row in rows] for name, rows in judged.items()},
    }
    first = {name: _at(rows, min) for name, rows in studies.items()}
    told = "; ".join(
        f"{name}: {len(failing)} of {len(first[name])} fail"
        + (f" ({', '.join(dict.fromkeys(map(_named, failing)))})" if failing else "")
        for name, failing in ((name, [row for row in rows if row["holds"] is False]) for name, rows in first.items())
    )
    trained = [
        *(("updates", each) for each in update_studies),
        *((name, each.conditions) for name, each in changes.items()),
    ]
    scales = "; ".join(
        f"{name}: multilayer perceptrons of width {each['widths'][0]} to {each['widths'][-1]}, {each['batch']} examples"
        for name, each in trained
    )
    last = _at(studies["updates"], max)
    count, step = sum(row["holds"] is True for row in last), last[0]["step"]
    return Item(
        title="Exponents, predicted and measured",
        claim="The theory's premises can be measured: how large an optimizer's updates are, how well they align with "
        "activations, and how much activations change, as powers of the width.",
        measured=f"At the first step, {told}. After step {step} {count} of {len(last)} exponents of updates hold, "
        f"where a sum of updates is taken for one. {_rejected(judged)}",
        scale=f"{scales}; {update_studies[0]['device']}.",
        verdict=verdict([row["holds"] for rows in first.values() for row in rows]),
        tables={
            "table_7_update_exponents": _updates(first["updates"]),
            "table_7_propagation": _propagation({name: first[name] for name in PROPAGATION}),
            "table_7_summary": _summary(studies),
        },
    )


def _rejected(judged: Mapping[str, Sequence[Row]]) -> str:
    """Which theories the four steps reject, at all measured steps together."""
    by_name = {name: rejected_by(rows) for name, rows in judged.items()}
    rejected = [f"{name} by step {' and '.join(found)}" for name, found in by_name.items() if found]
    steps = max(row.step for rows in judged.values() for row in rows)
    return f"Over {steps} steps the theory is rejected for {'; '.join(rejected) or 'none of the two'}."


def _read(data: Path, study: str, file: str) -> dict[str, Any]:
    return read_document(result(data, study, file))


def _at(rows: Rows, choose: Any) -> Rows:
    """The rows of the first (min) or the last (max) measured step."""
    step = choose(row["step"] for row in rows)
    return [row for row in rows if row["step"] == step]


def _named(row: dict[str, Any]) -> str:
    return " ".join([*([row["optimizer"]] if "optimizer" in row else []), row["layer"], _quantity(row)])


def _quantity(row: dict[str, Any]) -> str:
    return QUANTITIES.get(row["quantity"], str(row["quantity"]))


def _number(value: float | None) -> str:
    """Three decimals, and no minus before 0.000."""
    return NONE if value is None else f"{round(value, 3) + 0.0:.3f}"


def _table(first: str, parts: dict[str, Rows], judged: Sequence[str], note: str) -> Table:
    """The rows of every part; `judged` are its numbers before the verdict. Reasons go into notes."""
    rows: list[list[Cell]] = []
    sections: list[int] = []
    reasons: dict[str, list[str]] = {}
    for name, part in parts.items():
        sections.append(len(rows))
        for row in part:
            numbers = [_number(row[each]) for each in judged]
            exponent = [name, row["layer"], _quantity(row)]
            predicted = NONE if row["predicted"] is None else Rational(row["predicted"])
            rows.append([*exponent, predicted, *numbers, VERDICTS[row["holds"]]])
            if row["holds"] is not True and row["reason"]:
                reasons.setdefault(row["reason"], []).append(" ".join(exponent))
    notes = [f"{', '.join(where)}: {reason}." for reason, where in reasons.items()]
    return Table([first, "layer", "exponent", "predicted", *judged, "verdict"], rows, sections, [note, *notes])


def _updates(rows: Rows) -> Table:
    parts: dict[str, Rows] = {
        name: [row for row in rows if row["optimizer"] == name]
        for name in dict.fromkeys(row["optimizer"] for row in rows)
    }
    note = (
        "Updates of the first step: RMS(U) = n^-s, operator norm n^p, RMS(U z) = n^(α − s) RMS(z); low and high are "
        "the 95 % interval over seeds. Of rules on singular values only p and α − s are laws at any rank of the "
        "gradient."
    )
    return _table("optimizer", parts, ("measured", "low", "high"), note)


def _propagation(parts: dict[str, Rows]) -> Table:
    note = (
        "After the first step: RMS(ΔW), RMS(Δz) and gradients are n^-x, alignments α, ω, u are n^x; cancellation is "
        "the size of a layer's change over the root sum of squares of its three terms, nonlinearity that of Δz over "
        "the change before it. A row fails where its interval, widened by the tolerance, excludes the reference. Δz is "
        "judged by the theory's own r; implied stands beside it, which is what the measured alignments and terms give "
        "at these widths, and by which Δz is judged in the row consistent. Δz by its own update is the part of it that "
        "the largest stable rate makes as large as is allowed."
    )
    return _table("study", parts, ("reference", "tolerance", "implied", "measured", "low", "high"), note)


def _summary(studies: dict[str, Rows]) -> Table:
    rows: list[list[Cell]] = []
    sections: list[int] = []
    for name, found in studies.items():
        sections.append(len(rows))
        for quantity in dict.fromkeys(row["quantity"] for row in found):
            ends = [[row for row in _at(found, choose) if row["quantity"] == quantity] for choose in (min, max)]
            counts = [str(sum(row["holds"] is verdict for row in end)) for end in ends for verdict in VERDICTS]
            rows.append([name, QUANTITIES.get(quantity, str(quantity)), *counts])
    columns = [f"{step} step: {verdict}" for step in ("first", "last") for verdict in VERDICTS.values()]
    note = "Open: the interval is too wide to tell, or the rank of the gradient decides."
    return Table(["study", "exponent", *columns], rows, sections, [note])
