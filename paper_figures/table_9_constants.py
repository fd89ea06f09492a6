"""Table 9: constants of the layers' rates, tuned at the base width, beside those that the paper found at its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from paper_figures.items import Item, Table
from paper_figures.paths import result
from paper_figures.transfer_results import TITLES
from verify.sweeps.constants import BOUNDS

STUDY = "tuned_mlp"
KINDS = ("embedding", "hidden", "readout")
PAPER = {"adam": (5.303, 1.258, 11.723)}
"""muP, full alignment, a transformer of width 1024 and 50,000 steps; only their ratios say anything, since the common
factor belongs to the base rate. Everett et al. 2024, https://arxiv.org/abs/2407.05872"""


def item(data: Path) -> Item:
    """A row for every optimizer and horizon; the paper's, brought to geometric mean 1 as ours are, beside it."""
    found = json.loads(result(data, STUDY, "constants.json").read_text(encoding="utf-8"))["rows"]
    return Item(
        title="Tuned constants",
        claim="Constants found once at the base width serve every width; for Adam the readout's is the largest.",
        measured="; ".join(map(_said, found)) + ".",
        scale=f"{sum(row['trials'] for row in found):,} trials of three factors at the base width, MLP with two hidden "
        "layers; the interval spans all trials within one standard error of the best, paired over seeds.",
        verdict="not decided",
        tables={"table_9_constants": Table(_columns(), [_cells(row) for row in found], [], [_note()])},
    )


def normal(factors: tuple[float, ...]) -> list[float]:
    """The factors over their geometric mean."""
    mean = float(np.exp(np.mean(np.log(factors))))
    return [each / mean for each in factors]


def _said(row: dict[str, Any]) -> str:
    gained = row["untuned"] - row["loss"]
    shown = ", ".join(f"{each:.3g}" for each in row["constants"])
    return (
        f"{TITLES[row['optimizer']]}, {row['steps']:,} steps: {shown}, which gain {gained:.3f} nats at the base width"
    )


def _columns() -> list[str]:
    return ["optimizer", "steps", *KINDS, *(f"paper: {kind}" for kind in KINDS), "nats gained"]


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = (row[name] for name in BOUNDS)
    ours = [
        f"{value:.3g} [{first:.2g}, {last:.2g}]" for value, first, last in zip(row["constants"], low, high, strict=True)
    ]
    paper = [f"{each:.3g}" for each in normal(PAPER[row["optimizer"]])]
    return [TITLES[row["optimizer"]], f"{row['steps']:,}", *ours, *paper, f"{row['untuned'] - row['loss']:.3f}"]


def _note() -> str:
    given = "; ".join(f"{TITLES[name]} {', '.join(f'{each:g}' for each in own)}" for name, own in PAPER.items())
    return f"All brought to geometric mean 1. The paper's as it gives them: {given}."
