"""The optimizers known by name, each a rule with its source, and what `--optimizer` reads: names, rules, kinds."""

import re
from collections.abc import Mapping

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.optimizers import Optimizer
from derive.parsing import SPELLINGS, split_outside
from derive.rule_language import RULE_FUNCTIONS, RULE_NAMES
from derive.words import KINDS, Kind

ADAM = "m/(sqrt(v)+eps)"
POLAR = "spectral(m,sigma/(sigma+eps))"
ROWS_ALIKE = f"{POLAR}/(sqrt(second(rownorm({POLAR})/sqrt(fan_in)))+eps2)"
ENTRIES_ALIKE = f"{POLAR}/(sqrt(second({POLAR}))+eps2)"
SHAMPOO = "spectral(g,sigma/(sigma**2+eps2)**(1/4)/(sigma**2+eps2)**(1/4))"
AGREEMENT = "max(0,sign(m*g))"
CORRECTED = "(g+0.475*(g-g_prev))"
CLIPPED = f"{CORRECTED}/max(1,norm({CORRECTED}))"
LONGER = "sqrt(max(fan_in,fan_out))"

REGISTRY: tuple[Optimizer, ...] = (
    Optimizer("sgd", "g", "Robbins & Monro 1951"),
    Optimizer("momentum", "m", "Polyak 1964"),
    Optimizer("nesterov", "m+g", "Nesterov 1983; Sutskever et al. 2013"),
    Optimizer("adam", ADAM, "Kingma & Ba 2014, 1412.6980"),
    Optimizer("adamw", ADAM, "Loshchilov & Hutter 2017, 1711.05101; the decay is apart"),
    Optimizer("rmsprop", "g/(sqrt(v)+eps)", "Tieleman & Hinton 2012"),
    Optimizer(
        "adafactor", "rms(w)*(g/sqrt(v+eps))/max(1,rms(g/sqrt(v+eps)))", "Shazeer & Stern 2018, 1804.04235, alg. 4"
    ),
    Optimizer("adam-ps", f"rms(w)*{ADAM}", "Adam with parameter scaling; Everett et al. 2024, 2407.05872"),
    Optimizer("lion", "sign(m)", "Chen et al. 2023, 2302.06675, alg. 2"),
    Optimizer("sign-sgd", "sign(g)", "Bernstein et al. 2018, 1802.04434"),
    Optimizer("lamb", f"rms(w)*({ADAM})/rms({ADAM})", "You et al. 2019, 1904.00962, alg. 2"),
    Optimizer("lars", "norm(w)*m/(norm(g)+eps)", "You et al. 2017, 1708.03888, eq. 6"),
    Optimizer("adam-atan2", "atan2(m,sqrt(v))", "Everett et al. 2024, 2407.05872, section 5"),
    Optimizer("normalised-sgd", "g/(norm(g)+eps)", "Hazan et al. 2015, 1507.02030, per layer"),
    Optimizer("muon", "spectral(m,sigma/(sigma+eps))", "Jordan et al. 2024, the bare polar factor"),
    Optimizer(
        "muon-keller",
        "spectral(m,sigma/(sigma+eps))*sqrt(max(1,fan_out/fan_in))",
        "Jordan et al. 2024, with the factor of its code",
    ),
    Optimizer(
        "muon-rms",
        "spectral(m,sigma/(sigma+eps))*sqrt(max(fan_in,fan_out))",
        "Liu et al. 2025, 2502.16982, matched to Adam's RMS",
    ),
    Optimizer(
        "shampoo", "spectral(g,sigma/(sigma**2+eps)**(1/4)/(sigma**2+eps)**(1/4))", "Gupta et al. 2018, 1802.09568"
    ),
    Optimizer("soap", "spectral(m,sigma/(sigma+eps))", "Vyas et al. 2024, 2409.11321, both sides rotated"),
    Optimizer(
        "soap-left",
        "spectral(m,sqrt(fan_in)*(sigma/sqrt(fan_in))/(sigma/sqrt(fan_in)+eps))",
        "Vyas et al. 2024, 2409.11321, only the output side rotated: one row of fan_in entries",
    ),
    Optimizer(
        "soap-right",
        "spectral(m,sqrt(fan_out)*(sigma/sqrt(fan_out))/(sigma/sqrt(fan_out)+eps))",
        "Vyas et al. 2024, 2409.11321, only the input side rotated: one column of fan_out entries",
    ),
    Optimizer("scion", f"sqrt(fan_out/fan_in)*{POLAR}", "Pethick et al. 2025, 2502.07529, table 2: the spectral norm"),
    Optimizer("scion-sign", "sign(m)/fan_in", "Pethick et al. 2025, 2502.07529, table 3: sign, for outer layers"),
    Optimizer("scion-row", "m/(rownorm(m)+eps)/sqrt(fan_in)", "Pethick et al. 2025, 2502.07529, rows normalised"),
    Optimizer("normuon", f"0.2*{ROWS_ALIKE}/rms({ROWS_ALIKE})", "Li et al. 2025, 2510.05491, alg. 1"),
    Optimizer("adamuon", f"0.2*{ENTRIES_ALIKE}/rms({ENTRIES_ALIKE})", "Si et al. 2025, 2507.11005, as in its code"),
    Optimizer(
        "dion",
        "sqrt(fan_out/fan_in)*spectral(lowrank(m,min(fan_in,fan_out)/4),sigma/(sigma+eps))",
        "Ahn et al. 2025, 2504.05295, alg. 1, a quarter of the rank",
    ),
    Optimizer("polargrad", f"nucnorm(m)*{POLAR}", "Lau et al. 2025, 2505.21799, momentum first"),
    Optimizer(
        "grafted-shampoo",
        f"norm({ADAM})*{SHAMPOO}/norm({SHAMPOO})",
        "Anil et al. 2020, 2002.09018: Shampoo's direction at Adam's size, layer by layer",
    ),
    Optimizer(
        "muon-hyperball",
        f"norm(w)*{POLAR}/norm({POLAR})",
        "Wen et al. 2025, whenwen.github.io/blog/2025/weight-decay-hyperball-part-1, and back onto the sphere",
    ),
    Optimizer("adopt", "m/max(sqrt(v),eps)", "Taniguchi et al. 2024, 2411.02853, alg. 2"),
    Optimizer("ademamix", "(m+5*first(g))/(sqrt(v)+eps)", "Pagliardini et al. 2024, 2409.03137, alg. 1"),
    Optimizer(
        "mars",
        f"first({CLIPPED})/(sqrt(second({CLIPPED}))+eps)",
        "Yuan et al. 2024, 2411.10438, MARS-AdamW with the gradient kept from the step before",
    ),
    Optimizer("cautious", f"{ADAM}*{AGREEMENT}/rms({AGREEMENT})**2", "Liang et al. 2024, 2411.16085, of Adam"),
    Optimizer("schedule-free", "g/(sqrt(v)+eps)", "Defazio et al. 2024, 2405.15682: the step of z, from g at y"),
    Optimizer(
        "prodigy",
        f"max(1,rms(dw))*{ADAM}",
        "Mishchenko & Defazio 2023, 2306.06101: 1 is its d_0, one number for all layers; rates are relative to its d",
        trainable=False,
    ),
    Optimizer(
        "galore",
        f"spectral(lowrank(m,128),{LONGER}*(sigma/{LONGER})/(sigma/{LONGER}+eps))",
        "Zhao et al. 2024, 2403.03507: Adam on the gradient's 128 largest directions of its shorter side",
        trainable=False,
    ),
    Optimizer(
        "kfac",
        "spectral(g,sigma/(sqrt(sigma**2+eps)*sqrt(sigma**2+eps)))",
        "Martens & Grosse 2015, 1503.05671: both inverse factors together sigma^-2",
        trainable=False,
    ),
    Optimizer(
        "sophia",
        "clip(m/max(v,eps))",
        "Liu et al. 2023, 2305.14342, alg. 3, v the Hessian's diagonal",
        trainable=False,
    ),
)
"""Every optimizer with a name, as `derive list` shows them."""


