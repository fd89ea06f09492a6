"""Transformers of decoders and encoders: where norms, positions, gates and multipliers stand in public models."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import (
    HEAD,
    TOKENS,
    Draw,
    attend,
    attention,
    causal,
    dense,
    heads,
    layer_norm,
    ones,
    qkvo,
    rms_norm,
    rotated,
    words,
)

ATTENTION = "q k v o"


def gpt(n: int) -> Any:
    draw = Draw()
    block = {"norm_1": ones(n), "norm_2": ones(n), "qkv": draw.dense(n, 3 * n), "o": draw.dense(n, n)}
    block |= {"up": draw.dense(n, 4 * n), "down": draw.dense(4 * n, n)}
    params = {"table": draw(TOKENS, n, std=1.0), "places": draw(6, n, std=0.5), "block": block}
    params |= {"norm": ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z, b = p["table"][tokens] + p["places"][: tokens.shape[1]], p["block"]
        q, k, v = (heads(part) for part in jnp.split(dense(b["qkv"], layer_norm(b["norm_1"], z)), 3, axis=-1))
        z = z + dense(b["o"], attend(q, k, v, causal(6)))
        z = z + dense(b["down"], jax.nn.gelu(dense(b["up"], layer_norm(b["norm_2"], z))))
        return layer_norm(p["norm"], z) @ p["head"]

    return params, apply, words()


def bert(n: int) -> Any:
    draw = Draw()
    block = qkvo(draw, n) | {"up": draw.dense(n, 4 * n), "down": draw.dense(4 * n, n)}
    block |= {"norm_1": ones(n), "norm_2": ones(n)}
    params = {"table": draw(TOKENS, n, std=1.0), "places": draw(6, n, std=0.5), "segments": draw(2, n, std=0.5)}
    params |= {"norm": ones(n), "block": block, "transform": draw.dense(n, n), "norm_2": ones(n)}
    params["output_bias"] = jnp.zeros(TOKENS)

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        tokens, segments = inputs
        z = layer_norm(p["norm"], p["table"][tokens] + p["places"][: tokens.shape[1]] + p["segments"][segments])
        b = p["block"]
        z = layer_norm(b["norm_1"], z + attention(b, z))
        z = layer_norm(b["norm_2"], z + dense(b["down"], jax.nn.gelu(dense(b["up"], z))))
        z = layer_norm(p["norm_2"], jax.nn.gelu(dense(p["transform"], z)))
        return z @ p["table"].T + p["output_bias"]

    return params, apply, (words(), (words(seed=3) > TOKENS // 2).astype(jnp.int32))


def t5(n: int) -> Any:
    draw = Draw()

    def block(cross: bool) -> dict[str, Any]:
        made: dict[str, Any] = {"self": qkvo(draw, n), "norm_1": jnp.ones(n), "norm_2": jnp.ones(n)}
        made |= draw.several({"up": (n, 4 * n), "down": (4 * n, n)})
        return made | ({"cross": qkvo(draw, n), "norm_3": jnp.ones(n)} if cross else {})

    params = {"table": draw(TOKENS, n, std=1.0), "encoder": block(False), "decoder": block(True)}
    params |= {"norm_e": jnp.ones(n), "norm_d": jnp.ones(n), "head": draw(n, TOKENS)}
    params |= {"near_e": draw(11, n // HEAD, std=0.5), "near_d": draw(11, n // HEAD, std=0.5)}
    distance = jnp.arange(6)[:, None] - jnp.arange(6) + 5

    def mixed(p: Any, z: Array, read: Array, mask: Array | None, bias: Array | float) -> Array:
        q, k, v = heads(z @ p["q"]), heads(read @ p["k"]), heads(read @ p["v"])
        return attend(q, k, v, mask, bias, scale=1.0) @ p["o"]

    def one(p: Any, z: Array, bias: Array, mask: Array | None, read: Array | None) -> Array:
        y = rms_norm(z, p["norm_1"])
        z = z + mixed(p["self"], y, y, mask, bias)
        if read is not None:
            z = z + mixed(p["cross"], rms_norm(z, p["norm_3"]), read, None, 0.0)
        return z + jax.nn.relu(rms_norm(z, p["norm_2"]) @ p["up"]) @ p["down"]

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        source, target = inputs
        near_e, near_d = (jnp.moveaxis(p[name][distance], -1, 0) for name in ("near_e", "near_d"))
        read = rms_norm(one(p["encoder"], p["table"][source], near_e, None, None), p["norm_e"])
        z = one(p["decoder"], p["table"][target], near_d, causal(6), read)
        return rms_norm(z, p["norm_d"]) @ p["head"]

    return params, apply, (words(), words(seed=5))


def llama(n: int) -> Any:
    """Two key/value heads of 16 at every width; query heads and d_ff = 3 n grow."""
    draw = Draw()
    blocks = [
        qkvo(draw, n, 2 * HEAD)
        | draw.several({"gate": (n, 3 * n), "up": (n, 3 * n), "down": (3 * n, n)})
        | {"gain_1": jnp.ones(n), "gain_2": jnp.ones(n)}
        for _ in range(2)
    ]
    params = {"table": draw(TOKENS, n, std=1.0), "blocks": blocks, "gain": jnp.ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        for b in p["blocks"]:
            y = rms_norm(z, b["gain_1"])
            q, k, v = (heads(y @ b[name]) for name in "qkv")
            k, v = (jnp.repeat(each, q.shape[2] // k.shape[2], axis=2) for each in (rotated(k), v))
            z = z + attend(rotated(q), k, v, causal(6)) @ b["o"]
            y = rms_norm(z, b["gain_2"])
            z = z + (jax.nn.silu(y @ b["gate"]) * (y @ b["up"])) @ b["down"]
        return rms_norm(z, p["gain"]) @ p["head"]

    return params, apply, words()


def parallel(n: int) -> Any:
    """One key and value for all query heads; attention and MLP read one norm and add up."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "norm": ones(n), "end": ones(n), "head": draw.dense(n, TOKENS)}
    params |= qkvo(draw, n, HEAD) | draw.several({"up": (n, 4 * n), "down": (4 * n, n)})

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = layer_norm(p["norm"], z)
        q, k, v = rotated(heads(y @ p["q"])), rotated(heads(y @ p["k"])), heads(y @ p["v"])
        scores = jnp.einsum("bthd,bsd->bhts", q, k[:, :, 0]) * HEAD**-0.5
        share = jax.nn.softmax(jnp.where(causal(6), scores, -1e9))
        mixed = jnp.einsum("bhts,bsd->bthd", share, v[:, :, 0]).reshape(z.shape)
        z = z + mixed @ p["o"] + jax.nn.gelu(y @ p["up"]) @ p["down"]
        return dense(p["head"], layer_norm(p["end"], z))

    return params, apply, words()


