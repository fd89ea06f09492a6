"""Pictures of a study: sizes against width with the predicted slope, alignments against the training step."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from sympy import Expr

from verify.fit.forward import Row, Table, alignment_ratios, single_width_ratio, slope
from verify.values import Leaf, Style

QUANTITIES = {"delta_w": "update  RMS(ΔW)", "delta_z": "change  RMS(Δz)"}
RATIOS = {"alpha": "α  of ΔW z", "omega": "ω  of W Δz", "u": "u  of ΔW Δz"}
ALIGNMENTS = (0.2, 1.3)
STYLE: Style = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "font.size": 9,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "savefig.dpi": 150,
}


def changes(table: Table, widths: Sequence[int], a: Expr) -> dict[str, Leaf]:
    """RMS(Dz) per layer of a chain: the change of the next op's input, and of the logits for the last.

    The logits are n^-a W z, with n relative to the smallest width.
    """
    names = list(table)
    multiplier = (np.asarray(widths, dtype=float) / widths[0]) ** -float(a)
    logits = table[names[-1]]["delta_output"] * multiplier[:, None]
    inputs = [table[name]["delta_input"] for name in names[1:]]
    return dict(zip(names, [*inputs, logits], strict=True))


def sizes_against_width(
    rows: Sequence[Row], widths: Sequence[int], table: Table, step: int, title: str, a: Expr
) -> Figure:
    """A column per layer: measured sizes of every seed, and the predicted power through their middle.

    `a` is the exponent of the readout's multiplier.
    """
    judged = {(row.layer, row.quantity): row for row in rows if row.step == step}
    names, moved = list(table), changes(table, widths, a)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(names), 4.6), layout="constrained")
        axes = figure.subplots(2, len(names), squeeze=False, sharex=True)
        for column, name in enumerate(names):
            values = {"delta_w": table[name]["delta_w"], "delta_z": moved[name]}
            for axis, (quantity, label) in zip(axes[:, column], QUANTITIES.items(), strict=True):
                row = judged[name, quantity]  # type: ignore[index]
                _draw_power(axis, widths, values[quantity], row)
                axis.set_ylabel(label if column == 0 else "")
            axes[0, column].set_title(name, pad=16)
            axes[1, column].set_xlabel("width n")
        figure.suptitle(f"{title}, after step {step}: measured (dots) and predicted power n^-x (line)")
    return figure


def _draw_power(axis: Axes, widths: Sequence[int], sizes: Leaf, row: Row) -> None:
    x = np.asarray(widths, dtype=float)
    for seed in range(sizes.shape[1]):
        axis.plot(x, sizes[:, seed], "o", color="#0072b2", markersize=3.5, alpha=0.7)
    exact = _fraction(row.predicted)
    drawn = sizes[np.isfinite(sizes) & (sizes > 0)]
    middle = np.log(drawn).mean() if drawn.size else 0.0
    axis.plot(x, np.exp(middle) * (x / np.exp(np.log(x).mean())) ** -exact, color="#404040", linewidth=1)
    # The same span everywhere, in which a slope of 1 fills the height: flat looks flat.
    span = (x[-1] / x[0]) ** 0.65
    axis.set(xscale="log", yscale="log", xticks=x)
    axis.set_ylim(np.exp(middle) / span, np.exp(middle) * span)
    axis.set_xticklabels([str(width) for width in widths], rotation=45)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.minorticks_off()
    label = f"x = {row.predicted}, measured {row.measured.value:+z.2f}: {row.verdict}"
    axis.annotate(label, (0.02, 1.02), xycoords="axes fraction", fontsize=7)


def _fraction(text: str | None) -> float:
    numerator, _, denominator = (text or "0").partition("/")
    return float(numerator) / float(denominator or 1)


def alignments_against_step(
    tables: Mapping[int, Table], widths: Sequence[int], fans: Mapping[str, int], title: str
) -> Figure:
    """Log-alignment ratios over training: thick as slopes across widths, thin at each width, which holds constants.

    1 is perfect alignment and 1/2 is none.
    """
    steps = sorted(tables)
    names = [name for name, sizes in tables[steps[0]].items() if "input" in sizes]
    shades = mpl.colormaps["Greys"](np.linspace(0.35, 0.9, len(widths)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * len(names) + 1, 6.0), layout="constrained")
        axes = figure.subplots(3, len(names), squeeze=False, sharex=True, sharey=True)
        for column, name in enumerate(names):
            for axis, (quantity, label) in zip(axes[:, column], RATIOS.items(), strict=True):
                ratios = [alignment_ratios(tables[step][name])[quantity] for step in steps]  # type: ignore[index]
                for index, (width, shade) in enumerate(zip(widths, shades, strict=True)):
                    fan_in = max(2, round(fans[name] * width / widths[0]))
                    values = [single_width_ratio(ratio[index], fan_in) for ratio in ratios]
                    axis.plot(steps, values, color=shade, linewidth=0.8, label=f"at n = {width} alone", zorder=1)
                across = [slope(widths, ratio) for ratio in ratios]
                middle = np.array([each.value for each in across])
                ends = np.array([[each.low, each.high] for each in across]).T
                look: Style = {
                    "color": "#0072b2",
                    "capsize": 2,
                    "elinewidth": 0.9,
                    "markersize": 4,
                    "linewidth": 1.8,
                    "zorder": 3,
                }
                axis.errorbar(steps, middle, abs(ends - middle), fmt="o-", label="slope across\nwidths, 95 %", **look)
                for level in (0.5, 1.0):
                    axis.axhline(level, color="#b0b0b0", linewidth=0.8, linestyle=":", zorder=0)
                axis.set(xscale="log", ylim=ALIGNMENTS, xticks=steps)
                axis.set_xticklabels([str(step) for step in steps])
                axis.minorticks_off()
                axis.set_yticks((0.5, 1.0), ("½ none", "1 full"))
                axis.set_ylabel(label if column == 0 else "")
            axes[0, column].set_title(name)
            axes[2, column].set_xlabel("training step")
        axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        figure.suptitle(f"{title}: alignment as a power of the width")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG and PDF, beside each other."""
    for suffix in (".png", ".pdf"):
        figure.savefig(path.with_suffix(suffix))
