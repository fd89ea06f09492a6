"""Models as people write them in Flax, Equinox, Haiku and plain JAX, the role of every parameter listed by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

KEY = jax.random.key(0)
HEAD, BLOCKS = 16, 2
E, H, R = "embedding", "hidden", "readout"


@dataclass(frozen=True)
class Model:
    """make(width) and the expected role of every path."""

    make: Callable[[int], Any]
    roles: Mapping[str, str]
    base_width: int = 32
    width: int = 128


def per_block(prefix: str, roles: Mapping[str, str]) -> dict[str, str]:
    """The same roles in every block."""
    return {f"{prefix.format(block)}.{name}": role for block in range(BLOCKS) for name, role in roles.items()}


def normal(index: int, *shape: int, std: float | None = None) -> Array:
    """N(0, 1 / fan_in), or of that std; the last axis but one is the fan-in."""
    scale = shape[-2] ** -0.5 if std is None else std
    return scale * jax.random.normal(jax.random.key(index), shape)


# Flax linen: a language model in the style of the LM1B example, and a vision transformer


class FlaxBlock(nn.Module):
    width: int
    causal: bool

    @nn.compact
    def __call__(self, z: Array) -> Array:
        y = nn.LayerNorm()(z)
        mask = nn.make_causal_mask(y[..., 0]) if self.causal else None
        y = nn.MultiHeadDotProductAttention(num_heads=self.width // HEAD, qkv_features=self.width)(y, y, mask=mask)
        z = z + y
        y = nn.Dense(4 * self.width)(nn.LayerNorm()(z))
        return z + nn.Dense(self.width)(nn.relu(y))


class LanguageModel(nn.Module):
    width: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        z = nn.Embed(40, self.width, embedding_init=nn.initializers.normal(1.0))(tokens)
        places, rates = (
            np.arange(tokens.shape[1])[:, None],
            10000.0 ** -(np.arange(self.width // 2) / (self.width // 2)),
        )
        z = z + jnp.asarray(np.concatenate([np.sin(places * rates), np.cos(places * rates)], axis=1), jnp.float32)
        for _ in range(BLOCKS):
            z = FlaxBlock(self.width, causal=True)(z)
        return nn.Dense(40)(nn.LayerNorm()(z))


class VisionTransformer(nn.Module):
    width: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        z = nn.Conv(self.width, (4, 4), strides=(4, 4))(images).reshape(len(images), -1, self.width)
        token = self.param("cls", nn.initializers.normal(0.5), (1, 1, self.width))
        z = jnp.concatenate([jnp.tile(token, (len(images), 1, 1)), z], axis=1)
        z = z + self.param("positions", nn.initializers.normal(0.5), (1, z.shape[1], self.width))
        for _ in range(BLOCKS):
            z = FlaxBlock(self.width, causal=False)(z)
        return nn.Dense(10)(nn.LayerNorm()(z)[:, 0])


def flax_model(module: type[nn.Module], inputs: Any) -> Callable[[int], Any]:
    def make(width: int) -> Any:
        model = module(width)  # type: ignore[call-arg]
        params = model.init(KEY, inputs)["params"]
        return params, lambda p, x: model.apply({"params": p}, x), inputs

    return make


FLAX_BLOCK = {
    "LayerNorm_0.scale": E,
    "LayerNorm_0.bias": E,
    "MultiHeadDotProductAttention_0.query.kernel": H,
    "MultiHeadDotProductAttention_0.query.bias": E,
    "MultiHeadDotProductAttention_0.key.kernel": H,
    "MultiHeadDotProductAttention_0.key.bias": E,
    "MultiHeadDotProductAttention_0.value.kernel": H,
    "MultiHeadDotProductAttention_0.value.bias": E,
    "MultiHeadDotProductAttention_0.out.kernel": H,
    "MultiHeadDotProductAttention_0.out.bias": E,
    "LayerNorm_1.scale": E,
    "LayerNorm_1.bias": E,
    "Dense_0.kernel": H,
    "Dense_0.bias": E,
    "Dense_1.kernel": H,
    "Dense_1.bias": E,
}
FLAX_END = {"LayerNorm_0.scale": E, "LayerNorm_0.bias": E, "Dense_0.kernel": R, "Dense_0.bias": E}


# Equinox: a GPT


class EquinoxBlock(eqx.Module):
    norm_1: eqx.nn.LayerNorm
    norm_2: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __init__(self, width: int, key: Any) -> None:
        first, second = jax.random.split(key)
        self.norm_1, self.norm_2 = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(width // HEAD, width, use_output_bias=True, key=first)
        self.mlp = eqx.nn.MLP(width, width, 4 * width, depth=1, activation=jax.nn.gelu, key=second)

    def __call__(self, z: Array) -> Array:
        y = jax.vmap(self.norm_1)(z)
        z = z + self.attention(y, y, y, mask=jnp.tril(jnp.ones((len(z), len(z)), bool)))
        return z + jax.vmap(self.mlp)(jax.vmap(self.norm_2)(z))


class EquinoxGPT(eqx.Module):
    tokens: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: list[EquinoxBlock]
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, width: int) -> None:
        keys = jax.random.split(KEY, 3 + BLOCKS)
        self.tokens, self.positions = eqx.nn.Embedding(40, width, key=keys[0]), eqx.nn.Embedding(6, width, key=keys[1])
        self.blocks = [EquinoxBlock(width, key) for key in keys[3:]]
        self.norm, self.head = eqx.nn.LayerNorm(width), eqx.nn.Linear(width, 40, use_bias=False, key=keys[2])

    def __call__(self, tokens: Array) -> Array:
        z = jax.vmap(self.tokens)(tokens) + jax.vmap(self.positions)(jnp.arange(len(tokens)))
        for block in self.blocks:
            z = block(z)
        return jax.vmap(self.head)(jax.vmap(self.norm)(z))


def equinox_gpt(width: int) -> Any:
    params, static = eqx.partition(EquinoxGPT(width), eqx.is_inexact_array)
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x), some_tokens()


def some_tokens() -> Array:
    return jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 6)))


# Haiku: an MLP


def haiku_mlp(width: int) -> Any:
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([width, width, width, 7])(x)))
    inputs = normal(0, 5, 12)
    return model.init(KEY, inputs), model.apply, inputs


# Plain JAX: gated MLP with grouped-query attention


def norm(z: Array, gain: Array | float = 1.0) -> Array:
    return gain * z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def rotated(x: Array) -> Array:
    """Rotary positions over the head's dimension."""
    half = x.shape[-1] // 2
    angles = jnp.arange(x.shape[1])[:, None, None] * 100.0 ** -(jnp.arange(half) / half)
    left, right = x[..., :half], x[..., half:]
    turned = (left * jnp.cos(angles) - right * jnp.sin(angles), left * jnp.sin(angles) + right * jnp.cos(angles))
    return jnp.concatenate(turned, axis=-1)


