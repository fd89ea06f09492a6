"""Which axes of a parameter are a matrix's fan-in and fan-out, told by where its entries lie in the product's operand.

[k, k, in, out] of a convolution: (k k in) x out      [in, heads, d]: in x (heads d)      [experts, in, out]: each
"""

from collections.abc import Callable

import jax
import numpy as np

from verify.measuring.axes import Axes
from verify.measuring.jaxpr import DensePrimitive
from verify.model.graph.rules.constants import as_matrices
from verify.model.graph.value import Weight
from verify.model.graph.weights import Shapes, UnreadableError
from verify.values import Entries, Leaf

BATCH, FAN_IN, FAN_OUT = range(3)
"""The axes of an operand as a batch of matrices."""


def matrix_axes(
    weight: Weight, path: str, shapes: Shapes, label: DensePrimitive, params: Entries, position: int
) -> Axes | None:
    """The axes of the parameter at `path` in a product with that weight; None where they cannot be told."""
    if label == "conv" and params["feature_group_count"] > 1:
        return None  # its matrices are blocks of one axis

    def operand(array: Leaf) -> Leaf:
        return weight.compute(0, lambda p, s, d: (array if p == path else np.zeros(s)).astype(d))

    def placed(made: Callable[[Leaf], Leaf]) -> Axes | None:
        return _placed(shapes, lambda array: _stands(as_matrices(label, params, np.asarray(made(array)), position)))

    with jax.ensure_compile_time_eval():
        try:
            found = placed(operand)
        except UnreadableError:
            return None
        if found is None and len(weight.terms) == 1 and weight.shapes == shapes:
            found = placed(lambda array: array)  # less its mean: no entry shows where another one was
        return found


def _stands(array: Leaf) -> Leaf:
    return (array != 0) & ~np.isnan(array)  # a norm of zeros divides to NaN


def _placed(shapes: Shapes, stands: Callable[[Leaf], Leaf]) -> Axes | None:
    """The axes by which entries of the operand stand, of parameters that are 0 at some of their indices.

    Any two indices differ in a binary digit: along every axis those stand whose digit is 0, a digit at a time. An axis
    that changes nothing counts matrices, each in a product of its own.
    """
    whole = stands(np.ones(shapes[0]))
    sides: dict[int, list[int]] = {BATCH: [], FAN_IN: [], FAN_OUT: []}
    for axis, (length, target) in enumerate(zip(*shapes, strict=True)):
        if length == 1 != target:
            return None  # heads or experts, of which the base width has one
        varies: set[int] = set()
        for digit in range((length - 1).bit_length()):
            along = [length if each == axis else 1 for each in range(len(shapes[0]))]
            kept = (np.arange(length) >> digit & 1 == 0).astype(float).reshape(along)
            left = stands(np.broadcast_to(kept, shapes[0]))
            varies |= {side for side in sides if (left.any(side) & (whole & ~left).any(side)).any()}
        if len(varies) > 1:
            return None
        sides[varies.pop() if varies else BATCH].append(axis)
    return Axes(tuple(sides[FAN_IN]), tuple(sides[FAN_OUT])) if whole.any() else None
