"""The optimizer of a prescription as people call it: schedules as rates, vectors without decay, trees of factors."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import verify
from derive.errors import UserError
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
    for mask in (True, lambda params: jax.tree.map(lambda _: True, params), {"in": 0, "w": 1, "gain": 1, "out": 0}):
        found = stepped(answer.optimizer(0.01, weight_decay=0.1, mask=mask), 0.0)
        assert found["gain"] == found["w"] == pytest.approx(-1e-3)
        assert (found["in"] == 0) == isinstance(mask, dict)
    for mask in ({"in": True}, {**dict.fromkeys(make(WIDTH)[0], True), "more": True}):
        with pytest.raises(UserError, match="the mask of decay is no tree of bools"):
            stepped(answer.optimizer(0.01, weight_decay=0.1, mask=mask), 0.0)


def test_a_mask_may_leave_a_group_of_matrices_empty() -> None:
    muon = verify.prescribe(make, base_width=BASE, width=WIDTH, optimizer="adam,hidden=muon")
    found = stepped(muon.optimizer(0.01, weight_decay=0.1, mask=True), 0.0)
    assert found["w"] == pytest.approx(-1e-3)


def second_step(transform: optax.GradientTransformation) -> dict[str, float]:
    """The step after a gradient of 1 and one of 0: of averages alone."""
    params = jax.tree.map(jnp.ones_like, make(WIDTH)[0])
    state = transform.init(params)
    for gradient in (1.0, 0.0):
        updates, state = transform.update(jax.tree.map(lambda x, g=gradient: g * x, params), state, params)
    return {name: float(update.ravel()[0]) for name, update in updates.items()}  # type: ignore[union-attr]


def test_keywords_of_the_rule_are_those_of_optax(answer: ModelPrescription) -> None:
    optimizer = optax.adam(0.02, b1=0.5, b2=0.6, eps=1e-8)
    wanted, rates = second_step(optimizer), answer.rates(make(WIDTH)[0])
    found = second_step(answer.optimizer(0.02, b1=0.5, b2=0.6, epsilon=1e-8))
    assert found == pytest.approx({name: wanted[name] * rates[name] for name in wanted}, rel=1e-5)
    assert second_step(answer.optimizer(0.02))["w"] != pytest.approx(found["w"], rel=0.1)


def test_every_rule_takes_its_own_keywords_and_no_other(answer: ModelPrescription) -> None:
    mixed = verify.prescribe(make, base_width=BASE, width=WIDTH, optimizer="adam,hidden=momentum")
    usual, slower = (second_step(mixed.optimizer(0.02, momentum=momentum)) for momentum in (0.9, 0.5))
    assert slower["w"] == pytest.approx(usual["w"] * 5 / 9)
    assert slower["in"] == usual["in"]
    with pytest.raises(UserError, match="adam takes no momentum here; given may be b1, b2"):
        answer.optimizer(0.02, momentum=0.9)


def test_factors_are_trees_for_those_who_build_their_own(answer: ModelPrescription) -> None:
    params = make(WIDTH)[0]
    assert answer.rates(params) == {"in": 1.0, "w": 0.25, "gain": 1.0, "out": 0.25}
    assert answer.decays(params) == {"in": 1.0, "w": 4.0, "gain": 1.0, "out": 4.0}
    assert answer.multipliers_of(params) == dict.fromkeys(params, 1.0)
    own = verify.prescribe(make, base_width=BASE, width=WIDTH, parameterization="ntk", gauge="own")
    assert own.multipliers_of(params) == {"in": 1.0, "w": 0.5, "gain": 1.0, "out": 0.5}
    assert answer.epsilons(params) == {name: answer.factor(answer.row(name).epsilon) for name in params}


def test_the_rate_may_be_injected(answer: ModelPrescription) -> None:
    given: dict[str, Any] = {"weight_decay": 0.1, "b1": 0.8, "epsilon": 1e-7}
    wanted = stepped(answer.optimizer(0.02, **given), 1.0)
    for rate in (0.02, optax.constant_schedule(0.02)):
        injected = optax.inject_hyperparams(answer.optimizer, static_args="mask")(rate, **given, mask=None)
        assert stepped(injected, 1.0) == pytest.approx(wanted, rel=1e-5)
    changed = optax.inject_hyperparams(answer.optimizer)(0.02, **given)
    params = make(WIDTH)[0]
    state = changed.init(params)
    assert {"base_rate", "weight_decay", "b1", "epsilon"} <= state.hyperparams.keys()  # type: ignore[union-attr]
    state.hyperparams["base_rate"] = 0.0  # type: ignore[union-attr]
    updates, _ = changed.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert all(not jnp.any(update) for update in jax.tree.leaves(updates))


def test_it_prints_as_its_table(answer: ModelPrescription) -> None:
    shown = str(answer)
    assert "width 32 -> 128" in shown
    assert all(name in shown for name in ("gain", "hidden", "readout", "rate x"))
