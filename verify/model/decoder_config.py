"""A model from its Hugging Face config.json alone: dense decoders, on shapes, without weights or their code.

What grows with the width keeps its share of it: heads (of one size), key and value heads, the MLP's inner dimension.
The config's own multipliers are in the function, where the published models have them, so that a prescription counts
them: scale_emb, scale_depth and dim_model_base (MiniCPM, 2404.06395), embedding_, attention_ and residual_multiplier
and logits_scaling (Granite), the root of the width on Gemma's table.
"""

import json
from collections.abc import Callable, Mapping
from math import gcd, isfinite
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from derive.errors import DeriveError, shorten
from verify.model.make import Make
from verify.values import Entries, Leaf

KNOWN = ("llama", "mistral", "qwen2", "qwen3", "granite", "minicpm", "gemma")
TOKENS, BATCH = 6, 2
VOCABULARY = 32_000
"""Where the config has none: it does not grow."""
Tree = dict[str, Leaf]
NEEDED = ("hidden_size", "num_attention_heads", "num_hidden_layers")
WHOLE = (*NEEDED, "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size")
REALS = (
    "scale_emb",
    "scale_depth",
    "dim_model_base",
    "embedding_multiplier",
    "attention_multiplier",
    "residual_multiplier",
    "logits_scaling",
)
"""Fields that are read, where they are there; null is as if they were not."""


