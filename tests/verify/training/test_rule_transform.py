"""A rule of one's own, trained: its transform against those of the registry, against numpy, and what it refuses."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from sympy import Function, Symbol

from derive.errors import DeriveError
from derive.registry import REGISTRY, optimizer
from derive.rule_language import RULE_NAMES
from derive.words import FAN_IN, FAN_OUT, GRADIENT
from tests.verify.training.test_directions import evaluated
from verify.measuring.axes import Axes
from verify.training.rules.directions import DIRECTIONS, check_trainable, direction
from verify.training.rules.own import check_runnable, rule_transform
from verify.training.rules.transforms import ScaledRule, of_matrices
from verify.training.rules.usual import BASE_RATES, base_rate

Transform = Any  # whose updates are trees of whatever its gradients are
EPSILON = 1e-3
SHAPE = (12, 8)
STEPS = 5


def trained(transform: Transform, shape: tuple[int, ...] = SHAPE, rank: int | None = None) -> Any:
    """U of every step, with gradients that change from step to step."""
    generator = np.random.default_rng(0)
    weights = {"w": jnp.asarray(generator.normal(size=shape), jnp.float32)}
    state, found = transform.init(weights), []
    for _ in range(STEPS):
        gradient = generator.normal(size=shape)
        if rank is not None:
            gradient = generator.normal(size=(shape[0], rank)) @ generator.normal(size=(rank, shape[1]))
        update, state = transform.update({"w": jnp.asarray(gradient, jnp.float32)}, state, weights)
        found.append(update["w"])
        weights = {"w": weights["w"] - 0.1 * update["w"]}
    return np.stack(found)


def typed(rule: str, epsilon: float = 0.0, **averages: Any) -> Transform:
    return rule_transform(optimizer(rule).rule, epsilon, **averages)


THEIRS: dict[str, tuple[Any, dict[str, Any]]] = {  # the registry's own transform, and how its averages are taken
    **{name: (DIRECTIONS[name](EPSILON), {}) for name in ("sgd", "adam", "adamw", "adam-ps", "lamb", "adam-atan2")},
    **{name: (DIRECTIONS[name](EPSILON), {}) for name in ("sign-sgd", "normalised-sgd")},
    "momentum": (optax.chain(DIRECTIONS["momentum"](0.0), optax.scale(0.1)), {"debiased": False}),
    "rmsprop": (DIRECTIONS["rmsprop"](EPSILON), {"b2": 0.9, "debiased": False}),
    "lion": (optax.scale_by_lion(b1=0.9, b2=0.9), {}),
    "lars": (optax.scale_by_trust_ratio(eps=EPSILON), {"b1": 0.0}),
    "adafactor": (
        optax.chain(
            optax.scale_by_rms(decay=0.99, eps=EPSILON),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(min_scale=0.0),
        ),
        {"b2": 0.99, "debiased": False},
    ),
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_rule_written_out_takes_the_steps_of_its_name(name: str) -> None:
    theirs, averages = THEIRS[name]
    assert trained(typed(optimizer(name).update, EPSILON, **averages)) == pytest.approx(
        trained(theirs), rel=2e-5, abs=1e-6
    )


def test_muon_written_out_is_the_polar_factor_of_what_newton_and_schulz_approach() -> None:
    def whole(updates: Any) -> Any:
        return {name: optax.contrib.MuonDimensionNumbers() for name in updates}

    theirs = trained(optax.contrib.scale_by_muon(beta=0.9, nesterov=False, weight_dimension_numbers=whole))
    ours = trained(typed("spectral(m,sigma/(sigma+eps))", 1e-8))
    for one, other in zip(ours, theirs, strict=True):
        left, sigma, right = np.linalg.svd(other, full_matrices=False)
        assert np.all((sigma > 0.65) & (sigma < 1.25))
        assert one == pytest.approx(left @ right, abs=1e-4)


@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_the_first_step_of_rules_with_a_memory_of_their_own(name: str) -> None:
    """Their sums start with the first gradient, where they are what the rule says."""
    epsilon = 1e-2
    one, other = (trained(each)[0] for each in (direction(optimizer(name).update)(epsilon), direction(name)(epsilon)))
    assert one == pytest.approx(other, abs=2e-4)


RULES = (
    *(
        "sign(m)",
        "w*abs(g)/norm(w)",
        "m/(sqrt(v)+eps)/max(1,rms(m/(sqrt(v)+eps)))",
        "clip(3*m)-g/2",
        "m*min(1,1/norm(m))",
    ),
    *("polar(m)*sqrt(fan_out/fan_in)", "opnorm(w)*spectral(g,sqrt(sigma/opnorm(g)))", "g/(v+eps)**(1/3)*fan_in**2"),
    *("spectral(m+w,min(sigma,1))", "abs(g)**(3/2)*sign(g)", "atan2(g,abs(w))", "2*polar(g)/rms(polar(g))", "max(g,w)"),
)


@pytest.mark.parametrize("rule", RULES)
def test_what_is_computed_is_the_expression(rule: str) -> None:
    """Against another evaluation of the same expression, in numpy's double precision, with averages kept by hand."""
    expression = optimizer(rule).rule
    transform = typed(rule, EPSILON)
    generator = np.random.default_rng(1)
    weight = generator.normal(size=SHAPE)
    state, m, v = transform.init({"w": jnp.asarray(weight, jnp.float32)}), np.zeros(SHAPE), np.zeros(SHAPE)
    for step in range(1, 4):
        gradient = generator.normal(size=SHAPE)
        tree = {"w": jnp.asarray(gradient, jnp.float32)}, state, {"w": jnp.asarray(weight, jnp.float32)}
        update, state = transform.update(*tree)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        values = {"g": gradient, "m": m / (1 - 0.9**step), "v": v / (1 - 0.999**step), "w": weight, "eps": EPSILON}
        at: dict[Symbol, Any] = {RULE_NAMES[name]: value for name, value in values.items()}  # type: ignore[misc]
        at |= {FAN_IN: SHAPE[0], FAN_OUT: SHAPE[1]}
        assert np.asarray(update["w"]) == pytest.approx(evaluated(expression, at), rel=2e-3, abs=1e-4), step


