"""A rule of one's own for one layer kind in the commands: one prescription in all of them, networks trained by it."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.cli import app as derive_app
from derive.cli import run
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from verify.commands.main import app
from verify.commands.options import split_values
from verify.commands.studies.transfer.rates import named_rates
from verify.files import file_stem
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.sweeps.settings.named import prescribed as prescribed_setting

RULE = "polar(m)*sqrt(fan_out/fan_in)"
MIXTURE = f"adam,hidden={RULE}"
NAME = f"embedding=adam,hidden={RULE},readout=adam"
SMALL = ["--widths", "16,32", "--seeds", "2", "--batch", "16", "--context", "2", "--depth", "1"]
Capture = pytest.CaptureFixture[str]


def answered(capsys: Capture, *arguments: str, program: Any = app) -> Any:
    assert run(lambda: program([*arguments, "--format", "json"], standalone_mode=False), "verify") in (0, None)
    return json.loads(capsys.readouterr().out)


def make(width: int) -> Any:
    """Two hidden matrices, the second stored as [fan_out, fan_in] and not square."""
    keys = iter(jax.random.split(jax.random.key(0), 4))
    shapes = {"table": (8, width), "wide": (width, 2 * width), "turned": (width, 2 * width), "out": (width, 8)}
    fans = {"table": 1, "wide": width, "turned": 2 * width, "out": width}
    params = {name: jax.random.normal(next(keys), shape) * fans[name] ** -0.5 for name, shape in shapes.items()}

    def apply(params: Any, tokens: Any) -> Any:
        z = jnp.tanh(params["table"][tokens] @ params["wide"])
        return jnp.tanh(z @ params["turned"].T) @ params["out"]

    return params, apply, jnp.arange(4)


@pytest.fixture
def prescribed() -> ModelPrescription:
    rules = {"embedding": "adam", "hidden": Optimizer("mine", RULE), "readout": "adam"}
    return prescribe(make, base_width=16, width=64, optimizer=rules, parameterization="sp")


def test_the_rates_are_those_of_derive(prescribed: ModelPrescription, capsys: Capture) -> None:
    found = answered(capsys, "--optimizer", MIXTURE, program=derive_app)
    by_kind = {layer["kind"]: layer["c"] for layer in found["layers"]}
    assert by_kind == {"embedding": "0", "hidden": "0", "readout": "1"}
    assert {row.role: str(row.c) for row in prescribed.parameters} == by_kind
    assert prescribed.optimizer_name == found["optimizer"] == NAME
    assert prescribe(make, base_width=16, width=64, optimizer=MIXTURE, parameterization="sp") == prescribed
    assert ModelPrescription.from_json(prescribed.to_json()).row("wide").rule == RULE


def test_fans_are_those_of_the_product_however_a_weight_is_stored(prescribed: ModelPrescription) -> None:
    """||U||_op = sqrt(fan_out / fan_in): sqrt 2 into the wider side, and its inverse out of it."""
    params = make(64)[0]
    transform: Any = prescribed.optimizer(1.0)
    update, _ = transform.update(params, transform.init(params), params)
    for path, expected in {"wide": 2**0.5, "turned": 0.5**0.5}.items():
        assert np.linalg.norm(update[path], 2) == pytest.approx(expected, rel=1e-5)


def test_a_table_that_is_also_the_readout_has_no_one_fan_in() -> None:
    def tied(width: int) -> Any:
        params, _, tokens = make(width)
        return {"table": params["table"]}, lambda params, tokens: params["table"][tokens] @ params["table"].T, tokens

    answer = prescribe(tied, base_width=16, width=64, optimizer="sign(m)/fan_in")
    with pytest.raises(DeriveError, match="asks for fan-in and fan-out, and table"):
        answer.optimizer(1.0)


def test_exponents_trains_it(capsys: Capture) -> None:
    found = answered(capsys, "exponents", "--optimizer", MIXTURE, "--steps", "1", "--vocab", "16", *SMALL)
    rows = {(row["layer"], row["quantity"]): row for row in found["rows"]}
    assert found["optimizer"] == NAME
    for place, predicted in {
        ("embedding", "delta_w"): 0.0,
        ("hidden.0", "operator_norm"): 0.0,
        ("readout", "delta_w"): 1.0,
    }.items():
        assert float(rows[place]["predicted"]) == predicted == pytest.approx(rows[place]["measured"], abs=0.06)


def test_transfer_trains_it_under_a_name_of_its_own(tmp_path: Path, capsys: Capture) -> None:
    rates = ["--rates", "1", "--halvings", "0", "--evaluation", "32", "--steps", "2", "--processes", "1"]
    chosen = ["--optimizer", MIXTURE, "--parameterization", "sp", *SMALL, *rates, "--base-rate", f"{MIXTURE}=0.01"]
    given = ["--alignment", "full", "--vocab", "16", "--seeds", "1", "--out", str(tmp_path)]
    (row,) = answered(capsys, "transfer", *chosen, *given)["rows"]
    assert row["optimizer"] == NAME
    assert 0 < row["widths"]["32"]["best_loss"] < 4


def test_settings_of_two_rules_differ_and_the_same_one_spaced_does_not() -> None:
    one, other, spaced = (
        prescribed_setting(f"adam,hidden={rule}", "sp", "full").setting for rule in (RULE, f"2*{RULE}", f" {RULE} ")
    )
    assert one.name == f"{NAME} SP full" == spaced.name
    assert one.content() == spaced.content() != other.content()


def test_lists_of_rules_and_names_of_files() -> None:
    assert split_values(["sgd,m*min(1,1/norm(m)),sign(m)", MIXTURE], []) == [
        *("sgd", "m*min(1,1/norm(m))", "sign(m)", MIXTURE)
    ]
    assert named_rates("0.01") == {"": "0.01"}
    assert named_rates("adam=1,hidden=muon,embedding=sgd,readout=sgd=1e-2") == {
        "adam": "1",
        "embedding=sgd,hidden=muon,readout=sgd": "1e-2",
    }
    assert file_stem("adam") == "adam"
    stems = [file_stem(each) for each in ("m*g/g", "m/g*g", "m" * 90, "m" * 91)]
    assert len(set(stems)) == 4 and all("/" not in each and len(each) < 100 for each in stems)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["transfer", "--optimizer", "adam,hidden=x*g"], "unknown name in update rule 'x'"),
        (["exponents", "--optimizer", "m/(sqrt(v)+"], "the ( at character 3 is not closed"),
        (["plan", "--optimizer", "adam,hidden=kfac"], "unknown trainable optimizer"),
        (["updates", "--optimizer", "m*eps"], "adds eps to nothing"),
        (["plan", "--optimizer", "polar(m)/0"], "divides by zero"),
    ],
)
def test_what_cannot_be_trained_is_one_line(arguments: list[str], problem: str, capsys: Capture) -> None:
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and problem in err
