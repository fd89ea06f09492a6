"""A prescription as Python, optax and PyTorch code that runs as it stands."""

from collections.abc import Sequence
from string import Template

from sympy import Expr, Rational, S

from derive.axes import AxisRow
from derive.batch import HALF, batch_rate
from derive.emit import parts, title, verdict
from derive.errors import DeriveError
from derive.exponents import Kind
from derive.scale import Scale
from derive.solve import Layer, Prescription

HEADER = Template('''"""Width scaling for $title.

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

def factor(layer, quantity, $sizes):
    """(width / base_width)^-x for the exponent x of that layer and quantity$and_axes."""
    return (width / base_width) ** -float(EXPONENTS[layer][quantity])$factors
$beta''')

AXIS = Template('''
$table = {
$entries
}
"""Exponents x of $name^-x, which multiplies what the width gives.$remark"""
''')

BETA = '''

def beta(layer, value, $sizes):
    """A moving average's beta at these sizes, from the one at the base: 1 - beta goes with batch and tokens."""
    moved = 1 - (1 - value) * factor(layer, "beta", $sizes)
    if not 0 <= moved < 1:
        raise ValueError(f"beta {value} would become {moved}: these sizes are too far from those of the base")
    return moved
'''

PYTHON = Template('''

def scale($sizes, base_rate=1.0):
    """Per layer: learning rate, multiplier, and factors for initial standard deviation, epsilon and weight decay."""
    layers = {}
    for layer, exponents in EXPONENTS.items():
        layers[layer] = {quantity: factor(layer, quantity, $sizes) for quantity in exponents}
        layers[layer]["rate"] *= base_rate
    return layers
''')

OPTAX = Template('''

def optimizer(base_rate, $sizes, labels, *, epsilon=$epsilon, weight_decay=0.0$arguments):
    """The optax transform; `labels` is a tree like the parameters whose leaves are the keys of EXPONENTS.

    `base_rate` may be a schedule. Keywords are the values at the base width; weight decay is decoupled.$remarks
    """

    def transform(layer):
        scaled = factor(layer, "rate", $sizes)
        rate = (lambda step: base_rate(step) * scaled) if callable(base_rate) else base_rate * scaled
        eps = epsilon * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
        decay = weight_decay * factor(layer, "decay", $sizes)
        rule = RULES[layer]($given)
        return optax.chain(rule, optax.add_decayed_weights(decay), optax.scale_by_learning_rate(rate))

    return optax.multi_transform({layer: transform(layer) for layer in EXPONENTS}, labels)
$helpers

RULES = {
$rules
}
''')

TORCH = Template('''

def param_groups(named_parameters, base_rate, $sizes, *, epsilon=$epsilon$decay_argument):
    """One parameter group per layer; `named_parameters` maps the keys of EXPONENTS to lists of parameters.$remark"""
    groups = []
    for layer, parameters in named_parameters.items():
        rate = base_rate * factor(layer, "rate", $sizes)
        eps = epsilon * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
$decay_line        groups.append({"params": list(parameters), $options})
    return groups


def optimizer(named_parameters, base_rate, $sizes, **keywords):
    """The torch optimizer with per-layer rates; keywords as in `param_groups`."""
    return torch.optim.$constructor(param_groups(named_parameters, base_rate, $sizes, **keywords)$extra)
''')

