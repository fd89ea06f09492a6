"""The coordinate check: the usual set-up drifts and is told what to change, the prescribed one passes."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import verify
from derive.running import run
from verify.commands.main import app
from verify.model.check.check import Check, coordinate_check
from verify.model.check.coordinates import Coordinates, default_loss
from verify.model.check.drift import rate_drift
from verify.model.make import build
from verify.model.prescription import ModelPrescription

WIDTHS = (32, 64, 128, 256)
OPTIONS = ["tests.verify.model.test_coordinate_check:make", "--widths", "32,64,128,256", "--seeds", "3", "--steps", "1"]


def run_command(arguments: list[str], capsys: Any) -> tuple[int, str, str]:
    code = run(lambda: app(arguments, standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def make(width: int) -> Any:
    """A gated layer with PyTorch's initialisation, its biases too, on numbers of its own."""
    rng = np.random.default_rng(width)

    def uniform(fan_in: int, *shape: int) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, shape) * fan_in**-0.5, jnp.float32)

    params = {"in": uniform(8, 8, width), "readout": uniform(width, width, 4), "bias": uniform(8, width)}
    params |= {name: uniform(width, width, width) for name in ("gate", "up", "down")}
    inputs = jnp.asarray(np.random.default_rng(1).standard_normal((64, 8)), jnp.float32)

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"] + p["bias"])
        return (z + (jax.nn.silu(z @ p["gate"]) * (z @ p["up"])) @ p["down"]) @ p["readout"]

    return params, apply, inputs


@pytest.fixture(scope="module")
def prescription() -> ModelPrescription:
    return verify.prescribe(make, base_width=WIDTHS[0], width=WIDTHS[-1])


@pytest.fixture(scope="module")
def checked(prescription: ModelPrescription) -> Check:
    return coordinate_check(make, prescription, WIDTHS, base_rate=1e-3, seeds=3, steps=2)


@pytest.mark.slow
def test_the_usual_set_up_drifts_and_the_prescribed_one_does_not(checked: Check):
    assert not checked.measured["own"].passes
    assert checked.measured["prescribed"].passes
    failing = {row.layer for row in checked.measured["own"].failures}
    assert {"gate", "up", "down", "readout"} <= failing
    assert "in" not in failing
    grows = {row.layer: -row.measured.value for row in checked.measured["own"].failures if row.quantity == "delta_z"}
    assert grows["down"] == pytest.approx(1, abs=0.2)


