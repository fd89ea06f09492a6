"""The picture of a coordinate check: what a step changes of every layer's output, against width."""

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verify.model.check.check import Check, Measured
from verify.model.rows import without_numbers
from verify.studies.pictures import STYLE
from verify.studies.transfer.plots import plain_numbers
from verify.values import Leaf, Style

NAMED = 12
"""Layers that the legend has room for."""
LOOK: Style = {"markersize": 3, "linewidth": 1.1}
SETUPS = {"own": "as it is", "prescribed": "as prescribed"}


def changes_against_width(check: Check, title: str) -> Figure:
    """A row per set-up, a column per step: RMS of the change of every dense op's output, mean over seeds.

    Lines that are level keep their size; those that rise blow up with the width, those that fall freeze. Ops that are
    alike but for numbers in their names share a colour.
    """
    first = next(iter(check.measured.values()))
    steps = sorted(first.tables)
    kinds = list(dict.fromkeys(map(without_numbers, first.tables[steps[0]])))
    colours = dict(zip(kinds, mpl.colormaps["turbo"](np.linspace(0.05, 0.95, len(kinds))), strict=True))
    with mpl.rc_context({**STYLE, "text.parse_math": False}):
        size = (2.5 * len(steps) + 2.4, 2.4 * len(check.measured) + 0.6)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(check.measured), len(steps), squeeze=False, sharex=True, sharey=True)
        for line, (setup, measured) in zip(axes, check.measured.items(), strict=True):
            for axis, step in zip(line, steps, strict=True):
                _panel(axis, check, measured, step, colours)
                axis.set_title(f"after step {step}" if measured is first else "")
            line[0].set_ylabel(f"{SETUPS[setup]}: {measured.verdict}\nRMS of the change")
        for axis in axes[-1]:
            axis.set_xlabel("width n")
        handles, names = axes[0, 0].get_legend_handles_labels()
        shown = dict(zip(names, handles, strict=True))
        left = len(shown) - NAMED
        figure.legend(
            handles=list(shown.values())[:NAMED],
            loc="outside right upper",
            fontsize=7,
            title=f"{left} more not named" if left > 0 else None,
        )
        figure.suptitle(f"{title}: what a step changes should neither grow nor shrink with the width")
    return figure


def _panel(axis: Axes, check: Check, measured: Measured, step: int, colours: dict[str, Leaf]) -> None:
    """A line per dense op that moves."""
    for name, sizes in measured.tables[step].items():
        if "delta_output" not in sizes:
            continue
        drawn = np.asarray(sizes["delta_output"], dtype=float).mean(axis=1)
        if (drawn > 0).any():
            kind = without_numbers(name)
            axis.plot(check.widths, np.where(drawn > 0, drawn, np.nan), "o-", color=colours[kind], label=kind, **LOOK)
    axis.set(xscale="log", yscale="log", xticks=check.widths)
    axis.set_xticklabels([str(width) for width in check.widths])
    plain_numbers(axis.yaxis)
    axis.minorticks_off()
