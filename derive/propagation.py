"""Forward and backward perturbation of a chain of layers, and the constraints that stability puts on it.

Sizes are n^-exponent, so the largest of several terms is the *minimum* of their exponents. With the effective
change d_l = a_l + c_l + s_l, the change of layer l is n^-r_l (docs/theory.md, section 4):

    r_1 = d_1
    r_l = min(d_l - alpha_l,  d_l + r_{l-1} - u_l,  a_l + b_l + r_{l-1} - omega_l)

The functions here need only +, - and min, so they serve exact numbers, symbols, floats and jitted arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from sympy import Eq, Expr, Ge, Le, Min, Rational, S, Symbol

from derive.alignments import Alignment, Ratios
from derive.errors import DeriveError
from derive.extrema import largest, smallest
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization
from derive.words import EPSILONS, FAN_EXPONENTS, KINDS, Kind

Loss = Literal["mse", "ce"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
Number = TypeVar("Number", bound=Any)
Extremum = Callable[..., Any]
Optimizers = dict[Kind, Optimizer]


def residuals(
    a: Sequence[Number],
    b: Sequence[Number],
    d: Sequence[Number],
    alpha: Sequence[Number],
    omega: Sequence[Number],
    u: Sequence[Number],
    minimum: Extremum = min,
) -> list[Number]:
    """r_l of every layer, RMS(Delta z_l) = n^-r_l, from d = a + c + s (Everett et al. 2024, section 3.3).

    The alignments of the first layer are not read: its fan-in is fixed and its input does not change.
    """
    r = [d[0]]
    for layer in range(1, len(d)):
        r.append(
            minimum(
                d[layer] - alpha[layer],
                d[layer] + r[-1] - u[layer],
                a[layer] + b[layer] + r[-1] - omega[layer],
            )
        )
    return r


def gradients(a: Sequence[Number], readout_gradient: Number, forward_only: bool = False) -> list[Number]:
    """g_l of every layer, RMS(d loss/d W_l) = n^-g_l, where d loss/d z_L = n^-readout_gradient.

    Hidden layers preserve the backward signal: g_l = readout_gradient + a_l, and g = a on the readout. With
    `forward_only` no weight's gradient is multiplied by its own n^-a_l, as in unit scaling (Blake et al. 2023,
    2303.11257), where that of its input still is: g_l = readout_gradient, and 0 on the readout.
    """
    seen = [each * 0 for each in a] if forward_only else a
    return [*(readout_gradient + a_l for a_l in seen[:-1]), seen[-1]]


@dataclass(frozen=True)
class Chain:
    """A chain of layers with all that the solver needs: exponents per layer, embedding first.

    `s` is the size of the update at initialisation, `bounded` says where the update may not outgrow the
    initial weights (d_l >= a_l + b_l), and `growth` is how an update grows with the gradients of the earlier layers:
    n^(growth x) times when they all grow by n^x. It is the degree k, unless the gradients are clipped.
    """

    kinds: tuple[Kind, ...]
    a: tuple[Expr, ...]
    b: tuple[Expr, ...]
    g: tuple[Expr, ...]
    s: tuple[Expr, ...]
    alpha: tuple[Expr, ...]
    omega: tuple[Expr, ...]
    u: tuple[Expr, ...]
    growth: tuple[Expr, ...]
    bounded: tuple[bool, ...]
    epsilon: tuple[Expr | None, ...]
    loss: Loss = "mse"
    epsilon2: tuple[Expr | None, ...] = ()

    @property
    def depth(self) -> int:
        """Number of layers, the readout included: L + 1."""
        return len(self.kinds)

    @property
    def is_numeric(self) -> bool:
        """Whether every exponent is a number, so that Python's own min and max compare them."""
        values = (*self.a, *self.b, *self.s, *self.alpha[1:], *self.omega[1:], *self.u[1:])
        return all(isinstance(value, Rational) for value in values)