def grouped_query(width: int) -> Any:
    """Two key/value heads of 16 at every width; query heads and d_ff = 3 width grow."""
    kv = 2 * HEAD
    shapes = {"q": (width, width), "k": (width, kv), "v": (width, kv), "o": (width, width)}
    shapes |= {"gate": (width, 3 * width), "up": (width, 3 * width), "down": (3 * width, width)}
    blocks = [
        {name: normal(10 * block + i, *shape) for i, (name, shape) in enumerate(shapes.items())}
        | {"gain_1": jnp.ones(width), "gain_2": jnp.ones(width)}
        for block in range(BLOCKS)
    ]
    params = {
        "table": normal(50, 40, width, std=1.0),
        "blocks": blocks,
        "gain": jnp.ones(width),
        "head": normal(51, width, 40),
    }

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        for b in p["blocks"]:
            y = norm(z, b["gain_1"])
            q, k, v = ((y @ b[name]).reshape(*z.shape[:2], -1, HEAD) for name in "qkv")
            groups = q.shape[2] // k.shape[2]
            k, v = (jnp.repeat(each, groups, axis=2) for each in (rotated(k), v))
            scores = jnp.einsum("bthd,bshd->bhts", rotated(q), k) * HEAD**-0.5
            scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
            z = z + jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(z.shape) @ b["o"]
            y = norm(z, b["gain_2"])
            z = z + (jax.nn.silu(y @ b["gate"]) * (y @ b["up"])) @ b["down"]
        return norm(z, p["gain"]) @ p["head"]

    return params, apply, some_tokens()


# Flax linen: a convolution network


class ConvNet(nn.Module):
    width: int

    @nn.compact
    def __call__(self, images: Array) -> Array:
        z = nn.relu(nn.Conv(self.width, (3, 3), name="stem")(images))
        y = nn.relu(nn.GroupNorm(num_groups=4, name="norm")(nn.Conv(self.width, (3, 3), name="conv_1")(z)))
        z = z + nn.Conv(self.width, (3, 3), use_bias=False, name="conv_2")(y)
        z = nn.relu(nn.Conv(self.width, (3, 3), feature_group_count=self.width, name="depthwise")(z))
        z = nn.avg_pool(nn.Conv(2 * self.width, (1, 1), strides=(2, 2), name="wider")(z), (2, 2), strides=(2, 2))
        return nn.Dense(10, name="head")(z.mean(axis=(1, 2)))


# Two inputs that are multiplied


def two_inputs(width: int) -> Any:
    params = {
        "x": normal(0, 6, width),
        "y": normal(1, 9, width),
        "mix": normal(2, width, width),
        "out": normal(3, width, 2),
    }

    def apply(p: Any, pair: tuple[Array, Array]) -> Array:
        return jnp.tanh(jnp.tanh((pair[0] @ p["x"]) * jax.nn.sigmoid(pair[1] @ p["y"])) @ p["mix"]) @ p["out"]

    return params, apply, (normal(4, 5, 6), normal(5, 5, 9))


# A mixture of experts with a dense router, a scan over time, and stacked layers


