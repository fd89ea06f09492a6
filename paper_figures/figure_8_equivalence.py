"""Figure 8: SP and NTK, muP and MFP, each trained for itself though proved equal: what differs is rounding."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from paper_figures.items import Item, Table
from paper_figures.transfer_results import TITLES, Transfer, transfer
from paper_figures.twins import PAIRS, Twins, twins
from verify.studies.transfer.plots import COLOURS, LOOK, plain_numbers

STUDY = "equivalence"
ROUNDING = 2.0**-23
"""Twice the largest relative error of one rounding in float32: the smallest difference of two numbers near 1."""
EARLY = 2
"""Steps within which rounding has not had the time to grow."""
MARKERS = "o^vD"
BELOW: Any = {"xytext": (0, -8), "textcoords": "offset points", "ha": "center", "va": "top", "fontweight": "bold"}
SMALL: Any = {"ha": "left", "va": "bottom", "fontsize": 7, "color": "#505050"}


def item(data: Path) -> Item:
    """A column per optimizer: loss curves that lie on each other, and below them their relative difference."""
    found = transfer(data, STUDY)
    runs = twins(found)
    exact, rounded = [each for each in runs if each.exact], [each for each in runs if not each.exact]
    early = max(max(each.differences[: _early(each)]) for each in rounded)
    same = sum(each.equal for each in exact)
    return Item(
        title="Parameterizations that are one: SP and NTK, muP and MFP",
        claim="SP and NTK, and muP and MFP, are the same training run step for step once each has its own rates, and "
        "differ by rounding alone; where the width is the base width times a power of 4, not even by that.",
        measured=f"All were trained. At ratios {_ratios(exact)}, {same} of {len(exact)} pairs of runs are equal bit for"
        f" bit to the last step. At ratios {_ratios(rounded)}, training losses differ by at most {early:.1e}, relative,"
        f" in the first {EARLY} steps. Training amplifies that, with both optimizers and more at larger rates:"
        f" medians after the last step are {_ends(rounded)}.",
        scale=found.scale(),
        verdict="held" if same == len(exact) and early < 16 * ROUNDING else "held in part" if same else "did not hold",
        figures={"figure_8_equivalence": _figure(found, runs)},
        tables={"figure_8_differences": _table(runs)},
    )


def _early(each: Twins) -> int:
    return sum(step <= EARLY for step in each.steps)


def _ratios(runs: Sequence[Twins]) -> str:
    return ", ".join(f"{ratio:g}" for ratio in sorted({each.ratio for each in runs}))


def _final(runs: Sequence[Twins]) -> list[float]:
    """Relative differences after the last step, of the pairs in which both runs got there."""
    return [each.differences[-1] for each in runs if np.isfinite(each.differences[-1])]


def _ends(runs: Sequence[Twins]) -> str:
    """By optimizer, at the smallest and the largest rate that all pairs were trained at to the end."""
    parts = []
    for optimizer in dict.fromkeys(each.optimizer for each in runs):
        by_rate: dict[float, list[Twins]] = {}
        for each in runs:
            if each.optimizer == optimizer:
                by_rate.setdefault(each.first.base_rate, []).append(each)
        most = max(len(_final(own)) for own in by_rate.values())
        ends = sorted(
            (rate, float(np.median(_final(own)))) for rate, own in by_rate.items() if len(_final(own)) == most
        )
        said = " and ".join(f"{median:.1e} at rate {rate:g}" for rate, median in (ends[0], ends[-1]))
        parts.append(f"{said} for {TITLES[optimizer]}")
    return "; ".join(parts)


def _figure(found: Transfer, runs: Sequence[Twins]) -> Figure:
    optimizers = list(found.by_optimizer())
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(4.6 * len(optimizers), 6.6), layout="constrained")
        axes = figure.subplots(2, len(optimizers), squeeze=False, sharex=True, sharey="row", height_ratios=(2, 3))
        for column, optimizer in enumerate(optimizers):
            own = [each for each in runs if each.optimizer == optimizer]
            _draw_losses(axes[0, column], own, TITLES[optimizer])
            _draw_differences(axes[1, column], own)
        axes[0, 0].set_ylabel("training loss (nats)")
        axes[1, 0].set_ylabel("relative difference of the two losses")
        figure.align_ylabels(axes[:, 0])
    return figure


def _draw_losses(axis: Any, runs: Sequence[Twins], title: str) -> None:
    """Seed 0 at the largest ratio with rounding and the pair's best rate: the second dashed upon the first."""
    ratio = max(each.ratio for each in runs if not each.exact)
    for pair in PAIRS:
        own = [each for each in runs if each.pair == pair and each.ratio == ratio and each.first.seed == 0]
        best = min(own, key=lambda each: np.nan_to_num(each.first.loss, nan=np.inf))
        for record, name, look in zip(
            (best.first, best.second), pair, ({"linewidth": 5, "alpha": 0.4}, {}), strict=True
        ):
            line = "-" if look else "--"
            axis.plot(*zip(*record.curve, strict=True), line, color=COLOURS[name], label=name, **look)
    axis.set(xscale="log", title=f"{title}, {ratio:g} times the base width")
    axis.legend(fontsize=8)


