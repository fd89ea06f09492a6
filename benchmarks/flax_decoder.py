"""The peer: a Flax decoder in the configuration that google-deepmind/nanodo documents, written for this benchmark.

    z = W_token + W_position,  z += out(attention(query(y), key(y), value(y))),  z += down(gelu(up(y)))
    logits = W_token^T y        y = norm(z): mean taken off, divided by the standard deviation, times a gain

Pre-norm blocks, learned positions, no biases, q divided by the root of the head size, masked scores at float32's
smallest number, MLP four widths wide, and the readout tied to the token embedding. What differs from `verify`'s
transformer, in parameters: 2 blocks + 1 norm gains of `width` more, and vocabulary x width fewer for the tied readout.
The products are the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Attention(nn.Module):
    """softmax(q k^T / sqrt(head size)) v over earlier positions, from and to the width of its input."""

    heads: int

    @nn.compact
    def __call__(self, y: jax.Array) -> jax.Array:
        """[batch, time, width] -> the same."""
        time, width = y.shape[1:]
        size = width // self.heads
        q, k, v = (
            nn.DenseGeneral((self.heads, size), use_bias=False, name=name)(y) for name in ("query", "key", "value")
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q / size**0.5, k)
        earlier = nn.make_causal_mask(jnp.ones((1, time)), dtype=bool)
        weights = nn.softmax(jnp.where(earlier, scores, jnp.finfo(scores.dtype).min))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return nn.DenseGeneral(width, axis=(-2, -1), use_bias=False, name="out")(mixed)


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and added to what it read."""

    heads: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[batch, time, width] -> the same."""
        width = z.shape[-1]
        z = z + Attention(self.heads)(nn.LayerNorm(use_bias=False)(z))
        inner = nn.Dense(4 * width, use_bias=False)(nn.LayerNorm(use_bias=False)(z))
        return z + nn.Dense(width, use_bias=False)(nn.gelu(inner))


class Decoder(nn.Module):
    """The whole network: tokens to logits of the next one."""

    vocabulary: int
    context: int
    width: int
    heads: int
    blocks: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> Any:
        """[batch, time] -> [batch, time, vocabulary]."""
        embedding = nn.Embed(self.vocabulary, self.width)
        positions = nn.Embed(self.context, self.width)
        z = embedding(tokens) + positions(jnp.arange(tokens.shape[1]))
        for _ in range(self.blocks):
            z = Block(self.heads)(z)
        return embedding.attend(nn.LayerNorm(use_bias=False)(z))
