"""Adam-atan2: Adam whose division is an angle, so that it needs no epsilon (Everett et al. 2024, section 5).

    U = a atan2(m, b sqrt(v))                          m, v: Adam's moments, debiased
    U = (4/pi) scale atan2(m, scale sqrt(v))           the paper's form: a = 4 scale / pi, b = scale

Of degree 0 in the gradient at any size of it; for small ratios Adam's step times a / b, and never above a pi / 2. In
the paper's form small ratios take 4/pi of Adam's step whatever the scale, and the limit is 2 scale.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from verify.values import Leaf, Tree


def _arctangent_coefficients(degree: int = 8) -> list[float]:
    """Of atan(t)/t as a polynomial in t^2 for t in [0, 1], by interpolation at Chebyshev points: error 2e-8."""

    def ratio(z: Leaf) -> Leaf:
        t = np.sqrt(np.maximum(z, 1e-30))
        return np.arctan(t) / t

    fit = np.polynomial.Chebyshev.interpolate(ratio, degree, domain=[0, 1])
    return [float(each) for each in fit.convert(kind=np.polynomial.Polynomial).coef]


COEFFICIENTS = _arctangent_coefficients()


def angle(y: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """atan2(y, x) for x >= 0, in float32 to 3 units in the last place; 0 where both are 0, NaN where either is.

    XLA's own atan2 calls a scalar function for every entry, which takes ten times as long as the rest of Adam.
    """
    height = jnp.abs(y)
    steep = height > x
    small, large = jnp.where(steep, x, height), jnp.where(steep, height, x)
    # This choice also leaves the division one user: XLA writes to memory the result of one that has more.
    ratio = jnp.where(large == 0, height, small / large)  # 0 or NaN is what is left where large is 0
    square, series = ratio * ratio, jnp.float32(COEFFICIENTS[-1])
    for coefficient in COEFFICIENTS[-2::-1]:
        series = series * square + coefficient
    positive = jnp.where(steep, jnp.float32(np.pi / 2) - ratio * series, ratio * series)
    return jnp.where(y < 0, -positive, positive)


def root_mean(root: Float[Array, "..."], new: Float[Array, "..."], decay: float) -> Float[Array, "..."]:
    """sqrt(decay root^2 + (1 - decay) new^2) without squaring small or large numbers.

    Both are divided by a power of 2 near the larger one, which is exact: its exponent's bits alone.
    """
    larger = jnp.maximum(root, jnp.abs(new))
    bits = jax.lax.bitcast_convert_type(larger, jnp.int32) & 0x7F800000
    scale = jax.lax.bitcast_convert_type(bits, jnp.float32)
    inverse = jax.lax.bitcast_convert_type(0x7F000000 - bits, jnp.float32)
    root, new = root * inverse, new * inverse
    return jnp.sqrt(decay * root * root + (1 - decay) * new * new) * scale


PAPER_SCALES = (1.0, 8.0)
"""What public accounts say the paper's experiments used: 1 (a = 4/pi, b = 1; the ratio 1 gives the step 1), or 8."""


def paper_form(scale: float) -> tuple[float, float]:
    """(a, b) = (4 scale / pi, scale) of U = (4/pi) scale atan2(m, scale sqrt(v)); ValueError for no number above 0."""
    if not 0 < scale < math.inf:
        raise ValueError(f"scale = {scale} is not allowed: (4/pi) scale atan2(m, scale sqrt(v)) needs it above 0")
    return 4 / math.pi * scale, scale


class AdamAtan2State(NamedTuple):
    """The number of steps, the first moment, and the root of the second, both in float32."""

    steps: Leaf
    moment: Tree
    root: Tree


def scale_by_adam_atan2(
    b1: float = 0.9, b2: float = 0.999, a: float = 1.0, b: float = 1.0, *, scale: float | None = None
) -> optax.GradientTransformation:
    """U = a atan2(m, b sqrt(v)) with debiased moments; zero where all gradients were. `scale`: the paper's form.

    The second moment is kept as its root, so that gradients from 1e-36 to 1e37 give the same U as those near 1. The
    moments are float32 whatever the gradient's type is: a second moment in bfloat16 would never decay, since
    0.999 rounds to 1. Constants a = b = 1, or those of `scale`, such as PAPER_SCALES. ValueError for b below or at 0,
    and for `scale` beside a or b.
    """

    if scale is not None:
        if (a, b) != (1.0, 1.0):
            raise ValueError(f"scale = {scale} says what a and b are; leave out a = {a} and b = {b}, or the scale")
        a, b = paper_form(scale)
    if b <= 0:
        raise ValueError(f"b = {b} is not allowed: atan2(m, b sqrt(v)) needs b above 0")

    def init(params: Tree) -> AdamAtan2State:
        def zeros() -> Tree:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)

        return AdamAtan2State(jnp.zeros([], jnp.int32), zeros(), zeros())

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, AdamAtan2State]:
        del params
        gradients = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), updates)
        steps = optax.safe_increment(state.steps)
        moment = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.moment, gradients)
        root = jax.tree.map(lambda r, g: root_mean(r, g, b2), state.root, gradients)
        # expm1, since 1 - 0.999^1 in float32 has lost five of its seven digits.
        logs = (math.log(beta) if beta else -math.inf for beta in (b1, b2))
        one, two = (-jnp.expm1(jnp.asarray(steps, jnp.float32) * each) for each in logs)
        debias = jnp.sqrt(two) / one / b
        directions = jax.tree.map(lambda m, r, g: (a * angle(debias * m, r)).astype(g.dtype), moment, root, updates)
        return directions, AdamAtan2State(steps, moment, root)

    return optax.GradientTransformation(init, update)


def adam_atan2(
    learning_rate: Leaf,
    b1: float = 0.9,
    b2: float = 0.999,
    a: float = 1.0,
    b: float = 1.0,
    weight_decay: float = 0.0,
    *,
    scale: float | None = None,
) -> optax.GradientTransformation:
    """W <- W - rate (U + weight_decay W) with U of `scale_by_adam_atan2`; a rate may be a schedule."""
    return optax.chain(
        scale_by_adam_atan2(b1, b2, a, b, scale=scale),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )
