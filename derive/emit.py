"""A prescription as a table, Markdown, CSV and JSON; LaTeX is in `emit_latex`, code in `emit_code`."""

import csv
import io
import json
from collections.abc import Callable, Collection, Sequence
from importlib import import_module
from typing import Any, TypeVar

from sympy import Expr

from derive import terminal
from derive.axes import OUT, Axis, axes_json
from derive.scale import Scale
from derive.solve import Layer, Prescription
from derive.words import KINDS, text


def layer_names(prescription: Prescription) -> list[str]:
    """embedding, hidden, readout; or hidden.0, hidden.1, ... where layers are listed one by one."""
    if not prescription.per_layer:
        return list(KINDS)
    hidden = [f"hidden.{index}" for index in range(prescription.problem.hidden_layers)]
    return ["embedding", *hidden, "readout"]


def parts(prescription: Prescription) -> list[tuple[str, Layer, str]]:
    """(name, layer, part) of everything that has settings of its own.

    They are the layers, and what writes into the stream where it differs along depth.
    """
    apart = any(axis.out is not None for axis in prescription.axes)
    found: list[tuple[str, Layer, str]] = []
    for name, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        found.append((name, layer, ""))
        if apart and layer.kind == "hidden":
            found.append((f"{name}.{OUT}", layer, OUT))
    return found


def layer_json(
    layer: Layer, name: str, scale: Scale | None, axes: tuple[Axis, ...] = (), part: str = ""
) -> dict[str, Any]:
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
    entry |= axes_json(axes, layer.kind, part)
    if scale is not None:
        entry |= scale.numbers(layer, [(axis, axis.row(layer.kind, part)) for axis in axes])
    return entry


def notes(prescription: Prescription) -> list[str]:
    """What a reader should know, the axes' notes last."""
    return [*prescription.notes, *(note for axis in prescription.axes for note in axis.notes)]


