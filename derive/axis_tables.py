"""`derive table --axis`: what every optimizer does along depth and along batch, from its rule alone."""

from collections.abc import Callable, Sequence

from sympy import Expr, Rational, S, latex

from derive import emit
from derive.axes import AxisRow
from derive.batch import batch_axis
from derive.depth import Residual, depth_axis
from derive.emit_latex import latex_escape, latex_text
from derive.errors import DeriveError
from derive.exponents import KINDS, text
from derive.optimizers import Optimizer

HALF = Rational(1, 2)
Cells = list[str | Expr | None]
HEADINGS = {
    "depth": "Largest rates N^-c, epsilon N^-e in branches h + N^-delta f(h), N blocks whose changes add up",
    "batch": "Rates B^-c, epsilon B^-e, decay B^-x, 1 - beta B^-x for the same path per example",
}


def depth_table(optimizers: Sequence[Optimizer]) -> tuple[list[str], list[Cells]]:
    """(columns, rows): c and e at delta = 1/2 and 1, and of both parts where the factor is at initialisation."""
    columns = ["optimizer", "c, 1/2", "e, 1/2", "c, 1", "e, 1", "c, init 1/2", "c of out"]
    rows: list[Cells] = []
    for optimizer in optimizers:
        named = dict.fromkeys(KINDS, optimizer)
        half, one, start = (
            depth_axis(named, each, S.One) for each in (Residual(HALF), Residual(S.One), Residual(HALF, at_start=True))
        )
        rates: Cells = [each for axis in (half, one) for each in _rate(axis.rows["hidden"])]
        rows.append([optimizer.name, *rates, start.rows["hidden"].c, start.row("hidden", "out").c])
    return columns, rows


def _rate(row: AxisRow) -> tuple[Expr, Expr | None]:
    return row.c, row.epsilon


def batch_table(optimizers: Sequence[Optimizer]) -> tuple[list[str], list[Cells]]:
    """(columns, rows): c, e, decay and 1 - beta as published, and c where beta is held and where it goes along."""
    columns = ["optimizer", "c", "e", "decay", "1 - beta", "c, beta held", "c, 1 - beta as B"]
    rows: list[Cells] = []
    for optimizer in optimizers:
        row = _batch_row(optimizer, "published")
        if row is None:
            rows.append([optimizer.name, *[None] * (len(columns) - 1)])
            continue
        held, scaled = (_batch_row(optimizer, each) for each in ("constant", "scaled"))
        alike = [None if each is None or row.beta is None else each.c for each in (held, scaled)]
        rows.append([optimizer.name, row.c, row.epsilon, row.decay, row.beta, *alike])
    return columns, rows


def _batch_row(optimizer: Optimizer, betas: str) -> AxisRow | None:
    try:
        return batch_axis(dict.fromkeys(KINDS, optimizer), betas).rows["hidden"]  # type: ignore[arg-type]
    except DeriveError:
        return None


TABLES: dict[str, Callable[[Sequence[Optimizer]], tuple[list[str], list[Cells]]]] = {
    "depth": depth_table,
    "batch": batch_table,
}


def axis_table(axis: str, optimizers: Sequence[Optimizer], chosen: str) -> str:
    """The table of one axis as table, json, csv, markdown or latex."""
    columns, rows = TABLES[axis](optimizers)

    def shown(cell: str | Expr | None) -> str:
        return "-" if cell is None else cell if isinstance(cell, str) else text(cell)

    plain = [[shown(cell) for cell in row] for row in rows]
    if chosen == "json":
        keyed = [dict(zip(columns, (None if cell == "-" else cell for cell in row), strict=True)) for row in plain]
        return emit.dump({"schema": 2, "command": "table", "axis": axis, "rows": keyed})
    if chosen == "csv":
        return emit.csv_text(columns, plain)
    if chosen == "markdown":
        return emit.markdown_text(columns, plain)
    if chosen == "latex":
        cells = [
            [f"${latex(cell)}$" if isinstance(cell, Expr) else latex_escape(shown(cell)) for cell in row]
            for row in rows
        ]
        return latex_text([latex_escape(column) for column in columns], cells)
    return f"{HEADINGS[axis]}\n{emit.terminal_table(columns, plain)}\n"
