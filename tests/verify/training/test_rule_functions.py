"""Rules written out are computed by their expressions: averages, norms, blocks, low rank and memory of steps before."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from derive.optimizers import Optimizer
from derive.registry import optimizer
from tests.verify.training.test_published_steps import averaged, drawn
from verify.training.rules.own import rule_transform

Matrix = Any


def steps(rule: str, **decays: Any) -> list[Matrix]:
    """U of three steps of the rule, as fan_out x fan_in, on weights that it has moved at a rate of 1."""
    gradients, weight = drawn(3)
    transform = rule_transform(Optimizer("mine", rule).rule, 0.0, **decays)
    params = jnp.asarray(weight.T, jnp.float32)
    state, found = transform.init(params), []
    for gradient in gradients:
        update, state = transform.update(jnp.asarray(gradient.T, jnp.float32), state, params)
        params = params - update  # type: ignore[operator]
        found.append(np.asarray(update).T)
    return found


def polar(matrix: Matrix) -> Matrix:
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ right


def close(found: list[Matrix], expected: list[Matrix]) -> bool:
    return all(np.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in zip(found, expected, strict=True))


def test_norms_of_rows_columns_and_singular_values() -> None:
    gradients, _ = drawn(3)
    assert close(steps("g/rownorm(g)"), [g / np.linalg.norm(g, axis=1, keepdims=True) for g in gradients])
    assert close(steps("g/colnorm(g)"), [g / np.linalg.norm(g, axis=0, keepdims=True) for g in gradients])
    assert close(steps("g/nucnorm(g)"), [g / np.linalg.norm(g, "nuc") for g in gradients])


def test_blocks_and_low_rank() -> None:
    gradients, _ = drawn(3)
    blocks = [
        np.block([[polar(block) for block in np.split(half, 5, axis=1)] for half in np.split(g, 3)]) for g in gradients
    ]
    assert close(steps("polar(g, blocks=(3, 5))"), blocks)
    kept = [(np.linalg.svd(g, full_matrices=False)) for g in gradients]
    assert close(steps("lowrank(g, fan_in/10)"), [(u[:, :2] * s[:2]) @ v[:2] for u, s, v in kept])


def test_the_step_before_and_the_way_from_the_start() -> None:
    gradients, _ = drawn(3)
    assert close(steps("g - g_prev"), [gradients[0], *np.diff(gradients, axis=0)])
    walked, expected = np.zeros_like(gradients[0]), []
    for g in gradients:
        expected.append(max(0.1, np.linalg.norm(walked)) * g / np.linalg.norm(g))
        walked = walked - expected[-1]
    assert close(steps("max(1/10, norm(w - w0)) * g/norm(g)"), expected)


def test_averages_of_averages() -> None:
    gradients, _ = drawn(3)
    signs = [np.sign(m) for m in averaged(gradients, 0.9, debiased=True)]
    assert close(steps("first(sign(first(g)))"), list(averaged(signs, 0.9, debiased=True)))
    squares = [np.sqrt(v) for v in averaged([polar(g) ** 2 for g in gradients], 0.999, debiased=True)]
    assert close(steps("sqrt(second(polar(g)))"), squares)


@pytest.mark.parametrize("name", ["mars", "adopt", "cautious", "normuon", "scion-row"])
def test_rules_of_the_registry_run_as_they_are_written(name: str) -> None:
    found = steps(optimizer(name).update)
    assert all(np.all(np.isfinite(update)) and np.any(update) for update in found)
