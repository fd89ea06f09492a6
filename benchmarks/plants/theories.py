"""The plants: right theories with one thing wrong, and the step of `verify exponents` that has to say so.

A plant changes what is trained (a, b, c, epsilon) or only what is claimed (r, s, g, alignments) of a prescription that
`derive` solved. What is expected of the judge is written here by thought, with the reason, before anything is measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Rational, S

from derive.alignments import Alignment, Ratios
from derive.parameterizations import Parameterization
from derive.propagation import Chain, residuals
from derive.solve import Prescription, prescribe, solve_kinds
from derive.words import KINDS, Kind
from verify.fit.judging import Quantity

HALF, QUARTER = Rational(1, 2), Rational(1, 4)
OPTIMIZERS = ("adam", "sgd")
SCHEMES = ("sp", "mup")
DEFAULT_SEEDS, MORE_SEEDS = 3, 12
OPTIMIZER, PROPAGATION, ASSUMPTION, RESULT = "1 optimizer", "2 propagation", "3 assumption", "4 result"


class Unstable(Parameterization):
    """A parameterization that is unstable at initialisation, which Parameterization refuses to be."""

    def __post_init__(self) -> None:
        """Refuse nothing."""


@dataclass(frozen=True)
class Plant:
    """A wrong theory: its name, the step that has to fail, by one of these quantities, and why.

    `seeds` is how many it takes to be told from the right theory, where the default of three does not do.
    """

    name: str
    theory: Prescription
    step: str
    quantities: tuple[Quantity, ...]
    why: str
    seeds: int = DEFAULT_SEEDS


def right(optimizer: str, scheme: str = "sp") -> Prescription:
    """What `verify exponents` trains for that optimizer and parameterization under full alignment."""
    return solve_kinds(prescribe(optimizer, scheme, "full").problem)


def trained_as(theory: Prescription) -> str:
    """All that networks see of a prescription: a, b, c and epsilon's exponent of every kind."""
    scheme = theory.problem.parameterization
    kinds = {"a": scheme.a, "b": scheme.b, "c": theory.c, "e": [layer.epsilon for layer in theory.layers]}
    return " ".join(f"{name}={','.join(map(str, values))}" for name, values in kinds.items())


def claimed(theory: Prescription, kind: Kind, **values: Any) -> Prescription:
    """The prescription with other values in the layer of that kind."""
    layers = tuple(replace(layer, **values) if layer.kind == kind else layer for layer in theory.layers)
    return replace(theory, layers=layers)


def initialised(theory: Prescription, kind: Kind, a: Expr = S.Zero, b: Expr = S.Zero) -> Prescription:
    """The prescription with a and b of that kind moved, in the networks as in the layers, and nothing else."""
    scheme, index = theory.problem.parameterization, KINDS.index(kind)
    moved = {
        name: tuple(value + (by if place == index else 0) for place, value in enumerate(values))
        for name, values, by in (("a", scheme.a, a), ("b", scheme.b, b))
    }
    unstable = Unstable(scheme.name, **moved)  # type: ignore[arg-type]
    layer = theory.layers[index]
    changed = claimed(theory, kind, a=layer.a + a, b=layer.b + b)
    return replace(changed, problem=replace(theory.problem, parameterization=unstable))


def plants(optimizer: str) -> list[Plant]:
    """Every plant of that optimizer; names are unique."""
    return [*_rates(optimizer), *_sizes(optimizer), *_claims(optimizer), *_solved(optimizer)]


def _signed(value: Expr) -> str:
    return f"{'+' if value > 0 else ''}{value}"


def _rates(optimizer: str) -> Iterator[Plant]:
    theory = right(optimizer)
    for layer in theory.layers:
        for shift in (HALF, -HALF, QUARTER, -QUARTER):
            wrong = claimed(theory, layer.kind, c=layer.c + shift)
            why = f"changes of {layer.kind} go as n^{-shift} and are claimed to keep their size"
            seeds = DEFAULT_SEEDS if abs(shift) == HALF else MORE_SEEDS
            yield Plant(f"c {layer.kind} {_signed(shift)}", wrong, RESULT, ("delta_z", "largest"), why, seeds)


def _sizes(optimizer: str) -> Iterator[Plant]:
    """a and b together are a change of gauge, which rates have to follow; b alone is another initial size."""
    theory = right(optimizer)
    for kind in KINDS:
        for shift in (HALF, -HALF):
            moved = initialised(theory, kind, a=shift, b=-shift)
            wrong = _updated(moved, moved.problem.chain())
            why = "the multiplier moved, the initial size the other way, and the rate stayed"
            yield Plant(f"a {kind} {_signed(shift)}", wrong, RESULT, ("delta_z", "largest"), why)
        for shift in (QUARTER, -QUARTER):
            wrong = initialised(theory, kind, b=shift)
            why = "signals, or what is sent back, have another size at initialisation, and so have gradients"
            yield Plant(f"b {kind} {_signed(shift)}", wrong, PROPAGATION, ("gradient",), why, MORE_SEEDS)


