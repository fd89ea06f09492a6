"""Figure 6: what a constant epsilon does to updates and loss as width grows, beside a per-layer one and atan2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.items import Item, Table, verdict
from paper_figures.paths import result
from verify.epsilon_onsets import LayerOnset, Result, mean_over_seeds
from verify.epsilon_plots import COLOURS, GREY, cost_against_width
from verify.epsilon_results import Backward, read_result
from verify.epsilon_text import width_text

HALF = r"$\epsilon_{1/2}$"
LEFT = r"$1\,/\,(1 + \epsilon\,/\,\epsilon_{1/2})$"


def item(data: Path) -> Item:
    """Both figures, a table of every onset, and whether constant epsilons cost and the others do not."""
    study = read_result(result(data, "epsilon", "float32"))
    short = read_result(result(data, "epsilon_bfloat16", "bfloat16"))
    constant = [onset.cost for onset in study.onsets]
    costly = [each for each in constant if np.isfinite(each.onset)]
    beyond = [each for each in study.onsets if np.isfinite(each.beyond)]
    early = [each for each in study.onsets if each.first is not None and each.cost.onset < (each.first.predicted or 0)]
    flat = [each for each in study.unscaled if each.flat]
    resolved = max(each.high - each.value for cost in study.unscaled for each in cost.changes[1:])
    conditions, last = study.study.conditions, study.widths[-1]
    largest = max(study.onsets, key=lambda each: each.cost.estimates[-1].value).cost
    return Item(
        title="Epsilon",
        claim="A constant epsilon stops updates from some width on and costs loss; an epsilon that follows the "
        "gradients per layer, or Adam-atan2, which has none, does not.",
        measured=f"{len(costly)} of {len(constant)} constant epsilons cost loss by width {last}, at most "
        f"{largest.estimates[-1].value:.2f} nats ({largest.setting.parameterization}, {largest.setting.epsilon:g}); "
        f"{len(beyond)} cost more than the same value per layer, paired over seeds. Of per-layer epsilons and atan2, "
        f"{len(flat)} of {len(study.unscaled)} have no change of cost with the width that can be resolved (95 % "
        f"intervals of ± {resolved:.2f} nats at most). Updates are halved where n^-g predicts it from the value that "
        f"halves them at the base width: {_halving(study)}. Loss is lost before: {len(early)} of {len(constant)} cost "
        "at a width below that at which n^-g times the gradients of the base width meets epsilon in the first layer. "
        f"In bfloat16 {_short(short)}.",
        scale=f"MLP with {conditions.sizes['hidden_layers']} hidden layers, widths {study.widths[0]} to {last}, "
        f"{len({record.seed for record in study.study.records})} seeds, {conditions.steps} steps, {conditions.dtype}.",
        verdict=verdict([each in beyond for each in study.onsets] + [each.flat for each in study.unscaled]),
        tables={"figure_6_epsilon": table(study)},
        figures={
            "figure_6_epsilon_loss": cost_against_width(study),
            "figure_6_epsilon_updates": draw(study),
            "figure_6_epsilon_loss_bfloat16": cost_against_width(short),
        },
    )


def _short(study: Result) -> str:
    constant = [onset.cost for onset in study.onsets]
    costly, flat = sum(np.isfinite(each.onset) for each in constant), sum(bool(each.flat) for each in study.unscaled)
    beyond = sum(np.isfinite(each.beyond) for each in study.onsets)
    kept = f"{flat} of {len(study.unscaled)} of the others have no change that can be resolved"
    counted = f"{costly} of {len(constant)} constant ones cost loss by width {study.widths[-1]}"
    return f"{counted}, {beyond} more than the same per layer, and {kept}"


def _steps(study: Result) -> list[int]:
    return sorted(study.backward[0].sizes)


def _halving(study: Result) -> str:
    """At each step, the factor between predicted and seen widths of the layers and epsilons halved amid the widths."""
    told = []
    for step in _steps(study):
        seen = [each for each in study.layers if each.step == step and each.by_half and 0 < each.observed < np.inf]
        off = [2 ** abs(np.log2(each.observed / (each.by_half or np.nan))) for each in seen]
        factors = f"off by a factor of {np.median(off):.2f} in the median, {max(off):.1f} at most" if off else "none"
        told.append(f"step {step}, {len(off)} layers and epsilons, {factors}")
    return "; ".join(told)


def table(study: Result) -> Table:
    """Every layer's onset after the last step: predicted by g, and where its update is halved."""
    rows, sections = [], []
    for each in study.layers:
        if each.step != _steps(study)[-1]:
            continue
        if not rows or rows[-1][0] != each.parameterization:
            sections.append(len(rows))
        predicted = [width_text(each.by_half or np.inf, study.widths) if each.by_half else "never"]
        sizes = [f"{each.epsilon:g}", f"{each.half:.2g}"]
        observed = width_text(each.observed, study.widths)
        rows.append([each.parameterization, each.layer, each.exponent, *sizes, *predicted, observed])
    columns = ["parameterization", "layer", "g", "ε", "ε that halves at the base width", "half predicted", "observed"]
    return Table(columns, rows, sections[1:])


def draw(study: Result) -> Figure:
    """A row per parameterization, a column per layer: how much of the update is left after the last step."""
    schemes, layers = study.backward, list(study.backward[0].sizes[1])
    figure = Figure(figsize=(2.7 * len(layers) + 0.6, 1.95 * len(schemes) + 1.3), layout="constrained")
    axes = figure.subplots(len(schemes), len(layers), squeeze=False, sharex=True, sharey=True)
    step = _steps(study)[-1]
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
        Line2D([], [], color=colour, marker="o", label=f"{value:g} constant")
        for value, colour in zip(values, COLOURS, strict=False)
    ]
    look: Any = {"color": GREY, "markerfacecolor": "white"}
    return [
        *constant,
        Line2D([], [], linestyle="--", linewidth=0.9, label="the same, per layer, $n^{-g}$", **look),
        Line2D([], [], linestyle=":", label="Adam-atan2", **look),
        Line2D([], [], linestyle="", marker="^", markersize=7, label="halved, predicted by $n^{-g}$", **look),
    ]