def as_json(prescription: Prescription, scale: Scale | None = None) -> dict[str, Any]:
    """The JSON contract: exponents as exact strings, factors as numbers; schema 2 where axes are asked for."""
    problem = prescription.problem
    return {
        "schema": 2 if prescription.axes else 1,
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
        "notes": notes(prescription),
        **({} if scale is None else scale.sizes(prescription.axes)),
        "layers": [
            layer_json(layer, name, scale, prescription.axes, part) for name, layer, part in parts(prescription)
        ],
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
    "beta_factor": "1 - beta x",
    "branch_multiplier": "branch multiplier",
}
AXIS_KEYS = ("a", "b", "c", "epsilon", "epsilon2", "decay", "beta", "r")
HEADINGS |= {
    f"{axis}_{key}": f"{axis} {'branch a' if key == 'a' else HEADINGS.get(key, '1 - beta')}"
    for axis in ("depth", "batch", "tokens")
    for key in AXIS_KEYS
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
SCALE_COLUMNS = (
    "rate",
    "multiplier",
    "branch_multiplier",
    "init_factor",
    "epsilon_factor",
    "epsilon2_factor",
    "decay_factor",
    "beta_factor",
)
SENTENCES = {
    "rate": "rate: the learning rate of the layer's weights; vectors have the embedding's.",
    "multiplier": "multiplier: what the layer's output is multiplied by.",
    "branch_multiplier": "branch multiplier: what a branch is multiplied by where it enters the stream.",
    "init_factor": "init std x: the initial standard deviation, times the base's.",
    "epsilon_factor": "epsilon x: the optimizer's epsilon, times the base's.",
    "epsilon2_factor": "epsilon2 x: its second epsilon, times the base's.",
    "decay_factor": "decay x: the decoupled weight decay, times the base's.",
    "beta_factor": "1 - beta x: one less each moment's decay rate, times the base's.",
}
"""On each column of numbers."""


def grid(prescription: Prescription, scale: Scale | None = None) -> tuple[list[str], list[list[str]]]:
    """(column keys, rows of text) of the prescription, without the columns it has no entries for."""
    entries = [_flat(entry) for entry in as_json(prescription, scale)["layers"]]
    along = [f"{axis.name}_{key}" for axis in prescription.axes for key in AXIS_KEYS]
    wanted = [*EXPONENT_COLUMNS, *along, *(SCALE_COLUMNS if scale else ())]
    columns = [key for key in wanted if any(entry.get(key) is not None for entry in entries)]

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return columns, [[cell(entry.get(key)) for key in columns] for entry in entries]


def _flat(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry with what stands under an axis as axis_key."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        found |= {f"{key}_{inner}": cell for inner, cell in value.items()} if isinstance(value, dict) else {key: value}
    return found


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


def unrepeated(rows: Sequence[Sequence[Cell]], kept: Collection[int] = ()) -> list[list[Cell | str]]:
    """The rows, the first column blank where it is as in the row before, but in the rows `kept`."""
    return [
        ["" if place and place not in kept and row[0] == rows[place - 1][0] else row[0], *row[1:]]
        for place, row in enumerate(rows)
    ]


def as_table(prescription: Prescription, scale: Scale | None = None) -> str:
    """A terminal table: numbers at the wanted width first, then exponents, then what fixes each rate."""
    columns, rows = grid(prescription, scale)
    axes = {axis.name: [key for key in columns if key.startswith(f"{axis.name}_")] for axis in prescription.axes}
    beside = {*SCALE_COLUMNS, *(key for keys in axes.values() for key in keys)}

    def block(wanted: Collection[str], shown: Callable[[str], str] = HEADINGS.__getitem__) -> str:
        kept = [place for place, key in enumerate(columns) if key in wanted]
        return terminal_table([shown(columns[at]) for at in kept], [[row[at] for at in kept] for row in rows])

    lines = []
    if scale is not None:
        rate = "rates relative to the base" if scale.base_rate is None else f"base rate {scale.base_rate:g}"
        lines += [
            f"At {scale.described(prescription.axes)}, tuned at {scale.tuned(prescription.axes)} "
            f"({rate}; decay: {prescription.decay})",
            block(["layer", *SCALE_COLUMNS]),
            "\n".join(SENTENCES[key] for key in columns if key in SENTENCES) + "\n",
            *scale.match_lines(prescription.layers),
        ]
    lines += [
        f"{title(prescription)}: entry x means size n^-x (alignments n^+x)",
        block([key for key in columns if key not in beside]),
    ]
    for axis in prescription.axes:
        lines += [
            f"\nAlong {axis.name} {axis.letter}: entry x means {axis.letter}^-x",
            block(["layer", *axes[axis.name]], lambda key: HEADINGS[key].removeprefix(f"{axis.name} ")),  # noqa: B023
        ]
    for name, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        if layer.binding:
            lines.append(f"c of {name} is fixed by {', '.join(layer.binding)}")
    lines.append(f"{verdict(prescription)}.")
    if prescription.certificate is None:
        lines.append("No certificate: symbols are left, and only numbers are proved (give each a number for one).")
    if any(layer.a != 0 for layer in prescription.layers):
        lines.append("A row holds as a whole: rate, multiplier and init together; --gauge 0 needs no multipliers.")
    lines += [f"note: {note}" for note in notes(prescription)]
    return "\n".join(lines) + "\n"


def terminal_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], sections: Sequence[int] = (), keys: int = 1
) -> str:
    """A boxed table for the terminal, as wide as it is, with a rule before each row in `sections`."""
    return terminal.table(columns, rows, sections, keys)


def dump(content: Any) -> str:
    """JSON text; NaN is refused rather than written."""
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _written(home: str, writer: str) -> Callable[[Prescription, Scale | None], str]:
    """A format of another module, imported when it is asked for."""

    def write(prescription: Prescription, scale: Scale | None) -> str:
        return getattr(import_module(f"derive.{home}"), writer)(prescription, scale)

    return write


FORMATS: dict[str, Callable[[Prescription, Scale | None], str]] = {
    "table": as_table,
    "json": lambda prescription, scale: dump(as_json(prescription, scale)),
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": _written("emit_latex", "as_latex"),
    "python": _written("emit_code", "as_python"),
    "optax": _written("emit_optax", "as_optax"),
    "torch": _written("emit_torch_muon", "as_torch"),
    "javascript": _written("emit_javascript", "as_javascript"),
}
CODE = ("python", "optax", "torch")
"""Formats that are code, which assumes a plain model, without multipliers, unless a gauge is asked for."""
