"""What Weights & Biases and TensorBoard export: runs known by their names, and those that did not come to their end.

A chart of Weights & Biases has an axis (Step), and per run the columns "NAME - METRIC", "NAME - METRIC__MIN" and
"...__MAX"; its table of runs has a row per run, with Name, State and the columns that were shown; a scalar of
TensorBoard is a file per run, run-NAME-tag-TAG.csv, with Wall time, Step and Value. No curve says why it ended.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from derive.errors import DeriveError, shorten
from verify.values import Json

Column = Sequence[Json]
STATES = frozenset({"finished", "crashed", "failed", "killed", "running", "pending", "preempting", "preempted"})
"""Of a run of Weights & Biases; what is none of these is a column of the user's own."""
EARLY = 0.9
"""Of the longest curve of its group and sizes; below, a curve ended early. Charts are sampled: ends differ a little."""
HIDDEN = ("name", "state", "end")
"""Fields of a row that say whether it is whole; `whole` takes them away."""


@dataclass(frozen=True)
class Curves:
    """The last value of every run's curve, and where on the axis it ended (NaN where that is no number of steps)."""

    names: Sequence[str]
    losses: Column
    ends: Sequence[float]

    def fields(self) -> dict[str, Column]:
        """As columns by field."""
        return {"loss": self.losses, "name": self.names, "end": self.ends}


def chart(table: Mapping[str, Column], loss: str) -> Curves | None:
    """Every "NAME - LOSS" of a chart's export; None where there is none."""
    pattern = re.compile(rf"(.+) - {re.escape(loss)}(?: \(\d+\))?")
    found = [(matched[1], values) for name, values in table.items() if (matched := pattern.fullmatch(name))]
    if not found:
        return None
    axis = next(((name, values) for name, values in table.items() if " - " not in name), ("", ()))
    steps = () if "time" in axis[0].lower() else axis[1]
    last = [_last(values, steps) for _, values in found]
    return Curves([name for name, _ in found], [value for value, _ in last], [end for _, end in last])


def scalar(table: Mapping[str, Column], stem: str) -> Curves | None:
    """The one run of a scalar's export, by the name of its file; None where the file is none."""
    if not {"Step", "Value"} <= set(table):
        return None
    value, end = _last(table["Value"], table["Step"])
    named = re.fullmatch(r"run[-_](.+)-tag-.+", stem)
    return Curves([named[1] if named else stem], [value], [end])


def _last(values: Column, steps: Column) -> tuple[Json, float]:
    known = [place for place, value in enumerate(values) if value not in ("", None)]
    if not known:
        return "", float("nan")
    try:
        return values[known[-1]], float(steps[known[-1]])
    except (IndexError, TypeError, ValueError):
        return values[known[-1]], float("nan")


def states(table: Mapping[str, Column]) -> dict[str, Column]:
    """Name and State of a table of runs, where it has them."""
    if {"Name", "State"} <= set(table) and set(table["State"]) <= STATES:
        return {"name": table["Name"], "state": table["State"]}
    return {}


def refused(file: str, table: Mapping[str, Column], loss: str, named: bool) -> str | None:
    """Why an export cannot be read with what was asked for, and the way out; None where the table is no export."""
    metrics = sorted({name.removesuffix("__MIN").rpartition(" - ")[2] for name in table if name.endswith("__MIN")})
    if metrics and not any(" - " in name for name in table):
        return f"{file} is a chart of one run, without its name; export the chart that shows all runs, or their table"
    if metrics and named:
        return f"{file} has curves of {shorten(', '.join(metrics))}, none of {shorten(loss)}; give --loss METRIC"
    if metrics or {"Step", "Value"} <= set(table):
        kind = "a chart's export" if metrics else "TensorBoard's export of a scalar"
        return (
            f"{file} is {kind}, where only the {'run' if metrics else 'file'}'s name says what was varied: give "
            "--names as yours are, such as 'w{width}-lr{rate}', or a table with a row per run"
        )
    return None


def whole(table: dict[str, Column]) -> tuple[dict[str, Column], tuple[str, ...]]:
    """The rows that came to their end, without what says so, and a note on those left out.

    A run that did not finish has some loss, not its last one, or none, for a reason that the export does not say: it
    is left out, as a curve that ended before others of its group and sizes is. NaN and infinite losses stay.
    """
    fields = {field: values for field, values in table.items() if field not in HIDDEN}
    if "name" not in table:
        return fields, ()
    names, count = table["name"], len(table["name"])
    state = table.get("state", [None] * count)
    short = _ended_early(table) if "end" in table else np.zeros(count, bool)
    out = [
        short[place] or (state[place] not in (None, "finished") and not _diverged(table["loss"][place]))
        for place in range(count)
    ]
    if not any(out):
        return fields, ()
    first = out.index(True)
    why = f"is {state[first]}" if not short[first] else f"ends at step {table['end'][first]:g}, others later"
    note = f"left out: {sum(out)} of {count} runs that did not come to their end (first: {names[first]} {why})"
    if all(out):
        raise DeriveError(f"{note}; no run is left to fit")
    return {field: [each for each, gone in zip(fields[field], out, strict=True) if not gone] for field in fields}, (
        note,
    )


def _diverged(loss: Json) -> bool:
    try:
        return not np.isfinite(float(loss))
    except (TypeError, ValueError):
        return False


def _ended_early(table: Mapping[str, Column]) -> np.ndarray:
    """Curves that ended before EARLY of the longest of their group and sizes."""
    ends = np.array([np.nan if end is None else end for end in table["end"]], dtype=float)
    apart = [table[field] for field in table if field not in (*HIDDEN, "loss", "rate", "seed")]
    keys = list(zip(*apart, strict=True)) if apart else [()] * len(ends)
    longest: dict[Json, float] = {}
    for key, end in zip(keys, ends, strict=True):
        longest[key] = np.fmax(longest.get(key, np.nan), end)
    return ends < EARLY * np.array([longest[key] for key in keys])