def gemma(n: int) -> Any:
    """The table, n^-1/2 at the start, is multiplied by n^1/2 on the way in and is the readout; logits are capped."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=n**-0.5), "gain_q": jnp.zeros(HEAD), "gain_k": jnp.zeros(HEAD)}
    params |= {f"gain_{i}": jnp.zeros(n) for i in range(5)} | qkvo(draw, n)
    params |= draw.several({"gate": (n, 4 * n), "up": (n, 4 * n), "down": (4 * n, n)})

    def apply(p: Any, tokens: Array) -> Array:
        def norm(z: Array, name: str) -> Array:
            return rms_norm(z, 1 + p[name])

        z = p["table"][tokens] * n**0.5
        y = norm(z, "gain_0")
        q, k = rotated(norm(heads(y @ p["q"]), "gain_q")), rotated(norm(heads(y @ p["k"]), "gain_k"))
        z = z + norm(attend(q, k, heads(y @ p["v"]), causal(6)) @ p["o"], "gain_1")
        y = norm(z, "gain_2")
        z = z + norm((jax.nn.gelu(y @ p["gate"]) * (y @ p["up"])) @ p["down"], "gain_3")
        return 30 * jnp.tanh(norm(z, "gain_4") @ p["table"].T / 30)

    return params, apply, words()


def normalised(n: int) -> Any:
    """Rows and columns of norm 1, a stream on the sphere with learned step sizes, scaled logits."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=n**-0.5), "head": draw(TOKENS, n, std=n**-0.5)} | qkvo(draw, n)
    params |= draw.several({"up": (n, 4 * n), "down": (4 * n, n)})
    params |= {"step_a": jnp.full(n, 0.2), "step_m": jnp.full(n, 0.2), "scale": jnp.ones(TOKENS)}

    def unit(z: Array, axis: int = -1) -> Array:
        return z * jax.lax.rsqrt(jnp.sum(z**2, axis=axis, keepdims=True) + 1e-12)

    def apply(p: Any, tokens: Array) -> Array:
        w = {name: unit(p[name], axis=0) for name in ("q", "k", "v", "up")}
        w |= {name: unit(p[name], axis=1) for name in ("o", "down")}
        z = unit(unit(p["table"])[tokens])
        q, k, v = (heads(z @ w[name]) for name in "qkv")
        z = unit(z + p["step_a"] * (unit(attend(unit(q), unit(k), v, causal(6), scale=4.0) @ w["o"]) - z))
        z = unit(z + p["step_m"] * (unit(jax.nn.silu(z @ w["up"] * n**0.5) @ w["down"]) - z))
        return z @ unit(p["head"]).T * p["scale"]

    return params, apply, words()


