"""Sweeps that others ran: `verify fit` from their tables to answers, in every form in which they come."""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.errors import DeriveError
from verify.commands.main import app
from verify.studies.table.fit import fit
from verify.studies.table.runs import read_runs
from verify.studies.table.text import predictions
from verify.studies.transfer.analysis import analyse
from verify.sweeps.records import Conditions, Record, Setting, Study
from verify.sweeps.storage.export import export

COLUMNS = {"width": "width", "rate": "lr", "loss": "loss"}
Curve = Callable[[float, float], float]


def simulated(
    widths: tuple[int, ...],
    rates: np.ndarray,
    seeds: int,
    drift: float,
    noise: float,
    generator: np.random.Generator,
    skew: float = 0.0,
    curvature: float = 0.05,
) -> list[dict[str, float]]:
    """Rows of a table whose best rate is 0.01 at the first width and goes as n^drift."""
    rows = []
    for width in widths:
        best = np.log2(0.01) + drift * np.log2(width / widths[0])
        for seed in range(seeds):
            for rate in rates:
                x = np.log2(rate) - best
                loss = 3 + 5 / width**0.5 + curvature * x**2 + skew * x**3 + noise * generator.normal()
                rows.append({"width": width, "lr": float(rate), "loss": float(loss), "seed": seed})
    return rows


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


OCTAVES, HALVES = 0.01 * 2.0 ** np.arange(-5, 5), 0.01 * 2.0 ** np.arange(-3, 3, 0.5)
LINEAR = np.array([0.002, 0.004, 0.006, 0.008, 0.01, 0.012, 0.016, 0.02, 0.03, 0.04])
SHAPES = {
    "octaves, as in muP's first sweeps": ((128, 256, 512, 1024), OCTAVES, 3, 0.0),
    "octaves, one raw rate": ((64, 128, 256, 512, 1024), OCTAVES, 3, -0.5),
    "half octaves": ((256, 512, 1024), HALVES, 4, 0.0),
    "thirds of a decade": ((192, 384, 768, 1536), 10.0 ** np.arange(-4, 0, 1 / 3), 3, -0.25),
    "evenly spaced": ((128, 256, 512), LINEAR, 5, 0.0),
    "one seed": ((128, 256, 512, 1024, 2048), HALVES, 1, -0.1),
}


@pytest.mark.parametrize(
    ("shape", "count"),
    [("half octaves", 60), ("one seed", 60), *(pytest.param(shape, 500, marks=pytest.mark.slow) for shape in SHAPES)],
)
def test_best_rates_and_the_drifts_interval_of_a_known_optimum(shape: str, count: int, tmp_path: Path) -> None:
    """Public sweeps' grids with a known optimum: the mean over simulations is within 5 %, 95 % of intervals cover."""
    widths, rates, seeds, drift = SHAPES[shape]
    generator = np.random.default_rng(11)
    covered, logs, fitted = [], [], []
    for at in range(count):
        rows = simulated(widths, rates, seeds, drift, 0.004, generator)
        (found,) = fit(read_runs([write(tmp_path / f"{at % 2}.csv", rows)], {**COLUMNS, "seed": "seed"}))
        covered.append(found.result.drift.low <= drift <= found.result.drift.high)
        logs.append(np.log2(found.result.widths[0].best_rate / 0.01))
        fitted += [each.fitted for each in found.result.widths]
    assert abs(2 ** np.mean(logs) - 1) < 0.05
    assert np.mean(fitted) > 0.9
    slack = 0.03 if count == 500 else 0.09
    assert np.mean(covered) == pytest.approx(0.95, abs=slack)


def test_five_rates_with_the_best_second_are_fitted(tmp_path: Path) -> None:
    losses = (3.8500, 3.8339, 3.8341, 3.8486, 3.8615)
    rows = [{"width": 128, "lr": (i + 1) / 100, "loss": loss} for i, loss in enumerate(losses)]
    (found,) = fit(read_runs([write(tmp_path / "five.csv", rows)], COLUMNS))
    assert found.result.widths[0].fitted
    assert 0.024 <= found.result.widths[0].best_rate <= 0.025


