"""Exponents of expressions against power counting: evaluate at huge n and read off the slope."""

from dataclasses import replace
from typing import Any, cast

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Expr, Max, Min, Rational, S, Symbol, atan2, sign, sqrt

from derive.errors import DeriveError
from derive.exponents import _parity_in_weights, companions, degree, exponent, operator_norm_exponent
from derive.optimizers import Optimizer
from derive.registry import REGISTRY, optimizer
from derive.rule_language import RULE_NAMES
from derive.words import (
    CHANGE,
    EPSILON,
    EPSILONS,
    FAN_EXPONENTS,
    FAN_IN,
    FAN_OUT,
    FIRST_MOMENT,
    GRADIENT,
    KINDS,
    PREVIOUS_GRADIENT,
    SECOND_EPSILON,
    SECOND_MOMENT,
    SIGMA,
    WEIGHT,
    clip,
    norm,
    polar,
    rms,
    spectral,
)

mpmath.mp.dps = 400
FACTORS = {GRADIENT: "1.7", FIRST_MOMENT: "0.6", SECOND_MOMENT: "2.3", WEIGHT: "1.1", EPSILON: "0.4"}
FACTORS |= {SECOND_EPSILON: "0.3", PREVIOUS_GRADIENT: "0.5", CHANGE: "0.2"}


def number(expression: Any, at: dict[Symbol, Any]) -> Any:
    """The value at one typical entry of a gradient of rank one, by plain arithmetic that knows nothing of exponents."""
    if expression.is_Number or expression.is_NumberSymbol:
        return mpmath.mpf(expression.p) / expression.q if expression.is_Rational else mpmath.mpf(str(expression.n(50)))
    if isinstance(expression, Symbol):
        return at[expression]
    name = type(expression).__name__
    if name == "spectral":
        matrix, singular_map = expression.args
        whole = mpmath.sqrt(at[FAN_IN] * at[FAN_OUT])
        return number(singular_map, {**at, SIGMA: abs(number(matrix, at)) * whole}) / whole
    parts = [number(part, at) for part in expression.args]
    if name == "Add":
        return mpmath.fsum(parts)
    if name == "Mul":
        return mpmath.fprod(parts)
    simple = {
        "Pow": lambda: mpmath.power(*parts),
        "Abs": lambda: abs(parts[0]),
        "sign": lambda: mpmath.sign(parts[0]),
        "Max": lambda: max(parts),
        "Min": lambda: min(parts),
        "atan": lambda: mpmath.atan(parts[0]),
        "atan2": lambda: mpmath.atan2(*parts),
        "clip": lambda: max(-1, min(1, parts[0])),
        "rms": lambda: abs(parts[0]),
        "norm": lambda: abs(parts[0]) * mpmath.sqrt(at[FAN_IN] * at[FAN_OUT]),
        "opnorm": lambda: abs(parts[0]) * mpmath.sqrt(at[FAN_IN] * at[FAN_OUT]),
        "nucnorm": lambda: abs(parts[0]) * mpmath.sqrt(at[FAN_IN] * at[FAN_OUT]),
        "rownorm": lambda: abs(parts[0]) * mpmath.sqrt(at[FAN_IN]),
        "colnorm": lambda: abs(parts[0]) * mpmath.sqrt(at[FAN_OUT]),
        "first": lambda: parts[0],
        "second": lambda: parts[0] ** 2,
        "lowrank": lambda: parts[0],
    }
    return simple[name]()


def slope(expression: Expr, sizes: dict[Symbol, Any]) -> float:
    """-d log|expression| / d log n between two huge widths."""
    values = []
    for power in (60, 120):
        n = mpmath.mpf(10) ** power
        at = {s: mpmath.mpf(FACTORS.get(s, "1")) * n ** (-mpmath.mpf(x.p) / x.q) for s, x in sizes.items()}
        values.append(mpmath.log10(abs(number(expression, at))) / 60)
    return float(values[0] - values[1])


halves = st.integers(-4, 4).map(lambda i: Rational(i, 2))
leaves = st.sampled_from([GRADIENT, FIRST_MOMENT, SECOND_MOMENT, WEIGHT, EPSILON, S.One, Rational(3, 7)])


def grow(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.tuples(children, children)
    return st.one_of(
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: Abs(p[0]) + Rational(5, 3) * Abs(p[1])),
        pairs.map(lambda p: Max(Abs(p[0]), Abs(p[1]))),
        pairs.map(lambda p: Min(Abs(p[0]), Abs(p[1]))),
        pairs.map(lambda p: atan2(p[0], Abs(p[1]))),
        children.map(lambda x: 1 / x),
        children.map(lambda x: sqrt(Abs(x))),
        children.map(lambda x: sign(x) * x**2),
        children.map(clip),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(leaves, grow, max_leaves=8), st.tuples(halves, halves, halves, halves))
