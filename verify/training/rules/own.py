"""A rule of one's own as an optax transform: its expression in g, m, v, w, ... computed on every parameter by JAX.

What is computed is the expression that `derive` sizes, node by node, never its text. A function of the language has one
line in FUNCTIONS; what is kept from step to step, as m and v are, has one in AVERAGES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import KeyPath
from jaxtyping import Array, Float, Int
from sympy import Abs, Add, Expr, Max, Min, Mul, Pow, Rational, atan, atan2, sign

from derive.errors import DeriveError, shorten
from derive.matrix_functions import FANS, OF_MATRICES, blocked, colnorm, first, lowrank, nucnorm, rownorm, second
from derive.words import (
    CHANGE,
    EPSILON,
    FAN_IN,
    FAN_OUT,
    FIRST_MOMENT,
    GRADIENT,
    PREVIOUS_GRADIENT,
    SECOND_EPSILON,
    SECOND_MOMENT,
    SIGMA,
    WEIGHT,
    clip,
    norm,
    opnorm,
    rms,
    spectral,
    text,
)
from verify.values import Leaf, Tree

Epsilon = float | Float[Array, ""]
Value = Leaf  # a number, which takes the type of the arrays it meets, or an array
Values = Mapping[Expr, Value]

FUNCTIONS: Mapping[type[Expr], Callable[..., Array]] = {
    Abs: jnp.abs,
    sign: jnp.sign,
    atan: jnp.arctan,
    atan2: jnp.arctan2,
    Max: lambda *values: reduce(jnp.maximum, values),
    Min: lambda *values: reduce(jnp.minimum, values),
    clip: lambda value: jnp.clip(value, -1, 1),
    rms: lambda matrix: jnp.sqrt(jnp.mean(jnp.square(matrix))),
    norm: lambda matrix: jnp.sqrt(jnp.sum(jnp.square(matrix))),
    opnorm: lambda matrix: jnp.linalg.norm(matrix, 2),
    nucnorm: lambda matrix: jnp.linalg.norm(matrix, "nuc"),
    rownorm: lambda matrix: _norm_along(matrix, -2),
    colnorm: lambda matrix: _norm_along(matrix, -1),
    lowrank: lambda matrix, rank: _largest_directions(matrix, rank),
}
"""Each function of the language of rules on arrays; matrices are [fan_in, fan_out], the transpose of the language's."""


@dataclass(frozen=True)
class Average:
    """A moving average over steps of an expression: decay b1 or b2."""

    of: Expr
    first: bool


AVERAGES: Mapping[Expr, Average] = {
    FIRST_MOMENT: Average(GRADIENT, first=True),
    SECOND_MOMENT: Average(GRADIENT**2, first=False),
}


def _averages(rule: Expr) -> dict[Expr, Average]:
    """Every average that the rule reads, what is averaged in another before that one."""
    found = {symbol: average for symbol, average in AVERAGES.items() if rule.has(symbol)}
    written = sorted(rule.atoms(first, second), key=lambda part: len(_parts(cast("Expr", part))))
    for part in cast("list[Expr]", written):
        (inner,) = _arguments(part)
        found[part] = Average(inner, first=True) if isinstance(part, first) else Average(inner**2, first=False)
    return found


class RuleState(NamedTuple):
    """Of one parameter: steps taken, and what its rule reads of the steps before, by name, averages as they are stored.

    These are g_prev, zero at first, and w0.
    """

    steps: Int[Array, ""]
    averages: dict[str, Array]


