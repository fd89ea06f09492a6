"""How well the best learning rate of a small width serves larger ones, for every setting of a study.

The metrics fit_error, sensitivity and penalty answer to the three of Kalra & Barkeshli (arXiv 2605.21486), the
quality of the power law, the robustness of extrapolation and the loss at infinite width; their formulas are ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from verify.fit.forward import Slope, slope
from verify.fit.limit import FEWEST, POWERS, Curve, limits
from verify.fit.optimum import SAME, UNKNOWN, Estimate, Losses, Optimum, PerSeed, Rates, optimum, over_seeds
from verify.studies.transfer.outcomes import SettingResult, WidthResult, caveats, said
from verify.sweeps.axes import AxisName
from verify.sweeps.records import Setting, Study
from verify.values import Document

Table = Float[np.ndarray, "widths seeds"]

NO_SLOPE = Slope(float("nan"), float("nan"), float("nan"), ())


@dataclass(frozen=True)
class Ranked:
    """A setting at the largest width: its best loss, and how far it is above the first's, paired over seeds."""

    setting: Setting
    best_loss: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Comparison:
    """The settings of one optimizer at its largest width, best first, those without a best loss there last.

    `steps` is their horizon, None in a study of one; `across` their width in a grid of widths and sizes of the axis.
    """

    optimizer: str
    width: int
    ranking: tuple[Ranked, ...]
    steps: int | None = None
    axis: AxisName = "width"
    across: str | None = None

    @property
    def title(self) -> str:
        """The optimizer, with the width and the horizon where there are several."""
        steps = None if self.steps is None else f"{self.steps} steps"
        return ", ".join(filter(None, (self.optimizer, self.across, steps)))

    def of(self, results: Sequence[SettingResult]) -> list[SettingResult]:
        """Those of the results that it compares."""
        return [each for each in results if _group(each.setting) == (self.optimizer, self.steps, self.across)]


def _group(setting: Setting) -> tuple[str, int | None, str | None]:
    """What is compared with each other, and has one p: an optimizer's settings of one horizon and width."""
    return setting.optimizer, setting.steps, setting.across and setting.across.label


def analyse(study: Study) -> list[SettingResult]:
    """Every setting in the study's order; a study in progress gives what its complete runs allow."""
    results = {key: _analyse_setting(study, key) for key in study.settings}
    for kind in dict.fromkeys(map(_group, study.settings.values())):
        group = {key: each for key, each in results.items() if _group(each.setting) == kind}
        results |= _with_limits(group, {key: study.source(key) for key in group})
    return list(results.values())


def comparisons(results: Sequence[SettingResult]) -> list[Comparison]:
    """For every optimizer and horizon, its settings ordered by the best loss at its largest width.

    Differences are paired over seeds, because a seed has the same data and initial key in every setting.
    """
    compared: list[Comparison] = []
    for optimizer, steps, across in dict.fromkeys(_group(each.setting) for each in results):
        group = [each for each in results if _group(each.setting) == (optimizer, steps, across)]
        width = max((found.width for each in group for found in each.widths), default=None)
        if width is not None:
            entries = [(each.setting, *_at_width(each, width)) for each in group]
            entries.sort(key=lambda entry: np.nan_to_num(entry[1].value, nan=np.inf))
            best = entries[0][2]
            ranking = (Ranked(setting, loss, over_seeds(paired(own, best))) for setting, loss, own in entries)
            compared.append(Comparison(optimizer, width, tuple(ranking), steps, group[0].axis, across))
    return compared


def _at_width(result: SettingResult, width: int) -> tuple[Estimate, dict[int, float]]:
    for found in result.widths:
        if found.width == width:
            return found.best_loss, dict(zip(found.seeds, map(float, found.best_losses), strict=True))
    return UNKNOWN, {}


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> PerSeed:
    """Own value less the other's, for every seed that both have."""
    return np.array([own[seed] - other[seed] for seed in own if seed in other])


def rows_json(results: Sequence[SettingResult]) -> list[Document]:
    """One JSON object per setting, as `verify transfer --format json` prints it; what is not finite is null."""
    return [
        {
            "optimizer": each.setting.optimizer,
            "parameterization": each.setting.parameterization,
            "alignment": each.setting.alignment,
            "constants": list(each.setting.constants),
            "trained_as": each.trained_as,
            **_interval("drift", each.drift),
            each.along.many: {str(found.width): _width_json(found) for found in each.widths},
            f"divergence_{each.axis}": each.divergence_width,
            "fit_error": _finite(each.fit_error),
            "sensitivity": _interval("value", each.sensitivity),
            "limit": _interval("value", each.limit),
            "power": _interval("value", each.power),
            "penalty": _interval("value", each.penalty),
            "notes": list(each.notes),
        }
        for each in results
    ]


