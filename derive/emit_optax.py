"""A prescription as an optax transform, in a module that runs as it stands."""

from collections.abc import Sequence
from string import Template

from derive.emit import parts
from derive.emit_code import (
    APPLIED,
    BASE_EPSILON,
    has_multipliers,
    header,
    lacking,
    parameters_text,
    rate_text,
    scaled_betas,
    sizes_text,
)
from derive.scale import Scale
from derive.solve import Prescription
from derive.words import Kind

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
FROM_ZERO = "\n    Steps are proportional to RMS(W): what starts at zero stays there, so draw vectors away from zero."


def _optax_rule(prescription: Prescription, kind: Kind, named: Sequence[str]) -> tuple[str, str]:
    """(the lambda of one layer's rule, a remark)."""
    rule = prescription.problem.optimizers[kind].name
    text = OPTAX_RULES[rule]
    betas = {name: default for name, default in (BETAS | OWN_BETAS.get(rule, {})).items() if f"${name}" in text}
    scaled, remark = scaled_betas(prescription, kind, betas)
    written = Template(text).substitute({name: f"beta({name})" if scaled else name for name in betas})
    arguments = [*named, *(f"{name}={default}" for name, default in betas.items())]
    swallowed = ["**_"] if betas.keys() != _all_betas(prescription) else []
    return f"lambda {', '.join([*arguments, *swallowed])}: {written}", remark


def _all_betas(prescription: Prescription) -> set[str]:
    texts = [OPTAX_RULES.get(row.name, "") for row in prescription.problem.optimizers.values()]
    return {name for name in BETAS if any(f"${name}" in text for text in texts)}


def as_optax(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module with `optimizer(labels, base_rate, width, base_width)`, an optax transform."""
    for row in prescription.problem.optimizers.values():
        if row.name not in OPTAX_RULES:
            raise lacking("optax", row.name, OPTAX_RULES)
    names = [row.name for row in prescription.problem.optimizers.values()]
    sizes, betas = sizes_text(prescription), sorted(_all_betas(prescription))
    shaped = any("numbers" in OPTAX_RULES[name] for name in names)
    scaled = any(axis.rows[kind].beta for axis in prescription.axes for kind in axis.rows)
    named = ["eps", *(["numbers"] if shaped else []), *(["beta"] if scaled else [])]
    found = [(name, *_optax_rule(prescription, layer.kind, named)) for name, layer, _ in parts(prescription)]
    rules = "\n".join(f'    "{name}": {written},' for name, written, _ in found)
    remarks = [*(remark for *_, remark in found), FROM_ZERO if "scale_by_param_block_rms" in rules else ""]
    passed = {"beta": f"lambda value: beta(layer, value, {sizes})"}
    given = [passed.get(name, name) for name in named] + (["**averages"] if betas else [])
    known = ", ".join(f'"{name}": {name}' for name in betas)
    averages = f"\n    averages = {{name: value for name, value in {{{known}}}.items() if value is not None}}"
    multiplied = has_multipliers(prescription)
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
        sized=parameters_text(prescription, scale),
        rate=rate_text(scale),
    )
    imports = "".join(f"import {module}\n" for mark, module in IMPORTS.items() if mark in code)
    return header(prescription, scale, f"\n{imports}", "import math\n" if "math." in code else "") + code
