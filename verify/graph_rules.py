"""What single operations do to sizes and changes: the rules by which the graph of a function is built.

product of factors x, y:  r = min(r_x + e_y, r_y + e_x)      f of degree p:  size p e, change r + (p - 1) e
sum over n^f entries:     r - f, size e - f/2, e - f where nothing is negative
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from typing import Any, cast

from jax.extend.core import JaxprEqn

from verify.graph import (
    FAR,
    ZERO,
    Activation,
    Constant,
    Edge,
    Graph,
    Node,
    Owner,
    Requirement,
    Use,
    Value,
    Weight,
    growth,
    settle,
    sizes,
)
from verify.graph_constants import is_zero, size_power, stacked, uniform
from verify.graph_operations import (
    ADDITIVE,
    BOUNDED,
    BROADCAST,
    DISCRETE,
    ENTRYWISE,
    LINEAR,
    NONNEGATIVE,
    POWERS,
    PRODUCTS,
    SMOOTH,
    SUMS,
)
from verify.trace import Shape

Shapes = tuple[Shape, Shape]


@dataclass
class Rules:
    """The rules, with the graph that they add to."""

    graph: Graph
    names: Counter[str] = field(default_factory=Counter)
    address: tuple[int, ...] = ()
    # Values made of parameters alone

    def of_weights(self, name: str, inputs: list[Value], shapes: Shapes) -> Value:
        """What is made of parameters and constants."""
        weights = [value for value in inputs if isinstance(value, Weight)]
        sources: dict[str, Fraction] = {}
        for weight in weights:
            for path, scale in weight.sources.items():
                sources[path] = min(sources.get(path, scale), scale)
        if name == "stop_gradient" and sources:
            self.graph.problem(
                f"parameter {min(sources)} passes stop_gradient before it is used, and is not trained by that use; "
                "keep what is frozen out of params"
            )
        obstacle = next((weight.obstacle for weight in weights if weight.obstacle), None)
        if obstacle in ENTRYWISE and name not in ENTRYWISE and name not in LINEAR:
            obstacle = name  # the one that rules out more
        if len(weights) == 1 and name in PRODUCTS and (name == "mul" or inputs[0] is weights[0]):
            other = next(value for value in inputs if value is not weights[0])
            scale = self.constant_power(other) * (1 if name == "mul" else -1)
            return Weight(shapes, {path: was + scale for path, was in sources.items()}, obstacle)
        picks = name in LINEAR or name in ("gather", "concatenate", "select_n", "dynamic_update_slice")
        if not picks or len(sources) > 1:
            obstacle = obstacle or name
        return Weight(shapes, sources, obstacle)

    def constant_power(self, value: Value) -> Fraction:
        """m of a constant that is n^-m; one whose numbers cannot be read is a problem."""
        if not isinstance(value, Constant):
            return ZERO
        found = size_power(value, self.graph.ratio)
        if found is None and self.graph.ratio != 1:
            self.graph.problem(
                f"how the numbers of an array, {shape_text(value.shapes)}, go with the width cannot be told: it is not "
                "in params, and too large to be worked out; give smaller widths, at which exponents are the same"
            )
        return found or ZERO

    # Activations

    def vector(self, value: Weight) -> Activation:
        """A parameter that meets activations entry by entry: a node of its own."""
        if not value.sources:
            return Activation(value.shapes)
        if value.obstacle is not None and value.obstacle not in ENTRYWISE:
            made_of = " and ".join(f"parameter {path}" for path in sorted(value.sources))
            self.graph.problem(
                f"what meets activations entry by entry, {shape_text(value.shapes)}, is computed from {made_of} by "
                f"{value.obstacle}; it has to be a parameter, or a function of its entries: make it one of its own"
            )
        made: list[Activation] = []
        for path, scale in value.sources.items():
            entries = self.graph.shapes[path]
            name = self.unique(path, "as a vector")
            use = Use(
                name,
                path,
                "vector",
                self.graph.fan(1, 1),
                self.graph.fan(*map(math.prod, entries)),
                len(self.graph.nodes),
                scale,
            )
            node = self.graph.add(Node(use=use))
            self.graph.uses.append(use)
            spread = growth(value.shapes, self.graph.ratio) - growth(entries, self.graph.ratio)
            back = scale - max(ZERO, spread) / 2
            owners = ((use, ZERO),) if value.obstacle is None else ()
            if value.obstacle is not None:
                use.trailing = ZERO
            made.append(Activation(value.shapes, node, ZERO, back, owners=owners))
        return made[0] if len(made) == 1 else self.merged([(each, ZERO, ZERO) for each in made], value.shapes)

    def activations(self, inputs: list[Value]) -> list[Value]:
        """The values, with parameters that meet activations entry by entry as nodes."""
        return [self.vector(value) if isinstance(value, Weight) else value for value in inputs]

    def merged(
        self, terms: list[tuple[Activation, Fraction, Fraction]], shapes: Shapes, layer: bool = False, **kept: Any
    ) -> Activation:
        """r = min over terms of r + forward, with the gradient's exponent + back on the way back; a frozen layer is one
        that counts as what its input feeds.
        """
        moving = [(value, forward, back) for value, forward, back in terms if value.node is not None]
        if not moving:
            return Activation(shapes, **kept)
        if len(moving) == 1 and not layer:
            ((value, forward, back),) = moving
            return Activation(shapes, value.node, value.shift + forward, value.back + back, **kept)
        edges = [Edge(value.node, value.shift + forward, value.back + back) for value, forward, back in moving]  # type: ignore[arg-type]
        return Activation(shapes, self.graph.add(Node(edges, layer=layer)), **kept)

    def joined(self, values: Sequence[Value], shapes: Shapes) -> Value:
        """Several values side by side in one."""
        constants = [value for value in values if isinstance(value, Constant)]
        if len(constants) == len(values):
            return Constant(shapes, partial(stacked, constants, shapes))
        if not any(isinstance(value, Activation) for value in values):
            return self.of_weights("concatenate", list(values), shapes)
        return self.added(self.activations(list(values)), shapes)

    def added(self, values: Sequence[Value], shapes: Shapes, nonnegative: bool = False) -> Activation:
        """A sum, or a choice among values."""
        parts = [value for value in values if isinstance(value, Activation)]
        terms = [(part, ZERO, ZERO) for part in parts]
        constants = [value for value in values if isinstance(value, Constant) and not is_zero(value)]
        if parts and all(part.owners for part in parts) and not constants:
            # Still the outputs of uses: a multiplier that follows belongs to all of them.
            owners: dict[Owner, Fraction] = {}
            for part in parts:
                for owner, multiplier in part.owners:
                    owners[owner] = min(owners.get(owner, multiplier), multiplier)
            cancelled = min(part.cancelled for part in parts)
            return self.merged(terms, shapes, cancelled=cancelled, owners=tuple(owners.items()))
        numbers = [*map(self.added_power, constants)]
        size = min([*map(settle, parts), *numbers], default=ZERO)
        drawn = min([*(settle(part) + part.cancelled for part in parts), *numbers], default=ZERO)
        return self.merged(terms, shapes, size=size, cancelled=drawn - size, nonnegative=nonnegative)

    def added_power(self, value: Constant) -> Fraction:
        """The size of what is added or chosen; a mask of one shape at both widths, too large to read, counts as n^0."""
        same = value.shapes[0] == value.shapes[1]
        return ZERO if same and size_power(value, self.graph.ratio) is None else self.constant_power(value)

    def require(self, value: Activation, what: str, size: Fraction = ZERO) -> None:
        """The change may be as large here as n^-size, the size of the value for whoever consumes it (THEORY 11)."""
        if value.node is not None:
            self.graph.requirements.append(Requirement(value.node, value.shift - size, what))

    def grown(self, size: Fraction, what: str) -> None:
        """Say where a value grows with the width before anything is trained."""
        if size < 0:
            self.graph.problem(
                f"at initialisation the input of {what} grows as n^{-size}, whatever the parameters' sizes; "
                "divide the sum that it comes from by that power of the width"
            )

    def rule(self, name: str, eqn: JaxprEqn, given: list[Value], shapes: list[Shapes]) -> list[Value]:
        """What an operation makes of activations, by the kind of operation that it is."""
        shape = shapes[0]
        if name in DISCRETE:
            return [Activation(each) for each in shapes]
        if name == "gather":
            name = "slice" if isinstance(given[0], Activation) else name
        if name in PRODUCTS and sum(isinstance(value, Constant) for value in given) == 1:
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
        if name in LINEAR or name == "optimization_barrier":
            sources = moving if len(moving) == len(shapes) else [first] * len(shapes)
            return [*(self.moved(name, value, each) for value, each in zip(sources, shapes, strict=True))]
        if name in SUMS:
            return [self.summed(first, shape)]
        if name in ADDITIVE:
            nonnegative = name == "max" and any(isinstance(v, Constant) or v.nonnegative for v in inputs)  # type: ignore[union-attr]
            nonnegative |= name in ("add", "add_any", "concatenate", "select_n") and all(v.nonnegative for v in moving)
            if name == "select_n":
                inputs = inputs[1:]
            if name in ("scatter", "scatter-add", "scatter_add", "dynamic_update_slice"):
                inputs = [v for v in inputs if isinstance(v, Activation)]
            if name == "max" and len(moving) == 1 and isinstance(inputs[1], Constant | Activation):
                # relu: homogeneous, and its size that of its input.
                return [replace(self.homogeneous(first, Fraction(1), shape, True))]
            return [*(self.added(inputs, each, nonnegative) for each in shapes)]
        if name in PRODUCTS:
            return [self.multiplied(name, moving[0], moving[1], shape, given)]
        if name in POWERS:
            return [self.homogeneous(first, POWERS[name], shape, name in NONNEGATIVE)]
        if name in BOUNDED or name in SMOOTH:
            return [self.function(name, moving, shape)]
        paths = sorted({path for value in given if isinstance(value, Weight) for path in value.sources})
        self.graph.problem(
            f"{name} is not understood"
            + (f" (parameter {paths[0]} enters it)" if paths else "")
            + "; write it with sums, products, functions of entries and jax.lax.scan"
        )
        return [*(self.added(inputs, each) for each in shapes)]

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
            back=value.back + multiplier if value.node is not None else ZERO,
            size=value.size + multiplier,
            owners=owners,
        )

    def function(self, name: str, moving: list[Activation], shape: Shapes) -> Activation:
        """A function of entries without a degree: near 0 it is linear, or 1 and a linear part."""
        found = [sizes(value) for value in moving]
        for value, (size, drawn) in zip(moving, found, strict=True):
            self.grown(drawn, name)
            self.require(value, name, size)
        size, drawn = (ZERO, ZERO) if name in BOUNDED else (max(ZERO, min(each)) for each in zip(*found, strict=True))
        terms = [(value, ZERO, ZERO) for value in moving]
        return self.merged(terms, shape, size=size, cancelled=drawn - size, nonnegative=name in NONNEGATIVE)

    def homogeneous(self, value: Activation, degree: Fraction, shape: Shapes, nonnegative: bool) -> Activation:
        """f(x) of that degree p: size p e, change r + (p - 1) e, with the e at which that is largest."""
        aligned, (bound, drawn) = settle(value), sizes(value)
        terms = [(value, (degree - 1) * (bound if degree > 1 else drawn), (degree - 1) * drawn)]
        size = degree * (aligned if degree > 0 else drawn)
        return self.merged(terms, shape, size=size, cancelled=degree * drawn - size, nonnegative=nonnegative)

    def moved(self, name: str, value: Activation, shape: Shapes) -> Activation:
        """The same entries in another place, or some of them.

        The gradient of a copy sums over its copies, of random sign; that of a part is 0 on the other entries, and its
        root mean square over all of them smaller by the root of the share.
        """
        back = value.back + (2 * FAR if name == "stop_gradient" else 0)
        if name != "pad":
            back -= growth(shape, self.graph.ratio) / 2 - growth(value.shapes, self.graph.ratio) / 2
        return replace(value, shapes=shape, back=back, nonnegative=value.nonnegative and name not in ("neg", "pad"))

    def spread(self, value: Value, shape: Shapes) -> Value:
        """An operand with one entry along some axis, or none, as the array that it stands for."""
        if value.shapes == shape or isinstance(value, Constant):
            return value
        return (
            replace(value, shapes=shape) if isinstance(value, Weight) else self.moved("broadcast_in_dim", value, shape)
        )

    def summed(self, value: Activation, shape: Shapes) -> Activation:
        """A sum over n^f entries: changes may all align; entries of random sign add up to n^(f/2) of one's size."""
        over = max(ZERO, growth(value.shapes, self.graph.ratio) - growth(shape, self.graph.ratio))
        if over == 0:
            return replace(value, shapes=shape)
        return self.merged(
            [(value, -over, ZERO)],
            shape,
            size=settle(value) - over,
            cancelled=value.cancelled + (ZERO if value.nonnegative else over / 2),
            nonnegative=value.nonnegative,
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
            slope = 2 * second_drawn
            terms = [(left, -second_drawn, -second_drawn), (right, first - slope, first_drawn - slope)]
            size, drawn = settle(left) - second_drawn, first_drawn - second_drawn
        return self.merged(terms, shape, size=size, cancelled=drawn - size, nonnegative=both)

    def unique(self, name: str, what: str = "") -> str:
        """The name, numbered where it was given before."""
        self.names[name + what] += 1
        count = self.names[name + what]
        return name if count == 1 else f"{name}#{count}"


def shape_text(shapes: Shapes) -> str:
    """A shape at both widths."""
    return str(shapes[0]) if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"
