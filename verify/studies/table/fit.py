"""What a table of runs says: the best rate of every width, its drift, whether it transfers, and what to run next.

Fits are those of `verify transfer` (`verify.studies.transfer.analysis`), so that one's own stored study gives the same
numbers. With several axes one law is fitted to the best rates of all cells,

    log2(best rate) = constant + sum over axes of power x log2(size),

by ordinary least squares; intervals are Student's, over seeds where there are several and over cells otherwise.

Where no seed has a parabola, a best rate is the lowest loss of the grid, for all seeds alike, and its place between
its neighbours is not known: half a step of the grid each way, and no end where it is the lowest or highest tried. The
interval then reaches as far as these could move the drift, sum_i |w_i| h_i with w_i the weights of least squares in
log2(size). Where some seeds have one, the others' grid rates scatter with them, as the interval over seeds shows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from verify.fit.optimum import SAME, UNKNOWN, Estimate, Losses, Optimum, Rates, optimum
from verify.fit.slopes import student_half_width
from verify.studies.table.runs import Reals, Runs
from verify.studies.transfer.analysis import analyse_setting
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.sweeps.records import Setting

Answer = Literal["transfers", "does not transfer", "not decided"]
NO_LOSS = float("inf")
"""Of a network that has learnt nothing: a table does not say it."""
MARGIN = 0.01
"""Nats below which a loss by transferring is none."""


@dataclass(frozen=True)
class Proposal:
    """A rate worth running at a width, and why."""

    width: float
    rate: float
    reason: str


@dataclass(frozen=True, eq=False)
class Law:
    """Powers of the best rate by axis, of one group."""

    powers: Mapping[str, Estimate]
    cells: int


@dataclass(frozen=True, eq=False)
class Fit:
    """One group: its result as of a setting of a study, the answer with its cost, and the rates to run next.

    `drift` is the result's, its interval with what a coarse grid leaves open. `cost` is the loss at the largest width
    for the smallest one's best rate; from one seed it is implied by the drift's interval and the curvature there. `law`
    is None with one axis alone; `axis` is what `widths` are sizes of.
    """

    group: str
    axis: str
    seeds: int
    result: SettingResult
    drift: Estimate
    cost: Estimate
    answer: Answer
    next: tuple[Proposal, ...]
    law: Law | None = None


def fit(runs: Runs, margin: float = MARGIN) -> list[Fit]:
    """Every group of the table, in its order there."""
    found: list[Fit] = []
    for group in dict.fromkeys(runs.groups.tolist()):
        rows = runs.groups == group
        law = _law(runs, rows) if runs.others else None
        beside = np.column_stack([runs.rates * 0, *(runs.axes[name] for name in runs.others)])
        for values in np.unique(beside[rows], axis=0):
            chosen = rows & (beside == values).all(axis=1)
            found.append(_fit_group(runs, chosen, margin, law))
    return found


def tables(runs: Runs, rows: np.ndarray, axis: str) -> tuple[tuple[int, ...], dict[float, tuple[Rates, Losses]]]:
    """(seeds, (rates, losses [rates, seeds]) by size), NaN where a run is missing."""
    seeds, seed_at = np.unique(runs.seeds[rows], return_inverse=True)
    sizes = runs.axes[axis][rows]
    found: dict[float, tuple[Rates, Losses]] = {}
    for size in np.unique(sizes):
        here = sizes == size
        rates, rate_at = np.unique(runs.rates[rows][here], return_inverse=True)
        losses = np.full((len(rates), len(seeds)), np.nan)
        losses[rate_at, seed_at[here]] = runs.losses[rows][here]
        found[float(size)] = (rates, losses)
    return tuple(map(int, seeds)), found


def _fit_group(runs: Runs, rows: np.ndarray, margin: float, law: Law | None) -> Fit:
    seeds, by_size = tables(runs, rows, runs.axis)
    label = runs.label(int(np.flatnonzero(rows)[0]))
    sized = {int(size) if size == int(size) else size: table for size, table in by_size.items()}
    result = analyse_setting(Setting(label, "", "", ()), seeds, sized, NO_LOSS)  # type: ignore[arg-type]
    drift = _drift(result)
    cost = _cost(result, drift)
    answer = _answer(cost, margin, _known(result))
    return Fit(label, runs.axis, len(seeds), result, drift, cost, answer, tuple(_next(result)), law)


def _known(result: SettingResult) -> list[WidthResult]:
    """The widths that have a best rate."""
    return [found for found in result.widths if np.isfinite(found.best_rate)]


def _drift(result: SettingResult) -> Estimate:
    """The drift, its interval as far as best rates could lie between those tried, or beyond them."""
    known, drift = _known(result), result.drift
    if len(known) < 2 or np.isnan(drift.low):
        return Estimate(drift.value, drift.low, drift.high)
    logs = np.log2([found.width for found in known])
    weights = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    down, up = _reach(weights, [optimum(found.rates, found.losses) for found in known])
    return Estimate(drift.value, drift.low - down, drift.high + up)


def _reach(weights: Reals, found: Sequence[Optimum]) -> tuple[float, float]:
    """How far down and up a sum of best rates in octaves, times weights, could go for what the grid leaves open."""
    below, above = np.array([_room(each) for each in found]).T
    counted = abs(weights) > SAME
    own, below, above = weights[counted], below[counted], above[counted]
    return float(np.where(own > 0, below, above) @ abs(own)), float(np.where(own > 0, above, below) @ abs(own))


def _room(found: Optimum) -> tuple[float, float]:
    """Octaves by which the best rate may lie lower or higher than where it was put; 0 where a seed has a parabola."""
    if any(found.parabolas):
        return 0.0, 0.0
    tried = found.rates[np.isfinite(found.losses).any(axis=1)]
    steps = np.log2(tried / found.best_rate)
    below, above = steps[steps < -SAME], steps[steps > SAME]
    return (-below.max() / 2 if below.size else np.inf), (above.min() / 2 if above.size else np.inf)


def on_grid(found: WidthResult) -> bool:
    """Whether the best rate is one of those tried, or half a step of them aside, for want of a parabola."""
    return bool(np.isfinite(found.best_rate)) and not any(optimum(found.rates, found.losses).parabolas)


def _cost(result: SettingResult, drift: Estimate) -> Estimate:
    """What the largest width loses at the best rate of the smallest."""
    known = _known(result)
    if len(known) < 2:
        return UNKNOWN
    last = known[-1]
    if np.isfinite([last.lost.low, last.lost.high]).all() or np.isinf(last.lost.value):
        return last.lost
    parabola = next((each for each in optimum(last.rates, last.losses).parabolas if each is not None), None)
    if parabola is None or not np.isfinite([drift.low, drift.high]).all():
        return last.lost
    octaves = np.log2(last.width / known[0].width)
    ends = sorted(abs(each * octaves) for each in (drift.low, drift.high))
    spans_zero = drift.low <= 0 <= drift.high
    least = 0.0 if spans_zero else parabola.curvature * ends[0] ** 2
    return Estimate(last.lost.value, float(least), float(parabola.curvature * ends[1] ** 2))


def _answer(cost: Estimate, margin: float, known: Sequence[WidthResult]) -> Answer:
    """An equivalence test: the whole interval below the margin, the whole interval above it, or neither.

    What a coarse grid did not try may be better at the largest width, so that a cost that was not seen is not none.
    """
    if np.isinf(cost.value) or cost.low > margin:
        return "does not transfer"
    return "transfers" if cost.high < margin and not on_grid(known[-1]) else "not decided"


def _next(result: SettingResult, most: int = 4) -> list[Proposal]:
    """The rates that would narrow the drift most: beyond an edge, between coarse neighbours, then at the ends.

    A width's best rate enters the drift by its distance from the middle of the widths; among equals, rates an octave
    aside of the best say most about the vertex of a parabola.
    """
    known = _known(result)
    if not known:
        return []
    logs = np.log2([found.width for found in known])
    leverage = np.abs(logs - logs.mean())
    found: list[tuple[int, float, Proposal]] = []
    for place, each in enumerate(known):
        finite = each.rates[np.isfinite(each.losses).any(axis=1)]
        if each.at_edge:
            low = each.best_rate <= finite[0] * 1.0001
            rate = float(finite[0] / 2 if low else finite[-1] * 2)
            found.append((0, -leverage[place], Proposal(each.width, rate, "the best rate is the edge of those tried")))
        elif not each.fitted:
            at = int(np.argmin(np.abs(np.log2(each.rates / each.best_rate))))
            for one, two in ((at - 1, at), (at, at + 1)):
                if one >= 0 and two < len(each.rates):
                    rate = float((each.rates[one] * each.rates[two]) ** 0.5)
                    found.append((1, -leverage[place], Proposal(each.width, rate, "limited by the grid")))
        else:
            for factor in (0.5, 2.0):
                rate, reason = float(each.best_rate * factor), "an octave aside of the best rate, one more seed"
                found.append((2, -leverage[place], Proposal(each.width, rate, reason)))
    found.sort(key=lambda entry: entry[:2])
    return [proposal for _, _, proposal in found[:most]]


def _law(runs: Runs, rows: np.ndarray) -> Law:
    """The joint law of one group, over the seeds that every cell with a best rate has.

    The power of an axis of one size is NaN, and all are where cells are fewer than unknowns, where axes go together, or
    where no seed is in all cells.
    """
    names = [name for name, sizes in runs.axes.items() if len(np.unique(sizes[rows])) > 1] or list(runs.axes)
    sizes = np.column_stack([runs.axes[name] for name in names])
    cells: list[np.ndarray] = []
    best: list[dict[int, float]] = []
    optima: list[Optimum] = []
    for cell in np.unique(sizes[rows], axis=0):
        seeds, table = tables(runs, rows & (sizes == cell).all(axis=1), names[0])
        found = optimum(*next(iter(table.values())))
        rates = zip(seeds, found.best_rates, strict=True)
        known = {seed: float(np.log2(rate)) for seed, rate in rates if np.isfinite(rate)}
        if known:
            cells.append(np.log2(cell))
            best.append(known)
            optima.append(found)
    nothing = Law(dict.fromkeys(runs.axes, UNKNOWN), len(cells))
    common = sorted(set.intersection(*map(set, best))) if best else []
    design = np.column_stack([np.ones(len(cells)), np.array(cells)]) if cells else np.ones((0, len(names) + 1))
    if not common or np.linalg.matrix_rank(design) < design.shape[1]:
        return nothing
    values = np.array([[known[seed] for seed in common] for known in best])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    means = coefficients.mean(axis=1)
    if len(common) > 1:
        spreads, freedom = coefficients.std(axis=1, ddof=1) / len(common) ** 0.5, len(common) - 1
    else:
        freedom = len(cells) - design.shape[1]
        residuals = values[:, 0] - design @ means
        variance = float(residuals @ residuals) / max(freedom, 1)
        spreads = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    powers: dict[str, Estimate] = dict.fromkeys(runs.axes, UNKNOWN)
    for place, name in enumerate(names, 1):
        mean, half = float(means[place]), student_half_width(float(spreads[place]), freedom)
        down, up = _reach(np.linalg.pinv(design)[place], optima)
        powers[name] = Estimate(mean, mean - half - down, mean + half + up)
    return Law(powers, len(cells))
