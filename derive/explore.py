"""The page to play with: every optimizer, parameterization and loss, its formulas emitted from the engine.

Alignments are the symbols of `SYMBOLS`. What an optimizer asks for at a parameterization is in few numbers, by which
answers are solved once: the effective changes d_l = a_l + c_l + s_l of a chain depend on a + b, the caps of its
alignments, `bounded` and the loss alone, and c_l = d_l - a_l - s_l (docs/theory.md, sections 5 and 6).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sympy import Expr, S, Symbol

from derive.alignments import ASSUMPTIONS, alignment
from derive.certificate import binding
from derive.decays import decay_exponent
from derive.emit_javascript import FACTOR
from derive.errors import DeriveError
from derive.javascript import Recorder, decided, javascript, listed
from derive.parameterizations import SCHEMES
from derive.propagation import LOSSES, Chain, Loss, Optimizers, Problem, Term, constraints, own_change, residuals
from derive.recursion import least_residuals
from derive.registry import REGISTRY, optimizers
from derive.solve import known_symbols, rates_of_chain
from derive.words import KINDS, text

TEMPLATE = Path(__file__).parent / "explore.html"
SYMBOLS = ("alpha_h", "omega_h", "u_h", "alpha_r", "omega_r", "u_r")
"""Alignments of the hidden layers and of the readout."""
KEYS = ("hidden.alpha", "hidden.omega", "hidden.u", "readout.alpha", "readout.omega", "readout.u")
ASSUMED = alignment(",".join(f"{key}={name}" for key, name in zip(KEYS, SYMBOLS, strict=True)))
MIXED = ("adamw,hidden=muon", "adam,hidden=muon-rms")
"""What is used beside one optimizer for all layers."""
ALL = (*(row.name for row in REGISTRY), *MIXED)
LAYERS = (1, 2, 3)
WORDS: dict[Term, str] = {
    "update": "what it puts out changes by its own update",
    "alpha": "its update acts on its input, ΔW z, by the alignment α",
    "u": "its update acts on the change of its input, ΔW Δz, by the alignment u",
    "omega": "its initial weights pass on the change of its input, W Δz, by the alignment ω",
    "stable": "its change must not grow with the width",
    "bounded": "its update must not outgrow its weights, nor gradients their initial size",
}
"""What binds, in words."""


def symbols(name: str) -> tuple[Symbol, ...]:
    """name_1, name_2, name_3: of embedding, hidden layers and readout."""
    return tuple(Symbol(f"{name}_{layer}", real=True) for layer in LAYERS)


GENERIC = Chain(
    KINDS,
    a=symbols("a"),
    b=symbols("b"),
    g=(S.Zero,) * 3,
    s=symbols("s"),
    alpha=symbols("alpha"),
    omega=symbols("omega"),
    u=symbols("u"),
    growth=(S.Zero,) * 3,
    bounded=(False,) * 3,
    epsilon=(None,) * 3,
)
"""A chain of which nothing is known."""


@dataclass
class Table:
    """Texts by their place, each kept once."""

    texts: list[str] = field(default_factory=list)
    _places: dict[str, int] = field(default_factory=dict)

    def place(self, text_of: str) -> int:
        """Where it stands."""
        if text_of not in self._places:
            self._places[text_of] = len(self.texts)
            self.texts.append(text_of)
        return self._places[text_of]


def page(names: Sequence[str] = ALL) -> str:
    """The whole page as HTML, of these optimizers, rules and mixtures; DeriveError for what is none."""
    return TEMPLATE.read_text(encoding="utf-8").replace("/* DERIVED */", derived(entries(names)))


def entries(names: Sequence[str]) -> dict[str, Optimizers]:
    """Optimizers per layer kind, by their name on the page.

    Where a rule depends on the gradient's rank, the smallest rate goes by its name, and each rank beside it.
    """
    found: dict[str, Optimizers] = {}
    for name in names:
        rows = optimizers(name)
        found[name] = rows
        if any(row.needs_rank for row in rows.values()):
            for rank, what in ((S.Zero, "rank one"), (S.One, "full rank")):
                found[f"{name}, gradients of {what}"] = {kind: row.at_rank(rank) for kind, row in rows.items()}
    return found


def derived(offered: dict[str, Optimizers]) -> str:
    """The page's formulas and numbers, as JavaScript."""
    changes, alignments, moved, answers = Table(), Table(), Table(), Table()
    solved: dict[tuple[Any, ...], int] = {}
    rows: dict[str, dict[str, list[Any]]] = {}
    for name, each in offered.items():
        for scheme in SCHEMES:
            problem = Problem(each, scheme, ASSUMED)
            chain = problem.chain()
            given = (chain.a, chain.b, chain.s, chain.g, chain.epsilon, chain.epsilon2)
            numbers = [listed(map(_number, part)) for part in given]
            places: list[int] = []
            for loss in LOSSES:
                key = (loss, chain.bounded, chain.alpha[1:], chain.u[1:], *map(sum, zip(chain.a, chain.b, strict=True)))
                if key not in solved:
                    solved[key] = changes.place(_changes(problem, chain, loss))
                places.append(solved[key])
            rows.setdefault(name, {})[scheme.name] = [
                answers.place(listed(numbers)),
                places,
                alignments.place(_aligned(chain)),
                moved.place(_moved(problem, chain)),
                [int(each) for each in chain.bounded],
                [int(bool(each > 0)) for each in chain.growth],
            ]
    parts = {
        "CHANGES": _lines(changes.texts),
        "ALIGNED": _lines(alignments.texts),
        "MOVED": _lines(moved.texts),
        "NUMBERS": _lines(answers.texts),
        "PROBLEMS": json.dumps(rows, separators=(",", ":")),
        "RULES": json.dumps({name: _rule(each) for name, each in offered.items()}),
        "SOURCES": json.dumps({row.name: row.source for row in REGISTRY}),
        "ASSUMPTIONS": _assumptions(),
        "MEANINGS": json.dumps({loss: meanings(loss) for loss in LOSSES}),
        "RESIDUALS": _recorded(lambda record: _residuals(record)),
        "OWN": _own(),
        "TARGETS": _by_loss(lambda loss: _recorded(lambda record: _targets(record, loss))),
        "BINDING": _by_loss(_binding),
        "DEEP": _by_loss(_deep),
        "DECAY": f"at => {javascript(decay_exponent('independent', Symbol('c', real=True)))}",
    }
    declared = "\n".join(f"const {name} = {value};" for name, value in parts.items())
    return f"const zero = x => Math.abs(x) < 1e-9;\n{FACTOR.replace('export ', '')}\n{declared}"


