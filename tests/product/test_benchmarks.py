"""The benchmarks compare like with like, count what XLA counts, and keep each other's numbers."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.results import FOLDER, keep, read, slug, table, tables
from benchmarks.transformer import Setting, flax, ours, products
from verify.training.networks.transformer import product

SETTINGS = [Setting(64, sequences=2, context=16, head_dimension=16), Setting(128, 3, 2, 32, 64, 32)]
README = (FOLDER.parent / "README.md").read_text()
STORED = sorted(FOLDER.glob("*.json"))
MACHINE = {"device": "A Chip (2), x86_64", "cores": 2}


def size(network: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(network.shapes()))


@pytest.mark.parametrize("setting", SETTINGS)
def test_both_have_the_same_matrices(setting: Setting) -> None:
    """But for the readout, which the peer ties to its embedding, and a gain for each of its norms."""
    gains, tied = (2 * setting.blocks + 1) * setting.width, setting.vocabulary * setting.width
    assert size(flax(setting)) == size(ours(setting)) + gains - tied == size(ours(setting, scan=True)) + gains - tied


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("make", [ours, flax])
def test_the_flops_are_those_of_xla(make: Any, setting: Setting) -> None:
    """Of forward and backward, which XLA counts with norms, softmax and GELU: 1 to 4 % more at these widths."""
    network = make(setting)
    tokens, targets = setting.batch()
    lowered = jax.jit(jax.grad(network.loss)).lower(network.shapes(), tokens, targets)
    analysis: Any = lowered.cost_analysis()
    assert 1 < analysis["flops"] / setting.flops() < 1.04


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_products_of_the_floor_are_all_of_them(setting: Setting) -> None:
    counted = sum(2 * times * np.prod(shape) for shape, times in products(setting).items())
    assert counted == setting.flops()


@pytest.mark.slow
def test_both_take_steps_that_learn() -> None:
    """From a loss near that of guessing; the same batch again and again is learned by heart."""
    setting = SETTINGS[0]
    for network in (ours(setting), ours(setting, scan=True), flax(setting)):
        act = network.action(setting.batch())
        losses = [float(act()) for _ in range(30)]
        assert np.log(setting.vocabulary) - 0.5 < losses[0] < np.log(setting.vocabulary) + 2
        assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3)])
def test_the_product_has_the_derivatives_of_a_product(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    sizes = (shape, (3, 4), (*shape[:-1], 4))
    z, weight, change = (jnp.asarray(generator.standard_normal(each, np.float32)) for each in sizes)
    _, back = jax.vjp(product, z, weight)
    by_z, by_weight = back(change)
    np.testing.assert_allclose(by_z, change @ weight.T, rtol=1e-5, atol=1e-6)
    rows, changes = z.reshape(-1, 3), change.reshape(-1, 4)
    np.testing.assert_allclose(by_weight, rows.T @ changes, rtol=1e-5, atol=1e-6)


def test_the_peer_does_not_see_ahead() -> None:
    setting = SETTINGS[1]
    network = flax(setting)
    tokens, targets = setting.batch()
    later = tokens.copy()
    later[:, 10:] = (later[:, 10:] + 1) % setting.vocabulary
    params = jax.jit(network.init)(jax.random.key(0))
    first = jax.jit(lambda read: network.loss(params, read[:, :10], targets[:, :10]))
    assert first(tokens) == first(later)


def test_a_benchmark_replaces_its_own_section(tmp_path: Path) -> None:
    path = keep("derive", {"ms": 1}, tmp_path / "new", MACHINE)
    assert path == keep("sweep", {"rows": [2]}, tmp_path / "new", MACHINE)
    keep("derive", {"s": 3}, tmp_path / "new", MACHINE)
    found = read(path)
    assert found["sweep"]["rows"] == [2]
    assert found["derive"]["s"] == 3
    assert "ms" not in found["derive"]
    assert {"date", "python", "jax", "jaxlib"} < found["sweep"].keys()
    assert found["device"] == MACHINE["device"]
    assert [each.name for each in path.parent.iterdir()] == ["a-chip-2-x86-64-2-cores.json"]


def test_another_device_has_another_file(tmp_path: Path) -> None:
    assert keep("derive", {}, tmp_path, MACHINE) != keep("derive", {}, tmp_path, {**MACHINE, "cores": 4})
    assert slug("NVIDIA H100 80GB") == "nvidia-h100-80gb"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rows": 1}'])
def test_a_file_that_is_not_one_of_results_is_left_alone(text: str, tmp_path: Path) -> None:
    path = keep("derive", {}, tmp_path, MACHINE)
    path.write_text(text)
    with pytest.raises(SystemExit, match="move it away"):
        keep("derive", {}, tmp_path, MACHINE)
    assert path.read_text() == text


def test_the_readme_shows_what_was_adopted() -> None:
    assert [shown for shown in tables(FOLDER) if shown not in README] == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_readme_shows_the_stored_numbers(path: Path) -> None:
    assert table(json.loads(path.read_text())) in README
