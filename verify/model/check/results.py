"""What `verify check` says of the user's own model: as text, as JSON, and as alignments that go back in."""

import math
from collections.abc import Mapping, Sequence

from derive import __version__
from derive.emit import terminal_table
from verify.fit.forward import Row
from verify.fit.judging import row_json
from verify.model.check.check import Check, Measured, Setup
from verify.model.check.drift import Drift
from verify.model.check.rows import STILL, ZERO
from verify.model.rows import without_numbers
from verify.provenance import device_name, loaded_code, today
from verify.values import Document, Entries


def as_json(model: str, inputs: str, check: Check, base_rate: float, drifts: Mapping[Setup, Drift] | None) -> Document:
    """The JSON contract of every verify command; `inputs` is the fingerprint of what the model was given."""
    answer = check.prescription
    return {
        "schema": 1,
        "command": "check",
        "version": __version__,
        "code": loaded_code("verify.model.check.coordinates"),
        "date": today(),
        "device": device_name(),
        "corpus": f"the model's own inputs {inputs}",
        "model": model,
        "optimizer": answer.optimizer_name,
        "parameterization": answer.parameterization,
        "alignment": answer.alignment,
        "widths": list(check.widths),
        "seeds": check.seeds,
        "base_rate": base_rate,
        "passes": {setup: measured.passes for setup, measured in check.measured.items()},
        "verdict": {setup: measured.verdict for setup, measured in check.measured.items()},
        "undecided": {setup: len(measured.undecided) for setup, measured in check.measured.items()},
        "advice": list(check.advice),
        "drift": None if drifts is None else [_drift_json(drift) for drift in drifts.values()],
        "rows": [
            {"setup": setup, **row_json(row)} for setup, measured in check.measured.items() for row in measured.rows
        ],
    }


def _drift_json(drift: Drift) -> Document:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "setup": drift.setup,
        "drift": finite(drift.drift.value),
        "low": finite(drift.drift.low),
        "high": finite(drift.drift.high),
        "transfer_loss": finite(drift.transfer_loss),
        "widths": {
            str(width): {
                "best_rate": finite(best.best_rate),
                "best_loss": finite(float(best.best_losses.mean())),
                "rates": best.rates.tolist(),
                "losses": [[finite(loss) for loss in losses] for losses in best.losses.tolist()],
                "at_edge": best.at_edge,
            }
            for width, best in drift.optima.items()
        },
    }


def measured_json(content: Entries, setup: Setup) -> Document:
    """The rows of one set-up alone, which --alignment measured:FILE reads."""
    return {**content, "rows": [row for row in content["rows"] if row["setup"] == setup]}


def as_text(
    model: str,
    check: Check,
    content: Entries,
    drifts: Mapping[Setup, Drift] | None,
    own: str | None = None,
) -> str:
    """A row per dense op: how size and change go in both set-ups, then verdicts and what to change."""
    answer = check.prescription
    steps = sorted(next(iter(check.measured.values())).tables)
    last = steps[-1]
    looked = [("size", 1), ("delta_z", 1), *([("delta_z", last)] if last != 1 else [])]
    cells = []
    for op in answer.ops:
        row = [op.name, op.kind]
        for quantity, step in looked:
            row += [_cell(measured, op.name, quantity, step) for measured in check.measured.values()]
        cells.append(row)
    heads = {"size": "size at start", "delta_z": "change, step {}"}
    columns = ["dense op", "role"]
    columns += [f"{heads[quantity].format(step)}: {setup}" for quantity, step in looked for setup in check.measured]
    lines = [
        f"{model}: {answer.optimizer_name}, {answer.parameterization}, alignment {answer.alignment}, widths "
        f"{','.join(map(str, check.widths))}, {check.seeds} seeds, "
        f"base rate {content['base_rate']:g}, on {content['device']}",
        "Powers of the width as measured; x: not as predicted; ?: undecided; a: smaller, as its update aligns "
        "less than assumed",
        f"own: the model as it is, with {own or 'one rate for all'}; "
        "prescribed: its sizes, rates and multipliers as prescribed",
        terminal_table(columns, cells),
    ]
    lines += [f"{setup}: {verdict_line(measured, check.seeds)}" for setup, measured in check.measured.items()]
    lines += [f"  {line}" for measured in check.measured.values() for line in _elsewhere(measured)]
    if check.advice:
        lines += ["what to change in the model as it is:", *(f"  {line}" for line in _grouped(check.advice))]
    for drift in (drifts or {}).values():
        it = drift.drift
        lines.append(
            f"best rate, {drift.setup}: ~ n^{it.value:.2f} [{it.low:.2f}, {it.high:.2f}]; the rate of width "
            f"{check.widths[0]} costs {drift.transfer_loss:.3f} at {check.widths[-1]}"
            + ("; a best rate lies at the edge of those tried" if any(o.at_edge for o in drift.optima.values()) else "")
        )
    return "\n".join(lines) + "\n"


def verdict_line(measured: Measured, seeds: int, judged: str = "dense ops, vectors and products") -> str:
    """Such as: passes; 6 of 12 undecided: give --seeds 8. `judged` says what rows are of."""
    partial = [row for row in measured.undecided if _is_partial(row)]
    open_rows = len(measured.undecided) - len(partial)
    failed, layers = ({row.layer for row in rows} for rows in (measured.failures, measured.deciding))
    said = {
        "passes": "passes",
        "fails": f"FAILS on {len(failed)} of {len(layers)} {judged}",
        "undecided": "undecided",
    }[measured.verdict]
    if open_rows:
        still = all(row.reason == STILL for row in measured.undecided if not _is_partial(row))
        more = "more --steps" if still else f"--seeds {max(4, 2 * seeds)}"
        said += f"; {open_rows} of {len(measured.deciding)} undecided: give {more}"
    if partial:
        said += f"; {len(partial)} of {len(measured.deciding)} smaller, as updates align less than assumed"
    return said


def _is_partial(row: Row) -> bool:
    return bool(row.reason and row.reason.startswith("shrinks"))


def _elsewhere(measured: Measured) -> list[str]:
    """Failures beside the dense ops of the table, a line each."""
    return [
        f"{measured.setup}: {row.layer}: {row.quantity} at step {row.step} as n^{-row.measured.value:.2f}"
        + (f"; {row.reason}" if row.reason else f", predicted n^-({row.predicted})")
        for row in measured.failures
        if row.layer.startswith(("parameter ", "product "))
    ]


def _grouped(advice: Sequence[str]) -> list[str]:
    """The lines, those that ask the same of blocks that are alike as one, with the first's reason."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for line in advice:
        change, _, why = line.partition("; ")
        path, _, rest = change.partition(" (")
        groups.setdefault((without_numbers(path), rest), []).append((path, why))
    return [
        f"{lines[0][0]} ({rest}; {lines[0][1]}"
        if len(lines) == 1
        else f"{alike} x {len(lines)} ({rest}; {lines[0][0]}: {lines[0][1]}"
        for (alike, rest), lines in groups.items()
    ]


def _cell(measured: Measured, name: str, quantity: str, step: int) -> str:
    for row in measured.rows:
        if (row.layer, row.quantity, row.step) == (name, quantity, step):
            value = -row.measured.value
            if row.reason == ZERO:
                return "0"
            mark = {"fails": " x", "open": " a" if _is_partial(row) else " ?"}.get(row.verdict, "")
            text = "still" if row.reason == STILL else "diverged" if value != value else f"{value:+.2f}"
            return text + mark
    return "-"
