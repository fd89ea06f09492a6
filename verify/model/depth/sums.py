"""The terms of sums in a program, and of every term what makes it, up to the sum itself: the branches of a stream."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import prod

import numpy as np

from verify.measuring.jaxpr import LABELS, RAGGED
from verify.model.depth.program import CARRY, CONSTANT, LOOP, PARAMETER, Program, Value
from verify.model.rows import without_numbers

PASSING = frozenset(
    [
        *("reshape", "transpose", "convert_element_type", "copy", "squeeze", "expand_dims", "broadcast_in_dim"),
        *("sharding_constraint", "reduce_precision", "name"),
    ]
)
"""Operations that leave the entries as they are."""
SUMS = ("add", "add_any")
"""A difference is none: a norm's z less its mean is not z with one more branch."""
PRODUCTS = frozenset({*LABELS, *RAGGED} - {"gather"})
"""Those of a weight or an activation with what is summed."""
ROOTS = ("rsqrt", "sqrt")
Signature = frozenset[str]


@dataclass(frozen=True)
class Term:
    """A term of a sum: what makes it, times the constant `factor`, as often as `count`."""

    value: Value
    factor: float
    count: int


@dataclass
class Terms:
    """The terms of every value of a program."""

    program: Program
    known: dict[Value, list[Term]] = field(default_factory=dict)

    def of(self, value: Value) -> list[Term]:
        """The terms of the value; itself alone where it is no sum."""
        if value not in self.known:
            self.known[value] = self._found(value)
        return self.known[value]

    def _found(self, value: Value) -> list[Term]:
        if value.operation in PASSING:
            return self.of(value.sources[0]) if value.sources else [Term(value, 1.0, 1)]
        if value.operation in SUMS:
            found = [term for source in value.sources for term in self.of(source)]
            return [term for term in found if term.value.operation != CONSTANT] or [Term(value, 1.0, 1)]
        if value.operation in ("mul", "div"):
            constant = factor_of(value)
            if constant is not None:
                return [Term(t.value, constant[0] * t.factor, t.count) for t in self.of(constant[1])]
        if value.operation == LOOP:
            return self._loop(value)
        return [Term(value, 1.0, 1)]

    def _loop(self, value: Value) -> list[Term]:
        """What a loop begins with and adds in every turn; itself where it does more to what it carries."""
        start, made, carry = value.sources
        found = self.of(made)
        kept = [term for term in found if term.value is carry]
        if [(term.factor, term.count) for term in kept] != [(1.0, 1)] or len(found) == 1:
            return [Term(value, 1.0, 1)]
        turned = [Term(t.value, t.factor, t.count * value.turns) for t in found if t.value is not carry]
        return [*self.of(start), *turned]

    def largest(self) -> list["Sum"]:
        """The sums that are no part of another one."""
        sums = {
            frozenset(term.value for term in self.of(value)): value
            for value in self.program.values
            if value.operation in (*SUMS, LOOP) and len(self.of(value)) > 1
        }
        return [
            Sum(self, value, self.of(value))
            for values, value in sums.items()
            if not any(values < others for others in sums)
        ]


def factor_of(value: Value) -> tuple[float, Value] | None:
    """(constant, the rest) of a product with a single number, or of a quotient by one; None for any other."""
    left, right = value.sources
    number = _number(right)
    if number is not None:
        return (number if value.operation == "mul" else 1 / number if number else 0.0), left
    number = _number(left)
    return (number, right) if number is not None and value.operation == "mul" else None


def _number(value: Value) -> float | None:
    while value.operation in PASSING and value.sources:
        value = value.sources[0]
    if value.number is None or value.number.size == 0 or not np.issubdtype(value.number.dtype, np.number):
        return None
    entries = np.asarray(value.number, dtype=float).ravel()
    return float(entries[0]) if (entries == entries[0]).all() else None


