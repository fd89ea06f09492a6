"""The largest stable learning rates of a problem, with what fixes them and what follows from them.

Minimise the sum of c_l (rate n^-c_l) subject to the constraints of `propagation`; the optimum of a chain is the
recursion of `derive.recursion`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import cast

from sympy import Expr, Rational, S

from derive.alignments import Alignment, Ratios
from derive.alignments import alignment as read_alignment
from derive.axes import Axis
from derive.certificate import certificate, is_unique
from derive.certify import Certificate, check
from derive.decays import Decay, decay_exponent, read_decay
from derive.errors import DeriveError
from derive.known import Known
from derive.optimizers import Optimizer
from derive.parameterizations import DEFAULT, Parameterization
from derive.parameterizations import parameterization as read_parameterization
from derive.propagation import (
    Chain,
    Extremum,
    Loss,
    Problem,
    gradients,
    residuals,
    trained_readout_gradient,
)
from derive.recursion import global_rate, largest_rates, least_residuals
from derive.registry import joined
from derive.registry import optimizers as read_optimizers
from derive.words import CHANGE, Kind

MOST_LAYERS_WITH_SYMBOLS = 60


@dataclass(frozen=True)
class Layer:
    """The prescription for one layer; every exponent x means n^-x, and alignments n^+x.

    `binding` lists the constraints that hold with equality and fix c; `spread` is the range of c over the
    measured intervals, where the alignment was measured; `epsilon2` is of a rule's second epsilon, eps2.
    """

    kind: Kind
    a: Expr
    b: Expr
    c: Expr
    s: Expr
    g: Expr
    epsilon: Expr | None
    decay: Expr
    r: Expr
    alpha: Expr | None
    omega: Expr | None
    u: Expr | None
    binding: tuple[str, ...]
    spread: tuple[Expr, Expr] | None = None
    epsilon2: Expr | None = None


@dataclass(frozen=True)
class Prescription:
    """The largest stable exponents for one problem, with their certificate.

    `unique` and `feature_learning` (r_L = 0) are None where symbols leave them undecided, and so is `certificate`,
    which `certify.check` has checked otherwise. `per_layer` says that the hidden layers were asked for one by one;
    otherwise the one hidden entry stands for each of them. `axes` are those beside the width that were asked for.
    """

    problem: Problem
    chain: Chain
    layers: tuple[Layer, ...]
    unique: bool | None
    feature_learning: bool | None
    notes: tuple[str, ...] = ()
    per_layer: bool = True
    decay: Decay = "independent"
    certificate: Certificate | None = None
    axes: tuple[Axis, ...] = ()

    @property
    def optimizer_name(self) -> str:
        """The optimizer's name, or one per layer kind."""
        return joined(self.problem.optimizers)

    @property
    def c(self) -> tuple[Expr, ...]:
        """Learning-rate exponents, embedding first."""
        return tuple(layer.c for layer in self.layers)


def solve(problem: Problem, decay: Decay = "independent") -> Prescription:
    """The largest stable rates of the problem, exact, with binding constraints, uniqueness and residuals.

    Where no symbols are left they carry a certificate, checked; `certify.Refused` would be a mistake in here.
    """
    chain, decay = problem.chain(), read_decay(decay)
    if not chain.is_numeric and problem.hidden_layers > MOST_LAYERS_WITH_SYMBOLS:
        raise DeriveError(
            f"{problem.hidden_layers} hidden layers with symbols: the answer would fill pages; give numbers, or "
            f"--layers up to {MOST_LAYERS_WITH_SYMBOLS}"
        )
    known = known_symbols(problem)
    c, r = _rates(problem, chain, known)
    proof = certificate(problem, chain, c, r, _targets(chain)) if chain.is_numeric else None
    if proof is not None:
        check(proof)
    unique = is_unique(problem, chain, r, known) if proof is None else proof.unique
    spreads = _spreads(problem)
    layers = tuple(
        Layer(
            kind=kind,
            a=chain.a[index],
            b=chain.b[index],
            c=c[index],
            s=chain.s[index],
            g=chain.g[index],
            epsilon=chain.epsilon[index],
            decay=decay_exponent(decay, c[index]),
            r=r[index],
            alpha=None if index == 0 else chain.alpha[index],
            omega=None if index == 0 else chain.omega[index],
            u=None if index == 0 else chain.u[index],
            binding=proof.fixing(index) if proof else (),
            spread=spreads[index] if spreads else None,
            epsilon2=chain.epsilon2[index],
        )
        for index, kind in enumerate(chain.kinds)
    )
    return Prescription(
        problem,
        chain,
        layers,
        unique,
        r[-2].is_zero,
        (
            *problem.alignment.notes,
            *_rank_notes(problem, c),
            *_backward_notes(chain, c),
            *_distance_notes(problem, c),
        ),
        decay=decay,
        certificate=proof,
    )