def test_an_edge_and_a_coarse_grid_are_said_and_what_to_run_next(tmp_path: Path) -> None:
    rows = [
        {"width": 128, "lr": rate, "loss": 3 + (np.log2(rate) + 9) ** 2 / 9} for rate in (2**-8, 2**-7, 2**-6, 2**-5)
    ]
    rows += [{"width": 256, "lr": rate, "loss": 3 + abs(np.log2(rate) + 6)} for rate in (2**-9, 2**-6, 2**-3)]
    (found,) = fit(read_runs([write(tmp_path / "edge.csv", rows)], COLUMNS))
    low, coarse = found.result.widths
    assert (low.at_edge, coarse.at_edge, coarse.fitted) == (True, False, False)
    assert [(each.width, each.rate) for each in found.next] == [
        (128, 2**-9),
        (256, pytest.approx(2**-7.5)),
        (256, pytest.approx(2**-4.5)),
    ]


def test_a_drift_that_costs_does_not_transfer_and_noise_is_not_decided(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    answers = {}
    for name, drift, noise in (("costs", -0.5, 0.002), ("free", 0.0, 0.0005), ("noise", 0.0, 0.05)):
        rows = simulated((128, 256, 512, 1024), HALVES, 3, drift, noise, generator)
        (found,) = fit(read_runs([write(tmp_path / f"{name}.csv", rows)], {**COLUMNS, "seed": "seed"}))
        answers[name] = found.answer
    assert answers == {"costs": "does not transfer", "free": "transfers", "noise": "not decided"}


def test_diverged_runs_are_counted_however_they_are_written(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*simulated((64, 128), OCTAVES, 1, 0, 0, np.random.default_rng(0))]
    rows[8]["loss"], rows[9]["loss"], rows[19]["loss"] = "NaN", "", "inf"
    (found,) = fit(read_runs([write(tmp_path / "nan.csv", rows)], COLUMNS))
    assert [each.diverged for each in found.result.widths] == [2, 1]


def test_groups_are_fitted_apart_in_their_order(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    rows = [
        {**row, "scheme": scheme}
        for scheme, drift in (("sp", -0.5), ("mup", 0.0))
        for row in simulated((64, 128, 256), OCTAVES, 2, drift, 0.001, generator)
    ]
    found = fit(read_runs([write(tmp_path / "two.csv", rows)], {**COLUMNS, "seed": "seed", "group": "scheme"}))
    assert [each.group for each in found] == ["sp", "mup"]
    assert [each.result.drift.value for each in found] == [pytest.approx(-0.5, abs=0.05), pytest.approx(0, abs=0.05)]


def test_several_axes_have_one_law(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    rows = []
    for depth in (2, 4, 8):
        for batch in (16, 64):
            for row in simulated((64, 128), HALVES, 2, -0.5, 0.001, generator):
                moved = depth**-0.25 * (batch / 16) ** 0.5
                rows.append({**row, "lr": row["lr"] * moved, "layers": depth, "bs": batch})
    columns = {**COLUMNS, "seed": "seed", "depth": "layers", "batch": "bs"}
    found = fit(read_runs([write(tmp_path / "axes.csv", rows)], columns))
    assert len(found) == 6
    law = found[0].law
    assert law is not None and law.cells == 12
    for name, power in (("width", -0.5), ("depth", -0.25), ("batch", 0.5)):
        assert law.powers[name].low <= power <= law.powers[name].high
        assert law.powers[name].value == pytest.approx(power, abs=0.05)


def test_a_law_pairs_seeds_by_name_where_cells_lack_different_ones(tmp_path: Path) -> None:
    """Every seed has a power of its own: mixed up between cells, they would give another mean and a wide interval."""
    rows = []
    for depth in (2, 8):
        for width in (64, 256):
            for seed, power in ((0, -0.9), (1, -0.5), (2, -0.1)):
                if (depth, width, seed) == (8, 256, 0):
                    continue
                best = -7 + power * np.log2(width / 64)
                rows += [
                    {
                        "width": width,
                        "layers": depth,
                        "lr": rate,
                        "loss": 3 + 0.05 * (np.log2(rate) - best) ** 2,
                        "seed": seed,
                    }
                    for rate in HALVES / 2
                ]
    (found, _) = fit(read_runs([write(tmp_path / "law.csv", rows)], {**COLUMNS, "seed": "seed", "depth": "layers"}))
    assert found.law is not None
    assert found.law.powers["width"].value == pytest.approx(-0.3, abs=0.01)
    assert found.law.powers["depth"].value == pytest.approx(0, abs=0.01)


def test_forms_of_one_table_give_one_answer(tmp_path: Path) -> None:
    rows = simulated((64, 128), OCTAVES, 2, -0.5, 0.01, np.random.default_rng(4))
    plain = write(tmp_path / "a.csv", rows)
    tabbed = tmp_path / "a.tsv"
    tabbed.write_text(plain.read_text().replace(",", "\t"))
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = write(
        tmp_path / "named.csv",
        [{"Name": f"w{row['width']}-lr{row['lr']}-s{row['seed']}", "loss": row["loss"]} for row in rows],
    )
    chart = tmp_path / "chart.csv"
    names = [f"w{row['width']}-lr{row['lr']}-s{row['seed']}" for row in rows]
    chart.write_text(
        ",".join(["Step", *(f'"{name} - loss"' for name in names), *(f'"{name} - loss__MIN"' for name in names)])
        + "\n"
        + ",".join(["1", *["9"] * len(rows), *["9"] * len(rows)])
        + "\n"
        + ",".join(["2", *(str(row["loss"]) for row in rows), *["0"] * len(rows)])
        + "\n"
    )
    boards = []
    for name, row in zip(names, rows, strict=True):
        boards.append(tmp_path / f"{name}.csv")
        boards[-1].write_text(f"Wall time,Step,Value\n1,1,9\n2,2,{row['loss']}\n")
    pattern = "w{width}-lr{rate}-s{seed}"
    columns = {**COLUMNS, "seed": "seed"}
    drifts = [
        fit(read_runs(paths, columns, given))[0].result.drift.value
        for paths, given in (
            ([plain], None),
            ([tabbed], None),
            ([lines], None),
            ([named], pattern),
            ([chart], pattern),
            (boards, pattern),
        )
    ]
    assert drifts == [drifts[0]] * 6


def test_parquet_where_it_can_be_read(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = simulated((64, 128), OCTAVES, 1, -0.5, 0.01, np.random.default_rng(4))
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    given = [write(tmp_path / "a.csv", rows), tmp_path / "a.parquet"]
    one, other = (fit(read_runs([path], COLUMNS))[0].result.drift.value for path in given)
    assert one == other


def test_our_own_study_gives_the_drift_of_verify_transfer(tmp_path: Path) -> None:
    rows = simulated((64, 128, 256), OCTAVES, 3, -0.3, 0.01, np.random.default_rng(5))
    records = tuple(
        Record("adam SP global", int(row["width"]), row["lr"], int(row["seed"]), row["loss"]) for row in rows
    )
    conditions = Conditions("mlp", {"vocabulary": 256}, 64, 1, 1, 1, "text", "code")
    study = Study(conditions, {"adam SP global": Setting("adam", "SP", "global", ())}, {}, records)
    export(study, tmp_path)
    columns = {"width": "width", "rate": "base_rate", "loss": "loss", "seed": "seed", "group": "setting"}
    (found,) = fit(read_runs([tmp_path / "runs.csv"], columns))
    assert found.group == "adam SP global"
    assert found.result.drift == analyse(study)[0].drift


def test_what_derive_predicts_stands_beside_it() -> None:
    assert predictions("adam/sp/global")[0].endswith("best rate ~ n^-1")
    assert predictions("adam/sp/global")[1].endswith("best rate ~ n^(-1/2)")
    assert predictions("sgd/mup/full") == (
        "the base rate of this prescription: best rate ~ n^0",
        "a layer's own rate: embedding n^0, hidden n^0, readout n^0",
    )


BAD = {
    "no such column": ("width,lr,loss\n1,1,1\n", ("--rate", "learning_rate"), "unknown column --rate 'learning_rate'"),
    "text in numbers": ("width,lr,loss\n64,fast,1\n", (), "run 1: rate 'fast' is not a number"),
    "text in losses": ("width,lr,loss\n64,1,good\n", (), "loss 'good' is not a number; give one, or nothing"),
    "a rate of 0": ("width,lr,loss\n64,0,1\n", (), "rate '0' is not allowed; give a number above 0"),
    "no rows": ("width,lr,loss\n", (), "has no rows below its heading"),
    "ragged": ("width,lr,loss\n64,1\n", (), "row 2 has 2 entries, and the heading 3"),
    "one run twice": (
        "width,lr,loss,seed\n64,1,2,0\n64,1,2,0\n",
        ("--seed", "seed"),
        "run 2: two runs have one group, size, rate and seed",
    ),
    "a margin of 0": ("width,lr,loss\n64,1,2\n", ("--margin", "0"), "--margin 0.0 is not allowed"),
    "a pattern without fields": ("Name,loss\na,1\n", ("--names", "run"), "has no field, or one twice"),
    "an unknown field": ("Name,loss\na,1\n", ("--names", "{lr}"), "unknown field of --names 'lr'"),
    "a name that is not so": ("Name,loss\na,1\n", ("--names", "w{width}-{rate}"), "is not as --names says"),
    "no names": ("width,loss\n1,1\n", ("--names", "w{width}-{rate}"), "has no column Name"),
    "an unknown prediction": ("width,lr,loss\n64,1,2\n", ("--predict", "adam"), "write adam/sp/global"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_one_line(case: str, tmp_path: Path) -> None:
    text, arguments, message = BAD[case]
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(DeriveError) as caught:
        app(["fit", str(path), *arguments], standalone_mode=False)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "content"), [("a.csv", b"\xff\xfe\x00"), ("a.xlsx", b"x"), ("a.jsonl", b"[1]\n")])
def test_what_is_no_table_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeriveError, match=r"give|object"):
        read_runs([tmp_path / name], COLUMNS)


def test_one_width_has_no_drift_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = simulated((64,), OCTAVES, 2, 0, 0.001, np.random.default_rng(0))
    app(["fit", str(write(tmp_path / "one.csv", rows)), "--seed", "seed"], standalone_mode=False)
    out = capsys.readouterr().out
    assert "drift: best rate ~ width^(not known)" in out
    assert "not decided: using the best rate of 64 at 64 costs (not known) nats" in out


def test_json_and_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = simulated((64, 128, 256), OCTAVES, 2, -0.5, 0.001, np.random.default_rng(0))
    path, page = write(tmp_path / "one.csv", rows), tmp_path / "page"
    arguments = ["--seed", "seed", "--format", "json", "--predict", "adam/sp/global", "--report", str(page)]
    app(["fit", str(path), *arguments], standalone_mode=False)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["schema"], answer["command"], answer["rows"][0]["answer"]) == (1, "fit", "does not transfer")
    assert answer["rows"][0]["drift"] == pytest.approx(-0.5, abs=0.05)
    conditions = (page / "report.html").read_text().partition("<h2>Conditions</h2>")[2].partition("</table>")[0]
    assert re.findall("<th>(.*?)</th>", conditions) == ["table", "widths", "seeds", "runs"]
    assert "one.csv" in conditions
