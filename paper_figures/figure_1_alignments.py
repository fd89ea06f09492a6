"""Figure 1: log-alignment ratios over training, at single widths as in the paper and as slopes across widths."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from derive.words import Kind
from paper_figures.items import Item, Table
from paper_figures.paths import result
from verify.fit.forward import Sizes, Slope, alignment_ratios, single_width_ratio, slope, total_ratio
from verify.studies.exponents.measured import Measured, read_measured
from verify.studies.transfer.plots import COLOURS, plain_numbers

STUDIES = ("alignments_adam_sp", "alignments_adam_mup", "alignments_sgd_mup")
QUANTITIES = {"alpha": "α  of ΔW z", "omega": "ω  of W Δz", "u": "u  of ΔW Δz", "total": "total, of Δ(W z)"}
DRAWN = ("hidden.1", "readout")
TOTAL = (
    r"total: $\log_n\ \mathrm{RMS}(\Delta(Wz))\ /\ \sqrt{(\mathrm{RMS}(\Delta W)\,\mathrm{RMS}(z))^2 + "
    r"(\mathrm{RMS}(W)\,\mathrm{RMS}(\Delta z))^2 + (\mathrm{RMS}(\Delta W)\,\mathrm{RMS}(\Delta z))^2}$"
)


def ratios(study: Measured, step: int, layer: str) -> dict[str, Sizes]:
    """n to the power of alpha, omega, u and the total of one layer; the formulas are those of `verify.fit.forward`."""
    sizes = study.tables[step][layer]
    return {**alignment_ratios(sizes), "total": total_ratio(sizes)}


def slopes(study: Measured, layer: str, quantity: str) -> dict[int, Slope]:
    """By step: the log-alignment ratio as a power of the width, which has no constant in it."""
    return {step: slope(study.widths, ratios(study, step, layer)[quantity]) for step in study.tables}


def name(study: Measured) -> str:
    """Such as Adam, muP."""
    optimizer = study.conditions["optimizer"]
    return f"{ {'adam': 'Adam', 'sgd': 'SGD'}[optimizer] }, {study.conditions['parameterization']}"


def item(data: Path) -> Item:
    """The figure, a table of every layer's slopes, and what they say of the assumptions."""
    studies = [read_measured(result(data, study)) for study in STUDIES]
    first, last, widest = min(studies[0].tables), max(studies[0].tables), studies[0].widths[-1]
    layers = [(study, layer) for study in studies for layer, kind in study.kinds.items() if kind != "embedding"]

    def found(quantity: str, steps: Iterable[int], kinds: Iterable[Kind] = ("hidden", "readout")) -> list[float]:
        chosen = [(study, layer) for study, layer in layers if study.kinds[layer] in kinds]
        return [slopes(study, layer, quantity)[step].value for study, layer in chosen for step in steps]

    alpha, readout = found("alpha", studies[0].tables), found("omega", studies[0].tables, ["readout"])
    single = [
        single_width_ratio(ratios(study, step, layer)["alpha"][-1], widest)
        for study, layer in layers
        for step in study.tables
    ]
    between = all(0.55 < value < 0.95 for value in alpha)
    apart = all(0.55 < value < 0.95 for value in readout)
    return Item(
        title="Alignment over training",
        claim="Alignment differs between layers and changes over training; it lies between none (1/2) and full (1), so "
        "that no one assumption holds throughout.",
        measured=f"At width {widest} alone alpha is {_range(single)}, as if between; but as a slope across widths, "
        f"free of constants, it is {_range(alpha)} over all layers, steps and studies: full. Slopes of omega are "
        f"{_range(found('omega', studies[0].tables, ['hidden']))} on hidden layers and {_range(readout)} on the "
        f"readout, between the assumptions. u begins near 1/2 ({_range(found('u', [first]))} after step {first}, with "
        f"wide intervals) and grows to {_range(found('u', [last]))} after step {last}.",
        scale=f"MLP with two hidden layers, widths {studies[0].widths[0]} to {widest}, "
        f"{len(studies[0].conditions['seeds'])} seeds, {last} steps; probe batch of {studies[0].conditions['probe']}.",
        verdict="held" if between and apart else "held in part" if between or apart else "did not hold",
        tables={"figure_1_alignments": table(studies)},
        figures={"figure_1_alignments": draw(studies)},
    )


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def table(studies: list[Measured]) -> Table:
    """Slopes of every layer with half of their intervals."""
    rows, sections = [], []
    for study in studies:
        sections.append(len(rows))
        steps = sorted(study.tables)
        for layer in (layer for layer, kind in study.kinds.items() if kind != "embedding"):
            for step in (steps[0], steps[len(steps) // 2], steps[-1]):
                found = [slopes(study, layer, quantity)[step] for quantity in QUANTITIES]
                cells = [f"{each.value:.2f} ± {each.high - each.value:.2f}" for each in found]
                rows.append([name(study), layer, str(step), *cells])
    return Table(["optimizer, parameterization", "layer", "step", "α", "ω", "u", "total"], rows, sections[1:])


def draw(studies: list[Measured]) -> Figure:
    """A row per ratio, a column per study and layer: thin lines at single widths, thick the slope across them."""
    columns = [(study, layer) for study in studies for layer in DRAWN]
    figure = Figure(figsize=(1.95 * len(columns) + 0.4, 8.2), layout="constrained")
    axes = figure.subplots(len(QUANTITIES), len(columns), squeeze=False, sharex=True, sharey=True)
    for (study, layer), column in zip(columns, axes.T, strict=True):
        column[0].set_title(f"{name(study)}\n{study.kinds[layer]}")
        for axis, quantity in zip(column, QUANTITIES, strict=True):
            _panel(axis, study, layer, quantity)
        column[-1].set_xlabel("training step")
    for axis, label in zip(axes[:, 0], QUANTITIES.values(), strict=True):
        axis.set_ylabel(label)
    figure.suptitle(
        "Log-alignment ratios over training: at single widths (thin, base the fan-in), and free of constants, as "
        f"slopes across widths (thick)\n{TOTAL}",
        fontsize="medium",
    )
    figure.legend(handles=_legend(studies[0].widths), loc="outside lower center", ncols=5)
    return figure


def _panel(axis: Any, study: Measured, layer: str, quantity: str) -> None:
    steps = sorted(study.tables)
    for index, (width, shade) in enumerate(_shades(study.widths)):
        values = [single_width_ratio(ratios(study, step, layer)[quantity][index], width) for step in steps]
        axis.plot(steps, values, color=shade, linewidth=0.8, zorder=1)
    for level in (0.5, 1.0):
        axis.axhline(level, color="#808080", linewidth=0.7, linestyle=":", zorder=0)
    found = slopes(study, layer, quantity)
    colour = COLOURS[study.conditions["parameterization"]]
    middle = np.array([found[step].value for step in steps])
    ends = np.array([[found[step].low, found[step].high] for step in steps]).T
    axis.errorbar(steps, middle, abs(ends - middle), fmt="o-", color=colour, capsize=2, linewidth=1.8, zorder=3)
    axis.set(xscale="log", ylim=(0.0, 1.4), yticks=(0, 0.5, 1))
    axis.set_yticklabels(["0", "½ none", "1 full"])
    plain_numbers(axis.xaxis)


def _shades(widths: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
    """A grey per width, dark for wide."""
    return zip(widths, mpl.colormaps["Greys"](np.linspace(0.35, 0.9, len(widths))), strict=True)


def _legend(widths: tuple[int, ...]) -> list[Line2D]:
    single = [Line2D([], [], color=shade, linewidth=0.8, label=f"width {width}") for width, shade in _shades(widths)]
    thick = [
        Line2D([], [], color=COLOURS[scheme], marker="o", linewidth=1.8, label=f"slope across widths, 95 %, {scheme}")
        for scheme in ("SP", "muP")
    ]
    return [*single, *thick]
