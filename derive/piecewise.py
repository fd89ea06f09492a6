"""Exponents with symbols, piecewise linear, in their shortest form where every alignment is at most 1.

Nested maxima and minima of a few symbols have few linear pieces f_1, f_2, ... . Over the cells on which one of them
holds,

    f = max over the cells of min of the f_j that are at least f there      (and the same with max and min exchanged)

from which everything is left out that is not needed (Ovchinnikov 2002, max-min representation of piecewise linear
functions). All signs are decided exactly, by `cones`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import lcm
from typing import TypeAlias, cast

from sympy import Add, Expr, Max, Min, Rational, S

from derive.cones import Cone, Vector, everywhere, primitive

Form: TypeAlias = tuple[int, ...]
"""An affine function: a positive denominator, then the constant and the coefficient of every atom, times it."""
Cell: TypeAlias = tuple[Cone, Form]
Terms: TypeAlias = frozenset[frozenset[int]]

MOST_ATOMS = 4
"""Symbols, and products of them, up to which the pieces are found; cells grow as a power of their number."""
MOST_CELLS = 4000
ONE: Expr = S.One


class TooManyCellsError(Exception):
    """The pieces would take too long to find."""


@dataclass(frozen=True)
class Tree:
    """A sum of multiples of others, or the maximum (sign 1) or minimum (-1) of some, or a form (sign 0)."""

    sign: int | None
    parts: tuple["Tree", ...] = ()
    factors: tuple[Fraction, ...] = ()
    form: Form = ()


def _difference(first: Form, second: Form) -> Vector:
    """A positive multiple of first - second, without the denominator."""
    p, q = second[0], first[0]
    return tuple(p * x - q * y for x, y in zip(first[1:], second[1:], strict=True))


def _sum(first: Form, factor: Fraction, second: Form) -> Form:
    """first + factor second."""
    p, q = second[0] * factor.denominator, first[0] * factor.numerator
    return primitive((first[0] * p, *(p * x + q * y for x, y in zip(first[1:], second[1:], strict=True))))


def cells(tree: Tree, cone: Cone) -> list[Cell]:
    """The cells of the cone with the form that holds on each."""
    if tree.sign == 0:
        return [(cone, tree.form)]
    if tree.sign is None:
        found: list[Cell] = [(cone, (1,) + (0,) * cone.dimension)]
        parts = list(zip(tree.parts, tree.factors, strict=True))
    else:
        found = cells(tree.parts[0], cone)
        parts = [(part, Fraction(0)) for part in tree.parts[1:]]
    for part, factor in parts:
        overlaid: list[Cell] = []
        for cell, first in found:
            inner = cells(part, cell)
            if tree.sign is None:
                split = [(own, _sum(first, factor, second)) for own, second in inner]
            else:
                split = [each for own, second in inner for each in _compared(own, first, second, tree.sign)]
            overlaid += split if len({form for _, form in split}) > 1 else [(cell, split[0][1])]
        found = overlaid
        if len(found) > MOST_CELLS:
            raise TooManyCellsError
    return found


def _compared(cone: Cone, first: Form, second: Form, sign: int) -> Iterator[Cell]:
    """The larger (sign 1) or smaller (-1) of two forms on the cone, which is split where they cross."""
    difference = _difference(first, second)
    side = cone.sign(difference)
    if side is not None:
        yield cone, first if side * sign >= 0 else second
        return
    opposite = tuple(-number for number in difference)
    yield cone.cut(difference), first if sign > 0 else second
    yield cone.cut(opposite), second if sign > 0 else first


class Lattice:
    """The forms of cells, and which of them are at least, and at most, the one that holds on each cell."""

    def __init__(self, found: Sequence[Cell]) -> None:
        self.forms = sorted({form for _, form in found})
        self.order = self._order(found)

    def _order(self, found: Sequence[Cell]) -> set[tuple[frozenset[int], frozenset[int]]]:
        order = set()
        differences = {form: [_difference(other, form) for other in self.forms] for form in self.forms}
        for cone, form in found:
            signs = [cone.sign(difference) for difference in differences[form]]
            above = frozenset(j for j, sign in enumerate(signs) if sign is not None and sign >= 0)
            below = frozenset(j for j, sign in enumerate(signs) if sign is not None and sign <= 0)
            order.add((above, below))
        return order

    def refined(self, found: Sequence[Cell]) -> None:
        """Split the cells until no two forms cross within one."""
        for first, second in combinations(self.forms, 2):
            split: list[Cell] = []
            for cone, form in found:
                split += ((own, form) for own, _ in _compared(cone, first, second, 1))
            found = split
            if len(found) > MOST_CELLS:
                raise TooManyCellsError
        self.order = self._order(found)

    def terms(self, sign: int) -> Terms | None:
        """Sets of forms: their minima's maximum (sign 1), or maxima's minimum (-1); None where cells are too large."""
        order = self.order if sign > 0 else {(below, above) for above, below in self.order}
        terms = {above for above, _ in order}
        terms = {term for term in terms if not any(other < term for other in terms)}
        if not all(term & below for term in terms for _, below in order):
            return None
        for term in sorted(terms, key=lambda term: (-len(term), sorted(term))):
            if all(any(other <= above for other in terms - {term}) for above, _ in order):
                terms = terms - {term}
        for term in sorted(terms, key=sorted):
            kept = term
            for form in sorted(term):
                if all((kept - {form}) & below for _, below in order):
                    kept = kept - {form}
            terms = (terms - {term}) | {kept}
        return frozenset(term for term in terms if not any(other < term for other in terms))


class Symbols:
    """What is known of symbols: `at_most_one` of the expressions made of them, and what sympy assumes of each."""

    def __init__(self, at_most_one: Iterable[Expr]) -> None:
        self.facts = [
            {atom: -factor for atom, factor in _linear(expression - ONE).items()}
            for expression in dict.fromkeys(at_most_one)
            if not isinstance(expression, Rational)
        ]
        self._shortened: dict[Expr, Expr] = {}
        self._cones: dict[tuple[Expr, ...], Cone] = {}

    def short(self, expression: Expr) -> Expr:
        """The shortest form of the expression; unchanged where it has too many symbols or pieces."""
        if not expression.has(Max, Min):
            return expression
        if expression not in self._shortened:
            self._shortened[expression] = self._short(expression)
        return self._shortened[expression]

    def _short(self, expression: Expr) -> Expr:
        atoms = self._atoms(expression)
        if len(atoms) > MOST_ATOMS:
            return expression
        try:
            found = cells(_tree(expression, atoms), self._cone(atoms))
            lattice = Lattice(found)
            terms = [lattice.terms(sign) for sign in (1, -1)]
            if None in terms:
                lattice.refined(found)
                terms = [lattice.terms(sign) for sign in (1, -1)]
        except TooManyCellsError:
            return expression
        written = [_written(cast("Terms", each), lattice.forms, atoms, sign) for each, sign in zip(terms, (1, -1), strict=True)]
        return min(written, key=lambda each: len(str(each)))

    def largest(self, *values: Expr) -> Expr:
        """The maximum."""
        return self._extremum(Max, values)

    def smallest(self, *values: Expr) -> Expr:
        """The minimum."""
        return self._extremum(Min, values)

    def _extremum(self, function: type[Max] | type[Min], values: Sequence[Expr]) -> Expr:
        found, *others = dict.fromkeys(values)
        for value in others:
            found = self.short(function(found, value, evaluate=False))
        return found

    def is_nonnegative(self, expression: Expr) -> bool:
        """Whether it is so for certain."""
        least = self.smallest(expression, S.Zero)
        return least.is_zero is True

    def _atoms(self, expression: Expr) -> tuple[Expr, ...]:
        """The atoms of the expression, and those that some fact links to them."""
        linked = set(_atoms(expression))
        grown = True
        while grown:
            more = {atom for fact in self.facts if linked & set(fact) for atom in fact if atom != ONE} - linked
            grown = bool(more)
            linked |= more
        return tuple(sorted(linked, key=str))

    def _cone(self, atoms: tuple[Expr, ...]) -> Cone:
        if atoms not in self._cones:
            cone = everywhere(len(atoms) + 1)
            facts = [{ONE: Fraction(1)}, *(fact for fact in self.facts if set(fact) <= {ONE, *atoms})]
            facts += [{atom: Fraction(1)} for atom in atoms if atom.is_nonnegative]
            for fact in facts:
                form = _form(fact, atoms)[1:]
                if cone.sign(form) is None:
                    cone = cone.cut(form)
            self._cones[atoms] = cone
        return self._cones[atoms]


def _linear(expression: Expr) -> dict[Expr, Fraction]:
    """{atom: coefficient} of an expression without extrema; the constant's atom is 1."""
    parts = expression.expand().as_coefficients_dict()
    return {atom: Fraction(int(factor.p), int(factor.q)) for atom, factor in parts.items() if factor}


