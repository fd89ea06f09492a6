"""The optimizer of a prescription as people call it: schedules as rates, vectors without decay, trees of factors."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import verify
from verify.model.prescription import ModelPrescription

BASE, WIDTH = 32, 128


def make(width: int) -> Any:
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (8, width)) * 8**-0.5,
        "w": jax.random.normal(keys[1], (width, width)) * width**-0.5,
        "gain": jnp.ones(width),
        "out": jax.random.normal(keys[2], (width, 4)) * width**-0.5,
    }

    def apply(params: Any, x: Any) -> Any:
        z = jnp.tanh(x @ params["in"]) * params["gain"]
        return jnp.tanh(z @ params["w"]) @ params["out"]

    return params, apply, jnp.ones((2, 8))


@pytest.fixture(scope="module")
def answer() -> ModelPrescription:
    return verify.prescribe(make, base_width=BASE, width=WIDTH, optimizer="adam", parameterization="mup")


def stepped(transform: optax.GradientTransformation, gradient: float) -> dict[str, Any]:
    params = jax.tree.map(jnp.ones_like, make(WIDTH)[0])
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    updates, _ = transform.update(gradients, transform.init(params), params)
    return {name: float(update.ravel()[0]) for name, update in updates.items()}  # type: ignore[union-attr]


def test_a_schedule_is_a_rate(answer: ModelPrescription) -> None:
    given = stepped(answer.optimizer(lambda step: 0.02 / (1 + step)), 1.0)
    assert given == stepped(answer.optimizer(0.02), 1.0)
    both = stepped(answer.optimizer(optax.constant_schedule(0.02), lambda _: 0.5), 1.0)
    assert both["w"] == pytest.approx(given["w"] / 2)


def test_vectors_are_not_decayed_unless_asked_for(answer: ModelPrescription) -> None:
    usual = stepped(answer.optimizer(0.01, weight_decay=0.1), 0.0)
    assert usual["gain"] == 0
    assert usual["w"] == pytest.approx(-0.01 * 0.1)  # rate x decay is the same at every width
    assert stepped(answer.optimizer(0.01, weight_decay=0.1, decays_vectors=True), 0.0)["gain"] == pytest.approx(-1e-3)


def test_factors_are_trees_for_those_who_build_their_own(answer: ModelPrescription) -> None:
    params = make(WIDTH)[0]
    assert answer.rates(params) == {"in": 1.0, "w": 0.25, "gain": 1.0, "out": 0.25}
    assert answer.decays(params) == {"in": 1.0, "w": 4.0, "gain": 1.0, "out": 4.0}
    assert answer.epsilons(params) == {name: answer.factor(answer.row(name).epsilon) for name in params}


def test_the_rate_may_be_injected(answer: ModelPrescription) -> None:
    injected = optax.inject_hyperparams(lambda base_rate: answer.optimizer(base_rate))(base_rate=0.02)
    assert stepped(injected, 1.0)["w"] == pytest.approx(stepped(answer.optimizer(0.02), 1.0)["w"], rel=1e-5)


def test_it_prints_as_its_table(answer: ModelPrescription) -> None:
    shown = str(answer)
    assert "width 32 -> 128" in shown
    assert all(name in shown for name in ("gain", "hidden", "readout", "rate x"))
