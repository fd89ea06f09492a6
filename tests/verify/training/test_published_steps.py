"""Two steps of every newer optimizer against its paper's formula, written here in numpy from the paper.

Matrices here are fan_out x fan_in, as in the papers, and their transposes are what is trained.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.registry import REGISTRY
from verify.training.rules.directions import DIRECTIONS
from verify.training.rules.transforms import ScaledRule

Matrix = Any
Steps = Iterator[Matrix]
EPS = 1e-6
ROWS, COLUMNS = 12, 20


def newton_schulz(matrix: Matrix) -> Matrix:
    """Muon's polynomial, five times (Jordan et al. 2024)."""
    x = matrix / (np.linalg.norm(matrix) + EPS)
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
    return x


def averaged(gradients: list[Matrix], beta: float, debiased: bool = False) -> Steps:
    moment = np.zeros_like(gradients[0])
    for step, gradient in enumerate(gradients, 1):
        moment = beta * moment + (1 - beta) * gradient
        yield moment / (1 - beta**step) if debiased else moment


def adam(gradients: list[Matrix], b1: float = 0.9, b2: float = 0.999) -> Steps:
    squares = [gradient**2 for gradient in gradients]
    for m, v in zip(averaged(gradients, b1, debiased=True), averaged(squares, b2, debiased=True), strict=True):
        yield m / (np.sqrt(v) + EPS)


def scion(gradients: list[Matrix]) -> Steps:
    """Scaled to an RMS-to-RMS norm of 1: sqrt(d_out / d_in) times the polar factor of the averaged gradient."""
    for m in averaged(gradients, 0.95):
        yield np.sqrt(ROWS / COLUMNS) * newton_schulz(m)


def scion_sign(gradients: list[Matrix]) -> Steps:
    for m in averaged(gradients, 0.9):
        yield np.sign(m) / COLUMNS


def scion_row(gradients: list[Matrix]) -> Steps:
    for m in averaged(gradients, 0.9):
        yield np.stack([row / (np.linalg.norm(row) + EPS) for row in m]) / np.sqrt(COLUMNS)


def normuon(gradients: list[Matrix]) -> Steps:
    v = np.zeros(ROWS)
    for m in averaged(gradients, 0.95):
        o = newton_schulz(m)
        v = 0.95 * v + 0.05 * np.mean(o**2, axis=1)
        o = o / (np.sqrt(v)[:, None] + 1e-12)
        yield 0.2 * np.sqrt(ROWS * COLUMNS) / np.linalg.norm(o) * o


def adamuon(gradients: list[Matrix]) -> Steps:
    v = np.zeros((ROWS, COLUMNS))
    for step, m in enumerate(averaged(gradients, 0.95), 1):
        o = newton_schulz(m)
        v = 0.95 * v + 0.05 * o**2
        o = o / (np.sqrt(v / (1 - 0.95**step)) + 1e-12)
        yield 0.2 * np.sqrt(ROWS * COLUMNS) / np.linalg.norm(o) * o


def dion(gradients: list[Matrix]) -> Steps:
    """With the first basis that power iteration would find."""
    m, rank = np.zeros((ROWS, COLUMNS)), 3
    q = np.linalg.svd(gradients[0])[2][:rank].T
    for gradient in gradients:
        b = m + gradient
        p = np.linalg.qr(b @ q)[0]
        r = b.T @ p
        m = b - 0.05 * p @ r.T
        q = r / (np.linalg.norm(r, axis=0) + EPS)
        yield np.sqrt(ROWS / COLUMNS) * p @ q.T


def polargrad(gradients: list[Matrix]) -> Steps:
    for m in averaged(gradients, 0.95):
        left, sigma, right = np.linalg.svd(m, full_matrices=False)
        yield sigma.sum() * left @ right