def test_by_hand() -> None:
    gradient = jnp.array([[3.0, 0.0], [0.0, 0.0], [0.0, -4.0]])
    for rule, expected in {
        "polar(g)*sqrt(fan_out/fan_in)": np.sqrt(2 / 3) * np.sign(gradient),
        "g/norm(g)": gradient / 5,
        "g/opnorm(g)*fan_in": 0.75 * gradient,
        "g/rms(g)": gradient / np.sqrt(25 / 6),
        "m/sqrt(v)": np.sign(gradient),
        "spectral(g,sigma**2)": gradient * np.abs(gradient),
        "w*rms(g)/norm(g)": np.full((3, 2), 2.0) / np.sqrt(6),
    }.items():
        transform = typed(rule)
        weights = {"w": jnp.full((3, 2), 2.0)}
        found, _ = transform.update({"w": gradient}, transform.init(weights), weights)
        assert np.asarray(found["w"]) == pytest.approx(np.asarray(expected), abs=1e-5), rule


def test_a_matrix_function_keeps_the_gradients_rank() -> None:
    """polar of a gradient of rank 3 is of rank 3: what rounding leaves of the others is no direction to go."""
    for update in trained(typed("polar(g)"), (40, 30), rank=3):
        sigma = np.linalg.svd(update, compute_uv=False)
        assert sigma[:3] == pytest.approx(1, abs=1e-5)
        assert np.all(sigma[3:] < 1e-5)