def solve_kinds(problem: Problem, decay: Decay = "independent") -> Prescription:
    """The prescription per layer kind: one hidden entry for a network of any depth.

    Solved with one hidden layer, and compared with three; a note says where depth changes the answer.
    """
    solution = replace(solve(replace(problem, hidden_layers=1), decay), per_layer=False)
    deep = solve(replace(problem, hidden_layers=3), decay).c
    if (deep[0], {*deep[1:-1]}, deep[-1]) == (solution.c[0], {solution.c[1]}, solution.c[2]):
        return solution
    note = "these exponents are for one hidden layer; with more they differ from layer to layer: give --layers N"
    return replace(solution, notes=(*solution.notes, note))


def _backward_notes(chain: Chain, c: Sequence[Expr]) -> list[str]:
    """Hidden layers whose update outgrows their weights, d < a + b, where rates before them follow the gradient.

    Only an alignment below 1/2 allows it. The update then rules the way back too, which g leaves out (theory 3).
    """
    found = []
    for index in range(1, chain.depth - 1):
        d = chain.a[index] + c[index] + chain.s[index]
        if (d - chain.a[index] - chain.b[index]).is_negative and any(bool(each > 0) for each in chain.growth[:index]):
            found.append(
                f"the update of layer {index + 1} outgrows its weights (d = {d}) and raises the gradients before it, "
                "which g leaves out: rates there that follow the gradient are too large"
            )
    return found


def _distance_notes(problem: Problem, c: Sequence[Expr]) -> list[str]:
    """Where a rule compares with w - w_0 and its rate grows with the width, so that it outgrows its start."""
    found = [
        f"{kind}: w - w0 grows by more than a constant at every step (c = {rate}), and {problem.optimizers[kind].name} "
        "with it: c is right for the first step only"
        for kind, rate in zip(problem.kinds, c, strict=True)
        if problem.optimizers[kind].rule.has(CHANGE) and rate.is_negative
    ]
    return list(dict.fromkeys(found))


def _rank_notes(problem: Problem, c: Sequence[Expr]) -> list[str]:
    """Where a rate depends on the gradient's rank and none was asked for: the rate at the other end."""
    chain = problem.chain()
    found: dict[Kind, str] = {}
    for index, kind in enumerate(chain.kinds):
        row = problem.optimizers[kind]
        taken = row.rank_at(kind, chain.g[index], chain.b[index]) if row.rank is None else None
        if taken is None or kind in found:
            continue
        rows = {each: own.at_rank(S.One if taken.is_zero else S.Zero) for each, own in problem.optimizers.items()}
        other = replace(problem, optimizers=rows)
        rate = _rates(other, other.chain(), known_symbols(other))[0][index]
        if rate != c[index]:
            here, there = ("rank one, as at a fixed batch", "full rank, with a batch beyond the width")
            if taken == 1:
                here, there = there, here
            option = "full" if taken == 0 else "one"
            found[kind] = (
                f"{kind}: c = {c[index]} is for a gradient of {here}; at {there}, c = {rate} (--rank {option})"
            )
    return list(found.values())


def known_symbols(problem: Problem) -> Known:
    """What is known of the symbols: every alignment is at most 1."""
    ratios = [problem.alignment.at(kind, index - 1) for index, kind in enumerate(problem.kinds)]
    return Known(value for each in ratios if each is not None for value in (each.alpha, each.omega, each.u))


def _targets(chain: Chain) -> list[Expr]:
    return least_residuals(chain.a, chain.b, chain.omega, cross_entropy=chain.loss == "ce")


def rates_of_chain(chain: Chain, maximum: Extremum = max, minimum: Extremum = min) -> tuple[list[Expr], list[Expr]]:
    """`largest_rates` of a chain, under its loss."""
    return largest_rates(
        chain.a,
        chain.b,
        chain.s,
        chain.alpha,
        chain.omega,
        chain.u,
        chain.bounded,
        cross_entropy=chain.loss == "ce",
        maximum=maximum,
        minimum=minimum,
    )


