"""Linear recurrences: selective and diagonal state spaces, complex ones, decaying averages, gated ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model, grown
from tests.helpers.zoo.parts import (
    CLASSES,
    TOKENS,
    Draw,
    convolve_back,
    dense,
    layer_norm,
    ones,
    over_time,
    reals,
    rms_norm,
    words,
)

STATES = 8


def mamba(n: int) -> Any:
    """dt comes through a rank that grows as n / 16, B and C through 8 states each, by one product."""
    draw = Draw()
    wide, rank = 2 * n, n // 16
    params = {"table": draw(TOKENS, n, std=1.0), "gain": jnp.ones(n), "inner": draw(n, 2 * wide)}
    params |= {"filter": draw.kernel(4, 1, wide), "filter_bias": jnp.zeros(wide), "x": draw(wide, rank + 2 * STATES)}
    params |= {"dt": {"w": draw(rank, wide), "b": jnp.full(wide, -1.0)}, "skip": jnp.ones(wide)}
    params |= {"A_log": jnp.log(jnp.tile(jnp.arange(1.0, STATES + 1), (wide, 1))), "out": draw(wide, n)}
    params |= {"end": jnp.ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        x, gate = jnp.split(rms_norm(z, p["gain"]) @ p["inner"], 2, axis=-1)
        x = jax.nn.silu(convolve_back(x, p["filter"], groups=wide) + p["filter_bias"])
        dt, b, c = jnp.split(x @ p["x"], [rank, rank + STATES], axis=-1)
        dt = jax.nn.softplus(dense(p["dt"], dt))[..., None]
        keep, entering = jnp.exp(dt * -jnp.exp(p["A_log"])), dt * b[:, :, None] * x[..., None]

        def step(h: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            h = at[0] * h + at[1]
            return h, jnp.einsum("bds,bs->bd", h, at[2])

        moved = jax.tree.map(lambda each: jnp.swapaxes(each, 0, 1), (keep, entering, c))
        y = jnp.swapaxes(jax.lax.scan(step, jnp.zeros((len(z), wide, STATES)), moved)[1], 0, 1)
        z = z + ((y + p["skip"] * x) * jax.nn.silu(gate)) @ p["out"]
        return rms_norm(z, p["end"]) @ p["head"]

    return params, apply, words()


def s4(n: int) -> Any:
    """A filter per channel, the impulse response of 8 complex states, applied by a Fourier transform."""
    draw = Draw()
    params = {"in": draw.dense(6, n), "real": jnp.full((n, STATES), -0.7), "cr": draw(n, STATES, std=0.5)}
    params |= {"imag": jnp.tile(jnp.pi * jnp.arange(STATES), (n, 1)), "ci": draw(n, STATES, std=0.5)}
    params |= {"step": draw(1, n, std=0.5)[0] - 2.0, "skip": jnp.ones(n), "mix": draw.dense(n, 2 * n), "norm": ones(n)}
    params |= {"out": draw(n, CLASSES)}

    def apply(p: Any, x: Array) -> Array:
        z = dense(p["in"], x)
        y = jnp.swapaxes(layer_norm(p["norm"], z), 1, 2)
        pole, step = -jnp.exp(p["real"]) + 1j * p["imag"], jnp.exp(p["step"])[:, None]
        powers = jnp.exp((pole * step)[..., None] * jnp.arange(8))
        weight = (p["cr"] + 1j * p["ci"]) * (jnp.exp(pole * step) - 1) / pole
        kernel = 2 * jnp.einsum("ds,dst->dt", weight, powers).real
        y = jnp.fft.irfft(jnp.fft.rfft(kernel, n=16) * jnp.fft.rfft(y, n=16), n=16)[..., :8] + p["skip"][:, None] * y
        left, right = jnp.split(dense(p["mix"], jax.nn.gelu(jnp.swapaxes(y, 1, 2))), 2, axis=-1)
        return (z + left * jax.nn.sigmoid(right)).mean(1) @ p["out"]

    return params, apply, reals(4, 8, 6)


def lru(n: int) -> Any:
    """A complex diagonal recurrence between complex projections, inside of the unit circle by its parameters."""
    draw = Draw()
    phase = np.random.default_rng(3).uniform(0, np.pi / 4, n)
    params = {"in": draw.dense(6, n), "br": draw(n, n), "bi": draw(n, n), "cr": draw(n, n), "ci": draw(n, n)}
    params |= {"radius": jnp.full(n, -1.0), "phase": jnp.asarray(phase, jnp.float32), "skip": draw(1, n, std=1.0)[0]}
    params |= {"norm": ones(n), "out": draw(n, CLASSES)}

    def apply(p: Any, x: Array) -> Array:
        z = dense(p["in"], x)
        y = layer_norm(p["norm"], z)
        pole = jnp.exp(-jnp.exp(p["radius"]) + 1j * p["phase"])
        entering = jnp.sqrt(1 - jnp.exp(-2 * jnp.exp(p["radius"]))) * (y @ (p["br"] + 1j * p["bi"]))

        def step(h: Array, x: Array) -> tuple[Array, Array]:
            h = pole * h + x
            return h, h

        states = over_time(step, jnp.zeros((len(x), n), jnp.complex64), entering)
        y = (states @ (p["cr"] + 1j * p["ci"])).real + p["skip"] * y
        return (z + jax.nn.gelu(y)).mean(1) @ p["out"]

    return params, apply, reals(4, 8, 6)


def rwkv(n: int) -> Any:
    """Every layer reads a mixture of now and before; an average that decays takes attention's place."""
    draw = Draw()
    mixes = {f"mix_{name}": jnp.full(n, 0.5) for name in ("k", "v", "r", "ck", "cr")}
    params = {"table": draw(TOKENS, n, std=1.0), "norm": ones(n), "norm_2": ones(n), "end": ones(n)} | mixes
    params |= {"decay": draw(1, n, std=0.5)[0], "first": jnp.full(n, 0.3), "head": draw(n, TOKENS)}
    params |= draw.several({"k": (n, n), "v": (n, n), "r": (n, n), "o": (n, n)})
    params |= draw.several({"ck": (n, 4 * n), "cv": (4 * n, n), "cr": (n, n)})

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]

        def mixed(y: Array, name: str) -> Array:
            before = jnp.pad(y, ((0, 0), (1, 0), (0, 0)))[:, :-1]
            return (y * p[f"mix_{name}"] + before * (1 - p[f"mix_{name}"])) @ p[name]

        y = layer_norm(p["norm"], z)
        k, v, r = mixed(y, "k"), mixed(y, "v"), jax.nn.sigmoid(mixed(y, "r"))

        def step(state: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
            (above, below), (k, v) = state, at
            now = jnp.exp(p["first"] + k)
            read = (above + now * v) / (below + now)
            keep = jnp.exp(-jnp.exp(p["decay"]))
            return (keep * above + jnp.exp(k) * v, keep * below + jnp.exp(k)), read

        start = jnp.zeros((len(z), n))
        moved = (jnp.swapaxes(k, 0, 1), jnp.swapaxes(v, 0, 1))
        read = jnp.swapaxes(jax.lax.scan(step, (start, start), moved)[1], 0, 1)
        z = z + (r * read) @ p["o"]
        y = layer_norm(p["norm_2"], z)
        z = z + jax.nn.sigmoid(mixed(y, "cr")) * (jax.nn.relu(mixed(y, "ck")) ** 2 @ p["cv"])
        return layer_norm(p["end"], z) @ p["head"]

    return params, apply, words()


def griffin(n: int) -> Any:
    """A gated linear recurrence whose decay is a power of a learned one, multiplied by a gelu branch."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "gain": jnp.ones(n), "filter": draw.kernel(4, 1, n)}
    params |= draw.several({"left": (n, n), "right": (n, n), "o": (n, n)})
    params |= {"input_gate": draw.dense(n, n), "decay_gate": draw.dense(n, n), "decay": jnp.full(n, 0.5)}
    params |= {"end": jnp.ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = rms_norm(z, p["gain"])
        x = convolve_back(y @ p["right"], p["filter"], groups=n)
        keep = jnp.exp(-8 * jax.nn.softplus(p["decay"]) * jax.nn.sigmoid(dense(p["decay_gate"], x)))
        entering = jnp.sqrt(1 - keep**2) * jax.nn.sigmoid(dense(p["input_gate"], x)) * x
        _, h = jax.lax.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (keep, entering), axis=1)
        z = z + (jax.nn.gelu(y @ p["left"]) * h) @ p["o"]
        return rms_norm(z, p["end"]) @ p["head"]

    return params, apply, words()


MODELS = {
    "mamba": Model(
        mamba,
        "selective state space, rank of dt n / 16",
        "inner x dt.w out",
        "head",
        gradients={"x": HALF + grown(18, 24) / 2},
    ),
    "s4": Model(s4, "complex diagonal states, a filter by Fourier transform", "mix.w", "out"),
    "lru": Model(lru, "complex recurrence and projections", "br bi cr ci", "out"),
    "rwkv": Model(rwkv, "token shift, decaying average, squared relu", "k v r o ck cv cr", "head"),
    "griffin": Model(
        griffin, "gated linear recurrence by an associative scan", "left right o input_gate.w decay_gate.w", "head"
    ),
}
