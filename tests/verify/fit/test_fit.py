"""Slopes, intervals and verdicts on made-up sizes whose answers are known."""

from dataclasses import replace

import numpy as np
import pytest
from sympy import S

from derive.words import Kind
from tests.helpers.paths import ROOT
from verify.fit.forward import (
    ANY_RANK,
    RANK,
    TOLERANCES,
    WIDEST_INTERVAL,
    Row,
    Slope,
    implied_change,
    judge,
    shares,
    single_width_ratio,
    slope,
    tolerance,
    update_laws,
)
from verify.fit.judging import DRIFTS, row_json

WIDTHS = (64, 128, 256, 512)


def powers(exponents: list[float], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    x = np.asarray(WIDTHS, dtype=float)[:, None]
    return 3.0 * x ** np.asarray(exponents) * np.exp(noise * generator.normal(size=(len(WIDTHS), len(exponents))))


def test_an_exact_power_has_its_slope_and_no_interval() -> None:
    found = slope(WIDTHS, powers([-0.5, -0.5]))
    assert found.value == pytest.approx(-0.5)
    assert (found.low, found.high) == (pytest.approx(-0.5), pytest.approx(-0.5))
    assert not found.curved
    assert found.negated().value == pytest.approx(0.5)


def test_the_interval_is_students_over_seeds() -> None:
    """Slopes 0.4, 0.5, 0.6: mean 0.5, standard error 0.1/sqrt 3, and t = 4.3027 at two degrees of freedom."""
    found = slope(WIDTHS, powers([0.4, 0.5, 0.6]))
    assert found.high - found.value == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    inside = 0
    for trial in range(400):
        found = slope(WIDTHS, powers([0.5] * 4, noise=0.2, seed=trial))
        inside += found.low <= 0.5 <= found.high
    assert 0.92 < inside / 400 < 0.98


def test_one_seed_takes_its_interval_from_the_residuals() -> None:
    inside = sum(
        found.low <= 0.5 <= found.high for found in (slope(WIDTHS, powers([0.5], 0.2, trial)) for trial in range(400))
    )
    assert 0.92 < inside / 400 < 0.98


def test_drifting_slopes_are_flagged() -> None:
    x = np.asarray(WIDTHS, dtype=float)[:, None]
    assert slope(WIDTHS, np.exp(0.1 * np.log(x) ** 2) * np.ones((1, 3))).curved
    assert not slope(WIDTHS, powers([0.5] * 3, noise=0.02)).curved


def drifting(drifts: list[float]) -> Slope:
    """Seeds whose slope between neighbouring widths goes from 0 to `drifts`."""
    return slope((64, 128, 256), np.exp(np.log(2) * np.outer([0.0, 0.0, 1.0], drifts)))


def test_a_drift_counts_beyond_its_bound_and_beyond_students_half_width() -> None:
    """Drifts m - d, m, m + d: half-width 4.3027 d / sqrt 3, so that m = 0.9 of it is chance and 1.1 is not."""
    half = 4.3027 * 0.2 / 3**0.5
    for part, curved in ((0.9, False), (1.1, True)):
        found = drifting([part * half - 0.2, part * half, part * half + 0.2])
        assert (found.local, found.curved) == ((0, pytest.approx(part * half)), curved)
    assert not drifting([0.0, 0.8]).curved and drifting([0.39, 0.41]).curved  # 12.7062 * 0.4 > 0.4
    assert drifting([-0.16]).curved and drifting([0.16]).curved and not drifting([0.14]).curved


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    sizes = powers([0.5, 0.5])
    sizes[1, 0] = bad
    found = slope(WIDTHS, sizes)
    assert np.isnan(found.value)
    assert judge(found, 0.5, 0.1)[0] == "not measured"


def test_verdicts_tell_a_half_from_zero() -> None:
    sharp = Slope(0.48, 0.46, 0.50, ())
    assert judge(sharp, 0.5, 0.05)[0] == "holds"
    assert judge(sharp, 0.0, 0.05)[0] == "fails"
    assert judge(sharp, 1.0, 0.05)[0] == "fails"
    blunt = Slope(0.48, 0.48 - 2 * WIDEST_INTERVAL, 0.48 + 2 * WIDEST_INTERVAL, ())
    assert judge(blunt, 0.0, 0.05)[0] == "open"


def test_the_interval_is_a_margin_on_both_sides_and_the_tolerance_comes_on_top() -> None:
    noisy = Slope(0.4, 0.2, 0.6, ())
    for reference in (0.16, 0.64):  # outside the tolerance and the interval each, inside both together
        assert judge(noisy, reference, 0.05)[0] == "holds"
    for reference in (0.14, 0.66):
        assert judge(noisy, reference, 0.05)[0] == "fails"


def test_a_wide_interval_refutes_and_never_confirms() -> None:
    """+-0.3 is too wide to tell 0 from 1/2; but 1.0 is excluded by it."""
    wide = Slope(0.4, 0.1, 0.7, ())
    assert judge(wide, 0.4, 0.05) == ("open", "the interval, +-0.30, cannot tell 0 from 1/2; give more seeds or widths")
    assert judge(wide, 1.0, 0.05)[0] == "fails"


def test_a_verdict_says_where_slopes_drift() -> None:
    for reference, verdict in ((0.5, "holds"), (0.0, "fails")):
        assert judge(Slope(0.5, 0.49, 0.51, (), curved=True), reference, 0.05) == (verdict, DRIFTS)
        assert judge(Slope(0.5, 0.49, 0.51, ()), reference, 0.05) == (verdict, None)


def test_a_row_as_json_has_every_number_where_it_belongs() -> None:
    measured = Slope(0.5, 0.25, 0.75, ())
    row = Row("hidden.0", "hidden", 3, "delta_z", "1/2", measured, 0.125, "open", "why", 0.2, 0.375)
    said = row_json(row)
    assert said == {
        "layer": "hidden.0",
        "kind": "hidden",
        "step": 3,
        "quantity": "delta_z",
        "predicted": "1/2",
        "reference": 0.125,
        "tolerance": 0.2,
        "implied": 0.375,
        "measured": 0.5,
        "low": 0.25,
        "high": 0.75,
        "holds": None,
        "reason": "why",
    }
    for verdict, holds in (("holds", True), ("fails", False), ("not measured", None)):
        assert row_json(replace(row, verdict=verdict))["holds"] is holds
    nothing = Slope(float("nan"), float("nan"), float("nan"), ())
    unknown = row_json(replace(row, reference=None, measured=nothing, implied=None))
    assert [unknown[name] for name in ("reference", "implied", "measured", "low", "high")] == [None] * 5
    assert row_json(replace(row, implied=None))["implied"] == 0.125


def test_without_an_interval_nothing_is_told() -> None:
    """One seed at two widths: a line through two points has no residuals."""
    found = slope(WIDTHS[:2], powers([0.5])[:2])
    for reference in (-0.5, 0.5):
        assert judge(found, reference, 0.05)[0] == "open"
    assert judge(Slope(0.5, 0.4, 0.6, ()), float("nan"), 0.05)[0] == "open"


def test_every_tolerance_tells_a_half_from_zero_and_grows_with_training() -> None:
    for quantity, first in TOLERANCES.items():
        for kind in ("embedding", "hidden", "readout"):
            for follows in (False, True):
                early, late = (tolerance(quantity, kind, step, follows) for step in (1, 10))  # type: ignore[arg-type]
                assert first <= early <= late < 0.5
    assert (tolerance("delta_w", "hidden", 1), tolerance("delta_w", "hidden", 1, follows_gradient=True)) == (0.05, 0.1)


def test_the_largest_term_rules_a_sum() -> None:
    """r follows the term that is large at these widths, not the one that would win at infinite width."""
    from derive.solve import prescribe

    sizes = {"term_alpha": powers([0.0]) * 100, "term_omega": powers([0.3]) * 0.001, "term_u": powers([0.0]) * 0.001}
    weights = shares(sizes)
    assert weights["alpha"] > 0.999
    layer = prescribe("adam", "sp", "full").layers[2]
    measured = {name: Slope(value, value, value, ()) for name, value in (("alpha", 1.0), ("omega", 0.8), ("u", 1.0))}
    assert implied_change(layer, measured, weights, 0.0) == pytest.approx(0.0, abs=0.01)  # type: ignore[arg-type]
    # Shares are of squares: terms of 3 and 4 have 9 and 16 parts of 25.
    of_squares = shares({"term_alpha": 3 * powers([0.0]), "term_omega": 4 * powers([0.0])})
    assert of_squares == {"alpha": pytest.approx(9 / 25), "omega": pytest.approx(16 / 25)}
    turned = shares({**sizes, "term_omega": powers([0.3]) * 1e6})
    assert implied_change(layer, measured, turned, 0.0) == pytest.approx(-0.3, abs=0.01)  # type: ignore[arg-type]


def test_each_term_enters_with_its_own_alignment() -> None:
    """Section 4 by hand, for a muP readout with d = a + c + s = 1 and a + b = 1 behind a layer of r = 1/4."""
    from derive.solve import prescribe

    layer = prescribe("adam", "mup", "full").layers[2]
    values = {"alpha": 0.9, "omega": 0.7, "u": 0.6}
    measured = {name: Slope(value, value, value, ()) for name, value in values.items()}
    expected = {"alpha": 1 - 0.9, "omega": 1 + 0.25 - 0.7, "u": 1 + 0.25 - 0.6}
    for name, exponent in expected.items():
        assert implied_change(layer, measured, {name: 1.0}, 0.25) == pytest.approx(exponent)  # type: ignore[arg-type]
    weights = {"alpha": 0.5, "omega": 0.3, "u": 0.2}
    mean = sum(weights[name] * exponent for name, exponent in expected.items())
    assert implied_change(layer, measured, weights, 0.25) == pytest.approx(mean)  # type: ignore[arg-type]


def test_the_ratio_at_one_width_has_the_base_of_the_fan_in() -> None:
    assert single_width_ratio(np.array([16.0, 16.0]), 256) == pytest.approx(0.5)
    assert np.isnan(single_width_ratio(np.array([16.0]), 1))


def test_a_power_of_the_width_is_added_to_every_slope() -> None:
    found = Slope(0.5, 0.25, 1.0, (0.5, 0.75), curved=True)
    assert found.plus(-3) == Slope(-2.5, -2.75, -2.0, (-2.5, -2.25), curved=True)
    assert found.times(4) == Slope(2.0, 1.0, 4.0, (2.0, 3.0), curved=True)
    assert found.negated() == Slope(-0.5, -1.0, -0.25, (-0.5, -0.75), curved=True)


def test_the_laws_of_an_update_of_a_few_examples() -> None:
    """Muon on a gradient of rank r: RMS(U) = sqrt r / n and alpha = 1 on a hidden layer, and at full rank 1/2 each."""
    from derive.solve import prescribe

    hidden = prescribe("muon", "sp", "full")
    layer, rule = hidden.layers[1], hidden.problem.optimizers["hidden"]
    sizes = {
        "delta_w": powers([-1.0]),
        "operator_norm": powers([0.0]),
        "term_alpha": powers([0.0]),
        "input": powers([0.0]),
    }
    laws = {name: (found, value, opened) for name, found, value, opened in update_laws(WIDTHS, sizes, layer, rule)}
    assert laws["delta_w"][0].value == pytest.approx(1.0)
    assert (laws["delta_w"][1], laws["delta_w"][2]) == (layer.s, RANK) and float(layer.s) == 0.5
    for quantity in ("operator_norm", "gain"):
        found, value, opened = laws[quantity]
        assert (float(value), opened) == (0.0, None)
        assert judge(found, float(value), 0.1)[0] == "holds"
        assert judge(found.plus(0.5), float(value), 0.1)[0] == "fails"
    # The embedding's rate grows as its update shrinks: c = -s.
    looked_up = list(update_laws(WIDTHS, {"delta_w": powers([0.0])}, hidden.layers[0], rule))
    assert [(name, float(value), opened) for name, _, value, opened in looked_up] == [("delta_w", 0.0, None)]


def test_a_size_that_another_rank_would_change_is_judged_where_the_rank_is_known() -> None:
    """NorMuon's RMS is set whatever the rank is, and its operator norm is n^0 at rank one, n^-1/2 at full rank."""
    from derive.solve import prescribe

    sizes = {name: powers([0.0]) for name in ("delta_w", "operator_norm", "term_alpha", "input")}
    asked = prescribe("normuon", "sp", "full")
    rule = asked.problem.optimizers["hidden"]
    for rank in (None, S.Zero, S.One):
        for known in (True, False):
            ranked = replace(rule, rank=rank)
            opened = [row[3] for row in update_laws(WIDTHS, sizes, asked.layers[1], ranked, rank_known=known)]
            judged = known and rank is not None
            assert opened == [None, *[None if judged else ANY_RANK] * 2], (rank, known)
    # Muon on its singular values alone: with the rank known, RMS(U) is judged too.
    muon = prescribe("polargrad", "sp", "full")
    ranked = replace(muon.problem.optimizers["hidden"], rank=S.One)
    for known, said in ((True, None), (False, RANK)):
        (first, *_) = update_laws(WIDTHS, sizes, muon.layers[1], ranked, rank_known=known)
        assert first[3] == said
    looked_up = {name: sizes[name] for name in ("delta_w", "operator_norm")}
    rows = list(update_laws(WIDTHS, looked_up, muon.layers[0], ranked, rank_known=False))
    assert [(row[0], row[3]) for row in rows] == [("delta_w", None), ("operator_norm", None)]


def test_the_documented_tolerances_are_those_in_use() -> None:
    text = (ROOT / "docs" / "judging.md").read_text(encoding="utf-8")
    table = text.partition("| row | after the first step | later |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[1:]]
    stated: dict[tuple[str, Kind, int], float] = {}
    for names, first, later in cells:
        for name in names.removesuffix(" of the readout").split(", "):
            kinds: tuple[Kind, ...] = ("readout",) if names.endswith("readout") else ("embedding", "hidden", "readout")
            stated |= {(name, kind, step): float(x) for kind in kinds for step, x in ((1, first), (2, later)) if x}
    assert {name for name, *_ in stated} == set(TOLERANCES)
    assert all(tolerance(name, kind, step) == value for (name, kind, step), value in stated.items())  # type: ignore
