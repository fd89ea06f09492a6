"""Everything else: fields of coordinates, agents, generators and products of inputs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model, grown
from tests.helpers.zoo.parts import TOKENS, Draw, convolve, dense, group_norm, ones, reals, words


def two_inputs(n: int) -> Any:
    draw = Draw()
    params = {"x": draw(6, n), "y": draw(9, n), "mix": draw(n, n), "out": draw(n, 2)}

    def apply(p: Any, pair: tuple[Array, Array]) -> Array:
        return jnp.tanh(jnp.tanh((pair[0] @ p["x"]) * jax.nn.sigmoid(pair[1] @ p["y"])) @ p["mix"]) @ p["out"]

    return params, apply, (reals(5, 6), reals(5, 9, seed=2))


def gains(n: int) -> Any:
    """A gain of a layer and one number for all, dropout by a key among the inputs, a squeezed and a joined branch."""
    draw = Draw()
    params = {"in": draw(6, n), "w": draw(n, n), "layer": jnp.full(n, 0.5), "all": jnp.ones(())}
    params |= {"squeeze": draw(n, n // 4), "excite": draw(n // 4, n), "gate": draw(n, 1), "out": draw(2 * n, 2)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, key = inputs
        z = x @ p["in"]
        z = jnp.where(jax.random.bernoulli(key, 0.9, z.shape), z, 0) / 0.9
        y = z + p["all"] * (p["layer"] * jnp.tanh(z @ p["w"]))
        chosen = jax.nn.sigmoid(jnp.tanh(y.mean(axis=0, keepdims=True) @ p["squeeze"]) @ p["excite"])
        return jnp.concatenate([y * chosen, z * jax.nn.sigmoid(z @ p["gate"])], axis=1) @ p["out"]

    return params, apply, (reals(5, 6), jax.random.key(1))


def nerf(n: int) -> Any:
    """Waves of the place enter twice, those of the direction late; density and colour leave at two depths."""
    draw = Draw()
    params = {"in": draw.dense(12, n), "w_1": draw.dense(n, n), "w_2": draw.dense(n + 12, n), "w_3": draw.dense(n, n)}
    params |= {"density": draw.dense(n, 1), "late": draw.dense(n + 6, n // 2), "colour": draw.dense(n // 2, 3)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        place, direction = (
            jnp.concatenate([f(2.0**i * x) for f in (jnp.sin, jnp.cos) for i in range(reach)], axis=-1)
            for x, reach in zip(inputs, (2, 1), strict=True)
        )
        z = jax.nn.relu(dense(p["w_1"], jax.nn.relu(dense(p["in"], place))))
        z = jax.nn.relu(dense(p["w_2"], jnp.concatenate([z, place], axis=-1)))
        density, z = jax.nn.softplus(dense(p["density"], z)), dense(p["w_3"], z)
        z = jax.nn.relu(dense(p["late"], jnp.concatenate([z, direction], axis=-1)))
        return density, jax.nn.sigmoid(dense(p["colour"], z))

    return params, apply, (reals(16, 3), reals(16, 3, seed=2))


def siren(n: int) -> Any:
    """sin(30 (W x + b)): weights start smaller by 30."""
    draw = Draw()
    params = {"in": draw.dense(2, n), "w": draw.dense(n, n), "out": draw.dense(n, 3)}
    params["w"]["w"] = params["w"]["w"] / 30

    def apply(p: Any, x: Array) -> Array:
        z = jnp.sin(30 * dense(p["in"], x) * 0.1)
        return dense(p["out"], jnp.sin(30 * dense(p["w"], z)))

    return params, apply, reals(16, 2)


def policy(n: int) -> Any:
    """Mean and a free deviation of the actions, and a value, by two networks."""
    draw = Draw()
    params: dict[str, Any] = {"log_std": jnp.zeros(4)}
    for name, outputs in (("actor", 4), ("critic", 1)):
        params[name] = {"in": draw.dense(8, n), "w": draw.dense(n, n), "out": draw.dense(n, outputs)}

    def apply(p: Any, x: Array) -> tuple[Array, Array]:
        mean, value = (
            dense(p[name]["out"], jnp.tanh(dense(p[name]["w"], jnp.tanh(dense(p[name]["in"], x)))))
            for name in ("actor", "critic")
        )
        action = jnp.sin(x[:, :4])
        return -((action - mean) ** 2) * jnp.exp(-2 * p["log_std"]) / 2 - p["log_std"], value

    def loss(outputs: Any, x: Array) -> Array:
        return -(outputs[0].sum(-1) * jnp.cos(x[:, 0])).mean() + ((outputs[1][:, 0] - jnp.sin(x[:, 0])) ** 2).mean()

    return params, apply, reals(16, 8), loss


def dueling(n: int) -> Any:
    """Values of actions as the state's value and advantages less their mean, of stacked frames."""
    draw = Draw()
    params = {
        "conv_1": draw.kernel(3, 3, 4, n // 2),
        "conv_2": draw.kernel(3, 3, n // 2, n),
        "shared": draw.dense(4 * n, n),
    }
    params |= {
        "value_1": draw.dense(n, n),
        "value": draw.dense(n, 1),
        "gain_1": draw.dense(n, n),
        "gain": draw.dense(n, 6),
    }

    def apply(p: Any, frames: Array) -> Array:
        z = jax.nn.relu(convolve(jax.nn.relu(convolve(frames, p["conv_1"], 2)), p["conv_2"], 2))
        z = jax.nn.relu(dense(p["shared"], z.reshape(len(z), -1)))
        value, gain = (dense(p[name], jax.nn.relu(dense(p[f"{name}_1"], z))) for name in ("value", "gain"))
        return value + gain - gain.mean(-1, keepdims=True)

    return params, apply, reals(4, 8, 8, 4)


def vae(n: int) -> Any:
    """Means and deviations of 8 latents by two heads, noise from the inputs."""
    draw = Draw()
    params = {"in": draw.dense(12, n), "enc": draw.dense(n, n), "mean": draw.dense(n, 8), "log_var": draw.dense(n, 8)}
    params |= {"from": draw.dense(8, n), "dec": draw.dense(n, n), "out": draw.dense(n, 12)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, noise = inputs
        z = jax.nn.relu(dense(p["enc"], jax.nn.relu(dense(p["in"], x))))
        mean, log_var = dense(p["mean"], z), dense(p["log_var"], z)
        z = jax.nn.relu(dense(p["from"], mean + jnp.exp(log_var / 2) * noise))
        return dense(p["out"], jax.nn.relu(dense(p["dec"], z))), mean**2 + jnp.exp(log_var) - log_var - 1

    def loss(outputs: Any, inputs: Any) -> Array:
        return ((outputs[0] - inputs[0]) ** 2).mean() + outputs[1].mean()

    return params, apply, (reals(8, 12), reals(8, 8, seed=2)), loss


def discriminator(n: int) -> Any:
    """Kernels divided by their Frobenius norm, a bound of the spectral one; leaky relu."""
    draw = Draw()
    params = {"conv_1": draw.kernel(4, 4, 3, n), "conv_2": draw.kernel(4, 4, n, 2 * n), "out": draw(2 * n, 1)}
    params |= {"bias_1": jnp.zeros(n), "bias_2": jnp.zeros(2 * n)}

    def apply(p: Any, images: Array) -> Array:
        def unit(w: Array) -> Array:
            return w * jax.lax.rsqrt((w**2).sum() + 1e-12) * w.shape[-1] ** 0.5

        z = jax.nn.leaky_relu(convolve(images, unit(p["conv_1"]), 2) + p["bias_1"], 0.2)
        z = jax.nn.leaky_relu(convolve(z, unit(p["conv_2"]), 2) + p["bias_2"], 0.2)
        return z.sum((1, 2)) @ p["out"] / 4

    return params, apply, reals(4, 8, 8, 3)


def generator(n: int) -> Any:
    """Style by a mapping network: kernels' inputs scaled by it, noise added by a learned strength."""
    draw = Draw()
    params = {"map_1": draw.dense(8, n), "map_2": draw.dense(n, n), "start": draw(4, 4, n, std=1.0)}
    params |= {
        "style": draw.dense(n, n),
        "conv": draw.kernel(3, 3, n, n),
        "strength": jnp.full(n, 0.1),
        "norm": ones(n),
    }
    params |= {"out": draw.kernel(1, 1, n, 3)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        latent, noise = inputs
        w = jax.nn.leaky_relu(dense(p["map_2"], jax.nn.leaky_relu(dense(p["map_1"], latent), 0.2)), 0.2)
        z = p["start"] * (1 + dense(p["style"], w))[:, None, None]
        z = jax.nn.leaky_relu(convolve(z, p["conv"]) + p["strength"] * noise, 0.2)
        return jnp.tanh(convolve(group_norm(p["norm"], z), p["out"]))

    return params, apply, (reals(4, 8), reals(4, 4, 4, 1, seed=2))


def highway(n: int) -> Any:
    draw = Draw()
    params = {"in": draw(6, n), "w": draw.dense(n, n), "carry": draw.dense(n, n), "out": draw(n, 2)}
    params["carry"]["b"] = jnp.full(n, -2.0)

    def apply(p: Any, x: Array) -> Array:
        z = jnp.tanh(x @ p["in"])
        gate = jax.nn.sigmoid(dense(p["carry"], z))
        return (gate * jax.nn.relu(dense(p["w"], z)) + (1 - gate) * z) @ p["out"]

    return params, apply, reals(5, 6)


def recommender(n: int) -> Any:
    """Tables of users and items, their product entry by entry beside an MLP of both, and the plain dot product."""
    draw = Draw()
    params = {"user": draw(20, n, std=1.0), "item": draw(TOKENS, n, std=1.0), "w": draw.dense(2 * n, n)}
    params |= {"out": draw(2 * n, 2)}

    def apply(p: Any, pairs: Array) -> Array:
        user, item = p["user"][pairs[:, 0] // 2], p["item"][pairs[:, 1]]
        deep = jax.nn.relu(dense(p["w"], jnp.concatenate([user, item], axis=-1)))
        return jnp.concatenate([user * item, deep], axis=-1) @ p["out"] + (user * item).sum(-1, keepdims=True) / n

    return params, apply, words(16, 2)


def operator(n: int) -> Any:
    """A function at a place: the dot product of what is made of its samples and of the place, as DeepONet."""
    draw = Draw()
    params = {"branch": draw.dense(10, n), "branch_2": draw(n, n), "trunk": draw.dense(2, n), "trunk_2": draw(n, n)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        left = jnp.tanh(dense(p["branch"], inputs[0])) @ p["branch_2"]
        right = jnp.tanh(dense(p["trunk"], inputs[1])) @ p["trunk_2"]
        return (left * right).sum(-1, keepdims=True) / n

    return params, apply, (reals(8, 10), reals(8, 2, seed=2))


MODELS = {
    "two inputs": Model(two_inputs, "two inputs that are multiplied", "mix", "out"),
    "gains": Model(
        gains,
        "gains of a layer and of all, dropout, squeezed and joined branches",
        "w squeeze excite gate",
        "out",
        gradients={"gate": HALF, "all": HALF},
    ),
    "nerf": Model(
        nerf,
        "waves of the place, two heads at two depths; 12 and 6 entries are joined to n",
        "w_?.w late.w",
        "density.w colour.w",
        rates={"w_2.w": grown(44, 140), "late.w": grown(38, 134)},
        gradients={
            "density.b colour.b": 0,
            "w_3.? w_2.?": HALF + grown(38, 134) / 2,
            "w_1.? in.?": (grown(38, 134) + grown(44, 140)) / 2,
        },
    ),
    "siren": Model(siren, "sines of 30 times the product", "w.w", "out.w", gradients={"out.b": 0}),
    "policy": Model(
        policy, "actor and critic, a free deviation", "actor.w.w critic.w.w", "out.w", gradients={"out.b log_std": 0}
    ),
    "dueling": Model(
        dueling,
        "value and advantages of frames",
        "conv_2 shared.w value_1.w gain_1.w",
        "value.w gain.w",
        gradients={"value.b gain.b": 0},
        heavy=True,
    ),
    "vae": Model(
        vae,
        "means and deviations of few latents",
        "enc.w mean.w log_var.w dec.w",
        "out.w",
        gradients={"out.b mean.? log_var.?": 0},
    ),
    "discriminator": Model(discriminator, "kernels of norm one", "conv_2", "out", heavy=True),
    "generator": Model(generator, "style that scales the channels", "map_2.w style.w conv", "out", heavy=True),
    "highway": Model(highway, "a gate between the layer and its input", "w.w carry.w", "out"),
    "recommender": Model(recommender, "two tables, a dot product beside an MLP", "w.w", "out"),
    "deeponet": Model(operator, "a dot product of two networks as output", "branch_2 trunk_2"),
}
