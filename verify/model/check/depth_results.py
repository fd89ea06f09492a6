"""What `verify check` says of the user's own model along depth: as text and as JSON."""

from derive import __version__
from derive.emit import terminal_table
from verify.fit.forward import Row
from verify.fit.judging import row_json
from verify.model.check.check import Measured
from verify.model.check.depth import DepthCheck
from verify.model.check.results import verdict_line
from verify.model.check.rows import STILL
from verify.provenance import device_name, loaded_code, today
from verify.values import Document

LOOKED = ("size", "own change", "vector", "delta_z")
PRESCRIBED = "prescribed: its starts and rates as prescribed, branches multiplied as wrap(apply) does"
OWN = "own: the model as it is, with one rate for all; prescribed: its starts and rates as prescribed"


def as_json(model: str, inputs: str, check: DepthCheck, base_rate: float) -> Document:
    """The JSON contract of every verify command; `inputs` is the fingerprint of what the model was given."""
    answer = check.deepest
    return {
        "schema": 1,
        "command": "check",
        "axis": "depth",
        "version": __version__,
        "code": loaded_code("verify.model.check.coordinates"),
        "date": today(),
        "device": device_name(),
        "corpus": f"the model's own inputs {inputs}",
        "model": model,
        "optimizer": answer.optimizer_name,
        "width": check.width,
        "depths": list(check.depths),
        "seeds": check.seeds,
        "base_rate": base_rate,
        "passes": {setup: measured.passes for setup, measured in check.measured.items()},
        "verdict": {setup: measured.verdict for setup, measured in check.measured.items()},
        "undecided": {setup: len(measured.undecided) for setup, measured in check.measured.items()},
        "rows": [
            {"setup": setup, **row_json(row)} for setup, measured in check.measured.items() for row in measured.rows
        ],
    }


def as_text(model: str, check: DepthCheck, base_rate: float) -> str:
    """A row per parameter, those of all blocks as one: how size and changes go in both set-ups, then verdicts."""
    answer = check.deepest
    rows = [row for measured in check.measured.values() for row in measured.rows]
    last = max(row.step for row in rows)
    names = list(dict.fromkeys(row.layer for row in rows))
    cells = [
        [name, *(_cell(measured, name, each, last) for each in LOOKED for measured in check.measured.values())]
        for name in names
    ]
    heads = {"size": "size at start", "own change": "own change", "vector": "of vectors", "delta_z": "whole change"}
    columns = ["parameter", *(f"{heads[each]}: {setup}" for each in LOOKED for setup in check.measured)]
    kept = [place for place in range(len(columns)) if place == 0 or any(row[place] != "-" for row in cells)]
    lines = [
        f"{model}: {answer.optimizer_name}, width {check.width}, depths {','.join(map(str, check.depths))}, "
        f"{check.seeds} seeds, base rate {base_rate:g}, on {device_name()}",
        f"Powers of the depth as measured, changes at step {last}; x: not as predicted; ?: undecided",
        OWN if "own" in check.measured else PRESCRIBED,
        "own change: by the parameter's own change alone, on what entered at the start; whole change: it may not grow",
        terminal_table([columns[place] for place in kept], [[row[place] for place in kept] for row in cells]),
    ]
    for setup, measured in check.measured.items():
        lines.append(f"{setup}: {verdict_line(measured, check.seeds, 'parameters')}")
        lines += [f"  {_failure(row)}" for row in measured.failures]
    return "\n".join(lines) + "\n"


def _cell(measured: Measured, name: str, quantity: str, last: int) -> str:
    """The measured power at the start for sizes, else at the last step."""
    for row in measured.rows:
        if (row.layer, row.quantity) == (name, quantity) and row.step == (1 if quantity == "size" else last):
            if row.reason == STILL:
                return "still ?"
            value = -row.measured.value
            mark = {"fails": " x", "open": " ?"}.get(row.verdict, "")
            return ("0" if value != value else f"{value:+.2f}") + mark
    return "-"


def _failure(row: Row) -> str:
    """Such as: blocks.*.up: own change at step 1 as N^0.02; predicted N^-(1/2)."""
    what = {"delta_z": "whole change", "vector": "own change"}.get(row.quantity, row.quantity)
    seen = "without end" if row.measured.value != row.measured.value else f"as N^{-row.measured.value:.2f}"
    why = f"; {row.reason}" if row.reason else ""
    return f"{row.layer}: {what} at step {row.step} {seen}, predicted N^-({row.predicted}){why}"
