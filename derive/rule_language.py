"""The language that update rules are typed in: its names and functions, and a rule as an expression."""

from collections.abc import Mapping
from functools import lru_cache

from sympy import Abs, Expr, Max, Min, atan2, sign, sqrt

from derive.matrix_functions import colnorm, first, in_blocks, nucnorm, of_low_rank, rownorm, second
from derive.parsing import parse_expression
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
    polar,
    rms,
    spectral,
)

RULE_NAMES: Mapping[str, Expr] = {
    "g": GRADIENT,
    "g_prev": PREVIOUS_GRADIENT,
    "m": FIRST_MOMENT,
    "v": SECOND_MOMENT,
    "w": WEIGHT,
    "w0": WEIGHT - CHANGE,
    "dw": CHANGE,
    "eps": EPSILON,
    "eps2": SECOND_EPSILON,
    "sigma": SIGMA,
    "fan_in": FAN_IN,
    "fan_out": FAN_OUT,
}
RULE_FUNCTIONS = {
    "sqrt": lambda radicand: sqrt(radicand),  # sympy's own takes a second argument
    "abs": Abs,
    "sign": sign,
    "max": Max,
    "min": Min,
    "atan2": atan2,
    "clip": clip,
    "rms": rms,
    "norm": norm,
    "rownorm": rownorm,
    "colnorm": colnorm,
    "opnorm": opnorm,
    "nucnorm": nucnorm,
    "first": first,
    "second": second,
    "lowrank": of_low_rank,
    "polar": lambda matrix, *, blocks=None: polar(in_blocks(matrix, blocks)),
    "spectral": lambda matrix, singular_map, *, blocks=None: spectral(in_blocks(matrix, blocks), singular_map),
}


@lru_cache(maxsize=256)
def read_rule(update: str) -> Expr:
    """The rule as an expression; DeriveError naming the place where it cannot be read."""
    return parse_expression(update, "update rule", names=RULE_NAMES, functions=RULE_FUNCTIONS)
