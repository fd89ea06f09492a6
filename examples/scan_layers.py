"""A transformer whose blocks are stacked and scanned, with rematerialisation and heads that grow with the width."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from examples.text import batches, next_byte_loss

BLOCKS, HEADS, CONTEXT = 4, 4, 32
MATRICES = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1), "up": (1, 4), "down": (4, 1)}


def norm(z: Array) -> Array:
    """z / RMS(z)."""
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


@jax.checkpoint
def block(z: Array, weights: dict) -> tuple[Array, None]:
    """Causal attention of four heads, width / 4 each, and a GELU layer."""
    q, k, v = (jnp.reshape(norm(z) @ weights[name], (*z.shape[:2], HEADS, -1)) for name in "qkv")
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(jnp.where(visible, scores, -1e9)), v)
    z = z + mixed.reshape(z.shape) @ weights["o"]
    return z + jax.nn.gelu(norm(z) @ weights["up"]) @ weights["down"], None


def apply(params: dict, tokens: Int[Array, "batch tokens"]) -> Array:
    """The logits after every position."""
    z = params["tokens"][tokens[:, :-1]] + params["positions"]
    z, _ = jax.lax.scan(block, z, params["blocks"])
    return norm(z) @ params["readout"]


def make(width: int, depth: int = BLOCKS) -> tuple:
    """(params, apply, inputs, loss) at that width and depth."""
    keys = iter(jax.random.split(jax.random.key(0), 9))

    def normal(std: float, *shape: int) -> Array:
        return std * jax.random.normal(next(keys), shape)

    blocks = {n: normal((i * width) ** -0.5, depth, i * width, o * width) for n, (i, o) in MATRICES.items()}
    tables = {"tokens": normal(0.7, 256, width), "positions": normal(0.7, CONTEXT, width)}
    return (
        {**tables, "blocks": blocks, "readout": normal(width**-0.5, width, 256)},
        apply,
        batches(16, CONTEXT),
        next_byte_loss,
    )
