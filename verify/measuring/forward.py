"""Alignments and update sizes at one step: pure functions of the initial and the present parameters.

For a dense op W z, with 0 at initialisation and D the change since:  D(W z) = DW z_0 + W_0 Dz + DW Dz.
Everything is measured on one fixed probe batch, so that Dz holds what training changed and nothing else.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Array, Float

from derive.propagation import Optimizers
from verify.measuring.trace import DenseOp, Evaluate, Operands, Trace
from verify.values import Leaf, Tree

Scalar = Float[Array, ""]
Sizes = dict[str, dict[str, Scalar]]
"""Per dense op, by quantity; a quantity that does not exist (a lookup has no Dz) is absent."""

LANCZOS_STEPS = 48
"""Enough for a relative error of 3e-4 where thousands of singular values crowd at the top, as Muon's do."""


def root_mean_square(x: Array) -> Scalar:
    """RMS over all entries, in float32.

    Scaled by a power of 2 before squaring, which is exact and keeps sizes from 1e-28 to 1e9 within float32.
    """
    scale = 2.0**30
    return jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32) * scale))) / scale


def change(now: Array, then: Array, ulps: int = 8) -> Array:
    """now - then, and 0 everywhere where rounding alone may tell them apart.

    RMS(now - then) <= RMS(then) ulps max(eps of float32, eps / 64 of their dtype): what has not moved differs by that
    where it is computed twice, in two programs or orders, and would pass for a change. Weights are one operation from
    what they were drawn as (1), activations a sum (8). Where products accumulate in float32 few half-precision results
    round differently, hence the 64.
    """
    difference = now - then
    if not jnp.issubdtype(then.dtype, jnp.inexact):
        return difference
    rounding = ulps * max(float(jnp.finfo(jnp.float32).eps), float(jnp.finfo(then.dtype).eps) / 64)
    moved = root_mean_square(difference) > rounding * root_mean_square(then)
    return jnp.where(moved | ~jnp.isfinite(difference), difference, jnp.zeros_like(difference))


def operator_norm(matrix: Float[Array, "rows columns"]) -> Scalar:
    """||A||_op, the largest singular value, from below: the root of A^T A's largest Ritz value.

    Lanczos' recurrence in float32, from a fixed vector and without orthogonalising again: rounding makes copies of
    Ritz values and does not move the largest. A zero matrix has norm 0. Golub & Van Loan, Matrix Computations, 10.1.
    """
    largest = jnp.max(jnp.abs(matrix)).astype(jnp.float32)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    tall = tall.astype(jnp.float32) / jnp.where(largest > 0, largest, 1)

    def step(carry: Tree, _: None) -> Tree:
        residual, size, before = carry
        vector = residual / jnp.where(size > 0, size, 1)  # once the space is exhausted, zeros
        image = (tall @ vector) @ tall
        diagonal = image @ vector
        residual = image - diagonal * vector - size * before
        size = jnp.linalg.norm(residual)
        return (residual, size, vector), (diagonal, size)

    start = jax.random.normal(jax.random.key(0), tall.shape[1:])
    carry = (start, jnp.linalg.norm(start), jnp.zeros_like(start))
    _, (diagonal, beside) = jax.lax.scan(step, carry, length=min(LANCZOS_STEPS, tall.shape[1]))
    ritz = jnp.linalg.eigvalsh(jnp.diag(diagonal) + jnp.diag(beside[:-1], 1) + jnp.diag(beside[:-1], -1))
    return largest * jnp.sqrt(ritz[-1])


def matrix_ops(trace: Trace, kinds: Tree, optimizers: Optimizers) -> frozenset[str]:
    """The dense ops whose weight is a matrix that a matrix rule updates; `kinds` is the parameters' tree of kinds."""
    kind_of = {_path(path): kind for path, kind in jax.tree_util.tree_leaves_with_path(kinds)}
    return frozenset(
        op.name for op in trace.ops if len(op.weight_shape) == 2 and optimizers[kind_of[op.path]].is_matrix_rule
    )


