"""Figures 1, 5, 6 and 7 against the stored sizes, read here by csv and json alone."""

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.solve import prescribe
from paper_figures import figure_7_coordinate_check
from paper_figures.items import Item
from paper_figures.paths import DATA, MissingResultError
from tests.helpers.built import build
from tests.verify.studies.test_epsilon import RATES, made_up_study
from verify.studies.epsilon.results import read_result, write_study
from verify.studies.exponents.measured import read_measured
from verify.sweeps.storage.database import StoreError

WIDTHS = np.array([64, 128, 256, 512, 1024])
KINDS = {"embedding": "embedding", "hidden.0": "hidden", "readout": "readout"}
GRADIENTS = {"SP": (0.5, 0.5, 0.0), "NTK": (0.5, 1.0, 0.5)}
HALVES = (2e-4, 8e-3, 2e-3)


@pytest.fixture(scope="module")
def items() -> dict[str, Item]:
    return {name: build(name) for name in ("figure_1_alignments", "figure_7_coordinate_check")}


def stored(study: str, step: int, layer: str, quantity: str) -> Any:
    """[width, seed], straight from the table."""
    text = gzip.decompress((DATA / study / "sizes.csv.gz").read_bytes()).decode()
    found = {
        (int(line["width"]), int(line["seed"])): float(line["value"])
        for line in csv.DictReader(text.splitlines())
        if (line["step"], line["layer"], line["quantity"]) == (str(step), layer, quantity)
    }
    return np.array([[found[width, seed] for seed in range(3)] for width in WIDTHS])


def power(sizes: Any) -> float:
    """The mean over seeds of the slope that numpy fits."""
    return float(np.mean([np.polyfit(np.log(WIDTHS), np.log(column), 1)[0] for column in sizes.T]))


def lines(axis: Any) -> Iterator[Any]:
    """y of every curve, without reference lines."""
    return (line.get_ydata() for line in axis.lines if len(line.get_xdata()) > 2)


def drawn(axis: Any, wanted: Any) -> bool:
    return any(np.shape(y) == np.shape(wanted) and np.allclose(y, wanted, rtol=1e-5) for y in lines(axis))


def panels(figure: Any, columns: int) -> Any:
    return np.array(figure.axes).reshape(-1, columns)


def test_alpha_of_figure_1_is_that_of_the_stored_sizes(items: dict[str, Item]) -> None:
    (figure,) = items["figure_1_alignments"].figures.values()
    alpha = panels(figure, 6)[0, 2]  # Adam, muP, hidden
    assert alpha.get_title() == "Adam, muP\nhidden"
    steps = [1, 2, 5, 10, 20, 50, 100]
    ratio = np.array(
        [
            stored("alignments_adam_mup", step, "hidden.1", "term_alpha")
            / stored("alignments_adam_mup", step, "hidden.1", "delta_w")
            / stored("alignments_adam_mup", step, "hidden.1", "input")
            for step in steps
        ]
    )
    for place, width in enumerate(WIDTHS):
        assert drawn(alpha, np.log(ratio[:, place]).mean(axis=1) / np.log(width))
    assert drawn(alpha, [power(each) for each in ratio])


def test_the_total_of_figure_1_by_hand(items: dict[str, Item]) -> None:
    def size(quantity: str) -> Any:
        return stored("alignments_sgd_mup", 100, "readout", quantity)

    update, weight, z, shift = (size(each) for each in ("delta_w", "weight", "input", "delta_input"))
    bound = ((update * z) ** 2 + (weight * shift) ** 2 + (update * shift) ** 2) ** 0.5
    (table,) = items["figure_1_alignments"].tables.values()
    (row,) = (row for row in table.rows if row[:3] == ["SGD, muP", "readout", "100"])
    assert str(row[-1]).startswith(f"{power(size('delta_output') / bound):.2f} ± ")
    omega = size("term_omega") / (weight * shift)
    assert str(row[4]).startswith(f"{power(omega):.2f} ± ")


def test_figure_1_says_what_was_found(items: dict[str, Item]) -> None:
    found = items["figure_1_alignments"]
    assert "as a slope across widths, free of constants, it is 0.97 to 1.05" in found.measured
    assert found.verdict == "held in part"


