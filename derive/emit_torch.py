"""A prescription as parameter groups for PyTorch, in a module that runs as it stands."""

from string import Template

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

GROUPS = Template('''

def param_groups(named_parameters, layer_of, base_rate$rate, $sized, *, $keywords):
    """Parameter groups of every layer, from a model's `named_parameters()` as they come$each.

    `layer_of(name, parameter)`, or a mapping from names, is a key of EXPONENTS for every parameter$told
    """$check
    named = dict(named_parameters)
    layers = {name: layer_of(name, each) if callable(layer_of) else layer_of.get(name) for name, each in named.items()}
    stray = [name for name, layer in layers.items() if layer not in EXPONENTS]
    stray += [] if callable(layer_of) else [name for name in layer_of if name not in named]
    if stray:
        raise ValueError(f"{', '.join(stray)}: every parameter of the model is one of {', '.join(EXPONENTS)}")
    groups = {}
    for name, parameter in named.items():
$collected
    return list(groups.values())


def $maker(named_parameters, layer_of, base_rate$rate, $sized$apart, **keywords):
    """$made; keywords as in `param_groups`."""
    groups = param_groups(named_parameters, layer_of, base_rate, $sizes, **keywords)
$returned
''')
"""What the module of one rule and that of several have alike: parameters by layer, and groups of them."""
COLLECTED = Template("""\
        layer, decayed = layers[name], $decayed
        if (layer, decayed) not in groups:
            rate = base_rate * factor(layer, "rate", $sizes)
            eps = epsilon * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
$decay_line            groups[layer, decayed] = {"params": [], $options}
        groups[layer, decayed]["params"].append(parameter)""")

VECTORS = '''

def is_vector(name, parameter):
    """Biases, gains and positions, which are usually not decayed."""
    return parameter.ndim < 2
'''
PAIR = '"betas": betas'
TORCH_RULES = {
    "sgd": ("SGD", '"lr": rate', "", ", fused=fused"),
    "momentum": ("SGD", '"lr": rate, "momentum": momentum', ", momentum=0.9", ", fused=fused"),
    # the constructor refuses nesterov without a momentum of its own
    "nesterov": ("SGD", '"lr": rate, "momentum": momentum, "nesterov": True', ", momentum=0.9", ", fused=fused"),
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


def group_options(prescription: Prescription, kind: Kind, options: str) -> tuple[str, str]:
    """A group's entries, averages as long in tokens as at the base where they scale; a remark where they do not."""
    scaled, remark = scaled_betas(prescription, kind, ("b2",) if PAIR in options or "alpha" in options else ())
    if scaled:
        sizes = sizes_text(prescription)
        options = options.replace(PAIR, f'"betas": tuple(beta(layer, value, {sizes}) for value in betas)')
        options = options.replace('"alpha": alpha', f'"alpha": beta(layer, alpha, {sizes})')
    return options, remark


def groups_code(prescription: Prescription, scale: Scale | None, keywords: str, **parts: str) -> str:
    """`param_groups` and what makes optimizers of them; `parts` are what differs between one rule and several."""
    multiplied = has_multipliers(prescription)
    return GROUPS.substitute(
        parts,
        keywords=keywords + (", multipliers_applied=False" if multiplied else ""),
        check=APPLIED if multiplied else "",
        sizes=sizes_text(prescription),
        sized=parameters_text(prescription, scale),
        rate=rate_text(scale),
    )


def as_torch_of_one(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module with `param_groups` and `optimizer(named_parameters, layer_of, base_rate, width, base_width)`.

    Of one rule for all layers; `derive.emit_torch_muon` has that of several.
    """
    names = {row.name for row in prescription.problem.optimizers.values()}
    rule, sizes = names.pop(), sizes_text(prescription)
    if rule not in TORCH_RULES:
        raise lacking("torch", rule, TORCH_RULES)
    constructor, given, arguments, extra = TORCH_RULES[rule]
    options, remark = group_options(prescription, "hidden", given)
    decays = "decay" in options
    code = groups_code(
        prescription,
        scale,
        f"epsilon={BASE_EPSILON.get(rule, '1e-8')}{arguments}",
        each="",
        told=f".{remark}",
        collected=COLLECTED.substitute(
            sizes=sizes,
            options=options,
            decayed="not no_decay(name, parameter)" if decays else "False",
            decay_line=Template(DECAY_LINE).substitute(sizes=sizes) if decays else "",
        ),
        maker="optimizer",
        apart=", *, fused=None",
        made="The torch optimizer with per-layer rates",
        returned=f"    return torch.optim.{constructor}(groups{extra})",
    )
    return header(prescription, scale, "\nimport torch\n") + (VECTORS if decays else "") + code
