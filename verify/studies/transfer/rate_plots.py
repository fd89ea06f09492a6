"""The picture of a transfer study against the base rate: every curve, its minimum, and where runs diverged."""

import math
import textwrap
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from verify.studies.transfer.headline import Group, distinct, interval
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.studies.transfer.plots import LOOK, plain_numbers, title_of
from verify.values import Leaf, Style

COLUMNS = 4
TITLE = 30  # characters of a line of a panel's title
STRIP = 0.2  # of a panel's height, where runs are marked that cannot be drawn as a loss
MARKERS = "osDv*Xp"  # of the widths, in turn
MINIMUM: Style = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.8}
SHOWN_BELOW = 3.0  # octaves below each best rate whose losses set the top of the axis


def loss_against_rate(results: Sequence[SettingResult], untrained_loss: float) -> Figure:
    """A panel per setting of one optimizer that trains unlike the others, a curve per width: mean over seeds, and a
    band of its standard error.

    Above each panel's line, a row per width marks the rates at which runs diverged or ended above the untrained loss:
    where these start is seen beside the curve that they end, which a map of its own would take out of sight.
    """
    groups = distinct(results)
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    widths = sorted({found.width for each in results for found in each.widths})
    shades = dict(zip(widths, mpl.colormaps["viridis"](np.linspace(0.0, 0.85, len(widths))), strict=True))
    bottom, top = _loss_range(results, untrained_loss)
    ticks = [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(bottom, top) if bottom <= tick <= top]
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(max(2.4 * columns + 1.4, 7.0), 2.3 * rows + 0.9), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for place, axis in enumerate(axes):
            if place >= len(groups):
                axis.set_axis_off()
                continue
            axis.set(xscale="log", yticks=ticks, ylim=(bottom, bottom + (top - bottom) / (1 - STRIP)))
            axis.tick_params(labelbottom=place + columns >= len(groups))
            plain_numbers(axis.xaxis)
            _draw_setting(axis, groups[place], shades, untrained_loss)
        figure.supxlabel("base rate", fontsize="medium")
        figure.supylabel("held-out loss after training (nats)", fontsize="medium")
        figure.suptitle(
            title_of(results, "loss against base rate; minima that stay put transfer"),
            x=0.02,
            ha="left",
            fontsize="medium",
        )
        figure.legend(handles=_rate_legend(shades, results[0].axis), loc="outside right upper", fontsize=8)
    return figure


def _draw_setting(axis: Axes, group: Group, shades: dict[int, Style], untrained_loss: float) -> None:
    result = group.result
    title = textwrap.fill(group.label, TITLE)
    if np.isfinite(result.drift.value):
        title += f"\ndrift {interval(result.drift)}"
    axis.set_title(title, fontsize=7.5)
    axis.axhline(axis.get_ylim()[0] + (1 - STRIP) * np.diff(axis.get_ylim())[0], color="#b0b0b0", linewidth=0.6)
    if not result.widths:
        axis.annotate("no runs yet", (0.5, 0.4), xycoords="axes fraction", ha="center", color="#707070")
    below = Rectangle((0, 0), 1, 1 - STRIP, transform=axis.transAxes)
    known = [found for found in result.widths if np.isfinite(found.best_rate)]
    if known:
        axis.axvline(known[0].best_rate, ymax=1 - STRIP, color="#b0b0b0", linewidth=0.8, linestyle=":", zorder=0)
        trail = [(found.best_rate, found.best_loss.value) for found in known]
        axis.plot(*zip(*trail, strict=True), "-", color="#404040", linewidth=1.1, zorder=2.5)
    for found in result.widths:
        shade, place = shades[found.width], list(shades).index(found.width)
        some = np.isinf(found.losses).any(axis=1)  # the mean of what is left there would be a better loss than it is
        mean, error = (np.where(some, np.nan, _over_made(found.losses, each)) for each in (np.mean, _standard_error))
        band = axis.fill_between(found.rates, mean - error, mean + error, color=shade, alpha=0.13, linewidth=0)
        (curve,) = axis.plot(found.rates, mean, "-", color=shade, linewidth=1.1)
        left = np.where(np.isfinite(found.losses), found.losses, np.nan)[some]
        dots = axis.plot(found.rates[some], left, ".", color=shade, markersize=2.5, alpha=0.6) if left.size else []
        for artist in (band, curve, *dots):
            artist.set_clip_path(below)
        if np.isfinite(found.best_rate):
            axis.plot(found.best_rate, found.best_loss.value, _marker(place), color=shade, zorder=2.6, **MINIMUM)
        height = 1 - STRIP * (1 - (place + 0.5) / len(shades))
        _mark_failures(axis, found, shade, height, untrained_loss)


