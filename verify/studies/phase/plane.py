"""The (c_hidden, c_readout) plane: what is trained at its points, and what is kept of every width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from sympy import Expr, Rational

from derive.errors import DeriveError
from derive.parsing import parse_number
from derive.solve import Prescription, prescribe, solve
from verify.fit.forward import Table

Point = tuple[str, str]
"""(c_hidden, c_readout), exact as text."""
REACH, SPACING = Rational(1), Rational(1, 4)
"""How far the grid goes to either side of the prescription, unless it is given, and in which steps."""


@dataclass(frozen=True)
class Conditions:
    """What all networks of a study share; `points` are the grid, and the prescription where that is not on it."""

    optimizer: str
    parameterization: str
    c_embedding: str
    points: tuple[Point, ...]
    seeds: int
    steps: int
    base_width: int
    base_rate: float
    batch: int
    context: int
    hidden_layers: int
    corpus: str

    def prescription(self) -> Prescription:
        """The largest stable rates under full alignment, per layer."""
        return solve(
            replace(prescribe(self.optimizer, self.parameterization).problem, hidden_layers=self.hidden_layers)
        )

    @property
    def prescribed(self) -> Point:
        """(c_hidden, c_readout) as prescribed for full alignment."""
        c = self.prescription().c
        return str(c[1]), str(c[-1])

    @property
    def marks(self) -> tuple[int, ...]:
        """The steps after which networks are measured: the first and the last."""
        return tuple(sorted({1, self.steps}))

    def exponents(self, point: Point) -> list[Expr]:
        """c of every layer at that point of the grid, embedding first."""
        hidden, readout = map(Rational, point)
        return [Rational(self.c_embedding), *[hidden] * self.hidden_layers, readout]


def read_exponents(option: str, text: str | None, centre: Expr) -> list[Rational]:
    """The exponents of one axis, such as 0,1/4,1/2; without them those within 1 of `centre`, in steps of 1/4.

    DeriveError for anything but rationals, once each, from small to large.
    """
    if text is None:
        count = REACH / SPACING
        return [centre + step * SPACING for step in range(-count, count + 1)]  # type: ignore[misc]
    values = [parse_number(part, option) for part in text.split(",")]
    if any(bool(later <= earlier) for earlier, later in pairwise(values)):
        raise DeriveError(f"{option} {text} does not grow; list the exponents from small to large, once each")
    return values


def grid(hidden: Sequence[Expr], readout: Sequence[Expr], prescribed: Point) -> tuple[Point, ...]:
    """Every (c_hidden, c_readout), and the prescribed point where it is not among them."""
    points = [(str(first), str(second)) for first in hidden for second in readout]
    return tuple(dict.fromkeys([*points, prescribed]))


@dataclass(frozen=True)
class Network:
    """A finished width: sizes[step][layer][quantity] and `losses` have leading axes [point, seed]."""

    width: int
    sizes: Mapping[int, Table]
    losses: Float[np.ndarray, "points seeds steps"]
