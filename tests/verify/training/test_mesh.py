"""On a mesh: the same numbers, no whole weight on any device, and every array in a part of its own."""

import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from derive.errors import DeriveError
from derive.solve import prescribe, solve_kinds
from tests.helpers.paths import ROOT
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.mesh import layout, make_mesh, read_mesh
from verify.training.trainer import Trainer

SCRIPT = ROOT / "tests" / "helpers" / "on_mesh.py"
MESHES = ("8x1", "4x2", "1x8")
SAME = 1e-5


def on_mesh(model: str, optimizer: str, *meshes: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), model, optimizer, "1", *meshes]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_same(found: dict[str, Any], name: str) -> None:
    single, sharded = found["1"], found[name]
    np.testing.assert_allclose(sharded["losses"], single["losses"], rtol=SAME)
    assert sharded["sizes"].keys() == single["sizes"].keys()
    assert {key.split()[-1] for key in single["sizes"]} >= {"delta_w", "term_alpha", "term_omega", "term_u", "gradient"}
    for key, values in single["sizes"].items():
        np.testing.assert_allclose(sharded["sizes"][key], values, rtol=SAME, err_msg=f"{name}: {key}")


@pytest.fixture(scope="module")
def multilayer() -> dict[str, Any]:
    return on_mesh("mlp", "sgd", "4x2")


def test_losses_and_all_that_is_measured_are_those_of_one_device(multilayer: dict[str, Any]) -> None:
    assert_same(multilayer, "4x2")


def assert_no_whole_weight(found: dict[str, Any], name: str) -> None:
    """No device has one when it measures, of whatever program; a single device has all."""
    weights = {tuple(shape) for shape in found["1"]["weights"]}
    weights |= {(columns, rows) for rows, columns in weights}
    for program in ("draw", "initial_inputs", "measure"):
        shapes = {each: {tuple(shape[-2:]) for shape in found[each]["shapes"][program]} for each in ("1", name)}
        assert weights & shapes["1"], program
        assert not weights & shapes[name], f"{program} on {name}"


def test_no_device_has_a_whole_weight_when_it_measures(multilayer: dict[str, Any]) -> None:
    assert_no_whole_weight(multilayer, "4x2")


@pytest.mark.slow
def test_along_one_axis_too() -> None:
    found = on_mesh("mlp", "sgd", "8x1", "1x8")
    for name in ("8x1", "1x8"):
        assert_same(found, name)
        assert_no_whole_weight(found, name)


@pytest.mark.slow
def test_a_scanned_transformer_with_remat_too() -> None:
    assert_same(on_mesh("transformer", "adam", "4x2"), "4x2")


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer"), [("transformer", "adam"), ("mlp", "muon")])
def test_on_every_mesh_a_transformer_and_a_matrix_rule_too(model: str, optimizer: str) -> None:
    found = on_mesh(model, optimizer, *MESHES)
    for name in MESHES:
        assert_same(found, name)


@given(*[st.integers(1, 64)] * 2, *[st.sampled_from([1, 2, 3, 4, 8])] * 2)
def test_a_weight_is_cut_along_every_axis_that_divides_a_side(fan_in: int, fan_out: int, data: int, model: int) -> None:
    cut = layout(fan_in, fan_out, data, model)
    counts = {"data": data, "model": model}
    for size, axes in zip((fan_in, fan_out), cut, strict=True):
        assert size % np.prod([counts[axis] for axis in axes], dtype=int) == 0
    used = [axis for axes in cut for axis in axes]
    assert len(used) == len(set(used))
    if fan_in % data == 0 and fan_out % model == 0 and min(fan_in, fan_out) > 1:
        assert cut == (("data",), ("model",))


def test_a_vocabulary_that_no_axis_divides_leaves_no_table_whole() -> None:
    assert layout(32100, 16384, 64, 2) == ((), ("data", "model"))
    assert layout(16384, 32100, 2, 8) == (("data", "model"), ())


@pytest.mark.parametrize("text", ["", "4", "4x", "x2", "4x2x1", "0x8", "-1x8", "a x b", "4.0x2", "²x1", "1000001x1"])
def test_what_is_no_mesh_is_named(text: str) -> None:
    with pytest.raises(DeriveError, match="write two whole numbers, such as 4x2"):
        read_mesh(text)


def test_a_mesh_is_of_the_devices_that_there_are() -> None:
    assert read_mesh("4×2") == read_mesh("4X2") == (4, 2)
    devices: list[Any] = list(range(8))
    assert make_mesh(4, 2, devices).devices.tolist() == [devices[each : each + 2] for each in range(0, 8, 2)]
    with pytest.raises(DeriveError, match="mesh 4x2 needs 8 devices and there are 3; give one of their number"):
        make_mesh(4, 2, devices[:3])


def memory(trainer: Trainer) -> tuple[int, int, int, int]:
    """Bytes: training's most, a measurement's most with what is kept, z_0, the weights."""
    text = load_corpus(None, None)
    params = trainer.initial()
    probe, state = trainer.probe(text), trainer.init_state(params)
    inputs = trainer.initial_inputs(params, probe)
    step = trainer.step.lower(params, state, *trainer.batches(text, 1)).compile().memory_analysis()
    measure = trainer.measure.lower(params, inputs, params, probe).compile().memory_analysis()
    assert step
    assert measure
    z, weights, optimizer = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (inputs, params, state))
    trained = step.argument_size_in_bytes + step.output_size_in_bytes - step.alias_size_in_bytes
    return (
        trained + step.temp_size_in_bytes,
        measure.argument_size_in_bytes + measure.temp_size_in_bytes + optimizer,
        z,
        weights,
    )


@pytest.mark.slow
def test_measuring_adds_one_set_of_activations_and_no_third_copy_of_weights() -> None:
    prescription = solve_kinds(prescribe("adam", "mup", "full").problem)

    def taken(blocks: int) -> tuple[int, int, int, int]:
        sizes = {"vocabulary": 256, "context": 16, "blocks": blocks}
        config = Config(prescription, 64, 0.01, model="transformer", batch=32, probe=8, sizes=sizes)
        return memory(Trainer(config, 256, [0]))

    trained, measured, inputs, weights = taken(3)
    assert measured <= trained + inputs
    # Beside z_0, and W_0 in the place of gradients, a measurement takes as much at any depth.
    _, deeper, more_inputs, more_weights = taken(6)
    kept = 4 * (more_weights - weights) + more_inputs - inputs
    assert deeper - measured == pytest.approx(kept, rel=0.01)