def _number(value: Expr | None) -> str:
    return "null" if value is None else javascript(value)


def _lines(texts: Iterable[str]) -> str:
    return "[\n" + ",\n".join(texts) + "]"


def _rule(rows: Optimizers) -> str:
    return " / ".join(dict.fromkeys(row.update for row in rows.values()))


def _changes(problem: Problem, chain: Chain, loss: Loss) -> str:
    """The effective changes d_l = a_l + c_l + s_l of the largest stable rates, as a function and as text."""
    known = known_symbols(problem)
    c, _ = rates_of_chain(replace(chain, loss=loss), known.largest, known.smallest)
    d = [known.short(a + rate + s) for a, rate, s in zip(chain.a, c, chain.s, strict=True)]
    return f"[at => {listed(map(javascript, d))}, {json.dumps([text(each) for each in d])}]"


def _aligned(chain: Chain) -> str:
    """The alignments of every layer, capped as the rule's matrices cap them."""
    parts = {name: getattr(chain, name)[1:] for name in ("alpha", "omega", "u")}
    pairs = [f"{name}_{layer}: {javascript(each)}" for name, own in parts.items() for layer, each in enumerate(own, 2)]
    return f"at => ({{{', '.join(pairs)}}})"


def _moved(problem: Problem, chain: Chain) -> str:
    """The effective changes at any rates c, once the readout has moved; null where symbols leave open what rules."""
    try:
        return f"at => {listed(map(javascript, problem.changes(symbols('c'), chain)))}"
    except DeriveError:
        return "null"


def _recorded(answer: Callable[[Recorder], Sequence[Expr]]) -> str:
    record = Recorder()
    return record.function(answer(record))


def _residuals(record: Recorder) -> list[Expr]:
    chain = GENERIC
    return residuals(chain.a, chain.b, symbols("d"), chain.alpha, chain.omega, chain.u, record.minimum)


def _targets(record: Recorder, loss: Loss) -> list[Expr]:
    chain = GENERIC
    return least_residuals(chain.a, chain.b, chain.omega, cross_entropy=loss == "ce", maximum=record.maximum)


def _own() -> str:
    changes = [own_change(GENERIC, symbols("d"), symbols("r"), index) for index in range(len(KINDS))]
    return f"at => {listed(map(javascript, changes))}"


def _by_loss(answer: Callable[[Loss], str]) -> str:
    return "{" + ", ".join(f"{loss}: {answer(loss)}" for loss in LOSSES) + "}"


def _binding(loss: Loss) -> str:
    """What fixes every rate, by which of the terms are tight."""
    chain = replace(GENERIC, loss=loss)
    c, r, t = symbols("c"), symbols("r"), symbols("t")
    ways = [decided(lambda same, index=index: binding(chain, c, r, t, index, same)) for index in range(len(KINDS))]
    return listed(f"at => {way}" for way in ways)


def _deep(loss: Loss) -> str:
    """Rates of three hidden layers alike, by which of the layers are bounded."""

    def rates(record: Recorder, bounded: tuple[bool, ...]) -> list[Expr]:
        parts = {name: _deeper(getattr(GENERIC, name)) for name in ("a", "b", "s", "alpha", "omega", "u")}
        chain = replace(GENERIC, **parts, bounded=_deeper(bounded), loss=loss)
        return rates_of_chain(chain, record.maximum, record.minimum)[0]

    ways = [(first, hidden, last) for first in (False, True) for hidden in (False, True) for last in (False, True)]
    functions = {
        "".join(str(int(each)) for each in way): _recorded(lambda record, way=way: rates(record, way)) for way in ways
    }
    return "{" + ", ".join(f'"{way}": {function}' for way, function in functions.items()) + "}"


def _deeper(parts: Sequence[Any]) -> tuple[Any, ...]:
    return (parts[0], *[parts[1]] * 3, parts[2])


def meanings(loss: Loss) -> dict[str, str]:
    """What every constraint of one hidden layer says, in words, by its text."""
    found = constraints(replace(GENERIC, loss=loss, bounded=(True,) * 3))
    return {each.text: f"{KINDS[each.layer - 1]}: {WORDS[each.term]}" for each in found}


def _assumptions() -> str:
    """The named alignments as values of SYMBOLS."""
    found = []
    for name, assumed in ASSUMPTIONS.items():
        pairs = zip(KEYS, SYMBOLS, strict=True)
        values = {symbol: getattr(getattr(assumed, key.split(".")[0]), key.split(".")[1]) for key, symbol in pairs}
        found.append(f"{name}: {{{', '.join(f'{symbol}: {javascript(x)}' for symbol, x in values.items())}}}")
    return "{" + ", ".join(found) + "}"
