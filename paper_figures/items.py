"""What every script here gives: one table or figure of the paper, with what was claimed and what was found."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from sympy import Expr
from sympy.core.relational import Relational

from derive.emit import csv_text, markdown_text, unrepeated
from derive.emit_latex import breakable, exponent_latex, latex_escape, latex_text
from derive.tables import relation_latex, relation_text
from verify.studies.pictures import save

Cell = str | Expr | Relational
Verdict = Literal["derived", "held", "held in part", "did not hold", "not decided"]
PAGE = 45
"""Rows of a LaTeX tabular, about a page: a longer table is parted at its sections."""


@dataclass(frozen=True)
class Table:
    """Columns and rows; sympy cells and numbers are set as mathematics in LaTeX and written exactly elsewhere.

    Neighbouring columns called "group: name" share a heading in LaTeX. `sections` are the rows before which a rule is
    drawn, `notes` what stands under the table. Where the first column repeats itself within a section it is left
    blank, but not in CSV.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sections: Sequence[int] = ()
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """A Markdown table, its notes under it."""
        rows = [[_plain(cell) for cell in row] for row in unrepeated(self.rows, self.sections)]
        return markdown_text(self.columns, rows) + "".join(f"\n{note}\n" for note in self.notes)

    def csv(self) -> str:
        """Comma-separated values, exact, without the notes."""
        return csv_text(self.columns, [[_plain(cell) for cell in row] for row in self.rows])

    def latex(self) -> str:
        """LaTeX tabulars that need booktabs alone, of a page with margins of an inch each; the notes under them."""
        groups, _, names = zip(*(column.rpartition(": ") for column in self.columns), strict=True)
        columns = [_latex(name) for name in names]
        rows = [[_latex(cell) for cell in row] for row in unrepeated(self.rows, self.sections)]
        alignments = "".join(map(_alignment, zip(*self.rows, strict=True)))
        parts = []
        for start, end in pairwise(self._pages()):
            rules = [row - start for row in self.sections if start < row < end]
            part = latex_text(columns, rows[start:end], rules, alignments)
            parts.append(part.replace("\\toprule\n", f"\\toprule\n{_groups(groups)}", 1))
        notes = [f"\\noindent {_latex(note)}\\par\n" for note in self.notes]
        return "\n".join(["{\\footnotesize\\tabcolsep=3pt\\def\\arraystretch{1.2}\\noindent", *parts, *notes]) + "}\n"

    def _pages(self) -> list[int]:
        """The first row of every page, and the number of rows at the end."""
        starts, end = [0], len(self.rows)
        for section, following in pairwise([*self.sections, end]):
            if following - starts[-1] > PAGE and section > starts[-1]:
                starts.append(section)
        return [*starts, end]


LATEX = {
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "Δ": r"$\Delta$",
    "ε": r"$\epsilon$",
    "η": r"$\eta$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "ω": r"$\omega$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "←": r"$\leftarrow$",
    "^": r"\^{}",
    "<": r"$<$",
    ">": r"$>$",
}
NUMBER = re.compile(r"([-+]?\d+(?:,\d{3})*(?:\.\d+)?)(?:e([-+]?\d+))?")
POWER = re.compile(r"\bn\^(\([^)]*\)|-?\w+)")
RELATION = "p{3in}"
NONE = "-"
"""A cell with nothing in it."""


def _groups(names: Sequence[str]) -> str:
    """The line of headings above the columns' own, a name over all neighbours of a group; empty without groups."""
    if not any(names):
        return ""
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return " & ".join(f"\\multicolumn{{{length}}}{{c}}{{{_latex(name)}}}" for name, length in runs) + " \\\\\n"


def _alignment(cells: Sequence[Cell]) -> str:
    """Numbers to the right; relations in lines, broken behind commas."""
    if any(isinstance(cell, Relational) for cell in cells):
        return RELATION
    return "r" if all(map(_is_number, cells)) else "l"


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Expr) or (isinstance(cell, str) and (cell == NONE or bool(NUMBER.fullmatch(cell))))


def _plain(cell: Cell) -> str:
    return relation_text(cell) if isinstance(cell, Relational) else str(cell)


def _latex(cell: Cell) -> str:
    if isinstance(cell, Relational):
        return f"${breakable(relation_latex(cell))}$"
    if isinstance(cell, Expr):
        return exponent_latex(cell)
    if number := NUMBER.fullmatch(cell):
        power = f" \\times 10^{{{int(number[2])}}}" if number[2] else ""
        return f"${number[1].replace(',', '{,}')}{power}$"
    # A text with powers of the width in it: what POWER splits off stands at every second place.
    parts = POWER.split(cell)
    parts[1::2] = [f"$n^{{{_text(power).replace('$', '')}}}$" for power in parts[1::2]]
    parts[::2] = map(_text, parts[::2])
    return "".join(parts)


def _text(plain: str) -> str:
    return "".join(LATEX.get(character, latex_escape(character)) for character in plain)


def verdict(outcomes: Sequence[bool | None]) -> Verdict:
    """Held where all did, held in part where some did, not decided where none is known either way."""
    if outcomes and all(outcomes):
        return "held"
    if any(outcomes):
        return "held in part"
    return "did not hold" if False in outcomes else "not decided"


@dataclass(frozen=True)
class Item:
    """One table or figure: pictures and tables by file name, and one paragraph on them.

    `claim` is what the paper says, `measured` what is found here with its numbers computed from the data, `scale` at
    what size, and `verdict` whether it held.
    """

    title: str
    claim: str
    measured: str
    scale: str
    verdict: Verdict
    tables: Mapping[str, Table] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def paragraph(self) -> str:
        """The paragraph of the gallery."""
        return (
            f"**Claim.** {self.claim} **Found.** {self.measured} **Scale.** {self.scale} **Verdict:** {self.verdict}."
        )

    def write(self, folder: Path) -> list[Path]:
        """Tables as .tex, .md and .csv, figures as PDF and PNG; returns what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for name, table in self.tables.items():
            for suffix, text in ((".tex", table.latex()), (".md", table.markdown()), (".csv", table.csv())):
                written.append((folder / name).with_suffix(suffix))
                written[-1].write_text(text, encoding="utf-8")
        for name, figure in self.figures.items():
            save(figure, folder / name)
            written += [(folder / name).with_suffix(suffix) for suffix in (".png", ".pdf")]
        return written
