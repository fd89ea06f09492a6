"""Maxima and minima of exponents, without the arguments that another is known to be beyond."""

from collections.abc import Callable, Sequence
from typing import cast

from sympy import Expr, Max, Min, Rational, S


def largest(*values: Expr) -> Expr:
    """The maximum, without the arguments that are provably smaller than another.

    sympy's own Max also tries to order nested maxima, which takes minutes on a chain of a few layers.
    """
    return extremum(Max, values, _is_at_least)


def smallest(*values: Expr) -> Expr:
    """The minimum, as `largest`."""
    return extremum(Min, values, _is_at_least)


def extremum(
    function: type[Max] | type[Min], values: Sequence[Expr], is_at_least: Callable[[Expr, Expr], bool]
) -> Expr:
    """The maximum or minimum of the values, without those that another is known to be beyond."""
    if all(isinstance(value, Rational) for value in values):
        return max(values) if function is Max else min(values)

    def is_beyond(first: Expr, second: Expr) -> bool:
        return is_at_least(first, second) if function is Max else is_at_least(second, first)

    flat: list[Expr] = []
    for value in values:
        flat += cast("tuple[Expr, ...]", value.args) if isinstance(value, function) else (value,)
    kept: list[Expr] = []
    for value in dict.fromkeys(flat):
        if any(is_beyond(other, value) for other in kept):
            continue
        kept = [*(other for other in kept if not is_beyond(value, other)), value]
    return kept[0] if len(kept) == 1 else cast("Expr", function(*kept, evaluate=False))


def _is_at_least(first: Expr, second: Expr) -> bool:
    """Whether first >= second for certain; nested extrema are not opened."""
    if S.Infinity in (first, second):  # the size of zero
        return first is S.Infinity
    if first.has(Max, Min) or second.has(Max, Min):
        return first == second
    return bool((first - second).is_nonnegative)
