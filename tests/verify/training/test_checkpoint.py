"""A run that was ended goes on from its checkpoint to the same numbers, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.errors import DeriveError
from derive.solve import prescribe, solve_kinds
from verify.studies.exponents.study import Result, exponents
from verify.training.checkpoint import Checkpoints
from verify.training.config import Config
from verify.training.data import load_corpus

STEPS = 7
WIDTHS = (16, 32)
ADAM = solve_kinds(prescribe("adam", "mup", "full").problem)


def config(base_rate: float = 1e-3) -> Config:
    return Config(ADAM, 16, base_rate, batch=8, probe=4, sizes={"vocabulary": 256, "context": 4, "hidden_layers": 1})


def study(folder: Path | None, stop: int | None = None, base_rate: float = 1e-3, steps: int = STEPS) -> Result:
    """A study with a checkpoint every 2 steps; with `stop` it is ended in the step of that number, of all widths."""
    taken = iter(range(1, 1000))

    def progress() -> None:
        if next(taken) == stop:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(folder, 2) if folder else None
    corpus = load_corpus(None, None)
    return exponents(config(base_rate), WIDTHS, (0, 1), steps, corpus, progress, checkpoints=checkpoints)


def assert_equal(found: Result, expected: Result) -> None:
    for one, other in zip(found.runs, expected.runs, strict=True):
        np.testing.assert_array_equal(one.losses, other.losses)
        assert one.diverged == other.diverged
        assert (one.kinds, one.fan_in) == (other.kinds, other.fan_in)
    assert found.tables.keys() == expected.tables.keys()
    for step, table in expected.tables.items():
        assert list(found.tables[step]) == list(table)
        for layer, sizes in table.items():
            assert list(found.tables[step][layer]) == list(sizes)
            for quantity, values in sizes.items():
                np.testing.assert_array_equal(found.tables[step][layer][quantity], values)


@pytest.fixture(scope="module")
def whole() -> Result:
    return study(None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of a study that came to its end."""
    folder = tmp_path_factory.mktemp("kept")
    study(folder)
    return folder


@pytest.fixture
def finished(kept: Path, tmp_path: Path) -> Path:
    """A copy of its own for a test that changes them."""
    return Path(shutil.copytree(kept, tmp_path / "finished"))


@pytest.mark.parametrize("stop", [5, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, STEPS, STEPS + 4))])
def test_an_ended_study_goes_on_to_the_same_numbers(stop: int, whole: Result, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, stop)
    assert_equal(study(tmp_path), whole)


def test_a_finished_study_is_read_and_not_trained_again(whole: Result, finished: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("verify.training.trainer.Trainer.batches", None)
    assert_equal(study(finished), whole)


def test_the_last_two_checkpoints_of_a_width_are_kept(kept: Path) -> None:
    for width in WIDTHS:
        assert sorted(each.name for each in (kept / f"width_{width}").iterdir()) == ["6", "7"]


@pytest.mark.slow
def test_a_study_all_of_whose_runs_diverged_is_over(tmp_path: Path) -> None:
    expected = study(None, base_rate=1e38, steps=50)
    assert all(run.diverged.keys() == {0, 1} for run in expected.runs)
    study(tmp_path, base_rate=1e38, steps=50)
    assert_equal(study(tmp_path, base_rate=1e38, steps=50), expected)


@pytest.mark.parametrize(("changes", "name"), [({"base_rate": 2e-3}, "base_rate"), ({"steps": 8}, "steps")])
def test_another_study_is_not_mixed_in(changes: dict[str, Any], name: str, finished: Path) -> None:
    before = sorted(finished.rglob("*"))
    with pytest.raises(DeriveError, match=f"holds a study with another {name} .*; give the options it was begun with"):
        study(finished, **changes)
    assert sorted(finished.rglob("*")) == before


# Orbax leaves what it had begun to read to the interpreter, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(
    whole: Result, finished: Path, tmp_path: Path
) -> None:
    last = finished / "width_32" / "7"
    for file in [*last.glob("arrays/d/*"), *last.glob("arrays/ocdbt.process_0/d/*")]:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(
        DeriveError, match=r"step 7 of width 32 .* cannot be read .*; move its folder width_32/7 away to"
    ) as error:
        study(finished)
    assert "\n" not in str(error.value)
    shutil.move(last, tmp_path / "damaged")
    assert_equal(study(finished), whole)


def test_a_checkpoint_that_was_being_written_does_not_count(whole: Result, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, 5)
    stored = tmp_path / "width_16" / "4"
    shutil.copytree(stored, tmp_path / "width_16" / "6.orbax-checkpoint-tmp")
    (tmp_path / "width_16" / "6.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)
    assert_equal(study(tmp_path), whole)


def test_a_damaged_study_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text('{"steps": ')
    with pytest.raises(DeriveError, match=r"study\.json in --checkpoint .* is damaged; give another"):
        study(tmp_path)
