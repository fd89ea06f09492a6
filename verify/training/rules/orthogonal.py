"""Matrix optimizers around the polar factor of the momentum, each of them as U: NorMuon, AdaMuon, Dion and others.

Matrices are stored [fan_in, fan_out]: what the papers call a row, the weights of one output, is a column here. A second
epsilon, which guards a division by zero alone, is taken to 0, and 0/0 to 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from verify.training.rules.preconditioners import Epsilon, Matrix, for_each_matrix, scale_by_shampoo

MUON_STEP = (3.4445, -4.7750, 2.0315)
"""x <- a x + b x^3 + c x^5: five steps lift singular values from 1e-3 to between 0.65 and 1.25 (Jordan et al. 2024)."""
CLOSING_STEP = (15 / 8, -10 / 8, 3 / 8)
"""The same with its fixed point at 1, reached from there to 1e-6 in four steps."""
MOMENTUM = 0.95


def polar(matrix: Matrix, epsilon: Epsilon, lifting: int = 5, closing: int = 0) -> Matrix:
    """The polar factor by Newton and Schulz, started from the matrix over its Frobenius norm + epsilon."""
    wide = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if wide else matrix
    x = x / (jnp.linalg.norm(x) + epsilon)

    def step(x: Matrix, factors: Array) -> tuple[Matrix, None]:
        a, b, c = factors
        gram = x @ x.T
        return a * x + (b * gram + c * gram @ gram) @ x, None

    # A loop: written out, XLA computes products again where they are used twice, nine times as long for twelve steps.
    factors = jnp.asarray([MUON_STEP] * lifting + [CLOSING_STEP] * closing, x.dtype)
    x, _ = jax.lax.scan(step, x, factors)
    return x.T if wide else x


def divided(numerator: Array, denominator: Array) -> Array:
    """The quotient, 0 where the numerator is."""
    return jnp.where(numerator == 0, 0.0, numerator / jnp.where(numerator == 0, 1.0, denominator))


def normalised(matrix: Matrix) -> Matrix:
    """The matrix over its Frobenius norm."""
    return divided(matrix, jnp.linalg.norm(matrix))


def scale_by_polar(epsilon: Epsilon, *, to_unit_norm: bool = False) -> optax.GradientTransformation:
    """m <- b1 m + (1 - b1) G, U = polar(m), or polar(m) / ||polar(m)||_F; the start of Scion and of Muon-Hyperball."""

    def update(gradient: Matrix, moment: Matrix) -> tuple[Matrix, Matrix]:
        moment = MOMENTUM * moment + (1 - MOMENTUM) * gradient
        step = polar(moment, epsilon)
        return (normalised(step) if to_unit_norm else step), moment

    return for_each_matrix(lambda zeros: zeros, update)


class SecondState(NamedTuple):
    """Per matrix: the momentum, and the moving average of the squares of its polar factor's entries or columns."""

    moment: Matrix
    second: Float[Array, "..."]


def scale_by_normuon(epsilon: Epsilon, b2: float = 0.95, *, per_entry: bool = False) -> optax.GradientTransformation:
    """The polar factor with the outputs evened out, at an RMS of 0.2.

        O = polar(m)      v <- b2 v + (1 - b2) mean of O^2 over an output's fan_in      X = O / sqrt(v)
        U = 0.2 sqrt(fan_in fan_out) X / ||X||_F

    `per_entry` keeps v of every entry, which is AdaMuon; debiasing v would be undone by the norm. Li et al. 2025,
    2510.05491, algorithm 1; Si et al. 2025, 2507.11005.
    """

    def init(zeros: Matrix) -> SecondState:
        return SecondState(zeros, zeros if per_entry else zeros[:1])

    def update(gradient: Matrix, state: SecondState) -> tuple[Matrix, SecondState]:
        moment = MOMENTUM * state.moment + (1 - MOMENTUM) * gradient
        step = polar(moment, epsilon)
        squares = step**2 if per_entry else jnp.mean(step**2, axis=0, keepdims=True)
        second = b2 * state.second + (1 - b2) * squares
        return 0.2 * step.size**0.5 * normalised(divided(step, jnp.sqrt(second))), SecondState(moment, second)

    return for_each_matrix(init, update)


class DionState(NamedTuple):
    """Per matrix: steps taken, the momentum without what was applied of it, and the basis of its largest directions."""

    steps: Int[Array, ""]
    moment: Matrix
    basis: Float[Array, "fan_in rank"]


