"""The loss at infinite width: L*(n) = L_inf + A n^-p fitted to best losses, with one p for many settings."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Losses = Float[np.ndarray, " widths"]
PerPower = Float[np.ndarray, " powers"]
Curve = tuple[Sequence[int], Losses]
"""(widths, best loss at each)."""

POWERS = (0.1, 2.0)
"""Where p is looked for: below, n^-p is hardly more than a logarithm; above, the loss has converged."""
FEWEST = 3  # widths; two would be met exactly by any p


def shared_power(curves: Sequence[Curve]) -> float:
    """The p in POWERS with the least sum of squared residuals over all curves, each with its own L_inf and A."""

    low, high = POWERS
    for _ in range(8):  # a grid first, because the cost can have more than one minimum; then ever finer around the best
        grid = np.linspace(low, high, 41)
        best = int(np.argmin(sum(_fit(grid, *curve)[2] for curve in curves)))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, 40)])
    return (low + high) / 2


def limits(curves: Mapping[str, Curve], distinct: Sequence[str]) -> tuple[float, dict[str, float]]:
    """p and L_inf by name; p from the `distinct` curves alone.

    Every curve needs three widths or more. With three widths and one curve the three parameters meet it exactly.
    """
    power = shared_power([curves[name] for name in distinct])
    return power, {name: float(_fit(np.array([power]), *curve)[0][0]) for name, curve in curves.items()}


def _fit(powers: PerPower, widths: Sequence[int], losses: Losses) -> tuple[PerPower, PerPower, PerPower]:
    """(L_inf, A, sum of squared residuals) by linear least squares at every p; A is in units of the first width."""
    x = (np.asarray(widths, dtype=float) / widths[0]) ** -powers[:, None]
    centred = x - x.mean(axis=1, keepdims=True)
    amplitudes = centred @ losses / (centred**2).sum(axis=1)
    limit = losses.mean() - amplitudes * x.mean(axis=1)
    residuals = losses - limit[:, None] - amplitudes[:, None] * x
    return limit, amplitudes, (residuals**2).sum(axis=1)
