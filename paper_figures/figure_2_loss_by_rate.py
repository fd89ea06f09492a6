"""Figure 2: loss against base rate, a curve per width, for every parameterization and prescription."""

from pathlib import Path

import numpy as np

from paper_figures.items import Item, verdict
from paper_figures.transfer_results import TITLES, Transfer, transfer
from verify.studies.transfer.headline import transfers
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.studies.transfer.rate_plots import loss_against_rate

STUDY = "transfer_mlp"


def item(data: Path) -> Item:
    """A page per optimizer; in words how far the lowest point of the mean curve moves, which needs no fit."""
    found = transfer(data, STUDY)
    by_optimizer = found.by_optimizer()
    return Item(
        title="Loss against base learning rate at every width",
        claim="With its own rates per layer, every parameterization has its best base rate at the same place at all "
        "widths; with one raw rate for all layers the place moves (not for muP with SGD, where the two are one).",
        measured="Octaves by which the lowest point of the mean curve moves from the smallest width to the largest: "
        + "; ".join(f"{TITLES[name]} {_moves(found, name)}" for name in by_optimizer)
        + ".",
        scale=found.scale(),
        verdict=verdict([transfers(group.result.drift) for group in found.groups("full")]),
        figures={
            f"figure_2_{name}": loss_against_rate(results, found.study.untrained_loss)
            for name, results in by_optimizer.items()
        },
    )


def _moves(found: Transfer, optimizer: str) -> str:
    names = [f"{scheme} {alignment}" for alignment in ("full", "global") for scheme in ("SP", "muP")]
    return ", ".join(f"{name} {octaves(found.named(f'{optimizer} {name}')):+.1f}" for name in names)


def octaves(result: SettingResult) -> float:
    """log2 of the rate with the lowest mean loss, at the largest width less at the smallest; on the grid of rates."""
    return float(np.log2(lowest_rate(result.widths[-1]) / lowest_rate(result.widths[0])))


def lowest_rate(found: WidthResult) -> float:
    """The rate tried whose mean loss over seeds is lowest, all seeds having finished."""
    means = np.nan_to_num(found.losses.mean(axis=1), nan=np.inf)
    return float(found.rates[np.argmin(means)])
