"""The linear program that a certificate is about, written from the problem's numbers alone.

    minimise f . x   where every row has  sum_j a_j x_j <= bound

A chain's program is docs/theory.md, section 4: variables c_l (rate n^-c_l) and r_l (RMS(Delta z_l) = n^-r_l). Nothing
here comes from the solver, so that its mistakes are not repeated.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Literal

Number = Fraction | int
Values = Mapping[str, Number]


@dataclass(frozen=True, slots=True)
class Row:
    """sum_j coefficients[j] x_j <= bound."""

    name: str
    coefficients: Values
    bound: Number

    def slack(self, values: Values) -> Number:
        """bound - sum_j coefficients[j] x_j: negative where the row is violated, 0 where it is tight."""
        return self.bound - total(self.coefficients, values)


@dataclass(frozen=True)
class Program:
    """Minimise `objective`, and among its minima `then`; variables left out of either count 0 there."""

    objective: Values
    then: Values
    rows: tuple[Row, ...]

    def variables(self) -> set[str]:
        """Every variable of the objectives and the rows."""
        return {*self.objective, *self.then}.union(*(row.coefficients for row in self.rows))

    def numbers(self) -> Iterator[Number]:
        """Every number that a unit of r is measured in."""
        return (row.bound for row in self.rows)

    def scaled(self, factor: int) -> "Program":
        """The same program with every r and c `factor` times as large."""
        rows = (Row(row.name, row.coefficients, plain(row.bound * factor)) for row in self.rows)
        return Program(self.objective, self.then, tuple(rows))


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """One layer's numbers: multiplier n^-a, initial size n^-b, update n^-s, alignments (None on the embedding).

    `growth`: its update becomes n^(growth x) times as large when the gradients before the readout grow by n^x.
    `weight_degree`: m, the degree of its update in its weights.
    """

    a: Number
    b: Number
    s: Number
    alpha: Number | None
    omega: Number | None
    u: Number | None
    growth: Number
    weight_degree: Number


@dataclass(frozen=True)
class ChainProblem:
    """A chain of layers, embedding first and readout last, with what is asked of it."""

    layers: tuple[ChainLayer, ...]
    loss: Literal["mse", "ce"]
    global_rate: bool

    def numbers(self) -> Iterator[Number]:
        """Every number that a unit of r is measured in."""
        return (
            x for each in self.layers for x in (each.a, each.b, each.s, each.alpha, each.omega, each.u) if x is not None
        )

    def scaled(self, factor: int) -> "ChainProblem":
        """The same problem with every r and c `factor` times as large."""

        def times(number: Number | None) -> Any:
            return None if number is None else plain(number * factor)

        layers = (
            ChainLayer(
                *(times(x) for x in (each.a, each.b, each.s, each.alpha, each.omega, each.u)),
                growth=plain(each.growth),
                weight_degree=each.weight_degree,
            )
            for each in self.layers
        )
        return ChainProblem(tuple(layers), self.loss, self.global_rate)

    def rate(self, index: int) -> str:
        """The variable that is the rate's exponent of that layer."""
        return "c" if self.global_rate else f"c_{index + 1}"

    @property
    def keeps_gradients(self) -> bool:
        """Whether the readout's update has to stay within its initial size, lest other layers' gradients grow."""
        return not self.global_rate and any(layer.growth > 0 for layer in self.layers)

    def program(self, *, ruled: bool = True) -> Program:
        """Section 4 as rows; without `ruled` the readout may raise the gradients, which raises the updates too."""
        kept = ruled and self.keeps_gradients
        return Program(
            dict.fromkeys((self.rate(index) for index in range(len(self.layers))), 1),
            dict.fromkeys((f"r_{index + 1}" for index in range(len(self.layers)) if not self.free(index)), 1),
            tuple(row for index in range(len(self.layers)) for row in self._rows(index, ruled, kept)),
        )

    def free(self, index: int) -> bool:
        """Whether that layer's change may diverge: logits under cross-entropy."""
        return self.loss == "ce" and index == len(self.layers) - 1

    def changes(self, index: int, ruled: bool) -> Iterator[tuple[str, dict[str, Number], Number]]:
        """(text, coefficients, constant) of d_l = a + c + s, and of what it is when the readout raised the gradients.

        Those grow by n^(a + b - d) of the readout, and the update by that to the power `growth`.
        """
        layer, last, rate = self.layers[index], len(self.layers), self.rate(index)
        constant = layer.a + layer.s
        yield f"d_{index + 1}", {rate: 1}, constant
        if layer.growth > 0 and (self.global_rate or not ruled):
            readout, its_rate = self.layers[-1], self.rate(last - 1)
            grown: dict[str, Number] = {rate: 1}
            grown[its_rate] = grown.get(its_rate, 0) + layer.growth
            text = f"d_{index + 1} + {layer.growth} (d_{last} - a_{last} - b_{last})"
            yield text, grown, constant + layer.growth * (readout.s - readout.b)

    def _rows(self, index: int, ruled: bool, kept: bool) -> Iterator[Row]:
        layer, number, free = self.layers[index], index + 1, self.free(index)
        now, left = f"r_{number}", "0" if free else f"r_{number}"
        own: dict[str, Number] = {} if free else {now: 1}
        changes = list(self.changes(index, ruled))
        if layer.alpha is None or layer.omega is None or layer.u is None:
            for text, rates, constant in changes:
                yield Row(f"{left} <= {text}", {**own, **_negative(rates)}, constant)
        else:
            before = f"r_{index}"
            if not (free and self.global_rate):
                for text, rates, constant in changes:
                    yield Row(f"{left} <= {text} - alpha_{number}", {**own, **_negative(rates)}, constant - layer.alpha)
                for text, rates, constant in changes:
                    coefficients = {**own, **_negative(rates), before: -1}
                    yield Row(f"{left} <= {text} + {before} - u_{number}", coefficients, constant - layer.u)
            if not free:
                name = f"{left} <= a_{number} + b_{number} + {before} - omega_{number}"
                yield Row(name, {**own, before: -1}, layer.a + layer.b - layer.omega)
        if not free:
            yield Row(f"{now} >= 0", {now: -1}, 0)
        if layer.weight_degree > 0 or (kept and number == len(self.layers)):
            for text, rates, constant in changes:
                yield Row(f"{text} >= a_{number} + b_{number}", _negative(rates), constant - layer.a - layer.b)


