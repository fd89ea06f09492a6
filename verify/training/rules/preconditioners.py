"""Matrix optimizers that optax does not have: Shampoo, SOAP, and gradients divided by their norm, each of them as U.

Matrices are stored [fan_in, fan_out] and multiply from the right, z W: the transpose of the papers'. Their left side,
which L = G G^T belongs to, is the output's, here G^T G. Everything is computed in float32, or wider where weights are.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, Int

from derive.errors import DeriveError
from verify.values import Tree

Epsilon = float | Float[Array, ""]
Matrix = Float[Array, "fan_in fan_out"]
Square = Float[Array, "units units"]
Sides = tuple[Float[Array, "fan_in fan_in"] | None, Float[Array, "fan_out fan_out"] | None]
"""One matrix for the input's side and one for the output's; None where a side is left as it is."""


def for_each_matrix(
    init: Callable[[Matrix], Tree], update: Callable[[Matrix, Tree], tuple[Matrix, Tree]]
) -> optax.GradientTransformation:
    """The rule of one matrix, (gradient, state) -> (U, state), applied to every matrix of a tree."""

    def widened(matrix: Array) -> Array:
        return matrix.astype(jnp.promote_types(matrix.dtype, jnp.float32))

    def init_one(path: KeyPath, parameter: Array) -> Tree:
        if jnp.ndim(parameter) != 2:
            raise DeriveError(
                f"parameter {jax.tree_util.keystr(path, simple=True, separator='.')} has shape {jnp.shape(parameter)}; "
                "matrix optimizers take [fan_in, fan_out]: reshape it, or give it an entrywise optimizer"
            )
        return init(jnp.zeros_like(widened(parameter)))

    def init_all(params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(init_one, params)

    def update_all(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        del params
        gradients, tree = jax.tree.flatten(updates)
        states = tree.flatten_up_to(state)
        with jax.default_matmul_precision("highest"):  # accelerators' own is 1e-3, far above the noise told of below
            pairs = [update(widened(gradient), each) for gradient, each in zip(gradients, states, strict=True)]
        steps = [step.astype(gradient.dtype) for (step, _), gradient in zip(pairs, gradients, strict=True)]
        return tree.unflatten(steps), tree.unflatten([each for _, each in pairs])

    return optax.GradientTransformation(init_all, update_all)


def normalise_by_norm(epsilon: Epsilon) -> optax.GradientTransformation:
    """The gradient with its size divided away, matrix by matrix.

        U = G / (||G||_F + eps)

    DeriveError for parameters that are no matrices. Hazan et al. 2015, 1507.02030, per layer.
    """

    def update(gradient: Matrix, state: optax.EmptyState) -> tuple[Matrix, optax.EmptyState]:
        return gradient / (jnp.linalg.norm(gradient) + epsilon), state

    return for_each_matrix(lambda _: optax.EmptyState(), update)


def _grams(matrix: Matrix) -> tuple[Float[Array, "fan_in fan_in"], Float[Array, "fan_out fan_out"]]:
    """M M^T, of the input's side, and M^T M, of the output's."""
    return matrix @ matrix.T, matrix.T @ matrix


class ShampooState(NamedTuple):
    """Per matrix, the sums over steps of G G^T (input side) and G^T G (output side)."""

    inputs: Float[Array, "fan_in fan_in"]
    outputs: Float[Array, "fan_out fan_out"]


def _inverse_fourth_root(gram: Square, epsilon: Epsilon) -> Square:
    """(gram + eps I)^(-1/4), eigenvalues that rounding hides counted as large as it lets them be."""
    values, vectors = jnp.linalg.eigh(gram)
    hidden = jnp.finfo(gram.dtype).eps * values[-1]
    return (vectors * (jnp.maximum(values, hidden) + epsilon) ** -0.25) @ vectors.T


def scale_by_shampoo(epsilon: Epsilon) -> optax.GradientTransformation:
    """Shampoo as first published: sums that are never forgotten, one block per matrix, no grafted step size.

        A += G G^T      B += G^T G      U = (A + eps I)^(-1/4) G (B + eps I)^(-1/4)

    Starting the sums at eps I, as in the paper, is the same. The first step takes a singular value sigma of G to
    sigma / sqrt(sigma^2 + eps), U's size then falls as 1/sqrt(step). eps is compared with squares: in float32,
    eigenvalues of A are known to 1e-7 ||G||_op^2, so that U is the rule's where sqrt(eps) >= 1e-3 ||G||_op, and for
    any smaller eps what is below 3e-4 ||G||_op is damped as if eps were 1e-7 ||G||_op^2. A gradient of zeros needs
    eps > 0. DeriveError for parameters that are no matrices. Gupta et al. 2018, 1802.09568, algorithm 1.
    """

    def init(zeros: Matrix) -> ShampooState:
        return ShampooState(*_grams(zeros))

    def update(gradient: Matrix, state: ShampooState) -> tuple[Matrix, ShampooState]:
        state = ShampooState(*(total + new for total, new in zip(state, _grams(gradient), strict=True)))
        before, after = (_inverse_fourth_root(gram, epsilon) for gram in state)
        return before @ gradient @ after, state

    return for_each_matrix(init, update)


class SoapState(NamedTuple):
    """Per matrix: steps taken, m as it is stored, v as it is rotated, moving averages of G G^T and G^T G, bases."""

    steps: Int[Array, ""]
    moment: Matrix
    second: Matrix
    grams: Sides
    bases: Sides


def _rotated(matrix: Matrix, bases: Sides) -> Matrix:
    """P^T M Q."""
    inputs, outputs = bases
    matrix = matrix if inputs is None else inputs.T @ matrix
    return matrix if outputs is None else matrix @ outputs


def _rotated_back(matrix: Matrix, bases: Sides) -> Matrix:
    """P M Q^T."""
    inputs, outputs = bases
    matrix = matrix if inputs is None else inputs @ matrix
    return matrix if outputs is None else matrix @ outputs.T


def scale_by_soap(
    epsilon: Epsilon,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float = 0.95,
    every: int = 10,
    rotate_in: bool = True,
    rotate_out: bool = True,
) -> optax.GradientTransformation:
    """Adam in the eigenbases P of A and Q of B, moving averages of G G^T and G^T G.

        m <- b1 m + (1 - b1) G      v <- b2 v + (1 - b2) (P^T G Q)^2      U = P [m_hat' / (sqrt(v_hat) + eps)] Q^T

    with m' = P^T m Q and Adam's debiasing (hats). A and B take G in after the step; after every `every`-th one P and Q
    are renewed. The paper's code does not take the first step, having no bases yet; here it uses G's own, its singular
    vectors. `rotate_in=False` is the papers' left-sided SOAP, Q alone, and `rotate_out=False` the right-sided, P alone.

    eps is compared with rotated entries, and what is zero among them is noise of 1e-8 to 1e-6 ||G||_op in float32,
    which a far smaller eps divides to +-1, wherever examples are fewer than units: eps >= 1e-4 ||G||_op keeps
    ||U||_op within 2 % of its value without noise. DeriveError for parameters that are no matrices.
    Vyas et al. 2024, 2409.11321, algorithm 3, with eps outside the root as in its code.
    """

    def chosen(inputs: Float[Array, "fan_in fan_in"], outputs: Float[Array, "fan_out fan_out"]) -> Sides:
        return inputs if rotate_in else None, outputs if rotate_out else None

    def init(zeros: Matrix) -> SoapState:
        nothing = chosen(*_grams(zeros))
        return SoapState(jnp.zeros([], jnp.int32), zeros, zeros, nothing, nothing)

    def bases(gradient: Matrix, state: SoapState) -> Sides:
        """Singular and eigenvectors alike with the largest first, so that v's entries keep their meaning."""

        def first() -> Sides:
            # Not from eigh of each Gram: squaring halves the digits, and with close singular values P and Q then
            # disagree. On the gradients of a network 512 wide that made ||U||_op 5 instead of 1.
            left, _, right = jnp.linalg.svd(gradient)
            return chosen(left, right.T)

        def renewed() -> Sides:
            inputs, outputs = (None if gram is None else jnp.linalg.eigh(gram)[1][:, ::-1] for gram in state.grams)
            return inputs, outputs

        due = (state.steps % every == 0).astype(jnp.int32)
        return jax.lax.switch(jnp.where(state.steps == 0, 2, due), [lambda: state.bases, renewed, first])

    def update(gradient: Matrix, state: SoapState) -> tuple[Matrix, SoapState]:
        steps = state.steps + 1
        basis = bases(gradient, state)
        moment = b1 * state.moment + (1 - b1) * gradient
        second = b2 * state.second + (1 - b2) * _rotated(gradient, basis) ** 2
        adam = _rotated(moment, basis) / (1 - b1**steps) / (jnp.sqrt(second / (1 - b2**steps)) + epsilon)
        grams = jax.tree.map(
            lambda old, new: shampoo_beta * old + (1 - shampoo_beta) * new, state.grams, chosen(*_grams(gradient))
        )
        return _rotated_back(adam, basis), SoapState(steps, moment, second, grams, basis)

    return for_each_matrix(init, update)
