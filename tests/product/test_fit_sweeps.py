"""`verify fit` on sweeps of a known optimum: public designs, what grids leave open, our own study, bad tables."""

import gzip
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fit_sweeps import DESIGNS, PAGE, Outcome, outcome, simulated, sweeps, table
from derive.errors import DeriveError
from derive.running import run
from tests.helpers.paths import ROOT
from verify.commands.main import app
from verify.studies.table.fit import fit
from verify.studies.table.runs import read_runs
from verify.studies.transfer.analysis import analyse
from verify.sweeps.storage.export import load

STUDY = ROOT / "paper_figures" / "data" / "transfer_mlp"
COLUMNS = {"width": "width", "rate": "lr", "loss": "loss"}
FITTED = [name for name, design in DESIGNS.items() if not design.coarse]
COARSE = [name for name, design in DESIGNS.items() if design.coarse]


def shown() -> dict[str, Outcome]:
    """The committed table."""
    text = (ROOT / "benchmarks" / "fit_sweeps.md").read_text(encoding="utf-8")
    assert text.startswith(PAGE.partition("\n")[0])
    found = re.findall(r"^\| ([^|]+) \|.* \| (\d+)% \| ([+-][\d.]+)% \| ([\d.]+)% \|$", text, re.MULTILINE)
    return {name: Outcome(int(f) / 100, float(c) / 100, float(off) / 100) for name, f, off, c in found}


def good(name: str, found: Outcome, slack: float) -> bool:
    """Within 5 % and covered by 95 %; a coarse grid is not fitted, lies within half a step, and is covered as often."""
    if name in COARSE:
        return found.fitted < 0.05 and abs(np.log2(1 + found.off)) <= 1 and found.covered >= 0.95
    return found.fitted > 0.9 and abs(found.off) < 0.05 and abs(found.covered - 0.95) <= slack


def test_the_committed_table_shows_every_design_as_good() -> None:
    found = shown()
    assert [*found] == [*DESIGNS]
    assert [name for name, each in found.items() if not good(name, each, 0.03)] == []


@pytest.mark.slow
def test_the_committed_table_is_what_its_command_writes() -> None:
    """To a tenth of a percent, which another processor's rounding may move."""
    rows = [row.split(" | ") for row in table(500).splitlines()[2:]]
    for row, each in zip(rows, shown().values(), strict=True):
        fitted, off, covered = (float(cell.strip(" |%")) / 100 for cell in row[-3:])
        assert (fitted, off, covered) == pytest.approx((each.fitted, each.off, each.covered), abs=0.0101)


@pytest.mark.parametrize("name", ["transformer, one seed", "transformer, five rates"])
def test_some_sweeps_of_a_design_are_as_the_table_says(name: str) -> None:
    found = outcome(DESIGNS[name], 40)
    assert good(name, found, 0.09)


def test_a_coarse_grid_is_no_drift_known_without_doubt() -> None:
    """Four times apart, the best of all widths is one rate of the grid: its interval is half a step's, and not 0."""
    (found,) = sweeps(replace(DESIGNS["transformer, five rates"], noise=0.0), 1)
    assert found.result.drift.value == 0 and found.result.drift.high - found.result.drift.low < 1e-6
    assert (found.drift.low, found.drift.high) == (pytest.approx(-0.5), pytest.approx(0.5))
    assert found.answer == "not decided"


def test_a_true_drift_that_the_grid_hides_is_in_the_interval() -> None:
    """Half an octave over the widths moves no rate of the grid; with seeds the interval alone would be one point."""
    design = replace(DESIGNS["nanoGPT, depth"], drift=0.04, best=-7.1, noise=0.0)
    (found,) = sweeps(design, 1)
    assert found.result.drift.high == pytest.approx(0.0, abs=1e-6)
    assert found.drift.low < 0.04 < found.drift.high
    assert found.answer == "not decided"


def test_beyond_an_edge_there_is_no_end() -> None:
    """The best rate of the largest width is the lowest tried: the drift may be as negative as one likes."""
    design = replace(DESIGNS["transformer, five rates"], rates=tuple(range(-8, 2)), drift=-0.6, noise=0.0)
    (found,) = sweeps(design, 1)
    assert found.result.widths[-1].at_edge
    assert found.drift.low == -np.inf and np.isfinite(found.drift.high)


def test_a_law_of_several_axes_has_what_the_grid_leaves_open() -> None:
    """Cells on a grid two octaves apart; on a fine one no power is widened by it."""
    laws = {}
    for name, rates in (("coarse", tuple(range(-13, -2, 2))), ("fine", tuple(range(-13, -2)))):
        parts = []
        for depth in (2, 8):
            design = replace(DESIGNS["nanoGPT, characters"], rates=rates, best=-7.2, skew=0.0, noise=0.0005)
            runs = simulated(design, np.random.default_rng(depth))
            parts.append(replace(runs, axes={**runs.axes, "depth": np.full(len(runs.rates), float(depth))}))
        joined = replace(
            parts[0],
            axes={axis: np.concatenate([each.axes[axis] for each in parts]) for axis in ("width", "depth")},
            **{
                field: np.concatenate([getattr(each, field) for each in parts])
                for field in ("groups", "rates", "losses", "seeds")
            },
        )
        law = fit(joined)[0].law
        assert law is not None
        laws[name] = law.powers
    # sum |x| / sum x^2 over 8 cells at an octave of room: x = 1.5, 0.5, -0.5, -1.5 twice, and 1, -1 four times
    for axis, reach in (("width", 8 / 10), ("depth", 8 / 8)):
        assert laws["coarse"][axis].high - laws["coarse"][axis].low == pytest.approx(2 * reach, abs=0.01)
    assert all(each.high - each.low < 0.02 for each in laws["fine"].values())


