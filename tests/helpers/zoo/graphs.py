"""Networks on sets and graphs: messages by sum, mean, maximum and attention, and what is read from the whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from tests.helpers.zoo.model import HALF, Model
from tests.helpers.zoo.parts import Draw, dense, heads, layer_norm, ones, reals

NODES, EDGES, KINDS = 12, 30, 3
RANDOM = np.random.default_rng(11)
SENDS, TAKES = (jnp.asarray(RANDOM.integers(0, NODES, EDGES)) for _ in range(2))
"""One graph for all: edges from SENDS to TAKES."""


def gin(n: int) -> Any:
    draw = Draw()
    params = {"in": draw(5, n), "eps": jnp.zeros(()), "up": draw.dense(n, 2 * n), "down": draw.dense(2 * n, n)}
    params |= {"norm": ones(n), "out": draw(n, KINDS)}

    def apply(p: Any, x: Array) -> Array:
        z = x @ p["in"]
        y = (1 + p["eps"]) * z + jax.ops.segment_sum(z[SENDS], TAKES, NODES)
        z = z + dense(p["down"], jax.nn.relu(dense(p["up"], layer_norm(p["norm"], y))))
        return z.sum(0, keepdims=True) @ p["out"] / NODES

    return params, apply, reals(NODES, 5)


def gcn(n: int) -> Any:
    draw = Draw()
    params = {"in": draw(5, n), "w": draw.dense(n, n), "out": draw(n, KINDS)}
    degree = 1 + np.bincount(np.asarray(TAKES), minlength=NODES)
    matrix = np.eye(NODES)
    np.add.at(matrix, (np.asarray(TAKES), np.asarray(SENDS)), 1.0)
    mean = jnp.asarray(matrix / np.sqrt(np.outer(degree, degree)), jnp.float32)

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, near = inputs
        z = jax.nn.relu(near @ (x @ p["in"]))
        return near @ (jax.nn.relu(near @ dense(p["w"], z)) @ p["out"])

    return params, apply, (reals(NODES, 5), mean)


def sage(n: int) -> Any:
    """The largest of the neighbours' features, beside the node's own, normed to length sqrt(n)."""
    draw = Draw()
    params = {"in": draw(5, n), "pool": draw.dense(n, n), "w": draw(2 * n, n), "out": draw(n, KINDS)}

    def apply(p: Any, x: Array) -> Array:
        z = jax.nn.relu(x @ p["in"])
        near = jax.ops.segment_max(jax.nn.relu(dense(p["pool"], z))[SENDS], TAKES, NODES)
        near = jnp.where(jnp.isfinite(near), near, 0.0)
        z = jax.nn.relu(jnp.concatenate([z, near], axis=-1) @ p["w"])
        return z * jax.lax.rsqrt((z**2).mean(-1, keepdims=True) + 1e-6) @ p["out"]

    return params, apply, reals(NODES, 5)


def gat(n: int) -> Any:
    """Heads of 16; how much an edge counts is decided by two vectors per head, softmax over the edges of a node."""
    draw = Draw()
    params = {
        "in": draw(5, n),
        "w": draw(n, n),
        "left": draw(n // 16, 16, std=0.25),
        "right": draw(n // 16, 16, std=0.25),
    }
    params |= {"out": draw(n, KINDS)}

    def apply(p: Any, x: Array) -> Array:
        z = heads(jnp.tanh(x @ p["in"]) @ p["w"])
        left, right = (jnp.einsum("ihd,hd->ih", z, p[name]) for name in ("left", "right"))
        score = jax.nn.leaky_relu(left[SENDS] + right[TAKES], 0.2)
        score = jnp.exp(score - jax.ops.segment_max(score, TAKES, NODES)[TAKES])
        share = score / (jax.ops.segment_sum(score, TAKES, NODES)[TAKES] + 1e-6)
        y = jax.ops.segment_sum(share[..., None] * z[SENDS], TAKES, NODES)
        return jax.nn.elu(y.reshape(NODES, -1)) @ p["out"]

    return params, apply, reals(NODES, 5)


def interaction(n: int) -> Any:
    """Messages from both ends and the edge's own features; the node's state is moved by a gated cell."""
    draw = Draw()
    params = {"in": draw(5, n), "edge": draw(4, n), "message": draw.dense(3 * n, n), "gate": draw(2 * n, n)}
    params |= {"new": draw(2 * n, n), "out_1": draw.dense(n, n), "out_2": draw.dense(n, 1)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> Array:
        x, edges = inputs
        z = jnp.tanh(x @ p["in"])
        ends = jnp.concatenate([z[SENDS], z[TAKES], edges @ p["edge"]], axis=-1)
        taken = jax.ops.segment_sum(jax.nn.relu(dense(p["message"], ends)), TAKES, NODES) / 4
        both = jnp.concatenate([z, taken], axis=-1)
        keep = jax.nn.sigmoid(both @ p["gate"])
        z = keep * z + (1 - keep) * jnp.tanh(both @ p["new"])
        return dense(p["out_2"], jax.nn.silu(dense(p["out_1"], z))).sum(0)

    return params, apply, (reals(NODES, 5), reals(EDGES, 4, seed=2))


def deep_sets(n: int) -> Any:
    draw = Draw()
    params = {"in": draw.dense(5, n), "each": draw.dense(n, n), "whole": draw.dense(n, n), "out": draw.dense(n, KINDS)}

    def apply(p: Any, x: Array) -> Array:
        z = jax.nn.relu(dense(p["each"], jax.nn.relu(dense(p["in"], x)))).sum(1) / 7
        return dense(p["out"], jax.nn.relu(dense(p["whole"], z)))

    return params, apply, reals(4, 7, 5)


def equivariant(n: int) -> Any:
    """Distances and directions between points; what moves them is a scalar per pair, as in EGNN."""
    draw = Draw()
    params = {"in": draw(5, n), "pair": draw(2 * n, n), "near": draw(1, n, std=1.0), "pair_2": draw(n, n)}
    params |= {"move": draw(n, 1), "update": draw(2 * n, n), "out": draw(n, KINDS)}

    def apply(p: Any, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x, places = inputs
        z = jnp.tanh(x @ p["in"])
        apart = places[SENDS] - places[TAKES]
        far = (apart**2).sum(-1, keepdims=True)
        m = jax.nn.silu(jnp.concatenate([z[SENDS], z[TAKES]], axis=-1) @ p["pair"] + far @ p["near"])
        m = jax.nn.silu(m @ p["pair_2"])
        places = places + jax.ops.segment_sum(apart * jnp.tanh(m @ p["move"]), TAKES, NODES)
        taken = jax.ops.segment_sum(m, TAKES, NODES)
        z = z + jnp.tanh(jnp.concatenate([z, taken], axis=-1) @ p["update"])
        return z @ p["out"], places

    return params, apply, (reals(NODES, 5), reals(NODES, 3, seed=2))


MODELS = {
    "gnn, sum": Model(gin, "GIN: sums, one learned scalar", "up.w down.w", "out", gradients={"eps": HALF}),
    "gnn, mean": Model(gcn, "GCN: the graph is a matrix among the inputs", "w.w", "out"),
    "gnn, max": Model(sage, "GraphSAGE: the largest of a segment", "pool.w w", "out"),
    "gnn, attention": Model(gat, "GAT: softmax over the edges of a node", "w", "out"),
    "message passing": Model(
        interaction,
        "edges with features, a gated cell",
        "message.w gate new out_1.w",
        "out_2.w",
        gradients={"out_2.b": 0},
    ),
    "deep sets": Model(deep_sets, "a sum over a set", "each.w whole.w", "out.w", gradients={"out.b": 0}),
    "equivariant": Model(equivariant, "moves points, as EGNN", "pair pair_2 update", "move out"),
}
