"""A prescription as Python, optax and PyTorch code that runs as it stands."""

from collections.abc import Collection, Sequence
from string import Template

from sympy import Expr, Rational, S

from derive.axes import AxisRow
from derive.batch import HALF, batch_rate
from derive.emit import parts, title, verdict
from derive.errors import DeriveError
from derive.exponents import Kind
from derive.scale import Scale
from derive.solve import Layer, Prescription

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

BETA = '''

def beta(layer, value, $sized):
    """A moving average's beta at these sizes, from the one at the base: 1 - beta goes with batch and tokens."""
    moved = 1 - (1 - value) * factor(layer, "beta", $sizes)
    if not 0 <= moved < 1:
        raise ValueError(f"beta {value} would become {moved}: these sizes are too far from those of the base")
    return moved
'''

PYTHON = Template('''

def scale($sized, base_rate=$rate):
    """Per layer: learning rate, multiplier, and factors for initial standard deviation, epsilon and weight decay."""
    layers = {}
    for layer, exponents in EXPONENTS.items():
        layers[layer] = {quantity: factor(layer, quantity, $sizes) for quantity in exponents}
        layers[layer]["rate"] *= base_rate
    return layers
''')

OPTAX = Template('''

def optimizer(labels, base_rate$rate, $sized, *, epsilon=$epsilon, weight_decay=0.0, mask=None$arguments):
    """The optax transform; `labels` is a tree like the parameters whose leaves are the keys of EXPONENTS.

    `base_rate` may be a schedule. Keywords are the values at the base width; weight decay is decoupled, by default of
    matrices alone (`mask`, as in optax.add_decayed_weights).$remarks
    """$check

    def transform(layer):
        scaled = factor(layer, "rate", $sizes)
        rate = (lambda step: base_rate(step) * scaled) if callable(base_rate) else base_rate * scaled
        eps = epsilon * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
        decay = optax.add_decayed_weights(weight_decay * factor(layer, "decay", $sizes), mask or matrices)
        return optax.chain(RULES[layer]($given), decay, optax.scale_by_learning_rate(rate))

    return optax.multi_transform({layer: transform(layer) for layer in EXPONENTS}, labels)


def matrices(parameters):
    """Whether each parameter is no vector."""
    return jax.tree.map(lambda parameter: parameter.ndim > 1, parameters)
$helpers

RULES = {
$rules
}
''')

TORCH = Template('''

def param_groups(named_parameters, layer_of, base_rate$rate, $sized, *, epsilon=$epsilon$arguments):
    """Parameter groups of every layer, from a model's `named_parameters()` as they come.

    `layer_of(name, parameter)`, or a mapping from names, is a key of EXPONENTS for every parameter.$remark
    """$check
    named = dict(named_parameters)
    layers = {name: layer_of(name, each) if callable(layer_of) else layer_of.get(name) for name, each in named.items()}
    stray = [name for name, layer in layers.items() if layer not in EXPONENTS]
    stray += [] if callable(layer_of) else [name for name in layer_of if name not in named]
    if stray:
        raise ValueError(f"{', '.join(stray)}: every parameter of the model is one of {', '.join(EXPONENTS)}")
    groups = {}
    for name, parameter in named.items():
        layer, decayed = layers[name], $decayed
        if (layer, decayed) not in groups:
            rate = base_rate * factor(layer, "rate", $sizes)
            eps = epsilon * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
$decay_line            groups[layer, decayed] = {"params": [], $options}
        groups[layer, decayed]["params"].append(parameter)
    return list(groups.values())


def optimizer(named_parameters, layer_of, base_rate$rate, $sized, *, fused=None, **keywords):
    """The torch optimizer with per-layer rates; keywords as in `param_groups`."""
    groups = param_groups(named_parameters, layer_of, base_rate, $sizes, **keywords)
    return torch.optim.$constructor(groups$extra)
''')

