"""Figure 7: the coordinate check, the change of every layer's activations against width over the first steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sympy import Rational

from derive.parameterizations import parameterization
from paper_figures.items import Item, Table, verdict
from paper_figures.paths import result
from verify.studies.exponents.measured import Measured, read_measured
from verify.studies.pictures import changes
from verify.studies.transfer.plots import COLOURS, round_sizes

STUDIES = ("alignments_adam_sp_global", "alignments_adam_mup_global", "alignments_adam_sp", "alignments_adam_mup")
RULES = {"global": "one rate", "full": "per-layer rates"}
LAST = 10
"""The last of the first steps."""
MARKERS = {1: "o", 2: "s", 5: "^", LAST: "D"}

LINES: Any = {"--": r"predicted, $n^{-r}$ as n → ∞", ":": "implied by the measured sizes of the terms, after step 1"}


ALIKE = 0.05
"""|r| up to which changes count as keeping their size."""


def sizes(study: Measured, step: int) -> dict[str, Any]:
    """RMS(Dz) of every layer as [width, seed]."""
    return changes(study.tables[step], study.widths, parameterization(study.conditions["parameterization"]).a[-1])


def name(study: Measured) -> str:
    """Such as SP, one rate."""
    return f"{study.conditions['parameterization']}, {RULES[study.conditions['alignment']]}"


def item(data: Path) -> Item:
    """The figure, a table of r, and whether only per-layer rates keep the changes of one size."""
    studies = [read_measured(result(data, study)) for study in STUDIES]
    one, own = (
        [
            study.row(step, layer, "delta_z")
            for study in studies
            if study.conditions["alignment"] == alignment
            for layer, kind in study.kinds.items()
            if kind == "hidden"
            for step in MARKERS
        ]
        for alignment in RULES
    )
    outcomes = [*(row["high"] < 0 for row in one), *(abs(row["measured"]) <= ALIKE for row in own)]
    first = [row for row in one if row["step"] == 1]
    return Item(
        title="Coordinate check",
        claim="With one learning rate for all layers the change of activations grows with width; with the per-layer "
        "rates of full alignment it keeps its size, in standard parameterization as in muP.",
        measured=f"Adam, RMS(Δz) of hidden layers after steps 1 to {LAST}: {_range(one)} with one rate and "
        f"{_range(own)} with per-layer rates. After the first step one rate gives {_range(first)}, within "
        f"{max(abs(row['measured'] - row['implied']) for row in first):.2f} of what the measured sizes of the terms of "
        "Δ(W z) imply; the powers predicted for n → ∞ are higher where terms that are still small at these widths grow "
        "fastest.",
        scale=f"MLP with two hidden layers, widths {studies[0].widths[0]} to {studies[0].widths[-1]}, "
        f"{len(studies[0].conditions['seeds'])} seeds, base rate {studies[0].conditions['base_rate']:g}.",
        verdict=verdict(outcomes),
        tables={"figure_7_coordinate_check": table(studies)},
        figures={"figure_7_coordinate_check": draw(studies)},
    )


def _range(rows: Sequence[Mapping[str, Any]]) -> str:
    powers = [-row["measured"] for row in rows]
    return f"n^{min(powers):z.2f} to n^{max(powers):z.2f}"


def table(studies: list[Measured]) -> Table:
    """r as predicted, as implied by the measured sizes of terms, and as measured."""
    rows = []
    for study in studies:
        for layer in study.kinds:
            for step in (1, LAST):
                row = study.row(step, layer, "delta_z")
                numbers = [f"{row[key]:z.2f}" for key in ("implied", "measured", "low", "high")]
                rows.append([name(study), layer, str(step), row["predicted"], *numbers])
    size = len(rows) // len(studies)
    columns = ["parameterization, rates", "layer", "step", "r predicted", "implied", "measured", "low", "high"]
    return Table(columns, rows, range(size, len(rows), size))


def draw(studies: list[Measured]) -> Figure:
    """A row per study, a column per layer: RMS(Dz) after each step, and the predicted power through the first."""
    layers = list(studies[0].kinds)
    figure = Figure(figsize=(2.6 * len(layers) + 0.6, 2.4 * len(studies) + 1.1), layout="constrained")
    axes = figure.subplots(len(studies), len(layers), squeeze=False, sharex=True, sharey="col")
    for line, study in zip(axes, studies, strict=True):
        for axis, layer in zip(line, layers, strict=True):
            _panel(axis, study, layer)
            if study is studies[0]:
                axis.set_title(layer, pad=30)
            if study is studies[-1]:
                axis.set_xlabel("width n")
        line[0].set_ylabel(f"{name(study)}\nRMS(Δz)")
    for column, layer in zip(axes.T, layers, strict=True):
        drawn = np.concatenate([sizes(study, step)[layer].ravel() for study in studies for step in MARKERS])
        column[0].set_ylim(0.7 * drawn.min(), 1.4 * drawn.max())  # predictions may leave it
        for axis in column:
            round_sizes(axis.yaxis)
            axis.minorticks_off()
    figure.suptitle(
        "Coordinate check, Adam: with one rate for all layers activations change ever more with width, with per-layer "
        "rates alike"
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=6)
    return figure


def _panel(axis: Any, study: Measured, layer: str) -> None:
    x = np.array(study.widths, dtype=float)
    colour = COLOURS[study.conditions["parameterization"]]
    middle = {step: np.exp(np.log(sizes(study, step)[layer]).mean(axis=1)) for step in MARKERS}
    for place, (step, marker) in enumerate(MARKERS.items()):
        axis.plot(x, middle[step], marker=marker, color=colour, alpha=0.4 + 0.2 * place, linewidth=1)
    row, late = (study.row(step, layer, "delta_z") for step in (1, LAST))
    for r, dashes in zip((float(Rational(row["predicted"])), row["implied"]), LINES, strict=True):
        axis.plot(x, middle[1][0] * (x / x[0]) ** -r, color="black", linestyle=dashes, linewidth=0.9, zorder=0)
    axis.set(xscale="log", yscale="log", xticks=x)
    axis.set_xticklabels([str(width) for width in study.widths])
    axis.minorticks_off()
    text = (
        f"predicted {_power(row['predicted'])}, from terms {_power(row['implied'])}\n"
        f"step 1: {_power(row['measured'])}, step {LAST}: {_power(late['measured'])}"
    )
    axis.annotate(text, (0.0, 1.03), xycoords="axes fraction", fontsize=8)


def _power(r: str | float) -> str:
    """n^-r, exact where r is text."""
    exponent = str(-Rational(r)) if isinstance(r, str) else f"{-r:z.2f}"
    return f"$n^{{{exponent}}}$"


def _legend() -> list[Line2D]:
    shown = [
        Line2D([], [], color="#404040", marker=marker, linewidth=1, label=f"after step {step}")
        for step, marker in MARKERS.items()
    ]
    black: Any = {"color": "black", "linewidth": 0.9}
    return [*shown, *(Line2D([], [], linestyle=dashes, label=label, **black) for dashes, label in LINES.items())]