def test_figure_7_draws_the_stored_changes_and_the_predicted_powers(items: dict[str, Item]) -> None:
    found = items["figure_7_coordinate_check"]
    (figure,) = found.figures.values()
    grid = panels(figure, 4)
    for row, study in enumerate(figure_7_coordinate_check.STUDIES):
        for column, follower in ((1, "hidden.1"), (2, "readout")):
            for step in (1, 2, 5, 10):
                sizes = stored(study, step, follower, "delta_input")
                assert drawn(grid[row, column], np.exp(np.log(sizes).mean(axis=1)))
    # One rate, SP: W_2 moves as 1, its product with z as n; its own change again meets the next layer's, so n^2, n^3.
    for column, exponent in enumerate((0, 1, 2, 3)):
        start = next(lines(grid[0, column]))[0]
        assert drawn(grid[0, column], start * (WIDTHS / 64.0) ** exponent)
        assert f"predicted $n^{{{exponent}}}$" in grid[0, column].texts[0].get_text()
    # muP's logits have the multiplier n^-1/2.
    logits = stored("alignments_adam_mup", 10, "readout", "delta_output") * (WIDTHS[:, None] / 64.0) ** -0.5
    assert drawn(grid[3, 3], np.exp(np.log(logits).mean(axis=1)))
    assert found.verdict == "held"


def test_r_of_figure_7_is_the_slope_of_the_stored_changes(items: dict[str, Item]) -> None:
    (table,) = items["figure_7_coordinate_check"].tables.values()
    rows = {(row[0], row[1], row[2]): row for row in table.rows}
    for study, name in (("alignments_adam_sp_global", "SP, one rate"), ("alignments_adam_mup", "muP, per-layer rates")):
        for step in (1, 10):
            r_hat = -power(stored(study, step, "readout", "delta_input"))
            assert float(str(rows[name, "hidden.1", str(step)][5])) == pytest.approx(r_hat, abs=0.006)


def powers(size: float, exponent: float) -> list[list[float]]:
    """A power of the width on three seeds that differ by known factors."""
    return [[size * (width / 64) ** -exponent * factor for factor in (0.8, 1.0, 1.25)] for width in WIDTHS]


def write_epsilon(data: Path, hidden: float = GRADIENTS["NTK"][1]) -> Path:
    """What `verify epsilon` leaves, by hand: gradients n^-g, NTK's hidden layer's n^-hidden; the same in bfloat16."""
    folder = data / "epsilon" / "float32"
    folder.mkdir(parents=True)
    (data / "epsilon_bfloat16").mkdir()
    (data / "epsilon_bfloat16" / "bfloat16").symlink_to(folder)
    study = made_up_study()
    sizes = {**study.conditions.sizes, "hidden_layers": 1}
    write_study(replace(study, conditions=replace(study.conditions, sizes=sizes)), folder)
    (folder / "epsilon.json").write_text(json.dumps({"studies": [{"base_rates": RATES}]}))
    for scheme, exponents in (("SP", GRADIENTS["SP"]), ("NTK", (0.5, hidden, 0.5))):
        every = ("delta", "input", "weight", "delta_w", "back", "back_initial", "back_change")
        table = {
            layer: {**dict.fromkeys(every, powers(1, 0)), "gradient": powers(size, g)}
            for layer, g, size in zip(KINDS, exponents, HALVES, strict=True)
        }
        sizes = {
            layer: {"rms": powers(2 * size, g), "half": powers(size, g), "share": powers(0.5, 0)}
            for layer, g, size in zip(KINDS, exponents, HALVES, strict=True)
        }
        content = {
            "made_with": [scheme, {}, 0.01, WIDTHS.tolist(), [0, 1, 2]],
            "kinds": KINDS,
            "gradients": {"0": table, "100": table},
            "sizes": {"1": sizes, "100": sizes},
        }
        (folder / f"gradients_{scheme.lower()}.json").write_text(json.dumps(content))
    return folder


def test_figure_5_draws_gradients_and_their_powers(tmp_path: Path) -> None:
    write_epsilon(tmp_path)
    found = build("figure_5_gradients", tmp_path)
    (figure,) = found.figures.values()
    for axis, exponents, size in zip(figure.axes, zip(*GRADIENTS.values(), strict=True), HALVES, strict=False):
        labels = sorted(text.get_text() for text in axis.texts)
        for scheme, g, label in zip(("NTK", "SP"), exponents[::-1], labels, strict=True):
            curves = [y for y in lines(axis) if np.allclose(y, size * (WIDTHS / 64) ** -g)]
            assert len(curves) == 2 * exponents.count(g), "measured and predicted"
            assert label == f"{scheme}  g = {str(g).replace('0.5', '1/2').replace('.0', '')}, is {g:.2f}"
    assert found.verdict == "held" and "all 6 slopes are within 0.00 of -g" in found.measured
    write_epsilon(tmp_path / "other", hidden=0.8)
    other = build("figure_5_gradients", tmp_path / "other")
    assert other.verdict == "held in part" and "within 0.20 of -g" in other.measured


