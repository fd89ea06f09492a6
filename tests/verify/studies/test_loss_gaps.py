"""Equal, told apart or not decided; and one prescription less another as training goes on, with a planted crossing."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paper_figures.build import build
from paper_figures.figure_11_horizons import none_leads
from verify.fit.equivalence import MARGIN, Relation, relation
from verify.fit.optimum import UNKNOWN, Estimate, over_seeds
from verify.studies.transfer.analysis import analyse, comparisons
from verify.studies.transfer.headline import answers
from verify.studies.transfer.horizons import Gap, crossing, family, gaps, losses_at, marks
from verify.sweeps.records import Conditions, Record, Setting, Study

CONDITIONS = Conditions("mlp", {"vocabulary": 256}, 32, 100, 16, 64, "text", "code")
STEPS = (10, 20, 50, 100, 200, 500, 1000)
SEEDS = (0, 1, 2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.004, 0.006, Relation.EQUAL),
        (0.002, 0.006, Relation.EQUAL),  # surely not 0, and surely too small to matter
        (-0.02, 0.006, Relation.OPEN),  # contains 0, and says nothing
        (-0.5, 0.5, Relation.OPEN),
        (0.002, 0.02, Relation.APART),
        (-0.05, -0.001, Relation.APART),
        (-0.01, 0.005, Relation.OPEN),  # the margin itself is not within the margin
        (math.nan, math.nan, Relation.OPEN),
    ],
)
def test_the_three_answers(low: float, high: float, expected: Relation) -> None:
    assert relation(Estimate((low + high) / 2, low, high)) is expected


def test_a_wrong_margin_is_refused_and_another_is_taken() -> None:
    assert relation(Estimate(0.0, -0.02, 0.02), margin=0.03) is Relation.EQUAL
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0"):
            relation(UNKNOWN, margin)


def test_false_alarms_are_at_most_one_in_forty() -> None:
    """A true difference right at the margin is called equal in at most 2.5 % of studies of three seeds, and of ten."""
    generator = np.random.default_rng(0)
    for seeds in (3, 10):
        drawn = MARGIN + 0.004 * generator.normal(size=(1000, seeds))
        equal = sum(relation(over_seeds(each)) is Relation.EQUAL for each in drawn)
        assert equal <= 0.025 * 1000 + 3 * (0.025 * 0.975 * 1000) ** 0.5


def setting(alignment: str, steps: int | None = None, scheme: str = "SP") -> Setting:
    return Setting("adam", scheme, alignment, (), steps=steps)


def loss(alignment: str, width: int, rate: float, seed: int, step: int) -> float:
    """full is ahead by 0.1 at step 10 and behind by 0.02 a doubling after step 160, at width 64; nowhere at 32."""
    behind = 0.02 * math.log2(step / 160) if alignment == "full" and width > 32 else 0.0
    best = 0.01 * (2 if alignment == "full" else 1)
    return 3 - 0.2 * math.log10(step) + 0.1 * math.log2(rate / best) ** 2 + behind + 0.05 * seed


def records(each: Setting, width: int, last: int, rates: list[float]) -> list[Record]:
    return [
        Record(
            each.name,
            width,
            rate,
            seed,
            loss(each.alignment, width, rate, seed, last),
            curve=tuple((step, loss(each.alignment, width, rate, seed, step)) for step in STEPS if step <= last),
        )
        for rate in rates
        for seed in SEEDS
    ]


@pytest.fixture
def study() -> Study:
    """Horizons 100 and 1000, whose rates do not lie alike."""
    rates = [0.01 * 2.0**octave for octave in range(-3, 5)]
    made, settings = [], {}
    for alignment in ("full", "none"):
        for last, own in ((100, rates[:6]), (1000, rates[2:])):
            each = setting(alignment, last)
            settings[each.name] = each
            for width in (32, 64):
                made += records(each, width, last, own)
    return Study(CONDITIONS, settings, {}, tuple(made), len(made))


def test_a_planted_crossing_is_found_where_it_is_and_nowhere_else(study: Study) -> None:
    one, other = (family(study, setting(alignment, 100)) for alignment in ("full", "none"))
    assert len(one) == len(other) == 2
    found = gaps(study, one, other)
    by_width = {width: [each for each in found if each.width == width] for width in (32, 64)}
    assert [each.step for each in by_width[64]] == list(STEPS)
    for each in by_width[64]:
        assert not each.edge
        assert each.difference.value == pytest.approx(0.02 * math.log2(each.step / 160), abs=1e-9)
    assert crossing(by_width[64]) == (100, 500), "at 200 it is within the margin: neither ahead nor behind"
    assert by_width[64][4].relation is Relation.EQUAL
    assert crossing(by_width[32]) is None and all(each.relation is Relation.EQUAL for each in by_width[32])
    assert crossing(by_width[64][:4]) is None, "before it there is none"


def test_shorter_runs_count_up_to_their_end_and_rates_of_both_horizons_are_one_grid(study: Study) -> None:
    names = family(study, setting("full", 100))
    assert [len(losses_at(study, names, 64, step)[0]) for step in (50, 100, 200, 1000)] == [8, 8, 6, 6]
    assert np.isfinite(losses_at(study, names, 64, 50)[1]).all()


def test_a_best_rate_at_the_edge_says_nothing(study: Study) -> None:
    few = replace(study, records=tuple(each for each in study.records if each.base_rate <= 0.01))
    one, other = (family(few, setting(alignment, 100)) for alignment in ("full", "none"))
    assert all(each.edge and each.relation is Relation.OPEN for each in gaps(few, one, other))


def test_a_run_that_diverged_has_no_loss_from_then_on(study: Study) -> None:
    first = study.records[0]
    cut = replace(first, diverged=60, loss=math.nan, curve=tuple((s, v) for s, v in first.curve if s < 60))
    broken = replace(study, records=(cut, *study.records[1:]))
    names = family(broken, setting("full", 100))
    assert np.isinf(losses_at(broken, names, 32, 100)[1]).sum() == 1
    assert np.isfinite(losses_at(broken, names, 32, 50)[1]).all()


def test_under_a_schedule_only_horizons_themselves_count(study: Study) -> None:
    scheduled = replace(study, conditions=replace(CONDITIONS, schedule="cosine:0.05"))
    assert marks(scheduled, family(scheduled, setting("full", 100)), 64) == [100, 1000]


def test_the_page_says_equal_and_not_decided_apart(study: Study) -> None:
    """At the largest width full and none differ by more than the margin; their twins by nothing."""
    twin = setting("twin", 100)
    one = [replace(each, setting=twin.name) for each in study.records if each.setting == setting("full", 100).name]
    more = replace(study, settings={**study.settings, twin.name: twin}, records=(*study.records, *one))
    results = analyse(more)
    first = comparisons(results)[0]
    assert first.title == "adam, 100 steps" and len(first.of(results)) == 3
    text = dict(answers(first, first.of(results)))["Lowest loss"]
    assert "Equal to it within 0.01 nats: SP twin" in text or "Equal to it within 0.01 nats: SP full" in text
    assert "Not decided" not in text


def test_figure_11_has_a_line_per_width_and_its_numbers(tmp_path: Path) -> None:
    item = build("figure_11_horizons")
    table = item.tables["figure_11_gaps"]
    assert len(table.rows) >= 4 * 3 * 4 and {row[4] for row in table.rows} <= {
        *(each.value for each in Relation),
        "best rate at the edge",
    }
    (figure,) = item.figures.values()
    # Widths above the base width: three of the first two studies, SP and muP; 128 and 256 of the longer and the tuned.
    assert [len(axis.containers) for axis in figure.axes] == [3, 3, 3, 3, 2, 2, 2, 2]
    assert "changes sign" in item.measured


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([(-0.1, 0.02), (0.1, 0.02)], True),
        ([(0.1, 0.02), (-0.1, 0.02)], None),
        ([(0.1, 0.2)], None),
        ([(0.1, 0.02), (math.nan, math.nan)], True),
        ([(math.nan, math.nan)], None),
    ],
)
def test_figure_11_says_held_only_where_none_ends_lower(ends: list[tuple[float, float]], expected: bool | None) -> None:
    """At the largest width, told apart from 0, at the last step at which both have a best rate."""
    rows = [Gap(64, 10, Estimate(0.5, 0.4, 0.6), edge=False)]  # a smaller width says nothing
    rows += [Gap(512, 10 * place, Estimate(x, x - half, x + half), edge=False) for place, (x, half) in enumerate(ends)]
    assert none_leads(rows) is expected
