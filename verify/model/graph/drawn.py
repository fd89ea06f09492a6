"""Exponents as drawn, where what a readout makes is smaller at the start than once its features align.

A readout starts at a + b > f/2 where the parameterization says so, as in muP, and its output at n^-(a + b - f/2); the
first step brings it to n^0. Which it is hangs on the parameterization, and a graph is there before that is chosen.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction

LIKELY = Fraction(1, 2)
"""How much smaller a readout starts in muP, by which sums tell what is largest in them."""


@dataclass(frozen=True)
class Drawn:
    """The exponent plain + a multiple of how much smaller each of some readouts starts."""

    plain: Fraction = Fraction(0)
    readouts: tuple[tuple[Hashable, Fraction], ...] = ()

    def __add__(self, other: "Drawn | Fraction | int") -> "Drawn":
        if not isinstance(other, Drawn):
            return Drawn(self.plain + other, self.readouts)
        found = dict(self.readouts)
        for readout, times in other.readouts:
            found[readout] = found.get(readout, Fraction(0)) + times
        return Drawn(self.plain + other.plain, tuple((each, times) for each, times in found.items() if times))

    __radd__ = __add__

    def __mul__(self, times: Fraction | int) -> "Drawn":
        return Drawn(self.plain * times, tuple((each, own * times) for each, own in self.readouts if times))

    __rmul__ = __mul__

    def __neg__(self) -> "Drawn":
        return self * -1

    def __sub__(self, other: "Drawn | Fraction | int") -> "Drawn":
        return self + -other

    def at(self, smaller: Callable[[Hashable], Fraction]) -> Fraction:
        """The exponent, where a readout starts at n^-smaller(readout)."""
        return sum((times * smaller(each) for each, times in self.readouts), self.plain)

    @property
    def likely(self) -> Fraction:
        """The exponent in muP."""
        return self.at(lambda _: LIKELY)


NONE = Drawn()


def largest(found: Iterable[Drawn], default: Drawn = NONE) -> Drawn:
    """The one that rules a sum."""
    return min(found, key=lambda each: each.likely, default=default)
