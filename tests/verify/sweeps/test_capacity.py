"""How many runs are trained side by side: never more memory than was estimated, and as many as fit."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from verify.sweeps import capacity as capacity
from verify.sweeps.loop import SEGMENT, Loop, Structure
from verify.sweeps.records import Conditions
from verify.sweeps.settings.named import prescribed

SETTING = prescribed("adam", "sp", "full").setting
MLP = Conditions("mlp", {"vocabulary": 256, "context": 4, "hidden_layers": 2}, 64, 10, 128, 256, "", "")
TRANSFORMER = replace(MLP, model="transformer", sizes={"vocabulary": 256, "context": 32, "blocks": 1}, batch=2)


@pytest.mark.parametrize("conditions", [MLP, TRANSFORMER])
def test_one_run_needs_no_more_than_the_estimate(conditions: Conditions) -> None:
    loop = Loop(Structure.of(conditions, SETTING, 128))
    keys, rates = jax.random.split(jax.random.key(0), 1), jnp.ones((1, 3))
    params, state = jax.eval_shape(loop.start, keys, rates)
    shape = (1, SEGMENT, conditions.batch, loop.context)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32)
    targets = jax.ShapeDtypeStruct(shape if conditions.model == "transformer" else shape[:-1], jnp.int32)
    trained = loop.advance.lower(params, state, rates, inputs, targets, 1).compile().memory_analysis()
    windows = jax.ShapeDtypeStruct((1, 256, loop.context), jnp.int32)
    goals = jax.ShapeDtypeStruct((1, 256, *targets.shape[3:]), jnp.int32)
    evaluated = loop.evaluate.lower(params, windows, goals).compile().memory_analysis()
    batches = sum(each.size * each.dtype.itemsize for each in (inputs, targets))
    for used in (trained, evaluated):
        assert used is not None
        needed = used.argument_size_in_bytes + used.temp_size_in_bytes - batches
        assert 0 < needed <= capacity.bytes_per_run(loop)


def test_an_accelerator_takes_as_many_as_fit_and_a_cpu_one(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = Structure.of(MLP, SETTING, 64)
    assert capacity.rates_at_once(structure, 3) == 1
    one = capacity.bytes_per_run(Loop(structure))

    def with_memory(limit: float) -> int:
        device: Any = SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit})
        monkeypatch.setattr(capacity.jax, "devices", lambda: [device])
        monkeypatch.setattr(capacity.jax, "default_backend", lambda: "gpu")
        return capacity.rates_at_once(structure, 3)

    assert with_memory(2 * 3 * one * 10.5) == 10
    assert with_memory(one) == 1
