"""A prescription as Python code that runs as it stands, and what `emit_optax` and `emit_torch` have of it."""

from collections.abc import Collection, Sequence
from string import Template

from sympy import Expr, Rational, S

from derive.axes import AxisRow
from derive.batch import HALF, batch_rate
from derive.emit import parts, title, verdict
from derive.errors import DeriveError
from derive.scale import Scale
from derive.solve import Layer, Prescription
from derive.words import Kind

HEADER = Template('''"""Width scaling for $title: $assumed.

$verdict.
An exponent x means size n^-x: multiplier n^-a, initial standard deviation n^-b, learning rate n^-c, epsilon
n^-e, decoupled weight decay n^-decay. Factors are relative to the base width, at which the model was tuned. A row
holds as a whole: with a multiplier other than 1, its rate and initialisation are for the multiplied layer. Vectors
(biases, gains, positions) go with the embedding, its multiplier included.
"""

${standard}from fractions import Fraction
$imports
EXPONENTS = {
$entries
}
$axes

def factor(layer, quantity, $sized):
    """(width / base_width)^-x for the exponent x of that layer and quantity$and_axes."""
    if width < base_width:
        raise ValueError(f"width {width} is below base_width {base_width}: are they exchanged?")
    return (width / base_width) ** -float(EXPONENTS[layer][quantity])$factors
$beta''')

AXIS = Template('''
$table = {
$entries
}
"""Exponents x of $name^-x, which multiplies what the width gives.$remark"""
''')

BETA = Template('''

def beta(layer, value, $sized):
    """A moving average's beta at these sizes, from the one at the base: 1 - beta goes with batch and tokens."""
    moved = 1 - (1 - value) * factor(layer, "beta", $sizes)
    if not 0 <= moved < 1:
        raise ValueError(f"beta {value} would become {moved}: these sizes are too far from those of the base")
    return moved
''')

PYTHON = Template('''

def scale($sized, base_rate=$rate):
    """Per layer: learning rate, multiplier, and factors for initial standard deviation, epsilon and weight decay."""
    layers = {}
    for layer, exponents in EXPONENTS.items():
        layers[layer] = {quantity: factor(layer, quantity, $sizes) for quantity in exponents}
        layers[layer]["rate"] *= base_rate
    return layers
''')

APPLIED = """
    if not multipliers_applied:
        raise ValueError(
            "these rates are for a model whose layers are multiplied by factor(layer, 'multiplier', ...): say "
            "multipliers_applied=True where yours are, or emit the same prescription without them, --gauge 0"
        )"""

PLAIN = "for a plain model, without multipliers, initialised as at the base width times its factor"
MULTIPLIED = "for a model whose layers are multiplied by their factors"
SCALABLE = ("b1", "b2")
"""Betas of averages that are normalised: that of a trace, a plain sum over steps, changes its size."""
BRANCHES = " Hidden layers stand in branches h + branch x f(h), one branch multiplier for all of f."
HELD = "\n    Moving averages keep their betas: the rates are those for it."
BASE_EPSILON = {"adafactor": "1e-30", "lars": "0.0"}


def _fraction(exponent: Expr) -> str:
    if not isinstance(exponent, Rational):
        raise DeriveError(f"exponent {exponent} has symbols in it; give them numbers to emit code")
    return f"Fraction({exponent.p}, {exponent.q})"


def _entry(layer: Layer | AxisRow, beside: Sequence[str] = ()) -> str:
    """The exact exponents of one layer, or of its row along another axis, by their names in code.

    `beside` are those that only other axes move.
    """
    of_axis = isinstance(layer, AxisRow)
    quantities = {
        "branch" if of_axis else "multiplier": layer.a,
        "init": layer.b,
        "rate": layer.c,
        "decay": layer.decay,
        "epsilon": layer.epsilon,
        "epsilon2": layer.epsilon2,
        "beta": layer.beta if of_axis else None,
        **dict.fromkeys(beside, S.Zero),
    }
    return "{" + ", ".join(f'"{key}": {_fraction(x)}' for key, x in quantities.items() if x is not None) + "}"


