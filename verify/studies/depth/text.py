"""A study along depth as tables, one for every width."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derive.emit import terminal_table
from verify.fit.four_steps import summary

if TYPE_CHECKING:
    from verify.fit.judging import Row
    from verify.studies.depth.results import DepthResult


def table(found: "Sequence[DepthResult]") -> str:
    """A table and a verdict for every width."""
    return "\n".join(_table(result) for result in found)


COLUMNS = ["step", "layer", "quantity", "predicted", "measured", "95 % interval", "tolerance", "verdict", "why"]


def _table(result: "DepthResult") -> str:
    conditions, rows = result.conditions, result.rows()
    ends = {min(row.step for row in rows), max(row.step for row in rows)}
    cells, sections = [], []
    for row in (row for row in rows if row.step in ends or row.verdict == "fails"):
        if not cells or cells[-1][:2] != [str(row.step), row.layer]:
            sections.append(len(cells))
        cells.append(_cells(row))
    norms = "norms before branches" if conditions.normed else "no norms"
    lines = [
        f"{conditions.optimizer}, residual {conditions.residual}, depth alignment {conditions.depth_alignment}, "
        f"{norms}; transformer of width {result.width}, depths "
        f"{','.join(map(str, result.depths))}, {conditions.seeds} seeds; "
        f"{conditions.corpus}",
        "Sizes are N^-x; kappa and scatter, how changes of N blocks add up, N^+x; largest: a branch's change by its "
        "own weights, and of the stream the sum of them; a row fails where its interval, widened by the tolerance, "
        "excludes the prediction",
        terminal_table(COLUMNS, cells, sections),
        *summary(rows),
        *(f"diverged: {line}" for line in result.divergences),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: "Row") -> list[str]:
    measured = row.measured
    return [
        str(row.step),
        row.layer,
        row.quantity,
        row.predicted or "-",
        "-" if measured.value != measured.value else f"{measured.value:+.3f}",
        "-" if measured.low != measured.low else f"{measured.low:+.2f} .. {measured.high:+.2f}",
        "-" if row.tolerance is None else f"{row.tolerance:.2f}",
        row.verdict,
        row.reason or "",
    ]