def _mark_failures(axis: Axes, found: WidthResult, shade: Style, height: float, untrained_loss: float) -> None:
    """One row of the strip: a cross where runs diverged, pale where some did not, a triangle above untrained."""
    place = axis.get_xaxis_transform()
    for rate, losses in zip(found.rates, found.losses, strict=True):
        made = losses[~np.isnan(losses)]
        diverged = np.isinf(made).mean() if made.size else 0.0
        if diverged:
            alpha = 1.0 if diverged == 1 else 0.45
            axis.plot(rate, height, "x", color=shade, markersize=3.5, alpha=alpha, transform=place)
        elif made.size and made.mean() > untrained_loss:
            axis.plot(rate, height, "^", color=shade, markersize=3, transform=place)


def _rate_legend(shades: dict[int, Style], axis: str) -> list[Line2D]:
    curves = [
        Line2D([], [], color=shade, marker=_marker(place), label=f"{axis} {width}", **MINIMUM)
        for place, (width, shade) in enumerate(shades.items())
    ]
    grey: Style = {"color": "#404040", "linestyle": ""}
    return [
        *curves,
        Line2D([], [], color="#b0b0b0", linewidth=5, alpha=0.5, label="standard error\nof the mean"),
        Line2D([], [], color="#404040", linewidth=1.1, label="fitted minima\n(markers), joined"),
        Line2D([], [], color="#b0b0b0", linestyle=":", label=f"smallest {axis}'s\nbest rate"),
        Line2D([], [], linestyle="", label=f"\nabove the line, a row\nper {axis}:"),
        Line2D([], [], marker="x", markersize=4, label="all seeds diverged", **grey),
        Line2D([], [], marker="x", markersize=4, alpha=0.45, label="some diverged", **grey),
        Line2D([], [], marker="^", markersize=4, label="worse than\nuntrained", **grey),
    ]


def _marker(place: int) -> str:
    return MARKERS[place % len(MARKERS)]


def _standard_error(losses: Leaf) -> float:
    """Of their mean; 0 of a single one."""
    return float(np.std(losses, ddof=1) / np.sqrt(losses.size)) if losses.size > 1 else 0.0


def _over_made(losses: Leaf, statistic: Callable[[Leaf], Leaf]) -> Leaf:
    """A statistic over the seeds whose loss is finite at each rate; NaN where there is none."""
    finite = [row[np.isfinite(row)] for row in losses]
    return np.array([statistic(row) if row.size else np.nan for row in finite])


def _loss_range(results: Sequence[SettingResult], untrained_loss: float) -> tuple[float, float]:
    """From below the lowest loss to what small rates give; large ones explode, and would flatten all curves."""
    low, high = [], []
    for found in (found for each in results for found in each.widths):
        mean = _over_made(found.losses, np.mean)
        if np.isfinite(found.best_rate) and found.best_loss.value < untrained_loss:
            octaves = np.log2(found.rates / found.best_rate)
            near = mean[(octaves <= 0.5) & (octaves >= -SHOWN_BELOW) & np.isfinite(mean)]
            low.append(min(found.best_loss.value, *near, np.inf))
            high.append(max(found.best_loss.value, *near, -np.inf))
    if not low:
        return 0.0, untrained_loss
    bottom, top = min(low), max(high)
    margin = 0.1 * (top - bottom) or 0.1
    return bottom - margin, min(top + 2 * margin, max(untrained_loss, bottom + margin))