def sizes_text(prescription: Prescription) -> str:
    """The arguments that say what was tuned and what is wanted."""
    names = ["width", *(axis.name for axis in prescription.axes)]
    return ", ".join(f"{name}, base_{name}" for name in names)


def parameters_text(prescription: Prescription, scale: Scale | None) -> str:
    """The same as parameters, with the numbers that were given for their defaults."""
    if scale is None:
        return sizes_text(prescription)
    given = scale.sizes(prescription.axes)
    names = ["width", *(axis.name for axis in prescription.axes)]
    return ", ".join(f"{name}={given.get(name, 1)}, base_{name}={given.get(f'base_{name}', 1)}" for name in names)


def rate_text(scale: Scale | None) -> str:
    """The base rate's default."""
    return "" if scale is None or scale.base_rate is None else f"={scale.base_rate!r}"


def has_multipliers(prescription: Prescription) -> bool:
    """Whether a layer is multiplied by anything."""
    return any(layer.a != 0 for layer in prescription.layers)


def _scales_betas(prescription: Prescription) -> bool:
    return any(row.beta is not None for axis in prescription.axes for row in axis.rows.values())


def header(prescription: Prescription, scale: Scale | None, imports: str = "", standard: str = "") -> str:
    """The module up to its functions: exponents of the width and of the axes, and the factor that they make."""
    named, axes = parts(prescription), prescription.axes
    betas = _scales_betas(prescription)
    beside = [*(["branch"] if any(axis.name == "depth" for axis in axes) else []), *(["beta"] if betas else [])]
    sizes = sizes_text(prescription)
    factors = "".join(
        f" * ({axis.name} / base_{axis.name}) ** -float({axis.name.upper()}[layer].get(quantity, 0))" for axis in axes
    )
    tables = [
        AXIS.substitute(
            table=axis.name.upper(),
            name=axis.name,
            remark=BRANCHES if axis.name == "depth" else "",
            entries="\n".join(f'    "{name}": {_entry(axis.row(layer.kind, part))},' for name, layer, part in named),
        )
        for axis in axes
    ]
    outcome = verdict(prescription)
    sized = parameters_text(prescription, scale)
    return HEADER.substitute(
        assumed=MULTIPLIED if has_multipliers(prescription) else PLAIN,
        title=title(prescription).replace("\\", "/").replace('"', "'"),
        verdict=outcome[:1].upper() + outcome[1:],
        standard=standard,
        imports=imports,
        entries="\n".join(f'    "{name}": {_entry(layer, beside)},' for name, layer, _ in named),
        axes="".join(tables),
        sized=sized,
        and_axes=f", times those of {', '.join(axis.name for axis in axes)}" if axes else "",
        factors=factors,
        beta=BETA.substitute(sizes=sizes, sized=sized) if betas else "",
    )


def as_python(prescription: Prescription, scale: Scale | None = None) -> str:
    """A self-contained module: a dictionary of exact exponents and a function to numbers at a width."""
    rate = rate_text(scale).removeprefix("=") or "1.0"
    body = PYTHON.substitute(sizes=sizes_text(prescription), sized=parameters_text(prescription, scale), rate=rate)
    return header(prescription, scale) + body


def scaled_betas(prescription: Prescription, kind: Kind, known: Collection[str]) -> tuple[bool, str]:
    """(whether the rule's betas go with the batch, a remark where they are held); DeriveError where they may not be.

    `known` are the betas that the emitted rule names.
    """
    if not any(axis.rows[kind].beta for axis in prescription.axes):
        return False, ""
    if known and set(known) <= set(SCALABLE):
        return True, ""
    optimizer = prescription.problem.optimizers[kind]
    if batch_rate(optimizer, S.Zero)[0] != batch_rate(optimizer, HALF)[0]:
        raise DeriveError(f"emitted code cannot scale the betas of {optimizer.name}; use --betas constant")
    return False, HELD


def lacking(what: str, name: str, known: Collection[str]) -> DeriveError:
    """What is raised for an optimizer without code."""
    return DeriveError(
        f"there is no {what} constructor for {name}; emitted are {', '.join(known)}; "
        "use --format python for the exponents alone"
    )