VECTORS = '''

def is_vector(name, parameter):
    """Biases, gains and positions, which are usually not decayed."""
    return parameter.ndim < 2
'''
APPLIED = """
    if not multipliers_applied:
        raise ValueError(
            "these rates are for a model whose layers are multiplied by factor(layer, 'multiplier', ...): say "
            "multipliers_applied=True where yours are, or emit the same prescription without them, --gauge 0"
        )"""

ADAM = "optax.scale_by_adam(b1=$b1, b2=$b2, eps=eps)"
TIMES_WEIGHT_SIZE = "optax.scale_by_param_block_rms(min_scale=0.0)"
OPTAX_RULES = {
    "sgd": "optax.identity()",
    "momentum": "optax.trace($momentum)",
    "nesterov": "optax.trace($momentum, nesterov=True)",
    "adam": ADAM,
    "adamw": ADAM,
    "rmsprop": "optax.scale_by_rms(decay=$b2, eps=eps, eps_in_sqrt=False)",
    "adafactor": (
        "optax.chain(optax.scale_by_factored_rms(epsilon=eps, min_dim_size_to_factor=2), "
        f"optax.clip_by_block_rms(1.0), {TIMES_WEIGHT_SIZE})"
    ),
    "adam-ps": f"optax.chain({ADAM}, {TIMES_WEIGHT_SIZE})",
    "lion": "optax.scale_by_lion(b1=$b1, b2=$b2)",
    "sign-sgd": "optax.scale_by_sign()",
    "lamb": f"optax.chain({ADAM}, optax.scale_by_trust_ratio())",
    "lars": "optax.chain(optax.scale_by_trust_ratio(eps=eps), optax.trace($momentum))",
    "adam-atan2": "adam_atan2(b1=$b1, b2=$b2)",
    "normalised-sgd": "optax.stateless_with_tree_map(lambda g, _: g / (jnp.linalg.norm(g) + eps))",
    "muon": "muon(eps, numbers, lambda fan_in, fan_out: 1.0, $momentum)",
    "muon-keller": "muon(eps, numbers, lambda fan_in, fan_out: max(1, fan_out / fan_in) ** 0.5, $momentum)",
    "muon-rms": "muon(eps, numbers, lambda fan_in, fan_out: 0.2 * max(fan_in, fan_out) ** 0.5, $momentum)",
}
"""eps -> the transform of gradients into U, before decay and rate; $name is a moving average's beta."""
BETAS = {"b1": 0.9, "b2": 0.999, "momentum": 0.9}
OWN_BETAS = {
    "rmsprop": {"b2": 0.9},
    "lion": {"b2": 0.99},
    **{name: {"momentum": 0.95} for name in ("muon", "muon-keller", "muon-rms")},
}
SCALABLE = ("b1", "b2")
"""Betas of averages that are normalised: that of a trace, a plain sum over steps, changes its size."""
MUON = '''

def muon(eps, numbers, scale, momentum):
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

    polar = optax.contrib.scale_by_muon(eps=eps, beta=momentum, weight_dimension_numbers=matrices)
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
PAIR = '"betas": betas'
TORCH_RULES = {
    "sgd": ("SGD", '"lr": rate', "", ", fused=fused"),
    "momentum": ("SGD", '"lr": rate, "momentum": momentum', ", momentum=0.9", ", fused=fused"),
    "nesterov": ("SGD", '"lr": rate, "momentum": momentum', ", momentum=0.9", ", nesterov=True, fused=fused"),
    "adam": ("Adam", f'"lr": rate, "eps": eps, {PAIR}', ", betas=(0.9, 0.999)", ", fused=fused"),
    "adamw": (
        "AdamW",
        f'"lr": rate, "eps": eps, {PAIR}, "weight_decay": decay',
        ", betas=(0.9, 0.999), weight_decay=0.0, no_decay=is_vector",
        ", fused=fused",
    ),
    "rmsprop": ("RMSprop", '"lr": rate, "eps": eps, "alpha": alpha', ", alpha=0.99", ""),
    "adafactor": ("Adafactor", '"lr": rate, "eps": (eps, 0.0)', "", ""),
}
"""Constructor, what a group has, its keywords with their defaults, and what the constructor is told."""
DECAY_LINE = '            decay = weight_decay * factor(layer, "decay", $sizes) if decayed else 0.0\n'
FROM_ZERO = "\n    Steps are proportional to RMS(W): what starts at zero stays there, so draw vectors away from zero."
PLAIN = "for a plain model, without multipliers, initialised as at the base width times its factor"
MULTIPLIED = "for a model whose layers are multiplied by their factors"
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


def _sized(prescription: Prescription, scale: Scale | None) -> str:
    """The same as parameters, with the numbers that were given for their defaults."""
    if scale is None:
        return _sizes(prescription)
    given = scale.sizes(prescription.axes)
    names = ["width", *(axis.name for axis in prescription.axes)]
    return ", ".join(f"{name}={given.get(name, 1)}, base_{name}={given.get(f'base_{name}', 1)}" for name in names)


def _rate(scale: Scale | None) -> str:
    """The base rate's default."""
    return "" if scale is None or scale.base_rate is None else f"={scale.base_rate!r}"


def _has_multipliers(prescription: Prescription) -> bool:
    return any(layer.a != 0 for layer in prescription.layers)


def _scales_betas(prescription: Prescription) -> bool:
    return any(row.beta is not None for axis in prescription.axes for row in axis.rows.values())


def _header(prescription: Prescription, scale: Scale | None, imports: str = "", standard: str = "") -> str:
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
    sized = _sized(prescription, scale)
    return HEADER.substitute(
        assumed=MULTIPLIED if _has_multipliers(prescription) else PLAIN,
        title=title(prescription).replace("\\", "/").replace('"', "'"),
        verdict=outcome[:1].upper() + outcome[1:],
        standard=standard,
        imports=imports,
        entries="\n".join(f'    "{name}": {_entry(layer, beside)},' for name, layer, _ in named),
        axes="".join(tables),
        sized=sized,
        and_axes=f", times those of {', '.join(axis.name for axis in axes)}" if axes else "",
        factors=factors,
        beta=Template(BETA).substitute(sizes=sizes, sized=sized) if betas else "",
    )


def as_python(prescription: Prescription, scale: Scale | None = None) -> str:
    """A self-contained module: a dictionary of exact exponents and a function to numbers at a width."""
    rate = _rate(scale).removeprefix("=") or "1.0"
    body = PYTHON.substitute(sizes=_sizes(prescription), sized=_sized(prescription, scale), rate=rate)
    return _header(prescription, scale) + body


def _scaled_betas(prescription: Prescription, kind: Kind, known: Collection[str]) -> tuple[bool, str]:
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


def _lacking(what: str, name: str, known: Collection[str]) -> DeriveError:
    return DeriveError(
        f"there is no {what} constructor for {name}; emitted are {', '.join(known)}; "
        "use --format python for the exponents alone"
    )


def _optax_rule(prescription: Prescription, kind: Kind, named: Sequence[str]) -> tuple[str, set[str], str]:
    """(the lambda of one layer's rule, the betas that it names, a remark)."""
    rule = prescription.problem.optimizers[kind].name
    text = OPTAX_RULES[rule]
    betas = {name: default for name, default in (BETAS | OWN_BETAS.get(rule, {})).items() if f"${name}" in text}
    scaled, remark = _scaled_betas(prescription, kind, betas)
    written = Template(text).substitute({name: f"beta({name})" if scaled else name for name in betas})
    arguments = [*named, *(f"{name}={default}" for name, default in betas.items())]
    swallowed = ["**_"] if betas.keys() != _all_betas(prescription) else []
    return f"lambda {', '.join([*arguments, *swallowed])}: {written}", set(betas), remark


def _all_betas(prescription: Prescription) -> set[str]:
    texts = [OPTAX_RULES.get(row.name, "") for row in prescription.problem.optimizers.values()]
    return {name for name in BETAS if any(f"${name}" in text for text in texts)}


def as_optax(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module with `optimizer(labels, base_rate, width, base_width)`, an optax transform."""
    for row in prescription.problem.optimizers.values():
        if row.name not in OPTAX_RULES:
            raise _lacking("optax", row.name, OPTAX_RULES)
    names = [row.name for row in prescription.problem.optimizers.values()]
    sizes, betas = _sizes(prescription), sorted(_all_betas(prescription))
    shaped = any("numbers" in OPTAX_RULES[name] for name in names)
    scaled = any(axis.rows[kind].beta for axis in prescription.axes for kind in axis.rows)
    named = ["eps", *(["numbers"] if shaped else []), *(["beta"] if scaled else [])]
    found = [(name, *_optax_rule(prescription, layer.kind, named)) for name, layer, _ in parts(prescription)]
    rules = "\n".join(f'    "{name}": {written},' for name, written, _, _ in found)
    remarks = [*(remark for *_, remark in found), FROM_ZERO if "scale_by_param_block_rms" in rules else ""]
    passed = {"beta": f"lambda value: beta(layer, value, {sizes})"}
    given = [passed.get(name, name) for name in named] + (["**averages"] if betas else [])
    known = ", ".join(f'"{name}": {name}' for name in betas)
    averages = f"\n    averages = {{name: value for name, value in {{{known}}}.items() if value is not None}}"
    multiplied = _has_multipliers(prescription)
    code = OPTAX.substitute(
        rules=rules,
        given=", ".join(given),
        arguments="".join(f", {name}=None" for name in [*betas, *(["numbers"] if shaped else [])])
        + (", multipliers_applied=False" if multiplied else ""),
        check=(APPLIED if multiplied else "") + (averages if betas else ""),
        epsilon=max((BASE_EPSILON.get(name, "1e-8") for name in names), key=float),
        remarks="".join(dict.fromkeys([*remarks, NUMBERS if shaped else ""])),
        helpers="".join(code for mark, code in HELPERS.items() if mark in rules),
        sizes=sizes,
        sized=_sized(prescription, scale),
        rate=_rate(scale),
    )
    imports = "".join(f"import {module}\n" for mark, module in IMPORTS.items() if mark in code)
    return _header(prescription, scale, f"\n{imports}", "import math\n" if "math." in code else "") + code


def as_torch(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module with `param_groups` and `optimizer(named_parameters, layer_of, base_rate, width, base_width)`."""
    names = {row.name for row in prescription.problem.optimizers.values()}
    if len(names) > 1:
        raise DeriveError(
            f"torch code is for one optimizer, not {prescription.optimizer_name}; emit one file per optimizer"
        )
    rule, sizes = names.pop(), _sizes(prescription)
    if rule not in TORCH_RULES:
        raise _lacking("torch", rule, TORCH_RULES)
    constructor, options, arguments, extra = TORCH_RULES[rule]
    scaled, remark = _scaled_betas(prescription, "hidden", ("b2",) if PAIR in options or "alpha" in options else ())
    if scaled:
        options = options.replace(PAIR, f'"betas": tuple(beta(layer, value, {sizes}) for value in betas)')
        options = options.replace('"alpha": alpha', f'"alpha": beta(layer, alpha, {sizes})')
    decays, multiplied = "decay" in options, _has_multipliers(prescription)
    code = TORCH.substitute(
        constructor=constructor,
        options=options,
        extra=extra,
        epsilon=BASE_EPSILON.get(rule, "1e-8"),
        arguments=arguments + (", multipliers_applied=False" if multiplied else ""),
        decayed="not no_decay(name, parameter)" if decays else "False",
        decay_line=Template(DECAY_LINE).substitute(sizes=sizes) if decays else "",
        check=APPLIED if multiplied else "",
        sizes=sizes,
        sized=_sized(prescription, scale),
        rate=_rate(scale),
        remark=remark,
    )
    return _header(prescription, scale, "\nimport torch\n") + (VECTORS if decays else "") + code
