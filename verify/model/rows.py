"""What a prescription says of one parameter and of one dense op."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from derive.errors import DeriveError
from derive.words import Kind
from verify.measuring.jaxpr import Shape
from verify.model.make import Drawn
from verify.values import Entries, Json

Role = Kind | Literal["not trained"]
NOT_TRAINED: Literal["not trained"] = "not trained"


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: what it is and why, how it starts at the base width, and its exponents (size n^-x).

    `a` is the multiplier to put before it, `found` that of the multipliers in the model's own code, `b` the initial
    size, `c` the rate, `g` the gradient, `s` the update, `epsilon` and `decay` those of Adam's epsilon and of lambda.
    `mean` and `std` are None where the model at the base width had shapes instead of numbers. One that is "not trained"
    has that for its role and its rule, no rate, and starts as in the model. `in_axes` and `out_axes` are those that
    make the fan-in and fan-out of the matrices that its rule takes; the other axes count matrices. Both are empty where
    its rule takes none, or they could not be told. `depth` are exponents x of N^-x along depth, by name: a, that of the
    branch's multipliers in the code, b, c, g, s, epsilon, decay and r; empty where depth was not asked for.
    """

    path: str
    base_shape: Shape
    shape: Shape
    role: Role
    why: str
    rule: str
    mean: float | None
    std: float | None
    a: Fraction
    found: Fraction
    b: Fraction
    c: Fraction
    g: Fraction
    s: Fraction
    epsilon: Fraction | None
    decay: Fraction
    binding: tuple[str, ...]
    uses: tuple[str, ...]
    in_axes: tuple[int, ...] = ()
    out_axes: tuple[int, ...] = ()
    depth: Mapping[str, Fraction] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether it has a rate."""
        return self.role != NOT_TRAINED

    @property
    def start(self) -> Drawn:
        """How it is drawn at the base width; DeriveError where that is not known."""
        if self.mean is None or self.std is None:
            raise DeriveError(
                f"how {self.path} starts is not known, since make(base width) gave shapes; let it return arrays"
            )
        return Drawn(self.mean, self.std)


@dataclass(frozen=True)
class OpRow:
    """What is predicted for one dense op: its role, alignments as powers of n, size at initialisation, and r.

    r is the smallest of `terms`, the exponents of DW z (alpha), W Dz (omega) and DW Dz (u); `size` is None where the
    weight and its input are not independent. All are of its output with the multipliers that follow it, n^-after, in
    the model's code or put in by `wrap`.
    """

    name: str
    path: str
    kind: Kind
    fan_in: tuple[int, int]
    fan_out: tuple[int, int]
    alpha: Fraction
    omega: Fraction
    u: Fraction
    size: Fraction | None
    r: Fraction
    after: Fraction
    terms: Mapping[str, Fraction]


def read_row(kind: type[Any], entry: Entries) -> Any:
    """A row from its JSON: exponents are strings, tuples lists."""
    exponents = {"a", "found", "b", "c", "g", "s", "epsilon", "decay", "alpha", "omega", "u", "size", "r", "after"}

    def read(name: str, value: Json) -> Json:
        if name in exponents and value is not None:
            return Fraction(value)
        if isinstance(value, dict):
            return {term: Fraction(exponent) for term, exponent in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: read(name, value) for name, value in entry.items()})


def without_numbers(path: str) -> str:
    """The path with its numbers left out, which blocks that are alike share: layers.*.gate."""
    return re.sub(r"(?<![A-Za-z])\d+(?![A-Za-z])|(?<=_)\d+", "*", path)


def every_turn(name: str) -> str:
    """The name of a product in a loop with its turns left out: dot[...] for dot[0], dot[1], ..."""
    return re.sub(r"\[\d+\]", "[...]", name)
