"""A grid of widths and depths: both prescriptions multiply, and the best rate's drift is found along both."""

import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import optax
import pytest

from derive.running import run
from tests.verify.sweeps.test_axis_runs import BLOCKS, RATE, by_hand, trained
from verify.commands.main import app
from verify.studies.transfer.analysis import analyse, comparisons
from verify.studies.transfer.grid import along_width, grid_table
from verify.studies.transfer.text import as_json
from verify.sweeps.records import Conditions, Record, Setting, Study
from verify.sweeps.settings.along import along_depth, at_widths
from verify.sweeps.settings.named import representatives
from verify.sweeps.storage.export import export, load_export
from verify.sweeps.storage.store import read
from verify.training.data import load_corpus, sequence
from verify.training.networks import Scaling
from verify.training.networks.transformer import Transformer

HALF = Fraction(1, 2)
DEPTHS, WIDTHS = (2, 4, 8, 16), (8, 16, 32)
GRID = Conditions("transformer", {"vocabulary": 256, "width": 8}, 2, 9, 4, 8, "t", "c", axis="depth")


def settings(*alignments: str) -> list[Setting]:
    one = [along_depth("adam", "1/2", name) for name in alignments]
    return [each.setting for each in at_widths(one, WIDTHS, 8, "mup")]


def test_a_run_of_a_width_and_a_depth_is_a_plain_loop_with_both_factors() -> None:
    """muP at twice the width, Adam's rates n^-1/2, n^-1, n^-1/2; 4 times the depth, those of blocks 1/2."""
    corpus = load_corpus()
    wide = Scaling(16, 8, (-HALF, 0, HALF), (HALF, HALF, HALF))
    model = Transformer(wide, context=8, blocks=8, head_dimension=8, branch_multiplier=0.5)
    scale = {"embedding": 2**-0.5, "hidden": 0.5 * 0.5, "readout": 2**-0.5}
    rules: Any = {name: optax.adam(RATE * factor, eps=1e-12) for name, factor in scale.items()}
    transform = optax.multi_transform(rules, model.labels(model.init(jax.random.key(0))))
    (setting,) = [each for each in settings("full") if each.across and each.across.width == 16]
    expected = by_hand(model, transform, corpus, sequence, 4, 8, 5)
    assert trained(replace(BLOCKS, base_width=2, epsilon=1e-12), setting, 8, RATE, corpus).loss == pytest.approx(
        expected, rel=1e-5
    )


def test_at_the_base_width_a_setting_is_what_it_was_without_others() -> None:
    corpus = load_corpus()
    base, *_ = settings("full")
    alone = along_depth("adam", "1/2", "full").setting
    assert base.name == "adam depth-muP full, width 8, muP"
    assert trained(BLOCKS, base, 4, RATE, corpus).loss == trained(BLOCKS, alone, 4, RATE, corpus).loss


def test_what_a_rule_leaves_alone_is_trained_once_at_the_base_width_only() -> None:
    pair = [along_depth("adam", "completep", name) for name in ("full", "global")]
    alike = representatives(at_widths(pair, WIDTHS, 8, "mup"), decays=False, clips=False)
    assert list(alike) == ["adam CompleteP global, width 8, muP"]


def made(of_width: float) -> Study:
    """Losses whose best raw rate in hidden layers goes as n^of_width N^-1/2, 0.01 at the base; Adam's goes as n^-1."""
    records, found = [], settings("full")
    for setting in found:
        assert setting.across is not None
        for depth in DEPTHS:
            factor = setting.across.factor("hidden", "c") * (depth / 2) ** -0.5
            for offset in range(-6, 7):
                for seed in range(3):
                    rate, best = 0.01 * 2.0**offset, 0.01 * (setting.across.width / 8) ** of_width * (depth / 2) ** -0.5
                    away = math.log2(rate * factor / best) + 0.05 * seed
                    records.append(Record(setting.name, depth, rate, seed, 2 + 0.01 * away**2))
    return Study(GRID, {each.name: each for each in found}, {}, tuple(records))


@pytest.mark.parametrize("off", [0.0, 0.5, -0.5])
def test_a_planted_power_of_the_width_is_found_at_every_depth_and_not_along_it(off: float) -> None:
    study = made(off - 1)
    results = analyse(study)
    assert [each.drift.value for each in results] == pytest.approx([0] * 3, abs=0.02)
    across = along_width(study)
    assert list(across) == [*DEPTHS]
    for (found,) in across.values():
        assert found.axis == "width" and [each.width for each in found.widths] == [*WIDTHS]
        assert found.drift.value == pytest.approx(off, abs=0.02)
        assert found.setting.name == "adam depth-muP full"


def test_losses_of_different_widths_are_not_ranked_with_each_other() -> None:
    study = made(-1.0)
    compared = comparisons(analyse(study))
    assert [each.title for each in compared] == [f"adam, width {width}, muP" for width in WIDTHS]
    content = json.loads(json.dumps(as_json(study, analyse(study))))
    assert [row["width"] for row in content["rows"]] == [*WIDTHS]
    assert [row["depth"] for row in content["along_width"]] == [*DEPTHS]
    assert grid_table(study).count("adam depth-muP full") == len(DEPTHS)
    assert grid_table(replace(study, settings={}, records=())) == ""


def test_an_export_is_read_back(tmp_path: Path) -> None:
    study = made(-1.0)
    export(study, tmp_path)
    assert load_export(tmp_path).settings == study.settings


@pytest.mark.slow
def test_the_command_trains_a_grid_and_its_study_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--rates", "3", "--halvings", "0", "--seeds", "2", "--context", "4", "--evaluation", "16"]
    small += ["--processes", "1", "--steps", "1", "--batch", "2", "--head-dimension", "8", "--alignment", "full"]
    command: list[Any] = ["transfer", "--axis", "depth", "--depths", "1,2", "--widths", "8,16", *small]
    assert run(lambda: app([*command, "--out", str(tmp_path / "grid")], standalone_mode=False), "verify") == 0
    assert "along the width: best rate ~ n^drift" in capsys.readouterr().out
    study = read(tmp_path / "grid" / "study.sqlite")
    assert [each.across and each.across.width for each in study.settings.values()] == [8, 16]
    export(study, tmp_path / "export")
    assert load_export(tmp_path / "export") == study
