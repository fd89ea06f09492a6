"""What single operations do to sizes and changes: the rules by which the graph of a function is built.

product of factors x, y:  r = min(r_x + e_y, r_y + e_x)      f of degree p:  size p e, change r + (p - 1) e
sum over n^f entries:     r - f, size e - f/2, e - f where nothing is negative
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import cast

from jax.extend.core import JaxprEqn

from verify.measuring.primitives import BROADCAST, COMPARISONS, EXTREMES, NONNEGATIVE, POWERS
from verify.model.graph.drawn import NONE, largest
from verify.model.graph.graph import FAR, ZERO, Fan
from verify.model.graph.rules.constants import uniform
from verify.model.graph.rules.groups import GROUPS, group_of
from verify.model.graph.rules.norms import GUARD
from verify.model.graph.value import Activation, Constant, Value, Weight, growth, settle, sizes
from verify.model.graph.values import Values
from verify.model.graph.weights import Shapes

CLIPS = ("max", "min", "clamp")


def at_zero(name: str, inputs: Sequence[Value]) -> float | None:
    """What a clip by numbers makes of 0; None where it is not by numbers."""
    numbers = [uniform(each) if isinstance(each, Constant) else 0.0 for each in inputs]
    if any(each is None for each in numbers):
        return None
    known = [float(each) for each in numbers if each is not None]
    return {"max": max, "min": min}[name](known) if name != "clamp" else min(max(known[0], known[1]), known[2])


class Rules(Values):
    """The rule of every kind of operation."""

    def rule(self, name: str, eqn: JaxprEqn, wide: JaxprEqn, given: list[Value], shapes: list[Shapes]) -> list[Value]:
        """What an operation makes of activations, by the kind of operation that it is."""
        shape, group = shapes[0], group_of(name)
        if group == "discrete":
            return [Activation(each, chosen=self.picks(name, given, each)) for each in shapes]
        if name == "gather":
            group, name = "moved", "slice"
        if group == "multiplied" and sum(isinstance(value, Constant) for value in given) == 1:
            return [self.scaled(name, given, shape)]
        if name == "integer_pow" or (name == "pow" and isinstance(given[1], Constant)):
            exponent = eqn.params["y"] if name == "integer_pow" else uniform(cast("Constant", given[1]))
            if exponent is not None:
                degree = Fraction(exponent).limit_denominator(1000)
                base = cast("Activation", self.activations(given)[0])
                return [self.homogeneous(base, degree, shape, exponent % 2 == 0)]
        if name in BROADCAST:
            given = [self.spread(value, shape) for value in given]
        inputs = self.activations(given)
        moving = [value for value in inputs if isinstance(value, Activation)]
        first = moving[0]
        if group == "moved":
            sources = moving if len(moving) == len(shapes) else [first] * len(shapes)
            return [*(self.moved(name, value, each) for value, each in zip(sources, shapes, strict=True))]
        if group == "summed":
            return [
                self.summed(each, to, self.running(name, eqn, wide)) for each, to in zip(moving, shapes, strict=True)
            ]
        if group == "transformed":
            return [self.transformed(eqn, wide, first, shape)]
        if group == "scattered":
            return [self.scattered(name, inputs, shape)]
        if group == "added":
            return self.chosen_or_added(name, inputs, moving, shapes)
        if group == "multiplied":
            return [self.multiplied(name, moving[0], moving[1], shape, given)]
        if group == "power":
            return [self.homogeneous(first, POWERS[name], shape, name in NONNEGATIVE)]
        if group in ("bounded", "smooth"):
            return [self.function(name, moving, shape, at_zero=group == "bounded")]
        if group == "at size 1":
            self.of_size_1(name, inputs)
            return [self.function(name, moving, shape)]
        if group == "of several" and all(growth(each.shapes, self.graph.ratio) == 0 for each in moving):
            return [self.function(name, moving, each) for each in shapes]
        if all(each.node is None and growth(each.shapes, self.graph.ratio) == 0 for each in moving):
            return [Activation(each) for each in shapes]  # data that nothing trained enters
        self.refused(name, given)
        return [*(self.added(inputs, each) for each in shapes)]

    def refused(self, name: str, given: Sequence[Value]) -> None:
        """Say that there is no rule for an operation, and why where that is known."""
        paths = sorted({path for value in given if isinstance(value, Weight) for path in value.terms})
        group = GROUPS.get(group_of(name) or "")
        self.graph.problem(
            f"{name} is not understood"
            + (f" (parameter {paths[0]} enters it)" if paths else "")
            + (f": it {group.what}" if group and group.refused else "")
            + "; write it with sums, products, functions of entries and jax.lax.scan"
        )

    def of_size_1(self, name: str, inputs: Sequence[Value]) -> None:
        """Say where a function that is told at size 1 alone has other entries."""
        found = [sizes(each)[0] if isinstance(each, Activation) else self.constant_power(each) for each in inputs]
        if any(found):
            self.graph.problem(
                f"{name} of entries that are n^{-next(filter(None, found))} cannot be told; bring them to size 1 first"
            )

    def chosen_or_added(
        self, name: str, inputs: list[Value], moving: list[Activation], shapes: list[Shapes]
    ) -> list[Value]:
        """A sum, a join or a choice; of one activation and numbers what it is near 0."""
        nonnegative = name == "max" and any(isinstance(v, Constant) or v.nonnegative for v in inputs)  # type: ignore[union-attr]
        nonnegative |= name in ("add", "add_any", "concatenate", "select_n") and all(v.nonnegative for v in moving)
        if name == "select_n":
            picked = self.picks(name, inputs[:1], shapes[0]) and any(isinstance(v, Constant) for v in inputs)
            return [replace(self.added(inputs[1:], each, nonnegative), chosen=picked) for each in shapes]
        if name in ("add", "add_any") and moving[0].nonnegative and self.guards(inputs):
            return [replace(moving[0], shapes=shapes[0])]
        if name == "dynamic_update_slice":
            inputs = inputs[:2]
        if name in CLIPS and len(moving) == 1:
            kept = at_zero(name, inputs)
            if kept is not None and abs(kept) <= GUARD:  # relu, or a clip around 0
                return [self.homogeneous(moving[0], Fraction(1), shapes[0], nonnegative)]
            if kept is not None:
                return [self.function(name, moving, shapes[0], at_zero=True)]
        return [*(self.added(inputs, each, nonnegative) for each in shapes)]

    def scaled(self, name: str, given: list[Value], shape: Shapes) -> Activation:
        """An activation times a constant n^-m, or divided by it, or dividing it."""
        position = 0 if isinstance(given[1], Constant) else 1
        value = cast("Activation", self.activations([given[position]])[0])
        multiplier = self.constant_power(given[1 - position])
        if name == "div":
            if position == 1:
                inverse = self.homogeneous(value, Fraction(-1), shape, value.nonnegative)
                return replace(
                    inverse,
                    shift=inverse.shift + multiplier,
                    back=inverse.back + multiplier,
                    size=inverse.size + multiplier,
                )
            multiplier = -multiplier
        owners = tuple((owner, was + multiplier) for owner, was in value.owners)
        return replace(
            value,
            shapes=shape,
            shift=value.shift + multiplier if value.node is not None else ZERO,
            back=value.back + multiplier if value.node is not None else NONE,
            size=value.size + multiplier,
            owners=owners,
        )

    def function(self, name: str, moving: list[Activation], shape: Shapes, at_zero: bool = False) -> Activation:
        """A function of entries without a degree: near 0 it is linear, or `at_zero` of size 1 and a linear part."""
        found = [sizes(value) for value in moving]
        for value, (size, drawn) in zip(moving, found, strict=True):
            self.grown(drawn.plain, name)
            self.require(value, name, size)
        size, drawn = (ZERO, NONE) if at_zero else (max(ZERO, min(e for e, _ in found)), largest(d for _, d in found))
        drawn = drawn.at_most_one
        terms = [(value, ZERO, ZERO) for value in moving]
        signs, chosen = name in NONNEGATIVE, any(value.chosen for value in moving)
        return self.merged(terms, shape, size=size, cancelled=drawn - size, nonnegative=signs, chosen=chosen)

    def homogeneous(self, value: Activation, degree: Fraction, shape: Shapes, nonnegative: bool) -> Activation:
        """f(x) of that degree p: size p e, change r + (p - 1) e, with the e at which that is largest."""
        aligned, (bound, drawn) = settle(value), sizes(value)
        terms = [(value, (degree - 1) * (bound if degree > 1 else drawn.plain), drawn * (degree - 1))]
        size = degree * (aligned if degree > 0 else drawn.plain)
        cancelled = drawn * degree - size
        return self.merged(terms, shape, size=size, cancelled=cancelled, nonnegative=nonnegative, chosen=value.chosen)

    def moved(self, name: str, value: Activation, shape: Shapes) -> Activation:
        """The same entries in another place, or some of them.

        The gradient of a copy sums over its copies, of random sign; that of a part is 0 on the other entries, and its
        root mean square over all of them smaller by the root of the share.
        """
        back = value.back + (2 * FAR if name == "stop_gradient" else 0)
        if name != "pad":
            back -= growth(shape, self.graph.ratio) / 2 - growth(value.shapes, self.graph.ratio) / 2
        signs = value.nonnegative and name not in ("neg", "pad")
        chosen = value.chosen and growth(shape, self.graph.ratio) > 0
        return replace(value, shapes=shape, back=back, nonnegative=signs, chosen=chosen)

    def spread(self, value: Value, shape: Shapes) -> Value:
        """An operand with one entry along some axis, or none, as the array that it stands for."""
        if value.shapes == shape or isinstance(value, Constant):
            return value
        return (
            replace(value, shapes=shape) if isinstance(value, Weight) else self.moved("broadcast_in_dim", value, shape)
        )

    def summed(self, value: Activation, shape: Shapes, running: Fraction = ZERO) -> Activation:
        """A sum over n^f entries: changes may all align; entries of random sign add up to n^(f/2) of one's size.

        Of a running sum over n^f entries as many later ones hold an entry, whose gradients add up at random signs.
        """
        over = running or max(ZERO, growth(value.shapes, self.graph.ratio) - growth(shape, self.graph.ratio))
        if over == 0:
            return replace(value, shapes=shape)
        if value.chosen:
            self.uncounted("a sum", self.graph.fan(*map(math.prod, value.shapes)))
        return self.merged(
            [(value, -over, -running / 2)],
            shape,
            size=settle(value) - over,
            cancelled=value.cancelled + (ZERO if value.nonnegative else over / 2),
            nonnegative=value.nonnegative,
        )

    def running(self, name: str, eqn: JaxprEqn, wide: JaxprEqn) -> Fraction:
        """f where every entry of the result sums over up to n^f of the operand's: cumulative sums and windows."""
        if name == "cumsum":
            lengths = [each.invars[0].aval.shape[each.params["axis"]] for each in (eqn, wide)]  # type: ignore[union-attr]
        elif name == "reduce_window_sum":
            lengths = [math.prod(each.params["window_dimensions"]) for each in (eqn, wide)]
        else:
            return ZERO
        return self.graph.fan(*lengths).power

    def scattered(self, name: str, inputs: list[Value], shape: Shapes) -> Activation:
        """Updates written into an array, or added up or multiplied where several meet in one place.

        Of a segment's sum each entry sums its share of the updates; of the largest or the smallest each is one of them.
        """
        operand, updates = inputs[0], inputs[2]
        over = growth(updates.shapes, self.graph.ratio) - growth(shape, self.graph.ratio)
        chosen = not isinstance(inputs[1], Constant) and over < 0
        if name in EXTREMES and isinstance(operand, Constant):
            return replace(self.added([updates], shape), chosen=chosen)
        if name in ("scatter-mul", "scatter_mul"):
            if over > 0:
                self.graph.problem(
                    f"{name} multiplies a number of entries that grows, so that their size cannot be told"
                )
            value = [each for each in (operand, updates) if isinstance(each, Activation)]
            if any(settle(each) != 0 for each in value):
                self.graph.problem(
                    f"{name} of entries that are not of size 1 cannot be told; multiply without a scatter"
                )
        elif name not in ("scatter", *EXTREMES) and over > 0 and isinstance(updates, Activation):
            updates = self.summed(updates, shape, running=over)
        return replace(self.added([operand, updates], shape), chosen=chosen)

    def transformed(self, eqn: JaxprEqn, wide: JaxprEqn, value: Activation, shape: Shapes) -> Activation:
        """A Fourier transform over n^f entries keeps the sum of squares but for n^f, or its inverse on the way back."""
        lengths = (math.prod(each.params["fft_lengths"]) for each in (eqn, wide))
        half = self.graph.fan(*lengths).power / 2 * (-1 if "I" in eqn.params["fft_type"].name else 1)
        size, (_, drawn) = settle(value) - half, sizes(value)
        return self.merged([(value, -half, -half)], shape, size=size, cancelled=drawn - half - size)

    def picks(self, name: str, given: list[Value], shape: Shapes) -> bool:
        """Whether a comparison may pick few of entries that grow in number: by their place, or among one another.

        One with a number, a parameter or itself, such as z > 0, picks a share.
        """
        entrywise = given[0] is given[-1] or any(isinstance(each, Weight) for each in given)
        entrywise |= any(isinstance(each, Constant) and uniform(each) is not None for each in given)
        picks = name in COMPARISONS and not entrywise
        picks |= any(isinstance(each, Activation) and each.chosen for each in given)
        return picks and growth(shape, self.graph.ratio) > 0

    def guards(self, inputs: list[Value]) -> bool:
        """Whether a small number keeps the other operand from 0, and leaves its size as it is."""
        numbers = [uniform(each) for each in inputs if isinstance(each, Constant)]
        return any(number is not None and abs(number) <= GUARD for number in numbers)

    def uncounted(self, what: str, fan: Fan) -> None:
        """Say that a sum holds an unknown number of terms."""
        self.graph.problem(
            f"{what} sums {fan} entries of which a comparison or a scatter picks some; how many cannot be told, and "
            "with it how the sum goes with the width: keep the number that it picks from at one size in both widths"
        )

    def multiplied(
        self, name: str, left: Activation, right: Activation, shape: Shapes, given: list[Value]
    ) -> Activation:
        """x y, or x / y: r = min(r_x + e_y, r_y + e_x), for a quotient min(r_x - e_y, r_y + e_x - 2 e_y)."""
        (first, first_drawn), (second, second_drawn) = sizes(left), sizes(right)
        both = left.nonnegative and right.nonnegative
        if name == "mul":
            terms = [(left, second, second_drawn), (right, first, first_drawn)]
            size, drawn = settle(left) + settle(right), first_drawn + second_drawn
            both |= given[0] is given[1]
        else:
            slope = second_drawn * 2
            terms = [
                (left, -second_drawn.plain, -second_drawn),
                (right, first - slope.plain, first_drawn - slope),
            ]
            size, drawn = settle(left) - second_drawn.plain, first_drawn - second_drawn
        chosen = left.chosen or right.chosen
        return self.merged(terms, shape, size=size, cancelled=drawn - size, nonnegative=both, chosen=chosen)
