"""The shortest maximum of minima, or minimum of maxima, that equals a piecewise linear function.

With f_1, f_2, ... the affine pieces that `piecewise` finds, and cells on each of which one of them holds,

    f = max over the cells of min of the f_j that are at least f there      (and the same with max and min exchanged)

from which all is left out that is not needed (Ovchinnikov 2002, max-min representation of piecewise linear functions).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

from derive.piecewise import Cell, Form, Patience, difference, halves

Terms: TypeAlias = frozenset[frozenset[int]]
Order: TypeAlias = set[tuple[frozenset[int], frozenset[int]]]
"""For every cell the forms that are at least the one that holds there, and those that are at most it."""


def shortest(found: Sequence[Cell], patience: Patience) -> tuple[int, list[list[Form]]]:
    """(1, terms) for the maximum of the terms' minima, (-1, terms) for the minimum of their maxima."""
    forms = sorted({form for _, form in found})
    order = _order(found, forms)
    if any(_terms(order, sign) is None for sign in (1, -1)):
        order = _order(_refined(found, forms, patience), forms)
    choices = [(sign, terms) for sign in (1, -1) if (terms := _terms(order, sign)) is not None]
    sign, terms = min(choices, key=lambda choice: sum(_length(forms[j]) for term in choice[1] for j in term))
    return sign, [[forms[j] for j in sorted(term)] for term in sorted(terms, key=sorted)]


def _length(form: Form) -> int:
    """As it is written, in coefficients; its denominator counts for one."""
    return sum(map(bool, form))


def _order(found: Sequence[Cell], forms: Sequence[Form]) -> Order:
    order = set()
    differences = {form: [difference(other, form) for other in forms] for form in forms}
    for cone, form in found:
        signs = [cone.sign(each) for each in differences[form]]
        above = frozenset(j for j, sign in enumerate(signs) if sign is not None and sign >= 0)
        below = frozenset(j for j, sign in enumerate(signs) if sign is not None and sign <= 0)
        order.add((above, below))
    return order


def _refined(found: Sequence[Cell], forms: Sequence[Form], patience: Patience) -> Sequence[Cell]:
    """The cells split until no two forms cross within one."""
    for first, second in combinations(forms, 2):
        crossed = difference(first, second)
        split: list[Cell] = []
        for cone, form in found:
            patience.spend(len(cone.rays))
            parts = [cone] if cone.sign(crossed) is not None else halves(cone, crossed)
            split += ((part, form) for part in parts)
        found = split
    return found


def _terms(order: Order, sign: int) -> Terms | None:
    """Sets of forms, for either sign; None where forms cross within a cell in a way that leaves it open."""
    if sign < 0:
        order = {(below, above) for above, below in order}
    terms = _smallest({above for above, _ in order})
    if not all(term & below for term in terms for _, below in order):
        return None
    for term in sorted(terms, key=lambda term: (-len(term), sorted(term))):
        if all(any(other <= above for other in terms - {term}) for above, _ in order):
            terms = terms - {term}
    return _smallest({_needed(term, order) for term in terms})


def _needed(term: frozenset[int], order: Order) -> frozenset[int]:
    """The term without the forms for which others stand on every cell."""
    for form in sorted(term):
        if all((term - {form}) & below for _, below in order):
            term = term - {form}
    return term


def _smallest(terms: set[frozenset[int]]) -> frozenset[frozenset[int]]:
    """Those that contain no other."""
    return frozenset(term for term in terms if not any(other < term for other in terms))
