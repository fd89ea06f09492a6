"""Best rates of made-up curves of loss against log2(rate) whose minima are known."""

from collections.abc import Callable, Sequence
from math import inf, isnan, nan

import numpy as np
import pytest

from verify.fit.optimum import Optimum, _vertex, _window, complete_block, optimum, over_seeds

GRID = (-6, -5, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 6)


def best(loss: Callable[[float, int], float], octaves: Sequence[float] = GRID, seeds: int = 3) -> Optimum:
    """The optimum of loss(x, seed) at rates 2^x; inf where it diverges, NaN where it has not been made."""
    return optimum(2.0 ** np.array(octaves), np.array([[loss(x, seed) for seed in range(seeds)] for x in octaves]))


def noisy(size: float, trial: int, vertex: float = 0.3, octaves: Sequence[float] = GRID) -> Optimum:
    noise = np.random.default_rng(trial).normal(size=(len(octaves), 3))
    losses = 3.0 + 0.05 * (np.array(octaves)[:, None] - vertex) ** 2 + size * noise
    return optimum(2.0 ** np.array(octaves), losses)


@pytest.mark.parametrize("vertex", [-0.4, 0.0, 0.25, 0.3, 1.1])
def test_an_exact_parabola_gives_its_vertex(vertex: float) -> None:
    found = best(lambda x, seed: 2.5 + 0.07 * (x - vertex - (seed - 1) / 10) ** 2)
    assert np.log2(found.best_rates) == pytest.approx([vertex - 0.1, vertex, vertex + 0.1], abs=1e-9)
    assert np.log2(found.best_rate) == pytest.approx(vertex, abs=1e-9)
    assert found.best_losses == pytest.approx([2.5007, 2.5, 2.5007], abs=1e-9)  # at one rate for all seeds
    assert found.fitted
    assert not found.at_edge
    lowest = GRID[int(found.losses.mean(axis=1).argmin())]
    assert found.window == pytest.approx((lowest - 1.0, lowest + 1.0))
    for octave in (-5.3, -2.2, 0.1, 2.7):  # inside the window and between the grid rates beyond
        assert found.at(2.0**octave)[1] == pytest.approx(2.5 + 0.07 * (octave - vertex) ** 2, abs=1e-9)


def test_noisy_parabolas_are_found_without_bias_and_covered() -> None:
    """The lowest of the noisy points would be too low by about their scatter; these losses are not."""
    results = [noisy(0.003, trial) for trial in range(200)]
    rates = [over_seeds(np.log2(each.best_rates)) for each in results]
    losses = [over_seeds(each.best_losses) for each in results]
    assert 0.88 <= np.mean([each.low <= 0.3 <= each.high for each in rates]) <= 1.0
    assert 0.88 <= np.mean([each.low <= 3.0 <= each.high for each in losses]) <= 1.0
    assert np.mean([each.value for each in rates]) == pytest.approx(0.3, abs=0.01)
    assert np.mean([each.value for each in losses]) == pytest.approx(3.0, abs=0.0005)


def test_rates_close_to_each_other_do_not_narrow_the_fit() -> None:
    """Spacing halved six times around the best rate: the points within 1/32 octave alone would show only noise."""
    octaves = sorted({*GRID, *(side * 2.0**-halving for halving in range(1, 7) for side in (-1, 1))})
    assert np.std([np.log2(noisy(0.003, trial, 0.0, octaves).best_rate) for trial in range(50)]) < 0.03


@pytest.mark.parametrize("explosion", [1.0, 30.0, 1e6])
def test_a_side_that_explodes_hardly_moves_the_vertex(explosion: float) -> None:
    """The minimum is at x = 0, where an unweighted parabola through the same points does not see it."""
    found = best(lambda x, _: 3 + 0.04 * x**2 + explosion * max(0.0, x - 0.6))
    assert abs(np.log2(found.best_rate)) < 0.05
    assert found.best_losses == pytest.approx([3.0] * 3, abs=0.002)
    near = np.array([-1, -0.5, 0, 0.5, 1.0])
    plain = np.polyfit(near, 3 + 0.04 * near**2 + explosion * np.maximum(0, near - 0.6), 2)
    assert abs(plain[1] / (2 * plain[0])) > 0.2


def test_a_cliff_beside_the_best_rate_never_digs_a_hole() -> None:
    """On a coarse grid an exploding neighbour would put a parabola's bottom far below every loss."""
    found = best(lambda x, _: 3 + 0.1 * x**2 + 8 * (x >= 1), range(-4, 4))
    assert found.best_losses == pytest.approx([3.0] * 3, abs=0.01)
    two = best(lambda x, _: {-1: 3.1, 0: 3.0, 1: 8.0, 2: 12.0}[round(x)], range(-1, 3))  # too few below to tell
    assert (two.best_rate, two.fitted) == (1.0, False)
    assert two.best_losses.tolist() == [3.0] * 3


