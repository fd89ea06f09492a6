"""`verify transfer`, `status`, `merge` and `report`: contract, resuming, parts, bad input."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from derive.running import run
from derive.solve import prescribe
from tests.helpers.interrupts import VERIFY
from verify.commands.main import app
from verify.sweeps.storage.export import load
from verify.sweeps.storage.store import read

Capture = pytest.CaptureFixture[str]
SMALL = [
    *("--widths", "16,32", "--rates", "3", "--halvings", "0", "--seeds", "2", "--steps", "3", "--batch", "8"),
    *("--context", "4", "--depth", "1", "--evaluation", "32", "--processes", "1"),
]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("undrawn")
def test_the_json_contract(tmp_path: Path, capsys: Capture) -> None:
    names = ["--parameterization", "sp,ntk", "--alignment", "full"]
    code, out, err = verify(capsys, "transfer", *SMALL, *names, "--out", str(tmp_path), "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["schema"], found["command"]) == (1, "transfer")
    assert {"device", "corpus", "rows"} <= found.keys()
    rows = {(row["parameterization"], row["alignment"]): row for row in found["rows"]}
    assert set(rows) == {("SP", "full"), ("NTK", "full")}
    assert rows["NTK", "full"]["trained_as"] == "adam SP full"
    assert {"drift", "low", "high"} <= rows["SP", "full"].keys()
    assert rows["SP", "full"]["widths"].keys() == {"16", "32"}
    assert {"best_rate", "best_loss", "diverged"} <= rows["SP", "full"]["widths"]["32"].keys()


@pytest.mark.usefixtures("undrawn")
def test_the_same_command_goes_on_and_another_is_refused(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--alignment", "full", "--parameterization", "sp", "--out", str(tmp_path)]
    code, first, err = verify(capsys, *command)
    assert code == 0 and "adam SP full" in first, err
    records = read(tmp_path / "study.sqlite").records
    code, second, _ = verify(capsys, *command)
    assert code == 0 and second == first and read(tmp_path / "study.sqlite").records == records
    code, _, err = verify(capsys, *command, "--steps", "4")
    assert code == 2 and "steps: 3, not 4" in err and err.count("\n") == 1
    assert read(tmp_path / "study.sqlite").records == records
    code, out, _ = verify(capsys, "status", str(tmp_path))
    assert code == 0 and f"{len(records)} of {len(records)}" in out and "adam SP full" in out


@pytest.mark.usefixtures("undrawn")
def test_parts_are_merged_to_the_whole_and_reported(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--alignment", "global", "--alignment", "full", "--parameterization", "sp"]
    assert verify(capsys, *command, "--out", str(tmp_path / "whole"))[0] == 0
    for part in (1, 2):
        code, _, err = verify(capsys, *command, "--part", f"{part}/2", "--out", str(tmp_path / f"part-{part}"))
        assert code == 0, err
    stores = [str(tmp_path / f"part-{part}" / "study.sqlite") for part in (1, 2)]
    code, _, err = verify(capsys, "merge", str(tmp_path / "merged" / "study.sqlite"), *stores)
    assert code == 0, err
    whole, merged = (
        {(r.setting, r.width, r.base_rate, r.seed, r.loss) for r in load(tmp_path / name).records}
        for name in ("whole", "merged")
    )
    assert whole == merged
    code, out, err = verify(capsys, "report", str(tmp_path / "merged"), "--out", str(tmp_path / "report"))
    assert code == 0 and "report.html" in out, err
    assert load(tmp_path / "report").records and (tmp_path / "report" / "transfer.json").exists()
    assert "adam SP full" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.usefixtures("undrawn")
def test_constants_are_tuned_apart_and_used(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--parameterization", "sp,mup", "--alignment", "full", "--tune-constants", "3"]
    code, out, err = verify(capsys, *command, "--out", str(tmp_path), "--format", "json")
    assert code == 0 and "constants" in err and "3 tried" in err
    rows = json.loads(out)["rows"]
    constants = [row["constants"] for row in rows]
    assert len(rows) == 2 and constants[0] == constants[1], "at the base width all settings are one network"
    assert len({setting.constants for setting in read(tmp_path / "constants.sqlite").settings.values()}) == 3
    (found,) = json.loads((tmp_path / "constants.json").read_text())["rows"]
    assert found["constants"] == constants[0] and (found["optimizer"], found["steps"], found["trials"]) == (
        "adam",
        3,
        3,
    )


@pytest.mark.slow
def test_a_part_without_work_says_so_and_widths_are_told_apart(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--parameterization", "sp", "--alignment"]
    code, out, err = verify(capsys, *command, "full", "--part", "2/2", "--out", str(tmp_path / "idle"))
    assert code == 0 and out.startswith("nothing has been trained"), err
    assert verify(capsys, *command, "full", "--widths", "16,32,64", "--out", str(tmp_path / "study"))[0] == 0
    code, out, _ = verify(capsys, *command, "prior", "--out", str(tmp_path / "study"))
    (shorter,) = [line.split() for line in out.splitlines() if line.startswith(" adam SP prior")]
    assert code == 0 and "loss at 64" in out and shorter.count("-") == 3, "nothing is shown for a width without runs"


@pytest.mark.slow
def test_depth_that_makes_layers_differ_is_trained_layer_by_layer(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--depth", "2", "--parameterization", "sp", "--out", str(tmp_path), "--alignment"]
    assert verify(capsys, *command, "omega=3/4")[0] == 0
    layers = read(tmp_path / "study.sqlite").settings["adam SP omega=3/4"].layers
    assert [layer.label for layer in layers] == ["embedding", "hidden.0", "hidden.1", "readout"]
    assert [layer.c for layer in layers] == [
        str(each) for each in prescribe("adam", "sp", "omega=3/4", hidden_layers=2).c
    ]


@pytest.mark.slow
def test_base_rates_by_optimizer(tmp_path: Path, capsys: Capture) -> None:
    names = ["--optimizer", "sgd,adam", "--parameterization", "sp", "--alignment", "full"]
    command = ["transfer", *SMALL, *names, "--base-rate", "adam=0.01,sgd=0.25", "--out", str(tmp_path)]
    assert verify(capsys, *command)[0] == 0
    study = read(tmp_path / "study.sqlite")
    assert {0.005, 0.01, 0.02} <= set(study.runs("adam SP full", 16)) and 0.25 in study.runs("sgd SP full", 16)


@pytest.mark.usefixtures("undrawn")
def test_a_report_is_never_overwritten(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--parameterization", "sp", "--alignment", "full", "--out", str(tmp_path / "study")]
    assert verify(capsys, *command)[0] == 0
    arguments = ["report", str(tmp_path / "study"), "--out", str(tmp_path / "report")]
    assert verify(capsys, *arguments)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    code, _, err = verify(capsys, *arguments)
    assert code == 2 and "already holds a report" in err
    assert {path: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "64"], "a slope needs at least two"),
        (["--widths", "64,x"], "is not a list of widths"),
        (["--optimizer", "adamm"], "did you mean adam"),
        (["--optimizer", "kfac"], "trainable optimizer"),
        (["--parameterization", "sp,nope"], "unknown parameterization 'nope'"),
        (["--alignment", "alpha=x,u=x"], "symbols"),
        (["--alignment", "half"], "half"),
        (["--constants", "1,2"], "three numbers above 0"),
        (["--constants", "1,2,-3"], "three numbers above 0"),
        (["--constants", "1,2,3", "--tune-constants", "4"], "tune first"),
        (["--part", "3"], "is not a share"),
        (["--part", "4/3"], "is not a share"),
        (["--engine", "slurm"], "local, ray"),
        (["--address", "auto"], "--engine ray"),
        (["--engine", "ray"], "--processes 1 goes with --engine local"),
        (["--rates", "0"], "--rates 0 is not allowed"),
        (["--base-rate", "1e308"], "1e-12 to 1e12"),
        (["--base-rate", "adam=1,sgd=2"], "does not name the optimizers adam"),
        (["--base-rate", "x"], "is not a list of numbers"),
        (["--decay", "linear"], "linear"),
        (["--dtype", "float16"], "float16"),
        (["--weight-decay", "nan"], "--weight-decay nan is not allowed"),
        (["--epsilon", "1e-6", "--optimizer", "sgd"], "has no effect on sgd"),
        (["--alignment", "hidden.2.alpha=1/2"], "hidden.2"),
        (["--alignment", "hidden.0.alpha=1/2", "--model", "transformer", "--widths", "32,64"], "single layers"),
        (["--base-rate", "nan"], "--base-rate 'nan' is not allowed"),
        (["--clip-global-norm", "-1"], "--clip-global-norm -1.0 is not allowed"),
        (["--halvings", "9"], "halvings"),
        (["--weight-decay", "-1"], "weight-decay"),
        (["--model", "resnet"], "mlp, transformer"),
        (["--model", "transformer", "--widths", "48,64"], "head dimension"),
        (["--corpus", "nowhere.txt"], "does not exist"),
        (["--format", "xml"], "table, json"),
    ],
)
def test_bad_input_is_one_line_and_trains_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "study"
    code, printed, err = verify(capsys, "transfer", *SMALL, *arguments, "--out", str(out))
    assert code == 2 and message in err and err.count("\n") == 1 and printed == "", err
    assert not (out / "study.sqlite").exists()


def test_a_corpus_too_small_is_said_before_anything_is_stored(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be")
    out = tmp_path / "study"
    code, _, err = verify(capsys, "transfer", *SMALL, "--corpus", str(tmp_path / "text.txt"), "--out", str(out))
    assert code == 2 and "too small" in err and err.count("\n") == 1 and not (out / "study.sqlite").exists()


@pytest.mark.parametrize(
    "arguments",
    [["status", "nowhere"], ["report", "nowhere", "--out", "x"], ["merge", "new.sqlite", "nowhere"], ["merge", "new"]],
)
def test_what_is_not_there_is_said(
    arguments: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = verify(capsys, *arguments)
    assert code == 2 and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.sqlite"))


def test_two_drivers_do_not_share_a_study_and_ctrl_c_says_where_it_is(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL[:-2], "--steps", "20000", "--alignment", "full", "--out", str(tmp_path)]
    child = subprocess.Popen(
        [*VERIFY, *command, "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "study.sqlite").exists() or not read(tmp_path / "study.sqlite").planned:
            assert time.monotonic() < deadline and child.poll() is None
            time.sleep(0.1)
        code, _, err = verify(capsys, *command, "--processes", "1")
        assert code == 2 and err.count("\n") == 1 and "another" in err
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
        assert child.returncode == 130 and "goes on" in err and "Traceback" not in err
    finally:
        child.kill()