def test_what_has_no_gradient_does_not_move() -> None:
    """Rows of a table that a batch does not look up: 0/0 is 0, as with any eps."""
    for rule in ("m/sqrt(v)", "g/norm(g)", "polar(m)/rms(polar(m))", "sign(m)"):
        transform = typed(rule)
        update, _ = transform.update({"w": jnp.zeros((3, 2))}, transform.init({"w": jnp.zeros((3, 2))}), None)
        assert not np.any(np.asarray(update["w"]))


def test_a_failure_is_not_repaired() -> None:
    broken = {"w": jnp.full((3, 2), jnp.nan)}
    for rule in ("polar(m)", "g/norm(g)", "sign(m)", "m*max(1,rms(m))"):
        transform = typed(rule)
        assert np.all(np.isnan(transform.update(broken, transform.init(broken))[0]["w"])), rule


def test_vectors_have_a_fan_in_of_one() -> None:
    transform = typed("sign(g)*fan_out/fan_in")
    gain = {"gain": jnp.ones(5)}
    assert transform.update(gain, transform.init(gain))[0]["gain"].tolist() == [5.0] * 5


@pytest.mark.parametrize(
    ("rule", "shape", "problem"),
    [
        ("polar(m)", (5,), "of matrices"),
        ("g/opnorm(g)", (2, 3, 4), "of matrices"),
        ("sign(m)/fan_in", (2, 3, 4), "fan-in and fan-out"),
    ],
)
def test_a_parameter_that_is_no_matrix_is_refused_by_name(rule: str, shape: tuple[int, ...], problem: str) -> None:
    with pytest.raises(DeriveError, match=rf"parameter blocks\.gain .*{problem}"):
        direction(rule)(1e-8).init({"blocks": {"gain": jnp.ones(shape)}})


def test_stacked_and_transposed_parameters_are_those_of_one_layer() -> None:
    generator = np.random.default_rng(2)
    pair = jnp.asarray(generator.normal(size=(2, *SHAPE)), jnp.float32)
    scaled = ScaledRule("hidden", "polar(m)*fan_out/norm(w)", 0.1, 0.0, 0.0)
    one: Transform = scaled.transform()
    apart = [one.update(each, one.init(each), each)[0] for each in pair]
    stacked: Transform = ScaledRule("hidden", scaled.rule, 0.1, 0.0, 0.0, stacked=True).transform()
    assert stacked.update(pair, stacked.init(pair), pair)[0] == pytest.approx(np.stack(apart), abs=1e-6)
    turned: Transform = ScaledRule("hidden", scaled.rule, 0.1, 0.0, 0.0, axes=Axes((1,), (0,))).transform()
    first = pair[0].T
    assert pytest.approx(np.asarray(apart[0]), abs=1e-6) == turned.update(first, turned.init(first), first)[0].T
    adam = DIRECTIONS["adam"](EPSILON)
    assert trained(of_matrices(adam, Axes((1,), (0,)))) == pytest.approx(trained(adam), rel=1e-6)


def test_what_cannot_be_trained_is_refused() -> None:
    for rule in ("kfac", "sophia", "adam2"):
        with pytest.raises(DeriveError, match=r"unknown (trainable )?optimizer"):
            check_trainable({"hidden": rule})
    for expression in (Symbol("x") * GRADIENT, Function("novel")(GRADIENT)):
        with pytest.raises(DeriveError, match="cannot be trained here"):
            check_runnable(expression)
    check_trainable({"hidden": "clip(m/max(v,eps))"})  # Sophia's rule, with the gradient's v


def test_every_function_of_the_language_is_computed() -> None:
    for row in REGISTRY:
        check_runnable(row.rule)


ALIKE = [name for name in BASE_RATES if name != "soap"]  # which is of size 1 at full rank, and derived at rank one


@pytest.mark.parametrize("name", ALIKE)
def test_the_estimated_rate_is_near_the_one_known(name: str) -> None:
    assert 1 / 6 < base_rate(optimizer(name).update) / BASE_RATES[name] < 6
    assert base_rate(f"1000*({optimizer(name).update})") == pytest.approx(base_rate(optimizer(name).update) / 1000)