def _rates(problem: Problem, chain: Chain, known: Known) -> tuple[list[Expr], list[Expr]]:
    """(c, r) of the problem."""
    maximum, minimum = (max, min) if chain.is_numeric else (known.largest, known.smallest)
    if problem.global_rate:
        if problem.clip_global_norm and any(bool(each > 0) for each in chain.growth[:-1]):
            raise DeriveError(
                "one global rate with gradients clipped by a norm that the readout alone rules, as without hidden "
                "layers: which layer rules it changes with the rate, and no one line does; leave --global-rate or "
                "--clip-global-norm out, or give --layers 1 or more"
            )
        c = [global_rate(chain, maximum, minimum)] * chain.depth
        return c, residuals_at(problem, c)
    c, r = rates_of_chain(chain, maximum, minimum)
    c, r = ([known.short(value) for value in values] for values in (c, r))
    return c, residuals_at(problem, c) if problem.clip_global_norm or problem.loss == "ce" else r


def residuals_at(problem: Problem, c: Sequence[Expr]) -> list[Expr]:
    """r_l of every layer, RMS(Delta z_l) = n^-r_l, at the rates n^-c_l."""
    chain = problem.chain()
    numeric = chain.is_numeric and all(isinstance(rate, Rational) for rate in c)
    changes = problem.changes(c)
    known = known_symbols(problem)
    found = residuals(chain.a, chain.b, changes, chain.alpha, chain.omega, chain.u, min if numeric else known.smallest)
    return found if numeric else [known.short(value) for value in found]


def trained_gradients(prescription: Prescription) -> tuple[Expr, ...]:
    """g_l of every layer once the readout has moved, RMS(d loss/d W_l) = n^-g_l, embedding first (theory 3).

        g_l = min(a + b, a + s + c)_{L+1} + a_l      g_{L+1} = a_{L+1}

    `Layer.g` is the same at initialisation, with a + b alone. They differ where the readout's update outgrows its
    initial weights, s + c < b, and then by b - s - c on every layer but the readout. Everett et al. 2024, section 3.
    """
    chain = prescription.chain
    arriving = trained_readout_gradient(chain, prescription.c)
    return tuple(gradients(chain.a, arriving, prescription.problem.forward_only))


def _spreads(problem: Problem) -> list[tuple[Expr, Expr]] | None:
    """(smallest, largest) c_l over the corners of the measured intervals, all layers moved together."""
    intervals = problem.alignment.intervals
    if intervals is None:
        return None
    ends: list[list[Expr]] = []
    known = Known()
    for alpha, omega, u in product((0, 1), repeat=3):
        at_corner = replace(problem, alignment=_corner(intervals, (alpha, omega, u)))
        ends.append(_rates(at_corner, at_corner.chain(), known)[0])
    best, _ = _rates(problem, problem.chain(), known)
    return [(min(rates), max(rates)) for rates in zip(best, *ends, strict=True)]


def _corner(intervals: tuple[Alignment, Alignment], ends: tuple[int, int, int]) -> Alignment:
    """One corner of the box of intervals: each quantity at its low (0) or high (1) end, in every layer."""
    alpha, omega, u = (intervals[end] for end in ends)

    def pick(kind: Kind, index: int = 0) -> Ratios:
        parts = [cast("Ratios", part.at(kind, index)) for part in (alpha, omega, u)]
        return Ratios(parts[0].alpha, parts[1].omega, parts[2].u)

    layers = {index: pick("hidden", index) for index in intervals[0].layers}
    return replace(intervals[0], hidden=pick("hidden"), readout=pick("readout"), layers=layers)


def prescribe(
    optimizer: str | Optimizer | Mapping[str, str | Optimizer] = "adam",
    parameterization: str | Parameterization = DEFAULT,
    alignment: str | Alignment = "full",
    *,
    hidden_layers: int | None = None,
    loss: Loss = "mse",
    global_rate: bool = False,
    clip_global_norm: bool = False,
    forward_only: bool = False,
    decay: Decay = "independent",
) -> Prescription:
    """The prescription for a triple, given by names as on the command line or as objects.

    `optimizer` may be a mapping by layer kind; `hidden_layers` is by default the number on which the alignment was
    measured, or 1. `forward_only` multipliers do not multiply the gradients of their weights.

        >>> [str(c) for c in prescribe("adam", "sp", "full").c]
        ['0', '1', '1']
    """
    assumed = read_alignment(alignment) if isinstance(alignment, str) else alignment
    problem = Problem(
        optimizers=read_optimizers(optimizer),
        parameterization=(
            read_parameterization(parameterization) if isinstance(parameterization, str) else parameterization
        ),
        alignment=assumed,
        hidden_layers=(assumed.hidden_layers or 1) if hidden_layers is None else hidden_layers,
        loss=loss,
        global_rate=global_rate,
        clip_global_norm=clip_global_norm,
        forward_only=forward_only,
    )
    return solve(problem, decay)