ADAM = "optax.scale_by_adam(eps=eps)"
TIMES_WEIGHT_SIZE = "optax.scale_by_param_block_rms(min_scale=0.0)"
OPTAX_RULES = {
    "sgd": "optax.identity()",
    "momentum": "optax.trace(0.9)",
    "nesterov": "optax.trace(0.9, nesterov=True)",
    "adam": ADAM,
    "adamw": ADAM,
    "rmsprop": "optax.scale_by_rms(eps=eps, eps_in_sqrt=False)",
    "adafactor": (
        "optax.chain(optax.scale_by_factored_rms(epsilon=eps, min_dim_size_to_factor=2), "
        f"optax.clip_by_block_rms(1.0), {TIMES_WEIGHT_SIZE})"
    ),
    "adam-ps": f"optax.chain({ADAM}, {TIMES_WEIGHT_SIZE})",
    "lion": "optax.scale_by_lion()",
    "sign-sgd": "optax.scale_by_sign()",
    "lamb": f"optax.chain({ADAM}, optax.scale_by_trust_ratio())",
    "lars": "optax.chain(optax.scale_by_trust_ratio(eps=eps), optax.trace(0.9))",
    "adam-atan2": "adam_atan2()",
    "normalised-sgd": "optax.stateless_with_tree_map(lambda g, _: g / (jnp.linalg.norm(g) + eps))",
    "muon": "muon(eps, numbers, lambda fan_in, fan_out: 1.0)",
    "muon-keller": "muon(eps, numbers, lambda fan_in, fan_out: max(1, fan_out / fan_in) ** 0.5)",
    "muon-rms": "muon(eps, numbers, lambda fan_in, fan_out: 0.2 * max(fan_in, fan_out) ** 0.5)",
}
"""eps -> the transform of gradients into U, before decay and rate."""
MUON = '''

def muon(eps, numbers, scale):
    """The polar factor of the first moment by Newton and Schulz, for matrices of fan_in x fan_out entries."""
    kind = optax.contrib.MuonDimensionNumbers
    paths, _ = jax.tree_util.tree_flatten_with_path(numbers, is_leaf=lambda each: isinstance(each, kind))
    known = {jax.tree_util.keystr(path): each for path, each in paths}

    def number(path, parameter):
        name = jax.tree_util.keystr(path)
        if name not in known and parameter.ndim != 2:
            raise ValueError(f"{name} has shape {parameter.shape}: give its axes of fan-in and fan-out in `numbers`")
        return known.get(name, kind())

    def matrices(parameters):
        return jax.tree_util.tree_map_with_path(number, parameters)

    def scaled(update, axes):
        sides = (axis if isinstance(axis, tuple) else (axis,) for axis in axes)
        return update * scale(*(math.prod(update.shape[axis] for axis in side) for side in sides))

    polar = optax.contrib.scale_by_muon(eps=eps, weight_dimension_numbers=matrices)
    return optax.chain(polar, optax.stateless(lambda updates, _: jax.tree.map(scaled, updates, matrices(updates))))
'''
NUMBERS = """
    Of matrices that are not [fan_in, fan_out] `numbers` has the optax.contrib.MuonDimensionNumbers, in a tree like the
    parameters with None for the others: (0, (1, 2)) for [in, heads, d], ((0, 1, 2), 3) for [k, k, in, out], (1, 2) for
    one matrix per expert of [experts, in, out]; what verify.prescribe(...).dimension_numbers(params) gives."""
