"""SP and NTK, muP and MFP train alike, step for step; and at the base width all four are one model."""

from typing import Any

import numpy as np
import pytest

from derive.solve import prescribe, solve_kinds
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.rules.directions import DIRECTIONS
from verify.training.rules.usual import BASE_RATES
from verify.training.trainer import Trainer

BASE = 16
STEPS = 50


def losses(optimizer: str, scheme: str, width: int, steps: int = STEPS, epsilon: float | None = None) -> Any:
    prescription = solve_kinds(prescribe(optimizer, scheme, "full").problem)
    config = Config(prescription, BASE, BASE_RATES[optimizer], batch=32, epsilon=epsilon)
    trainer, corpus = Trainer(config, width, [0]), load_corpus()
    params = trainer.initial()
    state = trainer.init_state(params)
    found = []
    for step in range(1, steps + 1):
        params, state, value, _ = trainer.step(params, state, *trainer.batches(corpus, step))
        found.append(float(value[0]))
    assert found[-1] < found[0] - 0.02, "nothing was learned, so nothing is compared"
    return np.array(found)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("ratio", [4, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pair", [pytest.param(("sp", "ntk"), marks=pytest.mark.slow), ("mup", "mfp")], ids="-".join)
def test_bitwise_where_the_multipliers_are_powers_of_two(pair: tuple[str, str], optimizer: str, ratio: int) -> None:
    first, second = (losses(optimizer, scheme, ratio * BASE) for scheme in pair)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("optimizer", [pytest.param("adam", marks=pytest.mark.slow), "sgd"])
@pytest.mark.parametrize("pair", [("sp", "ntk"), pytest.param(("mup", "mfp"), marks=pytest.mark.slow)], ids="-".join)
def test_to_rounding_at_twice_the_base_width(pair: tuple[str, str], optimizer: str) -> None:
    first, second = (losses(optimizer, scheme, 2 * BASE) for scheme in pair)
    assert np.allclose(first, second, rtol=1e-4)


def test_sp_and_mup_differ() -> None:
    first, second = (losses("adam", scheme, 4 * BASE, 10) for scheme in ("sp", "mup"))
    assert not np.allclose(first, second, rtol=1e-2)


@pytest.mark.parametrize(
    "optimizer", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "adam-ps", "lion"))]
)
def test_at_the_base_width_all_parameterizations_are_the_same_run(optimizer: str) -> None:
    runs = [losses(optimizer, scheme, BASE, 20) for scheme in ("sp", "ntk", "mup", "mfp")]
    assert all(np.array_equal(runs[0], run) for run in runs[1:])


NIGHTLY = ("muon-rms", "muon-keller", "schedule-free")
"""They take longest to compile, and have each a like that is emitted by the same code."""


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=pytest.mark.slow) if name in NIGHTLY else name for name in DIRECTIONS]
)
def test_emitted_optax_code_takes_the_same_steps(optimizer: str) -> None:
    """What `derive --format optax` writes and what `verify` trains with give the same updates."""
    import jax
    import jax.numpy as jnp

    from derive.emit_optax import OPTAX_RULES, as_optax
    from verify.training.rules.transforms import optimizer as build
    from verify.training.rules.usual import base_epsilon

    if optimizer not in OPTAX_RULES:
        pytest.skip(f"no optax code is emitted for {optimizer}")
    prescription = solve_kinds(prescribe(optimizer, "mup", "full").problem)
    names: dict[str, Any] = {}
    exec(compile(as_optax(prescription), "emitted", "exec"), names)  # noqa: S102
    labels = {kind: kind for kind in ("embedding", "hidden", "readout")}
    params = {kind: jax.random.normal(jax.random.key(i), (4, 6)) for i, kind in enumerate(labels)}
    emitted = names["optimizer"](
        labels, 0.1, 64, 16, epsilon=base_epsilon(optimizer), weight_decay=0.1, multipliers_applied=True
    )
    built = build(prescription, labels, 0.1, 4.0, weight_decay=0.1)
    states = [emitted.init(params), built.init(params)]
    for step in range(3):
        gradients = jax.tree.map(lambda leaf: jnp.sin(leaf * (1 + step)), params)  # noqa: B023
        one, states[0] = emitted.update(gradients, states[0], params)
        other, states[1] = built.update(gradients, states[1], params)
        for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert np.allclose(left, right, rtol=1e-6)
