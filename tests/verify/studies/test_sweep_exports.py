"""Exports of Weights & Biases and TensorBoard, in the shapes in which they come, into `verify fit`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from derive.errors import DeriveError
from verify.commands.main import app
from verify.studies.table.fit import fit
from verify.studies.table.runs import Runs, read_runs

COLUMNS = {"width": "width", "rate": "lr", "loss": "val_loss"}
PATTERN = "w{width}-lr{rate}*"
WIDTHS, RATES = (64, 128, 256), (0.001, 0.002, 0.004, 0.008, 0.016)
GRID = [(width, rate) for width in WIDTHS for rate in RATES]


def loss(width: int, rate: float) -> float:
    """Best at 0.004 at every width."""
    return 3 + 8 / width**0.5 + 0.05 * (RATES.index(rate) - 2) ** 2


def name(width: int, rate: float) -> str:
    return f"w{width}-lr{rate}-{'swift' if rate < 0.005 else 'calm'}-lake-{width}"


def write(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([names, *rows])
    return path


def runs_table(path: Path, changed: Mapping[tuple[int, float], tuple[str, Any]] | None = None) -> Path:
    """A table of runs: what the page shows of every run, its state, configuration and summary."""
    rows = []
    for at, (width, rate) in enumerate(GRID):
        state, final = (changed or {}).get((width, rate), ("finished", loss(width, rate)))
        rows.append([name(width, rate), state, "-", "me", "", f"2026-11-0{at % 9 + 1}T10:00:00.000Z", 61, ""])
        rows[-1] += ["64", str(width), str(rate), "999", str(final), "2.9"]
    names = ["Name", "State", "Notes", "User", "Tags", "Created", "Runtime", "Sweep"]
    return write(path, [*names, "batch", "width", "lr", "_step", "val_loss", "loss"], rows)


def chart(path: Path, short: Mapping[tuple[int, float], int] | None = None, axis: str = "Step") -> Path:
    """A chart with all runs: sampled steps, a column per run with the smallest and largest of each sample."""
    names, steps = [axis], [0, 250, 500, 750, 999]
    for each in GRID:
        names += [f"{name(*each)} - val_loss{end}" for end in ("", "__MIN", "__MAX")]
    rows = []
    for step in steps:
        cells: list[Any] = [step]
        for each in GRID:
            last = (short or {}).get(each, 999)
            value = "" if step > last else loss(*each) + 2 * (1 - step / 999)
            cells += [value, value and value - 0.5, value and value + 0.5]
        rows.append(cells)
    return write(path, names, rows)


def scalars(folder: Path) -> list[Path]:
    """A file per run, as TensorBoard calls and writes them."""
    paths = []
    for each in GRID:
        paths.append(folder / f"run-{name(*each)}-tag-val_loss.csv")
        lines = [f"{1698314503.53 + step},{step},{loss(*each) + 2 * (1 - step / 999)}" for step in (0, 500, 999)]
        paths[-1].write_text("\n".join(["Wall time,Step,Value", *lines]) + "\n")
    return paths


def test_the_table_a_chart_and_scalars_of_the_same_runs_give_one_answer(tmp_path: Path) -> None:
    table = read_runs([runs_table(tmp_path / "wandb_export.csv")], COLUMNS)
    curves = read_runs([chart(tmp_path / "chart.csv")], {"loss": "val_loss", "width": "width", "rate": "lr"}, PATTERN)
    boards = read_runs(scalars(tmp_path), COLUMNS, PATTERN)
    for each in (table, curves, boards):
        (found,) = fit(each)
        assert [round(width.best_rate, 6) for width in found.result.widths] == [0.004] * 3
        assert [width.best_loss.value for width in found.result.widths] == [
            pytest.approx(loss(width, 0.004)) for width in WIDTHS
        ]
        assert not each.notes


def best(runs: Runs) -> list[float]:
    (found,) = fit(runs)
    return [round(width.best_rate, 6) for width in found.result.widths]


def test_a_run_that_is_running_or_crashed_has_no_final_loss_and_is_left_out(tmp_path: Path) -> None:
    """A crashed one's low loss, taken for its last, would be the best of its width; NaN has diverged in any state."""
    changed = {(64, 0.016): ("crashed", 1.0), (128, 0.001): ("running", ""), (256, 0.016): ("failed", "NaN")}
    runs = read_runs([runs_table(tmp_path / "a.csv", changed)], COLUMNS)
    assert best(runs) == [0.004] * 3
    (found,) = fit(runs)
    assert [len(width.rates) for width in found.result.widths] == [4, 4, 5]
    assert [width.diverged for width in found.result.widths] == [0, 0, 1]
    first = name(64, 0.016)
    assert runs.notes == (f"left out: 2 of 15 runs that did not come to their end (first: {first} is crashed)",)


def test_a_curve_that_ends_before_the_others_of_its_width_is_left_out(tmp_path: Path) -> None:
    runs = read_runs([chart(tmp_path / "a.csv", {(128, 0.016): 250})], COLUMNS, PATTERN)
    assert len(runs.losses) == 14
    assert "w128-lr0.016-calm-lake-128 ends at step 250, others later" in runs.notes[0]


def test_wide_networks_may_train_for_longer_than_narrow_ones(tmp_path: Path) -> None:
    short = {(64, rate): 250 for rate in RATES}
    runs = read_runs([chart(tmp_path / "a.csv", short)], COLUMNS, PATTERN)
    assert len(runs.losses) == 15 and not runs.notes


def test_on_an_axis_of_time_no_run_is_short(tmp_path: Path) -> None:
    path = chart(tmp_path / "a.csv", {(128, 0.016): 250}, axis="Relative Time (Process)")
    assert len(read_runs([path], COLUMNS, PATTERN).losses) == 15


