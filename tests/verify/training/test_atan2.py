"""Adam-atan2: Adam without an epsilon, at any size of the gradient and in bfloat16."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.training.rules.atan2 import (
    PAPER_SCALES,
    adam_atan2,
    angle,
    paper_form,
    root_mean,
    scale_by_adam_atan2,
)

B1, B2 = 0.9, 0.999


def moments(gradients: Any) -> tuple[Any, Any]:
    """Adam's debiased moments after the last of the gradients, in double precision."""
    m = v = np.zeros(np.shape(gradients)[1:])
    for gradient in np.asarray(gradients, dtype=np.float64):
        m, v = B1 * m + (1 - B1) * gradient, B2 * v + (1 - B2) * gradient**2
    steps = len(gradients)
    return m / (1 - B1**steps), v / (1 - B2**steps)


@cache
def compiled(a: float, b: float) -> Any:
    transform = scale_by_adam_atan2(B1, B2, a, b)
    return transform.init, jax.jit(transform.update)


def trained(gradients: Any, a: float = 1.0, b: float = 1.0) -> Any:
    """U of the last step."""
    init, step = compiled(a, b)
    state, update = init(jnp.zeros_like(gradients[0])), None
    for gradient in gradients:
        update, state = step(jnp.asarray(gradient), state)
    return update


histories = st.lists(
    st.lists(st.floats(-1e3, 1e3, width=32).filter(lambda g: g == 0 or abs(g) > 1e-6), min_size=4, max_size=4),
    min_size=1,
    max_size=6,
).map(lambda rows: np.array(rows, dtype=np.float32))


@settings(max_examples=100, deadline=None)
@given(histories, st.sampled_from([1.0, 4 / np.pi, 2.5]), st.sampled_from([1.0, 3.0, 50.0]))
def test_it_is_adam_without_epsilon_to_first_order(gradients: Any, a: float, b: float) -> None:
    """|atan t - t| <= |t|^3 / 3 with t = m / (b sqrt v)."""
    m, v = moments(gradients)
    ratio = np.divide(m, b * np.sqrt(v), out=np.zeros_like(m), where=v > 0)
    found = np.asarray(trained(gradients, a=a, b=b), dtype=np.float64)
    assert np.all(np.abs(found - a * ratio) <= a * (np.abs(ratio) ** 3 / 3 + 2e-6))
    assert np.allclose(found, a * np.arctan2(m, b * np.sqrt(v)), rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(found) <= np.float32(a) * np.float32(np.pi / 2) * (1 + 1e-6))


def test_small_ratios_give_adams_own_steps() -> None:
    """Gradients that cancel: U is optax's Adam with epsilon 0, to the third power of the ratio."""
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(200, 64)).astype(np.float32)
    adam, state, update = optax.scale_by_adam(B1, B2, eps=0.0), None, None
    state = adam.init(jnp.zeros(64))
    for gradient in gradients:
        update, state = adam.update(jnp.asarray(gradient), state)
    ours, theirs = np.asarray(trained(gradients, b=20.0) * 20), np.asarray(update)
    assert np.max(np.abs(theirs)) > 0.3
    assert np.allclose(ours, theirs, rtol=2e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_the_gradients_size_does_not_matter(scale: float) -> None:
    gradients = np.random.default_rng(1).normal(size=(12, 256)).astype(np.float32)
    assert np.allclose(trained(gradients * np.float32(scale)), trained(gradients), rtol=2e-6, atol=1e-6)


def test_a_power_of_two_gives_the_same_bits() -> None:
    gradients = np.random.default_rng(2).normal(size=(5, 256)).astype(np.float32)
    for power in (-90, -13, 40, 100):
        assert np.array_equal(trained(gradients * np.float32(2.0**power)), trained(gradients))


def test_gradients_of_zero_give_zero() -> None:
    assert np.array_equal(trained(np.zeros((3, 4), np.float32)), np.zeros(4))
    some = np.array([[0.0, 1e-30, 0.0, -2.0]], np.float32)
    assert np.allclose(trained(some), [0, np.pi / 4, 0, -np.pi / 4], rtol=1e-6)
    later = np.concatenate([np.zeros((3, 4), np.float32), some])
    assert np.all(np.isfinite(trained(later))) and trained(later)[0] == 0
    assert np.all(np.abs(trained(later)[jnp.array([1, 3])]) > 0)


def test_the_bound_is_reached_and_kept() -> None:
    y, x = jnp.array([1.0, -1e30, 1e-37, 0.0]), jnp.array([0.0, 1e-37, 0.0, 0.0])
    assert np.array_equal(angle(y, x), np.array([np.pi / 2, -np.pi / 2, np.pi / 2, 0], np.float32))


def test_the_angle_over_all_ratios() -> None:
    ratios = np.exp2(np.linspace(-60, 60, 200_001)).astype(np.float32)
    exact = np.arctan(np.float64(ratios))
    units = np.abs(np.float64(angle(jnp.asarray(ratios), jnp.ones_like(ratios))) - exact) / np.spacing(
        np.float32(exact)
    )
    assert np.max(units) <= 2


@settings(max_examples=200, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32), st.floats(0, 2.0**99, width=32))
def test_the_angle_to_three_units_in_the_last_place(y: float, x: float) -> None:
    exact = np.arctan2(np.float64(y), np.float64(x))
    if (y == 0 or abs(y) > 1e-30) and (x == 0 or x > 1e-30) and (exact == 0 or abs(exact) > 1e-30):
        assert abs(float(angle(jnp.float32(y), jnp.float32(x))) - exact) <= 3 * np.spacing(np.float32(abs(exact)))


