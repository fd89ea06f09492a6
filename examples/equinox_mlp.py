"""An Equinox MLP, whose layers start as PyTorch's do: `verify prescribe examples.equinox_mlp:make`."""

import equinox as eqx
import jax
from jaxtyping import Array, Int

from examples.text import batches

CONTEXT = 16


class Reader(eqx.Module):
    """The next byte from the 16 before it: a one-hot code, two hidden layers with biases, a readout."""

    mlp: eqx.nn.MLP

    def __init__(self, width: int) -> None:
        self.mlp = eqx.nn.MLP(CONTEXT * 256, 256, width, depth=3, key=jax.random.key(0))

    def __call__(self, tokens: Int[Array, " time"]) -> Array:
        """The logits of the next byte."""
        return self.mlp(jax.nn.one_hot(tokens, 256).ravel())


def next_byte(logits: Array, tokens: Int[Array, "batch tokens"]) -> Array:
    """The mean cross-entropy of the last byte of every window, in nats."""
    own = jax.nn.log_softmax(logits)
    return -own[jax.numpy.arange(len(tokens)), tokens[:, -1]].mean()


def make(width: int) -> tuple:
    """(params, apply, inputs, loss) at that width."""
    params, static = eqx.partition(Reader(width), eqx.is_inexact_array)

    def apply(params: Reader, tokens: Int[Array, "batch tokens"]) -> Array:
        return jax.vmap(eqx.combine(params, static))(tokens[:, :-1])

    return params, apply, batches(64, CONTEXT), next_byte
