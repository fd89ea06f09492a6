"""Numbers picked from intervals, and points of a chain of them."""

from collections.abc import Callable
from fractions import Fraction
from itertools import count
from math import ceil, floor, inf
from typing import Any

import pytest

from derive.duals import (
    ALL,
    NOTHING,
    POSITIVE,
    NoPointError,
    Step,
    chain_duals,
    common,
    inside,
    minus,
    moved,
    nearest,
    other_rates,
    plus,
    points,
)

HALF = Fraction(1, 2)


def simplest(low: Any, high: Any) -> Fraction:
    """By trying: of the least denominator for which there is one the numerator nearest to 0."""
    for denominator in count(1):
        first, last = floor(low * denominator) + 1, ceil(high * denominator) - 1
        if first <= last:
            return Fraction(min(range(first, last + 1), key=abs), denominator)
    raise AssertionError


def test_a_number_inside_has_the_least_denominator() -> None:
    ends = sorted({Fraction(a, b) for b in (1, 2, 3, 5, 7) for a in range(-2 * b, 3 * b)})
    for place, low in enumerate(ends):
        assert inside((low, low)) == low
        for high in ends[place + 1 :]:
            found = inside((low, high))
            assert low < found < high and Fraction(found).denominator == simplest(low, high).denominator, (low, high)
    assert [inside(each) for each in (ALL, POSITIVE, (-inf, 0), (HALF, inf))] == [0, 1, -1, 1]
    assert inside((Fraction(1, 3), HALF)) == Fraction(2, 5)


def test_the_number_nearest_to_zero() -> None:
    assert [nearest(each) for each in ((HALF, 2), (-2, -HALF), (-HALF, 1), (0, 3), ALL)] == [HALF, -HALF, 0, 0, 0]


def test_arithmetic_of_intervals_by_hand() -> None:
    assert minus((1, inf)) == (-inf, -1) and moved((1, inf), HALF) == (Fraction(3, 2), inf)
    assert plus((1, 2), (-3, HALF)) == (-2, Fraction(5, 2))
    assert common((0, 3), (1, inf), (-inf, 2)) == (1, 2) and common((0, 1), (1, 2)) == (1, 1)
    with pytest.raises(NoPointError):
        common((0, 1), (Fraction(11, 10), 2))


def box(x: Any, y: Any, less: Any = ALL, p_x: Any = ALL, p_y: Any = ALL) -> Callable[[Any], Step]:
    """A layer whose y stays where the layers behind can go on."""
    return lambda later: Step(x, common(y, later), less, p_x, p_y)


@pytest.mark.parametrize("pick", [inside, nearest])
def test_points_keep_every_interval_or_there_are_none(pick: Callable[[Any], Any]) -> None:
    """p = y of the layer before; the first layer has to leave what the second one can bear, 2 <= y_1 <= 3."""
    first, second = box((0, 1), (-5, 5), (1, 4)), box((0, 1), (0, 9), (1, 1), (2, inf), (-inf, 3))
    (p, x, y), (q, v, w) = points([first, second], lambda _i, _p, _x, y: (y, y), ALL, pick)
    assert p == 0 and 0 <= x <= 1 and 1 <= y - x <= 4
    assert q == y and 0 <= v <= 1 and w - v == 1 and q - v >= 2 and q - w <= 3
    for impossible in (
        [box((1, 2), (1, 2), p_x=(0, inf))],  # p = 0 is below every x
        [box((1, 2), (1, 2), p_y=(0, inf))],
        [first, box((0, 1), (0, 9), (1, 1), (7, inf))],  # the first layer's y is at most 5
        [box((0, 1), (3, 4), (0, 1))],
    ):
        with pytest.raises(NoPointError):
            points(impossible, lambda _i, _p, _x, y: (y, y), ALL, pick)


def test_duals_of_one_layer_and_of_two_balance_by_hand() -> None:
    """alpha + u + bounded = 1 and alpha + u + omega + residual = stable + what the layer behind takes."""
    tight = {"alpha": POSITIVE, "u": NOTHING, "omega": NOTHING, "stable": POSITIVE, "bounded": NOTHING}
    (alone,) = chain_duals([tight], 1, 0, inside)
    assert (alone.alpha, alone.u, alone.omega, alone.stable, alone.bounded) == (1, 0, 0, 1, 0)
    (alone,) = chain_duals([tight], 1, 1, inside)
    assert alone.stable == 2
    first, second = chain_duals(
        [{**tight, "stable": NOTHING}, {**tight, "u": POSITIVE, "alpha": NOTHING}], 1, 0, inside
    )
    assert (first.alpha, first.stable, second.u, second.stable) == (1, 0, 1, 1)
    with pytest.raises(NoPointError):
        chain_duals([{**tight, "alpha": NOTHING}], 1, 0, inside)


def test_other_rates_keep_their_limits() -> None:
    """r_1 - c_1 = 0, 0 <= r_1 <= 1; r_2 <= r_1, r_2 - c_2 <= -1/2, 1/4 <= r_2."""
    limits = [
        {"alpha": (0, 0), "u": ALL, "omega": ALL, "stable": (0, 1), "bounded": ALL},
        {"alpha": (-inf, -HALF), "u": ALL, "omega": (-inf, 0), "stable": (Fraction(1, 4), inf), "bounded": ALL},
    ]
    for pick in (inside, nearest):
        (c, r), (later_c, later_r) = other_rates(limits, pick)
        assert c == r and 0 <= r <= 1
        assert Fraction(1, 4) <= later_r <= r and later_r - later_c <= -HALF
