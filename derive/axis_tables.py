"""`derive table --axis`: what every optimizer does along depth and along batch, from its rule alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sympy import Expr, S

from derive import emit
from derive.batch import Betas, batch_axis
from derive.depth import Residual, depth_axis
from derive.emit_latex import exponent_latex, fitted, latex_escape
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.parameterizations import HALF
from derive.words import KINDS, text

Cells = list[Expr | None]


@dataclass(frozen=True)
class AxisTable:
    """Exponents of every optimizer along an axis, None where there is none; `notes` say why, line by line."""

    heading: str
    columns: tuple[str, ...]
    rows: dict[str, Cells]
    notes: tuple[str, ...] = ()


def depth_table(optimizers: Sequence[Optimizer]) -> AxisTable:
    """c and e at delta = 1/2 and 1, and c of both parts where the factor is at initialisation."""
    rows: dict[str, Cells] = {}
    for optimizer in optimizers:
        named = dict.fromkeys(KINDS, optimizer)
        half, one, start = (
            depth_axis(named, each, S.One) for each in (Residual(HALF), Residual(S.One), Residual(HALF, at_start=True))
        )
        rates = [cell for axis in (half, one) for cell in (axis.rows["hidden"].c, axis.rows["hidden"].epsilon)]
        rows[optimizer.name] = [*rates, start.rows["hidden"].c, start.row("hidden", "out").c]
    return AxisTable(
        "Largest rates N^-c, epsilon N^-e in branches h + N^-delta f(h), N blocks whose changes add up",
        ("c, 1/2", "e, 1/2", "c, 1", "e, 1", "c, init 1/2", "c of out"),
        rows,
    )


def batch_table(optimizers: Sequence[Optimizer]) -> AxisTable:
    """c, e, decay and 1 - beta as published, and c where beta is held and where it goes along."""
    columns = ("c", "e", "decay", "1 - beta", "c, beta held", "c, 1 - beta as B")
    rows: dict[str, Cells] = {}
    notes: dict[str, None] = {}

    def rate(optimizer: Optimizer, betas: Betas) -> Expr | None:
        try:
            return batch_axis(dict.fromkeys(KINDS, optimizer), betas).rows["hidden"].c
        except DeriveError as error:
            notes[str(error)] = None
            return None

    for optimizer in optimizers:
        if rate(optimizer, "published") is None:
            rows[optimizer.name] = [None] * len(columns)
            continue
        row = batch_axis(dict.fromkeys(KINDS, optimizer), "published").rows["hidden"]
        betas: tuple[Betas, ...] = ("constant", "scaled")
        by_betas = [None if row.beta is None else rate(optimizer, each) for each in betas]
        rows[optimizer.name] = [row.c, row.epsilon, row.decay, row.beta, *by_betas]
    heading = "Rates B^-c, epsilon B^-e, decay B^-x, 1 - beta B^-x for the same path per example"
    return AxisTable(heading, columns, rows, tuple(notes))


TABLES: dict[str, Callable[[Sequence[Optimizer]], AxisTable]] = {"depth": depth_table, "batch": batch_table}


def axis_table(axis: str, optimizers: Sequence[Optimizer], chosen: str) -> str:
    """The table of one axis as table, json, csv, markdown or latex."""
    table = TABLES[axis](optimizers)
    columns = ["optimizer", *table.columns]
    if chosen == "json":
        rows = [
            {"optimizer": name} | dict(zip(table.columns, (None if x is None else text(x) for x in cells), strict=True))
            for name, cells in table.rows.items()
        ]
        return emit.dump({"schema": 2, "command": "table", "axis": axis, "rows": rows, "notes": list(table.notes)})
    if chosen == "latex":
        written = [
            [latex_escape(name), *("-" if x is None else exponent_latex(x) for x in cells)]
            for name, cells in table.rows.items()
        ]
        return fitted([latex_escape(column) for column in columns], written)
    plain = [[name, *("-" if x is None else text(x) for x in cells)] for name, cells in table.rows.items()]
    if chosen == "csv":
        return emit.csv_text(columns, plain)
    if chosen == "markdown":
        return emit.markdown_text(columns, plain)
    notes = "".join(f"note: {note}\n" for note in table.notes)
    return f"{table.heading}\n{emit.terminal_table(columns, plain)}\n{notes}"
