"""The backward pass at one step: cotangents, gradients and what sends them back, as pure functions.

For a dense op W z, with d the cotangent of its output, d loss / d (W z), and D the change since initialisation, the
signal sent back is W^T d = W_0^T d + DW^T d. It aligns as

    RMS(W_0^T d) = n^beta RMS(W_0) RMS(d)      RMS(DW^T d) = n^gamma RMS(DW) RMS(d)

and the exponent g of the gradient assumes beta = 1/2 on hidden layers (central limit) and 0 on the readout, whose
fan-out is fixed; gamma = 0 there, and on hidden layers no more than keeps DW^T d from outgrowing W_0^T d
(docs/theory.md, section 3).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from verify.measuring.forward import Scalar, Sizes, root_mean_square
from verify.measuring.trace import DenseOp, Operands, Trace
from verify.values import Tree

Loss = Callable[[Tree, Tree], Scalar]
"""(outputs, targets) -> the number that is differentiated."""


def cotangents(
    trace: Trace, loss: Loss, params: Tree, inputs: Tree, targets: Tree
) -> tuple[dict[str, Array], dict[str, Operands]]:
    """d loss / d (W z) of every dense op, before any multiplier that follows the product, and the op's operands.

    TraceError for a dense op inside a function with a derivative rule of its own that goes on after it.
    """
    zeros = {op.name: jnp.zeros(op.output_shape) for op in trace.ops}

    def shifted(shifts: dict[str, Array]) -> tuple[Scalar, dict[str, Operands]]:
        outputs, operands = trace.run(params, inputs, shifts)
        return loss(outputs, targets), operands

    return jax.grad(shifted, has_aux=True)(zeros)


def backward(trace: Trace, loss: Loss, initial: Tree, params: Tree, inputs: Tree, targets: Tree) -> Sizes:
    """RMS of everything that the backward pass is made of, per dense op, at the present parameters.

    `initial` are the parameters W_0 (drawn again from their key). Quantities: weight W_0, delta_w DW, delta d, gradient
    d loss / dW of the weight as it enters the op, and unless the op is a lookup: input z, back_initial W_0^T d,
    back_change DW^T d, and back, their sum. Costs a forward and a backward pass and three products per op.
    """
    deltas, now = cotangents(trace, loss, params, inputs, targets)
    _, then = trace.run(initial, inputs)  # only its weights are used: compiled, its products are left out
    return {op.name: _measure_op(trace, op, then[op.name].weight, *now[op.name], deltas[op.name]) for op in trace.ops}


def _measure_op(trace: Trace, op: DenseOp, initial: Array, z: Array, weight: Array, delta: Array) -> dict[str, Scalar]:
    rms = root_mean_square
    change = weight - initial
    delta = delta.astype(jax.eval_shape(lambda: trace.product(op, z, weight)).dtype)  # a transpose takes no other
    (gradient,) = jax.linear_transpose(lambda weight: trace.product(op, z, weight), weight)(delta)
    sizes = {"weight": rms(initial), "delta_w": rms(change), "delta": rms(delta), "gradient": rms(gradient)}
    if op.primitive == "gather":
        return sizes

    def sent_back(weight: Array) -> Array:
        (signal,) = jax.linear_transpose(lambda z: trace.product(op, z, weight), z)(delta)
        return signal

    first, second = sent_back(initial), sent_back(change)
    signals = {"back_initial": rms(first), "back_change": rms(second), "back": rms(first + second)}
    return {**sizes, "input": rms(z), **signals}
