"""The picture of a study of epsilon: what each costs against width, and where a constant one was predicted to bite.

Colours are the epsilon (Okabe & Ito's), constant ones are solid and per-layer ones dashed; every line has its name at
its end, so that nothing hangs on colour alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from verify.epsilon_onsets import THRESHOLD, Cost, Onset, Result
from verify.transfer_plots import LOOK, plain_numbers, spread

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#505050"
MARGIN = 1.25  # of the widths' range, by which the axis goes beyond them
LABELS = 0.14  # of a panel's height between two names


def cost_against_width(result: Result) -> Figure:
    """A panel per parameterization: how the loss paid for each epsilon grows with width, and onsets below."""
    schemes = [each.name for each in result.backward]
    values = sorted({each.cost.setting.epsilon for each in result.onsets if each.cost.setting.epsilon}, reverse=True)
    colours = {value: COLOURS[place % len(COLOURS)] for place, value in enumerate(values)}
    columns = min(2, len(schemes))
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(4.9 * columns, 3.4 * math.ceil(len(schemes) / columns) + 0.9), layout="constrained")
        axes = figure.subplots(math.ceil(len(schemes) / columns), columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flatten()[len(schemes) :]:
            axis.set_axis_off()
        bottom, top = _range(result.costs)
        for axis, scheme in zip(axes.flatten(), schemes, strict=False):
            _panel(axis, result, scheme, colours, bottom, top)
            axis.set_ylabel("loss paid since the base width (nats)" if axis.get_subplotspec().is_first_col() else "")
        conditions = result.study.conditions
        figure.suptitle(
            f"What a constant epsilon costs against the same value scaled per layer (Adam, base rate of width "
            f"{result.widths[0]}, {conditions.steps} steps, {conditions.dtype})",
            fontsize="medium",
        )
        figure.legend(handles=_legend(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _panel(axis: Any, result: Result, scheme: str, colours: dict[float, str], bottom: float, top: float) -> None:
    widths = result.widths
    axis.set(xscale="log", ylim=(bottom, top), title=scheme, xlabel="width n", xticks=widths)
    axis.set_xlim(widths[0] / MARGIN, widths[-1] * MARGIN)
    axis.set_xticklabels([str(width) for width in widths])
    axis.tick_params(labelbottom=True)
    axis.minorticks_off()
    axis.set_yscale("symlog", linthresh=THRESHOLD)
    plain_numbers(axis.yaxis)
    axis.axhline(0, color="#b0b0b0", linewidth=0.8)
    axis.axhline(THRESHOLD, color="#b0b0b0", linewidth=0.8, linestyle=":")
    ends = []
    for cost in (each for each in result.costs if each.setting.parameterization == scheme):
        colour = GREY if cost.setting.epsilon is None else colours[cost.setting.epsilon]
        ends.append(_draw(axis, cost, colour))
    for onset in (each for each in result.onsets if each.cost.setting.parameterization == scheme):
        assert onset.cost.setting.epsilon is not None  # noqa: S101
        _mark(axis, onset, colours[onset.cost.setting.epsilon])
    _name(axis, [end for end in ends if end is not None])


def _draw(axis: Any, cost: Cost, colour: str) -> tuple[float, str, str] | None:
    """A line with 95 % intervals; (height of its end, its name, its colour)."""
    setting, estimates = cost.setting, cost.changes
    drawn = [(width, each) for width, each in zip(cost.widths, estimates, strict=True) if np.isfinite(each.value)]
    if not drawn:
        return None
    x, y = [width for width, _ in drawn], [each.value for _, each in drawn]
    bars = [np.nan_to_num(each.high - each.value) for _, each in drawn]
    constant = setting.epsilon_rule == "constant"
    style = {"linestyle": "-", "marker": "o"} if constant else {"linestyle": "--", "marker": "s"}
    if setting.epsilon is None:
        style = {"linestyle": ":", "marker": "D"}
    axis.errorbar(x, y, yerr=bars, color=colour, markersize=3.5, linewidth=1.2, elinewidth=0.7, capsize=2, **style)
    name = "atan2" if setting.epsilon is None else f"{setting.epsilon:g}{'' if constant else ' per layer'}"
    return y[-1], name, colour


def _mark(axis: Any, onset: Onset, colour: str) -> None:
    """On the axis below: a full triangle at the predicted onset, an open one where the update is halved."""
    place: Any = {"transform": axis.get_xaxis_transform(), "clip_on": False, "zorder": 5, "linestyle": ""}
    predicted = None if onset.first is None else onset.first.predicted
    halved = None if onset.halved is None else onset.halved.observed
    for width, face in ((predicted, colour), (halved, "white")):
        if width is None or np.isnan(width):
            continue
        low, high = axis.get_xlim()
        inside = low < width < high
        marker = "^" if inside else "<" if width <= low else ">"
        at = min(max(width, low), high)
        axis.plot([at], [0.0], marker=marker, markersize=7, color=colour, markerfacecolor=face, **place)


def _name(axis: Any, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right, moved apart."""
    to_axes = axis.transData + axis.transAxes.inverted()
    placed = sorted((float(to_axes.transform((1.0, y))[1]), text, colour) for y, text, colour in ends)
    for height, (up, text, colour) in zip(spread([each[0] for each in placed], 0.062), placed, strict=True):
        axis.annotate(
            text,
            (0.965, up),
            (1.03, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        )


def _range(costs: Sequence[Cost]) -> tuple[float, float]:
    """The costs' own, with room around; at least a few thresholds."""
    values = np.array([each.value for cost in costs for each in cost.changes if np.isfinite(each.value)])
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return min(1.5 * low, -THRESHOLD), max(1.5 * high, 3 * THRESHOLD)


def _legend() -> list[Line2D]:
    grey: Any = {"color": GREY, "markersize": 4}
    triangle: Any = {"color": GREY, "linestyle": "", "marker": "^", "markersize": 7}
    return [
        Line2D([], [], linestyle="-", marker="o", label="constant epsilon", **grey),
        Line2D([], [], linestyle="--", marker="s", label="epsilon per layer, this value at the base width", **grey),
        Line2D([], [], linestyle=":", marker="D", label="Adam-atan2, which has none", **grey),
        Line2D([], [], label="predicted: n^-g RMS(gradient) = epsilon", **triangle),
        Line2D([], [], label="measured: a layer's first update is halved", markerfacecolor="white", **triangle),
        Line2D([], [], color="#b0b0b0", linestyle=":", label=f"{THRESHOLD} nats, where a cost counts"),
    ]