def test_an_asymmetric_curve_has_nearly_its_minimum() -> None:
    """0.12 2^(-x/2) + 0.04 2^(3x/2) falls and rises at the same speed, 0.06 ln 2, at x = 0."""
    found = best(lambda x, _: 3 + 0.12 * 2 ** (-x / 2) + 0.04 * 2 ** (1.5 * x))
    assert abs(np.log2(found.best_rate)) < 0.12
    assert found.best_losses == pytest.approx([3.16] * 3, abs=0.002)


@pytest.mark.parametrize(("vertex", "edge"), [(-9.0, -6), (9.0, 6)])
def test_a_minimum_beyond_the_grid_is_at_its_edge(vertex: float, edge: int) -> None:
    found = best(lambda x, _: 3.0 + 0.05 * (x - vertex) ** 2)
    assert (found.best_rate, found.at_edge, found.fitted) == (2.0**edge, True, False)
    assert found.best_losses == pytest.approx([3.45] * 3)


def test_diverged_runs_are_no_part_of_the_fit() -> None:
    """One seed of three diverges from 2^1 on, two grid rates above the minimum; all do from 2^3 on."""
    found = best(lambda x, seed: inf if x >= (1 if seed == 1 else 3) else 3.0 + 0.05 * (x - 0.1) ** 2)
    assert np.log2(found.best_rates) == pytest.approx([0.1] * 3, abs=1e-9)
    assert found.fitted
    assert not found.at_edge


def test_a_rate_at_which_fewer_seeds_diverge_is_better_than_one_with_a_lower_mean() -> None:
    found = best(lambda x, seed: inf if (x, seed) == (0, 2) else 3.0 + 0.05 * x**2)
    assert np.isfinite(found.best_losses).all()
    assert found.best_rate != 1.0


def test_divergence_right_above_the_best_rate_leaves_a_grid_rate_that_is_not_an_edge() -> None:
    found = best(lambda x, _: inf if x > 0 else 3.0 - x / 10)
    assert (found.best_rate, found.fitted, found.at_edge) == (1.0, False, False)
    assert found.best_losses.tolist() == [3.0] * 3


def test_a_seed_whose_parabola_has_no_minimum_in_the_window_takes_its_lowest_loss() -> None:
    """The mean is lowest at 1; seeds 0 and 1 have their minima at 0.1, seed 2 at 3.1, two grid rates away."""
    far = best(lambda x, seed: 3 + 0.05 * (x - (3.1 if seed == 2 else 0.1)) ** 2)
    assert np.log2(far.best_rates) == pytest.approx([0.1, 0.1, 3.0], abs=1e-9)
    assert not far.fitted
    assert far.best_losses == pytest.approx([3.0405, 3.0405, 3.2205])  # at 2^1
    concave = best(lambda x, seed: 3 + (-0.01 if seed == 2 else 0.05) * (x - 0.1) ** 2)
    assert np.log2(concave.best_rates) == pytest.approx([0.1, 0.1, -6.0], abs=1e-9)


def test_ties_go_to_the_lower_rate() -> None:
    flat = best(lambda _x, _: 3.0)
    assert (flat.best_rate, flat.fitted, flat.best_losses.tolist()) == (2.0**-6, False, [3.0] * 3)
    pair = best(lambda x, _: 3.0 + 0.05 * (x - 0.25) ** 2)  # 0 and 1/2 are equally good
    assert np.log2(pair.best_rate) == pytest.approx(0.25, abs=1e-9)


def test_everything_diverged_or_one_rate() -> None:
    nothing = best(lambda _x, _: inf)
    assert isnan(nothing.best_rate)
    assert np.isnan(nothing.best_losses).all()
    one = best(lambda _x, seed: 3.0 + seed, [2], seeds=2)
    assert (one.best_rate, one.at_edge, one.best_losses.tolist()) == (4.0, True, [3.0, 4.0])


def test_a_loss_beside_a_diverged_run_is_infinite_and_outside_the_rates_unknown() -> None:
    found = best(lambda x, _: inf if x >= 3 else 3.0 + 0.05 * x**2)
    assert np.isinf(found.at(2.0**2.5)).all()
    assert np.isinf(found.at(2.0**7)).all()
    assert np.isnan(found.at(2.0**-7)).all()
    assert np.isnan(best(lambda x, _: 3.0 + 0.05 * x**2).at(2.0**7)).all()
    assert found.at(4.0) == pytest.approx([3.2] * 3)