@pytest.fixture(scope="module")
def by_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command leaves."""
    folder = tmp_path_factory.mktemp("check") / "out"
    arguments = ["check", *OPTIONS, "--out", str(folder)]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 0
    return folder


def test_the_advice_names_the_parameter_and_the_power(by_command: Path):
    advice = "\n".join(json.loads((by_command / "check.json").read_text())["advice"])
    for name in ("gate", "up", "down"):
        assert f"{name} (hidden): rate n^0 -> n^-1; its product" in advice
    assert "readout (readout): initial size n^-0.5" in advice
    assert "-> n^-1, rate n^0 -> n^-1" in advice
    assert "\nin (embedding)" not in advice


def test_a_wrong_prescription_fails(prescription: ModelPrescription):
    """One layer's rate raised by n^(1/2), and one's initial size by n^(1/4): each is found where it is."""

    def change(answer: ModelPrescription, path: str, **exponents: Fraction) -> ModelPrescription:
        rows = tuple(replace(row, **exponents) if row.path == path else row for row in answer.parameters)
        return replace(answer, parameters=rows)

    wrong = change(change(prescription, "up", c=Fraction(1, 2)), "down", b=Fraction(1, 4))
    found = coordinate_check(make, wrong, WIDTHS[::3], base_rate=1e-3, seeds=5, steps=1, setups=("prescribed",))
    failed = {(row.layer, row.quantity) for row in found.measured["prescribed"].failures}
    assert failed == {("up", "delta_z"), ("down", "size"), ("down", "delta_z")}


def test_what_is_measured_are_the_sizes_themselves(prescription: ModelPrescription):
    """Against plain numpy: dW after a step of sign-like Adam, the output's size at the start, the change after."""
    model = build(make, 64)
    network = Coordinates(model, prescription)
    numbers = network.numbers(64, [row.start for row in prescription.parameters])
    sizes = network.measured([numbers], 1, 1, 1e-3)[0][1]
    how = prescription.at(64)
    params = how.init(jax.random.key(0), model.params)
    gradients = jax.grad(lambda p: default_loss(model.apply(p, model.batch(1)), None))(params)
    transform = how.optimizer(1e-3)
    updates, _ = transform.update(gradients, transform.init(params), params)
    moved = optax.apply_updates(params, updates)

    def rms(x: Any) -> float:
        return float(np.sqrt(np.mean(np.square(x))))

    def hidden(p: Any) -> Any:
        return np.tanh(model.inputs @ p["in"] + p["bias"])

    before, after = (jax.tree.map(np.asarray, tree) for tree in (params, moved))
    assert sizes["up"]["output"] == [pytest.approx(rms(hidden(before) @ before["up"]), rel=1e-4)]
    assert sizes["up"]["delta_w"] == [pytest.approx(rms(after["up"] - before["up"]), rel=1e-3)]
    change = hidden(after) @ after["up"] - hidden(before) @ before["up"]
    assert sizes["up"]["delta_output"] == [pytest.approx(rms(change), rel=1e-3)]
    bias = sizes["parameter bias"]
    assert bias["delta_w"] == [pytest.approx(rms(after["bias"] - before["bias"]), rel=1e-3)]
    assert bias["weight"] == [pytest.approx(rms(before["bias"]), rel=1e-4)]
    assert sizes["up"]["delta_w"] == [pytest.approx(5e-4, rel=0.02)]  # half of 1e-3, at twice the base width


def test_the_default_loss_has_targets_that_stay():
    logits = jnp.asarray(np.random.default_rng(0).standard_normal((5, 7, 3)), jnp.float32)
    first, second = default_loss(logits, None), default_loss(logits, None)
    assert first == second
    assert float(first) == pytest.approx(np.log(3), abs=0.7)
    assert float(default_loss((jnp.zeros((400, 1)), jnp.zeros(400, jnp.int32)), None)) == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_the_best_rate_of_a_usual_set_up_drifts_more():
    """Two widths, one seed, a few steps: enough to see the sign, and that grids go on beyond their edges."""
    answer = verify.prescribe(make, base_width=32, width=256)
    found = rate_drift(make, answer, (32, 256), base_rate=3e-4, seeds=2, steps=15)
    assert found["own"].drift.value < found["prescribed"].drift.value - 0.2
    assert not any(best.at_edge for best in found["own"].optima.values())
    assert all(len(best.rates) > 7 for best in found["own"].optima.values())  # its best lies beyond the first grid


def test_the_command_writes_what_goes_back_in(by_command: Path, capsys: Any):
    content = json.loads((by_command / "check.json").read_text())
    assert content["passes"] == {"own": False, "prescribed": True}
    assert content["advice"]
    again = ModelPrescription.from_json((by_command / "prescription.json").read_text())
    file = by_command / "measured.json"
    measured = verify.prescribe(make, base_width=WIDTHS[0], width=WIDTHS[-1], alignment=f"measured:{file}")
    by_name = {row["layer"]: row for row in json.loads(file.read_text())["rows"] if row["quantity"] == "alpha"}
    for name in ("down", "readout"):  # whose own changes are what bounds their rates; up and gate are a product
        alpha = min(Fraction(str(by_name[name]["measured"])), Fraction(1))
        assert measured.row(name).c == pytest.approx(float(alpha), abs=1e-9)
        assert measured.row(name).c != again.row(name).c
    code, _, error = run_command(["check", *OPTIONS, "--out", str(by_command)], capsys)
    assert (code, error.count("\n")) == (2, 1)
    assert "already holds a check" in error
