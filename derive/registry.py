"""The optimizers known by name, each a rule with its source, and what `--optimizer` reads: names, rules, kinds."""

import re
from collections.abc import Mapping

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.exponents import KINDS, Kind
from derive.optimizers import RULE_FUNCTIONS, RULE_NAMES, Optimizer
from derive.parsing import SPELLINGS, split_outside

ADAM = "m/(sqrt(v)+eps)"

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