def experts(width: int) -> Any:
    params = {
        "in": normal(0, 6, width),
        "router": normal(1, width, 4),
        "experts": normal(2, 4, width, width),
        "out": normal(3, width, 2),
    }

    def apply(p: Any, x: Array) -> Array:
        z = jnp.tanh(x @ p["in"])
        share = jax.nn.softmax(z @ p["router"])
        return jnp.tanh(jnp.einsum("be,bd,edf->bf", share, z, p["experts"])) @ p["out"]

    return params, apply, normal(4, 5, 6)


def recurrent(width: int) -> Any:
    params = {
        "in": normal(0, 6, width),
        "w": normal(1, width, width),
        "bias": jnp.zeros(width),
        "out": normal(2, width, 2),
    }

    def apply(p: Any, x: Array) -> Array:
        def step(z: Array, x: Array) -> tuple[Array, Array]:
            z = jnp.tanh(z @ p["w"] + x @ p["in"] + p["bias"])
            return z, z @ p["out"]

        return jax.lax.scan(step, jnp.zeros((x.shape[1], width)), x)[1]

    return params, apply, normal(3, 4, 5, 6)


# Gains of a layer and of all layers, dropout by a key among the inputs, a squeezed and a concatenated branch


def gains(width: int) -> Any:
    params = {
        "in": normal(0, 6, width),
        "w": normal(1, width, width),
        "layer": jnp.full(width, 0.5),
        "all": jnp.ones(()),
        "squeeze": normal(2, width, width // 4),
        "excite": normal(3, width // 4, width),
        "gate": normal(6, width, 1),
        "out": normal(4, 2 * width, 2),
    }

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, key = inputs
        z = x @ p["in"]
        z = jnp.where(jax.random.bernoulli(key, 0.9, z.shape), z, 0) / 0.9
        y = z + p["all"] * (p["layer"] * jnp.tanh(z @ p["w"]))
        chosen = jax.nn.sigmoid(jnp.tanh(y.mean(axis=0, keepdims=True) @ p["squeeze"]) @ p["excite"])
        return jnp.concatenate([y * chosen, z * jax.nn.sigmoid(z @ p["gate"])], axis=1) @ p["out"]

    return params, apply, (normal(5, 5, 6), jax.random.key(1))


ZOO: dict[str, Model] = {
    "flax lm1b": Model(
        flax_model(LanguageModel, some_tokens()),
        {"Embed_0.embedding": E} | per_block("FlaxBlock_{}", FLAX_BLOCK) | FLAX_END,
    ),
    "flax vit": Model(
        flax_model(VisionTransformer, normal(1, 2, 8, 8, 3)),
        {"Conv_0.kernel": E, "Conv_0.bias": E, "cls": E, "positions": E}
        | per_block("FlaxBlock_{}", FLAX_BLOCK)
        | FLAX_END,
    ),
    "equinox gpt": Model(
        equinox_gpt,
        {"tokens.weight": E, "positions.weight": E, "norm.weight": E, "norm.bias": E, "head.weight": R}
        | per_block(
            "blocks.{}",
            {
                "norm_1.weight": E,
                "norm_1.bias": E,
                "norm_2.weight": E,
                "norm_2.bias": E,
                "attention.query_proj.weight": H,
                "attention.key_proj.weight": H,
                "attention.value_proj.weight": H,
                "attention.output_proj.weight": H,
                "attention.output_proj.bias": E,
                "mlp.layers.0.weight": H,
                "mlp.layers.0.bias": E,
                "mlp.layers.1.weight": H,
                "mlp.layers.1.bias": E,
            },
        ),
    ),
    "haiku mlp": Model(
        haiku_mlp,
        {
            "mlp/~/linear_0.w": E,
            "mlp/~/linear_0.b": E,
            "mlp/~/linear_1.w": H,
            "mlp/~/linear_1.b": E,
            "mlp/~/linear_2.w": H,
            "mlp/~/linear_2.b": E,
            "mlp/~/linear_3.w": R,
            "mlp/~/linear_3.b": E,
        },
    ),
    "gated mlp, grouped queries": Model(
        grouped_query,
        {"table": E, "gain": E, "head": R}
        | per_block(
            "blocks.{}", dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), H) | {"gain_1": E, "gain_2": E}
        ),
        64,
        256,
    ),
    "convolutions": Model(
        flax_model(ConvNet, normal(2, 2, 8, 8, 3)),
        {
            "stem.kernel": E,
            "stem.bias": E,
            "conv_1.kernel": H,
            "conv_1.bias": E,
            "norm.scale": E,
            "norm.bias": E,
            "conv_2.kernel": H,
            "depthwise.kernel": E,
            "depthwise.bias": E,
            "wider.kernel": H,
            "wider.bias": E,
            "head.kernel": R,
            "head.bias": E,
        },
    ),
    "gains": Model(gains, {"in": E, "w": H, "layer": E, "all": E, "squeeze": H, "excite": H, "gate": H, "out": R}),
    "two inputs": Model(two_inputs, {"x": E, "y": E, "mix": H, "out": R}),
    "experts": Model(experts, {"in": E, "router": H, "experts": H, "out": R}),
    "recurrent": Model(recurrent, {"in": E, "w": H, "bias": E, "out": R}),
}
