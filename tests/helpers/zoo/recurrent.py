"""Networks over time: gated cells, an additive memory, dilated convolutions, loops of a solver."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import TOKENS, Draw, convolve_back, dense, over_time, reals, words


def elman(n: int) -> Any:
    draw = Draw()
    params = {"in": draw(6, n), "w": draw(n, n), "bias": jnp.zeros(n), "out": draw(n, 2)}

    def apply(p: Any, x: Array) -> Array:
        def step(z: Array, x: Array) -> tuple[Array, Array]:
            z = jnp.tanh(z @ p["w"] + x @ p["in"] + p["bias"])
            return z, z @ p["out"]

        return over_time(step, jnp.zeros((len(x), n)), x)

    return params, apply, reals(5, 4, 6)


def lstm(n: int) -> Any:
    """One kernel for input and state and for all four gates; the forget gate's bias starts at 1."""
    draw = Draw()
    bias = jnp.concatenate([jnp.zeros(n), jnp.ones(n), jnp.zeros(2 * n)])
    params = {"table": draw(TOKENS, n, std=1.0), "w": draw(2 * n, 4 * n), "bias": bias, "out": draw.dense(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
            h, c = state
            i, f, o, u = jnp.split(jnp.concatenate([x, h], axis=-1) @ p["w"] + p["bias"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(u)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = jnp.zeros((len(tokens), n))
        return dense(p["out"], over_time(step, (start, start), p["table"][tokens]))

    return params, apply, words()


def gru(n: int) -> Any:
    draw = Draw()
    params: dict[str, Any] = {f"in_{gate}": draw.dense(6, n) for gate in "rzh"}
    params |= {f"w_{gate}": draw(n, n) for gate in "rzh"} | {"out": draw(n, 2)}

    def apply(p: Any, x: Array) -> Array:
        def step(h: Array, x: Array) -> tuple[Array, Array]:
            r, z = (jax.nn.sigmoid(dense(p[f"in_{gate}"], x) + h @ p[f"w_{gate}"]) for gate in "rz")
            new = jnp.tanh(dense(p["in_h"], x) + r * (h @ p["w_h"]))
            h = (1 - z) * h + z * new
            return h, h

        return over_time(step, jnp.zeros((len(x), n)), x)[:, -1] @ p["out"]

    return params, apply, reals(5, 4, 6)


def translator(n: int) -> Any:
    """An encoder and a decoder of plain cells; where to look is decided by v tanh(W h + U s)."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "enc": draw(n, n), "enc_in": draw(n, n), "dec": draw(n, n)}
    params |= draw.several({"dec_in": (2 * n, n), "look_h": (n, n), "look_s": (n, n), "look": (n, 1)})
    params |= {"head": draw(2 * n, TOKENS)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        source, target = (p["table"][each] for each in inputs)

        def read(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(h @ p["enc"] + x @ p["enc_in"])
            return h, h

        start = jnp.zeros((len(source), n))
        memory = over_time(read, start, source)
        keys = memory @ p["look_h"]

        def write(s: Array, x: Array) -> tuple[Array, Array]:
            scores = jnp.tanh(keys + (s @ p["look_s"])[:, None]) @ p["look"]
            seen = (jax.nn.softmax(scores, axis=1) * memory).sum(1)
            s = jnp.tanh(s @ p["dec"] + jnp.concatenate([x, seen], axis=-1) @ p["dec_in"])
            return s, jnp.concatenate([s, seen], axis=-1)

        return over_time(write, start, target) @ p["head"]

    return params, apply, (words(), words(seed=5))


def wavenet(n: int) -> Any:
    """Gated dilated convolutions; every layer adds to the stream and to a sum that alone is read."""
    draw = Draw()
    layers = [
        {"filter": draw.kernel(2, n, n), "gate": draw.kernel(2, n, n), "stay": draw(n, n), "skip": draw(n, n)}
        for _ in range(2)
    ]
    params = {
        "stem": draw(TOKENS, n, std=1.0),
        "layers": layers,
        "post": draw.dense(n, n),
        "head": draw.dense(n, TOKENS),
    }

    def apply(p: Any, tokens: Array) -> Array:
        z, total = p["stem"][tokens], jnp.zeros(())
        for index, layer in enumerate(p["layers"]):
            y = jnp.tanh(convolve_back(z, layer["filter"], 2**index))
            y = y * jax.nn.sigmoid(convolve_back(z, layer["gate"], 2**index))
            total, z = total + y @ layer["skip"], z + y @ layer["stay"]
        return dense(p["head"], jax.nn.relu(dense(p["post"], jax.nn.relu(total))))

    return params, apply, words()


def tcn(n: int) -> Any:
    """Dilated convolutions with normalised kernels, direction and gain apart."""
    draw = Draw()
    params: dict[str, Any] = {"short": draw(6, n), "out": draw(n, 2)}
    for index, fan_in in enumerate((6, n)):
        params |= {f"v_{index}": draw.kernel(3, fan_in, n), f"gain_{index}": jnp.ones(n), f"bias_{index}": jnp.zeros(n)}

    def apply(p: Any, x: Array) -> Array:
        z = x
        for index in range(2):
            v = p[f"v_{index}"]
            w = p[f"gain_{index}"] * v * jax.lax.rsqrt((v**2).sum((0, 1)) + 1e-12)
            z = jax.nn.relu(convolve_back(z, w, 2**index) + p[f"bias_{index}"])
        return (z + x @ p["short"])[:, -1] @ p["out"]

    return params, apply, reals(4, 8, 6)


def neural_ode(n: int) -> Any:
    """Eight Euler steps of one vector field that is told the time."""
    draw = Draw()
    params = {"in": draw(6, n), "up": draw.dense(n, 2 * n), "time": draw(1, 2 * n, std=1.0)[0]}
    params |= {"down": draw.dense(2 * n, n), "out": draw(n, 2)}

    def apply(p: Any, x: Array) -> Array:
        def step(z: Array, t: Array) -> tuple[Array, None]:
            return z + 0.125 * dense(p["down"], jnp.tanh(dense(p["up"], z) + t * p["time"])), None

        return jax.lax.scan(step, jnp.tanh(x @ p["in"]), jnp.arange(8) / 8)[0] @ p["out"]

    return params, apply, reals(5, 6)


MODELS = {
    "recurrent": Model(elman, "a plain cell", "w", "out"),
    "lstm": Model(lstm, "one kernel for all gates of input and state", "=w", "out.w", gradients={"out.b": 0}),
    "gru": Model(gru, "the reset gate behind the product", "w_?", "out"),
    "seq2seq": Model(
        translator,
        "encoder, decoder, additive attention",
        "enc enc_in dec dec_in look_h look_s look",
        "head",
        gradients={"look": HALF, "look_?": 3 * HALF},
    ),
    "wavenet": Model(
        wavenet,
        "dilated gated convolutions, skips",
        "filter gate stay skip post.w",
        "head.w",
        "layers.1.stay",
        gradients={"head.b": 0},
    ),
    "tcn": Model(tcn, "causal convolutions, weight norm", "v_1", "out"),
    "neural ode": Model(neural_ode, "Euler steps in a loop", "up.w down.w", "out"),
}