def test_all_left_out_is_an_error(tmp_path: Path) -> None:
    changed = dict.fromkeys(GRID, ("running", 3.0))
    with pytest.raises(DeriveError, match=r"15 of 15 runs .* no run is left to fit"):
        read_runs([runs_table(tmp_path / "a.csv", changed)], COLUMNS)


def test_a_column_called_state_that_is_the_users_own_leaves_nothing_out(tmp_path: Path) -> None:
    rows = [["a", "Ohio", 64, rate, loss(64, rate)] for rate in RATES]
    path = write(tmp_path / "a.csv", ["Name", "State", "width", "lr", "val_loss"], rows)
    assert len(read_runs([path], COLUMNS).losses) == 5


def test_two_columns_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """A configuration's `loss` and a summary's: the last of them was taken without a word."""
    rows = [[64, rate, "mse", loss(64, rate), rate] for rate in RATES]
    path = write(tmp_path / "a.csv", ["width", "lr", "loss", "loss", "lr"], rows)
    with pytest.raises(DeriveError, match=r"unknown column --loss 'loss'; allowed: width, lr, loss \(1\), loss \(2\)"):
        read_runs([path], {**COLUMNS, "loss": "loss"})
    assert read_runs([path], {**COLUMNS, "loss": "loss (2)"}).losses[2] == loss(64, 0.004)


def test_runs_of_one_name_in_a_chart_are_repetitions(tmp_path: Path) -> None:
    names = ["Step", "w64-lr0.01 - loss", "w64-lr0.01 - loss__MIN", "w64-lr0.01 - loss", "w64-lr0.01 - loss__MIN"]
    runs = read_runs([write(tmp_path / "a.csv", names, [[9, 3.0, 2.9, 3.1, 2.9]])], {"loss": "loss"}, PATTERN)
    assert runs.repeated and runs.losses.tolist() == [3.0, 3.1]


def refusal(*arguments: str) -> str:
    with pytest.raises(DeriveError) as caught:
        app(["fit", *arguments], standalone_mode=False)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_what_an_export_lacks_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    many, board = str(chart(tmp_path / "chart.csv")), str(scalars(tmp_path)[0])
    assert "is a chart's export, where only the run's name says what was varied: give --names" in refusal(many)
    assert "is TensorBoard's export of a scalar, where only the file's name says" in refusal(board)
    assert "has curves of 'val_loss', none of 'loss'; give --loss METRIC" in refusal(many, "--names", PATTERN)
    one = str(write(tmp_path / "one.csv", ["Step", "loss", "loss__MIN", "loss__MAX"], [[1, 2, 2, 2]]))
    assert "is a chart of one run, without its name" in refusal(one)
    assert "is a chart of one run, without its name" in refusal(one, "--names", PATTERN)
    table = str(runs_table(tmp_path / "table.csv"))
    assert "exports the columns that its table of runs shows" in refusal(table, "--width", "d_model")


@pytest.mark.parametrize(("pattern", "lacking"), [("w{width}*", "{rate}"), ("*lr{rate}-*", "{width}")])
def test_a_pattern_that_lacks_a_field_says_which(pattern: str, lacking: str, tmp_path: Path) -> None:
    said = refusal(str(chart(tmp_path / "a.csv")), "--loss", "val_loss", "--names", pattern)
    assert said == f"--names has no {lacking}, and no column does; write it as w{{width}}-lr{{rate}}"


@pytest.mark.parametrize(
    ("pattern", "run", "width", "rate"),
    [
        ("w{width}-lr{rate}*", "w64-lr0.001-swift-lake-7", 64, 0.001),
        ("w{width}-lr{rate}*", "w64-lr1e-3", 64, 0.001),
        ("w{width}*{rate}", "w64-adam-1.5e-3", 64, 0.0015),
        ("*{width}_{rate}", "mlp2_128_.5", 128, 0.5),
        ("w{width}.{rate}", "w64.0.1", 64, 0.1),
    ],
)
def test_numbers_in_names_are_read_whole(pattern: str, run: str, width: float, rate: float, tmp_path: Path) -> None:
    """What * may stand for ends before a number: "lr0.001-swift" has no rate of 0, nor "lr1e-3" one of 1."""
    path = write(tmp_path / "a.csv", ["Name", "loss"], [[run, 3]])
    runs = read_runs([path], {"loss": "loss"}, pattern)
    assert (runs.axes["width"].tolist(), runs.rates.tolist()) == ([width], [rate])


def test_two_fields_with_nothing_between_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["Name", "loss"], [["w640.1", 3]])
    with pytest.raises(DeriveError, match="two fields with nothing between them"):
        read_runs([path], {"loss": "loss"}, "w{width}{rate}")


def test_files_of_two_kinds_together_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", ["Name", "val_loss", "seed"], [["w64-lr0.1", 3, 1]])
    two = write(tmp_path / "b.csv", ["Step", "w64-lr0.2 - val_loss"], [[9, 3]])
    with pytest.raises(DeriveError, match="has no seed, which other files have"):
        read_runs([one, two], {**COLUMNS, "seed": "seed"}, PATTERN)


def test_what_was_left_out_is_said_in_both_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = runs_table(tmp_path / "a.csv", {(64, 0.016): ("crashed", 1.0)})
    for form in ("table", "json"):
        app(["fit", str(path), "--loss", "val_loss", "--format", form], standalone_mode=False)
        assert "left out: 1 of 15 runs that did not come to their end" in " ".join(capsys.readouterr().out.split())
