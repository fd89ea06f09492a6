"""What is measured, against numpy on the weights themselves."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.parameterizations import MUP
from derive.solve import prescribe, solve_kinds
from verify.measuring.forward import change, initial_inputs, measure, operator_norm, root_mean_square
from verify.measuring.trace import trace
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.networks import Scaling
from verify.training.networks.mlp import MLP
from verify.training.rules.directions import DIRECTIONS
from verify.training.trainer import Trainer, log_spaced

MODEL = MLP(Scaling(32, 8, MUP.a, MUP.b), context=4, vocabulary=16)  # type: ignore[arg-type]


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.asarray(x, dtype=np.float64) ** 2)))


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    initial = MODEL.init(jax.random.key(0))
    change = jax.tree.map(lambda leaf: 0.03 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), initial)
    params = jax.tree.map(jnp.add, initial, change)
    probe = jax.random.randint(jax.random.key(1), (8, 4), 0, 16)
    traced = trace(MODEL.apply, initial, probe)
    inputs = initial_inputs(traced, initial, probe)
    normed = {"embedding", "hidden.1"}
    sizes = jax.jit(partial(measure, traced, normed=normed))(initial, inputs, params, probe)
    return {"initial": initial, "params": params, "probe": np.asarray(probe), "sizes": sizes}


def activations(params: Any, probe: np.ndarray) -> list[np.ndarray]:
    """Inputs of hidden.0, hidden.1 and readout in float64, by hand."""
    w = jax.tree.map(lambda leaf: np.asarray(leaf, dtype=np.float64), params)
    multiplier = {kind: MODEL.scaling.multiplier(kind) for kind in ("embedding", "hidden")}  # type: ignore[arg-type]
    h = w["embedding"][np.arange(4) * 16 + probe].sum(axis=1) * multiplier["embedding"]
    inputs = [np.maximum(h, 0)]
    for layer in ("0", "1"):
        inputs.append(np.maximum(multiplier["hidden"] * inputs[-1] @ w["hidden"][layer], 0))
    return inputs


@pytest.mark.parametrize(("name", "position"), [("hidden.0", 0), ("hidden.1", 1), ("readout", 2)])
def test_every_size_of_a_dense_layer(measured: dict[str, Any], name: str, position: int) -> None:
    def weight(params: Any) -> np.ndarray:
        leaf = params["readout"] if name == "readout" else params["hidden"][name[-1]]
        return np.asarray(leaf, dtype=np.float64)

    z, now = (activations(measured[which], measured["probe"])[position] for which in ("initial", "params"))
    w, update = weight(measured["initial"]), weight(measured["params"]) - weight(measured["initial"])
    expected = {
        "weight": rms(w),
        "delta_w": rms(update),
        "input": rms(z),
        "delta_input": rms(now - z),
        "term_alpha": rms(z @ update),
        "term_omega": rms((now - z) @ w),
        "term_u": rms((now - z) @ update),
        "delta_output": rms(now @ (w + update) - z @ w),
    }
    if name == "hidden.1":
        expected["operator_norm"] = float(np.linalg.norm(update, 2))
    found = measured["sizes"][name]
    assert set(found) == set(expected)
    for quantity, value in expected.items():
        assert float(found[quantity]) == pytest.approx(value, rel=2e-4), quantity


def test_an_embedding_has_no_alignment_to_measure(measured: dict[str, Any]) -> None:
    found = measured["sizes"]["embedding"]
    assert set(found) == {"weight", "delta_w", "term_alpha", "delta_output", "operator_norm"}
    change = measured["params"]["embedding"] - measured["initial"]["embedding"]
    assert float(found["operator_norm"]) == pytest.approx(np.linalg.norm(change, 2), rel=1e-5)


def test_nothing_trained_measures_exactly_zero_and_stays_unmeasured(measured: dict[str, Any]) -> None:
    """Dz = 0 gives no omega: the slope is NaN, never 1/2 or 0."""
    from verify.fit.forward import alignment_slopes

    initial, probe = measured["initial"], jnp.asarray(measured["probe"])
    traced = trace(MODEL.apply, initial, probe)
    sizes = measure(traced, initial, initial_inputs(traced, initial, probe), initial, probe)["hidden.0"]
    assert float(sizes["delta_input"]) == 0.0
    with np.errstate(all="ignore"):
        table = {name: np.full((2, 1), float(size)) for name, size in sizes.items()}
        assert np.isnan(alignment_slopes([8, 16], table)["omega"].value)


@pytest.mark.parametrize("scale", [1e-24, 1e-12, 1.0, 1e8])
def test_root_mean_square_of_tiny_and_huge_entries(scale: float) -> None:
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    assert float(root_mean_square(jnp.asarray(x) * scale)) == pytest.approx(rms(x) * scale, rel=1e-5)


def spectrum(singular: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A matrix with these singular values and random singular vectors."""
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.normal(size=(size, len(singular))))[0] for size in (rows, columns))
    return (left * singular) @ right.T


