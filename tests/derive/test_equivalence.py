"""Gauge shifts: which parameterizations train alike, and what muP is in the gauge a = 0."""

from dataclasses import replace

import pytest
from sympy import Rational, S

from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.parameterizations import MFP, MUP, NTK, SCHEMES, SP, Parameterization, custom, equivalent, parameterization
from derive.registry import REGISTRY, optimizer
from derive.solve import prescribe, solve
from derive.words import KINDS

HALF = Rational(1, 2)
RATE_SHIFT_PER_THETA = {  # docs/theory.md, section 6, written out by hand: 1 + k - m
    **dict.fromkeys(["sgd", "momentum", "nesterov"], 2),
    **dict.fromkeys(["adam", "adamw", "rmsprop", "lion", "sign-sgd", "adam-atan2", "normalised-sgd", "sophia"], 1),
    **dict.fromkeys(["muon", "muon-keller", "muon-rms", "shampoo", "soap", "soap-left", "soap-right"], 1),
    **dict.fromkeys(["adafactor", "adam-ps", "lamb", "lars", "kfac", "muon-hyperball"], 0),
    **dict.fromkeys(["scion", "scion-sign", "scion-row", "normuon", "adamuon", "dion", "grafted-shampoo"], 1),
    **dict.fromkeys(["adopt", "ademamix", "mars", "cautious", "schedule-free", "prodigy", "galore"], 1),
    "polargrad": 2,
}


WITHOUT_SHIFT = {("sophia", "SP")}  # its clip meets a ratio of order one on SP's readout, which NTK's multiplier moves


@pytest.mark.parametrize(("first", "second"), [(SP, NTK), (MUP, MFP)], ids=["SP-NTK", "muP-MFP"])
@pytest.mark.parametrize("row", REGISTRY, ids=lambda row: row.name)
def test_equivalent_for_every_optimizer(row: Optimizer, first: Parameterization, second: Parameterization) -> None:
    answer = equivalent(first, second, row)
    if (row.name, first.name) in WITHOUT_SHIFT:
        assert (answer.obstacle or "").startswith("readout: the threshold of")
        return
    assert answer.obstacle is None
    assert answer.theta == tuple(new - old for old, new in zip(first.a, second.a, strict=True))
    assert answer.theta is not None
    assert answer.rate_shift == tuple(-RATE_SHIFT_PER_THETA[row.name] * theta for theta in answer.theta)


@pytest.mark.parametrize("alignment", ["full", "none", "prior", "alpha=3/4,omega=2/3,u=1/2"])
@pytest.mark.parametrize("row", REGISTRY, ids=lambda row: row.name)
def test_the_solver_respects_the_symmetry(row: Optimizer, alignment: str) -> None:
    """Solving in another gauge gives the shifted rates and epsilons and the same residuals."""
    for first, second in ((SP, NTK), (MUP, MFP)):
        one, other = (prescribe(row.name, scheme.name, alignment, hidden_layers=2) for scheme in (first, second))
        answer = equivalent(first, second, row)
        if (row.name, first.name) in WITHOUT_SHIFT:
            continue
        assert answer.rate_shift is not None
        for left, right in zip(one.layers, other.layers, strict=True):
            index = KINDS.index(left.kind)
            assert right.c == left.c + answer.rate_shift[index]
            assert right.r == left.r
            if left.epsilon is not None and right.epsilon is not None and answer.epsilon_shift is not None:
                assert right.epsilon == left.epsilon + answer.epsilon_shift[index]


@pytest.mark.parametrize("row", REGISTRY, ids=lambda row: row.name)
def test_sp_is_not_mup_and_the_readout_is_named(row: Optimizer) -> None:
    answer = equivalent(SP, MUP, row)
    assert answer.theta is None
    assert answer.obstacle is not None
    assert answer.obstacle.startswith("readout: a+b is 1/2 in SP and 1 in muP")


def test_a_constant_epsilon_breaks_the_equivalence() -> None:
    answer = equivalent(SP, NTK, replace(optimizer("adam"), scaled_epsilon=False))
    assert answer.obstacle is not None
    assert answer.obstacle.startswith("hidden: a constant eps")


def test_a_threshold_is_shifted_by_the_branch_that_rules() -> None:
    """clip(g) is SGD where the gradient shrinks and sign-SGD where it grows; where it meets the gradient none is."""
    clipped = Optimizer("mine", "clip(g)")
    shrinking = equivalent(MUP, MFP, clipped)
    assert shrinking.rate_shift == equivalent(MUP, MFP, optimizer("sgd")).rate_shift
    first, second = (Parameterization(f"a={a}", (S(a), S(a), S(a)), (S(-a), HALF - a, HALF - a)) for a in (-3, -2))
    growing = equivalent(first, second, clipped)
    assert growing.rate_shift == equivalent(first, second, optimizer("sign-sgd")).rate_shift
    across = equivalent(first, MFP.gauge(S(1)), clipped)
    assert across.obstacle is not None
    assert equivalent(SP, NTK, clipped).obstacle == (
        "readout: the threshold of 'clip(g)' stays where the gradient moves past it"
    )


def test_mup_in_the_gauge_zero_is_sp_with_a_smaller_readout() -> None:
    shifted = MUP.gauge()
    assert shifted.a == SP.a
    assert shifted.b == (S.Zero, HALF, S.One)
    assert [new - old for old, new in zip(SP.b, shifted.b, strict=True)] == [0, 0, HALF]
    for alignment in ("full", "none"):
        problem = prescribe("adam", "mup", alignment).problem
        assert solve(replace(problem, parameterization=shifted)).c == prescribe("adam", "sp", alignment).c


@pytest.mark.parametrize("theta", [Rational(-1, 3), S.Zero, Rational(5, 2)])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_a_gauge_shift_keeps_a_plus_b(scheme: Parameterization, theta: Rational) -> None:
    assert [scheme.gauge(theta).total(kind) for kind in KINDS] == [scheme.total(kind) for kind in KINDS]


@pytest.mark.parametrize(
    ("a", "b", "layer", "total"),
    [
        ((1, 0, 0), (0, HALF, HALF), "embedding", "1"),
        ((0, 0, 0), (0, 0, HALF), "hidden", "0"),
        ((0, 0, 0), (0, HALF, Rational(1, 3)), "readout", "1/3"),
    ],
)
def test_unstable_initialisation_names_the_layer_and_the_sum(
    a: tuple[int, ...], b: tuple[Rational, ...], layer: str, total: str
) -> None:
    with pytest.raises(DeriveError, match=f"{layer} a\\+b = {total}"):
        Parameterization("mine", tuple(map(S, a)), tuple(map(S, b)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("SP", SP), ("Standard", SP), ("μP", MUP), ("mean field", MFP), ("Mean-Field", MFP), ("ntk", NTK)],
)
def test_names_ignore_case_hyphens_and_spaces(name: str, scheme: Parameterization) -> None:
    assert parameterization(name) is scheme


def test_exponents_of_ones_own_are_read_in_either_order() -> None:
    own = custom("b=0,1/2,0 ; a=0,0,1")
    assert (own.a, own.b, own.name) == ((0, 0, 1), (0, Rational(1, 2), 0), "a=0,0,1;b=0,1/2,0")
    for text in ("a=0,0,1", "a=0,0,1;c=0,1/2,0", "a=0,0,1;b=0,1/2,0;c=1", "a=0,0,1;a=0,1/2,0"):
        with pytest.raises(DeriveError, match="is no parameterization"):
            custom(text)