ADAM_ATAN2 = '''

def adam_atan2(b1=0.9, b2=0.999):
    """U = atan2(m, sqrt(v)), debiased, without an epsilon; the second moment is kept as its root, in float32."""

    def init(params):
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        return jnp.zeros([], jnp.int32), zeros, zeros

    def update(gradients, state, params=None):
        steps, m, root = state[0] + 1, *state[1:]
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, gradients)
        root = jax.tree.map(lambda r, g: jnp.hypot(b2**0.5 * r, (1 - b2) ** 0.5 * g), root, gradients)
        one, two = (-jnp.expm1(steps * jnp.log1p(beta - 1)) for beta in (b1, b2))
        debias = jnp.sqrt(two) / one
        updates = jax.tree.map(lambda m, r, g: jnp.arctan2(debias * m, r).astype(g.dtype), m, root, gradients)
        return updates, (steps, m, root)

    return optax.GradientTransformation(init, update)
'''
HELPERS = {"muon(": MUON, "adam_atan2(": ADAM_ATAN2}
"""What an emitted rule is made of that optax does not have, by what the rule mentions."""
IMPORTS = {
    "jax.tree": "jax",
    "jnp.": "jax.numpy as jnp",
    "optax.": "optax",
    "optax.contrib": "optax.contrib",
}
"""Modules by what emitted code mentions."""
TORCH_RULES = {
    "sgd": ("SGD", '"lr": rate', ""),
    "momentum": ("SGD", '"lr": rate', ", momentum=0.9"),
    "nesterov": ("SGD", '"lr": rate', ", momentum=0.9, nesterov=True"),
    "adam": ("Adam", '"lr": rate, "eps": eps', ""),
    "adamw": ("AdamW", '"lr": rate, "eps": eps, "weight_decay": decay', ""),
    "rmsprop": ("RMSprop", '"lr": rate, "eps": eps', ""),
    "adafactor": ("Adafactor", '"lr": rate, "eps": (eps, 0.0)', ""),
}
DECAY_LINE = '        decay = weight_decay * factor(layer, "decay", $sizes)\n'
FROM_ZERO = "\n    Steps are proportional to RMS(W): what starts at zero stays there, so draw vectors away from zero."
OPTAX_BETAS = {
    "scale_by_adam(eps": "scale_by_adam(b1=beta(0.9), b2=beta(0.999), eps",
    "scale_by_rms(eps": "scale_by_rms(decay=beta(0.9), eps",
    "scale_by_lion()": "scale_by_lion(b1=beta(0.9), b2=beta(0.99))",
    "adam_atan2()": "adam_atan2(b1=beta(0.9), b2=beta(0.999))",
}
"""Where 1 - beta goes with the batch: what a rule is written with, and what for."""
TORCH_BETAS = {
    "adam": ', "betas": (beta(layer, 0.9, $sizes), beta(layer, 0.999, $sizes))',
    "adamw": ', "betas": (beta(layer, 0.9, $sizes), beta(layer, 0.999, $sizes))',
    "rmsprop": ', "alpha": beta(layer, 0.99, $sizes)',
}
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


def _sizes(prescription: Prescription) -> str:
    """The arguments that say what was tuned and what is wanted."""
    names = ["width", *(axis.name for axis in prescription.axes)]
    return ", ".join(f"{name}, base_{name}" for name in names)


def _scales_betas(prescription: Prescription) -> bool:
    return any(row.beta is not None for axis in prescription.axes for row in axis.rows.values())


def _header(prescription: Prescription, imports: str = "", standard: str = "") -> str:
    """The module up to its functions: exponents of the width and of the axes, and the factor that they make."""
    named, axes = parts(prescription), prescription.axes
    betas = _scales_betas(prescription)
    beside = [*(["branch"] if any(axis.name == "depth" for axis in axes) else []), *(["beta"] if betas else [])]
    sizes = _sizes(prescription)
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
    return HEADER.substitute(
        title=title(prescription).replace("\\", "/").replace('"', "'"),
        verdict=outcome[:1].upper() + outcome[1:],
        standard=standard,
        imports=imports,
        entries="\n".join(f'    "{name}": {_entry(layer, beside)},' for name, layer, _ in named),
        axes="".join(tables),
        sizes=sizes,
        and_axes=f", times those of {', '.join(axis.name for axis in axes)}" if axes else "",
        factors=factors,
        beta=Template(BETA).substitute(sizes=sizes) if betas else "",
    )


def as_python(prescription: Prescription, scale: Scale | None = None) -> str:  # noqa: ARG001
    """A self-contained module: a dictionary of exact exponents and a function to numbers at a width."""
    return _header(prescription) + PYTHON.substitute(sizes=_sizes(prescription))


def _with_betas(prescription: Prescription, kind: Kind, written: str, scaled: str) -> tuple[str, str]:
    """(the rule with its betas scaled, or held where the rate allows it, a remark); DeriveError where it does not."""
    exponents = [axis.rows[kind].beta for axis in prescription.axes]
    if not any(exponents):
        return written, ""
    if scaled != written:
        return scaled, ""
    optimizer = prescription.problem.optimizers[kind]
    if batch_rate(optimizer, S.Zero)[0] != batch_rate(optimizer, HALF)[0]:
        raise DeriveError(f"emitted code cannot scale the betas of {optimizer.name}; use --betas constant")
    return written, HELD


