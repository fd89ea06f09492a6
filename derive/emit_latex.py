"""A prescription, and any table of cells that are LaTeX already, as a LaTeX tabular."""

from collections.abc import Sequence

from sympy import Expr, latex

from derive.emit import HEADINGS, grid, parts, title
from derive.scale import Scale
from derive.solve import Layer, Prescription

LATEX_HEADINGS = {
    "a": "$a$",
    "b": "$b$",
    "c": "$c$",
    "c_low": "$c$ low",
    "c_high": "$c$ high",
    "s": "$s$",
    "g": "$g$",
    "epsilon": r"$e$",
    "epsilon2": r"$e_2$",
    "alpha": r"$\alpha$",
    "omega": r"$\omega$",
    "u": "$u$",
    "r": "$r$",
}


def as_latex(prescription: Prescription, scale: Scale | None = None) -> str:
    """A LaTeX tabular, compiling without packages."""
    columns, rows = grid(prescription, scale)
    values = [
        [_latex_cell(layer, key, cell) for key, cell in zip(columns, row, strict=True)]
        for (_, layer, _), row in zip(parts(prescription), rows, strict=True)
    ]
    return f"% {title(prescription)}\n" + latex_text(
        [LATEX_HEADINGS.get(key, HEADINGS[key]) for key in columns], values
    )


def latex_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[int] = (), alignments: str = ""
) -> str:
    """A LaTeX tabular whose cells are LaTeX already, with a rule before each row in `rules`.

    `alignments` is l or r per column; by default the first is l and the others r.
    """
    alignments = alignments or "l" + "r" * (len(columns) - 1)
    lines = [f"\\begin{{tabular}}{{{alignments}}}", "\\hline", " & ".join(columns) + r" \\", "\\hline"]
    for index, row in enumerate(rows):
        lines += ["\\hline"] * (index in rules and index > 0)
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}"]) + "\n"


def _latex_cell(layer: Layer, key: str, plain: str) -> str:
    value = getattr(layer, key, None)
    if key in {"c_low", "c_high"} and layer.spread is not None:
        value = layer.spread[key == "c_high"]
    return f"${latex(value)}$" if isinstance(value, Expr) else latex_escape(plain)


def latex_escape(plain: str) -> str:
    """Plain text made safe for LaTeX."""
    return "".join(f"\\{character}" if character in "&%$#_{}" else character for character in plain)
