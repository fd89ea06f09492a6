"""The axes along which a study's sizes grow: the width n, the depth N of a residual stream, the batch B.

A study has one of them, and everything in it that says "width" (of a record, a batch, a result) is a size along it:
exponents x of its settings are of n^-x, N^-x or B^-x, relative to the base size, and its drift is a power of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AxisName = Literal["width", "depth", "batch"]
Held = Literal["tokens", "steps", "ratio"]
HELD: Mapping[AxisName, tuple[Held, ...]] = {
    "width": ("steps", "ratio"),
    "depth": ("steps",),
    "batch": ("tokens", "steps"),
}
"""What sizes are trained for alike, the usual one first: steps; tokens, in fewer steps where the batch is larger; or
the ratio of tokens to the hidden layers' parameters, so that steps grow as n^2."""


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
