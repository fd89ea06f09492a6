"""The check along depth: own changes by the theory's r', planted exponents rejected, nothing that grows passes."""

import json
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verify
from derive.running import run
from tests.verify.model.test_own_depth import residual
from verify.commands.main import app
from verify.model.check.depth import GROWS, _arriving, depth_check, judged, prescriptions
from verify.model.make import load_make
from verify.model.prescription import ModelPrescription

DEPTHS = (2, 4, 8, 16)
HALF = Fraction(1, 2)
Sizes = dict[int, dict[int, dict[str, dict[str, Any]]]]


def planted(answers: Mapping[int, ModelPrescription], by: Fraction) -> dict[int, ModelPrescription]:
    """Prescriptions whose rates in branches are off by N^-by."""

    def off(answer: ModelPrescription) -> ModelPrescription:
        rows = tuple(
            replace(row, depth={**row.depth, "c": row.depth["c"] + by}) if row.depth.get("r") else row
            for row in answer.parameters
        )
        return replace(answer, parameters=rows)

    return {depth: off(answer) for depth, answer in answers.items()}


@pytest.fixture(scope="module")
def linear() -> ModelPrescription:
    """Adam's at branches of N^-1/2: rates of N^-1/2 in them."""
    make: Any = residual(0.5)
    return verify.prescribe(make, base_width=16, width=32, base_depth=2, depth=16)


def networks(own: float, whole: float, start: float = 0.0, after: int = 1) -> Sizes:
    """Made-up sizes of three seeds at DEPTHS: own changes in branches N^-own, whole changes N^-whole from a step on.

    Blocks are entered by what those before them changed, 1 - 1/N of it.
    """
    generator = np.random.default_rng(0)

    def size(depth: int, exponent: float) -> Any:
        return (depth / 2) ** -exponent * np.exp(0.01 * generator.standard_normal(3))

    def dense(depth: int, moves: float, step: int) -> dict[str, Any]:
        moved = {"term_alpha": size(depth, moves), "delta_output": size(depth, whole)}
        return {"output": size(depth, start), **{name: each * (step >= after) for name, each in moved.items()}}

    found: Sizes = {}
    for depth in DEPTHS:
        found[depth] = {}
        for step in (1, 2):
            table: dict[str, dict[str, Any]] = {}
            for name, moves in (("first", 0.0), ("last", 0.0), ("blocks.*.up", own), ("blocks.*.down", own)):
                table[name] = dense(depth, moves, step)
                table[name]["delta_output"] *= 1 - 1 / depth if name.startswith("blocks") else 1.0
                table[f"parameter {name}"] = {"decay": np.zeros(3), "delta_w": size(depth, moves)}
            found[depth][step] = table
    return found


def failed(answer: ModelPrescription, sizes: Sizes) -> set[tuple[str, str]]:
    return {(row.layer, row.quantity) for row in judged(answer, sizes, {}) if row.verdict == "fails"}


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_own_changes_off_by_half_fail_in_every_branch_and_nowhere_else(linear: ModelPrescription, own: float) -> None:
    assert not failed(linear, networks(0.5, 0.0))
    assert failed(linear, networks(own, 0.0)) == {("blocks.*.up", "own change"), ("blocks.*.down", "own change")}


def test_what_grows_fails_and_what_shrinks_is_left_to_own_changes(linear: ModelPrescription) -> None:
    growing = [row for row in judged(linear, networks(0.5, -0.5), {}) if row.quantity == "delta_z"]
    assert {row.verdict for row in growing} == {"fails"} and {row.reason for row in growing} == {GROWS}
    assert not failed(linear, networks(0.5, 0.5))
    assert {quantity for _, quantity in failed(linear, networks(0.5, 0.0, start=-0.5))} == {"size"}


def test_a_stream_that_has_yet_to_grow_lets_changes_grow_as_much_and_no_more() -> None:
    """delta = 0: N^1/2 while embeddings outweigh the branches; own changes are judged as ever."""
    make: Any = residual()
    bare = verify.prescribe(make, base_width=16, width=32, base_depth=2, depth=16)
    assert not failed(bare, networks(0.5, -0.5))
    assert {quantity for _, quantity in failed(bare, networks(0.5, -1.0))} == {"delta_z"}
    assert {quantity for _, quantity in failed(bare, networks(0.0, -0.5))} == {"own change"}