def power(gram: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(gram)
    kept = values > 1e-7 * values[-1]
    return (vectors[:, kept] * values[kept] ** -0.25) @ vectors[:, kept].T


def grafted_shampoo(gradients: list[Matrix]) -> Steps:
    left, right = np.zeros((ROWS, ROWS)), np.zeros((COLUMNS, COLUMNS))
    for gradient, size in zip(gradients, adam(gradients), strict=True):
        left, right = left + gradient @ gradient.T, right + gradient.T @ gradient
        step = power(left) @ gradient @ power(right)
        yield np.linalg.norm(size) * step / np.linalg.norm(step)


def adopt(gradients: list[Matrix]) -> Steps:
    """Clipped at t^(1/4) as in its code, where the first gradient is t = 0."""
    v, m = gradients[0] ** 2, 0.0
    for t, gradient in enumerate(gradients):
        bound = max(t, 1) ** 0.25
        m = 0.9 * m + 0.1 * np.clip(gradient / np.maximum(np.sqrt(v), EPS), -bound, bound)
        v = 0.9999 * v + 0.0001 * gradient**2
        yield m


def ademamix(gradients: list[Matrix]) -> Steps:
    fast, slow = averaged(gradients, 0.9, debiased=True), averaged(gradients, 0.9999)
    second = averaged([gradient**2 for gradient in gradients], 0.999, debiased=True)
    for one, other, v in zip(fast, slow, second, strict=True):
        yield (one + 5 * other) / (np.sqrt(v) + EPS)


def mars(gradients: list[Matrix]) -> Steps:
    previous, corrected = np.zeros_like(gradients[0]), []
    for gradient in gradients:
        c = gradient + 0.025 * 0.95 / 0.05 * (gradient - previous)
        corrected.append(c / np.linalg.norm(c) if np.linalg.norm(c) > 1 else c)
        previous = gradient
    return adam(corrected, 0.95, 0.99)


def cautious(gradients: list[Matrix]) -> Steps:
    for gradient, step in zip(gradients, adam(gradients), strict=True):
        mask = step * gradient > 0
        yield step * mask * mask.size / mask.sum()


def schedule_free(gradients: list[Matrix]) -> Steps:
    for gradient, v in zip(gradients, averaged([g**2 for g in gradients], 0.999, debiased=True), strict=True):
        yield gradient / (np.sqrt(v) + EPS)


PUBLISHED: dict[str, Callable[[list[Matrix]], Steps]] = {
    "scion": scion,
    "scion-sign": scion_sign,
    "scion-row": scion_row,
    "normuon": normuon,
    "adamuon": adamuon,
    "dion": dion,
    "polargrad": polargrad,
    "grafted-shampoo": grafted_shampoo,
    "adopt": adopt,
    "ademamix": ademamix,
    "mars": mars,
    "cautious": cautious,
    "schedule-free": schedule_free,
}


def drawn(steps: int = 2) -> tuple[list[Matrix], Matrix]:
    generator = np.random.default_rng(5)
    return [generator.normal(size=(ROWS, COLUMNS)) for _ in range(steps)], generator.normal(size=(ROWS, COLUMNS))


@pytest.mark.parametrize("name", PUBLISHED)
def test_steps_are_those_of_the_paper(name: str) -> None:
    gradients, weight = drawn(3)
    transform, params = DIRECTIONS[name](EPS), {"w": jnp.asarray(weight.T, jnp.float32)}
    state = transform.init(params)
    for gradient, expected in zip(gradients, PUBLISHED[name](gradients), strict=True):
        update, state = transform.update({"w": jnp.asarray(gradient.T, jnp.float32)}, state, params)
        found = np.asarray(update["w"]).T  # type: ignore[index]
        assert np.allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_muon_hyperball_steps_along_the_sphere(decay: float) -> None:
    """W <- R N(W - rate R N(u)), N(x) = x / ||x||, R = ||W_0||; a decay of W along itself is undone by the sphere."""
    gradients, weight = drawn(3)
    rule = ScaledRule("w", "muon-hyperball", 0.3, EPS, decay).transform()
    params = {"w": jnp.asarray(weight.T, jnp.float32)}
    state, radius = rule.init(params), np.linalg.norm(weight)
    for gradient, m in zip(gradients, averaged(gradients, 0.95), strict=True):
        update, state = rule.update({"w": jnp.asarray(gradient.T, jnp.float32)}, state, params)
        params = jax.tree.map(jnp.add, params, update)
        step = newton_schulz(m)
        weight = weight * (1 - 0.3 * decay) - 0.3 * radius * step / np.linalg.norm(step)
        weight = radius * weight / np.linalg.norm(weight)
        assert np.allclose(np.asarray(params["w"]).T, weight, atol=2e-4)


def test_every_newer_optimizer_is_here() -> None:
    names = [row.name for row in REGISTRY if row.trainable]
    assert {*PUBLISHED, "muon-hyperball"} == set(names[names.index("scion") :])