def _form(parts: dict[Expr, Fraction], atoms: Sequence[Expr]) -> Form:
    numbers = [parts.get(atom, Fraction(0)) for atom in (ONE, *atoms)]
    denominator = lcm(*(number.denominator for number in numbers))
    return (denominator, *(int(number * denominator) for number in numbers))


def _split(expression: Expr) -> Iterator[tuple[Fraction, Expr]]:
    """(factor, part) of a sum; no part is itself a sum or has a factor, but for one without extrema."""
    plain: list[Expr] = []
    for part in Add.make_args(expression):
        if not part.has(Max, Min):
            plain.append(part)
            continue
        factor, rest = part.as_coeff_Mul()
        if isinstance(rest, Max | Min):
            yield Fraction(int(factor.p), int(factor.q)), rest
        elif factor != 1:
            for own, inner in _split(rest):
                yield Fraction(int(factor.p), int(factor.q)) * own, inner
        else:
            yield Fraction(1), part
    if plain:
        yield Fraction(1), Add(*plain)


def _atoms(expression: Expr) -> Iterator[Expr]:
    for _, part in _split(expression):
        if isinstance(part, Max | Min):
            for each in part.args:
                yield from _atoms(cast("Expr", each))
        elif part.has(Max, Min):
            yield part
        else:
            yield from (atom for atom in _linear(part) if atom != ONE)


