"""Pictures of a transfer study against width: the best rate, the best loss, and the loss paid for transfer.

Colours are the parameterization (Okabe & Ito's, which colour-blind readers tell apart), markers and dashes the
alignment; lines are labelled at their ends, so that nothing hangs on colour alone. Settings that train alike are
one line with all their names.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from verify.fit.optimum import Estimate, over_seeds
from verify.studies.pictures import STYLE
from verify.studies.transfer.headline import Group, distinct, interval, together, variant
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.values import Style

# Names are the user's, and "$" in them is no formula.
LOOK: Style = {
    **STYLE,
    "figure.dpi": STYLE["savefig.dpi"],
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "transfer",
}
COLOURS = {"SP": "#0072b2", "NTK": "#e69f00", "muP": "#009e73", "MFP": "#cc79a7"}
OTHER_COLOURS = ("#d55e00", "#56b4e9", "#000000")
DASHES = {"full": ("o", "-"), "none": ("s", "--"), "prior": ("^", "-."), "global": ("D", ":")}
OTHER_DASHES = (("v", (0, (5, 1))), ("P", (0, (3, 1, 1, 1))), ("X", (0, (1, 1))), ("*", (0, (8, 2))))
APART = 1.025  # from one line's points to the next one's, on the axis of widths
MANY = 60  # times between an axis' ends from which powers of ten are ticks enough
SMALLEST_LOSS = 0.01  # nats above which the axis of what transfer costs is logarithmic


def best_rate_against_width(results: Sequence[SettingResult]) -> Figure:
    """A panel per parameterization, a line per alignment: best rates with intervals, and the fitted power law.

    Settings that train alike are one line, in the panel of the first of them.
    """
    groups = distinct(results)
    schemes = list(dict.fromkeys(group.result.setting.parameterization for group in groups))
    with mpl.rc_context(LOOK):
        columns = min(2, len(schemes))
        rows = math.ceil(len(schemes) / columns)
        figure = Figure(figsize=(max(4.6 * columns, 7.0), 3.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
        for axis in axes[len(schemes) :]:
            axis.set_axis_off()
        for axis, scheme in zip(axes, schemes, strict=False):
            width_axis(axis, results)
            axis.set(yscale="log", title=scheme)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            plain_numbers(axis.yaxis)
            for group in groups:
                if group.result.setting.parameterization == scheme:
                    _draw_drift(axis, group, looks(results))
            if axis.lines:
                axis.legend(fontsize=7, loc="best", handlelength=3.5)
            else:
                axis.annotate("no best rate", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#707070")
            axis.tick_params(labelbottom=True)
            axis.set_ylabel("best base rate" if axis.get_subplotspec().is_first_col() else "")
        figure.suptitle(title_of(results, f"best base rate against {results[0].axis}; flat lines transfer"))
    return figure


def _draw_drift(axis: Axes, group: Group, look_of: Callable[[SettingResult], Style]) -> None:
    known = [found for found in group.result.widths if np.isfinite(found.best_rate)]
    if not known:
        return
    x, y = np.array([found.width for found in known], dtype=float), np.array([found.best_rate for found in known])
    logs = [over_seeds(np.log(found.best_rates)) for found in known]
    ends = [[each.value - each.low for each in logs], [each.high - each.value for each in logs]]
    bars = np.nan_to_num([y * (1 - np.exp(-np.array(ends[0]))), y * (np.exp(np.array(ends[1])) - 1)])
    look, drift = look_of(group.result), group.result.drift
    law = f"{group.result.along.letter}^{interval(drift)}" if np.isfinite(drift.value) else "no power law"
    label = f"{together(group.members)}: {law}"
    dashes = look.pop("linestyle")
    axis.errorbar(x, y, yerr=bars, linestyle="", capsize=2, elinewidth=0.8, **look)
    middle = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** np.nan_to_num(drift.value)
    if np.isfinite(drift.value):
        axis.plot(x, middle, linestyle=dashes, color=look["color"], linewidth=1.1)
    axis.plot([], [], linestyle=dashes, label=label, **look)


def best_loss_against_width(results: Sequence[SettingResult]) -> Figure:
    """A line per distinct setting of one optimizer: the loss at its best rate, with 95 % intervals."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.2, 4.6), layout="constrained")
        axis = figure.subplots()
        axis.set(ylabel="held-out loss at the best base rate (nats)")
        draw_groups(axis, results, lambda found: found.best_loss)
        axis.set_title(title_of(results, f"best loss against {results[0].axis} (lower is better)"))
    return figure


