"""What the coordinate check decides, and what it leaves open: zeros, vectors, one seed, optimizers of one's own."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import verify
from benchmarks.planted_check import MISTAKES, checked
from derive.errors import UserError
from verify.model.check.check import coordinate_check
from verify.model.check.results import verdict_line
from verify.model.check.rows import measured_slope
from verify.model.prescription import ModelPrescription

WIDTHS = (32, 128)


def make(width: int) -> Any:
    """Two layers with a gain, and a readout that starts at zero, which is right."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "in": jax.random.normal(keys[0], (6, width)),
        "w": jax.random.normal(keys[1], (width, width)) * width**-0.5,
        "gain": jnp.ones(width),
        "out": jnp.zeros((width, 3)),
    }

    def apply(p: Any, x: Any) -> Any:
        return (p["gain"] * jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"])) @ p["out"]

    return params, apply, jax.random.normal(keys[2], (32, 6))


@pytest.fixture(scope="module")
def prescription() -> ModelPrescription:
    return verify.prescribe(make, base_width=WIDTHS[0], width=WIDTHS[-1])


def test_a_readout_that_starts_at_zero_is_right(prescription: ModelPrescription):
    found = coordinate_check(make, prescription, WIDTHS, base_rate=1e-3, seeds=3, steps=2)
    measured = found.measured["prescribed"]
    assert measured.passes, measured.failures
    rows = {(row.layer, row.quantity, row.step): row for row in measured.rows}
    assert rows["out", "size", 1].reason == "0 at every width"
    # Behind a readout of zeros nothing has a gradient at the first step.
    assert ("w", "delta_z", 1) not in rows
    assert rows["w", "delta_z", 2].verdict == "holds"
    own = found.measured["own"]
    assert own.verdict == "fails" and "w" in {row.layer for row in own.failures}


def test_what_never_moved_is_undecided_and_not_passed(prescription: ModelPrescription):
    found = coordinate_check(make, prescription, WIDTHS, base_rate=1e-3, seeds=2, steps=1, setups=("prescribed",))
    still = {row.layer for row in found.measured["prescribed"].undecided if row.reason and "not moved" in row.reason}
    assert still == {"in", "w", "parameter gain"}


def test_gains_that_drift_fail_and_name_the_gain(prescription: ModelPrescription):
    """The rate of the gain grows as n^(1/2) and the prescription says so itself: it is wrong all the same."""
    rows = tuple(replace(r, c=Fraction(-1, 2)) if r.path == "gain" else r for r in prescription.parameters)
    wrong = replace(prescription, parameters=rows)
    found = coordinate_check(make, wrong, WIDTHS, base_rate=1e-3, seeds=3, steps=2, setups=("prescribed",))
    (gain,) = [r for r in found.measured["prescribed"].failures if r.layer == "parameter gain"]
    assert gain.reason is not None and gain.reason.startswith("outgrows what it starts as")
    assert gain.measured.value == pytest.approx(-0.5, abs=0.1)


def test_one_seed_decides_nothing(prescription: ModelPrescription):
    found = coordinate_check(make, prescription, WIDTHS, base_rate=1e-3, seeds=1, steps=1, setups=("prescribed",))
    for measured in found.measured.values():
        assert not measured.failures
        assert {row.verdict for row in measured.deciding if row.reason != "0 at every width"} == {"open"}
        assert not measured.rows or "undecided: give --seeds 4" in verdict_line(measured, 1)


def test_zeros_and_what_diverged_are_told_apart():
    widths, ones = (32, 64), np.ones((2, 3))
    assert measured_slope(widths, 0 * ones, 0.0, "0 at every width")[1] == ("holds", "0 at every width")
    assert measured_slope(widths, np.nan * ones, 0.0, "")[1] == ("fails", "not finite: diverged")
    assert measured_slope(widths, ones * [[1], [0]], 0.0, "")[1] == ("fails", "0 at width 64 and not at every width")
    assert measured_slope(widths, ones * [[2], [1]], 0.0, "")[1] is None
    assert measured_slope(widths, ones * [[2], [1]], 0.0, "")[0].value == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "at", "quantity"),
    [
        pytest.param("embedding rate scaled", "in", "delta_z", marks=pytest.mark.slow),
        pytest.param("hidden rate unscaled", "w", "delta_z", marks=pytest.mark.slow),
        ("decay with the rate", "parameter w", "decay"),
        pytest.param("biases at 1/sqrt(fan_in)", "parameter b", "size", marks=pytest.mark.slow),
        pytest.param("1/sqrt(d) attention, growing heads", "product dot", "product change", marks=pytest.mark.slow),
    ],
)
def test_mistakes_in_the_users_own_optimizer_are_caught(name: str, at: str, quantity: str):
    mistake = next(each for each in MISTAKES if each.name == name)
    found = checked(mistake, WIDTHS, seeds=3, steps=2)
    assert (at, quantity) in {(row.layer, row.quantity) for row in found.measured["own"].failures}
    assert found.advice or quantity == "product change"


@pytest.mark.slow
def test_the_right_set_up_of_ones_own_passes():
    found = checked(MISTAKES[0], WIDTHS, seeds=3, steps=2)
    assert found.measured["own"].passes, found.measured["own"].failures
    assert not found.advice


def test_an_optimizer_that_is_none_is_refused(prescription: ModelPrescription):
    wrong: Any = lambda width: optax.constant_schedule(width)  # noqa: E731
    with pytest.raises(UserError, match=r"returns an optax\.GradientTransformation"):
        coordinate_check(make, prescription, WIDTHS, base_rate=1e-3, seeds=1, steps=1, transform=wrong)