def make_from_config(path: Path) -> Make:
    """The function of a width that a config describes; DeriveError naming the field that is missing or not known."""
    config = _read(path)

    def make(width: int) -> tuple[Tree, Leaf, Leaf]:
        sizes = _sizes(config, width)
        params = _parameters(config, sizes)

        def apply(params: Tree, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens vocabulary"]:
            return _decoder(config, sizes, params, tokens)

        return params, apply, jax.ShapeDtypeStruct((BATCH, TOKENS), jnp.int32)

    return make


def _read(path: Path) -> Entries:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise DeriveError(f"{shorten(str(path))} is no config: give a JSON object with hidden_size and the like")
    kind = config.get("model_type")
    if kind is not None and kind not in KNOWN:
        raise DeriveError(
            f"{shorten(str(path))}: model_type {shorten(str(kind))} is not known; known are {', '.join(KNOWN)}, and "
            "any model as a function: module:make"
        )
    known = {name: value for name, value in config.items() if value is not None}
    for name in NEEDED:
        if name not in known:
            raise DeriveError(f"{shorten(str(path))}: {name} is missing; give a whole number from 1")
    for name in known.keys() & {*WHOLE, *REALS}:
        value, kinds = known[name], (int,) if name in WHOLE else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not (isfinite(value) and value > 0):
            allowed = "a whole number from 1" if name in WHOLE else "a number above 0"
            raise DeriveError(f"{shorten(str(path))}: {name} {shorten(str(value))} is not allowed; give {allowed}")
    heads = known["num_attention_heads"]
    groups = known.get("num_key_value_heads", heads)
    if heads % groups:
        raise DeriveError(
            f"{shorten(str(path))}: num_attention_heads {heads} is no multiple of num_key_value_heads {groups}; give "
            "one that is"
        )
    return known


def _sizes(config: Entries, width: int) -> dict[str, int]:
    """Every dimension at a width; DeriveError where heads are no whole number."""
    own = config["hidden_size"]

    def share(name: str, count: int) -> int:
        if count * width % own:
            raise DeriveError(
                f"{name} {count} at width {own} is no whole number at width {width}; give widths that are multiples of "
                f"{own // gcd(count, own)}"
            )
        return count * width // own

    heads = config["num_attention_heads"]
    inner = config.get("intermediate_size", 4 * own)
    return {
        "width": width,
        "heads": share("num_attention_heads", heads),
        "kv": share("num_key_value_heads", config.get("num_key_value_heads", heads)),
        "head": config.get("head_dim", max(1, own // heads)),
        "inner": max(1, round(inner * width / own)),
        "layers": config["num_hidden_layers"],
        "vocabulary": config.get("vocab_size", VOCABULARY),
    }


def _parameters(config: Entries, n: Mapping[str, int]) -> Tree:
    """Shapes by the names of the published models, layers on a leading axis; matrices are [fan_out, fan_in]."""

    def weight(*sizes: int) -> Tree:
        return {"weight": jax.ShapeDtypeStruct(sizes, jnp.float32)}

    def layer(*sizes: int, bias: bool = False) -> Tree:
        found = weight(n["layers"], *sizes)
        return found | ({"bias": jax.ShapeDtypeStruct((n["layers"], sizes[0]), jnp.float32)} if bias else {})

    width, rows = n["width"], {"q": n["heads"], "k": n["kv"], "v": n["kv"]}
    kind = config.get("model_type")
    biased = bool(config.get("attention_bias")) or kind == "qwen2"
    attention = {f"{name}_proj": layer(heads * n["head"], width, bias=biased) for name, heads in rows.items()}
    attention["o_proj"] = layer(width, n["heads"] * n["head"], bias=bool(config.get("attention_bias")))
    if kind == "qwen3":
        attention |= {f"{name}_norm": layer(n["head"]) for name in "qk"}
    in_mlp = bool(config.get("mlp_bias"))
    mlp = {name: layer(n["inner"], width, bias=in_mlp) for name in ("gate_proj", "up_proj")}
    mlp["down_proj"] = layer(width, n["inner"], bias=in_mlp)
    layers = {"self_attn": attention, "mlp": mlp, "input_layernorm": layer(width)}
    layers["post_attention_layernorm"] = layer(width)
    model = {"embed_tokens": weight(n["vocabulary"], width), "layers": layers, "norm": weight(width)}
    tied = config.get("tie_word_embeddings", kind == "gemma")
    return {"model": model} | ({} if tied else {"lm_head": weight(n["vocabulary"], width)})


def _decoder(config: Entries, n: Mapping[str, int], params: Tree, tokens: Array) -> Array:
    """Logits; rotary positions turn queries and keys and change no size, so they are left out."""
    model, gemma = params["model"], config.get("model_type") == "gemma"
    residual = config.get("residual_multiplier", 1.0)
    if "scale_depth" in config:
        residual = config["scale_depth"] / n["layers"] ** 0.5
    embedded = config.get("scale_emb", config.get("embedding_multiplier", n["width"] ** 0.5 if gemma else 1.0))

    def norm(gain: Tree, z: Array) -> Array:
        size = jnp.sqrt(jnp.mean(z**2, axis=-1, keepdims=True))
        return z / size * (1 + gain["weight"] if gemma else gain["weight"])

    def block(z: Array, p: Tree) -> tuple[Array, None]:
        z = z + residual * _attention(config, n, p["self_attn"], norm(p["input_layernorm"], z), norm)
        y = norm(p["post_attention_layernorm"], z)
        act = jax.nn.gelu if gemma else jax.nn.silu
        inner = act(_dense(p["mlp"]["gate_proj"], y)) * _dense(p["mlp"]["up_proj"], y)
        return z + residual * _dense(p["mlp"]["down_proj"], inner), None

    z = model["embed_tokens"]["weight"][tokens] * embedded
    z, _ = jax.lax.scan(block, z, model["layers"])
    z = norm(model["norm"], z)
    if "dim_model_base" in config:
        z = z * (config["dim_model_base"] / n["width"])
    head = params["lm_head"] if "lm_head" in params else model["embed_tokens"]
    return z @ head["weight"].T / config.get("logits_scaling", 1.0)


def _dense(p: Tree, z: Array) -> Array:
    found = z @ p["weight"].T
    return found + p["bias"] if "bias" in p else found


def _attention(config: Entries, n: Mapping[str, int], p: Tree, y: Array, norm: Callable[[Tree, Array], Array]) -> Array:
    """Grouped heads of one size."""
    q, k, v = (_dense(p[f"{name}_proj"], y).reshape(BATCH, TOKENS, -1, n["head"]) for name in "qkv")
    if "q_norm" in p:
        q, k = norm(p["q_norm"], q), norm(p["k_norm"], k)
    k, v = (jnp.repeat(each, n["heads"] // n["kv"], axis=2) for each in (k, v))
    scale = config.get("attention_multiplier", n["head"] ** -0.5)
    share = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * scale, axis=-1)
    return _dense(p["o_proj"], jnp.einsum("bhts,bshd->bthd", share, v).reshape(BATCH, TOKENS, -1))
