"""`verify transfer --axis depth` and `--axis batch`: contract, resuming, planted rules, bad input."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from derive.running import run
from paper_figures.paths import DATA
from verify.commands.main import app
from verify.studies.transfer.analysis import analyse
from verify.studies.transfer.report import write_report
from verify.studies.transfer.text import table
from verify.sweeps.records import Conditions, LayerScaling, Record, Setting, Study, run_key
from verify.sweeps.settings.along import along_batch, along_depth
from verify.sweeps.settings.named import representatives
from verify.sweeps.storage.export import export, load, load_export
from verify.sweeps.storage.store import read

Capture = pytest.CaptureFixture[str]
SMALL = [
    *("--rates", "3", "--halvings", "0", "--seeds", "2", "--context", "4", "--evaluation", "16", "--processes", "1"),
    *("--widths", "8", "--alignment", "global", "--format", "json"),
]
BATCHES = ["--axis", "batch", "--batches", "4,8", "--steps", "4", "--depth", "1", "--optimizer", "sgd"]
BLOCKS = ["--axis", "depth", "--depths", "1,2", "--steps", "2", "--batch", "4", "--residual", "1"]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("given", "many", "sizes"),
    [(BATCHES, "batches", "48"), pytest.param(BLOCKS, "depths", "12", marks=pytest.mark.slow)],
)
def test_a_study_of_an_axis_is_stored_gone_on_with_shown_and_exported(
    given: list[str], many: str, sizes: str, tmp_path: Path, capsys: Capture
) -> None:
    command = ["transfer", *given, *SMALL, "--out", str(tmp_path / "study")]
    code, first, err = verify(capsys, *command)
    assert code == 0, err
    found = json.loads(first)
    assert found["conditions"]["axis"] == given[1] and found["conditions"][f"base_{given[1]}"] == int(sizes[0])
    assert "base_width" not in found["conditions"] and found["conditions"]["sizes"]["width"] == 8
    (row,) = found["rows"]
    assert list(row[many]) == list(sizes) and {"drift", "low", "high", f"divergence_{given[1]}"} <= row.keys()
    study = read(tmp_path / "study" / "study.sqlite")
    code, second, _ = verify(capsys, *command)
    assert code == 0 and second == first and read(tmp_path / "study" / "study.sqlite") == study
    code, out, _ = verify(capsys, "status", str(tmp_path / "study"))
    assert code == 0 and f"loss by {given[1]}" in out
    export(study, tmp_path / "export")
    assert load_export(tmp_path / "export") == study
    assert (tmp_path / "export" / "runs.csv").read_text().startswith(f"setting,{given[1]},base_rate")


def test_one_rate_at_every_batch_is_the_rule_at_another_base_rate() -> None:
    """Every layer's rate goes as B, so that rates of 4 times the base batch are those of 4 times the base rate."""
    rule, raw = (along_batch("sgd", name, "tokens").setting for name in ("rule", "global"))
    assert {layer.c for layer in rule.layers} == {"-1"} and {layer.c for layer in raw.layers} == {"0"}


def test_what_the_rule_leaves_alone_is_trained_once() -> None:
    settings = [along_depth("adam", "completep", name) for name in ("full", "global", "none")]
    alike = representatives(settings, decays=True, clips=False)
    assert alike == dict.fromkeys(("adam CompleteP global", "adam CompleteP none"), "adam CompleteP full")
    apart = [along_depth("adam", "depth-mup", name) for name in ("full", "global")]
    assert not representatives(apart, decays=False, clips=False)


def test_studies_of_the_width_are_what_they_were() -> None:
    content = Conditions("mlp", {"vocabulary": 256}, 64, 100, 32, 512, "corpus", "code").content()
    assert content["base_width"] == 64 and not {"axis", "held"} & content.keys()
    assert Conditions.of(content).content() == content
    study = load(DATA / "transfer_transformer")
    assert study.conditions.axis == "width"
    setting = Setting("adam", "SP", "full", (LayerScaling("hidden", "adam", "0", "1/2", "1", "1/2", "-1"),))
    deep = Conditions("transformer", {"width": 8}, 2, 1, 1, 1, "corpus", "code", axis="depth")
    assert Conditions.of(deep.content()) == deep and "base_width" not in deep.content()
    assert run_key(deep, setting, 8, 0.1, 0) != run_key(replace(deep, axis="width"), setting, 8, 0.1, 0)


def made(setting: Setting, conditions: Conditions, best: float) -> Study:
    """A study of made-up losses whose best raw rate in hidden layers goes as N^best, 0.01 at the base."""
    hidden = next(layer for layer in setting.layers if layer.kind == "hidden")
    records = []
    for size in (2, 4, 8, 16, 32):
        factor = (size / conditions.base_width) ** -float(Fraction(hidden.c))
        for offset in range(-6, 7):
            for seed in range(3):
                rate = 0.01 * 2.0**offset
                away = math.log2(rate * factor / (0.01 * (size / 2) ** best)) + 0.05 * seed
                records.append(Record(setting.name, size, rate, seed, 2 + 0.01 * away**2))
    return Study(conditions, {setting.name: setting}, {}, tuple(records))