@pytest.mark.parametrize("scale", [1e-35, 1e-19, 1.0, 1e19, 1e35])
def test_the_root_of_the_second_moment_at_any_size(scale: float) -> None:
    generator = np.random.default_rng(3)
    root, new = np.abs(generator.normal(size=99)) * scale, generator.normal(size=99) * scale
    new[::3], root[::5] = 0, 0
    exact = np.sqrt(0.9 * np.float64(root) ** 2 + 0.1 * np.float64(new) ** 2)
    assert np.allclose(root_mean(jnp.float32(root), jnp.float32(new), 0.9), exact, rtol=1e-6, atol=0)


def test_bfloat16_gradients_keep_float32_moments() -> None:
    generator = np.random.default_rng(4)
    gradients = jnp.asarray(generator.normal(size=(300, 32)) * np.linspace(1, 0.01, 300)[:, None], jnp.bfloat16)
    m, v = moments(np.asarray(gradients, dtype=np.float64))
    found = trained(gradients)
    assert found.dtype == jnp.bfloat16
    assert np.allclose(np.float64(found), np.arctan2(m, np.sqrt(v)), rtol=2**-8 + 1e-5, atol=1e-6)


def test_the_second_moment_is_forgotten_in_bfloat16_too() -> None:
    """In bfloat16 itself 0.999 is 1, so that nothing ever would be."""
    assert jnp.bfloat16(B2) == 1
    init, step = compiled(1.0, 1.0)
    _, state = step(jnp.ones(3, jnp.bfloat16), init(jnp.zeros(3, jnp.bfloat16)))
    first = np.asarray(state.root)
    for _ in range(200):
        _, state = step(jnp.zeros(3, jnp.bfloat16), state)
    assert state.root.dtype == state.moment.dtype == jnp.float32
    assert np.allclose(np.asarray(state.root) / first, B2**100, rtol=1e-5)


def test_a_gradient_that_is_no_number_stays_one() -> None:
    found = np.asarray(trained(np.array([[np.nan, 1.0], [1.0, 1.0], [0.0, 1.0]], np.float32)))
    assert np.isnan(found[0]) and np.isfinite(found[1])
    assert np.all(np.isnan(angle(jnp.array([np.nan, np.nan, 0.0, 1.0]), jnp.array([1.0, 0.0, np.nan, np.nan]))))


def test_b_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="needs b above 0"):
        scale_by_adam_atan2(b=-1.0)


