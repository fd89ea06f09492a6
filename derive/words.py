"""The words of update rules: symbols, the functions beside sympy's own, and what is a matrix among them.

g, m, v, w stand for matrices of fan_out x fan_in entries, whose size is the RMS of a typical entry.
"""

import math
from collections.abc import Mapping
from typing import Literal, cast, get_args

from sympy import Abs, Add, Expr, Function, Integer, Max, Min, Mul, Pow, Rational, S, Symbol, atan, atan2, sign, sympify

Kind = Literal["embedding", "hidden", "readout"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FAN_EXPONENTS: dict[Kind, tuple[int, int]] = {"embedding": (0, 1), "hidden": (1, 1), "readout": (1, 0)}
"""Powers of the width in (fan_in, fan_out) of each layer kind."""

GRADIENT, FIRST_MOMENT, WEIGHT = (Symbol(name, real=True, nonzero=True) for name in ("g", "m", "w"))
PREVIOUS_GRADIENT, CHANGE = (Symbol(name, real=True) for name in ("g_prev", "dw"))
"""The gradient of the step before, and w - w_0, which is zero at the first step."""
SECOND_MOMENT, EPSILON, SECOND_EPSILON, SIGMA = (Symbol(name, positive=True) for name in ("v", "eps", "eps2", "sigma"))
EPSILONS = (EPSILON, SECOND_EPSILON)
FAN_IN, FAN_OUT = (Symbol(name, positive=True) for name in ("fan_in", "fan_out"))
RANK, SPREAD = (Symbol(name, positive=True) for name in ("rank", "spread"))
"""Singular values of a matrix function of the gradient, and those over which the gradient's own norm spreads."""
OF_GRADIENT = (GRADIENT, FIRST_MOMENT, SECOND_MOMENT, PREVIOUS_GRADIENT)
MATRICES = (*OF_GRADIENT, WEIGHT, CHANGE)

Sizes = Mapping[Symbol, Expr]
Fans = Kind | tuple[Rational, Rational]
"""Powers of the width in (fan_in, fan_out), or the layer kind that has them."""


def fan_exponents(fans: Fans) -> tuple[Expr, Expr]:
    """Powers of the width in (fan_in, fan_out)."""
    fan_in, fan_out = FAN_EXPONENTS[fans] if isinstance(fans, str) else fans
    return sympify(fan_in), sympify(fan_out)


class Norm(Function):
    """A positive number computed from a whole matrix."""

    is_real = True
    is_positive = True
    nargs = 1


class rms(Norm):
    """Root mean square over the entries."""


class norm(Norm):
    """Frobenius norm: RMS x sqrt(fan_in fan_out)."""


class opnorm(Norm):
    """Operator norm: RMS x sqrt(fan_in fan_out) of the gradient, RMS x sqrt(max(fan_in, fan_out)) of weights."""


class clip(Function):
    """Entries clipped to [-1, 1]."""

    is_real = True
    nargs = 1

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:  # type: ignore[override]
        """Numbers at once: sympy compares only numbers that it can evaluate."""
        return Max(-1, Min(1, argument)) if argument.is_number and argument.is_comparable else None


class spectral(Function):
    """spectral(X, f(sigma)): X with each of its singular values sigma replaced by f(sigma)."""

    is_real = True
    nargs = 2


def text(expression: Expr) -> str:
    """The expression as it could be typed back in."""
    return str(expression).replace("Max(", "max(").replace("Min(", "min(")


def polar(matrix: Expr) -> Expr:
    """The orthogonal polar factor: every singular value becomes 1."""
    return cast("Expr", spectral(matrix, S.One))


def arguments(expression: Expr) -> tuple[Expr, ...]:
    """Its arguments, as expressions."""
    return cast("tuple[Expr, ...]", expression.args)


def is_matrix(expression: Expr) -> bool:
    """Whether the expression has fan_out x fan_in entries, rather than being one number."""
    if isinstance(expression, Norm):
        return False
    if isinstance(expression, spectral):
        return True
    return expression in MATRICES or any(is_matrix(part) for part in arguments(expression))


def parity_in_weights(expression: Expr) -> int:
    """1 where w -> -w leaves every entry as it is, -1 where it turns its sign, 0 where neither is certain."""
    parts = [parity_in_weights(part) for part in arguments(expression)]
    if expression == WEIGHT:
        return -1
    if isinstance(expression, Norm) or not expression.has(WEIGHT):
        return 1
    if isinstance(expression, Mul):
        return math.prod(parts)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        known = parity_in_weights(base)
        return 1 if known == 1 else known ** (power.p % 2) if isinstance(power, Integer) else 0
    if isinstance(expression, Abs):
        return abs(parts[0])
    if isinstance(expression, sign | clip | atan | spectral):
        return parts[0]
    if isinstance(expression, atan2):
        return parts[0] if parts[1] == 1 else 0
    alike = parts[0] if len(set(parts)) == 1 else 0
    return alike if isinstance(expression, Add) else max(alike, 0)


def is_of_weights(matrix: Expr) -> bool:
    """Whether entries of w, and not just numbers made of it, enter the matrix: it then has full rank."""
    if isinstance(matrix, Norm):
        return False
    return matrix == WEIGHT or any(is_of_weights(part) for part in arguments(matrix))
