"""Update rules on stacks of matrices by numpy alone: an oracle that knows nothing of exponents."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sympy import Symbol

Stack = NDArray[np.float64]
"""[..., fan_out, fan_in]"""
NOTHING = 1e-10
"""Singular values below this part of the largest are rounding."""


def update(rule: Any, g: Stack, w: Stack, m: Stack | None = None, v: Stack | None = None) -> Stack:
    """U of every matrix of the stack, epsilons far below what they are added to; by default m = g and v = g^2."""
    fan_out, fan_in = g.shape[-2:]
    values = {
        "g": g,
        "g_prev": g,
        "m": g if m is None else m,
        "v": g**2 if v is None else v,
        "w": w,
        "dw": np.zeros_like(w),
        "eps": 1e-40,
        "eps2": 1e-40,
        "fan_in": float(fan_in),
        "fan_out": float(fan_out),
    }
    return np.broadcast_to(evaluate(rule, values), g.shape)


def evaluate(expression: Any, values: Mapping[str, Any]) -> Any:
    """The value of a rule's expression, node by node."""
    if expression.is_number:
        return float(expression)
    if isinstance(expression, Symbol):
        return values[expression.name]
    name = type(expression).__name__
    if name == "spectral":
        return with_singular_values(
            evaluate(expression.args[0], values), lambda sigma: evaluate(expression.args[1], {**values, "sigma": sigma})
        )
    parts = [evaluate(part, values) for part in expression.args]
    if name == "lowrank":
        count = int(min(parts[1], *parts[0].shape[-2:]))
        return with_singular_values(parts[0], lambda sigma: sigma * (np.arange(sigma.shape[-1]) < count))
    functions = {
        "Add": lambda *terms: sum(terms[1:], terms[0]),
        "Mul": lambda *factors: np.prod(np.stack(np.broadcast_arrays(*factors)), 0),
        "Pow": lambda base, power: np.where(base == 0, 0.0, np.where(base == 0, 1.0, base) ** power),  # 0/0 is 0
        "Abs": np.abs,
        "sign": np.sign,
        "atan": np.arctan,
        "atan2": np.arctan2,
        "Max": lambda *terms: np.stack(np.broadcast_arrays(*terms)).max(0),
        "Min": lambda *terms: np.stack(np.broadcast_arrays(*terms)).min(0),
        "clip": lambda value: np.clip(value, -1, 1),
        "rms": lambda x: np.sqrt((x**2).mean((-2, -1), keepdims=True)),
        "norm": lambda x: np.sqrt((x**2).sum((-2, -1), keepdims=True)),
        "opnorm": lambda x: np.linalg.norm(x, 2, (-2, -1), keepdims=True),
        "nucnorm": lambda x: np.linalg.norm(x, "nuc", (-2, -1), keepdims=True),
        "rownorm": lambda x: np.sqrt((x**2).sum(-1, keepdims=True)),
        "colnorm": lambda x: np.sqrt((x**2).sum(-2, keepdims=True)),
        "first": lambda x: x,
        "second": np.square,
    }
    return functions[name](*parts)


def with_singular_values(matrices: Stack, mapped: Any) -> Stack:
    """Every matrix with its singular values mapped; those that are rounding stay zero."""
    left, sigma, right = np.linalg.svd(matrices, full_matrices=False)
    kept = sigma > NOTHING * sigma[..., :1]
    safe = np.where(kept, sigma, 1.0)
    # fans and norms inside the map keep two axes; sigma has one
    new = mapped(safe) if np.ndim(mapped(safe)) == sigma.ndim else mapped(safe[..., None, :])[..., 0, :]
    return (left * np.where(kept, new, 0.0)[..., None, :]) @ right
