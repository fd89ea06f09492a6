"""Adam-atan2: Adam without an epsilon."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class State(NamedTuple):
    """Step count, first moment, and the root of the second."""

    count: Any
    moment: Any
    root: Any


def scale_by_adam_atan2(b1: float = 0.9, b2: float = 0.999, a: float = 1.0, b: float = 1.0) -> Any:
    """U = a atan2(m, b sqrt(v))."""

    def init(params: Any) -> State:
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        return State(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(gradients: Any, state: State, params: Any = None) -> Any:
        del params
        count = state.count + 1
        moment = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.moment, gradients)
        root = jax.tree.map(lambda r, g: jnp.hypot(b2**0.5 * r, (1 - b2) ** 0.5 * g), state.root, gradients)
        one, two = 1 - b1**count, (1 - b2**count) ** 0.5
        updates = jax.tree.map(lambda m, r: a * jnp.arctan2(m / one, b * r / two), moment, root)
        return updates, State(count, moment, root)

    return optax.GradientTransformation(init, update)