def test_below_a_lowest_rate_that_works_is_a_diverged_one() -> None:
    """Runs that diverge at a lower rate than others, by a fault of their own, spoil the way there too."""
    found = best(lambda x, _: inf if x == -4 else 3.0 + 0.05 * x**2)
    assert np.isinf(found.at(2.0**-3.5)).all() and np.isinf(found.at(2.0**-4.5)).all()
    assert np.isfinite(found.at(2.0**-2.5)).all()


def test_inside_the_window_the_loss_is_the_parabolas_and_not_the_runs_own() -> None:
    found = noisy(0.003, 0)
    low, high = found.window
    assert low < -0.4 and high > 0.4
    for octave in (low, -0.5, 0.0, 0.25, high):
        expected = [parabola.at(octave) for parabola in found.parabolas if parabola]
        assert found.at(2.0**octave) == pytest.approx(expected, abs=1e-12)
    at_a_run = found.losses[GRID.index(-0.5)]
    assert np.abs(found.at(2.0**-0.5) - at_a_run).min() > 1e-5
    assert found.at(2.0 ** GRID[1]) == pytest.approx(found.losses[1])


def test_a_points_weight_falls_with_its_rise_over_the_depth() -> None:
    """Rises 1/2, 0.1, 0, 0.25 and 3 of a depth of 1/2: weights (1 + (rise / 1)^2)^-2."""
    points, weights = _window(np.array([-1, -0.5, 0, 0.5, 1.0]), 3 + np.array([0.5, 0.1, 0.0, 0.25, 3.0]), 2) or (
        [],
        [],
    )
    assert points == [0, 1, 2, 3, 4]
    assert weights == pytest.approx([1.25**-2, 1.01**-2, 1.0, 1.0625**-2, 10.0**-2])
    assert _window(np.array([-1, -0.5, 0, 0.5]), np.full(4, 3.0), 2) is None


def test_with_one_rate_below_the_best_two_parabolas_have_to_agree() -> None:
    """Through the points around the best and through those from it upwards, whose bottoms are half an octave apart."""

    def fit(*losses: float) -> Optimum:
        return best(lambda x, _: losses[round(x) + 1], range(-1, len(losses) - 1))

    exact = best(lambda x, _: 3 + 0.05 * (x - 0.1) ** 2, range(-1, 3))
    assert exact.fitted and exact.window == (-1.0, 1.0)
    assert np.log2(exact.best_rate) == pytest.approx(0.1, abs=1e-9)
    assert fit(3.1, 3.0, 3.05, 3.5).fitted, "bottoms at 1/6 and 3/8"
    assert not fit(3.1, 3.0, 3.05, 3.15).fitted, "at 1/6 and -1/2"
    assert not fit(3.1, 3.0, 3.05, 3.06).fitted, "the upper one opens downwards"
    assert not fit(3.1, 3.0, 3.05).fitted, "nothing to compare with"


def test_a_parabola_through_three_points_has_a_bottom_only_where_it_opens_upwards() -> None:
    x = np.array([-1.0, 0.0, 0.5])
    assert _vertex(x, 3 + 0.2 * (x - 0.3) ** 2) == pytest.approx(0.3)
    assert isnan(_vertex(x, 3 - 0.2 * (x - 0.3) ** 2))


def test_only_the_largest_complete_block_of_runs_is_used() -> None:
    made = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=bool)
    rates, seeds = complete_block(made)
    assert (rates.tolist(), seeds.tolist()) == ([True, True, True, False], [True] * 3)
    rates, seeds = complete_block(np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=bool))
    assert (rates.tolist(), seeds.tolist()) == ([True] * 3, [True, True, False])
    tied = np.array([[1, 1], [1, 0]], dtype=bool)  # two rates of one seed, or two seeds at one rate
    assert [each.tolist() for each in complete_block(tied)] == [[True, False], [True, True]]
    found = best(lambda x, seed: nan if seed == 0 and x > 0 else 3.0 + 0.05 * (x - 0.1) ** 2)
    assert np.log2(found.best_rates) == pytest.approx([nan, 0.1, 0.1], nan_ok=True)


def test_estimates_over_seeds() -> None:
    """1, 2, 3: standard error 1/sqrt 3, t = 4.30265 at two degrees of freedom."""
    found = over_seeds(np.array([1.0, nan, 2.0, 3.0]))
    assert (found.value, found.high - found.value) == (2.0, pytest.approx(4.30265 / 3**0.5, rel=1e-5))
    assert over_seeds(np.array([1.0, inf])).value == inf
    assert isnan(over_seeds(np.array([1.0])).low)
    assert isnan(over_seeds(np.array([nan])).value)
