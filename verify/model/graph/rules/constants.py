"""What the numbers in a function's own code are: their size at both widths, and whether a product with them averages.

m of n^-m comes from the root mean square at both widths. Arrays that were drawn have it only within their scatter, and
the exponent that is meant is the simple one within that.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from verify.measuring.jaxpr import DensePrimitive, Shape, dot_numbers
from verify.model.graph.graph import ZERO, scalar_power
from verify.model.graph.value import Constant
from verify.values import Entries, Leaf, Tree

STEPS = 30
"""Of the power iteration for an operator norm."""
ERRORS = 4
"""Standard errors within which an exponent counts as a simple one, and a sum as 0."""
SLACK = 1.5
"""How far above that of full rank an operator norm may be: at rank one it is sqrt(n) / 2 times as large."""


def entries(value: Constant) -> tuple[Tree, Tree] | None:
    """The numbers at both widths, a single one for an array that repeats it; None where they cannot be read."""
    pair = value.arrays()
    if pair is None:
        return None
    small, large = (np.asarray(each) for each in pair)
    small, large = (each[(slice(0, 1),) * each.ndim] if not any(each.strides) else each for each in (small, large))
    return small, large


def stacked(rows: Sequence[Constant], shapes: tuple[Shape, Shape]) -> tuple[Tree, Tree] | None:
    """The arrays of what a loop stacks; None where they are something else, or cannot be read."""
    pairs = [row.arrays() for row in rows]
    if not pairs or any(pair is None for pair in pairs):
        return None
    small, large = (np.stack(each) for each in zip(*pairs, strict=True))
    return (small, large) if (small.shape, large.shape) == shapes else None


def is_zero(value: Constant) -> bool:
    """Whether the constant is zero everywhere."""
    pair = entries(value)
    return pair is not None and not any(np.any(each) for each in pair)


def uniform(value: Constant) -> float | None:
    """The one number that a constant holds at both widths; None where it holds several."""
    pair = entries(value)
    if pair is None:
        return None
    if any(np.iscomplexobj(each) for each in pair):
        return None
    small, large = (np.asarray(each, dtype=np.float64) for each in pair)
    same = small.size and (small == small.flat[0]).all() and (large == small.flat[0]).all()
    return float(small.flat[0]) if same else None


def nonnegative(value: Constant) -> bool:
    """Whether no entry is below zero."""
    pair = entries(value)
    return pair is not None and all(not np.iscomplexobj(each) and (each >= 0).all() for each in pair)


def size_power(value: Constant, ratio: Fraction) -> Fraction | None:
    """m of a constant that is n^-m, 0 where entries differ and their size hardly changes; None where it cannot be read.

    Zeros and infinities, which mask, count as n^0.
    """
    pair = entries(value)
    if pair is None:
        return None
    squares = [np.square(np.abs(each).astype(np.float64)) for each in pair]
    means = [float(each.mean()) if each.size else 0.0 for each in squares]
    if not all(0 < mean < math.inf for mean in means) or ratio == 1:
        return ZERO
    exponent = scalar_power(math.sqrt(means[0]), math.sqrt(means[1]), ratio)
    if all((each == each.flat[0]).all() for each in squares):
        return exponent
    if abs(exponent) < Fraction(1, 4):
        return ZERO
    within = ERRORS * math.hypot(*map(_scatter, squares)) / math.log(ratio)
    simple = (exponent.limit_denominator(most) for most in (2, 3, 4))
    return next((each for each in simple if abs(each - exponent) <= within), exponent)


def _scatter(squares: Leaf) -> float:
    """The standard error of half the log of their mean, slices counting as independent: the largest over axes."""
    found = 0.0
    for axis, length in enumerate(squares.shape):
        means = squares.mean(axis=tuple(each for each in range(squares.ndim) if each != axis))
        found = max(found, float(means.std()) / math.sqrt(length))
    return found / float(squares.mean()) / 2


def as_matrices(label: DensePrimitive, params: Entries, array: Leaf, position: int) -> Leaf:
    """The operand of a product as (batch, fan_in, fan_out); the rows of a table are its fan_in."""
    batch: Sequence[int] = ()
    if label == "conv":
        out = params["dimension_numbers"].rhs_spec[0]
        summed = [axis for axis in range(array.ndim) if axis != out]
    elif label == "gather":
        summed = list(params["dimension_numbers"].collapsed_slice_dims)
    else:
        summed, batch = (axes[position] for axes in dot_numbers(params))
    first = [*batch, *summed]
    array = array.transpose([*first, *(axis for axis in range(array.ndim) if axis not in first)])
    sizes = array.shape[: len(batch)], array.shape[len(batch) : len(first)], array.shape[len(first) :]
    return array.reshape(*map(math.prod, sizes))


def as_matrix(label: DensePrimitive, params: Entries, array: Leaf, position: int) -> Leaf:
    """The operand of a product as (fan_in, fan_out), the first one of a batch."""
    return as_matrices(label, params, array, position)[0].real.astype(np.float64)


def is_random(matrix: Leaf, narrows: bool) -> bool:
    """Whether a matrix (fan_in, fan_out) has full rank, and where it narrows columns that add up to 0 by chance.

    ||W||_op = RMS(W) (sqrt fan_in + sqrt fan_out) as of one that was drawn: changes that pass it add up at random
    signs. A mean, or a matrix of low rank, adds up what aligns.
    """
    fan_in, fan_out = matrix.shape
    rms = math.sqrt(float(np.mean(matrix**2))) if matrix.size else 0.0
    if not 0 < rms < math.inf:
        return False
    if narrows and (np.abs(matrix.sum(0)) > ERRORS * rms * math.sqrt(fan_in)).any():
        return False
    return _operator_norm(matrix) <= SLACK * rms * (math.sqrt(fan_in) + math.sqrt(fan_out))


def _operator_norm(matrix: Leaf) -> float:
    """The largest singular value, by power iteration from a fixed start."""
    vector = np.random.default_rng(0).standard_normal(matrix.shape[1])
    norm = 0.0
    for _ in range(STEPS):
        vector = matrix.T @ (matrix @ vector)
        norm = float(np.linalg.norm(vector))
        if norm == 0:
            return 0.0
        vector /= norm
    return math.sqrt(norm)
