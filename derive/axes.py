"""Axes beside the width: depth N, batch B and tokens T, along which one layer's settings go as a power too.

A row holds exponents x of N^-x, B^-x or T^-x, of the same sign as those of the width; factors of several axes
multiply, because each axis grows while the others stay (docs/theory.md, sections 9, 10).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sympy import Expr, Rational, S

from derive.errors import DeriveError
from derive.words import Kind, text

OUT = "out"
"""Part of a hidden layer that writes into the stream, where a factor at initialisation sets it apart."""


@dataclass(frozen=True)
class AxisRow:
    """One layer's exponents along one axis; None where the rule or the axis has no such quantity.

    a: multiplier (of the branch, along depth), b: initial standard deviation, c: rate, epsilon, epsilon2, decay;
    g: gradient, s: update, r: change of the layer's output; beta: 1 - beta of every moving average.
    """

    c: Expr
    decay: Expr
    a: Expr | None = None
    b: Expr | None = None
    g: Expr | None = None
    s: Expr | None = None
    epsilon: Expr | None = None
    epsilon2: Expr | None = None
    beta: Expr | None = None
    r: Expr | None = None

    def json(self) -> dict[str, str | None]:
        """Exponents as exact text, those that the axis does not have left out."""
        named = {key: getattr(self, key) for key in ("a", "b", "c", "epsilon", "epsilon2", "decay", "beta", "r")}
        return {key: text(value) for key, value in named.items() if value is not None}


@dataclass(frozen=True)
class Axis:
    """One axis: its name in JSON, its letter in texts, a row per layer kind and what fixed them, line by line.

    `out` is the row of what writes into the stream where it differs from its layer's; `sizes` are the tuned size
    and the wanted one, None where only exponents were asked for.
    """

    name: str
    letter: str
    rows: Mapping[Kind, AxisRow]
    lines: tuple[tuple[str, str], ...]
    out: AxisRow | None = None
    sizes: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def row(self, kind: Kind, part: str = "") -> AxisRow:
        """The row of a layer kind, or of the part of it that writes into the stream."""
        return self.out if part == OUT and self.out is not None else self.rows[kind]

    def factor(self, exponent: Expr | None) -> float:
        """(wanted / tuned)^-exponent, 1 where there is nothing to scale; DeriveError where symbols are left."""
        if self.sizes is None or exponent is None or exponent is S.Zero:
            return 1.0
        if not isinstance(exponent, Rational):
            raise DeriveError(
                f"{self.name} exponent {exponent} has symbols in it; give them numbers to get numbers at a {self.name}"
            )
        return (self.sizes[1] / self.sizes[0]) ** -float(exponent)


def read_sizes(name: str, base: int | None, target: int | None, largest: int) -> tuple[int, int] | None:
    """(tuned, wanted) of --base-NAME and --NAME, None where neither is given; DeriveError naming the option."""
    if base is None and target is None:
        return None
    if base is None or target is None:
        raise DeriveError(f"--base-{name} and --{name} belong together; give both")
    for option, size in ((f"--base-{name}", base), (f"--{name}", target)):
        if not 1 <= size <= largest:
            raise DeriveError(f"{option} {size} is not allowed; give a whole number from 1 to {largest}")
    return base, target


def axes_json(axes: tuple[Axis, ...], kind: Kind, part: str = "") -> dict[str, Any]:
    """The entries that the axes add to one layer of the JSON contract."""
    return {axis.name: axis.row(kind, part).json() for axis in axes}
