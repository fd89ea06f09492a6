"""Answers with three symbols stay short, are found at once, and are the numbers' answers at 2,000 values each."""

import math
import time
from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from sympy import Expr, Max, Min, Rational, Symbol

from derive import emit
from derive.alignments import Alignment, Ratios
from derive.cones import everywhere
from derive.known import Known
from derive.propagation import residuals
from derive.recursion import largest_rates
from derive.registry import REGISTRY
from derive.solve import prescribe
from derive.words import text

SYMBOLS = "alpha=x,omega=y,u=z"
X, Y, Z = (Symbol(name, real=True) for name in "xyz")
FEW = ("sgd", "adafactor", "muon", "adam,hidden=lars")


Values = dict[Symbol, Fraction]


def plain(expression: Any) -> Callable[[Values], Fraction]:
    """The expression as arithmetic in fractions, of which sympy does nothing."""
    if isinstance(expression, Rational):
        number = Fraction(int(expression.p), int(expression.q))
        return lambda _: number
    if isinstance(expression, Symbol):
        return lambda at: at[expression]
    parts = [plain(part) for part in expression.args]
    if isinstance(expression, Max | Min):
        extremum = max if isinstance(expression, Max) else min
        return lambda at: extremum([part(at) for part in parts])
    combine = sum if expression.is_Add else math.prod
    return lambda at: combine([part(at) for part in parts], start=Fraction(0 if expression.is_Add else 1))


def value(expression: Expr, at: Values) -> Fraction:
    """The expression at these values."""
    return plain(expression)(at)


def points(count: int, seed: int) -> list[Values]:
    """Values up to 1, half of them near 1/2, where most of the cases meet."""
    generator = Random(seed)

    def draw() -> Fraction:
        step = Fraction(generator.randint(-60, 20), 40) if generator.random() < 0.5 else Fraction(0)
        return min(Fraction(1), Fraction(1, 2) + step + Fraction(generator.randint(-8, 8), 80))

    return [{symbol: draw() for symbol in (X, Y, Z)} for _ in range(count)]


def mistakes(optimizer: str, scheme: str, layers: int, count: int) -> list[str]:
    """Where the answer with symbols is not the engine's recursion in fractions at these values."""
    answer = prescribe(optimizer, scheme, SYMBOLS, hidden_layers=layers)
    chain = answer.chain
    a, b, s = ([value(each, {}) for each in values] for values in (chain.a, chain.b, chain.s))
    found = [f"decay of layer {index}" for index, each in enumerate(answer.layers) if each.decay != -each.c]
    rates, changes = ([plain(getattr(layer, name)) for layer in answer.layers] for name in ("c", "r"))
    for at in points(count, seed=layers):
        alpha, omega, u = (
            [Fraction(0), *(value(each, at) for each in values[1:])] for values in (chain.alpha, chain.omega, chain.u)
        )
        c, r = largest_rates(a, b, s, alpha, omega, u, chain.bounded)
        d = [a_l + c_l + s_l for a_l, c_l, s_l in zip(a, c, s, strict=True)]
        if r != residuals(a, b, d, alpha, omega, u):
            found.append(f"the recursion's own r at {at}")
        if [each(at) for each in rates] != c or [each(at) for each in changes] != r:
            found.append(f"values at {at}")
    return found


@pytest.mark.parametrize("optimizer", FEW)
def test_twenty_layers_with_three_symbols_are_short_soon_and_right(optimizer: str) -> None:
    start = time.process_time()
    answer = prescribe(optimizer, "sp", SYMBOLS, hidden_layers=20)
    written = emit.as_table(answer)
    assert time.process_time() - start < 10
    assert len(written.encode()) < 20_000
    assert not mistakes(optimizer, "sp", 20, 60)


