"""What every script here gives: one table or figure of the paper, with what was claimed and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from sympy import Expr, latex

from derive.emit import csv_text, latex_escape, latex_text, markdown_text
from verify.plots import save

Cell = str | Expr
Verdict = Literal["derived", "held", "held in part", "did not hold", "not decided"]


@dataclass(frozen=True)
class Table:
    """Columns and rows; a sympy cell is set as mathematics in LaTeX and written exactly elsewhere.

    `sections` are the rows before which a rule is drawn.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sections: Sequence[int] = ()

    def markdown(self) -> str:
        """A Markdown table."""
        return markdown_text(self.columns, self._plain())

    def csv(self) -> str:
        """Comma-separated values, exact."""
        return csv_text(self.columns, self._plain())

    def latex(self) -> str:
        """A LaTeX tabular that compiles without packages."""
        rows = [[_latex(cell) for cell in row] for row in self.rows]
        return latex_text([_latex(column) for column in self.columns], rows, self.sections)

    def _plain(self) -> list[list[str]]:
        return [[str(cell) for cell in row] for row in self.rows]


GREEK = {
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "Δ": r"$\Delta$",
    "ε": r"$\epsilon$",
    "η": r"$\eta$",
    "λ": r"$\lambda$",
    "ω": r"$\omega$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "^": r"\^{}",
    "<": r"$<$",
    ">": r"$>$",
}


def _latex(cell: Cell) -> str:
    if isinstance(cell, Expr):
        return f"${latex(cell)}$"
    return "".join(GREEK.get(character, latex_escape(character)) for character in cell)


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
