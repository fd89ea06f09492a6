"""Figure 4: the best base rate against width with the fitted power law, by prescription and optimizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import TITLES, transfer
from verify.fit.optimum import over_seeds
from verify.studies.transfer.headline import Group, distinct, interval, transfers
from verify.studies.transfer.outcomes import SettingResult
from verify.studies.transfer.plots import APART, LOOK, looks, plain_numbers, width_axis

STUDY = "transfer_mlp"
ROWS = {
    "full": "full alignment",
    "none": "no alignment",
    "prior": "earlier assumption (prior)",
    "global": "one raw rate (global)",
}

LEGEND = 0.5
"""Height of the legends, over that of what is drawn."""


def item(data: Path) -> Item:
    """A row of panels per prescription, a column per optimizer; flat lines transfer."""
    found = transfer(data, STUDY)
    full = found.groups("full")
    return Item(
        title="Best base rate against width",
        claim="Under the per-layer rates of full alignment the best base rate does not depend on the width, in any "
        "parameterization: its power of the width is 0.",
        measured="Drift, the power of the width with which the best base rate goes, under full alignment: "
        + _drifts(full, "full")
        + ". With one raw rate: "
        + _drifts(found.groups("global"), "global")
        + ".",
        scale=found.scale(),
        verdict=verdict([transfers(group.result.drift) for group in full]),
        figures={"figure_4_rate_by_width": _figure(found.by_optimizer())},
        tables={"figure_4_drifts": _table(found.by_optimizer())},
    )


def _drifts(groups: Sequence[Group], alignment: str) -> str:
    return "; ".join(
        f"{TITLES[group.result.setting.optimizer]} {_schemes(group, alignment)} {interval(group.result.drift)}"
        for group in groups
    )


def _schemes(group: Group, alignment: str) -> str:
    """The parameterizations that train alike at that alignment: "SP = NTK"."""
    return " = ".join(each.parameterization for each in group.members if each.alignment == alignment)


def _figure(by_optimizer: Mapping[str, Sequence[SettingResult]]) -> Figure:
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(3.5 * len(by_optimizer), 2.3 * len(ROWS) + 0.3), layout="constrained")
        axes = figure.subplots(len(ROWS), len(by_optimizer), squeeze=False, sharey="col")
        for row, (alignment, title) in enumerate(ROWS.items()):
            for axis, (name, results) in zip(axes[row], by_optimizer.items(), strict=True):
                _draw(axis, [each for each in results if each.setting.alignment == alignment])
                axis.set_title(f"{TITLES[name]}, {title}", loc="left")
                axis.set(xlabel="width n" if row == len(ROWS) - 1 else "")
        for column in axes.T:  # above what is drawn, for the legends
            low, high = column[0].get_ylim()
            column[0].set_ylim(low, high * (high / low) ** LEGEND)
        figure.supylabel("best base rate", fontsize="medium")
    return figure


def _draw(axis: Any, results: Sequence[SettingResult]) -> None:
    """Points with intervals over seeds, the power law as a line, and the interval of the power as a fan."""
    look_of, groups = looks(results), distinct(results)
    width_axis(axis, results)
    axis.set(yscale="log", ymargin=0.25)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    plain_numbers(axis.yaxis)
    for place, group in enumerate(groups):
        x, logs = rates(group.result)
        y, drift, look = np.exp([each.value for each in logs]), group.result.drift, look_of(group.result)
        beside = APART ** (place - (len(groups) - 1) / 2)
        ends = [y - np.exp([each.low for each in logs]), np.exp([each.high for each in logs]) - y]
        dashes, colour = look.pop("linestyle"), look["color"]
        axis.errorbar(x * beside, y, yerr=ends, linestyle="", capsize=2, elinewidth=0.8, **look)
        middle, span = np.exp(np.log(y).mean()), x / np.exp(np.log(x).mean())
        axis.plot(x, middle * span**drift.value, linestyle=dashes, color=colour, linewidth=1.2)
        axis.fill_between(x, middle * span**drift.low, middle * span**drift.high, color=colour, alpha=0.12, linewidth=0)
        name = _schemes(group, group.result.setting.alignment)
        axis.plot([], [], linestyle=dashes, label=f"{name}: n^{interval(drift)}", **look)
    axis.legend(fontsize=7, loc="upper left", handlelength=3)


def rates(result: SettingResult) -> tuple[Any, list[Any]]:
    """Widths, and the logarithm of the best rate over seeds, at those that have one."""
    known = [found for found in result.widths if np.isfinite(found.best_rate)]
    return np.array([found.width for found in known], dtype=float), [
        over_seeds(np.log(found.best_rates)) for found in known
    ]


def _table(by_optimizer: Mapping[str, Sequence[SettingResult]]) -> Table:
    rows, sections = [], []
    for name, results in by_optimizer.items():
        sections.append(len(rows))
        for group in distinct(results):
            last = group.result.widths[-1]
            said = {True: "yes", False: "no", None: "undecided"}[transfers(group.result.drift)]
            lost = interval(last.lost) if np.isfinite(last.lost.value) else f"diverges for {last.lost_diverged} seeds"
            rows.append((TITLES[name], group.label, interval(group.result.drift), said, lost))
    columns = ("optimizer", "setting", "drift", "transfers", "loss lost at the largest width (nats)")
    return Table(columns, rows, sections[1:])
