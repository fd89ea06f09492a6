"""Entrywise optimizers that optax lacks, each of them as U: ADOPT, MARS, cautious Adam and Scion's outer rules."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from verify.values import Tree

Epsilon = float | Float[Array, ""]


class AdoptState(NamedTuple):
    """Steps taken, the momentum of normalised gradients, and the second moment, which lags one step behind."""

    steps: Int[Array, ""]
    moment: Tree
    second: Tree


def scale_by_adopt(epsilon: Epsilon, b1: float = 0.9, b2: float = 0.9999) -> optax.GradientTransformation:
    """Adam with a second moment that has not seen the gradient it divides.

        m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), -c, c)      v <- b2 v + (1 - b2) g^2      U = m

    v starts as the square of the first gradient, on which the paper spends a step without an update; here the step is
    taken. c = t^(1/4), t counting from the step after it, as in its code: without it an entry that was near zero at
    first is divided by that, and networks diverge within ten steps. Taniguchi et al. 2024, 2411.02853, algorithm 2.
    """

    def init(params: Tree) -> AdoptState:
        zeros = optax.tree.zeros_like(params)
        return AdoptState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(gradients: Tree, state: AdoptState, params: Tree = None) -> tuple[Tree, AdoptState]:
        del params
        second = jax.tree.map(lambda v, g: jnp.where(state.steps == 0, g**2, v), state.second, gradients)
        limit = jnp.maximum(state.steps, 1) ** 0.25

        def averaged(moment: Array, gradient: Array, v: Array) -> Array:
            quotient = gradient / jnp.maximum(jnp.sqrt(v), epsilon)
            return b1 * moment + (1 - b1) * jnp.clip(quotient, -limit, limit)

        moment = jax.tree.map(averaged, state.moment, gradients, second)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, second, gradients)
        return moment, AdoptState(state.steps + 1, moment, second)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


class MarsState(NamedTuple):
    """The gradient of the step before, zero at first, and the state of the Adam that takes what is made of both."""

    previous: Tree
    adam: Tree


def scale_by_mars(
    epsilon: Epsilon, b1: float = 0.95, b2: float = 0.99, gamma: float = 0.025
) -> optax.GradientTransformation:
    """Adam on gradients with what changed since the step before counted again, clipped to a norm of 1 each.

        c = g + gamma b1 / (1 - b1) (g - g_prev)      c <- c / max(1, ||c||_F)      U = Adam(c)

    Yuan et al. 2024, 2411.10438, MARS-AdamW as in its code: g_prev is kept and not computed again, and 0 at first.
    """
    adam = optax.scale_by_adam(b1, b2, epsilon)  # type: ignore[arg-type]

    def init(params: Tree) -> MarsState:
        return MarsState(optax.tree.zeros_like(params), adam.init(params))

    def corrected(gradient: Array, previous: Array) -> Array:
        whole = gradient + gamma * b1 / (1 - b1) * (gradient - previous)
        return whole / jnp.maximum(1.0, jnp.linalg.norm(whole))

    def update(gradients: Tree, state: MarsState, params: Tree = None) -> tuple[Tree, MarsState]:
        updates, inner = adam.update(jax.tree.map(corrected, gradients, state.previous), state.adam, params)
        return updates, MarsState(gradients, inner)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def cautious(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """The direction where it agrees in sign with the gradient, zero elsewhere, over the share of entries that agree.

        U = u [u g > 0] / mean([u g > 0])

    The share counts as 1e-3 where it is less, as in its code. Liang et al. 2024, 2411.16085, algorithm 1.
    """

    def kept(step: Array, gradient: Array) -> Array:
        agrees = (step * gradient > 0).astype(step.dtype)
        return step * agrees / jnp.maximum(jnp.mean(agrees), 1e-3)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        steps, state = direction.update(updates, state, params)
        return jax.tree.map(kept, steps, updates), state

    return optax.GradientTransformation(direction.init, update)


def scion_outer(epsilon: Epsilon | None) -> optax.GradientTransformation:
    """Scion on the outer layers: U = sign(m) / fan_in, or with an epsilon the weights of every output normalised.

        m <- 0.9 m + 0.1 g      U = m / (norm of an output's fan_in entries + eps) / sqrt(fan_in)

    A vector has a fan-in of 1. Pethick et al. 2025, 2502.07529, tables 2 and 3, `Sign` and `RowNorm` of its code.
    """

    def step(moment: Tree) -> Array:
        fan_in = moment.shape[-2] if moment.ndim > 1 else 1
        if epsilon is None:
            return jnp.sign(moment) / fan_in
        norm = jnp.linalg.norm(moment, axis=-2, keepdims=True) if moment.ndim > 1 else jnp.abs(moment)
        return moment / (norm + epsilon) / fan_in**0.5

    return optax.chain(optax.ema(0.9, debias=False), optax.stateless_with_tree_map(lambda moment, _: step(moment)))
