"""A study of the (c_hidden, c_readout) plane as a table: r_hat at every point, and how the predictions did."""

from typing import TYPE_CHECKING

from derive.emit import terminal_table
from verify.studies.phase.result import TOLERANCE, agreements

if TYPE_CHECKING:
    from verify.studies.phase.result import PhaseResult


def table(study: "PhaseResult") -> str:
    """r_hat over the plane per step and layer, and how far each of the three predictions goes."""
    conditions = study.conditions
    rows = {(row.step, row.layer, row.point): row for row in study.rows}
    hidden, readout = (list(dict.fromkeys(point[axis] for point in conditions.points)) for axis in (0, 1))
    lines = [
        f"{conditions.optimizer}, {conditions.parameterization}, mlp, widths {','.join(map(str, study.widths))}, "
        f"{conditions.seeds} seeds; c of the embedding {conditions.c_embedding}, prescribed for hidden and readout "
        f"{' and '.join(conditions.prescribed)}; {conditions.corpus}",
    ]
    for step, layer in dict.fromkeys((row.step, row.layer) for row in study.rows):
        cells = []
        for first in hidden:
            own = [rows.get((step, layer, (first, second))) for second in readout]
            marks = {True: " ", False: "*", None: " "}
            cells.append(
                [first, *("" if row is None else f"{row.measured.value:+.2f}{marks[row.holds('full')]}" for row in own)]
            )
        lines.append(f"{layer} after step {step}: r_hat, RMS(Dz) = n^-r; *: not the r of full alignment +-{TOLERANCE}")
        lines.append(terminal_table(["c_hidden \\ c_readout", *readout], cells))
    counts = [
        [
            *(str(each.step), each.layer, each.prediction, f"{each.within}/{each.points}"),
            *(f"{each.same_region}/{each.points}", f"{each.median_error:.3f}"),
        ]
        for each in agreements(study.rows)
    ]
    columns = ["step", "layer", "r predicted by", f"within {TOLERANCE}", "same region", "median |r_hat - r|"]
    lines.append(terminal_table(columns, counts, range(0, len(counts), 3)))
    lines += [f"diverged: {line}" for line in study.divergences]
    return "\n".join(lines) + "\n"
