"""Tuned constants, the paper's settings, and rates against epsilons: what their items say is what the studies hold."""

import json

import numpy as np
import pytest

from paper_figures import figure_13_epsilon_rates as epsilon_rates
from paper_figures import table_9_constants as constants
from paper_figures import table_10_settings as settings
from paper_figures.build import build
from paper_figures.figure_11_horizons import tunings
from paper_figures.paths import DATA
from paper_figures.transfer_results import transfer
from verify.fit.optimum import Estimate
from verify.sweeps.settings.named import UNTUNED


def test_constants_have_geometric_mean_1_and_the_papers_keep_their_ratios() -> None:
    for given in constants.PAPER.values():
        found = constants.normal(given)
        assert np.prod(found) == pytest.approx(1) and found[2] / found[0] == pytest.approx(given[2] / given[0])


def test_the_table_of_constants_is_what_the_searches_left() -> None:
    item = build("table_9_constants")
    stored = json.loads((DATA / "tuned_mlp" / "constants.json").read_text(encoding="utf-8"))["rows"]
    (first, *_), row = item.tables["table_9_constants"].rows, stored[0]
    assert [str(cell).split(" [")[0] for cell in first[2:5]] == [f"{each:.3g}" for each in row["constants"]]
    assert float(str(first[-1])) == pytest.approx(row["untuned"] - row["loss"], abs=5e-4)


def test_every_tuned_setting_has_the_constants_that_the_search_found() -> None:
    stored = json.loads((DATA / "tuned_mlp" / "constants.json").read_text(encoding="utf-8"))["rows"]
    found = {each.constants for each in transfer(DATA, "tuned_mlp").study.settings.values()}
    assert found == {tuple(row["constants"]) for row in stored}
    assert UNTUNED not in tunings(transfer(DATA, "tuned_mlp")).values()
    assert tunings(transfer(DATA, "horizons_mlp")) == {"": UNTUNED}


def test_the_lowest_of_the_papers_settings_is_marked_and_others_are_above_it() -> None:
    table = build("table_10_settings").tables["table_10_settings"]
    networks = {str(row[0]) for row in table.rows}
    assert {"SP, 150 steps", "muP, 1,500 steps"} <= networks
    for each in networks:
        own = [(float(str(row[3])), str(row[4])) for row in table.rows if row[0] == each]
        (lowest,) = [loss for loss, above in own if above == "lowest"]
        assert lowest == min(loss for loss, _ in own)
        for loss, above in own:
            if above != "lowest":
                said = float(above.split(" ")[0])
                assert said == pytest.approx(loss - lowest, abs=2e-3), "paired means are differences of means"


def test_the_papers_claim_of_no_alignment_is_judged_by_the_difference() -> None:
    study = {"horizons_mlp": transfer(DATA, "horizons_mlp").at(150), "tuned_mlp": transfer(DATA, "tuned_mlp").at(150)}
    ends = settings.endings(study)
    five = next(row for row in settings.ROWS if row.number == "5")
    assert settings.holds(ends, five, "SP", 150) is True
    other = next(row for row in settings.ROWS if row.number == "1")
    assert settings.holds(ends, other, "SP", 150) is False, "told apart from what is named the lowest"
    assert settings.holds({}, other, "SP", 150) is None, "nothing was trained"


def test_a_panel_for_every_parameterization_rule_and_width() -> None:
    item = build("figure_13_epsilon_rates")
    found = transfer(DATA, epsilon_rates.STUDY)
    widths = {each.width for each in found.study.records}
    schemes = epsilon_rates.schemes(found)
    assert schemes and len(item.figures["figure_13_epsilon_rates"].axes) == len(schemes) * 2 * len(widths) + 1
    values = epsilon_rates.epsilons(found)
    assert len(values) >= 6 and values == sorted(values, reverse=True)
    assert len(item.tables["figure_13_losses"].rows) == len(schemes) * len(values)


@pytest.mark.parametrize(
    ("first", "expected"), [((0.2, 0.1, 0.3), True), ((0.0, -0.005, 0.005), False), ((0.2, -0.1, 0.5), None)]
)
def test_a_constant_epsilon_costs_where_its_interval_says_so(
    first: tuple[float, float, float], expected: bool | None
) -> None:
    assert epsilon_rates.costs([(1e-2, Estimate(*first)), (1e-8, Estimate(0.0, 0.0, 0.0))]) is expected
