"""The picture of a study of weight decay: RMS(W) at equilibrium per layer with both predicted powers, and the loss.

Colours are the conventions (Okabe & Ito's), each with a marker of its own. Widths not at equilibrium are hollow.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from verify.studies.decay.results import DecayResult
from verify.studies.decay.theory import Network, Row
from verify.studies.pictures import STYLE
from verify.studies.transfer.plots import plain_numbers
from verify.values import Style

Look = tuple[str, str]
LOOKS: Mapping[str, Look] = {"independent": ("#0072b2", "o"), "sqrt": ("#009e73", "s"), "constant": ("#d55e00", "^")}
OTHERS = (("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P"), ("#000000", "X"))
"""For powers such as n^-1, in the order of the study; they begin anew where it has more."""
MEANINGS = {"independent": "$n^0$", "sqrt": "$n^{-c/2}$", "constant": "$n^{-c}$"}
MARGIN = 1.15
LOSS = "held-out loss (nats)"


def against_width(study: DecayResult) -> Figure:
    """A row per parameterization; a column per layer with RMS(W), and one with the held-out loss."""
    settings, rows, looks = study.settings(), study.by_layer(), _looks(study)
    schemes = list(dict.fromkeys(scheme for _, scheme in settings))
    names = list(study.parts[0].found.kinds)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * (len(names) + 1), 2.5 * len(schemes) + 1.3), layout="constrained")
        axes = figure.subplots(len(schemes), len(names) + 1, squeeze=False)
        for line, scheme in enumerate(schemes):
            for column, name in enumerate(names):
                _widths(axes[line, column], study.widths)
                axes[line, column].set_yscale("log")
                axes[line, column].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                plain_numbers(axes[line, column].yaxis)
                texts = []
                for (decay, of), networks in settings.items():
                    if of == scheme:
                        weight = rows[decay, scheme, name]["weight"]
                        _weights(axes[line, column], networks, name, weight, looks[decay])
                        texts.append((decay, weight.measured.value))
                _title(axes[line, column], f"{scheme}  {name}", texts, looks)
            _widths(axes[line, -1], study.widths)
            axes[line, -1].set_title(f"{scheme}  {LOSS}")
            for (decay, of), networks in settings.items():
                if of == scheme:
                    _losses(axes[line, -1], networks, looks[decay])
            axes[line, 0].set_ylabel("RMS(W)")
        for column in range(len(names) + 1):
            _share([*axes[:, column]])
        for axis in axes[-1]:
            axis.set_xlabel("width n")
        figure.suptitle(
            f"{study.conditions.optimizer} with decoupled weight decay, {study.conditions.steps} steps: "
            "RMS(W) where decay and updates are in balance, with its measured powers, and the loss there",
            fontsize="medium",
        )
        figure.legend(handles=_legend(study), loc="outside lower center", ncols=6, fontsize=8)
    return figure


def _widths(axis: Axes, widths: list[int]) -> None:
    axis.set(xscale="log", xticks=widths, xlim=(widths[0] / MARGIN, widths[-1] * MARGIN))
    axis.set_xticklabels([str(width) for width in widths])
    axis.minorticks_off()


def _weights(axis: Axes, networks: list[Network], layer: str, weight: Row, look: Look) -> None:
    colour, marker = look
    widths = np.array([network.width for network in networks], dtype=float)
    sizes = np.stack([network.sizes[layer]["now_weight"] for network in networks])
    start = np.exp(np.log(sizes[0]).mean())
    # Dashes lie on top: sqrt's coherent line is the same as constant's uncorrelated one.
    for exponent, style, width, order in ((weight.predicted, "-", 1.0, 1), (weight.coherent, (0, (4, 4)), 1.2, 2)):
        line = start * (widths / widths[0]) ** -float(exponent)  # type: ignore[arg-type]
        axis.plot(widths, line, linestyle=style, color=colour, linewidth=width, zorder=order)
    for network, width, of_seeds in zip(networks, widths, sizes, strict=True):
        face = colour if network.at_equilibrium(layer) else "white"
        axis.plot(
            [width] * len(of_seeds), of_seeds, marker, color=colour, markerfacecolor=face, markersize=4.5, zorder=3
        )


def _title(axis: Axes, title: str, texts: list[tuple[str, float]], looks: Mapping[str, Look]) -> None:
    """The title, and below the falling lines, where nothing is drawn, the measured powers."""
    axis.set_title(title)
    for place, (decay, exponent) in enumerate(reversed(texts)):
        text = "-" if np.isnan(exponent) else f"$n^{{{-round(exponent, 2) + 0:.2f}}}$"
        where = (0.05, 0.04 + 0.1 * place)
        axis.annotate(text, where, xycoords="axes fraction", fontsize=9, color=looks[decay][0])


def _losses(axis: Axes, networks: list[Network], look: Look) -> None:
    colour, marker = look
    widths = [network.width for network in networks]
    losses = np.stack([network.held_out for network in networks])
    axis.plot(widths, losses.mean(axis=1), "-", color=colour, linewidth=1)
    for width, of_seeds in zip(widths, losses, strict=True):
        axis.plot([width] * len(of_seeds), of_seeds, marker, color=colour, markersize=3.5)


def _share(axes: Sequence[Axes]) -> None:
    """The same range in a column, so that parameterizations are compared by eye."""
    limits = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def _looks(study: DecayResult) -> dict[str, Look]:
    """Colour and marker of every convention."""
    others = cycle(OTHERS)
    return {decay: LOOKS.get(decay) or next(others) for decay in dict.fromkeys(decay for decay, _ in study.settings())}


def _meaning(decay: str) -> str:
    power = decay.removeprefix("n^").strip("()")
    return f"{decay}: ηλ ~ {MEANINGS[decay]}" if decay in MEANINGS else f"ηλ ~ $n^{{{power}}}$"


def _legend(study: DecayResult) -> list[Line2D]:
    grey: Style = {"color": "#404040"}
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=_meaning(name))
        for name, (colour, marker) in _looks(study).items()
    ]
    handles.append(Line2D([], [], linestyle="-", linewidth=0.9, label="predicted, uncorrelated updates", **grey))
    handles.append(Line2D([], [], linestyle=(0, (4, 4)), linewidth=1.2, label="predicted, coherent", **grey))
    networks = [each.found for each in study.parts]
    if not all(network.at_equilibrium(name) for network in networks for name in network.kinds):
        handles.append(
            Line2D([], [], marker="o", markerfacecolor="white", linestyle="", label="not at equilibrium", **grey)
        )
    return handles
