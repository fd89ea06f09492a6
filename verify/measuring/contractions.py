"""Contractions written by hand: (x * y).sum(axis), a dot of x and y but for how it is written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Var

ROUNDING = "convert_element_type"


@dataclass(frozen=True)
class Contraction:
    """A product of entries, and the sum that alone takes it."""

    product: JaxprEqn
    total: JaxprEqn

    @property
    def entries(self) -> int:
        """How many are summed."""
        shape = self.total.invars[0].aval.shape  # type: ignore[union-attr]
        return prod(shape[axis] for axis in self.total.params["axes"])

    @property
    def dot(self) -> JaxprEqn:
        """The same as one dot_general: every axis that is not summed is one of its batch."""
        shape, dtype = self.total.invars[0].aval.shape, self.product.outvars[0].aval.dtype  # type: ignore[union-attr]
        summed = tuple(self.total.params["axes"])
        kept = tuple(axis for axis in range(len(shape)) if axis not in summed)
        like = jax.ShapeDtypeStruct(shape, dtype)
        numbers = ((summed, summed), (kept, kept))
        return jax.make_jaxpr(lambda x, y: jax.lax.dot_general(x, y, numbers))(like, like).jaxpr.eqns[0]


def contractions(jaxpr: Jaxpr) -> dict[Var, Contraction]:
    """The contractions of a program that are written by hand, by the variable of their product.

    Where one factor is the same along an axis that is summed it is not: c x summed is c times the sum of x.
    """
    makers = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    uses = Counter(atom for eqn in jaxpr.eqns for atom in eqn.invars if isinstance(atom, Var))
    uses += Counter(atom for atom in jaxpr.outvars if isinstance(atom, Var))
    found = {}
    for total in jaxpr.eqns:
        if total.primitive.name == "reduce_sum":
            product = _taken_alone(total.invars[0], makers, uses)
            if product is not None and product.primitive.name == "mul" and _vary(product, total, makers):
                found[product.outvars[0]] = Contraction(product, total)
    return found


def _taken_alone(atom: object, makers: Mapping[Var, JaxprEqn], uses: Mapping[Var, int]) -> JaxprEqn | None:
    """What made a value that nothing else takes, behind its rounding."""
    maker = makers.get(atom) if isinstance(atom, Var) and uses[atom] == 1 else None
    if maker is not None and maker.primitive.name == ROUNDING:
        return _taken_alone(maker.invars[0], makers, uses)
    return maker


def _vary(product: JaxprEqn, total: JaxprEqn, makers: Mapping[Var, JaxprEqn]) -> bool:
    """Whether both factors are variables, not the same one, that differ along every axis that is summed."""
    left, right = product.invars
    if not isinstance(left, Var) or not isinstance(right, Var) or left is right:
        return False
    shape = total.invars[0].aval.shape  # type: ignore[union-attr]
    for factor in (left, right):
        maker = makers.get(factor)
        spread = maker is not None and maker.primitive.name == "broadcast_in_dim"
        own = factor.aval.shape  # type: ignore[attr-defined]
        if len(own) != len(shape):
            return False
        for axis in total.params["axes"]:
            if spread and maker is not None:
                places, before = maker.params["broadcast_dimensions"], maker.invars[0].aval.shape  # type: ignore[union-attr]
                if axis not in places or before[places.index(axis)] != shape[axis]:
                    return False
            elif own[axis] != shape[axis]:
                return False
    return True
