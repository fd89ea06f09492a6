"""How much of Adam's update an epsilon leaves, against width: the second picture of figure 6."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from verify.studies.epsilon.onsets import LayerOnset, Result, mean_over_seeds
from verify.studies.epsilon.plots import COLOURS, GREY
from verify.studies.epsilon.results import Backward

HALF = r"$\epsilon_{1/2}$"
LEFT = r"$1\,/\,(1 + \epsilon\,/\,\epsilon_{1/2})$"


def updates_left(study: Result) -> Figure:
    """A row per parameterization, a column per layer: how much of the update is left after the last step."""
    schemes, layers = study.backward, list(study.backward[0].sizes[1])
    figure = Figure(figsize=(2.7 * len(layers) + 0.6, 1.95 * len(schemes) + 1.3), layout="constrained")
    axes = figure.subplots(len(schemes), len(layers), squeeze=False, sharex=True, sharey=True)
    step = max(schemes[0].sizes)
    for line, found in zip(axes, schemes, strict=True):
        for axis, layer in zip(line, layers, strict=True):
            _panel(axis, study, found, [each for each in study.layers if _of(each, found, layer, step)])
        line[0].set_ylabel(f"{found.name}\nupdate left")
    for axis, layer in zip(axes[0], layers, strict=True):
        axis.set_title(layer, pad=12)
    for axis in axes[-1]:
        axis.set_xlabel("width n")
    figure.suptitle(
        f"What epsilon would leave of Adam's update after {step} steps, {LEFT}: {HALF}, which halves its RMS, was "
        "measured\nat every width in networks with a negligible epsilon; the curve is exact at 1/2 and for entries of "
        "one size",
        fontsize="medium",
    )
    figure.legend(handles=_legend(study), loc="outside lower center", ncols=4)
    return figure


def _of(each: LayerOnset, found: Backward, layer: str, step: int) -> bool:
    return (each.parameterization, each.layer, each.step) == (found.name, layer, step)


def left(study: Result, found: Backward, onset: LayerOnset, constant: bool) -> Any:
    """1 / (1 + epsilon / half) at every width: exactly 1/2 at half, and exact throughout for entries of one size."""
    ratio = np.array(study.widths, dtype=float) / study.widths[0]
    epsilon = onset.epsilon * ratio ** (0.0 if constant else -float(onset.exponent))
    return 1 / (1 + epsilon / mean_over_seeds(found.sizes[onset.step][onset.layer]["half"]))


def _panel(axis: Any, study: Result, found: Backward, onsets: Sequence[LayerOnset]) -> None:
    x, (low, high) = study.widths, (study.widths[0] / 1.2, study.widths[-1] * 1.2)
    axis.axhline(1, color=GREY, linestyle=":", linewidth=1)
    axis.axhline(0.5, color="#b0b0b0", linewidth=0.7, zorder=0)
    for onset, colour in zip(onsets, COLOURS, strict=False):
        axis.plot(x, left(study, found, onset, constant=True), "o-", color=colour)
        axis.plot(x, left(study, found, onset, constant=False), color=colour, linewidth=0.9, linestyle="--")
        if onset.by_half and low < onset.by_half < high:
            axis.plot([onset.by_half], [0.5], "^", color=colour, markerfacecolor="white", markersize=7, zorder=3)
    axis.set(xscale="log", ylim=(0, 1.06), xlim=(low, high), xticks=x, yticks=(0, 0.5, 1))
    axis.set_xticklabels([str(width) for width in x])
    axis.minorticks_off()
    axis.annotate(f"g = {onsets[0].exponent}", (0.0, 1.02), xycoords="axes fraction", fontsize=7)


def _legend(study: Result) -> list[Line2D]:
    values = sorted({each.epsilon for each in study.layers}, reverse=True)
    constant = [
        Line2D([], [], color=colour, marker="o", label=f"ε = {value:g}, constant")
        for value, colour in zip(values, COLOURS, strict=False)
    ]
    look: Any = {"color": GREY, "markerfacecolor": "white"}
    return [
        *constant,
        Line2D([], [], linestyle="--", linewidth=0.9, label="the same, per layer, $n^{-g}$", **look),
        Line2D([], [], linestyle=":", label="Adam-atan2", **look),
        Line2D([], [], linestyle="", marker="^", markersize=7, label="halved, predicted by $n^{-g}$", **look),
    ]