def _draw_differences(axis: Any, runs: Sequence[Twins]) -> None:
    """Where multipliers are rounded, a pale line for every two runs and their median; the others are 0 at all steps."""
    ratios = sorted({each.ratio for each in runs if not each.exact})
    axis.set(xlabel="training step", xscale="log")
    plain_numbers(axis.xaxis)
    axis.set_yscale("symlog", linthresh=ROUNDING / 4, linscale=1.3)
    axis.set_yticks([0, *10.0 ** np.arange(-7, 1)])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1e{np.log10(value):.0f}" if value else "0"))
    for pair, (ratio, marker) in product(PAIRS, zip(ratios, MARKERS, strict=False)):
        own, colour = [each for each in runs if each.pair == pair and each.ratio == ratio], COLOURS[pair[0]]
        for each in own:
            axis.plot(each.steps, each.differences, color=colour, alpha=0.18, linewidth=0.6)
        steps = own[0].steps
        middle = [
            np.nanmedian([each.differences[i] for each in own if i < len(each.differences)]) for i in range(len(steps))
        ]
        label = f"{pair[1]} against {pair[0]}, ratio {ratio:g}"
        axis.plot(steps, middle, marker=marker, color=colour, linewidth=1.6, label=label)
    exact = [each for each in runs if each.exact]
    for each in exact:
        axis.plot(each.steps, each.differences, "s-", color="black", markersize=4, linewidth=2)
    same = sum(each.equal for each in exact)
    said = f"ratios {_ratios(exact)}: exactly 0 in {same} of {len(exact)} pairs of runs"
    axis.annotate(said, (0.5, 0.0), xycoords=axis.get_yaxis_transform(), **BELOW)
    axis.set_ylim(bottom=-ROUNDING / 6)
    axis.axhline(ROUNDING, color="#707070", linewidth=0.8, linestyle=":")
    axis.annotate("float32: 2^-23", (0.01, ROUNDING * 1.2), xycoords=axis.get_yaxis_transform(), **SMALL)
    axis.legend(fontsize=8, loc="upper left", title="pale: each pair of runs; line: median", title_fontsize=8)


def _table(runs: Sequence[Twins]) -> Table:
    rows = []
    sections = []
    keys = sorted({(each.optimizer, PAIRS.index(each.pair), each.ratio) for each in runs})
    for optimizer, place, ratio in keys:
        if ratio == keys[0][2]:
            sections.append(len(rows))
        names = PAIRS[place]
        own = [each for each in runs if (each.optimizer, each.pair, each.ratio) == (optimizer, names, ratio)]
        early = max(max(each.differences[: _early(each)]) for each in own)
        last = _final(own)
        equal = f"{sum(each.equal for each in own)} of {len(own)}"
        cells = (f"{value:.1e}" if value else "0" for value in (early, np.median(last), max(last)))
        rows.append((TITLES[optimizer], " and ".join(names), f"{ratio:g}", equal, *cells))
    columns = ("optimizer", "pair", "width / base width", "runs bit-equal")
    return Table((*columns, f"largest to step {EARLY}", "median at the end", "largest at the end"), rows, sections[1:])