def test_what_has_not_moved_is_judged_from_the_step_where_it_does(linear: ModelPrescription) -> None:
    rows = judged(linear, networks(0.0, 0.0, after=2), {})
    assert {row.step for row in rows if row.quantity == "own change"} == {2}
    assert ("blocks.*.up", "own change") in failed(linear, networks(0.0, 0.0, after=2))


def test_the_base_depth_has_no_factors_and_others_do() -> None:
    answers = prescriptions(residual(0.5), 16, (2, 8))
    assert [answer.depth for answer in answers.values()] == [None, 8]
    assert {answers[2].scaled(row, "c") for row in answers[2].parameters} == {1.0}
    assert answers[8].scaled(answers[8].row("blocks.7.up"), "c") == HALF
    assert {answer.width for answer in answers.values()} == {16}


def test_planted_rates_are_rejected_in_a_trained_model() -> None:
    answers = prescriptions(small, 16, (2, 8), optimizer="sgd")
    wrong = depth_check(small, planted(answers, -HALF), seeds=3, steps=1, base_rate=0.1, setups=("prescribed",))
    assert wrong.measured["prescribed"].verdict == "fails"
    assert "blocks.up" in {row.layer for row in wrong.measured["prescribed"].failures}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equinox_residual", "scan_layers", "nnx_transformer"])
def test_examples_pass_as_prescribed_and_planted_rates_do_not(name: str) -> None:
    make = load_make(f"examples.{name}:make")
    answers = prescriptions(make, 32, DEPTHS)
    assert depth_check(make, answers).measured["prescribed"].verdict == "passes"
    for by in (HALF, -HALF):
        wrong = depth_check(make, planted(answers, by), setups=("prescribed",))
        assert wrong.measured["prescribed"].verdict == "fails", by


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depths", "0,2"], "0 is not a depth"),
        (["--depths", "4,2"], "do not grow"),
        (["--depths", "4"], "a slope needs at least two"),
        (["--depths", "2,4", "--widths", "32,64"], "the width stays; give one"),
        (["--depths", "2,4", "--drift-steps", "5"], "--drift-steps goes by the width alone"),
        (["--depths", "2,4", "--own", "a:b"], "--own goes by the width alone"),
        (["--depths", "2,4", "--framework", "torch"], "--framework goes by the width alone"),
        (["--depths", "2,4", "--format", "torch"], "--format torch goes by the width alone"),
        (["--depth-alignment", "none"], "--depth-alignment goes with --depths"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "examples.equinox_residual:make", *arguments]
    code = run(lambda: app(command, standalone_mode=False), "verify")
    printed, err = capsys.readouterr()
    assert code == 2 and message in err and err.count("\n") == 1 and printed == "", err


def test_what_a_folder_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command from end to end, on a model of a file of its own: one rate fails, since SGD needs N."""
    command = ["check", "tests.verify.model.test_check_depth:small", "--depths", "2,8", "--widths", "16"]
    command += ["--optimizer", "sgd", "--base-rate", "0.1", "--seeds", "3", "--steps", "1", "--out", str(tmp_path)]
    code = run(lambda: app(command, standalone_mode=False), "verify")
    printed, err = capsys.readouterr()
    assert code == 0 and "width 16, depths 2,8" in printed, err
    assert "prescribed: passes" in printed and "own: FAILS" in printed
    assert "blocks.up: own change at step 1" in printed and "blocks.down" in printed
    content = json.loads((tmp_path / "check.json").read_text())
    assert content["axis"] == "depth" and content["depths"] == [2, 8]
    assert ModelPrescription.from_json((tmp_path / "prescription.json").read_text()).depth == 8


small = residual(1.0, scan=True)


def test_the_share_of_the_stream_that_reaches_a_block_is_no_growth() -> None:
    """Changes of the blocks before block l of N, 1/N each, are l/N of the stream's: from 2 to 8 that goes as N^0.4."""
    depths = (2, 4, 8)
    mean = np.array([np.mean(np.arange(depth) / depth) for depth in depths])
    slope = np.polyfit(np.log(depths), np.log(mean), 1)[0]
    assert slope > 0.35
    assert abs(np.polyfit(np.log(depths), np.log(mean / _arriving(depths)), 1)[0]) < 1e-9
    wrong = mean * np.sqrt(depths)  # rates too large by N^(1/2) still show
    assert np.polyfit(np.log(depths), np.log(wrong / _arriving(depths)), 1)[0] > 0.45