def test_random_expressions_have_the_slope_that_power_counting_sees(expression: Expr, sizes: tuple[Any, ...]) -> None:
    g, v, w, e = sizes
    at = {GRADIENT: g, FIRST_MOMENT: g, SECOND_MOMENT: v, WEIGHT: w, EPSILON: e, FAN_IN: S.Zero, FAN_OUT: S.Zero}
    assert abs(slope(expression, at) - float(exponent(expression, at))) < 0.1


def test_numbers_are_clipped_at_once() -> None:
    assert [clip(x) for x in (S(-3), Rational(1, 3), S(5))] == [-1, Rational(1, 3), 1]
    assert Max(Abs(clip(S.One)), Abs(GRADIENT)).has(GRADIENT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", REGISTRY, ids=lambda row: row.name)
def test_update_sizes_of_the_registry_by_power_counting(row: Any, kind: Any) -> None:
    """RMS on a rank-one gradient; of matrix rules the operator norm, which is as of entries there."""
    fan_in, fan_out = FAN_EXPONENTS[kind]
    for g, b in ((Rational(1, 2), S.Zero), (Rational(3, 2), Rational(1, 2)), (S.Zero, S.One)):
        sizes = {GRADIENT: g, PREVIOUS_GRADIENT: g, FIRST_MOMENT: g, SECOND_MOMENT: 2 * g, WEIGHT: b, CHANGE: S(1000)}
        sizes |= {FAN_IN: S(-fan_in), FAN_OUT: S(-fan_out)}
        of_rank_one = replace(row, rank=S.Zero)
        for symbol in EPSILONS:
            epsilon = of_rank_one.epsilon(kind, g, b, symbol)
            sizes[symbol] = S.Zero if epsilon is None else epsilon
        measured = slope(row.rule, sizes)
        predicted = of_rank_one.size(kind, g, b)
        if row.is_spectral:
            predicted = -of_rank_one.operator_norm(kind, g, b) + Rational(fan_in + fan_out, 2)
        assert abs(measured - float(predicted)) < 0.05, (row.name, kind, g)


@pytest.mark.parametrize("row", REGISTRY, ids=lambda row: row.name)
def test_degrees_by_scaling_the_gradient_and_the_weights(row: Any) -> None:
    """U(t g, t m, t^2 v, t^j eps) = t^k U, and the same for w, at t = 10^-50: Sophia's clip binds, MARS's does not."""
    t = mpmath.mpf(10) ** -50
    at: dict[Any, Any] = {symbol: mpmath.mpf(factor) for symbol, factor in FACTORS.items()} | {FAN_IN: 5, FAN_OUT: 3}
    at[SECOND_MOMENT], at[EPSILON] = mpmath.mpf("0.02"), mpmath.mpf("1e-9")
    for symbols, expected in (
        (
            {GRADIENT: 1, PREVIOUS_GRADIENT: 1, FIRST_MOMENT: 1, SECOND_MOMENT: 2},
            row.gradient_degree("hidden", S.One, S.Zero),
        ),
        ({WEIGHT: 1}, row.weight_degree),
    ):
        scaled = dict(at)
        for symbol, power in symbols.items():
            scaled[symbol] *= t**power
        degrees = {symbol: S(power) for symbol, power in symbols.items()}
        for symbol, companion in row.epsilon_companions.items():
            small = companion.replace(Max, lambda *_: S.One)  # a threshold of 1, as in MARS
            degrees[symbol] = degree(small, degrees)  # type: ignore[arg-type]
            scaled[symbol] *= t ** int(degrees[symbol])
        ratio = number(row.rule, scaled) / number(row.rule, at)
        assert abs(mpmath.log10(abs(ratio)) / -50 - int(expected)) < 1e-6


def test_what_epsilon_is_added_to() -> None:
    v, m, e = SECOND_MOMENT, FIRST_MOMENT, EPSILON
    assert set(companions(m / (sqrt(v) + e), e)) == {sqrt(v)}
    assert set(companions(m / sqrt(v + e), e)) == {v}
    assert set(companions(m / (norm(m) + 3 * e**2), e)) == {sqrt(Rational(1, 3) * norm(m))}


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (Symbol("q") * GRADIENT, "q"),
        (GRADIENT ** Symbol("q"), "g**q"),
        (GRADIENT * rms(S(2) * FAN_IN), "rms(2*fan_in)"),
        (atan2(FIRST_MOMENT, WEIGHT), "atan2(m, w)"),
    ],
)
def test_what_cannot_be_sized_is_named(expression: Expr, part: str) -> None:
    sizes = dict.fromkeys((GRADIENT, FIRST_MOMENT, WEIGHT, FAN_IN, FAN_OUT), S.Zero)
    with pytest.raises(DeriveError) as error:
        exponent(expression, sizes)
    assert part in str(error.value)