def loss_lost_by_transfer(results: Sequence[SettingResult]) -> Figure:
    """A line per distinct setting: the loss at the smallest width's best rate, less the best loss of the width."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8.2, 4.6), layout="constrained")
        axis = figure.subplots()
        axis.set_yscale("symlog", linthresh=SMALLEST_LOSS)
        axis.axhline(0, color="#b0b0b0", linewidth=0.8)
        axis.set(ylabel=f"loss paid (nats; linear below {SMALLEST_LOSS:g})")
        draw_groups(axis, results, lambda found: found.lost)
        plain_numbers(axis.yaxis)
        claim = f"loss paid for using the smallest {results[0].axis}'s best rate (0: transfers)"
        axis.set_title(title_of(results, claim))
    return figure


def draw_groups(axis: Axes, results: Sequence[SettingResult], value: Callable[[WidthResult], Estimate]) -> None:
    """A labelled line per distinct setting; where there is a width but no finite value, a cross at the top.

    Intervals of one width stand side by side, so that they can be told apart.
    """
    groups = [group for group in distinct(results) if group.result.widths]
    look_of = looks(results)
    width_axis(axis, results)
    ends: list[tuple[float, float, str, str]] = []
    failures: list[tuple[list[int], str]] = []
    for place, group in enumerate(groups):
        look, beside = look_of(group.result), APART ** (place - (len(groups) - 1) / 2)
        found = [(each, value(each)) for each in group.result.widths]
        drawn = [(each.width, estimate) for each, estimate in found if np.isfinite(estimate.value)]
        failed = [each.width for each, estimate in found if np.isinf(estimate.value) or _all_diverged(each)]
        if failed:
            failures.append((failed, look["color"]))
        if drawn:
            x, y = zip(*((width * beside, estimate.value) for width, estimate in drawn), strict=True)
            bars = [np.nan_to_num(estimate.high - estimate.value) for _, estimate in drawn]
            axis.errorbar(x, y, yerr=bars, capsize=2, elinewidth=0.8, linewidth=1.1, **look)
            note = f" (diverges at {', '.join(map(str, failed))})" if failed else ""
            ends.append((x[-1], y[-1], group.label + note, look["color"]))
        elif failed:
            ends.append(
                (failed[-1], np.inf, f"{group.label} (diverges at all {group.result.along.many})", look["color"])
            )
    if all(np.isinf(height) for _, height, _, _ in ends):  # nothing to scale the axis by
        axis.set_yticks([])
    axis.autoscale_view()  # what follows needs the limits
    _mark_above(axis, failures)
    _label_ends(axis, ends)


def _all_diverged(found: WidthResult) -> bool:
    return bool(np.isnan(found.best_rate) and found.diverged)


def _mark_above(axis: Axes, failures: Sequence[tuple[list[int], str]]) -> None:
    """A row of crosses per setting above what is drawn, at the widths where it diverges."""
    if not failures:
        return
    low, high = axis.transData.transform([(1, end) for end in axis.get_ylim()])[:, 1]
    extended = high + (high - low) * 0.04 * (len(failures) + 1)
    axis.set_ylim(top=axis.transData.inverted().transform((0, extended))[1])
    for row, (widths, colour) in enumerate(failures):
        height = [1 - 0.035 * (row + 0.5)] * len(widths)
        axis.plot(widths, height, "x", color=colour, markersize=5, transform=axis.get_xaxis_transform())


def _label_ends(axis: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the right of the axis beside the lines' last points, moved apart, with a leader to each point."""
    to_axes = axis.transData + axis.transAxes.inverted()
    placed = []
    for x, y, text, colour in ends:
        across, up = to_axes.transform((x, y)) if np.isfinite(y) else (1.0, 0.97)
        placed.append((float(up), float(across), text, colour))
    placed.sort(key=lambda entry: entry[0])
    heights = spread([entry[0] for entry in placed], 0.055)
    beside = axis.transAxes + ScaledTranslation(0.45, 0, axis.figure.dpi_scale_trans)  # inches, whatever the axis is
    for height, (up, across, text, colour) in zip(heights, placed, strict=True):
        axis.annotate(
            text,
            (across, up),
            (1, height),
            xycoords="axes fraction",
            textcoords=beside,
            va="center",
            fontsize=7.5,
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6},
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Growing heights moved, by least squares, until they are a gap apart and in 0 to 1.

    Less i gap for the i-th, that is isotonic regression: neighbours in the wrong order are replaced by their mean.
    """
    blocks: list[tuple[float, int]] = []
    for i, height in enumerate(heights):
        mean, count = height - i * gap, 1
        while blocks and blocks[-1][0] >= mean:
            before, size = blocks.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    highest = 1 - (len(heights) - 1) * gap
    level = [min(max(mean, 0.0), highest) for mean, count in blocks for _ in range(count)]
    return [height + i * gap for i, height in enumerate(level)]


def looks(results: Sequence[SettingResult]) -> Callable[[SettingResult], Style]:
    """Colour by parameterization, marker and dashes by alignment: the same in every picture of the optimizer."""
    schemes = dict.fromkeys(each.setting.parameterization for each in results)
    variants = dict.fromkeys(variant(each.setting) for each in results)
    colours = _assign(schemes, COLOURS, OTHER_COLOURS)
    dashes = _assign(variants, DASHES, OTHER_DASHES)

    def look(result: SettingResult) -> Style:
        marker, line = dashes[variant(result.setting)]
        return {
            "color": colours[result.setting.parameterization],
            "marker": marker,
            "linestyle": line,
            "markersize": 4.5,
        }

    return look


def _assign(names: Iterable[str], usual: Style, others: Sequence[Style]) -> Style:
    """The usual look of known names, and the others in turn."""
    unknown = [name for name in names if name not in usual]
    return {**usual, **{name: others[i % len(others)] for i, name in enumerate(unknown)}}


def width_axis(axis: Axes, results: Sequence[SettingResult]) -> None:
    """Every width of the results as a tick of a logarithmic axis."""
    widths = sorted({found.width for each in results for found in each.widths})
    axis.set(xscale="log", xlabel=f"{results[0].axis} {results[0].along.letter}", xticks=widths)
    axis.set_xticklabels([str(width) for width in widths])
    axis.minorticks_off()


def title_of(results: Sequence[SettingResult], claim: str) -> str:
    """The optimizer, cut where it is long, and what to look for."""
    name = results[0].setting.optimizer
    return f"{name if len(name) <= 30 else name[:27] + '...'}: {claim}"


def plain_numbers(axis: Axis) -> None:
    """Ticks as 0.00005 and 64, not as powers of ten; none between."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def round_sizes(axis: Axis) -> None:
    """Ticks of a logarithmic axis whose limits are set: 1, 10, 100, and 2 and 5 between where these are few."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > MANY else (1.0, 2.0, 5.0)))
    plain_numbers(axis)


def _plain(value: float) -> str:
    """0.00005 where the usual form is 5e-05; what is smaller or larger than a reader counts in zeros stays a power."""
    if not 1e-6 <= abs(value) < 1e6:
        return f"{value:g}"
    return np.format_float_positional(value, 6, fractional=False, trim="-")
