"""A prescription as torch code: parameter groups for one optimizer, or for several, of which Muon may be one.

Muon's rate from one that was tuned with AdamW (Liu et al. 2025, 2502.16982): both updates have the same RMS where
rate of polar(m) = rate of AdamW x 0.2 sqrt(max(fan_in, fan_out)), at the base width; from there it goes by its own c.
"""

import re
from pathlib import Path
from string import Template

from derive.emit import parts
from derive.emit_code import header, lacking, parameters_text, sizes_text
from derive.emit_torch import TORCH_RULES, VECTORS, as_torch_of_one, group_options, groups_code
from derive.scale import MATCHED, Scale
from derive.solve import Prescription
from derive.words import Kind

SOURCE = Path(__file__).parent / "emitted_muon.py"
MUON = '"lr": rate * own, "eps": eps, "momentum": momentum, "weight_decay": decay / own'
RULES = {name: (constructor, options) for name, (constructor, options, *_) in TORCH_RULES.items()} | dict.fromkeys(
    MATCHED, ("Muon", MUON)
)
"""Constructor and what a group has, as in TORCH_RULES."""
EXTRA = {name: f'adjust_lr_fn=ADJUSTED["{name}"]' for name in MATCHED}
KEYWORDS = {"betas": "(0.9, 0.999)", "momentum": "0.95", "alpha": "0.99"}
BEFORE = Template('''

RULES = $rules
"""Whose step each layer takes."""


def torch_fans(name, parameter):
    """(fan_in, fan_out) of a matrix or kernel [out, in, ...], as nn.Linear and convolutions have them."""
    return math.prod(parameter.shape[1:]), parameter.shape[0]
''')
KEPT = """epsilon=None,
                 weight_decay=0.0, no_decay=is_vector, fans=torch_fans"""
TOLD = Template("""; vectors (biases,
    gains) are of the embedding. $base
    `epsilon` is 1e-8 at the base width, 1e-7 for Muon.$remark""")
COLLECTED = Template("""\
        layer, rule, own = layers[name], RULES[layers[name]], 1.0
        rate = (base_rate[rule] if isinstance(base_rate, dict) else base_rate) * factor(layer, "rate", $sizes)
        eps = (1e-7 if rule in ADJUSTED else 1e-8) if epsilon is None else epsilon
        eps = eps * factor(layer, "epsilon", $sizes) if "epsilon" in EXPONENTS[layer] else 0.0
        decay = 0.0 if no_decay(name, parameter) else weight_decay * factor(layer, "decay", $sizes)
        if rule in ADJUSTED:
            own = muon_factor(name, rule, fans(name, parameter), tuple(parameter.shape))$matched
        options = {
$options
        }[rule]
        made = groups.setdefault((layer, *options.values()), {"params": [], "rule": rule, **options})
        made["params"].append(parameter)""")
RETURNED = Template("""\
    mine = {rule: [group for group in groups if group["rule"] == rule] for rule in RULES.values()}
    made = {
$made
    }
    return [made[rule](mine[rule]) for rule in made if mine[rule]]""")
ANY_RATE = "`base_rate` may be one for each, {$each}."
ADAMW_RATE = "`base_rate` is AdamW's, Muon's comes from it."
MATCH = """
            matched = matched_rate(1.0, rule, fans(name, parameter), $sizes)
            rate, decay = rate * matched, decay / matched  # rate x decay stays AdamW's"""
MATCHED_RATE = Template('''

def matched_rate(adamw_rate, rule, fans, $sized):
    """Muon's rate at the base width with updates of AdamW's RMS there: x 0.2 sqrt(max(fan_in, fan_out)) for polar(m).

    `fans` are those of a hidden matrix at `width`; a rule that has such a factor takes that much less.
    """
    fan_in, fan_out = (size * base_width / width for size in fans)
    own = {"muon-keller": max(1, fan_out / fan_in) ** 0.5, "muon-rms": 0.2 * max(fan_in, fan_out) ** 0.5}
    return adamw_rate * 0.2 * max(fan_in, fan_out) ** 0.5 / own.get(rule, 1.0)
''')


def emitted_source(path: Path) -> tuple[str, str]:
    """(imports, code) of a module that goes out as text, without its docstring and marks for this project's tools."""
    text = path.read_text(encoding="utf-8")
    body = re.sub(r"  # (noqa|type: ignore)[^\n]*", "", text[text.index('"""', 3) + 3 :])
    lines = body.strip().split("\n")
    last = max(at for at, line in enumerate(lines) if line.startswith(("import ", "from ")))
    return "\n".join(lines[: last + 1]), "\n".join(lines[last + 1 :]).strip()


def as_torch(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module of torch code: one optimizer where all layers have one rule, else one for each, and so for Muon."""
    names = {row.name for row in prescription.problem.optimizers.values()}
    one = len(names) == 1 and not names & {*MATCHED}
    return as_torch_of_one(prescription, scale) if one else as_torch_by_rule(prescription, scale)


def as_torch_by_rule(prescription: Prescription, scale: Scale | None = None) -> str:
    """A module with `param_groups` and `optimizers(named_parameters, layer_of, base_rate, width, base_width)`."""
    by_layer: dict[Kind, str] = {kind: row.name for kind, row in prescription.problem.optimizers.items()}
    names = list(dict.fromkeys(by_layer.values()))
    for name in names:
        if name not in RULES:
            raise lacking("torch", name, RULES)
    sizes, matched = sizes_text(prescription), scale is not None and scale.matches
    options, remarks = {}, []
    for kind, name in by_layer.items():
        options[name], remark = group_options(prescription, kind, RULES[name][1])
        remarks.append(remark)
    used = [word for word in KEYWORDS if any(f'"{word}"' in given for given in options.values())]
    any_rate = Template(ANY_RATE).substitute(each=", ".join(f'"{name}": rate' for name in names))
    code = groups_code(
        prescription,
        scale,
        KEPT + "".join(f", {word}={KEYWORDS[word]}" for word in used),
        each=', each with its "rule"',
        told=TOLD.substitute(base=ADAMW_RATE if matched else any_rate, remark="".join(dict.fromkeys(remarks))),
        collected=COLLECTED.substitute(
            sizes=sizes,
            matched=Template(MATCH).substitute(sizes=sizes) if matched else "",
            options="\n".join(f'            "{name}": {{{given}}},' for name, given in options.items()),
        ),
        maker="optimizers",
        apart="",
        made="The torch optimizers, one per rule, each to be stepped",
        returned=RETURNED.substitute(
            made="\n".join(f'        "{name}": lambda groups: {_made(name)},' for name in names)
        ),
    )
    imports, brought = emitted_source(SOURCE)
    standard = imports.replace("import torch", "").strip()
    helper = MATCHED_RATE.substitute(sized=parameters_text(prescription, scale)) if matched else ""
    before = BEFORE.substitute(rules=str(_rules(prescription)).replace("'", '"'))
    start = header(prescription, scale, "\nimport torch\n", f"{standard}\n")
    return f"{start}\n\n{brought}\n{VECTORS}{helper}{before}{code}"


def _rules(prescription: Prescription) -> dict[str, str]:
    """The rule of every key of EXPONENTS."""
    return {name: prescription.problem.optimizers[layer.kind].name for name, layer, _ in parts(prescription)}


def _made(name: str) -> str:
    constructor = RULES[name][0]
    extra = f", {EXTRA[name]}" if name in EXTRA else ""
    return f"{'kernel_muon()' if constructor == 'Muon' else f'torch.optim.{constructor}'}(groups{extra})"
