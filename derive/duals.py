"""Intervals along a chain: the duals that prove its rates, and other rates where the optimum is not unique.

Both are points of a polytope whose layers hang together by one number each, p before the layer and q behind it:

    x in X    y in Y    y - x in D    p - x in PX    p - y in PY

First the p are found, backward, from which later layers can go on; then points are chosen, forward. The dual's p is the
price of r of the layer before, that of other rates is r itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, inf
from typing import Any

Interval = tuple[Any, Any]
"""Closed, by its ends: exact numbers or infinities."""

NOTHING: Interval = (0, 0)
POSITIVE: Interval = (0, inf)
ALL: Interval = (-inf, inf)


class NoPointError(Exception):
    """The intervals have no point in common."""


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's intervals, as above."""

    x: Interval
    y: Interval
    y_less_x: Interval
    p_less_x: Interval
    p_less_y: Interval


def plus(*intervals: Interval) -> Interval:
    """Sums of one number from each."""
    return sum(low for low, _ in intervals), sum(high for _, high in intervals)


def minus(interval: Interval) -> Interval:
    """The numbers with the other sign."""
    return -interval[1], -interval[0]


def moved(interval: Interval, by: Fraction | int) -> Interval:
    """The interval moved."""
    return interval[0] + by, interval[1] + by


def common(*intervals: Interval) -> Interval:
    """The numbers in all of them; NoPointError where there are none."""
    low, high = max(low for low, _ in intervals), min(high for _, high in intervals)
    if low > high:
        raise NoPointError
    return low, high


def before(step: Step) -> Interval:
    """The p with which the step has points: its difference constraints added along each path from 0 to p."""
    common(step.y, plus(step.x, step.y_less_x))
    common(step.p_less_y, plus(step.p_less_x, minus(step.y_less_x)))
    return common(
        plus(step.x, step.p_less_x),
        plus(step.y, step.p_less_y),
        plus(step.x, step.y_less_x, step.p_less_y),
        plus(step.y, minus(step.y_less_x), step.p_less_x),
    )


def inside(interval: Interval) -> Fraction | int:
    """A number of few digits strictly between the ends, or the only one."""
    low, high = interval
    if low == high:
        return low
    if low < 0 < high:
        return 0
    if high <= 0:
        return -inside((-high, -low))
    whole = floor(low)
    if whole + 1 < high:
        return whole + 1
    # The fraction with the least denominator: continued fractions of the ends.
    rest = high - whole
    return whole + 1 / Fraction(inside((1 / Fraction(rest), inf if low == whole else 1 / Fraction(low - whole))))


def nearest(interval: Interval) -> Fraction | int:
    """The number of the interval that is nearest to 0."""
    low, high = interval
    return low if low > 0 else high if high < 0 else 0


def points(
    steps: Sequence[Callable[[Interval], Step]],
    behind: Callable[[int, Any, Any, Any], Interval],
    last: Interval,
    pick: Callable[[Interval], Any],
) -> list[tuple[Any, Any, Any]]:
    """(p, x, y) of every layer, from p = 0 on; NoPointError where no point fits them all.

    steps[l] makes the layer's intervals from that of the q with which the layers behind it can go on (`last` for the
    last one). behind(l, p, x, y) is what the layer leaves to q.
    """
    bearable = [last]
    for step in reversed(steps):
        bearable.append(before(step(bearable[-1])))
    bearable.reverse()
    p: Any = 0
    found = []
    for index, make in enumerate(steps):
        step = make(bearable[index + 1])
        y_fits = common(step.y, moved(minus(step.p_less_y), p))
        x = pick(common(step.x, moved(minus(step.p_less_x), p), plus(y_fits, minus(step.y_less_x))))
        y = pick(common(y_fits, moved(step.y_less_x, x)))
        found.append((p, x, y))
        p = pick(common(bearable[index + 1], behind(index, p, x, y)))
    return found


@dataclass(frozen=True)
class LayerDuals:
    """The dual of each row of one layer; of the first layer `alpha` is that of r_1 <= d_1."""

    alpha: Any
    u: Any
    omega: Any
    stable: Any
    bounded: Any


Terms = Mapping[str, Interval]


def chain_duals(
    allowed: Sequence[Terms], rate: int, residual: int, pick: Callable[[Interval], Any]
) -> list[LayerDuals]:
    """Duals within the intervals allowed to each row that balance every c_l at `rate` and every r_l at -`residual`.

        alpha + u + bounded = rate        alpha + u + omega + residual = stable + (u + omega of the layer behind)

    Here x = -alpha, y = u, p = u + omega. NoPointError where there are none.
    """

    def step(terms: Terms) -> Callable[[Interval], Step]:
        alpha, u, omega, stable, bounded = (terms[name] for name in ("alpha", "u", "omega", "stable", "bounded"))
        return lambda later: Step(
            minus(alpha), u, moved(minus(bounded), rate), moved(plus(stable, later), -residual), omega
        )

    def behind(index: int, p: Any, x: Any, _y: Any) -> Interval:
        return moved(minus(allowed[index]["stable"]), p - x + residual)

    chosen = points([step(terms) for terms in allowed], behind, NOTHING, pick)
    prices = [*(p for p, _, _ in chosen[1:]), 0]
    return [
        LayerDuals(-x, y, p - y, p - x + residual - price, rate + x - y)
        for (p, x, y), price in zip(chosen, prices, strict=True)
    ]


def other_rates(limits: Sequence[Terms], pick: Callable[[Interval], Any]) -> list[tuple[Any, Any]]:
    """(c_l, r_l) within the limits on r_l - c_l, r_l - c_l - r_{l-1}, r_l - r_{l-1}, r_l and c_l.

    Here x = r_l - c_l, y = q = r_l, p = r_{l-1}.
    """

    def step(terms: Terms) -> Callable[[Interval], Step]:
        alpha, u, omega, stable, bounded = (terms[name] for name in ("alpha", "u", "omega", "stable", "bounded"))
        return lambda later: Step(alpha, common(stable, later), bounded, minus(u), minus(omega))

    chosen = points([step(terms) for terms in limits], lambda _index, _p, _x, y: (y, y), ALL, pick)
    return [(y - x, y) for _, x, y in chosen]