@dataclass(eq=False)
class Sum:
    """One sum: its value and its terms."""

    terms: Terms
    value: Value
    parts: list[Term]

    def holds(self, value: Value) -> bool:
        """Whether the value is the sum as far as it goes there."""
        if value.operation == CARRY:
            return any(each.operation == LOOP and each.sources[2] is value for each in self.loops)
        own = {term.value for term in self.parts}
        return any(
            term.value in own or (term.value.operation == CARRY and self.holds(term.value))
            for term in self.terms.of(value)
        )

    @property
    def loops(self) -> list[Value]:
        """The loops that it is carried through."""
        found, value = [], [self.value]
        while value:
            each = value.pop()
            if each.operation == LOOP:
                found.append(each)
                value.append(each.sources[0])
            elif each.operation in (*SUMS, *PASSING, "mul", "div"):
                value += each.sources
        return found

    def branch(self, term: Term) -> list[Value]:
        """Everything that makes the term but the sum itself."""
        found: dict[Value, None] = {}
        waiting = [term.value]
        while waiting:
            value = waiting.pop()
            if value in found or (value is not term.value and self.holds(value)):
                continue
            found[value] = None
            waiting += value.sources
        return list(found)

    def signature(self, term: Term) -> Signature:
        """The parameters that the term is made of, by their paths without numbers."""
        return frozenset(without_numbers(path) for path in paths(self.branch(term)))

    def counted(self) -> Counter[Signature]:
        """How many terms there are of every kind."""
        found: Counter[Signature] = Counter()
        for term in self.parts:
            found[self.signature(term)] += term.count
        return found


def paths(values: Collection[Value]) -> list[str]:
    """The parameters among the values."""
    return list(dict.fromkeys(value.path for value in values if value.path is not None))


def is_normed(found: Sum) -> bool:
    """Whether every product that takes the sum, and every result, takes it divided by its own size."""
    seen: dict[Value, frozenset[bool]] = {}

    def reach(value: Value) -> frozenset[bool]:
        """How the sum gets there without a product with a weight between: divided by a root of it, or bare."""
        if value in seen:
            return seen[value]
        seen[value] = frozenset()
        if found.holds(value):
            how = frozenset([False])
        elif value.operation in PRODUCTS or value.operation in (PARAMETER, CONSTANT):
            how = frozenset()
        else:
            how = frozenset().union(*map(reach, value.sources))
            if value.operation in ROOTS:
                how = frozenset(True for _ in how)
            elif True in how:  # z times the root of what it is made of
                how = frozenset([True])
        seen[value] = how
        return how

    takers = [source for value in found.terms.program.values if value.operation in PRODUCTS for source in value.sources]
    return all(False not in reach(each) for each in (*takers, *found.terms.program.results))


def chain(branch: Collection[Value], term: Term) -> Iterator[tuple[Value, float]]:
    """From the end of a branch back: (parameter, 1) for what multiplies all of it, and (value, constant)."""
    value = term.value
    while value in branch:
        if value.path is not None:
            yield value, 1.0
            return
        if value.operation in PASSING and value.sources:
            value = value.sources[0]
        elif value.operation in ("mul", "div") and (constant := factor_of(value)) is not None:
            yield value, constant[0]
            value = constant[1]
        elif value.operation in ("mul", *PRODUCTS):
            weights = [_parameter(source) for source in value.sources]
            owned = [each for each in weights if each is not None]
            if len(owned) != 1:
                return
            yield owned[0]
            value = value.sources[weights.index(None)]
        else:
            return


def _parameter(value: Value) -> tuple[Value, float] | None:
    """A parameter, and the constant that it is multiplied by."""
    factor = 1.0
    while value.path is None:
        if value.operation in PASSING and value.sources:
            value = value.sources[0]
        elif value.operation in ("mul", "div") and (constant := factor_of(value)) is not None:
            factor, value = factor * constant[0], constant[1]
        else:
            return None
    return value, factor


def constants(branch: Collection[Value]) -> list[float]:
    """The single numbers in a branch, from small to large."""
    numbers = [value.number for value in branch if value.operation == CONSTANT and prod(value.shape) == 1]
    return sorted(float(each.ravel()[0]) for each in numbers if each is not None and each.dtype.kind == "f")
