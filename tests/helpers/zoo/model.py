"""What a model of the zoo is: make(width), and what is right about it by hand."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

HALF = Fraction(1, 2)
RATES = {"embedding": Fraction(0), "hidden": Fraction(1), "readout": Fraction(1), "not trained": Fraction(0)}
"""Adam's rate exponents under full alignment by role, without multipliers in the code."""
GRADIENTS = {"embedding": Fraction(1), "hidden": Fraction(1), "readout": Fraction(0), "not trained": Fraction(0)}
"""What a muP readout, n^-1 at the start, sends back, by role."""

Exponents = Mapping[str, Fraction | int]


@dataclass(frozen=True)
class Model:
    """make(width), what a reader should know, and the right answer for muP and Adam by hand.

    `hidden`, `readout` and `untrained` list parameters by the ends of their paths, with * for anything, or by =PATH;
    all others are embeddings or vectors. `rates` and `gradients` are the exponents that differ from those of the role,
    `later` those of gradients that a step changes, as what readouts make comes to size 1 and SGD goes by the larger;
    `multipliers` those that the function needs. `refused`: a piece of the one line that is answered instead. `wrong`:
    parameters of which another rate or gradient is answered today, and why. `heavy`: measured at smaller widths;
    `not_measured`: answered only, since the tracer of products names one parameter for each.
    """

    make: Callable[[int], Any]
    about: str
    hidden: str = ""
    readout: str = ""
    untrained: str = ""
    rates: Exponents = field(default_factory=dict)
    gradients: Exponents = field(default_factory=dict)
    later: Exponents = field(default_factory=dict)
    multipliers: Exponents = field(default_factory=dict)
    refused: str = ""
    wrong: Mapping[str, str] = field(default_factory=dict)
    heavy: bool = False
    not_measured: bool = False
    base_width: int = 32
    width: int = 128

    def role(self, path: str) -> str:
        """The role of that parameter by hand."""
        for role, patterns in (("not trained", self.untrained), ("hidden", self.hidden), ("readout", self.readout)):
            if any(means(pattern, path) for pattern in patterns.split()):
                return role
        return "embedding"

    def rate(self, path: str) -> Fraction:
        """Adam's rate exponent c by hand."""
        return exception(self.rates, path, RATES[self.role(path)])

    def gradient(self, path: str) -> Fraction:
        """The exponent g of the gradient at initialisation by hand."""
        return exception(self.gradients, path, GRADIENTS[self.role(path)])

    def followed(self, path: str) -> Fraction:
        """The exponent of the gradient that a rule which follows it goes by."""
        return exception(self.later, path, self.gradient(path))


def grown(base: int, target: int, ratio: int = 4) -> Fraction:
    """The power of n, to six decimals, in a dimension that grows otherwise than n."""
    return Fraction(round(math.log(target / base) / math.log(ratio) * 10**6), 10**6)


def means(pattern: str, path: str) -> bool:
    """Whether the pattern is the path or, without =, an end of it."""
    if pattern.startswith("="):
        return fnmatchcase(path, pattern[1:])
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def exception(table: Exponents, path: str, usual: Fraction) -> Fraction:
    """The exponent of the first pattern in the table that means the path, else the usual one."""
    return next((Fraction(x) for patterns, x in table.items() if any(means(p, path) for p in patterns.split())), usual)