def test_parity_in_the_weights_by_hand() -> None:
    w, g = WEIGHT, GRADIENT
    odd: tuple[Any, ...] = (
        w,
        w * Abs(w),
        w**3,
        sign(w),
        clip(w),
        g * w,
        w + w * Abs(w),
        sqrt(Abs(w)) * w,
        atan2(w, Abs(w)),
    )
    even: tuple[Any, ...] = (g, norm(w), w**2, Abs(w), sqrt(Abs(w)), w * sign(w), Max(Abs(w), w**2), atan2(g, Abs(w)))
    neither: tuple[Any, ...] = (w + 1, w + Abs(w), sqrt(w), atan2(w, w), Max(w, g), Max(w, -w * Abs(w)))
    for expressions, parity in ((odd, -1), (even, 1), (neither, 0)):
        assert [_parity_in_weights(cast("Expr", each)) for each in expressions] == [parity] * len(expressions)


def test_a_minimum_of_what_may_be_negative_is_as_large_as_the_largest() -> None:
    sizes = {FIRST_MOMENT: S.Zero, SECOND_MOMENT: S(2), GRADIENT: S.One}
    assert exponent(Min(FIRST_MOMENT, sqrt(SECOND_MOMENT)), sizes) == 0
    assert exponent(Min(Abs(FIRST_MOMENT), sqrt(SECOND_MOMENT)), sizes) == 1
    assert exponent(atan2(GRADIENT**3, sqrt(SECOND_MOMENT)), sizes) == 2


def test_what_rules_say_of_themselves() -> None:
    matrix = {name: optimizer(name).is_matrix_rule for name in ("adam", "muon", "normalised-sgd", "lars")}
    assert matrix == {"adam": False, "muon": True, "normalised-sgd": True, "lars": False}
    assert RULE_NAMES["w"] - RULE_NAMES["w0"] == RULE_NAMES["dw"]
    assert Optimizer("mine", "m/(sqrt(v)+eps)", scaled_epsilon=False).gradient_degree() == 0
    for inner, outer in (EPSILONS, EPSILONS[::-1]):
        row = Optimizer("mine", f"m/(rms(m/(sqrt(v)+{inner}))+{outer})")
        assert list(row.epsilon_companions) == [inner, outer]


def test_a_product_of_matrices_has_the_operator_norm_of_its_entries() -> None:
    """That of polar(g) is 1, of a number times it the number; polar(g) * w has entries of RMS 1/n and random signs."""
    half = Rational(1, 2)
    sizes = {GRADIENT: half, FIRST_MOMENT: half, WEIGHT: half, FAN_IN: S(-1), FAN_OUT: S(-1)}
    assert operator_norm_exponent(polar(GRADIENT), sizes) == 0
    assert operator_norm_exponent(norm(WEIGHT) * polar(GRADIENT), sizes) == -half
    assert operator_norm_exponent(polar(GRADIENT) * WEIGHT, sizes) == half
    whole = polar(GRADIENT) * spectral(FIRST_MOMENT, SIGMA)  # entries of n^-1/2 n^0, times n for all of them
    assert operator_norm_exponent(whole, sizes) == -half, "not that of the first factor"


def test_an_angle_has_the_size_and_the_degree_of_a_ratio() -> None:
    """Of a length that may be zero: sympy writes other angles as atan(y/x)."""
    angle = atan2(GRADIENT, Abs(PREVIOUS_GRADIENT))
    for g, previous, size in ((S.Half, 0, S.Half), (S.Half, 1, 0)):
        assert exponent(angle, {GRADIENT: g, PREVIOUS_GRADIENT: S(previous)}) == size
    assert degree(angle, {GRADIENT: S.One, PREVIOUS_GRADIENT: S.One}) == 0
    with pytest.raises(DeriveError, match="its arguments differ in degree"):
        degree(angle, {GRADIENT: S.One, PREVIOUS_GRADIENT: S(2)})
