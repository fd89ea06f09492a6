"""Figure 12: the best base rate against depth and against batch, as prescribed and with one raw rate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from paper_figures.figure_4_rate_by_width import LEGEND, rates
from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import TITLES, Transfer, transfer
from verify.studies.transfer.headline import Group, distinct, interval, transfers
from verify.studies.transfer.outcomes import SettingResult
from verify.studies.transfer.plots import APART, LOOK, looks, plain_numbers, width_axis
from verify.sweeps.records import GLOBAL

STUDIES = ("transfer_depth", "transfer_batch")
"""The last is needed, the other is shown where it is."""
NAMES = {"full": "prescribed", "rule": "prescribed", GLOBAL: "one raw rate"}


def item(data: Path) -> Item:
    """A row of panels per axis, a column per optimizer; flat lines transfer."""
    found = [transfer(data, name) for name in STUDIES if name == STUDIES[-1] or (data / name).exists()]
    groups = [group for each in found for group in _groups(each)]
    ruled = [group for group in groups if _is_prescribed(group)]
    return Item(
        title="Best base rate against depth and batch",
        claim="Along depth and along the batch, too, rates that follow from the update rule leave the best base rate "
        "where it is (docs/depth_and_batch.md); the paper does not have these axes.",
        measured="Drift, the power of depth or batch with which the best base rate goes, as prescribed: "
        + _drifts(ruled)
        + ". With one raw rate: "
        + _drifts([group for group in groups if not _is_prescribed(group)])
        + ".",
        scale=" ".join(each.scale() for each in found),
        verdict=verdict([transfers(group.result.drift) for group in ruled]),
        figures={"figure_12_other_axes": _figure(found)},
        tables={"figure_12_drifts": _table(groups)},
    )


def _groups(found: Transfer) -> list[Group]:
    return [group for results in found.by_optimizer().values() for group in distinct(results)]


def _is_prescribed(group: Group) -> bool:
    """Also where the rule leaves the raw rate as it is, which is then trained once for both."""
    return any(each.alignment != GLOBAL for each in group.members)


def _name(group: Group) -> str:
    """Such as "CompleteP, prescribed = one raw rate"; along the batch there is one setting of a kind."""
    kinds = " = ".join(NAMES[each.alignment] for each in group.members)
    return kinds if group.result.axis == "batch" else f"{group.result.setting.parameterization}, {kinds}"


def _drifts(groups: Sequence[Group]) -> str:
    return "; ".join(
        f"{TITLES[group.result.setting.optimizer]} along {group.result.axis}"
        + ("" if group.result.axis == "batch" else f", {group.result.setting.parameterization}")
        + f", {interval(group.result.drift)}"
        for group in groups
    )


def _figure(found: Sequence[Transfer]) -> Figure:
    optimizers = list(dict.fromkeys(name for each in found for name in each.by_optimizer()))
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(4.4 * len(optimizers), 3.1 * len(found) + 0.3), layout="constrained")
        axes = figure.subplots(len(found), len(optimizers), squeeze=False)
        for row, each in zip(axes, found, strict=True):
            for axis, (name, results) in zip(row, each.by_optimizer().items(), strict=True):
                _draw(axis, results)
                axis.set_title(f"{TITLES[name]} along {results[0].axis}", loc="left")
        figure.supylabel("best base rate", fontsize="medium")
    return figure


def _draw(axis: Any, results: Sequence[SettingResult]) -> None:
    """Points with intervals over seeds, and the power law as a line; its power and interval in the legend."""
    look_of, groups = looks(results), distinct(results)
    width_axis(axis, results)
    axis.set(yscale="log", ymargin=0.25)
    for place, group in enumerate(groups):
        x, logs = rates(group.result)
        drift, look = group.result.drift, look_of(group.result)
        dashes, law = look.pop("linestyle"), f"{group.result.along.letter}^{interval(drift)}"
        axis.plot([], [], linestyle=dashes, label=f"{_name(group)}: {law}", **look)
        if not len(x):
            continue
        y = np.exp([each.value for each in logs])
        ends = np.nan_to_num([y - np.exp([each.low for each in logs]), np.exp([each.high for each in logs]) - y])
        beside = APART ** (place - (len(groups) - 1) / 2)
        axis.errorbar(x * beside, y, yerr=ends, linestyle="", capsize=2, elinewidth=0.8, **look)
        if np.isfinite(drift.value):
            middle = np.exp(np.log(y).mean()) * (x / np.exp(np.log(x).mean())) ** drift.value
            axis.plot(x, middle, linestyle=dashes, color=look["color"], linewidth=1.2)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * (high / low) ** LEGEND)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    plain_numbers(axis.yaxis)
    axis.legend(fontsize=7, loc="upper left", handlelength=3)


def _table(groups: Sequence[Group]) -> Table:
    said: Mapping[bool | None, str] = {True: "yes", False: "no", None: "undecided"}
    rows, sections = [], []
    kinds = [(group.result.axis, group.result.setting.optimizer) for group in groups]
    for place, (group, (axis, optimizer)) in enumerate(zip(groups, kinds, strict=True)):
        if place and kinds[place] != kinds[place - 1]:
            sections.append(place)
        last = group.result.widths[-1]
        lost = interval(last.lost) if np.isfinite(last.lost.value) else f"diverges for {last.lost_diverged} seeds"
        drift = group.result.drift
        rows.append((f"{TITLES[optimizer]}, {axis}", _name(group), interval(drift), said[transfers(drift)], lost))
    columns = ("optimizer", "setting", "drift", "transfers", "loss lost at the largest size (nats)")
    return Table(columns, rows, sections)
