"""The picture of a study of epsilon: what each value costs against width, and from which width it was predicted to.

Colours are the epsilon (Okabe & Ito's), constant ones are solid and per-layer ones dashed; lines have their names at
their ends, so that nothing hangs on colour alone.
"""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from verify.studies.epsilon.onsets import PER_LAYER, THRESHOLD, Cost, Onset, Result
from verify.studies.epsilon.text import width_text
from verify.studies.transfer.plots import LOOK, spread

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY, PALE = "#505050", "#b0b0b0"
MARGIN = 1.3  # factor by which the axis goes beyond the widths
APART = 0.075  # of a panel's height between two names


def cost_against_width(result: Result) -> Figure:
    """A panel per parameterization: the loss paid for each epsilon; below it, where that was predicted to begin."""
    schemes = [each.name for each in result.backward]
    values = sorted({each.cost.setting.epsilon for each in result.onsets if each.cost.setting.epsilon}, reverse=True)
    colours = {value: COLOURS[place % len(COLOURS)] for place, value in enumerate(values)}
    columns, rows = min(2, len(schemes)), math.ceil(len(schemes) / 2)
    strip = 0.13 * len(values) + 0.1  # of a panel's height
    with mpl.rc_context(LOOK):
        size = (max(5.6 * columns, 8.0), 2.9 * (1 + strip) * rows + 1.0)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(2 * rows, columns, squeeze=False, sharey="row", height_ratios=[1, strip] * rows)
        limits = _range(result)
        for place in range(columns * rows):
            row, column = divmod(place, columns)
            above, below = axes[2 * row, column], axes[2 * row + 1, column]
            if place >= len(schemes):
                above.set_axis_off()
                below.set_axis_off()
                continue
            _costs(above, result, schemes[place], colours, limits)
            _onsets(below, result, schemes[place], colours)
            if column == 0:
                above.set_ylabel("loss paid (nats)")
                below.set_ylabel("bites from")
        conditions = result.study.conditions
        figure.suptitle(
            "Held-out loss above that of Adam with a negligible epsilon, 95 % intervals; constant ones cost ever more"
            f"\n(base rate of width {result.widths[0]} at all widths, {conditions.steps} steps, {conditions.dtype})",
            fontsize="medium",
        )
        figure.legend(handles=_legend(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _costs(axis: Any, result: Result, scheme: str, colours: dict[float, str], limits: tuple[float, float]) -> None:
    _width_axis(axis, result)
    axis.set(ylim=limits, title=scheme)
    axis.tick_params(labelbottom=False)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    axis.axhline(THRESHOLD, color=PALE, linewidth=0.8, linestyle=":", zorder=0)
    own = [each for each in result.costs if each.setting.parameterization == scheme]
    ends = [_draw(axis, each, place - len(own) / 2, colours) for place, each in enumerate(own)]
    _name(axis, result.widths[-1], [end for end in ends if end is not None])


def _width_axis(axis: Any, result: Result) -> None:
    widths = result.widths
    axis.set(xscale="log", xlim=(widths[0] / MARGIN, widths[-1] * MARGIN), xticks=widths)
    axis.set_xticklabels([str(width) for width in widths])
    axis.minorticks_off()


def _draw(axis: Any, cost: Cost, shift: float, colours: dict[float, str]) -> tuple[float, str, str] | None:
    """A line with 95 % intervals, moved a little aside; (height of its end, its name, its colour)."""
    setting = cost.setting
    pairs = zip(cost.widths, cost.estimates, strict=True)
    drawn = [(width, each) for width, each in pairs if np.isfinite(each.value)]
    if not drawn:
        return None
    x, y = [width * 1.012**shift for width, _ in drawn], [each.value for _, each in drawn]
    bars = [np.nan_to_num(each.high - each.value) for _, each in drawn]
    style: Any = {"linestyle": "-", "marker": "o", "linewidth": 1.5, "color": GREY, "markersize": 3.5}
    if setting.epsilon is None:
        style |= {"linestyle": ":", "marker": "D", "linewidth": 1.1}
    else:
        style |= {"color": colours[setting.epsilon]}
        if setting.epsilon_rule == PER_LAYER:
            style |= {"linestyle": (0, (4, 2)), "marker": "s", "markerfacecolor": "white", "linewidth": 0.9}
    axis.errorbar(x, y, yerr=bars, elinewidth=0.6, capsize=1.5, **style)
    rule = " per layer" if setting.epsilon_rule == PER_LAYER else ""
    return y[-1], "atan2" if setting.epsilon is None else f"{setting.epsilon:g}{rule}", style["color"]


def _name(axis: Any, width: int, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right, moved apart."""
    to_axes = axis.transData + axis.transAxes.inverted()
    across = float(to_axes.transform((width, 0.0))[0]) + 0.02
    placed = sorted((float(to_axes.transform((width, y))[1]), text, colour) for y, text, colour in ends)
    for height, (up, text, colour) in zip(spread([each[0] for each in placed], APART), placed, strict=True):
        axis.annotate(
            text,
            (across, up),
            (1.0, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        )


def _onsets(axis: Any, result: Result, scheme: str, colours: dict[float, str]) -> None:
    """A row per constant epsilon: predicted from gradients, predicted from the loss, and where it costs."""
    _width_axis(axis, result)
    axis.set_xlabel("width n")
    values = list(colours)
    axis.set(ylim=(len(values) - 0.5, -0.5), yticks=range(len(values)))
    axis.set_yticklabels([f"{value:g}" for value in values])
    axis.tick_params(axis="y", length=0)
    for onset in (each for each in result.onsets if each.cost.setting.parameterization == scheme):
        value = onset.cost.setting.epsilon or 0.0
        _onset(axis, onset, values.index(value), colours[value])


def _onset(axis: Any, onset: Onset, row: int, colour: str) -> None:
    axis.axhline(row, color="#e8e8e8", linewidth=0.6, zorder=0)
    low, high = axis.get_xlim()
    if onset.expected is not None and onset.expected[0] < high and onset.expected[1] > low:
        ends = np.clip(onset.expected, low, high)
        ends = (ends[0] / 1.02, ends[1] * 1.02) if ends[0] == ends[1] else ends  # of no length, and still to be seen
        axis.plot(ends, [row, row], color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt", zorder=1)
    if np.isfinite(onset.cost.onset):
        axis.plot([max(onset.cost.onset, low)], [row], "o", color=colour, markersize=5, clip_on=False, zorder=3)
    predicted = None if onset.first is None else onset.first.predicted
    if predicted is None:
        return
    look: Any = {"color": colour, "markerfacecolor": "white", "markersize": 6, "clip_on": False, "zorder": 2}
    if low < predicted < high:
        axis.plot([predicted], [row], "^", **look)
        return
    axis.plot([np.clip(predicted, low, high)], [row], ">" if predicted >= high else "<", **look)
    if predicted >= high:
        axis.annotate(
            width_text(predicted),
            (1.03, row),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=7,
            color=colour,
        )


def _range(result: Result) -> tuple[float, float]:
    """The costs' own, with room around; at least a few thresholds."""
    means = [each.value for cost in result.costs for each in cost.estimates if np.isfinite(each.value)]
    return min(1.3 * min(means, default=0.0), -2 * THRESHOLD), max(1.15 * max(means, default=0.0), 4 * THRESHOLD)


def _legend() -> list[Line2D]:
    grey: Any = {"color": GREY, "markersize": 4}
    costs = f"costs more than {THRESHOLD:g} nats (dotted line), beyond chance, from here on"
    return [
        Line2D([], [], linestyle="-", marker="o", label="epsilon constant", **grey),
        Line2D([], [], linestyle="--", marker="s", markerfacecolor="white", label="epsilon per layer, n^-g", **grey),
        Line2D([], [], linestyle=":", marker="D", label="Adam-atan2, which has no epsilon", **grey),
        Line2D([], [], linestyle="", marker="o", color=GREY, markersize=5, label=costs),
        Line2D(
            *([], []),
            linestyle="",
            marker="^",
            color=GREY,
            markerfacecolor="white",
            markersize=6,
            label="predicted: gradient RMS of the base width x n^-g meets epsilon (> its width, if beyond)",
        ),
        Line2D(
            *([], []),
            color=GREY,
            linewidth=6,
            alpha=0.35,
            label="predicted: first to last layer has, by n^-g, the epsilon that costs as much per layer",
        ),
    ]
