"""The best learning rate of one width: a parabola in log2(rate) through the losses around their minimum.

Losses are arrays [rates, seeds]: inf where a run diverged, NaN where it has not been made.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from verify.fit.forward import student_half_width

Rates = Float[np.ndarray, " rates"]
Losses = Float[np.ndarray, "rates seeds"]
PerSeed = Float[np.ndarray, " seeds"]
Points = Float[np.ndarray, " points"]

WINDOW = 1.0  # octaves around the best grid rate whose points are fitted
FARTHEST = 2.5  # octaves from which it takes the second point of a side that has fewer within WINDOW
AGREED = 0.5  # octaves within which two parabolas of three points each are one curve
SAME = 1e-9  # octaves within which two rates are one


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval, whose ends are NaN where they are not known."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def over_seeds(values: PerSeed) -> Estimate:
    """Mean and Student's 95 % interval over the seeds that are not NaN; inf, without interval, where one is inf."""
    known = values[~np.isnan(values)]
    if not known.size:
        return UNKNOWN
    if np.isinf(known).any():
        return Estimate(float("inf"), float("nan"), float("nan"))
    mean = float(known.mean())
    spread = float(known.std(ddof=1)) / known.size**0.5 if known.size > 1 else float("nan")
    half = student_half_width(spread, known.size - 1)
    return Estimate(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Parabola:
    """loss = bottom + curvature (x - vertex)^2 in x = log2(rate)."""

    vertex: float
    bottom: float
    curvature: float

    def at(self, x: float) -> float:
        """The loss at x = log2(rate)."""
        return self.bottom + self.curvature * (x - self.vertex) ** 2


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best rate of every seed, and the loss of every seed at their one geometric mean.

    The loss is taken at one rate for all seeds, because whoever trains chooses one; taken so, each seed's noise
    enters the choice only by its share, and the bias of a minimum over noisy points is small. Where not every seed
    is `fitted`, the rates are of the unfitted seeds' own lowest losses, and the losses are those at the grid rate
    with the lowest mean over seeds. `at_edge`: that grid rate is the lowest or the highest tried, so that a better
    one may lie beyond. NaN for seeds that diverged at that rate or whose runs are incomplete.
    """

    rates: Rates
    losses: Losses
    best_rates: PerSeed
    best_rate: float
    best_losses: PerSeed
    fitted: bool
    at_edge: bool
    parabolas: tuple[Parabola | None, ...] = ()
    window: tuple[float, float] = (float("nan"), float("nan"))

    def at(self, rate: float) -> PerSeed:
        """The loss of every seed at any rate: inf beside a diverged run, NaN outside the rates tried.

        Inside the fitted window it is the parabola. Between other neighbouring grid rates x_0 < x_1 it is the
        chord, less curvature (x - x_0) (x_1 - x), which makes it exact where the whole curve is one parabola.
        """
        x = np.log2(rate)
        result = np.full(len(self.best_rates), np.nan)
        for seed, losses in enumerate(self.losses.T):
            parabola = self.parabolas[seed] if self.fitted else None
            if parabola and self.window[0] - SAME <= x <= self.window[1] + SAME:
                result[seed] = parabola.at(x)
            elif not np.isnan(losses).any():
                curvature = parabola.curvature if parabola else 0.0
                result[seed] = _between(np.log2(self.rates), losses, x, curvature)
        return result


def optimum(rates: Rates, losses: Losses) -> Optimum:
    """Fit every seed's parabola around the grid rate at which the fewest seeds diverge and their mean is lowest.

    Only the largest block of rates and seeds without a missing run is used. A seed is fitted where its
    parabola opens upwards and has its vertex in the window; otherwise its own lowest loss gives its rate. An
    asymmetric curve moves the vertex by about a tenth of an octave, alike at all widths where its shape is alike,
    so that slopes across widths do not see it. All NaN where every run diverged. Ties go to the lower rate.
    """
    rows, columns = complete_block(~np.isnan(losses))
    rates, losses = rates[rows], np.where(columns, losses[rows], np.nan)
    seeds = np.arange(len(columns))
    failures = (~np.isfinite(losses[:, columns])).sum(axis=1)
    sums = np.where(np.isfinite(losses), losses, 0.0).sum(axis=1)
    trained_counts = columns.sum() - failures
    if not trained_counts.any():
        nothing = np.full(len(seeds), np.nan)
        return Optimum(rates, losses, nothing, float("nan"), nothing, fitted=False, at_edge=False)
    anchor = int(np.lexsort((sums / np.maximum(trained_counts, 1), failures))[0])
    trained = np.isfinite(losses[anchor])

    x = np.log2(rates)
    parabolas: list[Parabola | None] = [None] * len(seeds)
    window = (float("nan"), float("nan"))
    near = _window(x, losses[:, trained].mean(axis=1), anchor)
    if near is not None:
        points, weights = near
        window = (float(x[points[0]]), float(x[points[-1]]))
        for seed in seeds[trained]:
            parabolas[seed] = _fit(x[points], losses[points, seed], weights)
    logs = np.full(len(seeds), np.nan)
    for seed in seeds[trained]:
        parabola = parabolas[seed]
        logs[seed] = parabola.vertex if parabola else x[np.argmin(losses[:, seed])]
    best = float(logs[trained].mean())
    fitted = all(parabolas[seed] for seed in seeds[trained])
    best_losses = np.where(trained, losses[anchor], np.nan)
    if fitted:
        best_losses = np.array([parabola.at(best) if parabola else np.nan for parabola in parabolas])
    at_edge = anchor in (0, len(rates) - 1)
    return Optimum(rates, losses, 2**logs, 2**best, best_losses, fitted, at_edge, tuple(parabolas), window)


def complete_block(
    made: Bool[np.ndarray, "rates seeds"],
) -> tuple[Bool[np.ndarray, " rates"], Bool[np.ndarray, " seeds"]]:
    """Which rates and seeds form the largest block without a missing run, adding seeds in the order of their runs."""
    order = np.argsort(-made.sum(axis=0), kind="stable")
    sizes = [count * int(made[:, order[:count]].all(axis=1).sum()) for count in range(1, len(order) + 1)]
    count = len(sizes) - int(np.argmax(sizes[::-1]))  # of equal blocks the one with more seeds
    columns = np.isin(np.arange(len(order)), order[:count])
    return np.asarray(made[:, columns].all(axis=1)), columns


def _window(x: Rates, means: Rates, anchor: int) -> tuple[list[int], Points] | None:
    """The grid points to fit and their weights; None where points are missing or the curve is flat.

    Two rates below the best grid rate and one above are needed: three points could not contradict a parabola. With one
    below and two above, the three around the best are fitted where the three from the best upwards agree with them.
    Loss explodes on the high side, so a point that rises far above the best must not count: its weight is
    (1 + (rise / 2 depth)^2)^-2, with depth the rise of the window's lowest rate. An ordinary point keeps most of its
    weight; an exploding one, weighted, is as good as absent. All this is of the mean over seeds, so that every
    seed's fit is linear in its losses.
    """
    below = _side(x[anchor] - x[:anchor][::-1], means[:anchor][::-1])
    above = _side(x[anchor + 1 :] - x[anchor], means[anchor + 1 :])
    if below == 1 and above >= 2:
        around, upwards = (_vertex(x[first : first + 3], means[first : first + 3]) for first in (anchor - 1, anchor))
        return (list(range(anchor - 1, anchor + 2)), np.ones(3)) if abs(around - upwards) <= AGREED else None
    if below < 2 or above < 1:
        return None
    points = list(range(anchor - below, anchor + above + 1))
    rises = means[points] - means[anchor]
    return (points, (1 + (rises / rises[0] / 2) ** 2) ** -2) if rises[0] > 0 else None


def _vertex(x: Points, losses: Points) -> float:
    """log2(rate) of the bottom of the parabola through three points, NaN where it does not open upwards."""
    curvature, linear, _ = np.polyfit(x - x[1], losses, 2)
    return float(x[1] - linear / (2 * curvature)) if curvature > 0 else float("nan")


def _side(distances: Rates, means: Rates) -> int:
    """How many points of one side, going outwards, to fit: up to the first at which a seed diverged."""
    taken = 0
    for distance, mean in zip(distances, means, strict=True):
        if not np.isfinite(mean) or distance > (WINDOW if taken >= 2 else FARTHEST) + SAME:
            break
        taken += 1
    return taken


def _fit(x: Points, losses: Points, weights: Points) -> Parabola | None:
    """Weighted least squares; None for a parabola without a minimum among the points, or with one that is no loss."""
    middle = x.mean()
    design = np.stack([np.ones_like(x), x - middle, (x - middle) ** 2], axis=1)
    root = np.sqrt(weights)
    constant, linear, curvature = map(float, np.linalg.lstsq(design * root[:, None], losses * root, rcond=None)[0])
    if curvature <= 0:
        return None
    vertex, bottom = float(middle) - linear / (2 * curvature), constant - linear**2 / (4 * curvature)
    return Parabola(vertex, bottom, curvature) if x[0] <= vertex <= x[-1] and bottom >= 0 else None


def _between(grid: Rates, losses: Rates, x: float, curvature: float) -> float:
    nearest = int(np.argmin(np.abs(grid - x)))
    if abs(grid[nearest] - x) <= SAME:
        return float(losses[nearest])
    if not grid[0] < x < grid[-1]:  # above a highest rate that diverged, higher rates diverge too
        return float("inf") if x > grid[-1] and np.isinf(losses[-1]) else float("nan")
    right = int(np.searchsorted(grid, x))
    if np.isinf(losses[right - 1 : right + 1]).any():
        return float("inf")
    before, after = x - grid[right - 1], grid[right] - x
    chord = (after * losses[right - 1] + before * losses[right]) / (before + after)
    return float(chord - curvature * before * after)
