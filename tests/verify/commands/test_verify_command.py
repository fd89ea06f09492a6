"""The `verify exponents` command: contract, bad input, divergence, interruption, and the way back into `derive`."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.running import run
from derive.solve import prescribe, solve
from tests.helpers.interrupts import VERIFY
from verify.commands.main import app
from verify.fit.four_steps import STEPS
from verify.studies.exponents.study import exponents
from verify.training.config import Config
from verify.training.data import load_corpus

Capture = pytest.CaptureFixture[str]
SMALL = ["--widths", "16,32", "--seeds", "2", "--steps", "2", "--batch", "8"]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(["exponents", *arguments], standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study."""
    folder = tmp_path_factory.mktemp("trained") / "study"
    arguments = ["exponents", *SMALL, "--out", str(folder)]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 0
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of it for the test alone."""
    return Path(shutil.copytree(trained, tmp_path / "study"))


def test_the_json_contract_and_the_files(finished: Path, capsys: Capture) -> None:
    code, out, err = verify(capsys, *SMALL, "--out", str(finished), "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((finished / "measured.json").read_text())
    assert (found["schema"], found["command"]) == (2, "exponents")
    assert load_corpus().fingerprint in found["corpus"]
    assert {"layer", "step", "quantity", "predicted", "measured", "low", "high", "holds"} <= found["rows"][0].keys()
    changes = {row["quantity"]: row for row in found["rows"] if (row["layer"], row["step"]) == ("readout", 1)}
    assert changes["delta_z"]["reference"] == 0 and changes["delta_z"]["tolerance"] == 0.25
    assert changes["consistent"]["reference"] == changes["consistent"]["implied"] == changes["delta_z"]["implied"]
    assert found["steps"].keys() == {"1 optimizer", "2 propagation", "3 assumption", "4 result", "4 consistent"}
    for name, count in found["steps"].items():
        own = [row["holds"] for row in found["rows"] if row["quantity"] in STEPS[name]]
        assert count == {"holds": own.count(True), "fails": own.count(False), "open": own.count(None)}
    assert found["told_apart"] > 0 and set(found["rejected_by"]) <= found["steps"].keys()
    layers = {row["layer"] for row in found["rows"]}
    assert layers == {"embedding", "hidden.0", "hidden.1", "readout"}
    assert not any(row["layer"] == "embedding" and row["quantity"] in ("alpha", "omega", "u") for row in found["rows"])
    lines = (finished / "sizes.csv").read_text().splitlines()
    assert lines[0] == "step,layer,quantity,width,seed,value" and len(lines) > 100
    assert {path.name for path in finished.glob("*.png")} == {"alignments.png", "sizes_step_1.png", "sizes_step_2.png"}


def test_the_table_names_every_layer(finished: Path, capsys: Capture) -> None:
    code, out, _ = verify(capsys, *SMALL, "--out", str(finished))
    out = out.partition("written to ")[0]
    assert code == 0
    assert all(name in out for name in ("hidden.1", "readout", "delta_w", "95 % interval", "tolerance", "hold"))
    counted, verdict, apart = out.splitlines()[-3:]
    assert counted.startswith("1 optimizer ") and "; 4 consistent " in counted and counted.count(" fail, ") == 5
    differ = float(apart.partition("can tell exponents apart that differ by ")[2].partition(":")[0])
    assert verdict.startswith(("rejected by", "undecided: " if differ >= 0.5 else "not rejected: "))


@pytest.mark.slow
def test_a_mixture_is_judged_layer_by_layer(capsys: Capture) -> None:
    sizes = ["--widths", "16,32", "--seeds", "2", "--steps", "1", "--batch", "8", "--vocab", "16", "--context", "2"]
    code, out, err = verify(capsys, "--optimizer", "adam,hidden=muon", *sizes, "--format", "json")
    assert code == 0
    assert err.count("\n") == 1 and err.startswith("note: the embedding has 32 rows and the smallest width is 16")
    found = json.loads(out)
    assert found["base_rate"] == 1e-3  # the smaller of Adam's and Muon's: neither may diverge
    rows = {(row["layer"], row["quantity"]): row for row in found["rows"]}
    of_norms = {(layer, quantity) for layer, quantity in rows if quantity in ("operator_norm", "gain")}
    assert of_norms == {(f"hidden.{index}", quantity) for index in (0, 1) for quantity in ("operator_norm", "gain")}
    assert "rank" not in (rows["readout", "delta_w"]["reason"] or "")
    assert found["sizes"] == {"vocabulary": 16, "context": 2}
    assert rows["hidden.0", "delta_w"]["holds"] is None and "rank" in rows["hidden.0", "delta_w"]["reason"]
    assert rows["hidden.0", "operator_norm"]["predicted"] == "0"


def test_a_study_is_never_overwritten_and_goes_back_into_the_command(finished: Path, capsys: Capture) -> None:
    first = finished
    kept = (first / "measured.json").read_bytes()
    code, _, err = verify(capsys, *SMALL, "--out", str(first))
    assert code == 0 and (first / "measured.json").read_bytes() == kept, "the same command answers again"
    code, _, err = verify(capsys, *SMALL, "--out", str(first), "--batch", "16")
    assert code == 2 and "batch: 8, not 16" in err
    for path in (*first.glob("width_*"), first / "wanted.json"):
        path.unlink()  # as earlier versions left a study
    code, _, err = verify(capsys, *SMALL, "--out", str(first))
    assert code == 2 and "already holds a study" in err
    assert (first / "measured.json").read_bytes() == kept
    measured = f"measured:{first / 'measured.json'}"
    code, out, err = verify(capsys, *SMALL, "--alignment", measured, "--widths", "16,32", "--steps", "1")
    assert code == 0 and "hidden.1" in out, err
    code, _, err = verify(capsys, *SMALL, "--alignment", measured, "--model", "transformer", "--widths", "32,64")
    assert code == 2 and err.count("\n") == 1


def test_measured_json_is_read_by_derive(trained: Path) -> None:
    answer = prescribe("adam", "sp", f"measured:{trained / 'measured.json'}", hidden_layers=2)
    rows = json.loads((trained / "measured.json").read_text())["rows"]
    measured = {(row["layer"], row["quantity"]): row["measured"] for row in rows if row["step"] == 2}
    for name, layer in zip(("hidden.0", "hidden.1", "readout"), answer.layers[1:], strict=True):
        assert layer.alpha is not None
        assert float(layer.alpha) == pytest.approx(min(1, measured[name, "alpha"]), abs=1e-9)
        assert layer.spread is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "64"], "at least two"),
        (["--widths", "64,32"], "do not grow"),
        (["--widths", "64,64,128"], "do not grow"),
        (["--widths", "0,64"], "do not grow"),
        (["--widths", "64,wide"], "not a list of widths"),
        (["--model", "transformer", "--widths", "48,64"], "head dimension"),
        (["--model", "cnn"], "allowed: mlp, transformer"),
        (["--optimizer", "kfac"], "unknown trainable optimizer"),
        (["--optimizer", "adm"], "did you mean adam?"),
        (["--alignment", "alpha=x,u=x"], "symbols"),
        (["--seeds", "0"], "above 0"),
        (["--steps", "-3"], "above 0"),
        (["--context", "0"], "above 0"),
        (["--vocab", "20"], "16 half bytes"),
        (["--base-rate", "nan"], "above 0"),
        (["--corpus", "/no/such/text"], "/no/such/text"),
        (["--out", "/proc/nothing"], "cannot write"),
        (["--epochs", "3"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: Capture) -> None:
    code, out, err = verify(capsys, "--widths", "16,32", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("verify: ")
    assert message in err


@pytest.mark.slow
def test_divergence_is_a_finding_and_the_rest_is_intact(capsys: Capture) -> None:
    """A rate that only the wide network cannot bear: narrow widths stay, wide ones are null with their step."""
    prescription = prescribe("sgd", "sp", "hidden.alpha=-1,hidden.u=-1,readout.alpha=-1,readout.u=-1", hidden_layers=2)
    config = Config(prescription, 16, 1.0, batch=8, probe=8)
    result = exponents(config, (16, 1024), (0, 1), 5, load_corpus())
    assert any(line.startswith("width 1024") for line in result.divergences)
    assert not any(line.startswith("width 16,") for line in result.divergences)
    last = result.tables[max(result.tables)]["hidden.0"]["delta_w"]
    assert np.all(np.isfinite(last[0])) and not np.all(np.isfinite(last[1]))
    rows = [row for row in result.rows if row.step == max(result.tables) and row.quantity == "delta_w"]
    assert {row.verdict for row in rows} == {"not measured"}


def test_a_study_can_be_interrupted() -> None:
    command = [*VERIFY, "exponents", "--widths", "16,32", "--steps", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (out, err) == ("", "")


@pytest.mark.slow
def test_closed_loop_a_small_network_prescribes_a_large_one(tmp_path: Path) -> None:
    """Measured at 128 to 512, prescribed, trained at 2048: r_L is as prescribed, within 0.1.

    See docs/theory.md, section 8.
    """
    from verify.fit.forward import slope
    from verify.studies.exponents.judged import as_json

    small = (128, 256, 512)
    config = Config(prescribe("adam", "mup", "full", hidden_layers=2), 128, 1e-3, batch=128)
    measured = exponents(config, small, (0, 1), 1, load_corpus())
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(as_json(measured)))
    prescription = prescribe("adam", "mup", f"measured:{path}", hidden_layers=2)
    for layer in prescription.layers:
        assert layer.spread is not None
        assert layer.spread[0] <= layer.c <= layer.spread[1]
    scaled = Config(prescription, 128, 1e-3, batch=128)
    large = exponents(scaled, (128, 2048), (0, 1), 1, load_corpus())
    change: Any = large.tables[1]["readout"]["delta_input"]  # the input of the readout is z_L
    r_hat = -slope((128, 2048), change).value
    assert abs(r_hat - float(prescription.layers[-2].r)) < 0.1
    assert solve(prescription.problem).layers[-2].r == prescription.layers[-2].r


@pytest.mark.slow
def test_fits_and_pictures_need_no_jax() -> None:
    code = (
        "import sys, verify.training.data, verify.fit.forward, verify.studies.pictures\nassert 'jax' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
