"""Matrix rules against actual matrices: singular value decompositions at two widths, written here from the papers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sympy import Rational, S

from derive.registry import optimizer
from derive.words import FAN_EXPONENTS, KINDS, Kind

Matrix = np.ndarray[Any, Any]
WIDTHS = (32, 128)
FIXED = 8


def polar(gradient: Matrix) -> Matrix:
    left, _, right = np.linalg.svd(gradient, full_matrices=False)
    return left @ right


def power(gram: Matrix, exponent: float) -> Matrix:
    """Symmetric matrix power on the range of `gram`."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > values.max() * 1e-9
    return (vectors[:, kept] * values[kept] ** exponent) @ vectors[:, kept].T


def shampoo(gradient: Matrix) -> Matrix:
    return power(gradient @ gradient.T, -0.25) @ gradient @ power(gradient.T @ gradient, -0.25)


def kfac(gradient: Matrix) -> Matrix:
    """Both factors together divide every singular value by its square (docs/theory.md, section 3, E = 1)."""
    return power(gradient @ gradient.T, -0.5) @ gradient @ power(gradient.T @ gradient, -0.5)


def soap(gradient: Matrix, left: bool = True, right: bool = True) -> Matrix:
    """Adam's first step in the eigenbasis: the sign of every rotated entry that is not zero."""
    rows = np.linalg.eigh(gradient @ gradient.T)[1] if left else np.eye(gradient.shape[0])
    columns = np.linalg.eigh(gradient.T @ gradient)[1] if right else np.eye(gradient.shape[1])
    rotated = rows.T @ gradient @ columns
    rotated[np.abs(rotated) < 1e-9 * np.abs(rotated).max()] = 0
    return rows @ np.sign(rotated) @ columns.T


def keller(gradient: Matrix) -> Matrix:
    return polar(gradient) * np.sqrt(max(1, gradient.shape[0] / gradient.shape[1]))


RULES: dict[str, Callable[[Matrix], Matrix]] = {
    "muon": polar,
    "muon-keller": keller,
    "muon-rms": lambda gradient: polar(gradient) * np.sqrt(max(gradient.shape)),
    "shampoo": shampoo,
    "kfac": kfac,
    "soap": soap,
    "soap-left": lambda gradient: soap(gradient, right=False),
    "soap-right": lambda gradient: soap(gradient, left=False),
    "normalised-sgd": lambda gradient: gradient / np.linalg.norm(gradient),
}


def shape(kind: Kind, width: int) -> tuple[int, int]:
    fan_in, fan_out = FAN_EXPONENTS[kind]
    return (width if fan_out else FIXED, width if fan_in else FIXED)


def slope(values: list[float]) -> float:
    return float(np.log(values[1] / values[0]) / np.log(WIDTHS[1] / WIDTHS[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RULES)
def test_operator_norm_on_a_rank_one_aligned_gradient(name: str, kind: Kind) -> None:
    """||U||_op = n^p on G = delta x^T with entries of size n^-g."""
    g = Rational(1, 2)
    norms = []
    for width in WIDTHS:
        generator = np.random.default_rng(width)
        rows, columns = shape(kind, width)
        gradient = np.outer(generator.normal(size=rows), generator.normal(size=columns))
        gradient *= width ** -float(g) / np.sqrt(np.mean(gradient**2))
        norms.append(float(np.linalg.norm(RULES[name](gradient), 2)))
    assert abs(slope(norms) - float(optimizer(name).operator_norm(kind, g, S.Zero))) < 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["muon", "muon-keller", "muon-rms", "normalised-sgd"])
def test_update_size_at_full_rank(name: str, kind: Kind) -> None:
    """RMS(U) = n^-s for gradients of full rank, where all singular values count."""
    sizes = []
    for width in WIDTHS:
        gradient = np.random.default_rng(width).normal(size=shape(kind, width))
        sizes.append(float(np.sqrt(np.mean(RULES[name](gradient) ** 2))))
    assert abs(-slope(sizes) - float(optimizer(name).size(kind, S.Zero, S.Zero))) < 0.05


@pytest.mark.parametrize("kind", ["hidden", "readout"])
@pytest.mark.parametrize("name", RULES)
def test_no_input_aligns_better_than_the_cap(name: str, kind: Kind) -> None:
    """RMS(U z) <= n^cap RMS(U) RMS(z), reached by the top singular vector when s is that of the same update."""
    gain = 0.0
    for width in WIDTHS:
        gradient = np.random.default_rng(width).normal(size=shape(kind, width))
        update = RULES[name](gradient)
        z = np.linalg.svd(update)[2][0] * np.sqrt(update.shape[1])
        gain = np.sqrt(np.mean((update @ z) ** 2)) / np.sqrt(np.mean(update**2))
        bound = np.linalg.norm(update, 2) * np.sqrt(update.shape[1] / update.shape[0]) / np.sqrt(np.mean(update**2))
        assert gain <= bound * (1 + 1e-9)
    if name == "muon" and kind == "hidden":
        assert optimizer(name).alignment_cap(kind, S.Zero, S.Zero) == Rational(1, 2)
        assert abs(np.log(gain) / np.log(WIDTHS[1]) - 0.5) < 0.05
