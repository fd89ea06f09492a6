"""A study of updates as a table: every optimizer's exponents, after the first step and the last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derive.emit import terminal_table

if TYPE_CHECKING:
    from verify.studies.updates.results import Row, Trained


def table(studies: "Sequence[Trained]", found: "Sequence[Row]") -> str:
    """One row per exponent: predicted, after the first step, which is judged, and after the last beside it."""
    from verify.studies.updates.results import paired

    conditions = studies[0][0]
    steps = sorted({row.step for row in found})
    steps = list(dict.fromkeys((steps[0], steps[-1])))
    cells, sections = [], []
    for first, last in paired(found):
        if not cells or cells[-1][0] != first.optimizer:
            sections.append(len(cells))
        cells.append(
            [
                *(first.optimizer, first.layer, first.quantity, str(first.predicted)),
                *(part for row in (first, last)[: len(steps)] for part in (*_measured(row), row.verdict)),
                first.reason or (last.reason or ""),
            ]
        )
    columns = ["optimizer", "layer", "exponent", "predicted"]
    for step in steps:
        columns += [f"step {step}", "95 % interval", "verdict"]
    lines = [
        f"{conditions.parameterization}, full alignment, mlp, widths {','.join(map(str, conditions.widths))}, "
        f"{conditions.seeds} seeds; {conditions.corpus}",
        "RMS(U) = n^-s, ||U||_op = n^p, RMS(U z) = n^(alpha - s) RMS(z)",
        terminal_table([*columns, "why"], cells, sections),
        _summary(found),
        *(f"{each.optimizer} diverged: {line}" for each, part in studies for line in part.found.diverged),
    ]
    return "\n".join(lines) + "\n"


def _measured(row: "Row") -> tuple[str, str]:
    measured = row.measured
    value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
    return value, "-" if measured.low != measured.low else f"{measured.low:+.3f} .. {measured.high:+.3f}"


def _summary(found: "Sequence[Row]") -> str:
    parts = []
    for step in sorted({row.step for row in found}):
        counts = []
        for quantity in dict.fromkeys(row.quantity for row in found):
            verdicts = [row.verdict for row in found if (row.quantity, row.step) == (quantity, step)]
            counts.append(f"{quantity} {verdicts.count('holds')}/{len(verdicts)}")
        parts.append(f"step {step}: {', '.join(counts)} hold")
    return "; ".join(parts)
