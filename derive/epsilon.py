"""The width at which a constant epsilon starts to bite, layer by layer (docs/theory.md, section 7)."""

import math
from dataclasses import dataclass
from typing import cast

import sympy
from sympy import Expr

from derive.errors import DeriveError
from derive.propagation import Problem
from derive.words import FAN_EXPONENTS, FAN_IN, FAN_OUT, FIRST_MOMENT, GRADIENT, SECOND_MOMENT, Kind, norm, opnorm, rms

LARGEST_LOG = math.log(1e300)


@dataclass(frozen=True)
class Onset:
    """Where epsilon meets what it is added to: n = base_width (size / epsilon)^(1/exponent).

    `size` is that quantity at the base width and n^-exponent its way up; `width` is None where it never
    shrinks to epsilon, and below the base width where epsilon already rules there.
    """

    kind: Kind
    exponent: Expr
    size: float
    width: float | None


def onsets(
    problem: Problem, value: float, base_width: int, gradient_rms: tuple[float, float, float], fixed_fan: int | None
) -> list[Onset]:
    """The onset for embedding, hidden and readout, from the gradients' RMS at the base width.

    Rules that add epsilon to a norm need the size of the dimension that does not grow, `fixed_fan`.
    """
    chain = problem.chain()
    found = []
    for kind, rms_at_base in zip(FAN_EXPONENTS, gradient_rms, strict=True):
        optimizer = problem.optimizers[kind]
        if optimizer.epsilon_companion is None:
            raise DeriveError(f"{optimizer.name} has no epsilon; ask for an optimizer that has one, such as adam")
        index = chain.kinds.index(kind)
        exponent = optimizer.epsilon(kind, chain.g[index], chain.b[index])
        size = _magnitude(optimizer.epsilon_companion, kind, rms_at_base, base_width, fixed_fan)
        width = None
        if exponent is not None and exponent.is_positive:
            width = _width(base_width, size, value, exponent)
        found.append(Onset(kind, cast("Expr", exponent), size, width))
    return found


def _magnitude(companion: Expr, kind: Kind, rms_at_base: float, base_width: int, fixed_fan: int | None) -> float:
    """The value of what epsilon is added to, every entry of the gradient taken at its RMS."""
    numel = sympy.sqrt(FAN_IN * FAN_OUT)
    expression = companion.replace(rms, lambda matrix: matrix)
    for matrix_norm in (norm, opnorm):
        expression = expression.replace(matrix_norm, lambda matrix: matrix * numel)
    fans = {FAN_IN: FAN_EXPONENTS[kind][0], FAN_OUT: FAN_EXPONENTS[kind][1]}
    needed = {fan for fan in fans if expression.has(fan)}
    if fixed_fan is None and any(fans[fan] == 0 for fan in needed):
        raise DeriveError(
            f"this rule adds epsilon to {companion}, whose size on the {kind} depends on the dimension that does not "
            "grow; give it with --fixed-fan"
        )
    values = {fan: base_width if fans[fan] else fixed_fan for fan in needed}
    gradient = sympy.Rational(rms_at_base)
    moments = {GRADIENT: gradient, FIRST_MOMENT: gradient, SECOND_MOMENT: gradient**2}
    result = expression.xreplace({**moments, **{fan: sympy.Integer(size) for fan, size in values.items()}})
    if not result.is_number:
        raise DeriveError(f"the size of {companion} at the base width does not follow from the gradients alone")
    size = float(cast("Expr", result).evalf())
    if not 0 < size < math.inf:
        raise DeriveError(
            f"the size of {companion} on the {kind} is {size:g} in floating point, for gradients of {rms_at_base:g}; "
            "give gradients within 1e-150 to 1e150"
        )
    return size


def _width(base_width: int, size: float, value: float, exponent: Expr) -> float:
    """base_width (size / value)^(1/exponent); DeriveError where no floating-point number is as large or as small."""
    log = math.log(base_width) + (math.log(size) - math.log(value)) / float(exponent)
    if abs(log) >= LARGEST_LOG:
        raise DeriveError(
            f"epsilon {value:g} meets gradients of {size:g} at a width of 1e{log / math.log(10):.0f}, beyond any "
            "network and any number here; give both as they are in training"
        )
    return base_width * (size / value) ** (1 / float(exponent))
