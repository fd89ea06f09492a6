"""What a trace finds: dense ops, products of two activations, and the operands of both."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Array

from verify.measuring.jaxpr import DensePrimitive, Shape
from verify.values import Entries


@dataclass(frozen=True)
class DenseOp:
    """One product of a weight with an activation.

    `name` is the parameter's path, then [i] for iteration i of each scan around the op, then #2, #3, ... on further
    uses. `params` are the static parameters of the JAX primitive and `weight_position` is the weight's place among
    its operands. fan_in is what is summed over (1 for a lookup; taps x channels for a convolution), fan_out what
    one input is turned into (the length of a row for a lookup; a group's channels for a convolution); batch
    dimensions of the weight count in neither. Of a weight that several parameters make up each has an op of its own,
    with the fans of the whole and a weight that is 0 but for its part.
    """

    name: str
    path: str
    primitive: DensePrimitive
    params: Entries = field(repr=False, compare=False)
    weight_position: int
    iteration: tuple[int, ...]
    input_shape: Shape
    weight_shape: Shape
    output_shape: Shape
    fan_in: int
    fan_out: int


class Product(NamedTuple):
    """A product of two activations; its name is "dot" or "conv", numbered as the names of dense ops are."""

    name: str
    left_shape: Shape
    right_shape: Shape
    output_shape: Shape


class Operands(NamedTuple):
    """The two values that enter a dense op; the input of a lookup is its array of indices."""

    input: Array
    weight: Array


Evaluate = Callable[[DenseOp, Operands], Array]
"""The output of a dense op from its operands."""
