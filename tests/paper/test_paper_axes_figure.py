"""Figure 12 shows the committed runs along depth and batch: drifts fitted here, and what a rule does to the rates."""

from typing import Any

import numpy as np
import pytest

from paper_figures.figure_12_other_axes import STUDIES
from paper_figures.items import Item
from paper_figures.paths import DATA
from tests.helpers.built import build
from tests.paper.test_paper_transfer_figures import Table, fitted, points, rows

TITLES = {"adam": "Adam", "sgd": "SGD"}
NAMES = {"full": "prescribed", "rule": "prescribed", "global": "one raw rate"}
COMMITTED = [name for name in STUDIES if (DATA / name).exists()]


@pytest.fixture(scope="module")
def item() -> Item:
    return build("figure_12_other_axes")


def by_setting(study: str) -> dict[str, dict[int, Table]]:
    """By the setting's name and size."""
    axis, found = study.removeprefix("transfer_"), dict[str, dict[int, dict[float, dict[int, float]]]]()
    for row in rows(study):
        losses = (
            found.setdefault(row["setting"], {}).setdefault(int(row[axis]), {}).setdefault(float(row["base_rate"]), {})
        )
        losses[int(row["seed"])] = np.inf if row["diverged"] else float(row["loss"])
    return {
        name: {
            size: (
                np.array(sorted(rates)),
                np.array([[rates[rate][seed] for seed in range(3)] for rate in sorted(rates)]),
            )
            for size, rates in sizes.items()
        }
        for name, sizes in found.items()
    }


def drift(sizes: dict[int, Table]) -> float:
    best = np.array([fitted(table)[0] for table in sizes.values()])
    return float(np.polyfit(np.log([*sizes]), np.log(best), 1)[0].mean())


@pytest.mark.parametrize("study", COMMITTED)
def test_drifts_are_those_of_the_runs(study: str, item: Item) -> None:
    table = item.tables["figure_12_drifts"]
    said = {(row[0], str(row[1]).split(" = ")[0]): float(str(row[2]).split()[0]) for row in table.rows}
    axis = study.removeprefix("transfer_")
    for name, sizes in by_setting(study).items():
        optimizer, scheme, kind = name.rsplit(maxsplit=2)
        label = NAMES[kind] if axis == "batch" else f"{scheme}, {NAMES[kind]}"
        assert said[f"{TITLES[optimizer]}, {axis}", label] == pytest.approx(drift(sizes), abs=0.011), name


def test_panels_have_a_point_for_every_size(item: Item) -> None:
    axes: dict[str, Any] = {axis.get_title(loc="left"): axis for axis in item.figures["figure_12_other_axes"].axes}
    assert set(axes) == {
        f"{title} along {name.removeprefix('transfer_')}" for name in COMMITTED for title in TITLES.values()
    }
    for study in COMMITTED:
        axis_name = study.removeprefix("transfer_")
        for name, sizes in by_setting(study).items():
            best = [np.exp(np.log(fitted(table)[0]).mean()) for table in sizes.values()]
            drawn = [points(line)[1] for line in axes[f"{TITLES[name.split()[0]]} along {axis_name}"].lines]
            assert any(len(each) == len(best) and np.allclose(each, best, rtol=1e-3) for each in drawn), name


def test_the_verdict_says_that_a_rule_failed(item: Item) -> None:
    """SGD along the batch: the linear rule moves the best rate, and one raw rate does not."""
    drifts = {name: drift(sizes) for name, sizes in by_setting("transfer_batch").items()}
    assert drifts["sgd batch rule"] < -0.7 < -0.3 < drifts["sgd batch global"] and item.verdict == "held in part"
    assert "SGD along batch, -1.05" in item.measured
