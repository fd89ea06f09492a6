"""Parameters that are chosen, made or added by others: mixtures of experts, adapters, codebooks, hypernetworks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import TOKENS, Draw, attend, attention, causal, dense, heads, reals, rms_norm, words

EXPERTS, CHOSEN = 8, 2
MIX = "router gate up down"


def soft_experts(n: int) -> Any:
    draw = Draw()
    params = {"in": draw(6, n), "router": draw(n, 4), "experts": draw(4, n, n), "out": draw(n, 2)}

    def apply(p: Any, x: Array) -> Array:
        z = jnp.tanh(x @ p["in"])
        share = jax.nn.softmax(z @ p["router"])
        return jnp.tanh(jnp.einsum("be,bd,edf->bf", share, z, p["experts"])) @ p["out"]

    return params, apply, reals(5, 6)


def sparse(form: str) -> Callable[[int], Any]:
    """Two of eight gated experts behind a norm: by a one-hot mask, by ragged products, by looking kernels up."""

    def mixed(p: Any, z: Array, chosen: Array, share: Array) -> Array:
        if form == "mask":
            gate = (jax.nn.one_hot(chosen, EXPERTS) * share[..., None]).sum(1)
            hidden = jax.nn.silu(jnp.einsum("bd,edf->bef", z, p["gate"])) * jnp.einsum("bd,edf->bef", z, p["up"])
            return jnp.einsum("bef,efd,be->bd", hidden, p["down"], gate)
        if form == "lookup":
            hidden = jax.nn.silu(jnp.einsum("bd,bkdf->bkf", z, p["gate"][chosen]))
            hidden = hidden * jnp.einsum("bd,bkdf->bkf", z, p["up"][chosen])
            return jnp.einsum("bkf,bkfd,bk->bd", hidden, p["down"][chosen], share)
        flat = chosen.reshape(-1)
        order, sizes = jnp.argsort(flat), jnp.bincount(flat, length=EXPERTS)
        rows = jnp.repeat(z, CHOSEN, axis=0)[order]
        hidden = jax.nn.silu(jax.lax.ragged_dot(rows, p["gate"], sizes)) * jax.lax.ragged_dot(rows, p["up"], sizes)
        back = jnp.zeros_like(rows).at[order].set(jax.lax.ragged_dot(hidden, p["down"], sizes))
        return (back.reshape(-1, CHOSEN, z.shape[-1]) * share[..., None]).sum(1)

    def make(n: int) -> Any:
        draw = Draw()
        params = {"table": draw(TOKENS, n, std=1.0), "router": draw(n, EXPERTS), "gain": jnp.ones(n)}
        params |= draw.several({"gate": (EXPERTS, n, 2 * n), "up": (EXPERTS, n, 2 * n), "down": (EXPERTS, 2 * n, n)})
        params |= {"head": draw(n, TOKENS)}

        def apply(p: Any, tokens: Array) -> Array:
            z = p["table"][tokens]
            y = rms_norm(z, p["gain"])
            score, chosen = jax.lax.top_k(y @ p["router"], CHOSEN)
            return rms_norm(z + mixed(p, y, chosen, jax.nn.softmax(score))) @ p["head"]

        return params, apply, words(24)

    return make


def switch(n: int) -> Any:
    """One expert of four a token, at most 8 tokens an expert: sent and brought back by one-hot arrays."""
    draw = Draw()
    params = {
        "table": draw(TOKENS, n, std=1.0),
        "router": draw(n, 4),
        "up": draw(4, n, 2 * n),
        "down": draw(4, 2 * n, n),
    }
    params |= {"gain": jnp.ones(n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = rms_norm(z, p["gain"])
        share = jax.nn.softmax(y @ p["router"])
        mask = jax.nn.one_hot(jnp.argmax(share, axis=-1), 4)
        place = (jnp.cumsum(mask, axis=0) * mask - 1).astype(jnp.int32)
        sent = jax.nn.one_hot(place, 8) * mask[..., None]  # token, expert, place
        inside = jnp.einsum("tec,td->ecd", sent, y)
        outside = jnp.einsum("ecf,efd->ecd", jax.nn.relu(jnp.einsum("ecd,edf->ecf", inside, p["up"])), p["down"])
        z = z + jnp.einsum("tec,ecd->td", sent * share[..., None], outside)
        return rms_norm(z) @ p["head"]

    return params, apply, words(24)


def soft_slots(n: int) -> Any:
    """Every slot of an expert is an average of the tokens, and every token of the slots."""
    draw = Draw()
    params = {"table": draw(TOKENS, n, std=1.0), "slots": draw(n, 4, 2, std=n**-0.5), "gain": jnp.ones(n)}
    params |= {"up": draw(4, n, 2 * n), "down": draw(4, 2 * n, n), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        z = p["table"][tokens]
        y = rms_norm(z, p["gain"])
        scores = jnp.einsum("btd,des->btes", y, p["slots"])
        inside = jnp.einsum("btd,btes->besd", y, jax.nn.softmax(scores, axis=1))
        hidden = jax.nn.gelu(jnp.einsum("besd,edf->besf", inside, p["up"]))
        back = jax.nn.softmax(scores.reshape(*scores.shape[:2], -1)).reshape(scores.shape)
        z = z + jnp.einsum("besd,btes->btd", jnp.einsum("besf,efd->besd", hidden, p["down"]), back)
        return rms_norm(z) @ p["head"]

    return params, apply, words()


def lora(n: int) -> Any:
    """Base weights are arrays that apply closes over; adapters of rank 4, the second factor 0, beside q and v."""
    draw = Draw()
    base = draw.several({"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)}) | {"table": draw(TOKENS, n, std=1.0)}
    head = draw(n, TOKENS) * n**-0.5
    params = {"qa": draw(n, 4), "qb": jnp.zeros((4, n)), "va": draw(n, 4), "vb": jnp.zeros((4, n))}

    def apply(p: Any, tokens: Array) -> Array:
        z = base["table"][tokens]
        y = rms_norm(z)
        q, k, v = y @ base["q"] + y @ p["qa"] @ p["qb"], y @ base["k"], y @ base["v"] + y @ p["va"] @ p["vb"]
        z = z + attend(heads(q), heads(k), heads(v), causal(6)) @ base["o"]
        return rms_norm(z) @ head

    return params, apply, words()


def frozen_lora(n: int) -> Any:
    """The base weights are parameters without a gradient."""
    draw = Draw()
    params = {"in": draw(6, n), "w": draw(n, n), "A": draw(n, 4), "B": jnp.zeros((4, n)), "out": draw(n, 2)}

    def apply(p: Any, x: Array) -> Array:
        still = jax.lax.stop_gradient({name: p[name] for name in ("in", "w")})
        z = jnp.tanh(x @ still["in"])
        return jnp.tanh(z @ still["w"] + z @ p["A"] @ p["B"]) @ p["out"]

    return params, apply, reals(5, 6)


def vq(n: int) -> Any:
    """The nearest of 16 codes, straight through; codes of 8 entries between projections."""
    draw = Draw()
    params = {"in": draw.dense(6, n), "enc": draw.dense(n, n), "to": draw(n, 8), "codes": draw(16, 8, std=1.0)}
    params |= {"from": draw(8, n), "dec": draw.dense(n, n), "out": draw.dense(n, 6)}

    def apply(p: Any, x: Array) -> tuple[Array, Array]:
        z = jax.nn.relu(dense(p["enc"], jax.nn.relu(dense(p["in"], x)))) @ p["to"]
        distance = ((z[:, None] - p["codes"]) ** 2).sum(-1)
        code = p["codes"][jnp.argmin(distance, axis=1)]
        straight = z + jax.lax.stop_gradient(code - z)
        apart = (code - jax.lax.stop_gradient(z)) ** 2 + 0.25 * (z - jax.lax.stop_gradient(code)) ** 2
        return dense(p["out"], jax.nn.relu(dense(p["dec"], straight @ p["from"]))), apart

    def loss(outputs: Any, x: Array) -> Array:
        return ((outputs[0] - x) ** 2).mean() + outputs[1].mean()

    return params, apply, reals(8, 6), loss


def film(n: int) -> Any:
    """What is known of the task scales and shifts the features of the picture."""
    draw = Draw()
    params = {"in": draw.dense(6, n), "task": draw.dense(4, n), "scale": draw.dense(n, n), "shift": draw.dense(n, n)}
    params |= {"w": draw.dense(n, n), "out": draw(n, 2)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, task = inputs
        t = jax.nn.relu(dense(p["task"], task))
        z = jax.nn.relu(dense(p["in"], x))
        z = dense(p["w"], z) * (1 + dense(p["scale"], t)) + dense(p["shift"], t)
        return jax.nn.relu(z) @ p["out"]

    return params, apply, (reals(5, 6), reals(5, 4, seed=2))


def hypernetwork(n: int) -> Any:
    """The kernel of a small fixed layer is the output of a network that is told the task."""
    draw = Draw()
    params = {"task": draw.dense(4, n), "kernel": draw.dense(n, 6 * 3), "mix": draw(n, n)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, task = inputs
        t = jnp.tanh(jnp.tanh(dense(p["task"], task)) @ p["mix"])
        return jnp.einsum("bi,bij->bj", x, dense(p["kernel"], t).reshape(-1, 6, 3))

    return params, apply, (reals(5, 6), reals(5, 4, seed=2))


def prefixes(n: int) -> Any:
    """Learned keys and values before a frozen attention layer, as prefix tuning."""
    draw = Draw()
    params = draw.several({"q": (n, n), "k": (n, n), "v": (n, n), "o": (n, n)}) | {"prompt": draw(3, n, std=1.0)}
    params |= {"table": draw(TOKENS, n, std=1.0), "head": draw(n, TOKENS)}

    def apply(p: Any, tokens: Array) -> Array:
        still = jax.lax.stop_gradient({name: p[name] for name in ("q", "k", "v", "o", "table")})
        z = still["table"][tokens]
        z = jnp.concatenate([jnp.broadcast_to(p["prompt"], (len(z), 3, n)), z], axis=1)
        return rms_norm(z + attention(still, rms_norm(z), causal(9)))[:, 3:] @ p["head"]

    return params, apply, words()


MODELS = {
    "experts": Model(
        soft_experts, "all experts, each by its share", "router experts", "out", gradients={"router": HALF}
    ),
    "experts, masked": Model(sparse("mask"), "two of eight by a one-hot mask", MIX, "head", gradients={"router": HALF}),
    "experts, ragged": Model(sparse("ragged"), "two of eight by ragged_dot", MIX, "head", gradients={"router": HALF}),
    "experts, looked up": Model(
        sparse("lookup"), "two of eight, kernels looked up", MIX, "head", gradients={"router": HALF}
    ),
    "switch": Model(switch, "one of four, with a capacity", "router up down", "head", gradients={"router": HALF}),
    "soft slots": Model(
        soft_slots, "averages of tokens go to experts", "slots up down", "head", gradients={"slots": HALF}
    ),
    "lora": Model(lora, "adapters beside arrays that are closed over", "qa va", gradients={"qa va": HALF}),
    "lora, frozen": Model(frozen_lora, "adapters beside stopped parameters", "A", "out", "in w", gradients={"A": HALF}),
    "vq": Model(
        vq,
        "codes of fixed size, straight through",
        "enc.w to dec.w",
        "out.w",
        gradients={"out.b to codes": 0},
    ),
    "film": Model(film, "features scaled and shifted by another network", "scale.w shift.w w.w", "out"),
    "hypernetwork": Model(hypernetwork, "a kernel is an output", "mix", "kernel.w", gradients={"kernel.b": 0}),
    "prefixes": Model(prefixes, "learned tokens before a frozen layer", "", "head", "q k v o table"),
}
