"""Parts that models are made of: numbers, norms, positions, attention, convolutions; functions of arrays alone."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

HEAD = 16
"""Entries of a head, at every width."""
TOKENS, CLASSES = 40, 10


def normal(index: int, *shape: int, std: float | None = None) -> Array:
    """N(0, 1 / fan_in), or of that std; the last axis but one is the fan-in."""
    scale = shape[-2] ** -0.5 if std is None else std
    return scale * jax.random.normal(jax.random.key(index), shape)


class Draw:
    """Numbers one after the other, by NumPy: no shape is compiled for."""

    def __init__(self, seed: int = 0) -> None:
        self.numbers = np.random.default_rng(seed)

    def __call__(self, *shape: int, std: float | None = None) -> Array:
        """N(0, 1 / fan_in) or of that std; the last axis but one is the fan-in."""
        scale = shape[-2] ** -0.5 if std is None else std
        return jnp.asarray(scale * self.numbers.standard_normal(shape), jnp.float32)

    def kernel(self, *shape: int) -> Array:
        """A convolution's, places and fan-in before the fan-out."""
        return self(*shape, std=math.prod(shape[:-1]) ** -0.5)

    def dense(self, fan_in: int, fan_out: int) -> dict[str, Array]:
        """A layer with a bias that starts at 0."""
        return {"w": self(fan_in, fan_out), "b": jnp.zeros(fan_out)}

    def several(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
        """Weights by name."""
        return {name: self(*shape) for name, shape in shapes.items()}


def qkvo(draw: Draw, n: int, kv: int | None = None) -> dict[str, Array]:
    """The four matrices of attention, keys and values of another size where there are fewer heads of them."""
    kv = n if kv is None else kv
    return draw.several({"q": (n, n), "k": (n, kv), "v": (n, kv), "o": (n, n)})


def words(*shape: int, seed: int = 0) -> Array:
    """Tokens that all differ in a row where they can: a batch of 4 sentences of 6 unless told."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, TOKENS, shape or (4, 6)), jnp.int32)


def reals(*shape: int, seed: int = 1) -> Array:
    """Inputs of size 1."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def dense(p: Any, z: Array) -> Array:
    """z W + b."""
    return z @ p["w"] + p["b"]


def ones(*shape: int) -> dict[str, Array]:
    """Gain and bias of a norm."""
    return {"gain": jnp.ones(shape), "bias": jnp.zeros(shape)}


def rms_norm(z: Array, gain: Array | float = 1.0) -> Array:
    """z / RMS(z)."""
    return gain * z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def standard(z: Array, axis: Any = -1) -> Array:
    """(z - mean) / deviation over those axes."""
    centred = z - z.mean(axis=axis, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=axis, keepdims=True) + 1e-6)


def layer_norm(p: Any, z: Array) -> Array:
    """Over the last axis, with gain and bias."""
    return standard(z) * p["gain"] + p["bias"]


def batch_norm(p: Any, z: Array) -> Array:
    """Over all axes but the last, by this batch's own numbers."""
    return standard(z, tuple(range(z.ndim - 1))) * p["gain"] + p["bias"]


def group_norm(p: Any, z: Array, groups: int = 4) -> Array:
    """Over places and a group's channels."""
    split = z.reshape(len(z), -1, groups, z.shape[-1] // groups)
    return standard(split, (1, 3)).reshape(z.shape) * p["gain"] + p["bias"]


def causal(length: int) -> Array:
    """What may be looked at."""
    return jnp.tril(jnp.ones((length, length), bool))


def heads(z: Array, size: int = HEAD) -> Array:
    """The last axis as heads of that size."""
    return z.reshape(*z.shape[:-1], -1, size)


def attend(
    q: Array, k: Array, v: Array, mask: Array | None = None, bias: Array | float = 0.0, scale: float = HEAD**-0.5
) -> Array:
    """softmax(q k^T scale + bias) v, of heads [batch, place, head, entry]; heads joined."""
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * scale + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -1e9)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return mixed.reshape(*mixed.shape[:2], -1)


def attention(p: Any, z: Array, mask: Array | None = None, other: Array | None = None) -> Array:
    """Attention of z to itself, or to another sequence, with weights q, k, v, o without biases."""
    read = z if other is None else other
    return attend(heads(z @ p["q"]), heads(read @ p["k"]), heads(read @ p["v"]), mask) @ p["o"]


def rotated(x: Array) -> Array:
    """Rotary positions over the head's entries, [batch, place, head, entry]."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] * 100.0 ** -(jnp.arange(half) / half)
    left, right = x[..., :half], x[..., half:]
    turned = (left * jnp.cos(angles) - right * jnp.sin(angles), left * jnp.sin(angles) + right * jnp.cos(angles))
    return jnp.concatenate(turned, axis=-1)


def waves(length: int, width: int) -> Array:
    """Fixed positions: sines and cosines of falling rates."""
    angles = np.arange(length)[:, None] * 10000.0 ** -(np.arange(width // 2) / (width // 2))
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), jnp.float32)


def convolve(z: Array, w: Array, stride: int = 1, groups: int = 1) -> Array:
    """Over a picture [batch, row, column, channel], the size kept but for the stride."""
    return jax.lax.conv_general_dilated(
        z, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def convolve_back(z: Array, w: Array, dilation: int = 1, groups: int = 1) -> Array:
    """Over time [batch, place, channel], from what came before."""
    reach = (w.shape[0] - 1) * dilation
    return jax.lax.conv_general_dilated(
        z,
        w,
        (1,),
        [(reach, 0)],
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=groups,
    )


def over_time(step: Any, start: Any, z: Array) -> Array:
    """What the step gives at every place of [batch, place, ...]."""
    return jnp.swapaxes(jax.lax.scan(step, start, jnp.swapaxes(z, 0, 1))[1], 0, 1)


def patches(images: Array, size: int = 4) -> Array:
    """Squares of a picture as rows."""
    batch, rows, columns, channels = images.shape
    split = images.reshape(batch, rows // size, size, columns // size, size, channels)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(batch, (rows // size) * (columns // size), -1)