MATRICES = {
    "full rank": np.random.default_rng(1).normal(size=(300, 300)),
    "wide": np.random.default_rng(2).normal(size=(16, 500)),
    "rank one": spectrum(np.ones(1), 200, 300),
    "low rank": spectrum(np.arange(1, 65) ** -1.0, 400, 300),
    "all equal": spectrum(np.ones(300), 300, 300),
    "crowded": spectrum(np.linspace(0.7, 1.2, 500), 500, 500),
    "crowded at the top": spectrum(1.2 - np.linspace(0, 0.7, 500) ** 2, 500, 500),
    "one entry": np.outer(np.eye(50)[7], np.eye(50)[3]),
}


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e6])
@pytest.mark.parametrize("name", MATRICES)
def test_the_operator_norm_against_numpys(name: str, scale: float) -> None:
    found = float(operator_norm(jnp.asarray(MATRICES[name] * scale, jnp.float32)))
    assert found == pytest.approx(np.linalg.norm(MATRICES[name], 2) * scale, rel=1e-3)


@pytest.mark.parametrize(("rule", "batch"), [("muon", 64), ("muon", 1024), ("normalised-sgd", 64)])
def test_the_operator_norm_of_updates_against_numpys(rule: str, batch: int) -> None:
    """Gradients of a batch with examples of unlike size, of fewer and of more examples than units."""
    generator = np.random.default_rng(0)
    inputs, cotangents = (generator.normal(size=(batch, 384)) for _ in range(2))
    weighted = cotangents * np.arange(1, batch + 1)[:, None] ** -1.0
    gradient: Any = {"hidden": jnp.asarray(inputs.T @ weighted, jnp.float32)}
    transform = DIRECTIONS[rule](1e-8)
    updates: Any = transform.update(gradient, transform.init(gradient), gradient)[0]
    update = updates["hidden"]
    assert float(operator_norm(update)) == pytest.approx(np.linalg.norm(update, 2), rel=1e-3)


def test_the_operator_norm_of_nothing_and_of_what_is_not_finite() -> None:
    assert float(operator_norm(jnp.zeros((20, 30)))) == 0
    assert np.isnan(float(operator_norm(jnp.ones((20, 30)).at[3, 4].set(jnp.nan))))


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=pytest.mark.slow), "sgd"])
def test_regenerated_weights_equal_the_initial_ones_bitwise(optimizer: str) -> None:
    """After training, W_0 drawn again is what training started from; inside and outside of compiled code."""
    config = Config(solve_kinds(prescribe(optimizer, "ntk").problem), 16, 0.01, batch=4, probe=4)
    trainer = Trainer(config, 64, [3, 4])
    start = jax.device_get(trainer.initial())
    params, state = trainer.initial(), None
    state = trainer.init_state(params)
    for step in (1, 2):
        params, state, *_ = trainer.step(params, state, *trainer.batches(load_corpus(), step))
    again = jax.device_get(trainer.initial())
    alone = jax.device_get(jax.vmap(trainer.model.init)(trainer.keys))
    for first, second, third in zip(*map(jax.tree.leaves, (start, again, alone)), strict=True):
        assert np.array_equal(first, second) and np.array_equal(first, third)
    moved = jax.tree.map(lambda now, then: bool(np.any(np.asarray(now) != then)), params, start)
    assert all(jax.tree.leaves(moved))


def test_standard_normal_is_standard_and_normal() -> None:
    from verify.training.networks import standard_normal

    x = np.asarray(standard_normal(jax.random.key(0), (501, 333)), dtype=np.float64)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.05
    assert abs(np.corrcoef(x[:, 0:332:2].ravel(), x[:, 1:333:2].ravel())[0, 1]) < 0.01
    assert (np.abs(x) < 1.959964).mean() == pytest.approx(0.95, abs=0.003)


def test_steps_are_log_spaced_and_include_the_last() -> None:
    assert log_spaced(1) == [1]
    assert log_spaced(10) == [1, 2, 5, 10]
    assert log_spaced(70) == [1, 2, 5, 10, 20, 50, 70]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_differs_by_rounding_alone_has_not_moved(dtype: str):
    """One number in the last place, at half of the entries; a change a hundred times larger is one."""
    then = jax.random.normal(jax.random.key(0), (1000,), dtype)
    eps = float(jnp.finfo(jnp.float32).eps)
    flips = jnp.asarray(np.random.default_rng(0).integers(-1, 2, 1000), jnp.float32)
    of_float32 = then.astype(jnp.float32)
    assert not change(of_float32 * (1 + eps * flips), of_float32).any()
    assert change(of_float32 * (1 + 100 * eps * flips), of_float32).any()
    moved = (of_float32 + 0.1 * flips).astype(dtype)
    assert (change(moved, then) == moved - then).all()


def test_what_is_not_finite_stays_so():
    then = jnp.ones(3)
    assert not jnp.isfinite(change(then.at[1].set(jnp.nan), then)).all()
