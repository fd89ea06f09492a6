"""A model's prescription as one file of Python and torch, and as the object that this file makes."""

from importlib.util import find_spec
from math import prod
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import derive
from derive.emit_torch_muon import emitted_source
from derive.errors import DeriveError
from derive.matrix_functions import takes_matrices
from derive.registry import optimizer as read_optimizer
from verify.model.prescription import ModelPrescription
from verify.model.rows import ParameterRow

if TYPE_CHECKING:
    from verify.torch.standalone import Scaling

MUON = Path(derive.__file__).parent / "emitted_muon.py"
SOURCE = Path(__file__).parent / "standalone.py"
LAYER_CALLS = ("linear", "aten::embedding", "conv1d", "conv2d", "conv3d", "aten::convolution")
FILE = Template('''"""$title: width $base -> $width.

Written by `verify prescribe --format torch`; needs Python 3.10 or later and torch alone. For a model as it is:

    scaling.rescale_(model)                        # its initial sizes, once, before sharding
    scaling.apply_multipliers(model)               # $multipliers
    groups = scaling.param_groups(model, base_rate, weight_decay)
    optimizers = scaling.optimizers(model, base_rate, weight_decay)

Rates, eps and weight decay are given as tuned at width $base. $notes
"""

$source

BASE_WIDTH, WIDTH = $base, $width

ROWS = {
$rows
}

PRODUCTS = {
$products
}

scaling = Scaling(BASE_WIDTH, WIDTH, ROWS, PRODUCTS$forward)
''')


def scaling(answer: ModelPrescription) -> "Scaling":
    """The prescription for torch; DeriveError without torch, and where depth grows too."""
    answer.of_width_alone("torch code")
    if find_spec("torch") is None:
        raise DeriveError("torch is not installed; run: pip install torch, or write the file with --format torch")
    from verify.torch import standalone

    rows = {row.path: standalone.Row(**_row(answer, row)) for row in answer.parameters}
    products = {name: standalone.Product(**each) for name, each in _products(answer).items()}
    return standalone.Scaling(answer.base_width, answer.width, rows, products, answer.forward_only)


def as_torch(answer: ModelPrescription) -> str:
    """One self-contained file: the rows, with their numbers as comments, and what applies them.

    DeriveError where depth grows too.
    """
    answer.of_width_alone("torch code")
    products = _products(answer)
    apart = any(row.a for row in answer.parameters)
    needed = "prints the lines that are yours to write" if products or apart else "none are needed: may be left out"
    return FILE.substitute(
        title=f"{answer.optimizer_name}, {answer.parameterization}, alignment {answer.alignment}",
        base=answer.base_width,
        width=answer.width,
        multipliers=needed,
        notes="".join(f"\n\n{_quotable(note)}" for note in answer.notes).strip(),
        source=_source(),
        rows="\n".join(_line(answer, row) for row in answer.parameters),
        products="\n".join(f'    "{name}": Product({_keywords(each)}),' for name, each in products.items()),
        forward=", forward_only=True" if answer.forward_only else "",
    )


def _quotable(text: str) -> str:
    return text.replace("\\", "/").replace('"""', "'''")


def _source() -> str:
    """The code that goes out, with that for Muon in it, and without marks for this project's tools."""
    imports, code = zip(*map(emitted_source, (MUON, SOURCE)), strict=True)
    lines = {line for each in imports for line in each.split("\n") if line and "derive." not in line}
    ordered = [sorted(line for line in lines if ("torch" in line) == own) for own in (False, True)]
    return "\n\n".join("\n".join(part) for part in ordered) + "\n\n" + "\n\n\n".join(code)


def _line(answer: ModelPrescription, row: ParameterRow) -> str:
    """A row of the file, its numbers at the width beside it."""
    said = [f"rate x {answer.factor(row.c):.6g}", f"decay x {answer.factor(row.decay):.6g}"]
    if row.epsilon is not None:
        said.insert(1, f"eps x {answer.factor(row.epsilon):.6g}")
    if row.std is not None:
        said.append(f"RMS {row.start.size * answer.factor(row.b):.4g}")
    if not row.is_trained:
        said = ["not trained"]
    return f'    "{row.path}": Row({_keywords(_row(answer, row))}),  # {", ".join(said)}'


def _keywords(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items()).replace("'", '"')


def _row(answer: ModelPrescription, row: ParameterRow) -> dict[str, Any]:
    """The arguments of a Row; defaults are left out."""
    values: dict[str, Any] = {
        "rule": row.rule,
        "shape": tuple(row.shape),
        "rms": None if row.std is None else float(f"{row.start.size:.6g}"),
        "init": str(row.b),
        "rate": str(row.c) if row.is_trained else None,
        "epsilon": None if row.epsilon is None else str(row.epsilon),
        "decay": str(row.decay),
    }
    if row.a:
        values["multiplier"] = str(row.a)
    fans = _fans(answer, row)
    return values if fans is None else values | {"fans": fans}


def _fans(answer: ModelPrescription, row: ParameterRow) -> tuple[int, int] | None:
    """(fan-in, fan-out) of the matrix that the row's rule takes; None where it takes none, or several."""
    if not row.is_trained or not takes_matrices(read_optimizer(row.rule).rule):
        return None
    inputs, outputs = row.in_axes, row.out_axes
    if not inputs and len(row.shape) == 2:
        uses = [op for op in answer.ops if op.path == row.path]
        return (uses[0].fan_in[1], uses[0].fan_out[1]) if uses else None
    if not inputs and not outputs:
        return None
    return prod(row.shape[axis] for axis in inputs), prod(row.shape[axis] for axis in outputs)


def _products(answer: ModelPrescription) -> dict[str, dict[str, Any]]:
    """The arguments of a Product, by name, for every one with a multiplier."""
    ops = {op.name for op in answer.ops}
    found = {}
    for name, exponent in answer.multipliers.items():
        if not exponent:
            continue
        module, _, call = answer.places.get(name, "").partition(": ")
        layer = name in ops and call in LAYER_CALLS
        found[name] = {"module": module, "call": call, "exponent": str(exponent), "is_layer": layer}
    return found