def test_figure_6_shows_what_is_left_of_updates_and_where_they_halve(tmp_path: Path) -> None:
    write_epsilon(tmp_path)
    found = build("figure_6_epsilon", tmp_path)
    grid = panels(found.figures["figure_6_epsilon_updates"], 3)
    for axes, exponents in zip(grid, GRADIENTS.values(), strict=True):
        for axis, g, half in zip(axes, exponents, HALVES, strict=True):
            ratio = WIDTHS / 64
            for epsilon in (1e-3, 1e-4):
                assert drawn(axis, 1 / (1 + epsilon * ratio**g / half)), "constant"
                assert drawn(axis, np.full(5, 1 / (1 + epsilon / half))), "per layer"
    marks = [line.get_xdata()[0] for line in grid[1, 2].lines if line.get_marker() == "^"]
    assert marks == [pytest.approx(64 * (2e-3 / 1e-3) ** 2)], "1e-4 halves at 25600, beyond the widths"
    (table,) = found.tables.values()
    rows = {(row[0], row[1], row[3]): row[-2:] for row in table.rows}
    assert rows["NTK", "readout", "0.001"] == ["260", "260"] and rows["SP", "readout", "0.001"] == [
        "never",
        "above 1024",
    ]
    assert rows["NTK", "hidden.0", "0.001"] == ["510", "510"] and rows["SP", "embedding", "0.0001"] == ["260", "260"]
    # Of the made-up losses, 0.1 nats per octave beyond 200 for 1e-3, beyond 2000 for 1e-4.
    assert found.measured.startswith("2 of 4 constant epsilons cost loss by width 1024, at most 0.24 nats (SP, 0.001)")
    assert found.verdict == "held in part" and len(found.figures["figure_6_epsilon_loss"].axes) == 6, (
        "one claim a panel"
    )
    assert "In bfloat16 2 of 4 constant ones" in found.measured and len(found.figures) == 3


def test_a_folder_of_epsilon_without_a_file_is_refused(tmp_path: Path) -> None:
    folder = write_epsilon(tmp_path)
    kept = (folder / "gradients_ntk.json").read_text()
    (folder / "gradients_ntk.json").write_text("[]")
    with pytest.raises(StoreError, match=r"gradients_ntk\.json.* not gradients"):
        read_result(folder)
    (folder / "gradients_ntk.json").write_text(kept)
    (folder / "epsilon.json").write_text("{}")
    with pytest.raises(StoreError, match=r"epsilon\.json.* not a result"):
        read_result(folder)


def test_both_forms_of_sizes_are_read_and_a_folder_with_neither_is_refused(tmp_path: Path) -> None:
    study = DATA / "alignments_adam_sp"
    (tmp_path / "measured.json").write_bytes((study / "measured.json").read_bytes())
    with pytest.raises(StoreError, match=r"sizes\.csv or sizes\.csv\.gz"):
        read_measured(tmp_path)
    (tmp_path / "sizes.csv").write_bytes(gzip.decompress((study / "sizes.csv.gz").read_bytes()))
    plain, packed = read_measured(tmp_path), read_measured(study)
    assert np.array_equal(plain.tables[5]["readout"]["term_u"], packed.tables[5]["readout"]["term_u"])
    assert np.array_equal(plain.tables[5]["readout"]["term_u"], stored("alignments_adam_sp", 5, "readout", "term_u"))
    (tmp_path / "sizes.csv").write_text("step,layer\n1,readout\n")
    with pytest.raises(StoreError, match="cannot be read"):
        read_measured(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("figure_1_alignments", "verify exponents --optimizer adam --parameterization sp --alignment full"),
        ("figure_5_gradients", "verify epsilon --dtype float32"),
        ("figure_6_epsilon", "verify epsilon --dtype float32"),
        ("figure_7_coordinate_check", "verify exponents --optimizer adam --parameterization sp --alignment global"),
    ],
)
def test_a_missing_study_is_named_with_its_command(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(MissingResultError, match=said):
        build(name, tmp_path)


@pytest.mark.slow
def test_figures_need_no_jax() -> None:
    modules = ", ".join(f"paper_figures.{name}" for name in ("figure_1_alignments", "figure_5_gradients"))
    modules += ", paper_figures.figure_6_epsilon, paper_figures.figure_7_coordinate_check"
    code = f"import sys, {modules}\nassert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_committed_gradients_have_the_derived_slopes_and_are_drawn() -> None:
    (figure,) = build("figure_5_gradients").figures.values()
    for scheme in ("sp", "ntk", "mup", "mfp"):
        content = json.loads((DATA / "epsilon" / "float32" / f"gradients_{scheme}.json").read_text())
        expected = {layer.kind: float(layer.g) for layer in prescribe("adam", scheme).layers}
        for axis, (layer, sizes) in zip(figure.axes, content["gradients"]["0"].items(), strict=False):
            gradient = np.array(sizes["gradient"])
            assert power(gradient) == pytest.approx(-expected[content["kinds"][layer]], abs=0.05)
            assert drawn(axis, np.exp(np.log(gradient).mean(axis=1)))