def _width_json(found: WidthResult) -> Document:
    return {
        "best_rate": _finite(found.best_rate),
        **_interval("best_loss", found.best_loss),
        "fitted": found.fitted,
        "at_edge": found.at_edge,
        "diverged": found.diverged,
        "lost": _interval("value", found.lost),
        "lost_diverged": found.lost_diverged,
    }


def _interval(name: str, found: Estimate | Slope) -> dict[str, float | None]:
    return {name: _finite(found.value), "low": _finite(found.low), "high": _finite(found.high)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _analyse_setting(study: Study, key: str) -> SettingResult:
    widths = study.widths(key)
    seeds = tuple(sorted({seed for width in widths for made in study.runs(key, width).values() for seed in made}))
    tables = {width: losses_of(study, key, width, seeds) for width in widths}
    source = study.source(key)
    alike = None if source == key else study.settings[source].name if source in study.settings else source
    axis = study.conditions.axis
    return analyse_setting(study.settings[key], seeds, tables, study.untrained_loss, alike, axis=axis)


def analyse_setting(
    setting: Setting,
    seeds: tuple[int, ...],
    tables: Mapping[int, tuple[Rates, Losses]],
    untrained_loss: float,
    trained_as: str | None = None,
    *,
    axis: AxisName = "width",
) -> SettingResult:
    """One setting from its tables of losses by width, growing: all but what needs the others of its optimizer."""
    widths = list(tables)
    optima = {width: optimum(*tables[width]) for width in widths}
    known = [width for width in widths if np.isfinite(optima[width].best_rate)]
    base_rate = optima[known[0]].best_rate if known else float("nan")
    results = [_width_result(width, seeds, tables[width], optima[width], base_rate) for width in widths]
    failed = [width for width in widths if known and _fails(*tables[width], base_rate, untrained_loss)]
    best_rates = np.array([found.best_rates for found in results]).reshape(len(widths), len(seeds))
    sensitivity, notes = _sensitivity({width: optima[width] for width in known}, axis)
    return SettingResult(
        setting=setting,
        trained_as=trained_as,
        widths=tuple(results),
        drift=_power_law(widths, best_rates),
        fit_error=_fit_error(widths, best_rates),
        sensitivity=sensitivity,
        divergence_width=failed[0] if failed else None,
        notes=(*caveats(results, untrained_loss, axis), *notes),
        axis=axis,
    )


def losses_of(study: Study, key: str, width: int, seeds: Sequence[int]) -> tuple[Rates, Losses]:
    """As `Study.losses`, with a column for each of the seeds, and inf where a run diverged."""
    runs = study.runs(key, width)
    table = np.full((len(runs), len(seeds)), np.nan)
    for row, made in enumerate(runs.values()):
        for seed, record in made.items():
            trained = record.diverged is None and np.isfinite(record.loss)
            table[row, seeds.index(seed)] = record.loss if trained else np.inf
    return np.array(list(runs)), table


def _width_result(
    width: int, seeds: tuple[int, ...], table: tuple[Rates, Losses], found: Optimum, base_rate: float
) -> WidthResult:
    rates, losses = table
    own = abs(np.log2(base_rate / found.best_rate)) <= SAME  # also where a grid rate stands for a fitted one
    lost = 0.0 * found.best_losses if own else found.at(base_rate) - found.best_losses
    return WidthResult(
        width=width,
        seeds=seeds,
        rates=rates,
        losses=losses,
        best_rate=found.best_rate,
        best_rates=found.best_rates,
        best_loss=over_seeds(found.best_losses),
        best_losses=found.best_losses,
        fitted=found.fitted,
        at_edge=found.at_edge,
        diverged=int(np.isinf(losses).sum()),
        lost=over_seeds(lost),
        lost_diverged=int(np.isinf(lost).sum()),
    )


def _fails(rates: Rates, losses: Losses, rate: float, untrained_loss: float) -> bool:
    """Whether most seeds diverge, or end above the untrained loss, at the grid rate nearest to `rate`.

    Where all rates tried lie above `rate`, a failure says nothing of it, and counts as none.
    """
    nearest = int(np.argmin(np.abs(np.log2(rates / rate))))
    made = losses[nearest][~np.isnan(losses[nearest])]
    return bool(np.mean(made > untrained_loss) > 0.5 and np.log2(rates[0] / rate) <= SAME)


def _complete(widths: Sequence[int], table: Table) -> tuple[list[int], Float[np.ndarray, "kept complete"]]:
    """The widths at which any seed has a value, and the seeds that have one at all of those."""
    rows = [row for row in range(len(widths)) if not np.isnan(table[row]).all()]
    kept = table[rows]
    return [widths[row] for row in rows], kept[:, ~np.isnan(kept).any(axis=0)]


def _power_law(widths: Sequence[int], table: Table) -> Slope:
    """`fit.slope` over what is complete; NaN where fewer than two widths, or no seed, remain."""
    kept, values = _complete(widths, table)
    return slope(kept, values) if len(kept) > 1 and values.size else NO_SLOPE


def _fit_error(widths: Sequence[int], best_rates: Table) -> float:
    """RMS residual of log2(best rate), averaged over seeds, around the power law, with widths - 2 freedoms."""
    kept, values = _complete(widths, best_rates)
    if len(kept) < 3 or not values.size:
        return float("nan")
    x, y = np.log2(kept), np.log2(values).mean(axis=1)
    residuals = y - np.polynomial.Polynomial.fit(x, y, 1)(x)
    return float((residuals @ residuals / (len(kept) - 2)) ** 0.5)


def _sensitivity(optima: Mapping[int, Optimum], axis: AxisName) -> tuple[Slope, list[str]]:
    """The slope of log S, NaN where log S is not finite, and in words why it or a width is left out."""
    costs: dict[int, PerSeed] = {}
    for width, found in optima.items():
        aside = found.at(2 * found.best_rate) + found.at(found.best_rate / 2)
        costs[width] = aside / 2 - found.best_losses
    diverging = [width for width, cost in costs.items() if np.isinf(cost).any()]
    flat = [width for width, cost in costs.items() if (cost <= 0).any()]
    untried = [width for width, cost in costs.items() if np.isnan(cost).all()]
    notes = [
        *said(diverging, "diverges at twice or half the best rate, so the sensitivity is unknown", axis),
        *said(flat, "nothing is lost at twice and half the best rate, so the sensitivity is unknown", axis),
        *said(untried, "twice or half the best rate was not tried, left out of the sensitivity", axis),
    ]
    return _power_law(list(costs), np.array(list(costs.values()))) if costs else NO_SLOPE, notes


def _with_limits(group: Mapping[str, SettingResult], sources: Mapping[str, str]) -> dict[str, SettingResult]:
    """The results of one optimizer's settings with L_inf, p and penalty, from one fit per seed.

    Settings that share their runs (`sources`) enter the fit of p once.
    """
    curves: dict[int, dict[str, Curve]] = {}
    for key, each in group.items():
        for seed, curve in _best_loss_curves(each).items():
            curves.setdefault(seed, {})[key] = curve
    found: dict[str, dict[int, float]] = {key: {} for key in group}
    powers: dict[int, float] = {}
    for seed, by_key in curves.items():
        distinct = list({sources[key]: key for key in by_key}.values())
        powers[seed], values = limits(by_key, distinct)
        for key, value in values.items():
            found[key][seed] = value
    ends = sum(min(abs(power - end) for end in POWERS) < 0.01 for power in powers.values())
    undetermined = f"p is at the end of its range for {ends} of {len(powers)} seeds, so the limit is unknown"
    reasons = {key: [undetermined] if found[key] and ends else _no_limit(each) for key, each in group.items()}
    if ends:
        found = {key: {} for key in group}
    means = {key: over_seeds(np.array(list(by_seed.values()))) for key, by_seed in found.items()}
    lowest = min(means, key=lambda key: np.nan_to_num(means[key].value, nan=np.inf))
    completed: dict[str, SettingResult] = {}
    for key, each in group.items():
        completed[key] = replace(
            each,
            limit=means[key],
            power=over_seeds(np.array([powers[seed] for seed in found[key]])),
            penalty=over_seeds(paired(found[key], found[lowest])),
            notes=(*each.notes, *reasons[key]),
        )
    return completed


def _no_limit(result: SettingResult) -> list[str]:
    """Why a setting has no limit and no part in the fit of p: curves that are no power law would spoil it for all."""
    known = [found for found in result.widths if np.isfinite(found.best_rate)]
    losses = [found.best_loss.value for found in known]
    if len(known) < FEWEST:
        return [f"fewer than {FEWEST} {result.along.many} have a best loss, so the limit is unknown"]
    if any(found.at_edge for found in known):
        return ["a best rate is at the edge of those tried, so the limit is unknown"]
    if any(later >= earlier for earlier, later in pairwise(losses)):
        return [f"the best loss does not fall from each {result.axis} to the next, so the limit is unknown"]
    return []


def _best_loss_curves(result: SettingResult) -> dict[int, Curve]:
    """(widths, best losses) by seed, of the seeds that have one at every width that has any; none without a limit."""
    if _no_limit(result):
        return {}
    known = [found for found in result.widths if np.isfinite(found.best_rate)]
    losses = np.array([found.best_losses for found in known])
    curves = {seed: ([found.width for found in known], losses[:, i]) for i, seed in enumerate(known[0].seeds)}
    return {seed: curve for seed, curve in curves.items() if not np.isnan(curve[1]).any()}