def _path(path: KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def initial_inputs(trace: Trace, params: Tree, probe: Array, multiply: Evaluate | None = None) -> dict[str, Array]:
    """z_0 of every dense op on the probe batch: all that is kept of the initial network."""
    evaluate = multiply or _products(trace)
    return {name: operands.input for name, operands in trace.run(params, probe, evaluate=evaluate)[1].items()}


def _products(trace: Trace) -> Evaluate:
    return lambda op, operands: trace.product(op, *operands)


def measure(
    trace: Trace,
    initial: Tree,
    inputs: dict[str, Array],
    params: Tree,
    probe: Array,
    normed: Collection[str] = (),
    multiply: Evaluate | None = None,
) -> Sizes:
    """RMS of everything that the three alignments and the propagation are made of, per dense op.

    `initial` are the parameters W_0 (drawn again from their key), `inputs` is `initial_inputs` and `params` are the
    present ones. Quantities: weight W_0, delta_w DW, input z_0, delta_input Dz, the terms DW z_0 (alpha), W_0 Dz
    (omega) and DW Dz (u), and delta_output, their sum; for the ops in `normed` also operator_norm ||DW||_op. Costs a
    forward pass and three products per op, and for an operator norm a hundred matrix-vector products.

    Of memory it takes what one op needs, whatever the depth: no DW and no Dz outlives its op. `multiply` makes the
    products where arrays lie on a mesh (`verify.training.mesh.product`): no weight and no DW leaves its place.
    """
    _, weights = trace.run(initial, probe)  # only its weights are used: compiled, its products are left out
    sizes: Sizes = {}
    last: dict[str, Scalar] = {}
    multiply = multiply or _products(trace)

    measured = {op.name for op in trace.ops}  # a caller may have left some out

    def evaluate(op: DenseOp, now: Operands) -> Array:
        nonlocal last
        if op.name not in measured:
            return multiply(op, now)
        then, now = after(last, (Operands(inputs[op.name], weights[op.name].weight), now))
        last = sizes[op.name] = _measure_op(multiply, op, then, now, op.name in normed)
        return after(last, multiply(op, now))

    trace.run(params, probe, evaluate=evaluate)
    return sizes


def after(sizes: dict[str, Scalar], arrays: Leaf) -> Leaf:
    """The arrays, which compiled are not there before the sizes are: one layer at a time is in memory.

    They are the arrays plus a 0 of which a compiler cannot know; barriers are gone when it orders what is computed.
    """
    zero = jnp.where(sum(sizes.values()) < -1, 1.0, 0.0)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), arrays)


def _measure_op(multiply: Evaluate, op: DenseOp, then: Operands, now: Operands, normed: bool) -> dict[str, Scalar]:
    rms, (z, weight) = root_mean_square, then
    update = change(now.weight, weight, ulps=1)
    if op.primitive == "gather":  # a difference of looked-up rows is the lookup of the difference, without making it
        total = multiply(op, Operands(z, now.weight)) - multiply(op, then)
    else:
        total = multiply(op, Operands(z, update))
    sizes = {"weight": rms(weight), "delta_w": rms(update), "term_alpha": rms(total)}
    if normed:
        sizes["operator_norm"] = operator_norm(update)
    if op.primitive != "gather":
        shift = change(now.input, z)
        forward, second = multiply(op, Operands(shift, weight)), multiply(op, Operands(shift, update))
        total = total + forward + second
        sizes |= {"input": rms(z), "delta_input": rms(shift), "term_omega": rms(forward), "term_u": rms(second)}
    return {**sizes, "delta_output": rms(total)}


def gradient_sizes(gradients: Tree, stacked: Collection[str] = ()) -> dict[str, Float[Array, "*layers"]]:
    """RMS of the gradient of every parameter, by path; of those in `stacked` one RMS for each along the first axis."""
    return {
        path: jax.lax.map(root_mean_square, leaf) if path in stacked else root_mean_square(leaf)
        for path, leaf in ((_path(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients))
    }
