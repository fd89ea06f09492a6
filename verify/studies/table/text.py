"""The fit of a table of runs as text and JSON, with what `derive` predicts beside it, and as a study for the report."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sympy import Expr

from derive.emit import terminal_table
from derive.errors import DeriveError, shorten
from derive.words import KINDS, text
from verify.fit.optimum import Estimate
from verify.fit.slopes import Slope
from verify.studies.table.fit import Fit, on_grid
from verify.studies.table.runs import Runs
from verify.studies.transfer.analysis import rows_json
from verify.sweeps.records import GLOBAL, Conditions, Record, Setting, Study
from verify.values import Document

Predicted = tuple[str, ...]
ONE_SEED = "one seed: intervals are over the scatter of best rates across sizes, which needs three or more"
COARSE = (
    "the drift's interval has in it that a best rate on the grid may lie half a step aside, or anywhere beyond an edge"
)
REPEATED = "no --seed column: runs of one group, size and rate are taken for repetitions"


def predictions(given: str) -> Predicted:
    """What `derive` says of the drift of a sweep, one line each; DeriveError for what it does not know.

    The power of the width with which the best rate goes: where one raw rate is swept, that of `--global-rate`; where
    the base rate of a prescription is, 0, and each layer's own rate goes as n^-c.
    """
    from derive.parameterizations import custom
    from derive.solve import prescribe

    parts = given.split("/")
    if len(parts) != 3:
        raise DeriveError(f"--predict {shorten(given)} has {len(parts)} parts; write adam/sp/global, or adam/mup/full")
    optimizer, scheme, alignment = parts
    if alignment == GLOBAL:
        return tuple(
            f"one rate for all layers, {each} alignment: best rate ~ "
            f"n{_power(-prescribe(optimizer, custom(scheme), each, global_rate=True).c[0])}"
            for each in ("full", "none")
        )
    layers = prescribe(optimizer, custom(scheme), alignment).layers
    own = ", ".join(f"{kind} n{_power(-layers[at].c)}" for at, kind in zip((0, 1, -1), KINDS, strict=True))
    return ("the base rate of this prescription: best rate ~ n^0", f"a layer's own rate: {own}")


def _power(exponent: Expr) -> str:
    return f"^{text(exponent)}" if exponent.is_Integer else f"^({text(exponent)})"


def table(runs: Runs, found: Sequence[Fit], margin: float, predicted: Predicted | None) -> str:
    """Per group: best rates, drift, whether it transfers, notes and the rates to run next."""
    blocks: list[str] = []
    for place, each in enumerate(found):
        widths = each.result.widths
        rows = [
            [
                f"{width.width:g}",
                _number(width.best_rate, ".4g"),
                _number(width.best_loss.value, ".4f"),
                _number(width.lost.value, ".4f"),
                str(width.diverged),
                "fitted" if width.fitted else "at the edge" if width.at_edge else "grid-limited",
            ]
            for width in widths
        ]
        columns = [each.axis, "best rate", "loss", "lost by transfer", "diverged", ""]
        lines = [f"{each.group}: {each.seeds} {'seed' if each.seeds == 1 else 'seeds'}", terminal_table(columns, rows)]
        lines.append(f"drift: best rate ~ {each.axis}^{_interval(each.drift, '+.3f')}")
        if widths:
            first, last = widths[0].width, widths[-1].width
            lines.append(
                f"{each.answer}: using the best rate of {first:g} at {last:g} costs {_interval(each.cost, '.4f')} nats "
                f"(margin {margin:g})"
            )
        if each.law is not None and all(each.law is not other.law for other in found[:place]):
            powers = ", ".join(f"{name}^{_interval(power, '+.3f')}" for name, power in each.law.powers.items())
            lines.append(f"all axes together, {each.law.cells} cells: best rate ~ {powers}")
        lines += [f"note: {note}" for note in each.result.notes]
        if len(widths) > 1 and any(map(on_grid, widths)):
            lines.append(f"note: {COARSE}")
        if each.seeds == 1:
            lines.append(f"note: {ONE_SEED}")
        lines += [f"run next: {each.axis} {one.width:g} at {one.rate:.4g} ({one.reason})" for one in each.next]
        blocks.append("\n".join(lines))
    blocks += [f"note: {note}" for note in runs.notes]
    if runs.repeated:
        blocks.append(f"note: {REPEATED}")
    if predicted:
        blocks.append("\n".join(f"predicted: {line}" for line in predicted))
    return "\n\n".join(blocks) + "\n"


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)


def _interval(found: Estimate | Slope, form: str) -> str:
    if np.isnan(found.value):
        return "(not known)"
    ends = "" if np.isnan(found.low) else f" [{found.low:{form}}, {found.high:{form}}]"
    return f"{found.value:{form}}{ends}"


def as_json(runs: Runs, found: Sequence[Fit], predicted: Predicted | None) -> Document:
    """The JSON contract: a row per group as `verify transfer` has per setting, and what only this command says."""
    rows = []
    for each, row in zip(found, rows_json([each.result for each in found]), strict=True):
        for name in ("optimizer", "parameterization", "alignment", "constants", "trained_as"):
            row.pop(name)
        rows.append(
            {
                "group": each.group,
                "axis": each.axis,
                "seeds": each.seeds,
                **row,
                **{
                    name: _ends(each.drift)[end] for name, end in (("drift", "value"), ("low", "low"), ("high", "high"))
                },
                "cost": _ends(each.cost),
                "answer": each.answer,
                "law": None if each.law is None else {name: _ends(power) for name, power in each.law.powers.items()},
                "next": [{each.axis: one.width, "rate": one.rate, "reason": one.reason} for one in each.next],
            }
        )
    return {"schema": 1, "command": "fit", "rows": rows, "predicted": list(predicted or ()), "notes": list(runs.notes)}


def _ends(found: Estimate) -> dict[str, float | None]:
    named = {"value": found.value, "low": found.low, "high": found.high}
    return {name: float(value) if np.isfinite(value) else None for name, value in named.items()}


def study_of(runs: Runs, files: Sequence[Path]) -> Study:
    """The table as a study, for the report; what a table does not say of its training is 0, or not stated."""
    labels = [runs.label(at) for at in range(len(runs.rates))]
    sizes = runs.axes[runs.axis]
    records = tuple(
        Record(label, int(size), float(rate), int(seed), float(loss), None if np.isfinite(loss) else 0)
        for label, size, rate, seed, loss in zip(labels, sizes, runs.rates, runs.seeds, runs.losses, strict=True)
    )
    conditions = Conditions(
        model=", ".join(path.name for path in files),
        sizes={},
        base_width=int(sizes.min()),
        steps=0,
        batch=0,
        evaluation=0,
        corpus="not stated",
        code="not stated",
    )
    settings = {label: Setting(label, "", "", ()) for label in dict.fromkeys(labels)}
    return Study(conditions, settings, {}, records)