def optimizer(text: str) -> Optimizer:
    """The optimizer of the registry with that name, or the rule that `text` writes down, which is then its name too.

    DeriveError suggesting the nearest name, or saying what is wrong with the rule.
    """
    for row in REGISTRY:
        if canonical(row.name) == canonical(text):
            return row
    if not _is_rule(text):
        raise unknown_name("optimizer", text, [row.name for row in REGISTRY])
    _ = Optimizer("custom", text).rule  # before spaces are left out: 1 2 is not 12
    compact = "".join(text.split())
    return Optimizer(compact, compact)


def _is_rule(text: str) -> bool:
    """Whether a rule is written and no name: it has an operator or parenthesis, or nothing but g, m, v, w, ..."""
    words = re.findall(r"[A-Za-z_]\w*", text)
    known = bool(words) and all(word in RULE_NAMES or word in RULE_FUNCTIONS for word in words)
    return known or any(character in text for character in ("(", ")", "+", "*", "/", *SPELLINGS))


def spelled(row: Optimizer) -> str:
    """What `optimizer` reads as the row's rule: its name where the registry has it, the rule itself otherwise."""
    known = any((each.name, each.update) == (row.name, row.update) for each in REGISTRY)
    return row.name if known else "".join(row.update.split())


def joined(rows: Mapping[Kind, Optimizer]) -> str:
    """The name of one optimizer for all layer kinds, or embedding=adam,hidden=muon,readout=adam."""
    names = {kind: row.name for kind, row in rows.items()}
    return (
        names["hidden"] if len(set(names.values())) == 1 else ",".join(f"{kind}={name}" for kind, name in names.items())
    )