def _negative(coefficients: Values) -> dict[str, Number]:
    return {variable: -coefficient for variable, coefficient in coefficients.items()}


def plain(number: Number) -> Number:
    """The number as an int where it is whole, which is much faster."""
    return number.numerator if number.denominator == 1 else number


def common_denominator(numbers: Iterable[Number]) -> int | None:
    """The least whole number whose product with each of them is whole; None where it has thousands of digits."""
    found = 1
    for denominator in {number.denominator for number in numbers}:
        found = lcm(found, denominator)
        if found.bit_length() > 8192:
            return None
    return found


def total(weights: Values, values: Values) -> Number:
    """sum_j weights_j values_j."""
    result: Number = 0
    for variable, weight in weights.items():
        result += weight * values[variable]
    return result


def determined(rows: Iterable[Row], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted variables that the rows leave free when all of them hold with equality (elimination)."""
    pivots: dict[str, dict[str, Number]] = {}
    for row in rows:
        left = {variable: a for variable, a in row.coefficients.items() if a}
        while known := [variable for variable in left if variable in pivots]:
            for variable in known:
                _add(left, pivots[variable], left.pop(variable, 0))
        if left:
            variable = min(left)
            scale = Fraction(-left.pop(variable))
            pivots[variable] = {other: plain(a / scale) for other, a in left.items()}
    # A pivot is a sum of variables that later became pivots or stayed free: put in the latest first.
    for variable in reversed(pivots):
        left = pivots[variable]
        for other in [other for other in left if other in pivots]:
            _add(left, pivots[other], left.pop(other))
    return [variable for variable in wanted if pivots.get(variable, {variable: 1})]


def _add(left: dict[str, Number], right: Values, factor: Number) -> None:
    if not factor:
        return
    for variable, a in right.items():
        new = left.get(variable, 0) + factor * a
        if new:
            left[variable] = new
        else:
            left.pop(variable, None)
