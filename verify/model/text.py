"""A model's prescription as the table that `verify prescribe` prints."""

from collections.abc import Sequence
from typing import Any

from derive.emit import terminal_table
from derive.errors import shorten
from verify.model.prescription import ModelPrescription
from verify.model.rows import ParameterRow, every_turn, without_numbers


def _grouped(rows: Sequence[ParameterRow], every: bool) -> list[list[ParameterRow]]:
    groups: dict[Any, list[ParameterRow]] = {}
    for row in rows:
        alike = (
            without_numbers(row.path),
            row.base_shape,
            row.shape,
            row.role,
            row.why,
            row.a,
            row.b,
            row.c,
            row.epsilon,
            tuple(sorted(row.depth.items())),
        )
        groups.setdefault(row.path if every else alike, []).append(row)
    return list(groups.values())


def table(answer: ModelPrescription, base_rate: float | None = None, every: bool = False) -> str:
    """A row per parameter, or per group of them that are alike but for numbers in their names unless `every`."""
    cells = []
    for group in _grouped(answer.parameters, every):
        row, count = group[0], len(group)
        name = row.path if count == 1 else f"{without_numbers(row.path)}  x {count}"
        cells.append(
            [
                name,
                "x".join(map(str, row.shape)) or "scalar",
                row.role,
                _start(group, answer),
                _number(answer.factor(row.a)),
                _number(answer.scaled(row, "c") * (base_rate or 1.0)) if row.is_trained else "-",
                "-" if row.epsilon is None else _number(answer.scaled(row, "epsilon")),
                _number(answer.scaled(row, "decay")) if row.is_trained else "-",
                row.why,
            ]
        )
    deeper = "" if answer.depth is None else f", depth {answer.base_depth} -> {answer.depth}"
    rate = "rate" if base_rate else "rate x"
    columns = ["parameter", "shape", "role", "initial std", "multiplier", rate, "epsilon x", "decay x", "why"]
    lines = [
        f"{answer.optimizer_name}, {answer.parameterization}, alignment {answer.alignment}: "
        f"width {answer.base_width} -> {answer.width}{deeper}; x: times what the base width has",
        terminal_table(columns, cells),
        *dict.fromkeys(
            f"multiply {every_turn(name)} by {answer.factor(x):.6g} (n^{-x}): wrap(apply) does"
            for name, x in answer.multipliers.items()
        ),
        *(
            f"multiply the branch with {shorten(name, 80)} by {answer.deeper(x):.6g} (N^{-x}): wrap(apply) does"
            for name, x in answer.branches.items()
        ),
        *(f"note: {note}" for note in answer.notes),
        f"proved optimal: sum of c = {answer.certificate['optimum']} over "
        f"{sum(row.is_trained for row in answer.parameters)} parameters, "
        f"{answer.certificate['constraints']} constraints, exact duals in --format json",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.6g}"


def _start(group: Sequence[ParameterRow], answer: ModelPrescription) -> str:
    """The initial std at the width; a constant by its value."""
    starts = {(row.mean, row.std) for row in group}
    if any(None in start for start in starts):
        return f"x {answer.scaled(group[0], 'b'):.4g}"
    drawn = [row.start for row in group]
    factor = answer.scaled(group[0], "b")
    if all(each.std == 0 for each in drawn):
        values = sorted({factor * each.mean for each in drawn})
        return "constant " + ", ".join(f"{value:.3g}" for value in values[:2])
    mean_square = sum(each.std**2 for each in drawn) / len(drawn)
    return f"{factor * mean_square**0.5:.3g}"
