"""Real text to train on: bytes of the running Python's own standard library."""

import argparse
from collections.abc import Callable
from functools import cache

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


@cache
def _text() -> np.ndarray:
    sources = [
        argparse.__file__,
        np.__file__,
        *(module.__file__ for module in (__import__("typing"), __import__("ast"))),
    ]
    return np.concatenate([np.fromfile(path, np.uint8) for path in sources])


def batches(batch: int, context: int) -> Callable[[int], Int[Array, "batch tokens"]]:
    """The function from a step to its batch: windows of context + 1 bytes at random places, the same for a step."""

    def of_step(step: int) -> Int[Array, "batch tokens"]:
        starts = np.random.default_rng(step).integers(0, len(_text()) - context - 1, batch)
        return jnp.asarray(_text()[starts[:, None] + np.arange(context + 1)].astype(np.int32))

    return of_step


def next_byte_loss(logits: Float[Array, "batch time 256"], tokens: Int[Array, "batch tokens"]) -> Float[Array, ""]:
    """Mean cross-entropy of the byte after every position, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()
