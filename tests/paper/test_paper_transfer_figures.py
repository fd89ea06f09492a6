"""Figures 2, 3, 4 and 8 show the committed runs: lines and numbers against runs.csv.gz, read by csv and fitted here."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paper_figures.items import Item
from paper_figures.paths import DATA, MissingResultError
from tests.helpers.built import build

NAMES = ("figure_2_loss_by_rate", "figure_3_loss_by_width", "figure_4_rate_by_width", "figure_8_equivalence")
WIDTHS = (64, 128, 256, 512)
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "adafactor": "Adafactor"}
T_OF_4 = 2.7764451051977987  # Student's 97.5 % quantile, four degrees of freedom: five seeds

Row = dict[str, str]
Table = tuple[Any, Any]
"""Rates, growing, and losses [rates, seeds], inf where a run diverged."""


def rows(study: str) -> list[Row]:
    with gzip.open(DATA / study / "runs.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def items() -> dict[str, Item]:
    return {name: build(name) for name in NAMES}


@pytest.fixture(scope="module")
def tables() -> dict[tuple[str, int], Table]:
    """By the name of any setting, also one that shares the runs of another, and width."""
    by_rate: dict[tuple[str, int], dict[float, dict[int, float]]] = {}
    for row in rows("transfer_mlp"):
        losses = by_rate.setdefault((row["setting"], int(row["width"])), {}).setdefault(float(row["base_rate"]), {})
        losses[int(row["seed"])] = np.inf if row["diverged"] else float(row["loss"])
    found = {
        key: (np.array(sorted(rates)), np.array([[rates[rate][seed] for seed in range(5)] for rate in sorted(rates)]))
        for key, rates in by_rate.items()
    }
    content = json.loads((DATA / "transfer_mlp" / "study.json").read_text())
    for name, source in content["trained_as"].items():
        found |= {(name, width): found[source, width] for width in WIDTHS}
    return found


def lowest(table: Table) -> int:
    """The row of the lowest mean loss among those in which the fewest seeds diverged."""
    failures = np.isinf(table[1]).sum(axis=1)
    means = [row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.inf for row in table[1]]
    return int(np.lexsort((means, failures))[0])


def fitted(table: Table) -> tuple[Any, Any]:
    """Best rate of every seed, and its loss at their geometric mean: parabolas by numpy, else the grid's points.

    Points count as w = (1 + (rise / 2 depth)^2)^-2; numpy squares its weights, hence the root.
    """
    x, losses, best = np.log2(table[0]), table[1], lowest(table)
    near = [best]
    for step in (-1, 1):
        place = best + step
        while 0 <= place < len(x) and np.isfinite(losses[place]).all():
            far = abs(x[place] - x[best]) > (1 if abs(place - best) > 2 else 2) + 1e-9
            if far:
                break
            near.append(place)
            place += step
    near.sort()
    means = losses.mean(axis=1)
    below, above = best - near[0], near[-1] - best
    logs, polynomials = [], []
    for seed in range(losses.shape[1]):
        logs.append(x[np.argmin(losses[:, seed])])
        if below < 2 or above < 1:
            continue
        rises = means[near] - means[best]
        weights = 1 / (1 + (rises / rises[0] / 2) ** 2)
        curvature, tilt, _ = polynomial = np.polyfit(x[near], losses[near, seed], 2, w=weights)
        vertex = -tilt / curvature / 2
        if curvature > 0 and x[near[0]] <= vertex <= x[near[-1]]:
            logs[-1] = vertex
            polynomials.append(polynomial)
    if len(polynomials) < losses.shape[1]:
        return 2 ** np.array(logs), losses[best]
    return 2 ** np.array(logs), np.array([np.polyval(each, np.mean(logs)) for each in polynomials])


def drift(setting: str, tables: dict[tuple[str, int], Table]) -> Any:
    rates = np.array([fitted(tables[setting, width])[0] for width in WIDTHS])
    return np.polyfit(np.log(WIDTHS), np.log(rates), 1)[0]


def points(line: Any) -> Any:
    return np.array([line.get_xdata(), line.get_ydata()], dtype=float)


def settings(title: str) -> list[str]:
    """Those that a panel shows: SP full = NTK full, SP prior = NTK global/prior."""
    found = []
    for part in title.split("drift")[0].replace("\n", " ").split(" = "):
        scheme, assumed = part.split()
        found += [f"{scheme} {each}" for each in assumed.split("/")]
    return found


def panel(title: str) -> str:
    return title.split("\n")[0].split(" (=")[0]


# Figure 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_curves_are_the_means_of_the_runs_and_minima_are_marked(
    optimizer: str, items: dict[str, Item], tables: dict[tuple[str, int], Table]
) -> None:
    figure = items["figure_2_loss_by_rate"].figures[f"figure_2_{optimizer}"]
    axes: dict[str, Any] = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    shown = {title: settings(title) for title in axes}
    every = [f"{p} {a}" for p in ("SP", "NTK", "muP", "MFP") for a in ("global", "full", "none", "prior")]
    assert sorted(name for names in shown.values() for name in names) == sorted(every), "each once, with its equals"
    for title, axis in axes.items():
        name = shown[title][0]
        drawn = [points(line) for line in axis.lines]
        minima = []
        for width in WIDTHS:
            rates, losses = table = tables[f"{optimizer} {name}", width]
            finite = np.where(np.isinf(losses).any(axis=1), np.nan, losses.mean(axis=1))
            assert any(
                np.allclose(each, [rates, finite], equal_nan=True) for each in drawn if each.shape[1] == len(rates)
            )
            each, last = fitted(table)
            minima.append((np.exp(np.log(each).mean()), last.mean()))
            assert any(np.allclose(each[:, 0], minima[-1]) for each in drawn if each.shape == (2, 1))
        assert any(np.allclose(each, np.transpose(minima)) for each in drawn if each.shape == (2, len(WIDTHS)))


def test_the_octaves_by_which_minima_move_are_those_of_the_runs(
    items: dict[str, Item], tables: dict[tuple[str, int], Table]
) -> None:
    for optimizer, title in OPTIMIZERS.items():
        said = items["figure_2_loss_by_rate"].measured.split(f"{title} ")[1].split(";")[0].rstrip(".").split(", ")
        assert len(said) == 4
        for each in said:
            name, _, moved = each.rpartition(" ")
            ends = [tables[f"{optimizer} {name}", width] for width in (WIDTHS[-1], WIDTHS[0])]
            last, first = (rates[losses.mean(axis=1).argmin()] for rates, losses in ends)
            assert float(moved) == round(np.log2(last / first), 1)


# Figure 3


def test_differences_from_sp_are_paired_over_seeds(
    items: dict[str, Item], tables: dict[tuple[str, int], Table]
) -> None:
    item = items["figure_3_loss_by_width"]
    for optimizer, title in OPTIMIZERS.items():
        ours, others = (fitted(tables[f"{optimizer} {name} full", 512])[1] for name in ("SP", "muP"))
        apart = others - ours
        half = T_OF_4 * apart.std(ddof=1) / 5**0.5
        said = item.measured.split(f"{title} ")[1].split("]")[0].replace("[", "").replace(",", "").split()
        assert np.allclose([float(each) for each in said], apart.mean() + half * np.array([0, -1, 1]), atol=6e-4)


def test_the_lines_of_figure_3_are_the_lowest_losses(
    items: dict[str, Item], tables: dict[tuple[str, int], Table]
) -> None:
    axes = items["figure_3_loss_by_width"].figures["figure_3_loss_by_width"].axes
    for optimizer, left, right in zip(OPTIMIZERS, axes[::2], axes[1::2], strict=True):
        best = {
            name: np.array([fitted(tables[f"{optimizer} {name}", width])[1].mean() for width in WIDTHS])
            for name in {key[0].removeprefix(f"{optimizer} ") for key in tables if key[0].startswith(f"{optimizer} ")}
        }
        for axis, reference in ((left, 0.0), (right, best["SP full"])):
            labels = {text.get_text() for text in axis.texts}
            assert "SP full = NTK full" in labels
            assert len(axis.containers) == len(labels)
            names = {name for name in best if any(name in members(label) for label in labels)}
            assert names == ({name for name in best if axis is right or name.endswith("full")})
            for label in labels:
                expected = best[members(label)[0]] - reference
                assert any(np.allclose(each[0].get_ydata(), expected, atol=1e-9) for each in axis.containers)


def members(label: str) -> list[str]:
    """ "SP none = NTK global/none" -> SP none, NTK global, NTK none."""
    parts = [part.split(" ", 1) for part in label.split(" = ")]
    return [f"{scheme} {each}" for scheme, variants in parts for each in variants.split("/")]


# Figure 4


def test_drifts_are_those_of_the_runs_and_the_lines_have_them(
    items: dict[str, Item], tables: dict[tuple[str, int], Table]
) -> None:
    item = items["figure_4_rate_by_width"]
    table = item.tables["figure_4_drifts"]
    keys = {title: name for name, title in OPTIMIZERS.items()}
    for title, label, said, *_ in table.rows:
        slopes = drift(f"{keys[str(title)]} {members(str(label))[0]}", tables)
        half = T_OF_4 * slopes.std(ddof=1) / 5**0.5
        numbers = [float(each) for each in str(said).replace("[", "").replace("]", "").replace(",", "").split()]
        assert np.allclose(numbers, slopes.mean() + half * np.array([0, -1, 1]), atol=6e-3)
    assert len(table.rows) == len({tables[key][1].tobytes() for key in tables if key[1] == 512})
    for place, axis in enumerate(item.figures["figure_4_rate_by_width"].axes):
        alignment, optimizer = ("full", "none", "prior", "global")[place // 3], list(OPTIMIZERS)[place % 3]
        lines = [points(line) for line in axis.lines if line.get_linestyle() != "None"]
        lines = [line for line in lines if line.shape == (2, len(WIDTHS))]
        for scheme in ("SP", "NTK", "muP", "MFP"):
            name = f"{optimizer} {scheme} {alignment}"
            middle = np.log([fitted(tables[name, width])[0] for width in WIDTHS]).mean()
            slope = drift(name, tables).mean()
            law = np.exp(middle + slope * (np.log(WIDTHS) - np.log(WIDTHS).mean()))
            assert any(np.allclose(line, [WIDTHS, law]) for line in lines)


# Figure 8


@pytest.fixture(scope="module")
def twins() -> list[tuple[str, int, Row, Row]]:
    """(optimizer, ratio, run, run of its equal) of the study of equivalence, as text."""
    found = {(row["setting"], row["width"], row["base_rate"], row["seed"]): row for row in rows("equivalence")}
    pairs = []
    for (setting, *place), row in found.items():
        for one, other in ((" SP ", " NTK "), (" muP ", " MFP ")):
            if one in setting and (setting.replace(one, other), *place) in found:
                twin = found[setting.replace(one, other), place[0], place[1], place[2]]
                pairs.append((setting.split()[0], int(place[0]) // 16, row, twin))
    return pairs


def losses(row: Row) -> Any:
    return np.array([float(each.split(":")[1]) for each in row["curve"].split()])


def test_both_of_a_pair_were_trained_with_multipliers_of_their_own() -> None:
    content = json.loads((DATA / "equivalence" / "study.json").read_text())
    assert content["trained_as"] == {}
    multipliers = {each["parameterization"]: [layer["a"] for layer in each["layers"]] for each in content["settings"]}
    assert len(content["settings"]) == 8
    assert len({tuple(each) for each in multipliers.values()}) == 4


def test_ratios_that_are_powers_of_4_are_equal_bit_for_bit_and_no_others(
    twins: list[tuple[str, int, Row, Row]], items: dict[str, Item]
) -> None:
    equal = {
        ratio: [a["curve"] == b["curve"] and a["loss"] == b["loss"] for _, r, a, b in twins if r == ratio]
        for ratio in (1, 2, 4, 8, 16)
    }
    assert all(all(equal[ratio]) for ratio in (1, 4, 16))
    assert not any(any(equal[ratio]) for ratio in (2, 8))
    exact = sum(len(equal[ratio]) for ratio in (1, 4, 16))
    item = items["figure_8_equivalence"]
    assert f"ratios 1, 4, 16, {exact} of {exact} pairs" in item.measured
    first = max(abs(losses(b)[:2] / losses(a)[:2] - 1).max() for _, ratio, a, b in twins if ratio in (2, 8))
    assert f"at most {first:.1e}, relative" in item.measured
    assert item.verdict == "held"


def test_the_differences_drawn_are_those_of_the_runs(
    twins: list[tuple[str, int, Row, Row]], items: dict[str, Item]
) -> None:
    axes = items["figure_8_equivalence"].figures["figure_8_equivalence"].axes[2:]
    for optimizer, axis in zip(("adam", "sgd"), axes, strict=True):
        drawn = {line.get_ydata().tobytes() for line in axis.lines if line.get_linestyle() == "-"}  # type: ignore[union-attr]
        own = [(ratio, losses(a), losses(b)) for name, ratio, a, b in twins if name == optimizer]
        shared = [(ratio, abs(b[: len(a)] / a[: len(b)] - 1)) for ratio, a, b in own]
        assert all(each.tobytes() in drawn for _, each in shared)
        (said,) = (text.get_text() for text in axis.texts if "exactly 0" in text.get_text())
        zeros = sum(not each[np.isfinite(each)].any() for ratio, each in shared if ratio in (1, 4, 16))
        assert said.endswith(f"exactly 0 in {zeros} of {zeros} pairs of runs")


# All


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_study_is_named_with_its_command(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingResultError, match=r"is missing; make it with: verify transfer --optimizer adam,sgd"):
        build(name, tmp_path)
