"""A study of growing widths as a table: every prediction beside its measurement, and the verdict."""

from typing import TYPE_CHECKING

from derive.emit import terminal_table, title
from verify.fit.four_steps import summary

if TYPE_CHECKING:
    from verify.fit.judging import Row
    from verify.studies.exponents.judged import Result

COLUMNS = [
    "step",
    "layer",
    "quantity",
    "predicted",
    "implied",
    "measured",
    "95 % interval",
    "tolerance",
    "verdict",
    "why",
]


def table(result: "Result") -> str:
    """Rows of the first and the last step, and whatever fails."""
    cells, sections = [], []
    ends = {min(result.tables), max(result.tables)}
    for row in (row for row in result.rows if row.step in ends or row.verdict == "fails"):
        if not cells or (cells[-1][0], cells[-1][1]) != (str(row.step), row.layer):
            sections.append(len(cells))
        cells.append(_cells(row))
    lines = [
        f"{title(result.config.prescription)}, {result.config.model}, widths {','.join(map(str, result.widths))}, "
        f"{len(result.seeds)} seeds, on {result.made.device}; {result.corpus}",
        "Sizes are n^-x (ratios, such as alignments, n^+x); implied: from the measured alignments and the sizes of the "
        "terms; a row fails where its interval, widened by the tolerance, excludes the prediction",
        terminal_table(COLUMNS, cells, sections),
        *summary(result.rows),
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
        "-" if row.implied is None else f"{row.implied:+.2f}",
        "-" if measured.value != measured.value else f"{measured.value:+.3f}",
        "-" if measured.low != measured.low else f"{measured.low:+.2f} .. {measured.high:+.2f}",
        "-" if row.tolerance is None else f"{row.tolerance:.2f}",
        row.verdict,
        row.reason or "",
    ]