def universal(n: int) -> Any:
    """One block, used three times in a loop; positions by a slope per head."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "gain": jnp.ones(n), "gain_2": jnp.ones(n), "head": draw(n, TOKENS)}
    params |= qkvo(draw, n) | draw.several({"up": (n, 4 * n), "down": (4 * n, n)})
    away = jnp.arange(6) - jnp.arange(6)[:, None]

    def apply(p: Any, tokens: Array) -> Array:
        slopes = 2.0 ** -(8 * (jnp.arange(n // HEAD) + 1) / (n // HEAD))

        def block(z: Array, _: None) -> tuple[Array, None]:
            y = rms_norm(z, p["gain"])
            q, k, v = (heads(y @ p[name]) for name in "qkv")
            z = z + attend(q, k, v, causal(6), bias=slopes[:, None, None] * away) @ p["o"]
            return z + jax.nn.relu(rms_norm(z, p["gain_2"]) @ p["up"]) ** 2 @ p["down"], None

        return rms_norm(jax.lax.scan(block, p["table"][tokens], None, length=3)[0]) @ p["head"]

    return params, apply, words()


MODELS = {
    "gpt": Model(gpt, "pre-norm decoder, one kernel for q, k and v", "qkv.w o.w up.w down.w", "head"),
    "bert": Model(
        bert,
        "post-norm encoder, readout tied to the table with a bias",
        f"{ATTENTION} up.w down.w transform.w",
        gradients={"output_bias": 0},
        multipliers={"table#2": 1},
    ),
    "t5": Model(t5, "encoder and decoder, relative positions as biases, no 1/sqrt(d)", f"{ATTENTION} up down", "head"),
    "llama": Model(
        llama,
        "RMS norm, rotary positions, two key/value heads, gated MLP",
        f"{ATTENTION} gate up down",
        "head",
        gradients={"k": 1, "v": HALF, "o gain_1": 3 * HALF, "q": 2},
        later={"k": HALF, "o gain_1 q": 1},
        base_width=64,
        width=256,
    ),
    "parallel block": Model(
        parallel,
        "attention and MLP side by side, one key/value head, as GPT-J and PaLM",
        f"{ATTENTION} up down",
        "head.w",
        gradients={"k": 1, "v": HALF, "o": 3 * HALF, "q": 2, "head.b": 0},
        later={"k": HALF, "o q": 1},
    ),
    "gemma": Model(
        gemma,
        "sqrt(n) behind the table, tied; norms around every branch and of q and k; capped logits",
        f"{ATTENTION} gate up down",
        rates={"table": HALF},
        gradients={"table gain_q gain_k": HALF},
        multipliers={"table#2": HALF},
    ),
    "ngpt": Model(
        normalised,
        "weights and stream of norm 1",
        f"{ATTENTION} up down",
        "head",
        rates={"table head": HALF},
        gradients={"table head scale": HALF},
        later={"scale": 0},
    ),
    "universal": Model(
        universal,
        "one block in a loop, ALiBi, squared relu",
        f"{ATTENTION} up down",
        "head",
        base_width=128,
        width=512,
        heavy=True,
    ),
}