def scale_by_dion(epsilon: Epsilon, share: int = 4) -> optax.GradientTransformation:
    """The polar factor on a quarter of the directions, by one power iteration a step; the rest is fed back.

        B = m + G      P = orthonormal basis of B Q      R = B^T P      m <- B - (1 - mu) P R^T
        Q <- R / (norms of its columns + eps)      U = sqrt(fan_out / fan_in) P Q^T

    with B of fan_out x fan_in, as in the paper. There Q starts at random and P Q^T is far from orthogonal until power
    iteration has found the largest directions; here it starts from those of the first gradient. eps is compared with
    singular values: rounding leaves 1e-7 ||G||_op of those that are zero. Ahn et al. 2025, 2504.05295, algorithm 1.
    """

    def rank(matrix: Matrix) -> int:
        return -(-min(matrix.shape) // share)

    def init(zeros: Matrix) -> DionState:
        return DionState(jnp.zeros([], jnp.int32), zeros, zeros[:, :1] * jnp.ones((1, rank(zeros))))

    def update(gradient: Matrix, state: DionState) -> tuple[Matrix, DionState]:
        whole = state.moment + gradient

        def largest() -> Matrix:
            return jnp.linalg.svd(whole, full_matrices=False)[0][:, : rank(whole)]

        basis = jax.lax.cond(state.steps == 0, largest, lambda: state.basis)
        outputs = jnp.linalg.qr(whole.T @ basis)[0]
        inputs = whole @ outputs
        moment = whole - (1 - MOMENTUM) * inputs @ outputs.T
        basis = inputs / (jnp.linalg.norm(inputs, axis=0) + epsilon)
        scale = (whole.shape[1] / whole.shape[0]) ** 0.5
        return scale * basis @ outputs.T, DionState(state.steps + 1, moment, basis)

    return for_each_matrix(init, update)


def scale_by_polargrad(epsilon: Epsilon) -> optax.GradientTransformation:
    """The polar factor at the size of the gradient, U = ||m||_* polar(m), with the nuclear norm tr(polar(m)^T m).

    The polar factor is exact for singular values above 1e-4 ||m||_F. Lau et al. 2025, 2505.21799.
    """

    def update(gradient: Matrix, moment: Matrix) -> tuple[Matrix, Matrix]:
        moment = MOMENTUM * moment + (1 - MOMENTUM) * gradient
        step = polar(moment, epsilon, lifting=8, closing=4)
        return jnp.sum(step * moment) * step, moment

    return for_each_matrix(lambda zeros: zeros, update)


def grafted_shampoo(epsilon: Epsilon) -> optax.GradientTransformation:
    """Shampoo's direction at the Frobenius norm of Adam's step, matrix by matrix.

        U = ||Adam(G)||_F Shampoo(G) / ||Shampoo(G)||_F

    `epsilon` is Adam's. Anil et al. 2020, 2002.09018, section on grafting; Agarwal et al. 2020, 2002.11803.
    """
    adam = optax.scale_by_adam(eps=epsilon)  # type: ignore[arg-type]
    shampoo = scale_by_shampoo(0.0)

    def init(params: optax.Params) -> tuple[optax.OptState, optax.OptState]:
        return adam.init(params), shampoo.init(params)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        sizes, first = adam.update(updates, state[0], params)  # type: ignore[index]
        steps, second = shampoo.update(updates, state[1], params)  # type: ignore[index]
        return jax.tree.map(lambda size, step: jnp.linalg.norm(size) * normalised(step), sizes, steps), (first, second)

    return optax.GradientTransformation(init, update)


def hyperball(epsilon: Epsilon) -> optax.GradientTransformation:
    """U = ||W||_F polar(m) / ||polar(m)||_F; after the rate, `back_on_sphere`. Wen et al. 2025."""
    return optax.chain(scale_by_polar(epsilon, to_unit_norm=True), optax.scale_by_param_block_norm(min_scale=0.0))


def back_on_sphere() -> optax.GradientTransformation:
    """The step that ends where W + step meets the sphere of W's own norm: (W + step) ||W|| / ||W + step|| - W."""

    def moved(step: Array, weight: Array) -> Array:
        end = weight + step
        return jnp.linalg.norm(weight) * normalised(end) - weight

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        return jax.tree.map(moved, updates, params), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)  # type: ignore[arg-type]
