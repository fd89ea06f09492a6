"""The picture of a study of epsilon: what each value costs against width, and from which width it was predicted to.

Colours are the epsilon (Okabe & Ito's); constant ones, solid, and per-layer ones, dashed, have rows of their own.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from verify.studies.epsilon.onsets import PER_LAYER, THRESHOLD, Cost, Onset, Result
from verify.studies.epsilon.text import width_text
from verify.studies.transfer.plots import LOOK
from verify.values import Style

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY, PALE = "#505050", "#b0b0b0"
ROWS = ("constant ε\nloss paid (nats)", "ε per layer, n^-g\nloss paid (nats)")
MARGIN = 1.3  # factor by which the axis goes beyond the widths


def cost_against_width(result: Result) -> Figure:
    """A column per parameterization: what constant epsilons cost, what scaled ones do, and where that was predicted."""
    schemes = [each.name for each in result.backward]
    values = sorted({each.cost.setting.epsilon for each in result.onsets if each.cost.setting.epsilon}, reverse=True)
    colours = {value: COLOURS[place % len(COLOURS)] for place, value in enumerate(values)}
    strip = 0.13 * len(values) + 0.1  # of a panel's height
    with mpl.rc_context(LOOK):
        size = (max(2.4 * len(schemes), 8.0), 2.2 * (2 + strip) + 1.6)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(3, len(schemes), squeeze=False, sharex=True, sharey="row", height_ratios=[1, 1, strip])
        limits = _range(result)
        for scheme, (constant, scaled, below) in zip(schemes, axes.T, strict=True):
            constant.set_title(scheme)
            own = [each for each in result.costs if each.setting.parameterization == scheme]
            for axis, chosen in ((constant, False), (scaled, True)):
                _costs(axis, result, [each for each in own if _is_scaled(each) is chosen], colours, limits)
            _onsets(below, result, scheme, colours)
        for axis, label in zip(axes[:, 0], (*ROWS, "bites from"), strict=True):
            axis.set_ylabel(label)
        conditions = result.study.conditions
        figure.suptitle(
            "Held-out loss above that of Adam with a negligible ε: a constant one costs ever more with the width"
            f"\n(base rate of width {result.widths[0]} at all widths, {conditions.steps} steps, {conditions.dtype}; "
            "95 % intervals)",
            fontsize="medium",
        )
        figure.legend(handles=_legend(colours), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _is_scaled(cost: Cost) -> bool:
    """Whether the epsilon goes with the gradient, or there is none."""
    return cost.setting.epsilon is None or cost.setting.epsilon_rule == PER_LAYER


def _costs(
    axis: Axes, result: Result, costs: Sequence[Cost], colours: dict[float, str], limits: tuple[float, float]
) -> None:
    _width_axis(axis, result)
    axis.set(ylim=limits)
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.axhline(0, color=PALE, linewidth=0.8, zorder=0)
    axis.axhline(THRESHOLD, color=PALE, linewidth=0.8, linestyle=":", zorder=0)
    for place, each in enumerate(costs):
        _draw(axis, each, 2 * (place - (len(costs) - 1) / 2), colours)


def _width_axis(axis: Axes, result: Result) -> None:
    widths = result.widths
    axis.set(xscale="log", xlim=(widths[0] / MARGIN, widths[-1] * MARGIN), xticks=widths)
    axis.set_xticklabels([str(width) for width in widths])
    axis.minorticks_off()


def _draw(axis: Axes, cost: Cost, shift: float, colours: dict[float, str]) -> None:
    """A line with 95 % intervals, moved a little aside."""
    setting = cost.setting
    pairs = zip(cost.widths, cost.estimates, strict=True)
    drawn = [(width, each) for width, each in pairs if np.isfinite(each.value)]
    if not drawn:
        return
    x, y = [width * 1.012**shift for width, _ in drawn], [each.value for _, each in drawn]
    bars = [np.nan_to_num(each.high - each.value) for _, each in drawn]
    style: Style = {"linestyle": "-", "marker": "o", "linewidth": 1.5, "color": GREY, "markersize": 3.5}
    if setting.epsilon is None:
        style |= {"linestyle": ":", "marker": "D", "linewidth": 1.1}
    else:
        style |= {"color": colours[setting.epsilon]}
        if setting.epsilon_rule == PER_LAYER:
            style |= {"linestyle": (0, (4, 2)), "marker": "s", "markerfacecolor": "white", "linewidth": 0.9}
    axis.errorbar(x, y, yerr=bars, elinewidth=0.6, capsize=1.5, **style)


def _onsets(axis: Axes, result: Result, scheme: str, colours: dict[float, str]) -> None:
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


def _onset(axis: Axes, onset: Onset, row: int, colour: str) -> None:
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
    look: Style = {"color": colour, "markerfacecolor": "white", "markersize": 6, "clip_on": False, "zorder": 2}
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


def _legend(colours: dict[float, str]) -> list[Line2D]:
    grey: Style = {"color": GREY, "markersize": 4}
    values = [Line2D([], [], color=colour, linewidth=2, label=f"ε = {value:g}") for value, colour in colours.items()]
    costs = f"costs more than {THRESHOLD:g} nats (dotted line), beyond chance, from here on"
    return [
        *values,
        Line2D([], [], linestyle=":", marker="D", label="Adam-atan2, which has no ε", **grey),
        Line2D([], [], linestyle="", marker="o", color=GREY, markersize=5, label=costs),
        Line2D(
            *([], []),
            linestyle="",
            marker="^",
            color=GREY,
            markerfacecolor="white",
            markersize=6,
            label="predicted: gradient RMS of the base width x n^-g meets ε (> its width, if beyond)",
        ),
        Line2D(
            *([], []),
            color=GREY,
            linewidth=6,
            alpha=0.35,
            label="predicted: first to last layer has, by n^-g, the ε that costs as much per layer",
        ),
    ]
