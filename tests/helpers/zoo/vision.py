"""Networks for pictures: convolutions with their norms and shortcuts, token mixing, patches and diffusion."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import (
    CLASSES,
    Draw,
    attention,
    batch_norm,
    convolve,
    dense,
    group_norm,
    layer_norm,
    ones,
    patches,
    reals,
    standard,
    waves,
)

PICTURES = (4, 8, 8, 3)


def resnet(n: int) -> Any:
    draw = Draw()
    params = {"stem": draw.kernel(3, 3, 3, n), "norm": ones(n), "head": draw.dense(2 * n, CLASSES)}
    params |= {"conv_1": draw.kernel(3, 3, n, n), "norm_1": ones(n), "conv_2": draw.kernel(3, 3, n, n)}
    params |= {"norm_2": ones(n), "conv_3": draw.kernel(3, 3, n, 2 * n), "norm_3": ones(2 * n)}
    params |= {"conv_4": draw.kernel(3, 3, 2 * n, 2 * n), "norm_4": ones(2 * n), "short": draw.kernel(1, 1, n, 2 * n)}

    def apply(p: Any, images: Array) -> Array:
        z = jax.nn.relu(batch_norm(p["norm"], convolve(images, p["stem"])))
        y = jax.nn.relu(batch_norm(p["norm_1"], convolve(z, p["conv_1"])))
        z = jax.nn.relu(z + batch_norm(p["norm_2"], convolve(y, p["conv_2"])))
        y = jax.nn.relu(batch_norm(p["norm_3"], convolve(z, p["conv_3"], 2)))
        z = jax.nn.relu(convolve(z, p["short"], 2) + batch_norm(p["norm_4"], convolve(y, p["conv_4"])))
        return dense(p["head"], z.mean((1, 2)))

    return params, apply, reals(*PICTURES)


def bottleneck(n: int) -> Any:
    """Norms first; kernels standardised over their fan-in, with a gain."""
    draw = Draw()
    params = {"stem": draw.kernel(3, 3, 3, n), "norm": ones(n), "narrow": draw.kernel(1, 1, n, n // 4)}
    params |= {"norm_1": ones(n // 4), "middle": draw.kernel(3, 3, n // 4, n // 4), "gain": jnp.ones(n // 4)}
    params |= {"norm_2": ones(n // 4), "wide": draw.kernel(1, 1, n // 4, n), "end": ones(n)}
    params |= {"head": draw(n, CLASSES)}

    def apply(p: Any, images: Array) -> Array:
        z = convolve(images, p["stem"])
        y = convolve(jax.nn.relu(group_norm(p["norm"], z)), p["narrow"])
        w = p["middle"]
        w = standard(w, (0, 1, 2)) * (9 * w.shape[2]) ** -0.5 * p["gain"]
        y = convolve(jax.nn.relu(group_norm(p["norm_1"], y, 2)), w)
        z = z + convolve(jax.nn.relu(group_norm(p["norm_2"], y, 2)), p["wide"])
        return jax.nn.relu(group_norm(p["end"], z)).mean((1, 2)) @ p["head"]

    return params, apply, reals(*PICTURES)


def convnext(n: int) -> Any:
    draw = Draw()
    params = {"stem": draw.kernel(2, 2, 3, n), "norm": ones(n), "end": ones(2 * n), "head": draw(2 * n, CLASSES)}
    params |= {"depthwise": draw.kernel(5, 5, 1, n), "norm_1": ones(n), "up": draw.dense(n, 4 * n)}
    params |= {"down": draw.dense(4 * n, n), "layer_scale": jnp.full(n, 0.1), "norm_2": ones(n)}
    params |= {"shrink": draw.kernel(2, 2, n, 2 * n)}

    def apply(p: Any, images: Array) -> Array:
        z = layer_norm(p["norm"], convolve(images, p["stem"], 2))
        y = layer_norm(p["norm_1"], convolve(z, p["depthwise"], groups=n))
        z = z + p["layer_scale"] * dense(p["down"], jax.nn.gelu(dense(p["up"], y)))
        z = convolve(layer_norm(p["norm_2"], z), p["shrink"], 2)
        return layer_norm(p["end"], z.mean((1, 2))) @ p["head"]

    return params, apply, reals(*PICTURES)


def mobile(n: int) -> Any:
    """A narrow stream that is widened, filtered channel by channel, gated by its mean and narrowed."""
    draw = Draw()
    params = {"stem": draw.kernel(3, 3, 3, n), "wide": draw.kernel(1, 1, n, 4 * n), "norm_1": ones(4 * n)}
    params |= {"depthwise": draw.kernel(3, 3, 1, 4 * n), "norm_2": ones(4 * n), "narrow": draw.kernel(1, 1, 4 * n, n)}
    params |= {"squeeze": draw.dense(4 * n, n // 4), "excite": draw.dense(n // 4, 4 * n), "norm_3": ones(n)}
    params |= {"head": draw.dense(n, CLASSES)}

    def apply(p: Any, images: Array) -> Array:
        z = convolve(images, p["stem"], 2)
        y = jax.nn.relu6(batch_norm(p["norm_1"], convolve(z, p["wide"])))
        y = jax.nn.relu6(batch_norm(p["norm_2"], convolve(y, p["depthwise"], groups=4 * n)))
        gate = jax.nn.sigmoid(dense(p["excite"], jax.nn.silu(dense(p["squeeze"], y.mean((1, 2))))))
        z = z + batch_norm(p["norm_3"], convolve(y * gate[:, None, None], p["narrow"]))
        return dense(p["head"], z.mean((1, 2)))

    return params, apply, reals(*PICTURES)


def densenet(n: int) -> Any:
    """Every layer reads all before it, joined; what it adds grows with the width."""
    draw = Draw()
    step = n // 2
    params: dict[str, Any] = {"stem": draw.kernel(3, 3, 3, n), "head": draw(n, CLASSES), "end": ones(n)}
    for index in range(2):
        wide = n + index * step
        params |= {f"norm_{index}": ones(wide), f"conv_{index}": draw.kernel(3, 3, wide, step)}
    params["pass"] = draw.kernel(1, 1, n + 2 * step, n)

    def apply(p: Any, images: Array) -> Array:
        z = convolve(images, p["stem"], 2)
        for index in range(2):
            y = convolve(jax.nn.relu(batch_norm(p[f"norm_{index}"], z)), p[f"conv_{index}"])
            z = jnp.concatenate([z, y], axis=-1)
        z = jax.nn.relu(batch_norm(p["end"], convolve(z, p["pass"])))
        return z.mean((1, 2)) @ p["head"]

    return params, apply, reals(*PICTURES)


def unet(n: int) -> Any:
    """Down and up again, pictures of one size joined; the moment of diffusion is added to every block."""
    draw = Draw()
    params = {"stem": draw.kernel(3, 3, 3, n), "time_1": draw.dense(16, n), "time_2": draw.dense(n, n)}
    params |= {"down": draw.kernel(3, 3, n, 2 * n), "norm_1": ones(2 * n), "at_1": draw.dense(n, 2 * n)}
    params |= {"middle": draw.kernel(3, 3, 2 * n, 2 * n), "norm_2": ones(2 * n)}
    params |= {"up": draw.kernel(3, 3, 2 * n, n), "join": draw.kernel(3, 3, 2 * n, n), "norm_3": ones(n)}
    params |= {"out": draw.kernel(3, 3, n, 3)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        images, moment = inputs
        t = jax.nn.silu(dense(p["time_2"], jax.nn.silu(dense(p["time_1"], moment))))
        first = convolve(images, p["stem"])
        z = jax.nn.silu(group_norm(p["norm_1"], convolve(first, p["down"], 2)))
        z = z + dense(p["at_1"], t)[:, None, None]
        z = z + jax.nn.silu(group_norm(p["norm_2"], convolve(z, p["middle"])))
        z = jax.lax.conv_transpose(z, p["up"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        z = convolve(jnp.concatenate([first, z], axis=-1), p["join"])
        return convolve(jax.nn.silu(group_norm(p["norm_3"], z)), p["out"])

    return params, apply, (reals(*PICTURES), reals(4, 16, seed=2))


def mixer(n: int) -> Any:
    """Tokens are mixed by weights that all channels share; the hidden size of that grows as well."""
    draw = Draw()
    params = {"stem": draw.dense(12, n), "norm_1": ones(n), "norm_2": ones(n), "end": ones(n)}
    params |= {"token_up": draw.dense(16, n // 2), "token_down": draw.dense(n // 2, 16)}
    params |= {"up": draw.dense(n, 4 * n), "down": draw.dense(4 * n, n), "head": draw(n, CLASSES)}

    def apply(p: Any, images: Array) -> Array:
        z = dense(p["stem"], patches(images, 2))
        y = jnp.swapaxes(layer_norm(p["norm_1"], z), 1, 2)
        z = z + jnp.swapaxes(dense(p["token_down"], jax.nn.gelu(dense(p["token_up"], y))), 1, 2)
        z = z + dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm_2"], z))))
        return layer_norm(p["end"], z).mean(1) @ p["head"]

    return params, apply, reals(*PICTURES)


def vit(n: int) -> Any:
    """A class token that alone is read; branches begin small by a learned scale per channel."""
    draw = Draw()
    params = {"stem": draw.dense(12, n), "cls": draw(1, 1, n, std=0.5), "places": draw(17, n, std=0.5)}
    params |= draw.several({"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)}) | {"norm_1": ones(n)}
    params |= {"norm_2": ones(n), "up": draw.dense(n, 4 * n), "down": draw.dense(4 * n, n), "end": ones(n)}
    params |= {"scale_1": jnp.full(n, 0.1), "scale_2": jnp.full(n, 0.1), "head": draw.dense(n, CLASSES)}

    def apply(p: Any, images: Array) -> Array:
        z = dense(p["stem"], patches(images, 2))
        z = jnp.concatenate([jnp.broadcast_to(p["cls"], (len(z), 1, n)), z], axis=1) + p["places"]
        z = z + p["scale_1"] * attention(p, layer_norm(p["norm_1"], z))
        z = z + p["scale_2"] * dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm_2"], z))))
        return dense(p["head"], layer_norm(p["end"], z)[:, 0])

    return params, apply, reals(*PICTURES)


def dit(n: int) -> Any:
    """Norms without gains; shift, scale and gate of every branch come from the moment, by a layer that starts at 0."""
    draw = Draw()
    params = {"stem": draw.dense(12, n), "time_1": draw.dense(16, n), "time_2": draw.dense(n, n)}
    params |= {"label": draw(CLASSES, n, std=1.0), "up": draw.dense(n, 4 * n), "down": draw.dense(4 * n, n)}
    params |= draw.several({"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)})
    params |= {"adapt": {"w": jnp.zeros((n, 6 * n)), "b": jnp.zeros(6 * n)}}
    params |= {"end": {"w": jnp.zeros((n, 2 * n)), "b": jnp.zeros(2 * n)}, "out": draw.dense(n, 12)}

    def apply(p: Any, inputs: tuple[Array, Array, Array]) -> Array:
        images, moment, label = inputs
        given = dense(p["time_2"], jax.nn.silu(dense(p["time_1"], moment))) + p["label"][label]
        z = dense(p["stem"], patches(images, 2)) + waves(16, n)
        parts = jnp.split(dense(p["adapt"], jax.nn.silu(given))[:, None], 6, axis=-1)
        z = z + parts[2] * attention(p, standard(z) * (1 + parts[1]) + parts[0])
        y = standard(z) * (1 + parts[4]) + parts[3]
        z = z + parts[5] * dense(p["down"], jax.nn.gelu(dense(p["up"], y)))
        shift, scale = jnp.split(dense(p["end"], jax.nn.silu(given))[:, None], 2, axis=-1)
        return dense(p["out"], standard(z) * (1 + scale) + shift)

    return params, apply, (reals(*PICTURES), reals(4, 16, seed=2), jnp.arange(4))


ATTENTION = "q k v o"
MODELS = {
    "resnet": Model(resnet, "batch norm, two stages", "conv_? short", "head.w", gradients={"head.b": 0}, heavy=True),
    "resnet, standardised": Model(
        bottleneck, "norms first, bottleneck, standardised kernels with gains", "narrow middle wide", "head"
    ),
    "convnext": Model(
        convnext, "depthwise kernels, layer norm, small layer scale", "up.w down.w shrink", "head", heavy=True
    ),
    "mobilenet": Model(
        mobile,
        "inverted residual, squeeze and excite",
        "wide narrow squeeze.w excite.w",
        "head.w",
        gradients={"head.b": 0},
        heavy=True,
    ),
    "densenet": Model(densenet, "all layers joined", "conv_? pass", "head", heavy=True),
    "u-net": Model(
        unet,
        "pictures in, pictures out, with the moment of diffusion",
        "time_2.w at_1.w down middle up join",
        "out",
        heavy=True,
    ),
    "mixer": Model(
        mixer,
        "token mixing by weights that all channels share",
        "token_down.w up.w down.w",
        "head",
        gradients={"token_down.w token_down.b": HALF},
    ),
    "vit": Model(vit, "class token, layer scale", f"{ATTENTION} up.w down.w", "head.w", gradients={"head.b": 0}),
    "dit": Model(
        dit,
        "adaLN-zero",
        f"time_2.w up.w down.w adapt.w end.w {ATTENTION}",
        "out.w",
        gradients={"out.b": 0},
        heavy=True,
    ),
}
