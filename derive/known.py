"""What is known of the symbols in exponents, and the shortest form that exponents have where it holds.

Every alignment is at most 1, so that a symbol or an expression given as one is; sympy knows the sign of a square.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import TypeAlias, cast

from sympy import Add, Expr, Max, Min, Rational, S

from derive.cones import Cone, everywhere
from derive.errors import DeriveError
from derive.extrema import extremum
from derive.lattice import shortest
from derive.piecewise import Form, Patience, TooManyCellsError, Tree, added, cells, extremum_of, moved

Linear: TypeAlias = Mapping[Expr, Fraction]
"""{atom: coefficient}, where an atom is a symbol or a product of symbols, and that of the constant is 1."""

MOST_ATOMS = 6
"""In one exponent whose shortest form is looked for: cones have faces as a power of their number."""
MOST_VALUES = 1_000_000
"""On generators of cones, for all exponents of an answer: some 10 seconds."""
MOST_PARTS = 200_000
"""Of an exponent that has no short form: a megabyte."""
ONE: Expr = S.One


class Known:
    """The expressions `at_most_one`, of which an answer is asked."""

    def __init__(self, at_most_one: Iterable[Expr] = ()) -> None:
        bounded = [each for each in dict.fromkeys(at_most_one) if not isinstance(each, Rational)]
        self._facts = [_linear(1 - each) for each in bounded]
        self._patience = Patience(MOST_VALUES)
        self._shortened: dict[Expr, Expr] = {}
        self._cones: dict[tuple[Expr, ...], Cone] = {}
        self._counts: dict[Expr, int] = {}
        self._nested: dict[Expr, bool] = {}

    def short(self, expression: Expr) -> Expr:
        """The shortest form of the expression; unchanged where it has too many symbols or pieces."""
        if not self._has_extrema(expression):
            return expression
        if expression not in self._shortened:
            self._shortened[expression] = self._shortest(expression) or expression
        return self._shortened[expression]

    def largest(self, *values: Expr) -> Expr:
        """The maximum; DeriveError where it has too many parts."""
        return self._extremum(Max, values)

    def smallest(self, *values: Expr) -> Expr:
        """The minimum, as `largest`."""
        return self._extremum(Min, values)

    def is_nonnegative(self, expression: Expr) -> bool:
        """Whether it is so for certain."""
        return self.smallest(expression, S.Zero) == 0

    def _extremum(self, function: type[Max] | type[Min], values: Sequence[Expr]) -> Expr:
        found = self._shortest(cast("Expr", function(*values, evaluate=False)))
        if found is None:
            found = extremum(function, values, self._is_at_least)
            if self._parts(found) > MOST_PARTS:
                raise DeriveError(
                    "the answer would fill pages: its symbols have too many cases; give numbers to some of them, or "
                    "fewer layers"
                )
        return found

    def _shortest(self, expression: Expr) -> Expr | None:
        if self._patience.left < 0 or self._parts(expression) > MOST_PARTS:
            return None
        atoms = self._linked(_atoms(expression))
        if len(atoms) > MOST_ATOMS:
            return None
        try:
            found = cells(_tree(expression, atoms), self._cone(atoms), self._patience)
            sign, terms = shortest(found, self._patience)
        except TooManyCellsError:
            return None
        outer, inner = (Max, Min) if sign > 0 else (Min, Max)
        return _joined(outer, [_joined(inner, [_written(form, atoms) for form in term]) for term in terms])

    def _is_at_least(self, first: Expr, second: Expr) -> bool:
        """Whether first >= second for certain; extrema are not opened."""
        if self._has_extrema(first) or self._has_extrema(second):
            return first == second
        parts = _linear(first - second)
        atoms = self._linked(atom for atom in parts if atom != ONE)
        sign = self._cone(atoms).sign(_form(parts, atoms)[1:])
        return sign is not None and sign >= 0

    def _parts(self, expression: Expr) -> int:
        """Symbols, numbers and functions in it."""
        if expression not in self._counts:
            self._counts[expression] = 1 + sum(self._parts(cast("Expr", part)) for part in expression.args)
        return self._counts[expression]

    def _has_extrema(self, expression: Expr) -> bool:
        if expression not in self._nested:
            parts = cast("tuple[Expr, ...]", expression.args)
            self._nested[expression] = isinstance(expression, Max | Min) or any(map(self._has_extrema, parts))
        return self._nested[expression]

    def _linked(self, atoms: Iterable[Expr]) -> tuple[Expr, ...]:
        """The atoms, and those that some fact links to them."""
        linked, size = set(atoms), -1
        while len(linked) > size:
            size = len(linked)
            linked |= {atom for fact in self._facts if linked & set(fact) for atom in fact if atom != ONE}
        return tuple(sorted(linked, key=str))

    def _cone(self, atoms: tuple[Expr, ...]) -> Cone:
        """Where all that is known of these atoms holds; of too many, only what is known of one alone."""
        if atoms not in self._cones:
            cone = everywhere(len(atoms) + 1)
            facts: list[Linear] = [{ONE: Fraction(1)}, *({atom: Fraction(1)} for atom in atoms if atom.is_nonnegative)]
            facts += (fact for fact in self._facts if set(fact) <= {ONE, *atoms})
            for fact in facts:
                form = _form(fact, atoms)[1:]
                if cone.sign(form) is None and (len(atoms) <= MOST_ATOMS or len(fact) <= 2):
                    cone = cone.cut(form)
            self._cones[atoms] = cone
        return self._cones[atoms]


def _linear(expression: Expr) -> Linear:
    """{atom: coefficient} of an expression without extrema; the constant's atom is 1."""
    parts = expression.expand().as_coefficients_dict()
    return {cast("Expr", atom): _fraction(factor) for atom, factor in parts.items() if factor}


def _fraction(number: object) -> Fraction:
    rational = cast("Rational", number)
    return Fraction(int(rational.p), int(rational.q))


def _form(parts: Linear, atoms: Sequence[Expr]) -> Form:
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
            yield _fraction(factor), rest
        elif factor != 1:
            for own, inner in _split(rest):
                yield _fraction(factor) * own, inner
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
    """The expression as a tree, in which sums of one extremum and forms are extrema of sums."""
    extrema: list[tuple[Fraction, Tree]] = []
    form = _form({}, atoms)
    for factor, part in _split(expression):
        if isinstance(part, Max | Min):
            inner = (_tree(cast("Expr", each), atoms) for each in part.args)
            extrema.append((factor, extremum_of(1 if isinstance(part, Max) else -1, inner)))
        else:
            parts = {part: Fraction(1)} if part.has(Max, Min) else _linear(part)
            form = added(form, factor, _form(parts, atoms))
    if not extrema:
        return Tree(0, form=form)
    if len(extrema) == 1:
        return moved(extrema[0][1], extrema[0][0], form)
    return Tree(None, (*(tree for _, tree in extrema), Tree(0, form=form)), (*(x for x, _ in extrema), Fraction(1)))


def _joined(function: type[Max] | type[Min], parts: Sequence[Expr]) -> Expr:
    return parts[0] if len(parts) == 1 else cast("Expr", function(*parts, evaluate=False))


def _written(form: Form, atoms: Sequence[Expr]) -> Expr:
    """The form as a sum."""
    return Add(*(Rational(x, form[0]) * atom for x, atom in zip(form[1:], (ONE, *atoms), strict=True)))
