"""Polyhedral cones in exact whole numbers, by their generators: the double description method.

The points (t, x) with t > 0 of a cone stand for x / t, so that an affine function a + b x is the linear function (a, b)
of the cone. Its sign on the whole cone is its sign on the generators, which costs a few products and no linear program.
Motzkin, Raiffa, Thompson & Thrall 1953.
"""

from dataclasses import dataclass
from math import gcd
from operator import mul
from typing import TypeAlias

Vector: TypeAlias = tuple[int, ...]


def primitive(vector: Vector) -> Vector:
    """The vector without its common divisor."""
    divisor = gcd(*vector)
    return vector if divisor <= 1 else tuple(number // divisor for number in vector)


def dot(first: Vector, second: Vector) -> int:
    """The scalar product."""
    return sum(map(mul, first, second))


def combined(first: Vector, p: int, second: Vector, q: int) -> Vector:
    """p first + q second, without its common divisor."""
    return primitive(tuple(p * x + q * y for x, y in zip(first, second, strict=True)))


@dataclass(frozen=True)
class Cone:
    """Sums of any multiples of `lines` and nonnegative multiples of `rays`.

    With each ray goes the set of constraints that it keeps with equality, one bit for each of the `constraints` made.
    """

    lines: tuple[Vector, ...]
    rays: tuple[tuple[Vector, int], ...] = ()
    constraints: int = 0

    def middle(self) -> Vector:
        """A point on no facet."""
        return tuple(map(sum, zip(*(ray for ray, _ in self.rays), strict=True)))

    def sign(self, function: Vector) -> int | None:
        """Of a linear function: 1 where it is nowhere negative, -1 nowhere positive, 0 both, None neither."""
        if any(dot(function, line) for line in self.lines):
            return None
        positive = negative = False
        for ray, _ in self.rays:
            value = dot(function, ray)
            positive, negative = positive or value > 0, negative or value < 0
            if positive and negative:
                return None
        return positive - negative

    def cut(self, function: Vector) -> "Cone":
        """The part of the cone where the function is not negative."""
        bit = 1 << self.constraints
        crossing = next((line for line in self.lines if dot(function, line)), None)
        if crossing is not None:
            return self._cut_across(crossing, function, bit)
        sides: dict[int, list[tuple[Vector, int, int]]] = {1: [], 0: [], -1: []}
        for ray, tight in self.rays:
            value = dot(function, ray)
            sides[(value > 0) - (value < 0)].append((ray, tight, value))
        kept = [(ray, tight) for ray, tight, _ in sides[1]] + [(ray, tight | bit) for ray, tight, _ in sides[0]]
        for ray, tight, value in sides[1]:
            for other, also, below in sides[-1]:
                if self._adjacent(tight & also):
                    kept.append((combined(ray, -below, other, value), (tight & also) | bit))
        return Cone(self.lines, tuple(kept), self.constraints + 1)

    def _cut_across(self, line: Vector, function: Vector, bit: int) -> "Cone":
        """The cut by a function that a line crosses: half of the line becomes a ray, all else moves along it to 0."""
        step = dot(function, line)
        line, step = (line, step) if step > 0 else (tuple(-number for number in line), -step)

        def moved(vector: Vector) -> Vector:
            return combined(vector, step, line, -dot(function, vector))

        others = tuple(vector for vector in map(moved, self.lines) if any(vector))
        rays = tuple((moved(ray), tight | bit) for ray, tight in self.rays)
        return Cone(others, (*rays, (line, bit - 1)), self.constraints + 1)

    def _adjacent(self, common: int) -> bool:
        """Whether two rays that keep these constraints with equality span a face: no third ray keeps them all."""
        return sum(tight & common == common for _, tight in self.rays) == 2


def everywhere(dimension: int) -> Cone:
    """The whole space."""
    return Cone(tuple(tuple(int(i == j) for j in range(dimension)) for i in range(dimension)))