@pytest.mark.parametrize("by", ["0", "1/2", "-1/2"])
def test_a_planted_rate_drifts_by_what_it_is_off(by: str) -> None:
    """c' off by x: the best base rate goes as N^x; and so where delta is miscounted."""
    conditions = Conditions("transformer", {"vocabulary": 256, "width": 8}, 2, 9, 4, 8, "t", "c", axis="depth")
    right = along_depth("sgd", "completep", "full").setting
    best = 1.0  # SGD's rate of N^1 where branches are divided by N
    layers = tuple(
        replace(each, c=str(Fraction(each.c) + Fraction(by))) if each.kind == "hidden" else each
        for each in right.layers
    )
    (found,) = analyse(made(replace(right, layers=layers), conditions, best))
    assert found.drift.value == pytest.approx(float(Fraction(by)), abs=0.02)
    assert found.axis == "depth" and found.drift.low - 0.02 <= float(Fraction(by)) <= found.drift.high + 0.02
    miscounted = along_depth("sgd", "depth-mup", "full").setting  # the rates of delta = 1/2 at branches of 1/N
    (seen,) = analyse(made(miscounted, conditions, best))
    assert seen.drift.value == pytest.approx(1.0, abs=0.02)


def test_texts_and_pictures_name_the_axis(tmp_path: Path) -> None:
    conditions = Conditions("transformer", {"vocabulary": 256, "width": 8}, 2, 9, 4, 8, "t", "c", axis="depth")
    study = made(along_depth("adam", "1/2", "full").setting, conditions, -0.5)
    said = table(study, analyse(study))
    assert "depths 2,4,8,16,32" in said and "best rate ~ N^drift" in said and "width" not in said
    page = next(path for path in write_report(study, tmp_path) if path.suffix == ".html").read_text()
    text = page.split("<body>")[1].split("<img")[0]
    assert "at depth 32" in text and "drift" in page and "N^" in page
    assert "fails from depth" in page and "smallest width" not in page
    batches = replace(conditions, model="mlp", axis="batch", held="tokens", base_width=2)
    made_up = made(along_batch("sgd", "rule", "tokens").setting, batches, 1.0)
    assert "tokens held: steps are those at batch 2" in table(made_up, analyse(made_up))
    assert np.isclose(analyse(made_up)[0].drift.value, 0, atol=0.02)


DEPTH, BATCH = ["--axis", "depth"], ["--axis", "batch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--axis", "height"], "width, depth, batch"),
        ([*DEPTH, "--depths", "0,2"], "0 is not a depth; give whole numbers from 1"),
        ([*DEPTH, "--depths", "4,2"], "do not grow; list them from small to large"),
        ([*DEPTH, "--depths", "4"], "a slope needs at least two"),
        ([*DEPTH, "--depths", "2,x"], "is not a list of numbers"),
        ([*DEPTH, "--depths", "4,8", "--base-depth", "8"], "--base-depth 8 is above the first of --depths 4,8"),
        ([*DEPTH, "--base-depth", "0"], "--base-depth 0 is not allowed"),
        ([*DEPTH, "--residual", "nope"], "symbols"),
        ([*DEPTH, "--alignment", "1/4"], "give full, none, or 1/2 to 1"),
        ([*DEPTH, "--model", "mlp"], "has no residual stream to grow along --axis depth"),
        ([*DEPTH, "--widths", "64,32"], "64,32"),
        ([*BATCH, "--widths", "32,64"], "along --axis batch the width stays; give one"),
        ([*DEPTH, "--widths", "32,64", "--parameterization", "sp,mup"], "a grid of widths and depths takes one"),
        ([*DEPTH, "--depth", "4"], "--depth goes with --axis width or batch; leave it out"),
        (
            [*DEPTH, "--parameterization", "sp"],
            "--parameterization goes with --axis width, or along depth with several",
        ),
        ([*DEPTH, "--base-width", "8"], "--base-width goes with --axis width, or along depth with several --widths"),
        ([*DEPTH, "--batches", "4,8"], "--batches goes with --axis batch"),
        ([*DEPTH, "--widths", "48", "--residual", "1"], "head dimension"),
        (["--depths", "2,4"], "--depths goes with --axis depth"),
        (["--residual", "1"], "--residual goes with --axis depth"),
        (["--horizon", "sde"], "--horizon goes with --axis batch"),
        ([*BATCH, "--batches", "0,4"], "0 is not a batch; give whole numbers from 1"),
        ([*BATCH, "--batches", "8,4"], "do not grow"),
        ([*BATCH, "--base-batch", "0"], "--base-batch 0 is not allowed"),
        ([*BATCH, "--batch", "8"], "--batch goes with --axis width or depth; leave it out"),
        ([*BATCH, "--batches", "4,12", "--steps", "4"], "no whole number of steps at batch 12"),
        ([*BATCH, "--horizon", "sde"], "--horizon sde goes with --hold steps"),
        ([*BATCH, "--hold", "nothing"], "tokens, steps"),
        ([*BATCH, "--alignment", "prior"], "give rule, global or both"),
        ([*BATCH, "--optimizer", "kfac"], "kfac"),
        ([*BATCH, "--decay", "n^-1"], "is a power of the width, which stays"),
    ],
)
def test_bad_input_is_one_line_and_stores_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "study"
    steps = [] if "--steps" in arguments else ["--steps", "256"]
    code, printed, err = verify(capsys, "transfer", *arguments, *steps, "--processes", "1", "--out", str(out))
    assert code == 2 and message in err and err.count("\n") == 1 and printed == "", err
    assert not (out / "study.sqlite").exists()
