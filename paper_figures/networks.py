"""How many networks were trained for the committed studies, by study: `python -m paper_figures.networks`."""

import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from derive.emit import markdown_text
from paper_figures.paths import DATA
from paper_figures.studies import STUDIES
from verify.sweeps.storage.export import DESCRIPTION

Content = Mapping[str, Any]


def _exponents(found: Content) -> int:
    return len(found["widths"]) * len(found["seeds"])


def _depth(found: Content) -> int:
    return len(found["studies"]) * len(found["depths"]) * found["seeds"]


def _updates(found: Content) -> int:
    return len(found["optimizers"]) * len(found["widths"]) * found["seeds"]


def _phase(found: Content) -> int:
    points = {(row["c_hidden"], row["c_readout"]) for row in found["rows"]}
    return len(points) * len(found["widths"]) * found["seeds"]


def _decay(found: Content) -> int:
    return len(found["networks"]) * found["seeds"]


def _check(found: Content) -> int:
    """As it is and as prescribed, and the networks of the search for best rates."""
    searched = sum(len(row) for each in found["drift"] for width in each["widths"].values() for row in width["losses"])
    return 2 * len(found["widths"]) * found["seeds"] + searched


COUNTS: Mapping[str, Callable[[Content], int]] = {
    "measured.json": _exponents,
    "exponents.json": _depth,
    "updates.json": _updates,
    "phase.json": _phase,
    "decay.json": _decay,
    "check.json": _check,
}
"""By the file that describes a study; transfer and epsilon say themselves how many runs they have."""


def networks(folder: Path) -> int:
    """The networks of a study's folder, from what its files say; LookupError where nothing says it."""
    described = [*folder.rglob(DESCRIPTION)]
    if described:
        counted = sum(json.loads(file.read_text(encoding="utf-8"))["runs"]["rows"] for file in described)
        return counted + sum(_gradients(file) for file in folder.rglob("gradients_*.json"))
    for name in ("check.json", *COUNTS):  # a check has a measured.json of its own networks beside it
        if (folder / name).exists():
            return COUNTS[name](json.loads((folder / name).read_text(encoding="utf-8")))
    raise LookupError(f"nothing in {folder.name} says how many networks were trained")


def _gradients(file: Path) -> int:
    """Networks measured twice over, for gradients and for updates: widths x seeds each."""
    *_, widths, seeds = json.loads(file.read_text(encoding="utf-8"))["made_with"]
    return 2 * prod(map(len, (widths, seeds)))


def counted(data: Path = DATA) -> dict[str, int]:
    """By study, those that are there."""
    return {name: networks(data / name) for name in STUDIES if (data / name).exists()}


def text(found: Mapping[str, int]) -> str:
    """The counts as a Markdown table, the sum at its end."""
    rows = [[name, f"{count:,}"] for name, count in found.items()]
    return markdown_text(["study", "networks"], [*rows, ["all", f"{sum(found.values()):,}"]])


if __name__ == "__main__":
    import sys

    sys.stdout.write(text(counted()))
