"""A prescription as a table, Markdown, LaTeX, CSV and JSON; code is in `emit_code`."""

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from sympy import Expr, Rational, latex

from derive.errors import DeriveError
from derive.exponents import KINDS, text
from derive.solve import Layer, Prescription


@dataclass(frozen=True)
class Scale:
    """The way from the width at which the user tuned to the one that is wanted; factors are (N/N0)^-x."""

    base_width: int
    width: int
    base_rate: float | None = None

    def factor(self, exponent: Expr) -> float:
        """(width / base_width)^-exponent; DeriveError where the exponent is still a symbol."""
        if not isinstance(exponent, Rational):
            raise DeriveError(f"exponent {exponent} has symbols in it; give them numbers to get numbers at a width")
        return (self.width / self.base_width) ** -float(exponent)

    def rate(self, exponent: Expr) -> float:
        """The learning rate at the wanted width, or its factor where no base rate was given."""
        rate = self.factor(exponent) * (1.0 if self.base_rate is None else self.base_rate)
        if not (math.isfinite(rate) and rate > 0):
            raise DeriveError(
                f"the rate at width {self.width} comes out as {rate}; give widths and a rate within range"
            )
        return rate


def layer_names(prescription: Prescription) -> list[str]:
    """embedding, hidden, readout; or hidden.0, hidden.1, ... where layers are listed one by one."""
    if not prescription.per_layer:
        return list(KINDS)
    hidden = [f"hidden.{index}" for index in range(prescription.problem.hidden_layers)]
    return ["embedding", *hidden, "readout"]


def layer_json(layer: Layer, name: str, scale: Scale | None) -> dict[str, Any]:
    """One entry of `layers` in the JSON contract; exponents are exact strings."""

    def text_or_none(value: Expr | None) -> str | None:
        return None if value is None else text(value)

    entry: dict[str, Any] = {
        "kind": layer.kind,
        "layer": name,
        "a": text(layer.a),
        "b": text(layer.b),
        "c": text(layer.c),
        "s": text(layer.s),
        "g": text(layer.g),
        "epsilon": text_or_none(layer.epsilon),
        "decay": text(layer.decay),
        "r": text(layer.r),
        "alpha": text_or_none(layer.alpha),
        "omega": text_or_none(layer.omega),
        "u": text_or_none(layer.u),
        "binding": list(layer.binding),
    }
    if layer.epsilon2 is not None:
        entry["epsilon2"] = text(layer.epsilon2)
    if layer.spread is not None:
        entry["c_low"], entry["c_high"] = (text(end) for end in layer.spread)
    if scale is not None:
        entry["rate"] = scale.rate(layer.c)
        entry["multiplier"] = scale.factor(layer.a)
        entry["init_factor"] = scale.factor(layer.b)
        entry["epsilon_factor"] = None if layer.epsilon is None else scale.factor(layer.epsilon)
        if layer.epsilon2 is not None:
            entry["epsilon2_factor"] = scale.factor(layer.epsilon2)
        entry["decay_factor"] = scale.factor(layer.decay)
    return entry


def as_json(prescription: Prescription, scale: Scale | None = None) -> dict[str, Any]:
    """The JSON contract, schema 1: exponents as exact strings, factors at a width as numbers."""
    problem = prescription.problem
    names = layer_names(prescription)
    return {
        "schema": 1,
        "optimizer": prescription.optimizer_name,
        "parameterization": problem.parameterization.name.lower(),
        "alignment": problem.alignment.name,
        "loss": problem.loss,
        "global_rate": problem.global_rate,
        "forward_only": problem.forward_only,
        "decay_convention": prescription.decay,
        "certified": prescription.certificate is not None,
        "unique": prescription.unique,
        "feature_learning": prescription.feature_learning,
        "notes": list(prescription.notes),
        **({} if scale is None else {"base_width": scale.base_width, "width": scale.width}),
        "layers": [layer_json(layer, name, scale) for layer, name in zip(prescription.layers, names, strict=True)],
    }


Cell = TypeVar("Cell")

HEADINGS = {
    "layer": "layer",
    "a": "multiplier a",
    "b": "init b",
    "c": "rate c",
    "c_low": "c low",
    "c_high": "c high",
    "s": "update s",
    "g": "gradient g",
    "epsilon": "epsilon e",
    "epsilon2": "epsilon2 e",
    "decay": "decay",
    "alpha": "alpha",
    "omega": "omega",
    "u": "u",
    "r": "change r",
    "rate": "rate",
    "multiplier": "multiplier",
    "init_factor": "init std x",
    "epsilon_factor": "epsilon x",
    "epsilon2_factor": "epsilon2 x",
    "decay_factor": "decay x",
}
EXPONENT_COLUMNS = (
    "layer",
    "a",
    "b",
    "c",
    "c_low",
    "c_high",
    "s",
    "g",
    "epsilon",
    "epsilon2",
    "decay",
    "alpha",
    "omega",
    "u",
    "r",
)
SCALE_COLUMNS = ("rate", "multiplier", "init_factor", "epsilon_factor", "epsilon2_factor", "decay_factor")
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


def grid(prescription: Prescription, scale: Scale | None = None) -> tuple[list[str], list[list[str]]]:
    """(column keys, rows of text) of the prescription, without the columns it has no entries for."""
    entries = as_json(prescription, scale)["layers"]
    wanted = [*EXPONENT_COLUMNS, *(SCALE_COLUMNS if scale else ())]
    columns = [key for key in wanted if any(entry.get(key) is not None for entry in entries)]

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return columns, [[cell(entry.get(key)) for key in columns] for entry in entries]


