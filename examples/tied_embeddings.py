"""One table as embedding and as readout, which no initial size fits: wrap() multiplies the second use."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from examples.text import batches, next_byte_loss

CONTEXT, BLOCKS = 32, 2


def norm(z: Array) -> Array:
    """z / RMS(z)."""
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def apply(params: dict, tokens: Int[Array, "batch tokens"]) -> Array:
    """Logits = norm(z) E^T, with E also the embedding; blocks mix each position with the mean of those before it."""
    z = norm(params["table"][tokens[:, :-1]])
    count = jnp.arange(1, z.shape[1] + 1)[:, None]
    for block in params["blocks"]:
        before = jnp.cumsum(norm(z), axis=1) / count
        z = z + jax.nn.gelu(norm(z) @ block["here"] + before @ block["before"]) @ block["out"]
    return norm(z) @ params["table"].T


def make(width: int) -> tuple:
    """(params, apply, inputs, loss) at that width."""
    keys = iter(jax.random.split(jax.random.key(0), 1 + 3 * BLOCKS))

    def matrix() -> Array:
        return jax.random.normal(next(keys), (width, width)) * width**-0.5

    table = 0.1 * jax.random.normal(next(keys), (256, width))
    blocks = [{name: matrix() for name in ("here", "before", "out")} for _ in range(BLOCKS)]
    return {"table": table, "blocks": blocks}, apply, batches(16, CONTEXT), next_byte_loss