@pytest.mark.parametrize("options", [{"loss": "ce"}, {"clip_global_norm": True}, {"global_rate": True}])
@pytest.mark.parametrize("optimizer", ["sgd", "adafactor", "muon"])
def test_every_option_agrees_with_numbers(optimizer: str, options: dict[str, Any]) -> None:
    """The whole solver at the numbers, certificates and all, beside its answer with symbols."""
    answer = prescribe(optimizer, "mup", SYMBOLS, hidden_layers=3, **options)
    for at in points(12, seed=1):
        numbers = [Rational(number.numerator, number.denominator) for number in at.values()]
        ratios = Ratios(*numbers)
        exact = prescribe(optimizer, "mup", Alignment("numbers", ratios, ratios), hidden_layers=3, **options)
        assert [value(layer.c, at) for layer in answer.layers] == [value(c, {}) for c in exact.c]
        assert [value(layer.r, at) for layer in answer.layers] == [value(layer.r, {}) for layer in exact.layers]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [row.name for row in REGISTRY])
def test_every_optimizer_at_two_thousand_values(optimizer: str) -> None:
    for layers in (1, 3, 8, 20):
        start = time.process_time()
        written = emit.as_table(prescribe(optimizer, "sp", SYMBOLS, hidden_layers=layers))
        assert time.process_time() - start < 10
        assert len(written.encode()) < 20_000
        assert not mistakes(optimizer, "sp", layers, 2000)


def test_a_planted_mistake_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form left out that is needed: what the comparison with numbers is for."""
    monkeypatch.setattr(Known, "_is_at_least", lambda *_: True)
    monkeypatch.setattr(Known, "_shortest", lambda *_: None)
    assert mistakes("adam", "sp", 3, 20)


def test_extrema_are_compared_through_extrema() -> None:
    known = Known([X, Y])
    assert known.largest(Max(X, Y, evaluate=False), Min(X, Y, evaluate=False)) == Max(X, Y, evaluate=False)
    assert known.largest(Min(X, Y + 3, evaluate=False), Rational(1)) == 1
    assert known.short(Max(X, Y, evaluate=False) + Min(X, Y, evaluate=False) - X) == Y
    assert known.is_nonnegative(Max(X, -X, evaluate=False))
    assert not known.is_nonnegative(X)


def test_compound_expressions_are_known_to_be_at_most_one() -> None:
    """(x + y)/2 as an alignment, and what follows from two of them together."""
    assert Known([(X + Y) / 2]).smallest(X + Y, Rational(2)) == X + Y
    assert Known([X + Y, X - Y]).smallest(X, Rational(1)) == X
    assert Known([1 - X]).largest(X, Rational(0)) == X
    assert Known([X * Y]).largest(X * Y, X**2 + 1) == X**2 + 1
    answer = prescribe("adam", "sp", "alpha=(x+y)/2,u=1")
    assert [text(c) for c in answer.c] == ["0", "1", "1"]


def test_many_symbols_are_answered_or_refused_in_one_line() -> None:
    each = ",".join(f"hidden.{index}.omega=x{index}" for index in range(8))
    assert len(prescribe("adam", "sp", each, hidden_layers=8).layers) == 10
    with pytest.raises(ValueError, match="too many cases; give numbers to some of them") as refused:
        names = ",".join(f"hidden.{i}.{key}={key[0]}{i}" for i in range(20) for key in ("alpha", "omega", "u"))
        prescribe("adafactor", "sp", names, hidden_layers=20)
    assert "\n" not in str(refused.value)


def test_a_cone_cut_in_two_keeps_its_generators() -> None:
    """The cube [0, 1]^3 has 8 corners, half of it cut at x = y has 6, and the part above x + y = 2 is an edge."""
    cone = everywhere(4).cut((1, 0, 0, 0))
    for axis in (1, 2, 3):
        unit = tuple(int(axis == index) for index in range(4))
        cone = cone.cut(unit).cut(tuple(first - second for first, second in zip((1, 0, 0, 0), unit, strict=True)))
    assert len({ray for ray, _ in cone.rays}) == len(cone.rays) == 8
    assert len(cone.cut((0, 1, -1, 0)).rays) == 6
    assert sorted(ray for ray, _ in cone.cut((-2, 1, 1, 0)).rays) == [(1, 1, 1, 0), (1, 1, 1, 1)]
    assert cone.sign((2, -1, -1, 0)) == 1