def rule_transform(
    rule: Expr, epsilon: Epsilon, *, b1: float = 0.9, b2: float = 0.999, debiased: bool = True
) -> optax.GradientTransformation:
    """U(g, m, v, w, eps) of every parameter, in float32 or wider.

        m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2      both divided by 1 - b^t where debiased, as in Adam

    0/0 is 0, as with an eps that goes to zero, which eps2 is here. spectral(X, f) takes singular values that rounding
    hides, below max(fan_in, fan_out) x 1.2e-7 of the largest, for zeros, and leaves zeros at zero: the polar factor of
    a gradient of rank r has rank r. A vector has a fan-in of 1. DeriveError for what has no line in FUNCTIONS, for a
    matrix function of a parameter that is no matrix, and for fans of one with three axes or more.
    """
    check_runnable(rule)
    kept = _averages(rule)

    def init_one(path: KeyPath, parameter: Array) -> RuleState:
        _check_shape(rule, jax.tree_util.keystr(path, simple=True, separator="."), jnp.shape(parameter))
        wide = _widened(parameter)
        zeros = jnp.zeros_like(wide)
        values = _values(rule, zeros, epsilon, wide, {PREVIOUS: zeros, START: wide})
        for symbol, average in kept.items():
            values[symbol] = jnp.zeros_like(evaluate(average.of, values))
        stored = {str(symbol): cast("Array", values[symbol]) for symbol in kept}
        stored |= {PREVIOUS: zeros} if rule.has(PREVIOUS_GRADIENT) else {}
        stored |= {START: wide} if rule.has(CHANGE) else {}
        return RuleState(jnp.zeros([], jnp.int32), stored)

    def init(params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(init_one, params)

    def update_one(gradient: Array, state: RuleState, weight: Array | None) -> tuple[Array, RuleState]:
        wide = _widened(gradient)
        values = _values(rule, wide, epsilon, None if weight is None else weight.astype(wide.dtype), state.averages)
        steps, averages = state.steps + 1, dict(state.averages)
        if PREVIOUS in averages:
            averages[PREVIOUS] = wide
        for symbol, average in kept.items():
            decay = b1 if average.first else b2
            stored = decay * state.averages[str(symbol)] + (1 - decay) * evaluate(average.of, values)
            averages[str(symbol)] = stored
            values[symbol] = stored / (1 - decay**steps) if debiased else stored
        update = jnp.broadcast_to(evaluate(rule, values), wide.shape).astype(gradient.dtype)
        return update, RuleState(steps, averages)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        gradients, tree = jax.tree.flatten(updates)
        weights = [None] * len(gradients) if params is None else tree.flatten_up_to(params)
        states = tree.flatten_up_to(state)
        with jax.default_matmul_precision("highest"):
            pairs = [update_one(*each) for each in zip(gradients, states, weights, strict=True)]
        return tree.unflatten([step for step, _ in pairs]), tree.unflatten([each for _, each in pairs])

    return optax.GradientTransformation(init, update)


PREVIOUS, START = "g_prev", "w0"
"""Names in the state of what is no average."""


def _values(
    rule: Expr, gradient: Array, epsilon: Epsilon, weight: Array | None, kept: Mapping[str, Array]
) -> dict[Expr, Value]:
    fan_in, fan_out = (1, 1, *jnp.shape(gradient))[-2:]
    values: dict[Expr, Value] = {GRADIENT: gradient, EPSILON: epsilon, SECOND_EPSILON: 0.0}
    values |= {FAN_IN: fan_in, FAN_OUT: fan_out}
    if rule.has(PREVIOUS_GRADIENT):
        values[PREVIOUS_GRADIENT] = kept[PREVIOUS]
    if weight is not None:
        values[WEIGHT] = weight
        if rule.has(CHANGE):
            values[CHANGE] = weight - kept[START]
    return values


def _norm_along(matrix: Array, axis: int) -> Array:
    """Norms over the inputs (-2) or outputs (-1) of [fan_in, fan_out]; a vector has a fan-in of 1."""
    if matrix.ndim > 1:
        return jnp.linalg.norm(matrix, axis=axis, keepdims=True)
    return jnp.abs(matrix) if axis == -2 else jnp.linalg.norm(matrix)


def _arguments(expression: Expr) -> tuple[Expr, ...]:
    return cast("tuple[Expr, ...]", expression.args)


def evaluate(expression: Expr, values: Values) -> Value:
    """The expression at these values of its symbols, arrays or numbers."""
    if expression in values:
        return values[expression]
    if expression.is_number:
        return float(expression)
    if isinstance(expression, spectral):
        matrix, singular_map = _arguments(expression)
        if isinstance(matrix, blocked):
            return _blockwise(matrix, singular_map, values)
        return _with_singular_values(evaluate(matrix, values), singular_map, values)
    if isinstance(expression, Mul):
        return _product(expression, values)
    parts = [evaluate(part, values) for part in _arguments(expression)]
    if isinstance(expression, Add):
        return reduce(add, parts)
    if isinstance(expression, Pow):
        return _power(parts[0], cast("Rational", _arguments(expression)[1]))
    if type(expression) in FUNCTIONS:
        return FUNCTIONS[type(expression)](*parts)
    raise DeriveError(f"{shorten(text(expression))} needs the parameters; give them to the transform's update")


def _product(product: Expr, values: Values) -> Value:
    """A quotient of products, 0 where its numerator is."""
    above, below = [], []
    for factor in _arguments(product):
        base, power = factor.as_base_exp()
        if not factor.is_number and isinstance(power, Rational) and power.is_negative:
            below.append(_power(evaluate(base, values), cast("Rational", -power)))
        else:
            above.append(evaluate(factor, values))
    numerator = reduce(mul, above, 1.0)
    if not below:
        return numerator
    return jnp.where(jnp.equal(numerator, 0), 0.0, numerator / reduce(mul, below))


def _power(base: Value, power: Rational) -> Value:
    if power.q > 2:
        return jnp.power(base, float(power))
    root = base if power.q == 1 else jnp.sqrt(base)
    return jax.lax.integer_pow(jnp.asarray(root), int(power.p))


def _with_singular_values(matrix: Array, singular_map: Expr, values: Values) -> Array:
    """U f(sigma) V^T of the matrix U sigma V^T."""
    left, sigma, right = jnp.linalg.svd(matrix, full_matrices=False)
    hidden = max(matrix.shape) * jnp.finfo(matrix.dtype).eps * sigma[0]
    mapped = jnp.where(sigma > hidden, evaluate(singular_map, {**values, SIGMA: sigma}), 0.0)
    return (left * mapped) @ right


def _blockwise(matrix: Expr, singular_map: Expr, values: Values) -> Array:
    """f(sigma) of every block; DeriveError where the blocks are not of one whole size."""
    whole, down, across = (evaluate(part, values) for part in _arguments(matrix))
    fan_in, fan_out = whole.shape  # type: ignore[union-attr]
    rows, columns = round(float(down)), round(float(across))
    if fan_out % rows or fan_in % columns:
        raise DeriveError(
            f"blocks=({rows}, {columns}) do not divide a matrix of {fan_out} outputs and {fan_in} inputs; give divisors"
        )
    cut = whole.reshape(columns, fan_in // columns, rows, fan_out // rows).swapaxes(1, 2)  # type: ignore[union-attr]
    one = jax.vmap(jax.vmap(lambda block: _with_singular_values(block, singular_map, values)))
    return one(cut).swapaxes(1, 2).reshape(fan_in, fan_out)


def _largest_directions(matrix: Array, rank: Value) -> Array:
    left, sigma, right = jnp.linalg.svd(matrix, full_matrices=False)
    return (left * jnp.where(jnp.arange(sigma.size) < rank, sigma, 0.0)) @ right


def _widened(array: Array) -> Array:
    return jnp.asarray(array).astype(jnp.promote_types(jnp.asarray(array).dtype, jnp.float32))


def check_runnable(rule: Expr) -> None:
    """Raise DeriveError for an expression with a function or a symbol that nothing here computes."""
    known = {GRADIENT, PREVIOUS_GRADIENT, WEIGHT, CHANGE, EPSILON, SECOND_EPSILON, SIGMA, FAN_IN, FAN_OUT, *AVERAGES}
    for part in (rule, *_parts(rule)):
        if part.is_number or part in known or isinstance(part, Add | Mul | Pow | spectral | first | second | blocked):
            continue
        if type(part) not in FUNCTIONS:
            raise DeriveError(
                f"{shorten(text(part))} in the rule {shorten(text(rule))} has exponents and cannot be trained here; "
                "use `derive` for it, or another rule"
            )


def _parts(expression: Expr) -> list[Expr]:
    return [each for part in _arguments(expression) for each in (part, *_parts(part))]


def _check_shape(rule: Expr, path: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 and rule.has(*OF_MATRICES):
        raise DeriveError(
            f"parameter {path} has shape {shape}, and {shorten(text(rule))} is of matrices [fan_in, fan_out]: reshape "
            "it, or give it an entrywise rule"
        )
    if len(shape) > 2 and rule.has(*FANS):
        raise DeriveError(
            f"parameter {path} has shape {shape}, and {shorten(text(rule))} asks for its fan-in and fan-out: reshape "
            "it to [fan_in, fan_out], or give it a rule without them"
        )
