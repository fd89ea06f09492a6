"""What `verify` trains is what `derive` sizes: every transform's first step against its rule, evaluated by numpy."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from sympy import Abs, Expr, Max, Min, Symbol, atan, sign

from derive.matrix_functions import first, lowrank, nucnorm, rownorm, second
from derive.registry import REGISTRY, optimizer
from derive.rule_language import RULE_NAMES
from derive.words import FAN_IN, FAN_OUT, SIGMA, clip, norm, opnorm, rms, spectral
from verify.training.rules.directions import DIRECTIONS
from verify.training.rules.transforms import ScaledRule
from verify.training.rules.usual import BASE_RATES, base_epsilon

Matrix = Any
EPSILONS = {"adafactor": 1e-30, "soap": 1e-3}  # SOAP's has to be above the rounding of what is rotated
NUMPY: dict[Any, Any] = {Abs: np.abs, sign: np.sign, atan: np.arctan, clip: lambda x: np.clip(x, -1, 1)}
SIZES: dict[Any, Any] = {
    rms: lambda x: np.sqrt(np.mean(x**2)),
    norm: np.linalg.norm,
    opnorm: lambda x: np.linalg.norm(x, 2),
    nucnorm: lambda x: np.linalg.norm(x, "nuc"),
    rownorm: lambda x: np.linalg.norm(x, axis=0, keepdims=True),  # a row of the rule is a column here
    first: lambda x: x,
    second: lambda x: x**2,
    lowrank: lambda x, rank: _lowrank(x, math.ceil(rank)),
}


def _lowrank(matrix: Matrix, rank: int) -> Matrix:
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * sigma[:rank]) @ right[:rank]


def evaluated(expression: Expr, at: dict[Symbol, Any]) -> Any:
    """The rule on actual matrices, in double precision and with singular value decompositions."""
    if isinstance(expression, Symbol):
        return at[expression]
    if expression.is_number:
        return float(expression)
    if isinstance(expression, spectral):
        left, sigma, right = np.linalg.svd(evaluated(expression.args[0], at), full_matrices=False)  # type: ignore[arg-type]
        return (left * evaluated(expression.args[1], {**at, SIGMA: sigma})) @ right  # type: ignore[arg-type]
    parts = [evaluated(part, at) for part in expression.args]  # type: ignore[arg-type]
    if expression.is_Add:
        return sum(parts)
    if expression.is_Mul:
        return math.prod(parts)
    if expression.is_Pow:
        return parts[0] ** parts[1]
    if isinstance(expression, Max | Min):
        return (np.maximum if isinstance(expression, Max) else np.minimum)(*parts)
    return {**NUMPY, **SIZES}[expression.func](*parts)


def first_step(name: str, gradient: Matrix, weight: Matrix) -> tuple[Matrix, Matrix]:
    """(U of the transform, U of derive's rule) for matrices of fan_in x fan_out."""
    epsilon = EPSILONS.get(name, 1e-7)
    transform = DIRECTIONS[name](epsilon)
    params = {"hidden": jnp.asarray(weight, jnp.float32)}
    update, _ = transform.update({"hidden": jnp.asarray(gradient, jnp.float32)}, transform.init(params), params)
    symbols = {name: symbol for name, symbol in RULE_NAMES.items() if isinstance(symbol, Symbol)}
    at = {symbols["g"]: gradient, symbols["m"]: gradient, symbols["v"]: gradient**2, symbols["w"]: weight}
    at |= {symbols["g_prev"]: 0 * gradient, symbols["eps2"]: 1e-30}
    at |= {symbols["eps"]: epsilon, FAN_IN: gradient.shape[0], FAN_OUT: gradient.shape[1]}
    return np.asarray(update["hidden"], dtype=float), evaluated(optimizer(name).rule, at)  # type: ignore[index]


def cosine(one: Matrix, other: Matrix) -> float:
    return float(np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.fixture
def matrices() -> tuple[Matrix, Matrix]:
    generator = np.random.default_rng(0)
    left, _, right = np.linalg.svd(generator.normal(size=(24, 16)), full_matrices=False)
    gradient = (left * np.linspace(1, 2, 16)) @ right  # well conditioned
    return gradient, generator.normal(size=(24, 16))


ENTRYWISE = [
    *("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "adam-ps", "lion", "sign-sgd", "lamb", "lars"),
    *("adam-atan2", "normalised-sgd"),
    *("scion-sign", "scion-row", "adopt", "ademamix", "mars", "cautious", "schedule-free"),
]


@pytest.mark.parametrize("name", [*ENTRYWISE, "shampoo", "soap", "dion", "polargrad", "grafted-shampoo"])
def test_the_first_step_points_where_the_rule_does(name: str, matrices: tuple[Matrix, Matrix]) -> None:
    trained, rule = first_step(name, *matrices)
    assert cosine(trained, rule) > 1 - 1e-5


@pytest.mark.parametrize("name", ["muon", "muon-keller", "muon-rms", "scion"])
def test_muons_first_step_is_the_polar_factor_up_to_newton_and_schulz(
    name: str, matrices: tuple[Matrix, Matrix]
) -> None:
    """Five steps of its polynomial leave singular values between 0.65 and 1.25 (Jordan et al. 2024)."""
    trained, rule = first_step(name, *matrices)
    scale = {"muon-rms": 0.2}.get(name, 1.0)
    left, sigma, right = np.linalg.svd(rule, full_matrices=False)
    inside = left.T @ trained @ right.T
    assert np.all((np.diag(inside) > 0.65 * scale * sigma) & (np.diag(inside) < 1.25 * scale * sigma))
    assert np.linalg.norm(trained) ** 2 - np.linalg.norm(inside) ** 2 < 1e-6 * np.linalg.norm(trained) ** 2


@pytest.mark.parametrize("name", ["normuon", "adamuon"])
def test_evened_out_polar_factors_first_step(name: str, matrices: tuple[Matrix, Matrix]) -> None:
    """Outputs, or entries, are alike in size; AdaMuon makes signs of what Newton and Schulz leave of small ones."""
    trained, rule = first_step(name, *matrices)
    assert cosine(trained, rule) > {"normuon": 0.98, "adamuon": 0.85}[name]
    assert np.sqrt(np.mean(trained**2)) == pytest.approx(0.2) == np.sqrt(np.mean(rule**2))
    sizes = np.linalg.norm(trained, axis=0) if name == "normuon" else np.abs(trained)
    assert np.allclose(sizes, sizes.flat[0], rtol=1e-4)


def test_adafactors_first_step_where_factoring_is_exact() -> None:
    generator = np.random.default_rng(1)
    gradient = np.outer(generator.normal(size=24), generator.normal(size=16))
    trained, rule = first_step("adafactor", gradient, generator.normal(size=(24, 16)))
    assert cosine(trained, rule) > 1 - 1e-5
    assert np.linalg.norm(trained) == pytest.approx(np.linalg.norm(rule), rel=1e-4)


@pytest.mark.parametrize("name", ["soap-left", "soap-right", "soap", "shampoo"])
def test_the_operator_norm_on_a_rank_one_gradient(name: str) -> None:
    """One rotated side leaves a vector of signs, whose norm is the root of its length."""
    generator = np.random.default_rng(2)
    gradient = np.outer(generator.normal(size=24), generator.normal(size=16))
    transform = DIRECTIONS[name](1e-4)
    params = {"hidden": jnp.ones((24, 16))}
    update, _ = transform.update({"hidden": jnp.asarray(gradient, jnp.float32)}, transform.init(params), params)
    expected = {"soap-left": 24**0.5, "soap-right": 16**0.5}.get(name, 1.0)
    assert np.linalg.norm(update["hidden"], 2) == pytest.approx(expected, rel=0.02)  # type: ignore[index, arg-type]


def test_every_trainable_row_has_a_transform_and_a_rate() -> None:
    trainable = {row.name for row in REGISTRY if row.trainable}
    assert trainable == set(DIRECTIONS) == set(BASE_RATES)
    assert {row.name for row in REGISTRY} - trainable == {"kfac", "sophia", "prodigy", "galore"}


THEIRS = {
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "adam": optax.adam,
    "rmsprop": lambda rate: optax.rmsprop(rate, eps_in_sqrt=False),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.0),
    "sign-sgd": optax.sign_sgd,
    "lamb": lambda rate: optax.lamb(rate, eps=1e-8),
    "lars": lambda rate: optax.lars(rate, trust_coefficient=1.0),
    "adafactor": lambda rate: optax.adafactor(rate, min_dim_size_to_factor=2),
    "muon-keller": optax.contrib.muon,
    "muon-rms": lambda rate: optax.contrib.muon(rate, consistent_rms=0.2),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("muon-") else name for name in THEIRS]
)
def test_ten_steps_equal_those_of_optaxs_own_optimizer(name: str) -> None:
    """Adafactor's floor of 1e-3 under RMS(W) is far below these weights."""
    generator = np.random.default_rng(3)
    weights = {"hidden": jnp.asarray(generator.normal(size=(24, 16)), jnp.float32)}
    ours, theirs = ScaledRule("hidden", name, 0.01, base_epsilon(name), 0.0).transform(), THEIRS[name](0.01)
    held = [[weights, ours.init(weights)], [weights, theirs.init(weights)]]
    for _ in range(10):
        gradient = {"hidden": jnp.asarray(generator.normal(size=(24, 16)), jnp.float32)}
        for one, transform in zip(held, (ours, theirs), strict=True):
            update, one[1] = transform.update(gradient, one[1], one[0])
            one[0] = optax.apply_updates(one[0], update)
    assert np.allclose(held[0][0]["hidden"], held[1][0]["hidden"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(held[0][0]["hidden"], weights["hidden"], rtol=1e-3)
