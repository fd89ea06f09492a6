"""The values of a function in the width: constants, what is made of parameters alone, activations with their sizes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from verify.measuring.jaxpr import Shape
from verify.model.graph.drawn import NONE, DrawnExponent
from verify.model.graph.graph import ZERO, Owner, Product, power
from verify.values import Leaf

Given = Callable[[str, Shape, Leaf], Leaf]
"""The array that stands in the place of a parameter, from its path, shape and dtype."""
Compute = Callable[[int, Given], Leaf]


@dataclass(frozen=True, eq=False)
class Constant:
    """A value made of nothing but numbers; `arrays` computes it at both widths, when that is asked for."""

    shapes: tuple[Shape, Shape]
    arrays: Leaf


@dataclass(frozen=True)
class Term:
    """How one parameter W enters a value: W^degree n^-scale. At degree 0 it is normalised: n^-scale whatever W is.

    `stopped`: no gradient flows back to it.
    """

    scale: Fraction = ZERO
    degree: Fraction = Fraction(1)
    stopped: bool = False


Form = Literal["entries", "powers", "norm", "mean", "function"]
"""What a value makes of parameters: multiples of their entries, times their own norms; squares or absolute values of
entries; a root or a power of a sum of those; a sum of entries; anything else.
"""


class Lookup(NamedTuple):
    """Whole matrices that are looked up by indices which depend on the inputs, before it shows what they are used for.

    `slices` are the entries of one matrix at both widths, `address` the lookup's place in the program.
    """

    slices: tuple[Shape, Shape]
    address: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Weight:
    """A value made of parameters alone, the sum of its terms by path, times `gains` entry by entry.

    `obstacle` names the operation that made it something else than multiples of parameters' entries; `mixed`, that it
    made an entry of several whose number grows, or an earlier one did. `compute` gives it at one of the two widths from
    arrays in the place of the parameters.
    """

    shapes: tuple[Shape, Shape]
    terms: Mapping[str, Term]
    compute: Compute
    obstacle: str | None = None
    mixed: bool = False
    form: Form = "entries"
    gains: tuple["Weight", ...] = ()
    lookup: Lookup | None = None


@dataclass(frozen=True, eq=False)
class Activation:
    """A value that depends on the inputs: r = r_node + shift, and d loss/d node = n^-(back + that of the value).

    Its size is n^-size once what it sums has aligned, beside what the `owners` have: the uses whose output it still is,
    times constants n^-their value, and which the initialisation brings to size 1. As drawn it is smaller by
    n^-cancelled: a mean over n channels has size 0 and cancelled 1/2. `node` is None where nothing that it is made of
    changes. `chosen`: along an axis that grows entries are 0 but for those that a comparison picks, no one knows how
    many.
    """

    shapes: tuple[Shape, Shape]
    node: int | None = None
    shift: Fraction = ZERO
    back: DrawnExponent = NONE
    size: Fraction = ZERO
    cancelled: DrawnExponent = NONE
    owners: tuple[tuple[Owner, Fraction], ...] = ()
    nonnegative: bool = False
    chosen: bool = False


Value = Constant | Weight | Activation


def growth(shapes: tuple[Shape, Shape], ratio: Fraction) -> Fraction:
    """The power of n in the number of entries."""
    return power(math.prod(shapes[0]), math.prod(shapes[1]), ratio)


def settle(value: Activation) -> Fraction:
    """The exponent of the value's size, once its owners' multipliers end here."""
    if not value.owners:
        return value.size
    # What joins a sum whose other terms have their sizes already comes to the size that they have there.
    size = min((m - owner.trailing for owner, m in value.owners if owner.trailing is not None), default=ZERO)
    found = []
    for owner, multiplier in value.owners:
        own = _left(owner, multiplier)
        if owner.trailing is None:
            owner.trailing = multiplier - (own or size)
        owner.asked = min(owner.asked, owner.trailing, multiplier - own)
        found.append(multiplier - owner.trailing)
    return min(found)


def _left(owner: Owner, multiplier: Fraction) -> Fraction:
    """What is left of a product's multipliers once they made it an average: no assumption asks for more than that."""
    if not isinstance(owner, Product):
        return ZERO
    return max(ZERO, owner.input_size + multiplier - owner.fan_in.power)


def sizes(value: Activation) -> tuple[Fraction, DrawnExponent]:
    """(what its consumer lets it grow to, what it is as drawn) as exponents.

    What only cancels may grow, as far as size 1: features that align do. What constants make small may not
    (docs/theory.md, section 11).
    """
    aligned = settle(value)
    averaged = (owner.cancelled if isinstance(owner, Product) else ZERO for owner, _ in value.owners)
    drawn = value.cancelled + aligned + min(averaged, default=ZERO)
    return min(drawn.plain, max(aligned, ZERO)), drawn