def test_our_own_stored_study_has_the_drifts_of_verify_transfer() -> None:
    """transfer_mlp as it is committed, 20 settings that were trained, packed by gzip."""
    study = load(STUDY)
    theirs = dict(zip(study.settings, analyse(study), strict=True))
    columns = {"width": "width", "rate": "base_rate", "loss": "loss", "seed": "seed", "group": "setting"}
    ours = fit(read_runs([STUDY / "runs.csv.gz"], columns))
    assert len(ours) == 20
    for each in ours:
        own = theirs[each.group].drift
        assert (each.drift.value, each.drift.low, each.drift.high) == (own.value, own.low, own.high)
        assert [found.best_rate for found in each.result.widths] == [
            found.best_rate for found in theirs[each.group].widths
        ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv.gz", b"width,lr,loss\n", "is not packed by gzip"),
        ("a.csv.gz", gzip.compress(b"width,lr,loss\n64,1,2\n" * 99, mtime=0)[:30], "is not packed by gzip, or cut"),
        ("a.parquet.gz", gzip.compress(b"x", mtime=0), "is of no known kind"),
        ("a.csv", b"", "has no rows below its heading"),
        ("a.csv", b"width,loss\n64,1\n", "unknown column --rate 'lr'; allowed: width, loss"),
        ("a.csv", b"lr,loss\n1,1\n", "unknown column --width 'width'; allowed: lr, loss"),
        ("a.csv", b"width,lr,loss\nwide,1,1\n", "width 'wide' is not a number"),
        ("a.csv", b"width,lr,loss\n64,-1,1\n", "rate '-1' is not allowed"),
        ("a.csv", b"width,lr,loss\ninf,1,1\n", "width 'inf' is not allowed"),
        ("a.csv", b"width,lr,loss\n64,nan,1\n", "rate 'nan' is not allowed"),
    ],
)
def test_a_bad_table_is_one_line_with_code_2(
    name: str, content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    code = run(lambda: app(["fit", str(tmp_path / name)], standalone_mode=False), "verify")
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("64,0.1,2", "64,0.2,1", "64,0.4,2"), "(not known)"),
        (("64,0.1,2", "128,0.1,2", "256,0.1,2"), "width^+0.000"),
        (("64,0.1,nan", "128,0.1,inf"), "every run diverged"),
    ],
    ids=["one width", "equal rates", "all diverged"],
)
def test_what_cannot_be_told_is_said(
    rows: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One width, one rate for all, nothing that trained: an answer without a number that was not measured."""
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["width,lr,loss", *rows]))
    app(["fit", str(path)], standalone_mode=False)
    out = capsys.readouterr().out
    assert said in out and "\ntransfers" not in out


def test_one_rate_for_all_widths_leaves_the_drift_open(tmp_path: Path) -> None:
    """Its interval has no ends: the best rates may lie anywhere beyond."""
    path = tmp_path / "a.csv"
    path.write_text("width,lr,loss\n64,0.1,2\n128,0.1,2\n256,0.1,2\n")
    (found,) = fit(read_runs([path], COLUMNS))
    assert (found.drift.low, found.drift.high) == (-np.inf, np.inf)


@pytest.mark.slow
def test_a_million_rows_take_less_than_five_seconds(tmp_path: Path) -> None:
    """Of a processor's time, which others on the machine do not lengthen."""
    generator = np.random.default_rng(0)
    rates, seeds = 2.0 ** np.arange(-12, -2, 0.1), range(2500)
    lines = ["width,lr,loss,seed"]
    for width in (64, 128, 256, 512):
        for rate in rates:
            loss = 3 + 0.05 * (np.log2(rate) + 7) ** 2
            noise = generator.normal(0, 0.01, len(seeds)) + loss
            lines += [f"{width},{rate:.6g},{each:.5f},{seed}" for seed, each in zip(seeds, noise, strict=True)]
    path = tmp_path / "million.csv"
    path.write_text("\n".join(lines))
    start = time.process_time()
    (found,) = fit(read_runs([path], {**COLUMNS, "seed": "seed"}))
    taken = time.process_time() - start
    assert abs(found.drift.value) < 0.01
    assert taken < 5


def test_a_column_that_is_missing_is_named_before_anything_is_read_as_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("width,lr,loss\nx,y,z\n")
    with pytest.raises(DeriveError, match="unknown column --seed 'seed'"):
        read_runs([tmp_path / "a.csv"], {**COLUMNS, "seed": "seed"})


def test_an_axis_of_one_size_leaves_the_others_their_powers_and_a_law_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["width,layers,tokens,lr,loss"]
    for width in (64, 128, 256):
        for depth in (2, 8):
            best = -7 - 0.5 * np.log2(width / 64) + 0.25 * np.log2(depth / 2)
            lines += [f"{width},{depth},1000,{2.0**x},{3 + 0.05 * (x - best) ** 2}" for x in range(-12, -2)]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines))
    app(["fit", str(path), "--width", "width", "--depth", "layers", "--tokens", "tokens"], standalone_mode=False)
    out = capsys.readouterr().out
    said = re.findall(r"all axes together, 6 cells: best rate ~ (.*)", out)
    assert len(said) == 1 and len(re.findall("^drift", out, re.MULTILINE)) == 2
    assert said[0].startswith("width^-0.500") and "depth^+0.250" in said[0] and said[0].endswith("tokens^(not known)")
