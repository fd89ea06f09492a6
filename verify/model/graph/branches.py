"""Branches and loops whose course depends on the data: one of the branches, as many turns as there are."""

from collections.abc import Sequence
from fractions import Fraction

from jax.extend.core import ClosedJaxpr, JaxprEqn

from verify.measuring.jaxpr import as_closed
from verify.model.graph.graph import ZERO
from verify.model.graph.products import Products
from verify.model.graph.value import Activation, Constant, Value, Weight, sizes
from verify.model.graph.weights import Shapes
from verify.values import Tree


class Branches(Products):
    """The rules with those of cond and while."""

    def branches(
        self,
        eqn: JaxprEqn,
        wide: JaxprEqn,
        inputs: list[Value],
        iteration: tuple[int, ...],
        shapes: list[Shapes],
    ) -> list[Value]:
        """The results of a cond or a while; of data that nothing trained enters they are data."""
        entered = any(isinstance(each, Weight) or getattr(each, "node", None) is not None for each in inputs)
        if not entered:
            return [Activation(shape) for shape in shapes]
        if eqn.primitive.name == "cond":
            found = []
            for branch, pair in enumerate(zip(eqn.params["branches"], wide.params["branches"], strict=True)):
                found.append(self.inside(branch, pair, inputs[1:], iteration))
            return [self.either(values, shape) for values, shape in zip(zip(*found, strict=True), shapes, strict=True)]
        return self.turns(eqn, wide, inputs, iteration, shapes)

    def turns(
        self,
        eqn: JaxprEqn,
        wide: JaxprEqn,
        inputs: list[Value],
        iteration: tuple[int, ...],
        shapes: list[Shapes],
    ) -> list[Value]:
        """What a loop carries after any number of turns: two of them tell, where the second changes no size."""
        first, last = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
        pair = eqn.params["body_jaxpr"], wide.params["body_jaxpr"]
        constants, carry, seen = inputs[first:last], inputs[last:], []
        for turn in (0, 1):
            made = self.inside(0, pair, [*constants, *carry], (*iteration, turn))
            carry = [
                self.either(values, shape) for values, shape in zip(zip(carry, made, strict=True), shapes, strict=True)
            ]
            seen.append([_exponents(each) for each in carry])
        if seen[0] != seen[1]:
            self.graph.problem(
                "what a while loop carries has another size after every turn, by a power of the width, and how many "
                "turns there are cannot be told; use jax.lax.scan, or keep its size"
            )
        return carry

    def inside(
        self, part: int, pair: tuple[Tree, Tree], inputs: list[Value], iteration: tuple[int, ...]
    ) -> list[Value]:
        """The results of one of an equation's bodies."""
        outer = self.address
        self.address = (*outer, part)
        found = self.program(as_closed(pair[0]), as_closed(pair[1]), inputs, iteration)
        self.address = outer
        return found

    def either(self, values: Sequence[Value], shape: Shapes) -> Value:
        """One of the values, as the data have it."""
        if all(value is values[0] for value in values):
            return values[0]
        if all(isinstance(value, Constant) for value in values):
            return Activation(shape, size=min(map(self.constant_power, values)))
        return self.added(self.activations(list(values)), shape)

    def program(
        self, small: ClosedJaxpr, large: ClosedJaxpr, arguments: list[Value], iteration: tuple[int, ...]
    ) -> list[Value]:
        """The results of a program on these arguments."""
        raise NotImplementedError


def _exponents(value: Value) -> tuple[Fraction, Fraction]:
    """Of what a loop carries: what it may grow to, and what it is as drawn."""
    if not isinstance(value, Activation):
        return ZERO, ZERO
    bound, drawn = sizes(value)
    return bound, drawn.plain
