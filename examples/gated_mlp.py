"""A gated MLP, W_down (silu(W_gate z) * W_up z), on 16 bytes at once; layers start as PyTorch's do."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from examples.text import batches

CONTEXT, LAYERS = 16, 3


def norm(z: Array, gain: Array) -> Array:
    """gain z / RMS(z)."""
    return gain * z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def apply(params: dict, tokens: Int[Array, "batch tokens"]) -> Array:
    """The logits of the next byte."""
    places = jnp.arange(CONTEXT) * 256 + tokens[:, :-1]
    z = params["embedding"][places].sum(axis=1)
    for layer in params["layers"]:
        y = norm(z, layer["gain"])
        z = z + (jax.nn.silu(y @ layer["gate"]) * (y @ layer["up"])) @ layer["down"]
    return norm(z, params["gain"]) @ params["readout"] + params["bias"]


def loss(logits: Array, tokens: Int[Array, "batch tokens"]) -> Array:
    """Mean cross-entropy of the last byte, in nats."""
    return -jax.nn.log_softmax(logits)[jnp.arange(len(tokens)), tokens[:, -1]].mean()


def make(width: int) -> tuple:
    """(params, apply, inputs, loss) at that width; d_ff is twice the width."""
    keys = iter(jax.random.split(jax.random.key(0), 3 + 3 * LAYERS))

    def linear(fan_in: int, *shape: int) -> Array:
        return jax.random.uniform(next(keys), shape, minval=-1, maxval=1) * fan_in**-0.5

    layers = [
        {
            "gain": jnp.ones(width),
            "gate": linear(width, width, 2 * width),
            "up": linear(width, width, 2 * width),
            "down": linear(2 * width, 2 * width, width),
        }
        for _ in range(LAYERS)
    ]
    outer = {"gain": jnp.ones(width), "readout": linear(width, width, 256), "bias": linear(width, 256)}
    embedding = 0.25 * jax.random.normal(next(keys), (CONTEXT * 256, width))
    return {"embedding": embedding, "layers": layers, **outer}, apply, batches(64, CONTEXT), loss
