"""What the analysis of a transfer study says of one setting: numbers, and in words what is weak about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from verify.fit.forward import Slope
from verify.fit.optimum import UNKNOWN, Estimate, Losses, PerSeed, Rates
from verify.sweeps.axes import AXES, AxisName, Growing
from verify.sweeps.records import Setting


@dataclass(frozen=True, eq=False)
class WidthResult:
    """One width, or size along another axis.

    `losses` [rates, seeds] are inf where a run diverged and NaN where it has not been made.

    `best_rates` and `best_losses` are per seed (see `optimum.Optimum`), `best_rate` is the rates' geometric mean.
    `diverged` counts runs. `lost` is L(n, rho*(n0)) - L(n, rho*(n)) in nats, n0 the smallest width with a best
    rate, at the rho*(n0) that was found (its own scatter over seeds is not in the interval); it is inf where a seed
    diverged at rho*(n0) or at a grid rate beside it, and `lost_diverged` counts those seeds.
    """

    width: int
    seeds: tuple[int, ...]
    rates: Rates
    losses: Losses
    best_rate: float
    best_rates: PerSeed
    best_loss: Estimate
    best_losses: PerSeed
    fitted: bool
    at_edge: bool
    diverged: int
    lost: Estimate
    lost_diverged: int


@dataclass(frozen=True, eq=False)
class SettingResult:
    """One setting; what is not known is NaN, and `notes` say why.

    `drift`: slope of log(best base rate) on log(width); 0 where the rate transfers.
    `fit_error`: sqrt(sum_n e_n^2 / (widths - 2)) in octaves, e_n = log2(best rate) less the fitted power law.
    `sensitivity`: slope of log S on log(width), S(n) = (L(n, 2 rho*) + L(n, rho*/2)) / 2 - L(n, rho*).
    `limit`, `power`: L_inf and p of L*(n) = L_inf + A n^-p, with p shared by the optimizer's settings, because a few
    widths do not determine one for each; fitted seed by seed, so that the intervals include the uncertainty of p.
    `penalty`: L_inf less that of the optimizer's setting with the lowest, paired over seeds; that setting has 0.
    `divergence_width`: the smallest width at which most seeds, at the grid rate nearest to rho*(n0), diverge or end
    above the untrained loss; None where there is none.
    `trained_as`: the name of the equivalent setting whose runs these are.
    `axis`: along which `widths` are sizes, and drift and all other powers are taken.
    """

    setting: Setting
    trained_as: str | None
    widths: tuple[WidthResult, ...]
    drift: Slope
    fit_error: float
    sensitivity: Slope
    divergence_width: int | None
    limit: Estimate = UNKNOWN
    power: Estimate = UNKNOWN
    penalty: Estimate = UNKNOWN
    notes: tuple[str, ...] = ()
    axis: AxisName = "width"

    @property
    def along(self) -> Growing:
        """What its sizes are called."""
        return AXES[self.axis]


def said(widths: Sequence[int], what: str, axis: AxisName = "width") -> list[str]:
    """One note that names the widths; none where there are none."""
    return [f"{axis} {', '.join(map(str, widths))}: {what}"] if widths else []


def caveats(results: Sequence[WidthResult], untrained_loss: float, axis: AxisName = "width") -> list[str]:
    """What is missing, left out or weak at the widths of one setting."""
    known = [each for each in results if np.isfinite(each.best_rate)]
    if not known:
        return [f"no {axis} has a best rate: every run diverged, or none has been made"]
    said_of = partial(said, axis=axis)
    seeds = known[0].seeds
    absent = [str(seed) for i, seed in enumerate(seeds) if any(np.isnan(each.best_rates[i]) for each in known)]
    larger, smallest = known[1:], known[0].width
    return [
        *said_of([each.width for each in results if each not in known], "every run diverged, left out of all fits"),
        *said_of([each.width for each in results if np.isnan(each.losses).any()], "runs are missing"),
        *([f"seed {', '.join(absent)}: no best rate at some {axis}, left out of all fits"] if absent else []),
        *said_of([each.width for each in known if each.at_edge], "the best rate is the lowest or highest tried"),
        *said_of([each.width for each in known if not each.fitted], "not a parabola: best rates are on the grid"),
        *said_of([each.width for each in known if each.best_loss.value > untrained_loss], "nothing is learnt"),
        *said_of(
            [each.width for each in larger if each.lost_diverged],
            f"diverges at or beside the best rate of {axis} {smallest}",
        ),
        *said_of(
            [each.width for each in larger if np.isnan(each.lost.value)],
            f"the best rate of {axis} {smallest} lies outside the rates tried",
        ),
    ]
