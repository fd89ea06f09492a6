"""A Flax nnx transformer with Flax's own initialisation: `verify prescribe examples.nnx_transformer:make`."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from examples.text import batches, next_byte_loss

BLOCKS, HEAD, CONTEXT = 2, 16, 32


class Block(nnx.Module):
    """Pre-norm causal attention and a GELU layer four widths wide."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norm_1, self.norm_2 = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(width // HEAD, width, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, z: Array) -> Array:
        """z + attention(norm(z)), then z + MLP(norm(z))."""
        z = z + self.attention(self.norm_1(z), mask=nnx.make_causal_mask(z[..., 0]))
        return z + self.down(nnx.gelu(self.up(self.norm_2(z))))


class Transformer(nnx.Module):
    """Bytes to the logits of the next one."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(256, width, rngs=rngs)
        self.positions = nnx.Embed(CONTEXT, width, rngs=rngs)
        self.blocks = nnx.List([Block(width, rngs) for _ in range(depth)])
        self.norm, self.head = nnx.LayerNorm(width, rngs=rngs), nnx.Linear(width, 256, use_bias=False, rngs=rngs)

    def __call__(self, tokens: Int[Array, "batch time"]) -> Array:
        """The logits after every position."""
        z = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            z = block(z)
        return self.head(self.norm(z))


def make(width: int, depth: int = BLOCKS) -> tuple:
    """(params, apply, inputs, loss) at that width and depth."""
    graph, params, rest = nnx.split(Transformer(width, depth, nnx.Rngs(0)), nnx.Param, ...)

    def apply(params: nnx.State, tokens: Int[Array, "batch tokens"]) -> jax.Array:
        return nnx.merge(graph, params, rest)(tokens[:, :-1])

    return params, apply, batches(4, CONTEXT), next_byte_loss