def test_without_a_first_moment_the_first_step_is_a_sign() -> None:
    transform = scale_by_adam_atan2(b1=0.0, a=4 / np.pi)
    gradient = jnp.array([3.0, -1e-20])
    update, _ = jax.jit(transform.update)(gradient, transform.init(gradient))
    assert np.allclose(update, [1.0, -1.0], rtol=1e-6)  # type: ignore[arg-type]


def test_every_leaf_keeps_its_shape_and_type() -> None:
    tree = {"w": jnp.ones((2, 3), jnp.bfloat16), "rest": [jnp.float32(-2.0), jnp.zeros((0, 4)), jnp.ones(5)]}
    transform = scale_by_adam_atan2()
    start = transform.init(tree)
    update, state = jax.jit(transform.update)(tree, start)
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (update, tree, start, state)]
    assert kinds[0] == kinds[1] and kinds[2] == kinds[3]
    assert np.allclose(update["rest"][0], -np.pi / 4, rtol=1e-6)  # type: ignore[index]
    assert {leaf.dtype for leaf in jax.tree.leaves((state.moment, state.root))} == {jnp.dtype(jnp.float32)}  # type: ignore[union-attr]


def test_a_step_stores_nothing_between_state_and_weights() -> None:
    """Where XLA keeps an array aside, a step takes two or three times as long."""
    weights, transform = jnp.ones((64, 1024)), adam_atan2(1e-3)

    def step(params: Any, state: Any, gradients: Any) -> Any:
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(weights, transform.init(weights), weights)
    memory = lowered.compile().memory_analysis()
    assert memory is not None and memory.temp_size_in_bytes < weights.nbytes / 2


def test_decay_is_decoupled_and_the_rate_may_be_traced() -> None:
    weights = jnp.arange(1.0, 5.0)

    def after(rate: Any, decay: float) -> Any:
        transform = adam_atan2(rate, weight_decay=decay)
        update, _ = transform.update(jnp.ones(4), transform.init(weights), weights)
        return optax.apply_updates(weights, update)

    plain, decayed = jax.jit(after, static_argnums=1)(0.1, 0.0), jax.jit(after, static_argnums=1)(0.1, 0.5)
    assert np.allclose(plain, weights - 0.1 * np.pi / 4, rtol=1e-6)
    assert np.allclose(plain - decayed, 0.05 * weights, atol=1e-6)


def test_many_at_once_and_in_a_loop() -> None:
    gradients = jnp.asarray(np.random.default_rng(5).normal(size=(6, 3, 8)), jnp.float32)
    transform = scale_by_adam_atan2()

    def last(history: Any) -> Any:
        def body(state: Any, gradient: Any) -> Any:
            update, state = transform.update(gradient, state)
            return state, update

        return jax.lax.scan(body, transform.init(history[0]), history)[1][-1]

    alone = [trained(np.asarray(gradients[:, index])) for index in range(3)]
    assert np.allclose(jax.vmap(last, in_axes=1)(gradients), alone, rtol=1e-6)


@pytest.mark.parametrize("scale", PAPER_SCALES)
def test_the_papers_form(scale: float) -> None:
    """(4/pi) scale atan2(m, scale sqrt(v)), by numpy; small ratios take 4/pi of Adam's step whatever the scale."""
    gradients = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    m, v = moments(gradients)
    transform = scale_by_adam_atan2(B1, B2, scale=scale)
    state: Any = transform.init(jnp.zeros(64))
    found: Any = None
    for gradient in gradients:
        found, state = transform.update(jnp.asarray(gradient), state)
    assert np.allclose(found, 4 / np.pi * scale * np.arctan2(m, scale * np.sqrt(v)), rtol=1e-5, atol=1e-6)
    a, b = paper_form(scale)
    assert a / b == pytest.approx(4 / np.pi) and a * np.pi / 2 == pytest.approx(2 * scale)
    assert paper_form(1.0) == (4 / np.pi, 1.0), "the other account: a = 4/pi, b = 1, by which the ratio 1 steps 1"
    assert a * np.arctan(1 / b) == pytest.approx(1.0) or scale != 1


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": float("nan")}, {"scale": 8.0, "a": 2.0}])
def test_the_papers_form_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        adam_atan2(1e-3, **wrong)  # type: ignore[arg-type]
