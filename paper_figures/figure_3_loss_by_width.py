"""Figure 3: the loss at the best rate against width, and how far it lies above that of SP with per-layer rates."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import TITLES, less, transfer
from verify.fit.optimum import Estimate
from verify.studies.transfer.headline import distinct, interval, short
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.studies.transfer.plots import LOOK, draw_groups

STUDY = "transfer_mlp"
FIRST, OTHER = "SP full", "muP full"


def item(data: Path) -> Item:
    """A row per optimizer; differences are paired over seeds, which are known far better than the losses."""
    found = transfer(data, STUDY)
    by_optimizer = found.by_optimizer()
    apart = {
        name: above(_named(results, FIRST))(_named(results, OTHER).widths[-1]) for name, results in by_optimizer.items()
    }
    width = found.results[0].widths[-1].width
    return Item(
        title="Best loss against width",
        claim="With rates per layer, the standard parameterization (and NTK, its equal) ends lower than muP.",
        measured=f"At width {width}, each at its best rate, {OTHER} less {FIRST} is in nats, paired over seeds: "
        + "; ".join(f"{TITLES[name]} {interval(each)}" for name, each in apart.items())
        + ". Lowest of all: "
        + "; ".join(f"{TITLES[name]} {_lowest(results)}" for name, results in by_optimizer.items())
        + ".",
        scale=found.scale(),
        verdict=verdict([_decided(each) for each in apart.values()]),
        figures={"figure_3_loss_by_width": _figure(by_optimizer)},
        tables={"figure_3_losses": _table(by_optimizer, width)},
    )


def above(first: SettingResult) -> Callable[[WidthResult], Estimate]:
    """The best loss of a width less that of `first` at the same width, in nats, paired over seeds."""
    references = {each.width: each for each in first.widths}
    return lambda found: less(found, references[found.width])


def _named(results: Sequence[SettingResult], name: str) -> SettingResult:
    return next(each for each in results if short(each.setting) == name)


def _decided(difference: Estimate) -> bool | None:
    """Whether the other is higher; None where the interval contains 0."""
    return None if difference.low <= 0 <= difference.high else difference.value > 0


def _lowest(results: Sequence[SettingResult]) -> str:
    groups = distinct(results)
    lowest = min(groups, key=lambda group: group.result.widths[-1].best_loss.value)
    return f"{lowest.label}, {interval(lowest.result.widths[-1].best_loss)}"


def _figure(by_optimizer: Mapping[str, Sequence[SettingResult]]) -> Figure:
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(11, 3.0 * len(by_optimizer)), layout="constrained")
        axes = figure.subplots(len(by_optimizer), 2, squeeze=False)
        for (left, right), (name, results) in zip(axes, by_optimizer.items(), strict=True):
            per_layer = [each for each in results if each.setting.alignment == "full"]
            draw_groups(left, per_layer, lambda found: found.best_loss)
            left.set_title(f"{TITLES[name]}: loss at the best rate", loc="left")
            left.set_ylabel("held-out loss (nats)")
            draw_groups(right, results, above(_named(results, FIRST)))
            right.set_title(f"all prescriptions, less {FIRST}: above 0, {FIRST} is better", loc="left")
            right.set_ylabel("difference (nats), paired")
    return figure


def _table(by_optimizer: Mapping[str, Sequence[SettingResult]], width: int) -> Table:
    rows, sections = [], []
    for name, results in by_optimizer.items():
        sections.append(len(rows))
        difference = above(_named(results, FIRST))
        groups = sorted(distinct(results), key=lambda group: group.result.widths[-1].best_loss.value)
        for group in groups:
            last = group.result.widths[-1]
            apart = "0" if group.label.startswith(FIRST) else interval(difference(last))
            rows.append((TITLES[name], group.label, interval(last.best_loss), apart))
    columns = ("optimizer", "setting", f"loss at {width} (nats)", f"less {FIRST}, paired (nats)")
    return Table(columns, rows, sections[1:])
