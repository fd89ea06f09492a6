"""Values of a traced function: made of parameters, as vectors, joined and added, and what their consumers ask of them.

sum: r = min(r_x, r_y), size the larger of both
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import jax.numpy as jnp

from verify.model.graph.drawn import DrawnExponent, largest
from verify.model.graph.graph import ZERO, Edge, Node, Owner, Requirement, Use
from verify.model.graph.rules.constants import is_zero, size_power, stacked
from verify.model.graph.value import Activation, Constant, Term, Value, Weight, growth, settle
from verify.model.graph.weights import Operation, Shapes, Weights, shape_text
from verify.values import Leaf


class Values(Weights):
    """What values become where there are activations among them."""

    def vector(self, value: Weight) -> Activation:
        """A parameter that meets activations entry by entry: a node of its own."""
        if not value.terms:
            return Activation(value.shapes)
        if value.mixed:
            made_of = " and ".join(f"parameter {path}" for path in sorted(value.terms))
            self.graph.problem(
                f"what meets activations entry by entry, {shape_text(value.shapes)}, is computed from {made_of} by "
                f"{value.obstacle}; it has to be a parameter, or a function of its entries: make it one of its own"
            )
        terms = [value.terms, *(gain.terms for gain in value.gains)]
        alone = value.obstacle is None and len(terms) == 1
        made = [self._vector(*each, value.shapes, alone) for part in terms for each in part.items()]
        if len(made) == 1:
            return made[0]
        return self.added(made, value.shapes) if alone else self.merged([(x, ZERO, ZERO) for x in made], value.shapes)

    def _vector(self, path: str, term: Term, shapes: Shapes, alone: bool) -> Activation:
        """One parameter as a vector; of a function of several, or of a function, no multiplier is its own."""
        entries = self.graph.shapes[path]
        normalised = alone and term.degree == 0
        scale = ZERO if normalised else term.scale
        use = Use(
            self.unique(path, "as a vector"),
            path,
            "vector",
            self.graph.fan(1, 1),
            self.graph.fan(*map(math.prod, entries)),
            len(self.graph.nodes),
            scale,
            fixed=term.scale if normalised else None,
            stopped=term.stopped,
        )
        node = self.graph.add(Node(use=use))
        self.graph.uses.append(use)
        spread = growth(shapes, self.graph.ratio) - growth(entries, self.graph.ratio)
        small = max(use.fixed or ZERO, ZERO)
        owners = ((use, ZERO),) if alone and not small else ()
        if not owners:
            use.trailing = ZERO
        back = DrawnExponent.of(scale - max(ZERO, spread) / 2)
        return Activation(shapes, node, ZERO, back, size=small, owners=owners)

    def activations(self, inputs: list[Value]) -> list[Value]:
        """The values, with parameters that meet activations entry by entry as nodes."""
        return [self.vector(value) if isinstance(value, Weight) else value for value in inputs]

    def moving(self, inputs: list[Value]) -> list[Activation]:
        """The values, with constants as activations of their size."""
        made = self.activations(inputs)
        return [Activation(v.shapes, size=self.constant_power(v)) if isinstance(v, Constant) else v for v in made]  # type: ignore[misc]

    def merged(
        self,
        terms: Sequence[tuple[Activation, Fraction, DrawnExponent | Fraction]],
        shapes: Shapes,
        layer: bool = False,
        **kept: Any,
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
            return self.made(Operation("stack", stack), values, shapes)
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
            cancelled = largest(part.cancelled for part in parts)
            return self.merged(terms, shapes, cancelled=cancelled, owners=tuple(owners.items()), chosen=chosen)
        numbers = [*map(self.added_power, constants)]
        size = min([*map(settle, parts), *numbers], default=ZERO)
        drawn = largest([*(part.cancelled + settle(part) for part in parts), *map(DrawnExponent.of, numbers)])
        return self.merged(terms, shapes, size=size, cancelled=drawn - size, nonnegative=nonnegative, chosen=chosen)

    def added_power(self, value: Constant) -> Fraction:
        """The size of what is added or chosen; a mask of one shape at both widths, too large to read, counts as n^0."""
        same = value.shapes[0] == value.shapes[1]
        return ZERO if same and size_power(value, self.graph.ratio) is None else self.constant_power(value)

    def require(self, value: Activation, what: str, size: Fraction = ZERO) -> None:
        """The change may be as large here as n^-size, the size of the value for whoever consumes it.

        See docs/theory.md, section 11.
        """
        if value.node is not None:
            self.graph.requirements.append(Requirement(value.node, value.shift - size, what))

    def grown(self, size: Fraction, what: str) -> None:
        """Say where a value grows with the width before anything is trained."""
        if size < 0:
            self.graph.problem(
                f"at initialisation the input of {what} grows as n^{-size}, whatever the parameters' sizes; "
                "divide the sum that it comes from by that power of the width"
            )


def stack(_: int, rows: Sequence[Leaf]) -> Leaf:
    """The rows of a loop as one array."""
    return jnp.stack(rows)