def _kind(text: str) -> Kind:
    for kind in KINDS:
        if kind == text.strip().lower():
            return kind
    raise unknown_name("layer kind", text, KINDS)


def optimizers(given: str | Optimizer | Mapping[str, str | Optimizer]) -> dict[Kind, Optimizer]:
    """Optimizers per layer kind, from an object for all, a mapping by kind, or text as `--optimizer` takes it.

    Text is one name, `hidden=muon,embedding=adam,readout=adam`, or `adam,hidden=muon`; every name may be a rule,
    `adam,hidden=polar(m)*sqrt(fan_out/fan_in)`. DeriveError for unknown names, bad rules, and layer kinds left without
    an optimizer.
    """
    if isinstance(given, Optimizer):
        return dict.fromkeys(KINDS, given)
    if isinstance(given, str):
        return _from_text(given)
    chosen: dict[Kind, Optimizer] = {
        _kind(kind): row if isinstance(row, Optimizer) else optimizer(row) for kind, row in given.items()
    }
    return _complete(chosen, ", ".join(map(str, given)) or "nothing")


def _from_text(text: str) -> dict[Kind, Optimizer]:
    chosen: dict[Kind, Optimizer] = {}
    default: Optimizer | None = None
    for part in split_outside(text, "--optimizer"):
        kind, equals, name = part.partition("=")
        if not equals or "(" in kind:
            if default is not None or chosen:
                raise DeriveError(
                    f"--optimizer {shorten(text)} names two defaults; write adam,hidden=muon for a mixture"
                )
            default = optimizer(part)
            continue
        if _kind(kind) in chosen:
            raise DeriveError(f"--optimizer {shorten(text)} names {kind.strip()} twice; keep one of them")
        chosen[_kind(kind)] = optimizer(name)
    if default is not None:
        return {kind: chosen.get(kind, default) for kind in KINDS}
    return _complete(chosen, shorten(text))


def _complete(chosen: dict[Kind, Optimizer], given: str) -> dict[Kind, Optimizer]:
    missing = [kind for kind in KINDS if kind not in chosen]
    if missing:
        raise DeriveError(
            f"--optimizer {given} leaves {', '.join(missing)} without an optimizer; "
            f"add {missing[0]}=NAME, or put a name for the rest first"
        )
    return {kind: chosen[kind] for kind in KINDS}
