"""Figure 5: the size of gradients against width, at initialisation and after training, with the slope -g predicted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sympy import Rational

from derive.solve import trained_gradients
from paper_figures.items import Item, Table, verdict
from paper_figures.paths import result
from verify.fit.backward import TOLERANCES, Row
from verify.studies.epsilon.results import Backward, read_result
from verify.studies.transfer.plots import COLOURS, round_sizes, spread

LOOKS = {"SP": ("o", "-"), "NTK": ("s", "--"), "muP": ("^", "-."), "MFP": ("D", ":")}
APART = 0.095  # of a panel's height between two labels


def rows(found: Backward) -> dict[tuple[str, int], Row]:
    """The judged exponents of gradients by (layer, step)."""
    return {(row.layer, row.step): row for row in found.rows() if row.quantity == "gradient"}


def item(data: Path) -> Item:
    """The figure, a table of every exponent, and how far the measured ones are from g."""
    study = read_result(result(data, "epsilon", "float32"))
    first, last = (
        [row for found in study.backward for row in rows(found).values() if row.step == step]
        for step in sorted(study.backward[0].gradients.tables)
    )
    moved = [each.name for each in study.backward if trained_gradients(each.prescription) != _initial(each)]
    changed = f"changes g in {', '.join(moved)}" if moved else "changes no g: min(a + b, a + s + c) is a + b"
    conditions = study.study.conditions
    return Item(
        title="Gradients against width",
        claim="Gradients shrink with width as n^-g, with g by layer kind and parameterization, at initialisation and "
        "on; a constant epsilon meets them at some width wherever g > 0.",
        measured=f"At initialisation all {len(first)} slopes are within {_furthest(first):.2f} of -g; after "
        f"{last[0].step} steps within {_furthest(last):.2f}, {sum(map(_close, last))} of {len(last)} still within "
        f"{TOLERANCES['gradient']:g}: gradients then follow how much each width has learnt. At these rates the "
        f"readout's update {changed}.",
        scale=f"MLP with {conditions.sizes['hidden_layers']} hidden layers, Adam at full alignment's rates, widths "
        f"{study.widths[0]} to {study.widths[-1]}, {len({record.seed for record in study.study.records})} seeds, "
        f"{conditions.dtype}.",
        verdict=verdict(list(map(_close, [*first, *last]))),
        tables={"figure_5_gradients": table(study.backward)},
        figures={"figure_5_gradients": draw(study.backward)},
    )


def _initial(found: Backward) -> tuple[Any, ...]:
    return tuple(layer.g for layer in found.prescription.layers)


def _close(row: Row) -> bool:
    return _furthest([row]) <= TOLERANCES["gradient"]


def _furthest(listed: Sequence[Row]) -> float:
    return max(abs(row.measured.value - float(Rational(row.predicted))) for row in listed)


def table(backward: Sequence[Backward]) -> Table:
    """g as predicted and measured, of every layer."""
    cells, sections = [], []
    for found in backward:
        sections.append(len(cells))
        for row in rows(found).values():
            slope = row.measured
            numbers = [f"{each:z.3f}" for each in (slope.value, slope.low, slope.high)]
            cells.append([found.name, row.layer, str(row.step), Rational(row.predicted), *numbers, row.verdict])
    return Table(["parameterization", "layer", "step", "g", "measured", "low", "high", "verdict"], cells, sections[1:])


def draw(backward: Sequence[Backward]) -> Figure:
    """A row per step, a column per layer; all parameterizations are one network at the base width."""
    steps, layers = sorted(backward[0].gradients.tables), list(backward[0].gradients.kinds)
    figure = Figure(figsize=(3.35 * len(layers) + 0.4, 3.1 * len(steps) + 0.5), layout="constrained")
    axes = figure.subplots(len(steps), len(layers), squeeze=False, sharex=True, sharey="col")
    for line, step in zip(axes, steps, strict=True):
        for axis, layer in zip(line, layers, strict=True):
            for found in backward:
                _line(axis, found, step, layer)
            axis.set(xscale="log", yscale="log", xticks=backward[0].gradients.widths)
            axis.set_xticklabels([str(width) for width in backward[0].gradients.widths])
            round_sizes(axis.yaxis)
            axis.minorticks_off()
        line[0].set_ylabel(f"{'at initialisation' if step == 0 else f'after {step} steps'}\nRMS of gradient")
    for axis, layer in zip(axes[0], layers, strict=True):
        axis.set_title(layer)
    for axis in axes[-1]:
        axis.set_xlabel("width n")
    figure.suptitle("RMS of the loss's gradient against width: measured, and as predicted, $n^{-g}$ (thin black)")
    figure.draw_without_rendering()  # labels are placed where the limits and the layout put the lines' ends
    for line, step in zip(axes, steps, strict=True):
        for axis, layer in zip(line, layers, strict=True):
            _label(axis, [(found, rows(found)[layer, step], _middle(found, step, layer)[-1]) for found in backward])
    return figure


def _middle(found: Backward, step: int, layer: str) -> Any:
    """Geometric means over the seeds."""
    return np.exp(np.log(found.gradients.tables[step][layer]["gradient"]).mean(axis=1))


def _line(axis: Any, found: Backward, step: int, layer: str) -> None:
    widths = np.array(found.gradients.widths, dtype=float)
    sizes, predicted = _middle(found, step, layer), float(Rational(rows(found)[layer, step].predicted))
    marker, dashes = LOOKS[found.name]
    look: Any = {"color": COLOURS[found.name], "marker": marker, "linestyle": dashes, "markerfacecolor": "white"}
    axis.plot(widths, sizes, label=found.name, **look)
    axis.plot(widths, sizes[0] * (widths / widths[0]) ** -predicted, color="black", linewidth=0.6, zorder=0)


def _label(axis: Any, ends: Sequence[tuple[Backward, Row, float]]) -> None:
    """The name, g and the measured exponent beside every line's end, moved apart."""
    low, high = np.log(axis.get_ylim())
    placed = sorted(((np.log(end) - low) / (high - low), found.name, row) for found, row, end in ends)
    for height, (_, name, row) in zip(spread([each[0] for each in placed], APART), placed, strict=True):
        text = f"{name}  g = {row.predicted}, is {row.measured.value:z.2f}"
        axis.annotate(text, (1.03, height), xycoords="axes fraction", va="center", fontsize=7, color=COLOURS[name])
