"""The axes along which a study's sizes grow: the width n, the depth N of a residual stream, the batch B.

A study has one of them, and everything in it that says "width" (of a record, a batch, a result) is a size along it:
exponents x of its settings are of n^-x, N^-x or B^-x, relative to the base size, and its drift is a power of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AxisName = Literal["width", "depth", "batch"]
Held = Literal["tokens", "steps"]
HELD: tuple[Held, ...] = ("tokens", "steps")
"""What every batch is trained for alike: the same text, in fewer steps where the batch is larger, or the same steps."""


@dataclass(frozen=True)
class Growing:
    """What an axis is called in texts: one size, several, and its letter in powers."""

    one: str
    many: str
    letter: str


AXES: Mapping[str, Growing] = {
    "width": Growing("width", "widths", "n"),
    "depth": Growing("depth", "depths", "N"),
    "batch": Growing("batch", "batches", "B"),
}
