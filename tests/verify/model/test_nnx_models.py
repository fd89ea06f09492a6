"""Models of flax.nnx: state that changes while training, and the two kinds of paths that its optimizer hands over."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import verify


class Net(nnx.Module):
    """A layer, batch norm in training mode, a readout."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.a, self.bn = nnx.Linear(6, width, rngs=rngs), nnx.BatchNorm(width, rngs=rngs)
        self.out = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(nnx.relu(self.bn(self.a(x))))


def make(width: int, pure: bool = False) -> Any:
    graph, params, rest = nnx.split(Net(width, nnx.Rngs(0)), nnx.Param, ...)
    given = nnx.as_pure(params) if pure else params
    return given, lambda p, x: nnx.merge(graph, p, rest, copy=True)(x), jnp.ones((5, 6))


def plain(width: int) -> Any:
    """State thrown away in apply, closed over."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "a": jax.random.normal(keys[0], (6, width)),
        "w": jax.random.normal(keys[1], (width, width)) * width**-0.5,
        "out": jax.random.normal(keys[2], (width, 2)) * width**-0.5,
    }
    running = jnp.zeros(width)

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["a"])
        new = running.at[...].set(0.9 * running + 0.1 * z.mean(0))
        return jnp.tanh((z - new) @ p["w"]) @ p["out"]

    return params, apply, jnp.ones((5, 6))


def test_state_that_apply_updates_is_no_obstacle():
    answer = verify.prescribe(plain, base_width=32, width=128)
    assert {row.path: row.role for row in answer.parameters} == {"a": "embedding", "w": "hidden", "out": "readout"}
    roles = {row.path: row.role for row in verify.prescribe(make, base_width=32, width=128).parameters}
    assert roles["out.kernel.value"] == "readout" and roles["a.kernel.value"] == roles["bn.scale.value"] == "embedding"


@pytest.mark.parametrize("pure", [True, False])
def test_the_prescription_trains_in_nnx_optimizer(pure: bool):
    prescription = verify.prescribe(lambda width: make(width, pure), base_width=32, width=128)
    model = Net(128, nnx.Rngs(0))
    before = model.out.kernel[...]
    optimizer = nnx.Optimizer(model, prescription.optimizer(0.004), wrt=nnx.Param)
    optimizer.update(
        model, nnx.grad(lambda m: ((m(jax.random.normal(jax.random.key(1), (5, 6))) - 1) ** 2).mean())(model)
    )
    # Adam's first step is the rate: the readout's goes as n^-1, a quarter of 0.004 here.
    assert float(jnp.abs(model.out.kernel[...] - before).max()) == pytest.approx(0.001, rel=1e-2)
