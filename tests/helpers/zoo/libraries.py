"""Models as people write them in Flax, Equinox and Haiku."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tests.helpers.zoo.model import Model
from tests.helpers.zoo.parts import HEAD, normal, words

KEY = jax.random.key(0)
BLOCKS = 2


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
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x), words(2, 6)


# Haiku: an MLP


def haiku_mlp(width: int) -> Any:
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([width, width, width, 7])(x)))
    inputs = normal(0, 5, 12)
    return model.init(KEY, inputs), model.apply, inputs


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


BLOCK = "query.kernel key.kernel value.kernel out.kernel FlaxBlock_*.Dense_?.kernel"
LAYERS = "query_proj.weight key_proj.weight value_proj.weight output_proj.weight mlp.layers.?.weight"
MODELS = {
    "flax lm1b": Model(
        flax_model(LanguageModel, words(2, 6)),
        "Flax: a decoder as in its examples, fixed positions",
        BLOCK,
        "=Dense_0.kernel",
        gradients={"=Dense_0.bias": 0},
    ),
    "flax vit": Model(
        flax_model(VisionTransformer, normal(1, 2, 8, 8, 3)),
        "Flax: patches by a convolution, class token, learned positions",
        BLOCK,
        "=Dense_0.kernel",
        gradients={"=Dense_0.bias": 0},
    ),
    "equinox gpt": Model(equinox_gpt, "Equinox: pre-norm decoder", LAYERS, "head.weight"),
    "haiku mlp": Model(
        haiku_mlp,
        "Haiku: a multilayer perceptron",
        "*linear_1.w *linear_2.w",
        "*linear_3.w",
        gradients={"*linear_3.b": 0},
    ),
    "convolutions": Model(
        flax_model(ConvNet, normal(2, 2, 8, 8, 3)),
        "Flax: group norm, a residual, a depthwise layer",
        "conv_?.kernel wider.kernel",
        "head.kernel",
        gradients={"head.bias": 0},
        heavy=True,
    ),
}
