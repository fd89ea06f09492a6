"""Exponents as drawn, where what a readout makes is smaller at the start than once its features align.

A readout starts at a + b > f/2 where the parameterization says so, as in muP, and its output at n^-(a + b - f/2); the
first step brings it to n^0. Which it is hangs on the parameterization, and a graph is there before that is chosen: an
exponent is a form in how much smaller each readout starts, and that of a sum the smallest of several.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction

LIKELY = Fraction(1, 2)
"""How much smaller a readout starts in muP: by that one form is taken where several cannot be kept."""
FEW = 8
"""Forms that are kept."""


@dataclass(frozen=True)
class Form:
    """plain + a multiple of how much smaller each of some readouts starts."""

    plain: Fraction = Fraction(0)
    readouts: tuple[tuple[Hashable, Fraction], ...] = ()

    def plus(self, other: "Form") -> "Form":
        """The sum of both."""
        times = dict(self.readouts)
        for readout, more in other.readouts:
            times[readout] = times.get(readout, Fraction(0)) + more
        return Form(self.plain + other.plain, tuple((each, own) for each, own in times.items() if own))

    def times(self, factor: Fraction | int) -> "Form":
        """Each term times a number."""
        return Form(self.plain * factor, tuple((each, own * factor) for each, own in self.readouts if factor))

    def at(self, smaller: Callable[[Hashable], Fraction]) -> Fraction:
        """The exponent, where a readout starts at n^-smaller(readout)."""
        return sum((own * smaller(each) for each, own in self.readouts), self.plain)

    def is_at_most(self, other: "Form") -> bool:
        """Whether it is, however much smaller readouts start."""
        mine, theirs = dict(self.readouts), dict(other.readouts)
        return self.plain <= other.plain and all(
            mine.get(each, 0) <= theirs.get(each, 0) for each in {**mine, **theirs}
        )


@dataclass(frozen=True)
class DrawnExponent:
    """The smallest of some forms."""

    forms: tuple[Form, ...] = (Form(),)

    @classmethod
    def of(cls, plain: Fraction) -> "DrawnExponent":
        """An exponent that is the same in every parameterization."""
        return cls((Form(plain),))

    @classmethod
    def made_by(cls, readout: Hashable) -> "DrawnExponent":
        """Of what a readout makes."""
        return cls((Form(readouts=((readout, Fraction(1)),)),))

    def __add__(self, other: "DrawnExponent | Fraction | int") -> "DrawnExponent":
        added = other.forms if isinstance(other, DrawnExponent) else (Form(Fraction(other)),)
        return DrawnExponent(_smallest(one.plus(more) for one in self.forms for more in added))

    __radd__ = __add__

    def __mul__(self, times: Fraction | int) -> "DrawnExponent":
        forms = self.forms if times >= 0 else (min(self.forms, key=_likely),)  # what is divided by is no smallest
        return DrawnExponent(_smallest(each.times(times) for each in forms))

    __rmul__ = __mul__

    def __neg__(self) -> "DrawnExponent":
        return self * -1

    def __sub__(self, other: "DrawnExponent | Fraction | int") -> "DrawnExponent":
        return self + -other

    def at(self, smaller: Callable[[Hashable], Fraction]) -> Fraction:
        """The exponent, where a readout starts at n^-smaller(readout)."""
        return min(each.at(smaller) for each in self.forms)

    @property
    def plain(self) -> Fraction:
        """The exponent where no readout starts smaller, as in SP."""
        return min(each.plain for each in self.forms)

    @property
    def at_most_one(self) -> "DrawnExponent":
        """Of what a bounded function makes: no larger than n^0."""
        return DrawnExponent(_smallest(each if _likely(each) > 0 else Form() for each in self.forms))


NONE = DrawnExponent()


def largest(found: Iterable[DrawnExponent]) -> DrawnExponent:
    """The one that rules a sum, or n^0 of none."""
    return DrawnExponent(_smallest(form for each in found for form in each.forms) or (Form(),))


def _likely(form: Form) -> Fraction:
    return form.at(lambda _: LIKELY)


def _smallest(forms: Iterable[Form]) -> tuple[Form, ...]:
    """Those that may be the smallest, the likeliest first."""
    kept: list[Form] = []
    for form in sorted(dict.fromkeys(forms), key=lambda each: (_likely(each), each.plain)):
        if not any(each.is_at_most(form) for each in kept):
            kept = [each for each in kept if not form.is_at_most(each)] + [form]
    return tuple(kept[:FEW])