def title(prescription: Prescription) -> str:
    """Optimizer, parameterization and alignment in one line, with the options that differ from the default."""
    problem = prescription.problem
    options = [
        *(["cross-entropy"] if problem.loss == "ce" else []),
        *(["one global rate"] if problem.global_rate else []),
        *(["gradients clipped by global norm"] if problem.clip_global_norm else []),
        *(["multipliers forward only"] if problem.forward_only else []),
    ]
    name = problem.alignment.name
    alignment = f"{name} alignment" if "=" not in name and ":" not in name else f"alignment {name}"
    return ", ".join([prescription.optimizer_name, problem.parameterization.name, alignment, *options])


def verdict(prescription: Prescription) -> str:
    """What the residuals say, in one line."""
    learning = {True: "learns features (r_L = 0)", False: "does not learn features (r_L > 0)", None: "r_L is undecided"}
    unique = {
        True: "the optimum is unique",
        False: "other rates reach the same optimum",
        None: "uniqueness is undecided",
    }
    return f"{learning[prescription.feature_learning]}; {unique[prescription.unique]}"


def as_csv(prescription: Prescription, scale: Scale | None = None) -> str:
    """One line per layer under a header of JSON keys."""
    columns, rows = grid(prescription, scale)
    return csv_text(columns, rows)


def csv_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """RFC 4180 text of a header and rows."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([columns, *rows])
    return out.getvalue()


def as_markdown(prescription: Prescription, scale: Scale | None = None) -> str:
    """A Markdown table with a line before it saying what it is for."""
    columns, rows = grid(prescription, scale)
    table = markdown_text([HEADINGS[key] for key in columns], rows)
    return f"{title(prescription)}: size n^-x for entry x; {verdict(prescription)}.\n\n{table}"


def markdown_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; vertical bars inside cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(columns) + line(["---"] * len(columns)) + "".join(map(line, rows))


def as_latex(prescription: Prescription, scale: Scale | None = None) -> str:
    """A LaTeX tabular, compiling without packages."""
    columns, rows = grid(prescription, scale)
    values = [
        [_latex_cell(prescription.layers[i], key, cell) for key, cell in zip(columns, row, strict=True)]
        for i, row in enumerate(rows)
    ]
    return f"% {title(prescription)}\n" + latex_text(
        [LATEX_HEADINGS.get(key, HEADINGS[key]) for key in columns], values
    )


def unrepeated(rows: Sequence[Sequence[Cell]], kept: Collection[int] = ()) -> list[list[Cell | str]]:
    """The rows, the first column blank where it is as in the row before, but in the rows `kept`."""
    return [
        ["" if place and place not in kept and row[0] == rows[place - 1][0] else row[0], *row[1:]]
        for place, row in enumerate(rows)
    ]


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


def as_table(prescription: Prescription, scale: Scale | None = None) -> str:
    """A terminal table, exponents first, then numbers at the wanted width, then what fixes each rate."""
    columns, rows = grid(prescription)
    parts = [
        f"{title(prescription)}: entry x means size n^-x (alignments n^+x)",
        terminal_table([HEADINGS[key] for key in columns], rows),
    ]
    if scale is not None:
        columns, rows = grid(prescription, scale)
        kept = [index for index, key in enumerate(columns) if key == "layer" or key in SCALE_COLUMNS]
        rate = "rates relative to the base" if scale.base_rate is None else f"base rate {scale.base_rate:g}"
        parts += [
            f"\nAt width {scale.width}, tuned at {scale.base_width} ({rate}; x: times the value at the base width; "
            f"decay: {prescription.decay})",
            terminal_table(
                [HEADINGS[columns[index]] for index in kept], [[row[index] for index in kept] for row in rows]
            ),
        ]
    for name, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        if layer.binding:
            parts.append(f"c of {name} is fixed by {', '.join(layer.binding)}")
    parts.append(f"{verdict(prescription)}.")
    if prescription.certificate is None:
        parts.append("No certificate: symbols are left, and only numbers are proved (give each a number for one).")
    if any(layer.a != 0 for layer in prescription.layers):
        parts.append("A row holds as a whole: rate, multiplier and init together; --gauge 0 needs no multipliers.")
    parts += [f"note: {note}" for note in prescription.notes]
    return "\n".join(parts) + "\n"


def terminal_table(columns: Sequence[str], rows: Sequence[Sequence[str]], sections: Sequence[int] = ()) -> str:
    """A boxed table for the terminal, with a rule before each row in `sections`."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for index, row in enumerate(rows):
        if index in sections and index > 0:
            table.add_section()
        table.add_row(*row)
    out = io.StringIO()
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    Console(file=out, width=sum(widths) + 3 * len(columns) + 3, color_system=None, markup=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def dump(content: Any) -> str:
    """JSON text; NaN is refused rather than written."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _code(writer: str) -> Callable[[Prescription, Scale | None], str]:
    """A format of `emit_code`, imported when it is asked for."""

    def write(prescription: Prescription, scale: Scale | None) -> str:  # noqa: ARG001
        return getattr(import_module("derive.emit_code"), writer)(prescription)

    return write


FORMATS: dict[str, Callable[[Prescription, Scale | None], str]] = {
    "table": as_table,
    "json": lambda prescription, scale: dump(as_json(prescription, scale)),
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
    "python": _code("as_python"),
    "optax": _code("as_optax"),
    "torch": _code("as_torch"),
}
