"""Matrix optimizers that optax does not have."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


def normalise_by_norm(epsilon: Any) -> Any:
    """U = G / (||G||_F + eps)."""
    return optax.stateless_with_tree_map(lambda g, _: g / (jnp.linalg.norm(g) + epsilon))


class ShampooState(NamedTuple):
    """Sums of G G^T and G^T G."""

    left: Any
    right: Any


def _root(gram: Any, epsilon: Any) -> Any:
    values, vectors = jnp.linalg.eigh(gram)
    return (vectors * (jnp.maximum(values, 0) + epsilon) ** -0.25) @ vectors.T


def scale_by_shampoo(epsilon: Any) -> Any:
    """U = (L + eps)^-1/4 G (R + eps)^-1/4."""

    def init(params: Any) -> ShampooState:
        return ShampooState(
            jax.tree.map(lambda p: jnp.zeros((p.shape[0],) * 2), params),
            jax.tree.map(lambda p: jnp.zeros((p.shape[1],) * 2), params),
        )

    def update(gradients: Any, state: ShampooState, params: Any = None) -> Any:
        del params
        left = jax.tree.map(lambda s, g: s + g @ g.T, state.left, gradients)
        right = jax.tree.map(lambda s, g: s + g.T @ g, state.right, gradients)
        updates = jax.tree.map(lambda g, p, q: _root(p, epsilon) @ g @ _root(q, epsilon), gradients, left, right)
        return updates, ShampooState(left, right)

    return optax.GradientTransformation(init, update)


class SoapState(NamedTuple):
    """Everything SOAP keeps."""

    count: Any
    moment: Any
    second: Any
    left: Any
    right: Any
    rows: Any
    columns: Any


def scale_by_soap(
    epsilon: Any,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float = 0.95,
    every: int = 10,
    rotate_in: bool = True,
    rotate_out: bool = True,
) -> Any:
    """Adam in Shampoo's eigenbasis."""

    def init(params: Any) -> SoapState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        left = jax.tree.map(lambda p: jnp.zeros((p.shape[0],) * 2), params)
        right = jax.tree.map(lambda p: jnp.zeros((p.shape[1],) * 2), params)
        rows = jax.tree.map(lambda p: jnp.eye(p.shape[0]), params)
        columns = jax.tree.map(lambda p: jnp.eye(p.shape[1]), params)
        return SoapState(jnp.zeros([], jnp.int32), zeros, zeros, left, right, rows, columns)

    def update(gradients: Any, state: SoapState, params: Any = None) -> Any:
        del params
        count = state.count + 1
        moment = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.moment, gradients)
        left = jax.tree.map(lambda s, g: shampoo_beta * s + (1 - shampoo_beta) * g @ g.T, state.left, gradients)
        right = jax.tree.map(lambda s, g: shampoo_beta * s + (1 - shampoo_beta) * g.T @ g, state.right, gradients)
        renew = state.count % every == 0

        def basis(old: Any, gram: Any) -> Any:
            return jax.lax.cond(renew, lambda: jnp.linalg.eigh(gram)[1], lambda: old)

        rows = jax.tree.map(basis, state.rows, left) if rotate_in else state.rows
        columns = jax.tree.map(basis, state.columns, right) if rotate_out else state.columns
        second = jax.tree.map(
            lambda v, g, p, q: b2 * v + (1 - b2) * (p.T @ g @ q) ** 2, state.second, gradients, rows, columns
        )
        one, two = 1 - b1**count, 1 - b2**count
        updates = jax.tree.map(
            lambda m, v, p, q: p @ ((p.T @ m @ q) / one / (jnp.sqrt(v / two) + epsilon)) @ q.T,
            moment, second, rows, columns,
        )
        return updates, SoapState(count, moment, second, left, right, rows, columns)

    return optax.GradientTransformation(init, update)
