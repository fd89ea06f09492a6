"""An Equinox MLP of residual blocks times 1/depth: `verify prescribe examples.equinox_residual:make`."""

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from examples.equinox_mlp import next_byte
from examples.text import batches

CONTEXT, BLOCKS = 16, 2


class Block(eqx.Module):
    """down(relu(up(norm(z)))), four widths inside."""

    norm: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, key: Array) -> None:
        up, down = jax.random.split(key)
        self.norm = eqx.nn.LayerNorm(width)
        self.up, self.down = eqx.nn.Linear(width, 4 * width, key=up), eqx.nn.Linear(4 * width, width, key=down)

    def __call__(self, z: Float[Array, " width"]) -> Float[Array, " width"]:
        """What the block adds."""
        return self.down(jax.nn.relu(self.up(self.norm(z))))


class Reader(eqx.Module):
    """The next byte from the 16 before it: a one-hot code, blocks, a norm and a readout."""

    first: eqx.nn.Linear
    blocks: list[Block]
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear

    def __init__(self, width: int, depth: int) -> None:
        first, last, *keys = jax.random.split(jax.random.key(0), depth + 2)
        self.first = eqx.nn.Linear(CONTEXT * 256, width, key=first)
        self.blocks = [Block(width, key) for key in keys]
        self.norm, self.last = eqx.nn.LayerNorm(width), eqx.nn.Linear(width, 256, key=last)

    def __call__(self, tokens: Int[Array, " time"]) -> Float[Array, " bytes"]:
        """The logits of the next byte."""
        z = self.first(jax.nn.one_hot(tokens, 256).ravel())
        for block in self.blocks:
            z = z + block(z) / len(self.blocks)
        return self.last(self.norm(z))


def make(width: int, depth: int = BLOCKS) -> tuple:
    """(params, apply, inputs, loss) at that width and depth."""
    params, static = eqx.partition(Reader(width, depth), eqx.is_inexact_array)

    def apply(params: Reader, tokens: Int[Array, "batch tokens"]) -> Array:
        return jax.vmap(eqx.combine(params, static))(tokens[:, :-1])

    return params, apply, batches(64, CONTEXT), next_byte
