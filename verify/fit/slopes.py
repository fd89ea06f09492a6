"""Slopes of log size against log width, with their intervals over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

Sizes = Float[np.ndarray, "widths seeds"]
CURVED = 0.15


@dataclass(frozen=True)
class Slope:
    """A power of the width: size ~ n^value, with a 95 % interval over seeds.

    `local` are the slopes between neighbouring widths; `curved` says that they drift by more than 0.15 from one end
    to the other, and by more than the seeds scatter, so that the widths are too small for one power to describe.
    """

    value: float
    low: float
    high: float
    local: tuple[float, ...]
    curved: bool = False

    def negated(self) -> "Slope":
        """The exponent x of size n^-x."""
        return Slope(-self.value, -self.high, -self.low, tuple(-each for each in self.local), self.curved)

    def times(self, factor: float) -> "Slope":
        """The slope of the size to the power of `factor`, which is not negative."""
        local = tuple(each * factor for each in self.local)
        return Slope(self.value * factor, self.low * factor, self.high * factor, local, self.curved)

    def plus(self, exponent: float) -> "Slope":
        """The slope of the size times n^exponent."""
        local = tuple(each + exponent for each in self.local)
        return Slope(self.value + exponent, self.low + exponent, self.high + exponent, local, self.curved)


def student_half_width(spread: float, freedom: int) -> float:
    """Half of the 95 % interval for a standard error `spread` with that many degrees of freedom."""
    return float(stdtrit(freedom, 0.975)) * spread if freedom > 0 else float("nan")


def slope(widths: Sequence[int], sizes: Sizes) -> Slope:
    """Least-squares slope of log size on log width, per seed; its mean, and Student's 95 % interval over seeds.

    With one seed the interval comes from the residuals of the fit. NaN in, NaN out.
    """
    x = np.log(np.asarray(widths, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(np.asarray(sizes, dtype=float))
    y = np.where(np.isfinite(y), y, np.nan)
    centred = x - x.mean()
    per_seed = centred @ y / (centred @ centred)
    value = float(per_seed.mean())
    seeds = y.shape[1]
    if seeds > 1:
        half = student_half_width(float(per_seed.std(ddof=1)) / seeds**0.5, seeds - 1)
    else:
        residual = y[:, 0] - y[:, 0].mean() - value * centred
        freedom = len(x) - 2
        variance = float(residual @ residual) / max(freedom, 1)
        half = student_half_width((variance / float(centred @ centred)) ** 0.5, freedom)
    local = np.diff(y, axis=0) / np.diff(x)[:, None]
    drift = local[-1] - local[0]
    scatter = student_half_width(float(drift.std(ddof=1)) / seeds**0.5, seeds - 1) if seeds > 1 else 0.0
    curved = bool(abs(drift.mean()) > max(CURVED, scatter))
    return Slope(value, value - half, value + half, tuple(map(float, local.mean(axis=1))), curved)
