"""Contractions written by hand: (x * y).sum(axis), a dot of x and y but for how it is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var

from verify.measuring.jaxpr import shape_of
from verify.values import Leaf

ROUNDING = "convert_element_type"
SPREADING = "broadcast_in_dim"


@dataclass(frozen=True)
class Factor:
    """One factor before it was spread over the other's axes; `axes` are those of the product along which it varies."""

    source: Var
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Contraction:
    """A product of entries, and the sum that alone takes it."""

    product: JaxprEqn
    total: JaxprEqn
    factors: tuple[Factor, Factor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the product."""
        return shape_of(self.total.invars[0])

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes that are summed, but for those of one entry."""
        return tuple(axis for axis in self.total.params["axes"] if self.shape[axis] > 1)

    @property
    def entries(self) -> int:
        """How many are summed."""
        return prod(self.shape[axis] for axis in self.summed)

    def operand(self, place: int) -> tuple[int, ...]:
        """The shape of a factor without axes of one entry."""
        return tuple(self.shape[axis] for axis in self.factors[place].axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the product as the dot leaves them: those of both factors, the first's, the second's."""
        first, second = (factor.axes for factor in self.factors)
        kept = [axis for axis in range(len(self.shape)) if axis not in self.summed]
        both = [axis for axis in kept if axis in first and axis in second]
        free = [[axis for axis in kept if axis in own and axis not in both] for own in (first, second)]
        return (*both, *free[0], *free[1])

    @cached_property
    def dot(self) -> JaxprEqn:
        """The same as one dot_general of the two operands."""
        first, second = (factor.axes for factor in self.factors)
        both = [axis for axis in self.order if axis in first and axis in second]

        def places(axes: Sequence[int]) -> tuple[list[int], list[int]]:
            return [first.index(axis) for axis in axes], [second.index(axis) for axis in axes]

        numbers = (places(self.summed), places(both))
        dtype = self.product.outvars[0].aval.dtype  # type: ignore[attr-defined]
        like = [jax.ShapeDtypeStruct(self.operand(place), dtype) for place in (0, 1)]
        return jax.make_jaxpr(lambda x, y: jax.lax.dot_general(x, y, numbers))(*like).jaxpr.eqns[0]

    def to_dot(self, output: Leaf) -> Leaf:
        """The sum as the dot gives it."""
        kept = sorted(self.order)
        return output.reshape([self.shape[axis] for axis in kept]).transpose([kept.index(axis) for axis in self.order])

    def from_dot(self, output: Leaf) -> Leaf:
        """What the dot gives as the sum has it."""
        back = [self.order.index(axis) for axis in sorted(self.order)]
        return output.transpose(back).reshape(shape_of(self.total.outvars[0]))


@lru_cache(maxsize=256)  # the body of a loop is asked for in every turn
def contractions(jaxpr: Jaxpr) -> dict[Var, Contraction]:
    """The contractions of a program that are written by hand, by the variable of their product.

    Where one factor is the same along an axis that is summed it is not: c x summed is c times the sum of x.
    """
    makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    uses = Counter(atom for eqn in jaxpr.eqns for atom in eqn.invars if isinstance(atom, Var))
    uses += Counter(atom for atom in jaxpr.outvars if isinstance(atom, Var))
    found = {}
    for total in jaxpr.eqns:
        product = _taken_alone(total.invars[0], makers, uses) if total.primitive.name == "reduce_sum" else None
        if product is None or product.primitive.name != "mul" or product.invars[0] is product.invars[1]:
            continue
        rank = len(shape_of(total.invars[0]))
        factors = [_factor(atom, rank, makers) for atom in product.invars]
        if factors[0] is not None and factors[1] is not None:
            one = Contraction(product, total, (factors[0], factors[1]))
            if one.summed and all(axis in factor.axes for factor in one.factors for axis in one.summed):
                found[product.outvars[0]] = one
    return found


def _taken_alone(atom: object, makers: Mapping[Var, JaxprEqn], uses: Mapping[Var, int]) -> JaxprEqn | None:
    """What made a value that nothing else takes, behind its rounding."""
    maker = makers.get(atom) if isinstance(atom, Var) and uses[atom] == 1 else None
    if maker is not None and maker.primitive.name == ROUNDING:
        return _taken_alone(maker.invars[0], makers, uses)
    return maker


def _factor(atom: object, rank: int, makers: Mapping[Var, JaxprEqn]) -> Factor | None:
    """A factor of a product of that rank, as it was before it was spread; None for a number."""
    if not isinstance(atom, Var) or len(shape_of(atom)) != rank:
        return None
    places = list(range(rank))
    while (maker := makers.get(atom)) is not None and maker.primitive.name == SPREADING:
        before = maker.invars[0]
        if not isinstance(before, Var):
            return None
        places = [places[axis] for axis in maker.params["broadcast_dimensions"]]
        atom = before
    return Factor(atom, tuple(place for place, size in zip(places, shape_of(atom), strict=True) if size > 1))
