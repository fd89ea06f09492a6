"""Values of a traced function: made of parameters, as vectors, joined and added, and what their consumers ask of them.

sum: r = min(r_x, r_y), size the larger of both
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

from verify.graph import (
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
)
from verify.graph_constants import is_zero, size_power, stacked
from verify.graph_operations import (
    ENTRYWISE,
    LINEAR,
    PRODUCTS,
)
from verify.trace import Shape

Shapes = tuple[Shape, Shape]


@dataclass
class Values:
    """What values become, with the graph that they add to."""

    graph: Graph
    names: Counter[str] = field(default_factory=Counter)
    address: tuple[int, ...] = ()
    asked: Mapping[int, Fraction] = field(default_factory=dict)
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
        chosen = any(part.chosen for part in parts)
        if parts and all(part.owners for part in parts) and not constants:
            # Still the outputs of uses: a multiplier that follows belongs to all of them.
            owners: dict[Owner, Fraction] = {}
            for part in parts:
                for owner, multiplier in part.owners:
                    owners[owner] = min(owners.get(owner, multiplier), multiplier)
            cancelled = min(part.cancelled for part in parts)
            return self.merged(terms, shapes, cancelled=cancelled, owners=tuple(owners.items()), chosen=chosen)
        numbers = [*map(self.added_power, constants)]
        size = min([*map(settle, parts), *numbers], default=ZERO)
        drawn = min([*(settle(part) + part.cancelled for part in parts), *numbers], default=ZERO)
        return self.merged(terms, shapes, size=size, cancelled=drawn - size, nonnegative=nonnegative, chosen=chosen)

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

    def unique(self, name: str, what: str = "") -> str:
        """The name, numbered where it was given before."""
        self.names[name + what] += 1
        count = self.names[name + what]
        return name if count == 1 else f"{name}#{count}"


def shape_text(shapes: Shapes) -> str:
    """A shape at both widths."""
    return str(shapes[0]) if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"
