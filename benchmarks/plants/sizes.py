"""Measured sizes of many networks in little space: what was trained, and whole tables that can be judged again.

    FOLDER/<optimizer>.npz      about: JSON;  "a=... b=... c=... e=...": int16[step, layer, quantity, width, seed]

A size x is stored as round(512 log2 x), within 0.07 %, which moves a slope over a factor of 8 in width by less than
0.001; zero and what is not there (an embedding has no input) have numbers of their own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verify.fit.forward import Table

WIDTHS, STEPS = (128, 256, 512, 1024), (1, 2, 5, 10)
LAYERS = ("embedding", "hidden.0", "hidden.1", "readout")
QUANTITIES = (
    "weight",
    "delta_w",
    "input",
    "delta_input",
    "term_alpha",
    "term_omega",
    "term_u",
    "delta_output",
    "gradient",
)
FINENESS = 512
ZERO, ABSENT = -(2**15), 2**15 - 1


def encode(tables: Mapping[int, Table]) -> np.ndarray[Any, Any]:
    """Tables by step as int16[step, layer, quantity, width, seed]; ValueError for a size that does not fit."""
    seeds = next(iter(next(iter(tables.values())).values()))["weight"].shape[1]
    sizes = np.full((len(STEPS), len(LAYERS), len(QUANTITIES), len(WIDTHS), seeds), np.nan)
    for at_step, table in tables.items():
        for layer, measured in table.items():
            for quantity, values in measured.items():
                sizes[STEPS.index(at_step), LAYERS.index(layer), QUANTITIES.index(quantity)] = values
    with np.errstate(divide="ignore"):
        powers = np.round(FINENESS * np.log2(sizes))
    known = np.isfinite(powers)
    if (np.abs(powers[known]) >= ABSENT).any():
        raise ValueError(f"sizes below 2^-64 or above 2^64: {sizes[known].min():.2g} to {sizes[known].max():.2g}")
    return np.where(known, powers, np.where(sizes == 0, ZERO, ABSENT)).astype(np.int16)


def decode(stored: np.ndarray[Any, Any]) -> dict[int, Table]:
    """The tables by step; a quantity that is nowhere known is absent."""
    sizes = np.where(stored == ZERO, 0, np.exp2(stored / FINENESS))
    sizes = np.where(stored == ABSENT, np.nan, sizes)
    there = (stored != ABSENT).any(axis=(0, 3, 4))
    return {
        step: {
            layer: {
                quantity: sizes[at, row, column] for column, quantity in enumerate(QUANTITIES) if there[row, column]
            }
            for row, layer in enumerate(LAYERS)
        }
        for at, step in enumerate(STEPS)
    }


class Sizes:
    """The stored sizes of one optimizer's networks, by what was trained."""

    def __init__(self, folder: Path, optimizer: str) -> None:
        self.path = folder / f"{optimizer}.npz"
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        self.about: dict[str, Any] = {}
        if self.path.exists():
            with np.load(self.path, allow_pickle=False) as stored:
                self.arrays = {name: stored[name] for name in stored.files if name != "about"}
                self.about = json.loads(str(stored["about"]))

    def seeds(self, trained: str) -> int:
        """How many networks of that kind there are at each width; their seeds are 0, 1, ..."""
        return self.arrays[trained].shape[-1] if trained in self.arrays else 0

    def tables(self, trained: str, seeds: slice) -> dict[int, Table]:
        """The tables by step of those seeds."""
        return decode(self.arrays[trained][..., seeds])

    def add(self, trained: str, tables: Mapping[int, Table], about: Mapping[str, Any]) -> None:
        """Append the next seeds, and write."""
        new = encode(tables)
        old = self.arrays.get(trained)
        self.arrays[trained] = new if old is None else np.concatenate([old, new], axis=-1)
        self.about |= about
        self.write()

    def write(self) -> None:
        """Write the file anew, all at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        written = self.path.with_suffix(".part")
        with written.open("wb") as file:
            np.savez_compressed(file, about=np.array(json.dumps(self.about)), **self.arrays)  # type: ignore[arg-type]
        written.replace(self.path)
