"""A prescription, tables and derivations as LaTeX that fits an article's page: booktabs, and nothing else is needed."""

import re
from collections.abc import Sequence

from sympy import Expr, latex

from derive.emit import EXPONENT_COLUMNS, HEADINGS, SCALE_COLUMNS, grid, parts, title
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
    "init_factor": r"init std $\times$",
    "epsilon_factor": r"$\epsilon$ $\times$",
    "epsilon2_factor": r"$\epsilon_2$ $\times$",
    "decay_factor": r"decay $\times$",
    "beta_factor": r"$1 - \beta$ $\times$",
}
TEXT_WIDTH = 345.0
"""Of a line in an article at 10 pt, in points."""
CHARACTER = 5.1
"""Points, of one on average."""
GAP = 12.0
"""Points between two columns of a tabular."""
WIDEST_FORMULA = 0.55
"""Share of a line that formulas may take for their remarks to stand beside them, in columns."""
LONG_HEADING = 90.0
"""Points from which a heading is broken into lines."""
STACK = r"\shortstack[r]{"
PAGE = 40
"""Lines of a tabular that fit a page, which it cannot leave."""


def as_latex(prescription: Prescription, scale: Scale | None = None) -> str:
    """Tabulars of the numbers at a width and of the exponents, none wider than a page."""
    columns, rows = grid(prescription, scale)
    values = [
        [_latex_cell(layer, key, cell) for key, cell in zip(columns, row, strict=True)]
        for (_, layer, _), row in zip(parts(prescription), rows, strict=True)
    ]
    along = [key for key in columns if key not in {*EXPONENT_COLUMNS, *SCALE_COLUMNS}]
    blocks = []
    for wanted in (["layer", *SCALE_COLUMNS], EXPONENT_COLUMNS, ["layer", *along]):
        at = [place for place, key in enumerate(columns) if key in wanted]
        if len(at) > 1:
            shown = [LATEX_HEADINGS.get(columns[place], HEADINGS[columns[place]]) for place in at]
            blocks.append(fitted(shown, [[row[place] for place in at] for row in values]))
    return f"% {title(prescription)}; \\usepackage{{booktabs}}\n" + "\n\\medskip\n\n".join(blocks)


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[int] = (), keys: int = 1) -> str:
    """Tabulars that a line of text holds, one below another; each repeats the first `keys` columns."""
    columns = [_stacked(column) for column in columns]
    cells_of = [
        [*column.removeprefix(STACK).split(r"\\"), *cells] for column, *cells in zip(columns, *rows, strict=True)
    ]
    widths = [max(map(extent, cells)) + GAP for cells in cells_of]
    blocks = [list(range(keys))]
    for place in range(keys, len(columns)):
        if len(blocks[-1]) > keys and sum(widths[at] for at in (*blocks[-1], place)) > TEXT_WIDTH:
            blocks.append(list(range(keys)))
        blocks[-1].append(place)
    return "\n\\medskip\n\n".join(
        "\\noindent" + latex_text([columns[at] for at in block], [[row[at] for at in block] for row in rows], rules)
        for block in blocks
    )


def _stacked(heading: str) -> str:
    """A long heading in lines, broken behind commas and spaces."""
    if extent(heading) <= LONG_HEADING:
        return heading
    lines = [""]
    for word in re.split(r"(?<=[, ])", heading):
        if lines[-1] and extent(lines[-1] + word) > LONG_HEADING:
            lines.append("")
        lines[-1] += word
    return STACK + r"\\".join(line.strip() for line in lines) + "}"


def latex_text(
    columns: Sequence[str], rows: Sequence[Sequence[str]], rules: Sequence[int] = (), alignments: str = ""
) -> str:
    """A LaTeX tabular with booktabs' rules, whose cells are LaTeX already, with a rule before each row in `rules`.

    `alignments` is l or r per column; by default the first is l and the others r.
    """
    alignments = alignments or "l" + "r" * (len(columns) - 1)
    lines = [f"\\begin{{tabular}}{{{alignments}}}", "\\toprule", " & ".join(columns) + r" \\", "\\midrule"]
    for index, row in enumerate(rows):
        lines += ["\\midrule"] * (index in rules and index > 0)
        lines.append(" & ".join(row) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def exponent_latex(value: Expr) -> str:
    """An exponent in line, 1/2 and not one above the other, so that rows do not touch."""
    return f"${_in_line(latex(value, fold_short_frac=True))}$"


def _in_line(formula: str) -> str:
    return re.sub(r"(^|[({,] ?)- ", r"\1-", formula.replace(" / ", "/"))


def extent(cell: str) -> float:
    """About how wide a cell of LaTeX is, in points, rather too wide."""
    plain = re.sub(r"\\(?:mathrm|left|right|allowbreak)(?![a-z])", "", cell)
    plain = re.sub(r"\\(?:max|min|log)(?![a-z])", "max", plain)
    plain = re.sub(r"\\[a-zA-Z]+", "x", plain)
    return CHARACTER * len(re.sub(r"[{}$^_\\]", "", plain))


def lines_latex(lines: Sequence[tuple[str, str]]) -> str:
    """Formulas with their remarks: in two columns where they fit, else one after another, broken where TeX may.

    Both are LaTeX already, the formulas without their dollars.
    """
    widest = max((extent(formula) for formula, _ in lines), default=0.0)
    if widest <= WIDEST_FORMULA * TEXT_WIDTH and len(lines) <= PAGE:
        rest = f"\\dimexpr\\linewidth-{widest + 2 * GAP:.0f}pt\\relax"
        begin = f"\\noindent\\begin{{tabular}}{{@{{}}lp{{{rest}}}@{{}}}}"
        rows = [f"${formula}$ & \\raggedright {remark} \\tabularnewline" for formula, remark in lines]
        return "\n".join([begin, *rows, "\\end{tabular}"]) + "\n"
    paragraphs = [f"${breakable(formula)}$\\quad {remark}\\par" for formula, remark in lines]
    begin = "{\\raggedright\\parindent=0pt\\everypar={\\hangindent=2em}\\relpenalty=0\\binoppenalty=0"
    return "\n".join([begin, *paragraphs, "}"]) + "\n"


def breakable(formula: str) -> str:
    """The formula with its brackets no boxes, and a place to break behind every comma."""
    return re.sub(r"\\left|\\right(?![a-z])", "", formula).replace(",", ",\\allowbreak ")


def standalone(body: str, heading: str = "") -> str:
    """A document of its own around what is to stand in one."""
    begin = ["\\documentclass{article}", "\\usepackage{booktabs}", "\\begin{document}"]
    above = [f"\\section*{{{latex_escape(heading)}}}"] if heading else []
    return "\n".join([*begin, *above, body.rstrip("\n"), "\\end{document}"]) + "\n"


def _latex_cell(layer: Layer, key: str, plain: str) -> str:
    value = getattr(layer, key, None)
    if key in {"c_low", "c_high"} and layer.spread is not None:
        value = layer.spread[key == "c_high"]
    if isinstance(value, Expr):
        return exponent_latex(value)
    return f"${plain}$" if re.fullmatch(r"-?[\d/.]+", plain) else latex_escape(plain)


def latex_escape(plain: str) -> str:
    """Plain text made safe for LaTeX."""
    signs = {"<": "$<$", ">": "$>$", "^": "\\^{}", "~": "\\~{}", "\\": "\\textbackslash{}"}
    return "".join(f"\\{each}" if each in "&%$#_{}" else signs.get(each, each) for each in plain)