def _tree(expression: Expr, atoms: Sequence[Expr]) -> Tree:
    parts, factors = [], []
    for factor, part in _split(expression):
        factors.append(factor)
        if isinstance(part, Max | Min):
            sign = 1 if isinstance(part, Max) else -1
            parts.append(Tree(sign, tuple(_tree(cast("Expr", each), atoms) for each in part.args)))
        elif part.has(Max, Min):
            parts.append(Tree(0, form=_form({part: Fraction(1)}, atoms)))
        else:
            parts.append(Tree(0, form=_form(_linear(part), atoms)))
    return parts[0] if factors == [1] else Tree(None, tuple(parts), tuple(factors))


def _written(terms: Terms, forms: Sequence[Form], atoms: Sequence[Expr], sign: int) -> Expr:
    """The maximum of minima, or minimum of maxima, as sympy writes it."""
    outer, inner = (Max, Min) if sign > 0 else (Min, Max)

    def joined(function: type[Max] | type[Min], parts: Sequence[Expr]) -> Expr:
        return parts[0] if len(parts) == 1 else cast("Expr", function(*parts, evaluate=False))

    named = [Add(*(Rational(x, form[0]) * atom for x, atom in zip(form[1:], (ONE, *atoms), strict=True))) for form in forms]
    return joined(outer, [joined(inner, [named[j] for j in sorted(term)]) for term in sorted(terms, key=sorted)])
