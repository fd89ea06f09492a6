"""Drifts, costs and limits of made-up studies whose truths are known in closed form."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isinf, isnan, log, nan

import numpy as np
import pytest

from verify.fit.forward import Slope
from verify.fit.limit import _fit, shared_power
from verify.fit.optimum import Estimate
from verify.studies.transfer.analysis import analyse, comparisons, rows_json
from verify.studies.transfer.outcomes import SettingResult
from verify.sweeps.records import Conditions, Record, Setting, Study

WIDTHS = (64, 128, 256, 512)
GRID = tuple(2.0**octave for octave in (-6, -5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 6))
CONDITIONS = Conditions("mlp", {"vocabulary": 256}, 64, 100, 256, 2048, "text", "code")

Loss = Callable[[int, float, int], float | None]
"""(width, octave, seed) -> held-out loss; NaN where the run diverges, None where it has not been made."""


def named(alignment: str = "full", optimizer: str = "adam") -> Setting:
    return Setting(optimizer, "SP", alignment, ())


def study_of(
    losses: Mapping[str, Loss],
    widths: Sequence[int] = WIDTHS,
    seeds: int = 3,
    rates: Sequence[float] = GRID,
    settings: Mapping[str, Setting] | None = None,
    trained_as: Mapping[str, str] | None = None,
) -> Study:
    records: list[Record] = []
    for name, loss in losses.items():
        for width in widths:
            for rate in rates:
                for seed in range(seeds):
                    value = loss(width, float(np.log2(rate)), seed)
                    if value is not None:
                        records.append(Record(name, width, rate, seed, value, 7 if isnan(value) else None))
    chosen = settings or {name: named(name) for name in losses}
    return Study(CONDITIONS, chosen, trained_as or {}, tuple(records))


def only(loss: Loss, **changes: object) -> SettingResult:
    (result,) = analyse(study_of({"full": loss}, **changes))  # type: ignore[arg-type]
    return result


def octaves(width: int) -> float:
    return log(width / 64, 2)


def parabola(slope: float = 0.0, bottom: float = 3.0, curvature: float = 0.05, start: float = 0.3) -> Loss:
    """Best rate 2^start (n / 64)^slope."""
    return lambda width, x, _seed: bottom + curvature * (x - start - slope * octaves(width)) ** 2


def noisy(loss: Loss, size: float, trial: int) -> Loss:
    generator = np.random.default_rng(trial)

    def value(width: int, x: float, seed: int) -> float | None:
        exact = loss(width, x, seed)
        return None if exact is None else exact + size * float(generator.normal())

    return value


def holds(found: Estimate | Slope, truth: float) -> bool:
    return found.low <= truth <= found.high


@pytest.mark.parametrize("slope", [0.0, -0.5, 0.5, -1.0])
def test_drift_is_the_exponent_of_the_best_rate(slope: float) -> None:
    shape = parabola(slope)
    result = only(lambda width, x, seed: (shape(width, x, seed) or nan) + width**-0.5)
    assert result.drift.value == pytest.approx(slope, abs=1e-9)
    assert result.fit_error == pytest.approx(0.0, abs=1e-9)
    assert result.notes == ()
    for found in result.widths:  # 0.05 (slope octaves)^2 is lost at the best rate of width 64
        assert found.lost.value == pytest.approx(0.05 * (slope * octaves(found.width)) ** 2, abs=1e-9)


@pytest.mark.parametrize("slope", [0.0, pytest.param(-0.5, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("unchecked")
def test_drift_is_covered(slope: float) -> None:
    found = [only(noisy(parabola(slope), 0.003, trial)).drift for trial in range(200)]
    assert 0.88 <= np.mean([holds(each, slope) for each in found]) <= 1.0
    assert all(each.high - each.low < 0.5 for each in found)


@pytest.mark.usefixtures("unchecked")
def test_loss_lost_is_covered_at_the_rate_that_was_found() -> None:
    def at(trial: int) -> Loss:
        exact, blurred = parabola(-0.5), noisy(parabola(-0.5), 0.003, trial)
        return lambda width, x, seed: (exact if width == 64 else blurred)(width, x, seed)

    found = [only(at(trial), widths=[64, 256]).widths[1].lost for trial in range(200)]
    assert 0.88 <= np.mean([holds(each, 0.05) for each in found]) <= 1.0
    assert all(each.high - each.low < 0.05 for each in found)


def test_fit_error_is_in_octaves_with_two_freedoms_taken() -> None:
    """Best rates (1, -1, -1, 1)/4 octaves off a line: sqrt(4/16 / 2)."""
    off = {64: 0.25, 128: -0.25, 256: -0.25, 512: 0.25}
    result = only(lambda width, x, _seed: 3.0 + 0.05 * (x - off[width] + octaves(width)) ** 2)
    assert result.fit_error == pytest.approx(0.125**0.5, abs=1e-9)
    assert result.drift.value == pytest.approx(-1.0, abs=1e-9)


@pytest.mark.parametrize("growth", [0.0, 0.5, -0.25])
def test_sensitivity_is_the_exponent_of_the_cost_of_a_wrong_rate(growth: float) -> None:
    result = only(lambda width, x, _seed: 3 + 0.05 * (width / 64) ** growth * (x - 0.2) ** 2)
    assert result.sensitivity.value == pytest.approx(growth, abs=1e-9)


def test_sensitivity_is_unknown_where_twice_the_best_rate_diverges() -> None:
    result = only(lambda width, x, _seed: nan if width == 256 and x >= 1 else 3 + 0.05 * x**2)
    assert isnan(result.sensitivity.value)
    assert any(note.startswith("width 256: diverges at twice") for note in result.notes)
    assert result.drift.value == pytest.approx(0.0, abs=1e-9)


def test_sensitivity_is_of_the_losses_an_octave_aside_on_both_sides() -> None:
    """Three rates are too few for a fit: S = (0.2 (n / 64)^(1/2) + 0.1) / 2 from the grid itself."""
    below = {width: 0.2 * (width / 64) ** 0.5 for width in WIDTHS}
    result = only(lambda width, x, _seed: 3 + below[width] * (x < 0) + 0.1 * (x > 0), rates=[0.5, 1, 2])
    expected = np.polyfit(np.log(WIDTHS), np.log([(each + 0.1) / 2 for each in below.values()]), 1)[0]
    assert result.sensitivity.value == pytest.approx(expected, abs=1e-9)


def test_sensitivity_is_unknown_where_a_wrong_rate_costs_nothing() -> None:
    """Seed 1 falls on both sides of the rate at which the mean over seeds is lowest."""
    result = only(lambda _width, x, seed: 3 + (-0.1 if seed == 1 else 0.5) * abs(x), seeds=2)
    assert isnan(result.sensitivity.value)
    assert any("nothing is lost at twice" in note for note in result.notes)


def test_edges_and_grid_rates_are_said() -> None:
    result = only(parabola(start=9.0))
    assert all(found.at_edge and not found.fitted for found in result.widths)
    assert "width 64, 128, 256, 512: the best rate is the lowest or highest tried" in result.notes
    assert any(note.endswith("best rates are on the grid") for note in result.notes)
    assert any("was not tried, left out of the sensitivity" in note for note in result.notes)
    assert isnan(result.sensitivity.value)


def test_nothing_is_lost_at_the_smallest_width_itself() -> None:
    """Best grid rates of two seeds, 1 and 2^-1/2, have a mean between them, at which losses are interpolated."""
    result = only(lambda _width, x, seed: nan if x > 0 else 3.0 + abs(x + seed / 2), seeds=2)
    assert result.widths[0].lost == Estimate(0.0, 0.0, 0.0)


def test_transfer_that_diverges_costs_infinity_and_has_a_width() -> None:
    """The cliff is at 2^1.1 at width 64 and falls by an octave per doubling; the best rate of width 64 is 2^0.3."""

    def loss(width: int, x: float, seed: int) -> float:
        return nan if x > 2.1 - octaves(width) else 3.0 + 0.05 * (x - 0.3 + octaves(width)) ** 2

    result = only(loss)
    assert [isinf(found.lost.value) for found in result.widths] == [False, False, True, True]
    assert [found.lost_diverged for found in result.widths] == [0, 0, 3, 3]
    assert result.widths[1].lost.value == pytest.approx(0.05, abs=1e-9)
    assert result.divergence_width == 256
    assert any("width 256, 512: diverges at or beside the best rate of width 64" in note for note in result.notes)
    assert only(parabola(-0.5)).divergence_width is None


@pytest.mark.parametrize(("failing", "seeds", "width"), [(1, 3, None), (2, 3, 256), (1, 2, None), (2, 4, None)])
def test_a_finite_loss_above_the_untrained_one_fails_where_most_seeds_have_it(
    failing: int, seeds: int, width: int | None
) -> None:
    """Half of them is not most."""

    def loss(n: int, x: float, seed: int) -> float:
        return 5.6 if n >= 256 and seed < failing and x > 0.1 else 3.0 + 0.05 * (x - 0.3) ** 2

    result = only(loss, seeds=seeds)
    assert log(256) < 5.6
    assert result.divergence_width == width


def test_a_setting_that_learns_nothing_is_said() -> None:
    result = only(parabola(bottom=5.6))
    assert "width 64, 128, 256, 512: nothing is learnt" in result.notes
    assert result.divergence_width == 64


def test_rates_not_tried_are_unknown_below_and_diverge_above_what_diverged() -> None:
    tried = {64: (-6, 6), 256: (-2, 6), 512: (-6, -1.5)}
    centres = {64: -3.0, 256: 0.5, 512: -4.0}

    def loss(width: int, x: float, seed: int) -> float | None:
        low, high = tried[width]
        return (3 + 0.05 * (x - centres[width]) ** 2) if low <= x <= high else None

    result = only(loss, widths=list(tried))
    assert isnan(result.widths[1].lost.value)
    assert any("width 256: the best rate of width 64 lies outside" in note for note in result.notes)
    barely = only(lambda w, x, seed: nan if (w, x) == (256, -2) else loss(w, x, seed), widths=list(tried))
    assert barely.divergence_width is None  # divergence at a higher rate says nothing of the best rate of width 64
    centres[64] = 0.5
    assert isnan(only(loss, widths=list(tried)).widths[2].lost.value)
    above = only(lambda w, x, seed: nan if (w, x) == (512, -1.5) else loss(w, x, seed), widths=list(tried))
    assert isinf(above.widths[2].lost.value)
    assert above.divergence_width == 512


def test_a_width_where_everything_diverges_is_named_and_left_out() -> None:
    result = only(lambda width, x, seed: nan if width == 512 else parabola(-0.5)(width, x, seed))
    assert result.drift.value == pytest.approx(-0.5, abs=1e-9)
    assert isnan(result.widths[3].best_rate)
    assert result.widths[3].diverged == 3 * len(GRID)
    assert any(note.startswith("width 512: every run diverged") for note in result.notes)
    assert result.divergence_width == 512


def test_everything_diverged() -> None:
    result = only(lambda _width, _x, _seed: nan)
    assert isnan(result.drift.value)
    assert isnan(result.limit.value)
    assert isnan(result.penalty.value)
    assert any("no width has a best rate" in note for note in result.notes)
    assert [found.best_loss.value for found in result.widths] == pytest.approx([nan] * 4, nan_ok=True)


def test_a_seed_that_diverges_everywhere_at_one_width_is_left_out_and_named() -> None:
    shape = falling(2.9, 4.0)
    result = only(lambda width, x, seed: nan if (width, seed) == (512, 1) else shape(width, x, seed))
    assert np.isnan(result.widths[3].best_rates).tolist() == [False, True, False]
    assert result.drift.value == pytest.approx(0.0, abs=1e-9)
    assert [result.limit.value, result.power.value] == pytest.approx([2.9, 0.6], abs=1e-6)
    assert any(note.startswith("seed 1: no best rate at some width") for note in result.notes)


def test_missing_runs_leave_what_is_complete() -> None:
    """Seed 2 lacks all of width 512, and the finer rates around the minimum of width 64 exist for seed 0 alone."""

    def loss(width: int, x: float, seed: int) -> float | None:
        absent = (width == 512 and seed == 2) or (width == 64 and seed > 0 and x % 1)
        return None if absent else parabola(-0.5)(width, x, seed)

    result = only(loss)
    assert [int(np.isfinite(found.best_rates).sum()) for found in result.widths] == [3, 3, 3, 2]
    assert result.drift.value == pytest.approx(-0.5, abs=1e-9)
    assert result.widths[0].diverged == 0
    assert any(note.startswith("width 64, 512: runs are missing") for note in result.notes)


@pytest.mark.parametrize("widths", [[], [64], [64, 256], [64, 256, 512]])
@pytest.mark.parametrize("seeds", [1, 3])
def test_few_widths_and_seeds_give_what_they_can(widths: list[int], seeds: int) -> None:
    result = only(lambda n, x, _seed: 3 + n**-0.5 + 0.05 * (x + octaves(n) / 2) ** 2, widths=widths, seeds=seeds)
    assert result.drift.value == pytest.approx(-0.5 if len(widths) > 1 else nan, abs=1e-9, nan_ok=True)
    assert isnan(result.fit_error) == (len(widths) < 3)
    assert result.limit.value == pytest.approx(3.0 if len(widths) > 2 else nan, abs=1e-6, nan_ok=True)
    assert isnan(result.limit.low) == (len(widths) < 3 or seeds == 1)
    assert any("fewer than 3 widths" in note for note in result.notes) == (len(widths) < 3)
    assert len(comparisons([result])) == (1 if widths else 0)


# All settings of an optimizer


def falling(limit: float, amplitude: float, power: float = 0.6) -> Loss:
    return lambda width, x, _seed: limit + amplitude * width**-power + 0.05 * (x - 0.3) ** 2


def test_limits_power_and_penalties() -> None:
    other = Setting("sgd", "SP", "full", ())
    losses = {"full": falling(2.9, 4.0), "none": falling(2.7, 6.0), "sgd": falling(3.5, 9.0, 0.35)}
    full, none, sgd = analyse(study_of(losses, settings={"full": named(), "none": named("none"), "sgd": other}))
    assert [each.limit.value for each in (full, none, sgd)] == pytest.approx([2.9, 2.7, 3.5], abs=1e-6)
    assert [each.power.value for each in (full, none, sgd)] == pytest.approx([0.6, 0.6, 0.35], abs=1e-6)
    assert [each.penalty.value for each in (full, none, sgd)] == pytest.approx([0.2, 0.0, 0.0], abs=1e-6)


def test_a_power_law_is_fitted_with_its_amplitude_at_the_first_width() -> None:
    """2.9 + 4 n^-0.6 is 4 x 64^-0.6 above its limit at width 64."""
    losses = 2.9 + 4 * np.array(WIDTHS, dtype=float) ** -0.6
    (limit, other), (amplitude, _), (residual, rest) = _fit(np.array([0.6, 1.2]), WIDTHS, losses)
    assert [limit, amplitude, residual] == pytest.approx([2.9, 4 * 64**-0.6, 0.0], abs=1e-9)
    assert abs(other - 2.9) > 0.01 and rest > 1e-6


@pytest.mark.parametrize(
    ("power", "found"), [(0.05, 0.1), (0.1, 0.1), (0.35, 0.35), (1.9, 1.9), (2.0, 2.0), (2.7, 2.0)]
)
def test_powers_are_looked_for_from_a_tenth_to_two(power: float, found: float) -> None:
    losses = 2.9 + 4 * np.array(WIDTHS, dtype=float) ** -power
    assert shared_power([(WIDTHS, losses)]) == pytest.approx(found, abs=1e-6)


def test_a_curve_that_is_no_power_law_leaves_the_limits_of_the_others_alone() -> None:
    wild = {16: 3.5, 32: 3.2, 64: 3.6, 128: 4.0, 256: 4.1}
    losses = {
        "full": falling(2.9, 4.0),
        "none": falling(2.7, 6.0),
        "prior": lambda width, x, _seed: wild.get(width, 4.2) + 0.05 * (x - 0.3) ** 2,
    }
    full, none, prior = analyse(study_of(losses, settings={name: named(name) for name in losses}))
    assert [each.penalty.value for each in (full, none)] == pytest.approx([0.2, 0.0], abs=1e-6)
    assert isnan(prior.limit.value) and any("does not fall" in note for note in prior.notes)


def test_no_limit_is_given_where_the_power_is_at_the_end_of_its_range() -> None:
    (straight,) = analyse(study_of({"full": falling(2.9, -0.3, -0.2)}, settings={"full": named()}))
    assert isnan(straight.limit.value) and isnan(straight.penalty.value)
    assert any("p is at the end of its range for" in note for note in straight.notes)


@pytest.mark.usefixtures("unchecked")
def test_limit_and_penalty_are_covered_with_the_uncertainty_of_the_power() -> None:
    """One p for all seeds would make intervals that hold the truth every other time."""
    limits = {"full": 2.9, "none": 2.7, "prior": 2.8}

    def blurred(limit: float, shared: np.ndarray, own: np.ndarray) -> Loss:
        exact, noise = falling(limit, 4.0), shared + own
        return lambda n, x, seed: (exact(n, x, seed) or nan) + noise[WIDTHS.index(n), seed]

    inside: list[tuple[bool, ...]] = []
    for trial in range(80):
        noise = np.random.default_rng(trial).normal(size=(4, 4, 3))
        losses = {
            name: blurred(limit, 0.003 * noise[0], 0.002 * noise[1 + i])
            for i, (name, limit) in enumerate(limits.items())
        }
        full, none, _ = analyse(study_of(losses, rates=[2.0**octave for octave in range(-2, 4)]))
        inside.append((holds(full.limit, 2.9), holds(none.limit, 2.7), holds(full.penalty, 0.2)))
    assert all(0.88 <= share <= 1.0 for share in np.mean(inside, axis=0))


def test_losses_that_rise_or_do_not_settle_are_said() -> None:
    rising = only(falling(3.0, -1.0))
    assert any("does not fall" in note for note in rising.notes)
    for second, third in ((3.6, 3.0), (3.3, 3.3)):  # lower at the last width than at the first all the same
        bottoms: dict[int, float] = dict(zip(WIDTHS, (3.5, second, third, 2.9), strict=True))
        bumpy = only(lambda width, x, _seed: bottoms[width] + 0.05 * (x - 0.3) ** 2)  # noqa: B023
        assert isnan(bumpy.limit.value) and any("does not fall" in note for note in bumpy.notes)
    slow = only(lambda width, x, _seed: 5 - 0.2 * log(width) + 0.05 * x**2)
    assert any("end of its range" in note for note in slow.notes)


def test_equivalent_settings_share_runs_and_count_once() -> None:
    """Two curves of different powers: counted twice, one of them would pull p towards itself."""
    losses = {"full": falling(2.9, 4.0, 0.5), "none": falling(2.7, 6.0, 1.0)}
    twice = {"full": named(), "none": named("none"), "prior": named("prior")}
    alone = analyse(study_of(losses))
    result = analyse(study_of(losses, settings=twice, trained_as={"prior": "full"}))
    assert [each.power.value for each in result] == pytest.approx([alone[0].power.value] * 3)
    assert (result[2].trained_as, result[0].trained_as) == ("adam SP full", None)
    renamed = study_of(
        losses, settings={**twice, "another": twice["prior"]}, trained_as=dict.fromkeys(("prior", "another"), "full")
    )
    assert [each.trained_as for each in analyse(renamed)] == [None, None, "adam SP full", "adam SP full"]
    assert result[2].drift == result[0].drift
    assert result[2].limit == result[0].limit


def test_comparisons_pair_the_seeds() -> None:
    """Seeds differ by tenths, settings by 0.01 plus a thousandth at one seed; only pairs can tell."""

    def loss(offset: float, extra: float) -> Loss:
        return lambda _n, x, seed: 3 + offset + 0.2 * seed + extra * (seed == 0) + 0.05 * x**2

    broken: Loss = lambda n, x, _seed: nan if n == 512 else 3.0 + 0.05 * x**2  # noqa: E731
    losses = {"broken": broken, "full": loss(0.01, 0.003), "none": loss(0.0, 0.0)}
    (found,) = comparisons(analyse(study_of(losses)))
    assert (found.optimizer, found.width) == ("adam", 512)
    assert [each.setting.alignment for each in found.ranking] == ["none", "full", "broken"]
    best, second, last = found.ranking
    assert best.difference == Estimate(0.0, 0.0, 0.0)
    assert second.difference.value == pytest.approx(0.011, abs=1e-9)
    assert second.difference.high - second.difference.low == pytest.approx(2 * 4.30265 * 0.001, rel=1e-4)
    assert second.best_loss.high - second.best_loss.low > 0.5
    assert isnan(last.best_loss.value)


def test_json_follows_the_contract_and_has_no_nan() -> None:
    loss: Loss = lambda n, x, seed: nan if n == 512 or x > 2.5 else parabola(-0.5)(n, x, seed)  # noqa: E731
    settings = {"full": Setting("adam", "muP", "global", (), constants=(1.0, 2.0, 0.5))}
    (row,) = rows_json(analyse(study_of({"full": loss}, settings=settings)))
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert [row["optimizer"], row["parameterization"], row["alignment"]] == ["adam", "muP", "global"]
    assert row["constants"] == [1.0, 2.0, 0.5]
    assert row["drift"] == pytest.approx(-0.5)
    assert row["low"] == pytest.approx(-0.5)
    assert row["trained_as"] is None
    assert list(row["widths"]) == ["64", "128", "256", "512"]
    assert row["widths"]["64"]["best_rate"] == pytest.approx(2**0.3)
    assert row["widths"]["64"]["best_loss"] == pytest.approx(3.0)
    assert row["widths"]["64"]["diverged"] == 4 * 3
    assert row["widths"]["512"]["best_rate"] is None
    assert row["divergence_width"] == 512