def _claims(optimizer: str) -> Iterator[Plant]:
    """What is claimed of the right networks."""
    theory = right(optimizer)
    wrong: tuple[tuple[Kind, Expr], ...] = (
        ("embedding", HALF),
        ("hidden", HALF),
        ("hidden", -HALF),
        ("readout", HALF),
    )
    for kind, r in wrong:
        yield Plant(
            f"r {kind} = {r}", claimed(theory, kind, r=r), RESULT, ("delta_z", "largest"), "r is 0 in every layer"
        )
    exchanged = theory
    for kind in KINDS[1:]:
        exchanged = claimed(exchanged, kind, alpha=HALF, omega=S.One)
    yield Plant("alpha and omega exchanged", exchanged, ASSUMPTION, ("alpha",), "updates align in full")
    for layer in theory.layers[:2]:
        more = claimed(theory, layer.kind, s=layer.s + HALF)
        yield Plant(f"s {layer.kind} +1/2", more, OPTIMIZER, ("delta_w",), "updates are larger")
        steeper = claimed(theory, layer.kind, g=layer.g + HALF)
        yield Plant(f"g {layer.kind} +1/2", steeper, PROPAGATION, ("gradient",), "gradients are larger")
    if theory.layers[0].epsilon is not None:
        constant = claimed(theory, "hidden", epsilon=S.Zero)
        yield Plant(
            "epsilon hidden = 0", constant, OPTIMIZER, ("epsilon",), "the gradient shrinks below a constant epsilon"
        )
        steep = claimed(theory, "embedding", epsilon=theory.layers[0].epsilon + HALF)
        yield Plant("epsilon embedding +1/2", steep, OPTIMIZER, ("epsilon",), "the gradient shrinks less")


def _solved(optimizer: str) -> Iterator[Plant]:
    """Theories solved honestly from something wrong, and trained with what comes out."""
    theory = right(optimizer)
    swapped = Ratios(HALF, S.One, S.One)
    problem = replace(theory.problem, alignment=Alignment("exchanged", swapped, swapped))
    yield Plant(
        "solved with alpha and omega exchanged", solve_kinds(problem), ASSUMPTION, ("alpha",), "updates align in full"
    )

    other = "sgd" if optimizer == "adam" else "adam"
    wrong_sizes = _solved_with(theory, [layer.s for layer in right(other).layers])
    yield Plant(f"the update sizes of {other}", wrong_sizes, OPTIMIZER, ("delta_w",), f"s of {optimizer} is another")

    # d loss/d z_L is the larger of what the initial readout and its update send back: the least exponent.
    chain = theory.chain
    sent_back = max(chain.a[-1] + chain.b[-1], chain.a[-1] + chain.s[-1] + theory.c[-1])
    g = [*(sent_back + a for a in chain.a[:-1]), chain.a[-1]]
    rule = theory.problem.optimizers["hidden"]
    sizes = [rule.size(layer.kind, gradient, layer.b) for layer, gradient in zip(theory.layers, g, strict=True)]
    wrong_gradients = _solved_with(theory, sizes)
    for layer, gradient in zip(theory.layers, g, strict=True):
        epsilon = rule.epsilon(layer.kind, gradient, layer.b)
        wrong_gradients = claimed(wrong_gradients, layer.kind, g=gradient, epsilon=epsilon)
    yield Plant(
        "max for min in g", wrong_gradients, PROPAGATION, ("gradient",), "what the initial readout sends back is larger"
    )

    # In SP the terms of r tie; in muP the readout's do not.
    scheme = right(optimizer, "mup")
    terms = scheme.chain
    d = [a + c + s for a, c, s in zip(terms.a, scheme.c, terms.s, strict=True)]
    wrong = scheme
    for layer, r in zip(
        scheme.layers, residuals(terms.a, terms.b, d, terms.alpha, terms.omega, terms.u, max), strict=True
    ):
        wrong = claimed(wrong, layer.kind, r=r)
    yield Plant(
        "max for min in r, muP", wrong, RESULT, ("delta_z", "largest"), "the largest term rules a sum, not the smallest"
    )


def _solved_with(theory: Prescription, sizes: Sequence[Expr]) -> Prescription:
    """The largest stable rates if updates had those sizes: c + s stays."""
    for layer, size in zip(theory.layers, sizes, strict=True):
        theory = claimed(theory, layer.kind, s=size, c=layer.c + layer.s - size)
    return theory


def _updated(theory: Prescription, chain: Chain) -> Prescription:
    """The layers with that chain's gradients, update sizes and epsilons, and the rates they have."""
    for kind, s, g, epsilon in zip(chain.kinds, chain.s, chain.g, chain.epsilon, strict=True):
        theory = claimed(theory, kind, s=s, g=g, epsilon=epsilon)
    return theory
