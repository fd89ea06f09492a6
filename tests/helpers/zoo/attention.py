"""Attention beyond one stack of blocks: latents, memories, pointers, towers, a state in the place of softmax."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import (
    CLASSES,
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
    patches,
    qkvo,
    reals,
    rms_norm,
    rotated,
    words,
)

QKVO = "q k v o"


def low_rank_keys(n: int) -> Any:
    """Keys and values from one latent whose size grows with the width; a part of the keys is rotary and shared."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "gain": jnp.ones(n), "latent_gain": jnp.ones(n // 4)}
    params |= draw.several(
        {"q": (n, 2 * n), "squeeze": (n, n // 4), "turn": (n, HEAD), "k": (n // 4, n), "v": (n // 4, n), "o": (n, n)}
    )
    params |= {"end": jnp.ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = rms_norm(z, p["gain"])
        latent = rms_norm(y @ p["squeeze"], p["latent_gain"])
        q = heads(y @ p["q"], 2 * HEAD)
        k, shared = heads(latent @ p["k"]), rotated(heads(y @ p["turn"]))
        k = jnp.concatenate([k, jnp.broadcast_to(shared, k.shape)], axis=-1)
        q = jnp.concatenate([q[..., :HEAD], rotated(q[..., HEAD:])], axis=-1)
        z = z + attend(q, k, heads(latent @ p["v"]), causal(6), scale=(2 * HEAD) ** -0.5) @ p["o"]
        return rms_norm(z, p["end"]) @ p["head"]

    return params, apply, words()


def linear_attention(n: int) -> Any:
    """No softmax: a state k v per head is gathered over time and read by q, then normed."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "gain": jnp.ones(n), "end": jnp.ones(n), "head": draw(n, TOKENS)}
    params |= qkvo(draw, n)

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = rms_norm(z, p["gain"])
        q, k, v = jax.nn.elu(heads(y @ p["q"])) + 1, jax.nn.elu(heads(y @ p["k"])) + 1, heads(y @ p["v"])
        state = jnp.cumsum(jnp.einsum("bthd,bthe->bthde", k, v), axis=1)
        total = jnp.einsum("bthd,bthd->bth", q, jnp.cumsum(k, axis=1))
        mixed = jnp.einsum("bthd,bthde->bthe", q, state) / total[..., None]
        return rms_norm(z + mixed.reshape(z.shape) @ p["o"], p["end"]) @ p["head"]

    return params, apply, words()


def clip(n: int) -> Any:
    """Two towers; rows of 32 entries of norm 1, all compared with all at a learned temperature."""
    draw = Draw()
    image = {"in": draw.dense(12, n), "w": draw.dense(n, n), "norm": ones(n), "to": draw(n, 32)}
    text = draw.several({"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)})
    text |= {"table": draw(TOKENS, n, std=1.0), "norm": ones(n), "to": draw(n, 32)}
    params = {"image": image, "text": text, "temperature": jnp.asarray(1.0)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        images, tokens = inputs
        i, t = p["image"], p["text"]
        left = jax.nn.gelu(dense(i["w"], jax.nn.gelu(dense(i["in"], patches(images, 2))))).mean(1)
        right = t["table"][tokens]
        right = (right + attention(t, rms_norm(right))).mean(1)
        left, right = layer_norm(i["norm"], left) @ i["to"], layer_norm(t["norm"], right) @ t["to"]
        left, right = (z * jax.lax.rsqrt((z**2).sum(-1, keepdims=True) + 1e-6) for z in (left, right))
        return left @ right.T * jnp.exp(p["temperature"])

    return params, apply, (reals(4, 8, 8, 3), words())


def perceiver(n: int) -> Any:
    """8 learned latents read the inputs, then one another; a query of the output reads them."""
    draw = Draw()
    shapes = {"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)}
    params = {
        "in": draw(6, n),
        "latents": draw(8, n, std=1.0),
        "read": draw.several(shapes),
        "self": draw.several(shapes),
    }
    params |= {"ask": draw(2, n, std=1.0), "answer": draw.several(shapes), "head": draw(n, CLASSES)}

    def apply(p: Any, x: Array) -> Array:
        read = rms_norm(x @ p["in"])
        z = jnp.broadcast_to(p["latents"], (len(x), 8, n))
        z = z + attention(p["read"], rms_norm(z), other=read)
        z = z + attention(p["self"], rms_norm(z))
        ask = jnp.broadcast_to(p["ask"], (len(x), 2, n))
        return rms_norm(attention(p["answer"], rms_norm(ask), other=rms_norm(z))) @ p["head"]

    return params, apply, reals(4, 9, 6)


def pointer(n: int) -> Any:
    """The output is where to look: scores of a query and the inputs' keys, over entries that grow with the width."""
    draw = Draw()
    params = draw.several({"in": (6, n), "q": (n, n), "k": (n, n)})

    def apply(p: Any, x: Array) -> Array:
        z = jnp.tanh(x @ p["in"])
        return jnp.einsum("bd,btd->bt", jnp.tanh(z.mean(1) @ p["q"]), jnp.tanh(z @ p["k"])) / n

    return params, apply, reals(8, 5, 6)


def set_pooling(n: int) -> Any:
    """Attention by one learned query over a set, as in set transformers."""
    draw = Draw()
    params = {"in": draw(6, n), "seed": draw(1, n, std=1.0), "out": draw(n, 2)}
    params |= draw.several({"q": (n, n), "k": (n, n), "v": (n, n)})

    def apply(p: Any, x: Array) -> Array:
        z = rms_norm(x @ p["in"])
        q = jnp.broadcast_to(p["seed"] @ p["q"], (len(x), 1, n))
        return jnp.tanh(attend(heads(q), heads(z @ p["k"]), heads(z @ p["v"])))[:, 0] @ p["out"]

    return params, apply, reals(4, 7, 6)


def memory(n: int) -> Any:
    """Keys and values that are parameters, 32 of them at every width, read by softmax."""
    draw = Draw()
    params = {"in": draw(6, n), "query": draw(n, n), "keys": draw(32, n, std=1.0), "values": draw(32, n, std=1.0)}
    params |= {"out": draw(n, CLASSES)}

    def apply(p: Any, x: Array) -> Array:
        z = jnp.tanh(x @ p["in"])
        share = jax.nn.softmax(jnp.tanh(z @ p["query"]) @ p["keys"].T * n**-0.5)
        return jnp.tanh(z + share @ p["values"]) @ p["out"]

    return params, apply, reals(5, 6)


MODELS = {
    "low-rank keys": Model(
        low_rank_keys,
        "keys and values from a latent, as DeepSeek's",
        "q squeeze turn k v o",
        "head",
        gradients={"turn": HALF},
    ),
    "linear attention": Model(linear_attention, "a state in the place of softmax", QKVO, "head"),
    "clip": Model(
        clip,
        "two towers, compared in 32 entries",
        f"image.w.w {QKVO} to",
        gradients={"to": -HALF, "temperature": 0, "*": HALF},
    ),
    "perceiver": Model(perceiver, "latents that read", QKVO, "head", not_measured=True),
    "pointer": Model(pointer, "scores as outputs", "q k"),
    "set pooling": Model(set_pooling, "a learned query over a set", "q k v", "out", not_measured=True),
    "memory": Model(
        memory,
        "learned keys and values, scores divided by sqrt(n)",
        "query keys",
        "out",
        rates={"keys": HALF},
        gradients={"query": 3 * HALF},
    ),
}
