"""How many runs fit on the device side by side."""

import math

import jax
import jax.numpy as jnp

from verify.sweeps.loop import EVALUATION_CHUNK, Loop, Structure
from verify.values import Leaf

MEMORY_SHARE = 0.5


def bytes_per_run(loop: Loop) -> int:
    """An upper estimate of one run's memory: parameters, gradient, update, state, and every intermediate array twice.

    The last is for the forward pass and its cotangents, as if nothing were fused, on a training batch or on as many
    held-out windows as are evaluated at once, whichever is larger. Where alignments are measured while training, W_0
    comes on top with the random words that it is drawn from, and the change since.
    """
    windows = max(loop.conditions.batch, min(loop.conditions.evaluation, EVALUATION_CHUNK))
    tokens = jax.ShapeDtypeStruct((windows, loop.context), jnp.int32)
    state = jax.eval_shape(loop.transform(jnp.zeros(len(loop.structure.layers))).init, loop.shapes)
    forward = jax.make_jaxpr(loop.model.apply)(loop.shapes, tokens)
    activations = sum(_bytes(variable.aval) for equation in forward.eqns for variable in equation.outvars)
    weights = sum(map(_bytes, jax.tree.leaves(loop.shapes)))
    copies = 6 if loop.online else 3
    return copies * weights + sum(map(_bytes, jax.tree.leaves(state))) + 2 * activations


def _bytes(array: Leaf) -> int:
    return math.prod(array.shape) * array.dtype.itemsize


def rates_at_once(structure: Structure, seeds: int) -> int:
    """How many base rates, each with all seeds, are trained side by side in a batch.

    On an accelerator as many as fit in half of its memory. On a CPU one: wider batches were measured to be no
    faster there, and small ones share out evenly over the processes.
    """
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if not statistics or "bytes_limit" not in statistics:
        return 1
    return max(1, int(MEMORY_SHARE * statistics["bytes_limit"] // (seeds * bytes_per_run(Loop(structure)))))