def _lacking(what: str, name: str, known: dict[str, object] | dict[str, str]) -> DeriveError:
    return DeriveError(
        f"there is no {what} constructor for {name}; emitted are {', '.join(known)}; "
        "use --format python for the exponents alone"
    )


def as_optax(prescription: Prescription, scale: Scale | None = None) -> str:  # noqa: ARG001
    """A module with `optimizer(base_rate, width, base_width, labels)`, an optax transform."""
    betas, sizes = _scales_betas(prescription), _sizes(prescription)
    emitted, epsilons, remarks = [], set(), []
    for name, layer, _ in parts(prescription):
        rule = prescription.problem.optimizers[layer.kind].name
        if rule not in OPTAX_RULES:
            raise _lacking("optax", rule, OPTAX_RULES)
        epsilons.add(BASE_EPSILON.get(rule, "1e-8"))
        written, remark = _with_betas(prescription, layer.kind, OPTAX_RULES[rule], _optax_betas(OPTAX_RULES[rule]))
        remarks.append(remark)
        emitted.append((name, written))
    shaped = any("numbers" in rule for _, rule in emitted)
    remarks += [FROM_ZERO if any("scale_by_param_block_rms" in rule for _, rule in emitted) else ""]
    remarks += [NUMBERS if shaped else ""]
    named = ["eps", *(["numbers"] if shaped else []), *(["beta"] if betas else [])]
    given = {"beta": f"lambda value: beta(layer, value, {sizes})"}
    rules = [f'    "{name}": lambda {", ".join(named)}: {rule},' for name, rule in emitted]
    code = OPTAX.substitute(
        rules="\n".join(rules),
        given=", ".join(given.get(name, name) for name in named),
        arguments=", numbers=None" if shaped else "",
        epsilon=max(epsilons, key=float),
        remarks="".join(dict.fromkeys(remarks)),
        helpers="".join(code for mark, code in HELPERS.items() if mark in "".join(rules)),
        sizes=sizes,
    )
    imports = "".join(f"import {module}\n" for mark, module in IMPORTS.items() if mark in code)
    return _header(prescription, f"\n{imports}", "import math\n" if "math." in code else "") + code


def _optax_betas(rule: str) -> str:
    for held, scaled in OPTAX_BETAS.items():
        rule = rule.replace(held, scaled)
    return rule


def as_torch(prescription: Prescription, scale: Scale | None = None) -> str:  # noqa: ARG001
    """A module with `param_groups` and `optimizer(named_parameters, base_rate, width, base_width)` for PyTorch."""
    names = {row.name for row in prescription.problem.optimizers.values()}
    if len(names) > 1:
        raise DeriveError(
            f"torch code is for one optimizer, not {prescription.optimizer_name}; emit one file per optimizer"
        )
    rule, sizes = names.pop(), _sizes(prescription)
    if rule not in TORCH_RULES:
        raise _lacking("torch", rule, dict.fromkeys(TORCH_RULES, ""))
    constructor, options, extra = TORCH_RULES[rule]
    decays = "decay" in options
    scaled = options + Template(TORCH_BETAS.get(rule, "")).substitute(sizes=sizes)
    options, remark = _with_betas(prescription, "hidden", options, scaled)
    code = TORCH.substitute(
        constructor=constructor,
        options=options,
        extra=extra,
        epsilon=BASE_EPSILON.get(rule, "1e-8"),
        decay_argument=", weight_decay=0.0" if decays else "",
        decay_line=Template(DECAY_LINE).substitute(sizes=sizes) if decays else "",
        sizes=sizes,
        remark=remark,
    )
    return _header(prescription, "\nimport torch\n") + code
