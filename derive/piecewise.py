"""Piecewise linear functions on a cone: sums, maxima and minima of affine ones, cut into cells of one affine piece.

On each cone what is decided there is left out, and two functions that cross are what it is cut by next: first the one
that rules in the middle of the cone, and one that is not beyond it everywhere. All signs are exact, by `cones`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from derive.cones import Cone, Vector, dot, primitive

Form: TypeAlias = tuple[int, ...]
"""An affine function: a positive denominator, then the constant and the coefficient of every atom, times it."""
Cell: TypeAlias = tuple[Cone, Form]


class TooManyCellsError(Exception):
    """The pieces would take too long to find."""


@dataclass
class Patience:
    """How many values on generators may yet be computed."""

    left: int

    def spend(self, values: int) -> None:
        """So many of them; TooManyCellsError where none is left."""
        self.left -= values
        if self.left < 0:
            raise TooManyCellsError


@dataclass(frozen=True)
class Tree:
    """A sum of multiples of others, or the maximum (sign 1) or minimum (-1) of some, or a form (sign 0)."""

    sign: int | None
    parts: tuple["Tree", ...] = ()
    factors: tuple[Fraction, ...] = ()
    form: Form = ()

    @property
    def forms(self) -> int:
        """How many are in it."""
        return sum(part.forms for part in self.parts) if self.parts else 1


def difference(first: Form, second: Form) -> Vector:
    """A positive multiple of first - second, without the denominator."""
    p, q = second[0], first[0]
    return tuple(p * x - q * y for x, y in zip(first[1:], second[1:], strict=True))


def added(first: Form, factor: Fraction, second: Form) -> Form:
    """first + factor second."""
    p, q = second[0] * factor.denominator, first[0] * factor.numerator
    return primitive((first[0] * p, *(p * x + q * y for x, y in zip(first[1:], second[1:], strict=True))))


def extremum_of(sign: int, parts: Iterable[Tree]) -> Tree:
    """Of the parts, those of parts that are the same kind of extremum among them."""
    flat = [each for part in parts for each in (part.parts if part.sign == sign else (part,))]
    return Tree(sign, tuple(dict.fromkeys(flat)))


def moved(tree: Tree, factor: Fraction, form: Form) -> Tree:
    """factor tree + form."""
    if tree.sign == 0:
        return Tree(0, form=added(form, factor, tree.form))
    if tree.sign is None:
        return Tree(None, (*tree.parts, Tree(0, form=form)), (*(factor * x for x in tree.factors), Fraction(1)))
    return extremum_of(tree.sign if factor > 0 else -tree.sign, (moved(part, factor, form) for part in tree.parts))


def halves(cone: Cone, function: Vector) -> tuple[Cone, Cone]:
    """Where the function is not negative, and where it is not positive."""
    return cone.cut(function), cone.cut(tuple(-x for x in function))


def cells(tree: Tree, cone: Cone, patience: Patience) -> list[Cell]:
    """The cells of the cone with the form that holds on each."""
    patience.spend(len(cone.rays) * tree.forms)
    tree = _reduced(tree, cone, cone.middle())
    if tree.sign == 0:
        return [(cone, tree.form)]
    found = [cell for side in halves(cone, _crossing(tree, cone)) for cell in cells(tree, side, patience)]
    return found if len({form for _, form in found}) > 1 else [(cone, found[0][1])]


def _reduced(tree: Tree, cone: Cone, middle: Vector) -> Tree:
    """The tree without what is decided on the cone; of an extremum, the part that rules in its middle comes first."""
    if tree.sign == 0:
        return tree
    parts = [_reduced(part, cone, middle) for part in tree.parts]
    if tree.sign is None:
        if any(part.sign != 0 for part in parts):
            return Tree(None, tuple(parts), tree.factors)
        form = (1,) + (0,) * len(middle)
        for part, factor in zip(parts, tree.factors, strict=True):
            form = added(form, factor, part.form)
        return Tree(0, form=form)
    sign = tree.sign
    ruling = max(parts, key=lambda part: sign * _value(part, middle))
    others = [part for part in parts if part is not ruling]
    if ruling.sign == 0:
        others = [part for part in others if not _is_beyond(ruling.form, part, cone, sign)]
    return Tree(sign, (ruling, *others)) if others else ruling


def _value(tree: Tree, point: Vector) -> Fraction:
    """At a point of the cone."""
    if tree.sign == 0:
        return Fraction(dot(tree.form[1:], point), tree.form[0])
    values = [_value(part, point) for part in tree.parts]
    if tree.sign is None:
        return sum((x * value for x, value in zip(tree.factors, values, strict=True)), Fraction(0))
    return max(values) if tree.sign > 0 else min(values)


def _is_beyond(form: Form, tree: Tree, cone: Cone, sign: int) -> bool:
    """Whether the form is known to be at least (sign 1), or at most (-1), the tree on the cone."""
    if tree.sign == 0:
        side = cone.sign(difference(form, tree.form))
        return side is not None and side * sign >= 0
    return tree.sign == -sign and any(_is_beyond(form, part, cone, sign) for part in tree.parts if part.sign == 0)


def _crossing(tree: Tree, cone: Cone) -> Vector:
    """A difference of two forms of a reduced tree that has both signs on the cone."""
    if tree.sign is None:
        return _crossing(next(part for part in tree.parts if part.sign != 0), cone)
    ruling, other = tree.parts[:2]
    if ruling.sign != 0:
        return _crossing(ruling, cone)
    if other.sign == 0:
        return difference(ruling.form, other.form)
    for part in other.parts:
        if other.sign is not None and part.sign == 0:
            crossed = difference(ruling.form, part.form)
            if cone.sign(crossed) is None:
                return crossed
    return _crossing(other, cone)
