"""Figure 13: the loss over base rates and epsilons, constant beside scaled per layer, width by width."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import Transfer, less, transfer
from verify.fit.equivalence import MARGIN, Relation, relation
from verify.fit.optimum import Estimate
from verify.studies.transfer.headline import interval
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.studies.transfer.plots import LOOK

STUDY = "epsilon_rates"
RULES = ("constant", "per layer")
WORST = 0.5
"""Nats above the best of a width where colours end."""


def item(data: Path) -> Item:
    """A panel for every parameterization, rule and width; differences at the best rate of each epsilon."""
    found = transfer(data, STUDY)
    last = max(each.width for each in found.study.records)
    dearer = {scheme: _constant_less_scaled(found, scheme, last) for scheme in schemes(found)}
    costly = [each for own in dearer.values() for _, each in own if relation(each) is Relation.APART and each.value > 0]
    equal = [each for own in dearer.values() for _, each in own if relation(each) is Relation.EQUAL]
    largest = {scheme: max(own, key=lambda pair: pair[1].value) for scheme, own in dearer.items()}
    return Item(
        title="Rate and epsilon",
        claim="Over rates and epsilons a constant epsilon costs loss at large widths, at any rate; one that is scaled "
        "per layer, a very small one, or atan2 does not.",
        measured=f"At width {last}, each epsilon at its own best rate, constant less per layer: "
        + "; ".join(f"{scheme} {interval(most)} nats at {value:g}" for scheme, (value, most) in largest.items())
        + f"; {len(costly)} of {sum(map(len, dearer.values()))} cost, {len(equal)} are equal within {MARGIN:g} nats. "
        + " ".join(_kept(found, scheme, last) for scheme in schemes(found)),
        scale=found.scale(),
        verdict=verdict([costs(own) for own in dearer.values()]),
        figures={"figure_13_epsilon_rates": _figure(found)},
        tables={"figure_13_losses": _table(found, last)},
    )


def epsilons(found: Transfer) -> list[float]:
    """The values at the base width, the largest first."""
    values = {each.setting.epsilon for each in found.results}
    return sorted((value for value in values if value is not None), reverse=True)


def schemes(found: Transfer) -> list[str]:
    """The parameterizations that have every epsilon by every rule at every width."""
    widths = {each.width for each in found.study.records}
    named = dict.fromkeys(each.setting.parameterization for each in found.results)
    own = {
        name: [
            each for each in found.results if (each.setting.optimizer, each.setting.parameterization) == ("adam", name)
        ]
        for name in named
    }
    return [name for name, each in own.items() if all({at.width for at in one.widths} == widths for one in each)]


def _there(found: Transfer, scheme: str, rule: str, value: float) -> SettingResult:
    there = found.triple("adam", f"{scheme} full", (value, rule))
    if there is None:
        raise LookupError(f"{STUDY} has no epsilon {value:g} {rule} of {scheme}")
    return there


def _at(result: SettingResult, width: int) -> WidthResult:
    return next(each for each in result.widths if each.width == width)


def _constant_less_scaled(found: Transfer, scheme: str, width: int) -> list[tuple[float, Estimate]]:
    """By epsilon, the best loss with a constant one less that with one per layer, paired over seeds."""
    return [
        (value, less(*(_at(_there(found, scheme, rule, value), width) for rule in RULES))) for value in epsilons(found)
    ]


def costs(own: Sequence[tuple[float, Estimate]]) -> bool | None:
    """Whether the largest constant epsilon costs; None where that cannot be told."""
    (_, first), *_ = own
    found = relation(first)
    return first.value > 0 if found is Relation.APART else False if found is Relation.EQUAL else None


def _kept(found: Transfer, scheme: str, width: int) -> str:
    """What the largest epsilon per layer and atan2 cost beside the smallest one."""
    values = epsilons(found)
    least = _at(_there(found, scheme, "per layer", values[-1]), width)
    scaled = _at(_there(found, scheme, "per layer", values[0]), width)
    said = f"{scheme}: {values[0]:g} per layer less {values[-1]:g} is {interval(less(scaled, least))}"
    atan2 = found.triple("adam-atan2", f"{scheme} full")
    return f"{said}, atan2 {interval(less(_at(atan2, width), least))}." if atan2 and atan2.widths else f"{said}."


def _figure(found: Transfer) -> Figure:
    widths = sorted({each.width for each in found.study.records})
    values = epsilons(found)
    panels = [(scheme, rule) for scheme in schemes(found) for rule in RULES]
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(2.5 * len(widths) + 1, 2.1 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), len(widths), squeeze=False, sharex=True, sharey=True)
        rates = sorted({each.base_rate for each in found.study.records if each.setting.startswith("adam ")})
        for row, (scheme, rule) in enumerate(panels):
            for column, width in enumerate(widths):
                axis = axes[row, column]
                _panel(axis, [_at(_there(found, scheme, rule, value), width) for value in values], rates)
                axis.set_title(f"{scheme}, {rule}, width {width}")
                if column == 0:
                    axis.set_yticks(range(len(values)), [f"{value:g}" for value in values])
                    axis.set_ylabel("ε at the base width")
                if row == len(panels) - 1:
                    places = range(0, len(rates), 3)
                    axis.set_xticks(places, [f"{rates[place]:.2g}" for place in places])
                    axis.set_xlabel("base rate")
        colours = ScalarMappable(Normalize(0, WORST), "viridis_r")
        figure.colorbar(colours, ax=axes, label="nats above the width's best", extend="max", shrink=0.6)
    return figure


def _panel(axis: Axes, rows: Sequence[WidthResult], rates: Sequence[float]) -> None:
    """Mean losses less the lowest of the panel; white where nothing was tried, a dot at every epsilon's best."""
    means = np.full((len(rows), len(rates)), np.nan)
    for place, result in enumerate(rows):
        for rate, losses in zip(result.rates, result.losses, strict=True):
            means[place, int(np.argmin(np.abs(np.log(rates) - np.log(rate))))] = np.mean(losses)
    tried = ~np.isnan(means)
    above = np.where(np.isfinite(means), means, np.inf) - np.min(means[np.isfinite(means)])
    shown = np.ma.masked_array(np.minimum(above, WORST), ~tried)
    axis.imshow(shown, aspect="auto", cmap="viridis_r", vmin=0, vmax=WORST, interpolation="nearest")
    best = np.argmin(np.where(tried, above, np.inf), axis=1)
    axis.plot(best, range(len(rows)), "o", color="white", markeredgecolor="black", markersize=4)


def _table(found: Transfer, width: int) -> Table:
    rows, sections = [], []
    for scheme in schemes(found):
        sections.append(len(rows))
        dearer = dict(_constant_less_scaled(found, scheme, width))
        for value in epsilons(found):
            ends = [_at(_there(found, scheme, rule, value), width) for rule in RULES]
            cells = [cell for end in ends for cell in (f"{end.best_rate:.3g}", f"{end.best_loss.value:.3f}")]
            rows.append([scheme, f"{value:g}", *cells, interval(dearer[value])])
    columns = [f"{rule}: {what}" for rule in RULES for what in ("best rate", "loss")]
    notes = [f"Width {width}; differences in nats with 95 % intervals, paired over seeds."]
    return Table(["parameterization", "ε", *columns, "constant less per layer"], rows, sections[1:], notes)