@dataclass(frozen=True)
class Problem:
    """What is asked: optimizers per layer kind, parameterization, alignment, depth and the options of section 5.

    `global_rate` wants one exponent c for all layers; `clip_global_norm` divides every gradient by the norm of
    all of them together; `forward_only` multipliers are in no weight's gradient.
    """

    optimizers: Optimizers
    parameterization: Parameterization
    alignment: Alignment
    hidden_layers: int = 1
    loss: Loss = "mse"
    global_rate: bool = False
    clip_global_norm: bool = False
    forward_only: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The layers in order, embedding first."""
        hidden: tuple[Kind, ...] = ("hidden",) * self.hidden_layers
        return ("embedding", *hidden, "readout")

    def chain(self, readout_gradient: Expr | None = None) -> Chain:
        """The chain with its update sizes derived, at initialisation or where d loss/d z_L = n^-readout_gradient."""
        kinds, alignment = self.kinds, self.alignment
        extra = [index for index in alignment.layers if index >= self.hidden_layers]
        if extra:
            raise DeriveError(
                f"alignment names hidden.{max(extra)} but there are {self.hidden_layers} hidden layers, counted from "
                f"0; give --layers {max(extra) + 1} or more"
            )
        a, b = (tuple(self.parameterization.at(kind)[which] for kind in kinds) for which in (0, 1))
        arriving = a[-1] + b[-1] if readout_gradient is None else readout_gradient
        g = gradients(a, arriving, self.forward_only)
        clipped, cancels = _clip(kinds, g) if self.clip_global_norm else (g, False)
        updates: dict[Kind, _Update] = {}
        for kind, gradient, weight in zip(kinds, clipped, b, strict=True):
            if kind not in updates:
                updates[kind] = _update(self.optimizers[kind], kind, gradient, weight)
        ratios = [_capped(alignment, kind, index - 1, updates[kind].cap) for index, kind in enumerate(kinds)]
        # When the readout's update raises the gradients of the earlier layers, their updates grow with them; clipped
        # by a norm that rises as well they do not, but then it is the readout's gradient that shrinks.
        degrees = [updates[kind].degree for kind in kinds]
        earlier = [S.Zero if cancels else degree for degree in degrees[:-1]]
        growth = [*earlier, -degrees[-1] if self.clip_global_norm else S.Zero]
        keeps_gradients = not self.global_rate and any(bool(each > 0) for each in growth)
        bounded = [bool(self.optimizers[kind].weight_degree > 0) for kind in kinds]
        bounded[-1] = bounded[-1] or keeps_gradients
        return Chain(
            kinds=kinds,
            a=a,
            b=b,
            g=tuple(g),
            s=tuple(updates[kind].size for kind in kinds),
            alpha=tuple(ratio.alpha for ratio in ratios),
            omega=tuple(ratio.omega for ratio in ratios),
            u=tuple(ratio.u for ratio in ratios),
            growth=tuple(growth),
            bounded=tuple(bounded),
            epsilon=tuple(updates[kind].epsilon for kind in kinds),
            loss=self.loss,
            epsilon2=tuple(updates[kind].epsilon2 for kind in kinds),
        )

    def changes(self, c: Sequence[Expr], start: Chain | None = None) -> list[Expr]:
        """d_l = a_l + c_l + s_l at these rates, with the smaller s of before and after the readout has moved.

        The readout's own update may outgrow its initial weights; the gradients of all earlier layers then grow
        with it: d loss/d z_L = n^-min(a + b, a + s + c) of the readout. A change made early is not undone
        later, so the larger of the two updates counts.
        """
        start = start or self.chain()
        moved = trained_readout_gradient(start, c)
        later = start if moved == start.a[-1] + start.b[-1] else self.chain(moved)
        sizes = [_smallest(pair) for pair in zip(start.s, later.s, strict=True)]
        return [a + rate + s for a, rate, s in zip(start.a, c, sizes, strict=True)]


def trained_readout_gradient(chain: Chain, c: Sequence[Expr]) -> Expr:
    """d loss/d z_L = n^-this once the readout has moved at the rate n^-c: min(a + b, a + s + c) of the readout."""
    return _smallest((chain.a[-1] + chain.b[-1], chain.a[-1] + chain.s[-1] + c[-1]))


def _smallest(values: tuple[Expr, ...]) -> Expr:
    return min(values) if all(isinstance(value, Rational) for value in values) else smallest(*values)


@dataclass(frozen=True)
class _Update:
    size: Expr
    cap: Expr
    degree: Expr
    epsilon: Expr | None
    epsilon2: Expr | None


def _update(optimizer: Optimizer, kind: Kind, gradient: Expr, weight: Expr) -> _Update:
    epsilons = [optimizer.epsilon(kind, gradient, weight, symbol) for symbol in EPSILONS]
    first, second = (each if each is None or optimizer.scaled_epsilon else S.Zero for each in epsilons)
    return _Update(
        size=optimizer.size(kind, gradient, weight),
        cap=optimizer.alignment_cap(kind, gradient, weight),
        degree=optimizer.gradient_degree(kind, gradient, weight),
        epsilon=first,
        epsilon2=second,
    )


def _clip(kinds: Sequence[Kind], g: Sequence[Expr]) -> tuple[list[Expr], bool]:
    """Gradients divided by their global norm, n^-min_j(g_j - log_n(numel_j)/2), and whether growth cancels.

    When the readout's update raises the gradients of all earlier layers together, the norm rises with them and
    clipped ones stay as they are; but not while the readout's own gradient alone rules the norm.
    """
    norms = [gradient - Rational(sum(FAN_EXPONENTS[kind]), 2) for kind, gradient in zip(kinds, g, strict=True)]
    norm = Min(*norms)
    return [gradient - norm for gradient in g], any(each == norm for each in norms[:-1])


def _capped(alignment: Alignment, kind: Kind, index: int, cap: Expr) -> Ratios:
    ratios = alignment.at(kind, index)
    if ratios is None:
        return Ratios(S.NaN, S.NaN, S.NaN)
    if cap == 1:
        return ratios
    return Ratios(smallest(ratios.alpha, cap), ratios.omega, smallest(ratios.u, cap))


def own_change(chain: Chain, changes: Sequence[Expr], r: Sequence[Expr], index: int) -> Expr:
    """The exponent of what the layer's own update contributes to its change, d_l - alpha_l or d_l + r_{l-1} - u_l.

    As if the layers before were stable: what they break is not this layer's doing.
    """
    change = changes[index]
    if index == 0:
        return change
    return smallest(change - chain.alpha[index], change + largest(S.Zero, r[index - 1]) - chain.u[index])


Term = Literal["update", "alpha", "u", "omega", "stable", "bounded"]


@dataclass(frozen=True)
class Constraint:
    """One stability constraint: its number, layer (1-based), term, text in ASCII, sympy relation and meaning."""

    number: int
    layer: int
    term: Term
    relation: Any
    meaning: str
    text: str


def constraint_text(term: Term, layer: int, left: str | None = None) -> str:
    """The constraint as it is printed, with d_l = a_l + c_l + s_l."""
    left = f"r_{layer}" if left is None else left
    return {
        "update": f"{left} <= d_{layer}",
        "alpha": f"{left} <= d_{layer} - alpha_{layer}",
        "u": f"{left} <= d_{layer} + r_{layer - 1} - u_{layer}",
        "omega": f"{left} <= a_{layer} + b_{layer} + r_{layer - 1} - omega_{layer}",
        "stable": f"{left} >= 0",
        "bounded": f"d_{layer} >= a_{layer} + b_{layer}",
    }[term]


def symbols(name: str, layers: int) -> list[Symbol]:
    """name_1 ... name_layers, real."""
    return [Symbol(f"{name}_{layer}", real=True) for layer in range(1, layers + 1)]


def constraints(chain: Chain) -> list[Constraint]:
    """The linear constraints on c_l and r_l of this chain, as sympy relations with every exponent filled in.

    r_l = min(...) enters as r_l <= each term, which loses nothing: every r appears in later constraints with
    a plus sign (theory 5). Under cross-entropy the logits may diverge: r_{L+1} is replaced by 0 in the terms of
    the readout's own update and its omega term drops.
    """
    c, r = symbols("c", chain.depth), symbols("r", chain.depth)
    found: list[Constraint] = []
    for index, kind in enumerate(chain.kinds):
        layer, last = index + 1, index + 1 == chain.depth
        free_logits = last and chain.loss == "ce"
        a, b = chain.a[index], chain.b[index]
        d = a + c[index] + chain.s[index]
        now = S.Zero if free_logits else r[index]
        terms: list[tuple[Term, Any, str]] = []
        if layer == 1:
            terms.append(("update", Le(now, d, evaluate=False), "the update itself"))
        else:
            before = r[index - 1]
            terms.append(("alpha", Le(now, d - chain.alpha[index], evaluate=False), "dW z"))
            terms.append(("u", Le(now, d + before - chain.u[index], evaluate=False), "dW dz"))
            if not free_logits:
                terms.append(("omega", Le(now, a + b + before - chain.omega[index], evaluate=False), "W dz"))
        if not free_logits:
            terms.append(("stable", Ge(now, 0, evaluate=False), "the change stays finite"))
        if chain.bounded[index]:
            why = "the update does not outgrow the weights" + (", nor the gradients their initial size" if last else "")
            terms.append(("bounded", Ge(d - a - b, 0, evaluate=False), why))
        for term, relation, why in terms:
            text = constraint_text(term, layer, "0" if free_logits else None)
            found.append(Constraint(len(found) + 1, layer, term, relation, f"{kind}: {why}", text))
    return found


def general_constraints(optimizers: Optimizers) -> list[tuple[str, Any]]:
    """Theory 4 for these optimizers as (meaning, sympy relation), with a, b, c and the alignments as symbols."""
    names: dict[Kind, str] = {"embedding": "1", "hidden": "l", "readout": "{L+1}"}

    def symbol(name: str, kind: Kind) -> Symbol:
        return Symbol(f"{name}_{names[kind]}", real=True)

    def change(kind: Kind, gradient: Expr) -> Expr:
        size = optimizers[kind].size(kind, gradient, symbol("b", kind))
        return symbol("a", kind) + symbol("c", kind) + size

    initial = symbol("a", "readout") + symbol("b", "readout")
    backward = Min(initial, change("readout", symbol("a", "readout")))
    found: list[tuple[str, Any]] = []
    for kind in KINDS:
        gradient = symbol("a", kind) + (0 if kind == "readout" else backward)
        found.append((f"{kind}: gradient", Eq(symbol("g", kind), gradient, evaluate=False)))
    for kind in KINDS:
        d, r = change(kind, symbol("g", kind)), symbol("r", kind)
        if kind == "embedding":
            found.append((f"{kind}: change", Eq(r, d, evaluate=False)))
            continue
        before = Symbol("r_{l-1}" if kind == "hidden" else "r_L", real=True)
        cap = optimizers[kind].alignment_cap(kind, symbol("g", kind), symbol("b", kind))
        alpha, u = (value if cap == 1 else Min(value, cap) for value in (symbol("alpha", kind), symbol("u", kind)))
        forward = symbol("a", kind) + symbol("b", kind) + before - symbol("omega", kind)
        found.append(
            (f"{kind}: change", Eq(r, Min(d - alpha, d + before - u, forward, evaluate=False), evaluate=False))
        )
    found += [(f"{kind}: stable", Ge(symbol("r", kind), 0, evaluate=False)) for kind in KINDS]
    for kind in KINDS:
        bounded = optimizers[kind].weight_degree > 0
        if kind == "readout":
            bounded = bounded or any(optimizers[each].gradient_degree() > 0 for each in ("embedding", "hidden"))
        if bounded:
            outgrown = change(kind, symbol("g", kind)) - symbol("a", kind) - symbol("b", kind)
            found.append((f"{kind}: bounded update", Ge(outgrown, 0, evaluate=False)))
    return found
