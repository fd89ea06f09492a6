"""What products do: dense ops, each a use of its parameter, and products of two activations."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from verify.measuring.jaxpr import LABELS, RAGGED, DensePrimitive, Shape, bind_equation, dot_numbers, fans, shape_of
from verify.model.graph.axes import matrix_axes
from verify.model.graph.computed import Computed
from verify.model.graph.drawn import DrawnExponent
from verify.model.graph.graph import ZERO, Edge, Fan, Node, Product, Use, power
from verify.model.graph.rules.constants import as_matrix, entries, is_random, nonnegative
from verify.model.graph.value import Activation, Constant, Lookup, Term, Value, Weight, growth, settle, sizes
from verify.model.graph.weights import Operation, Shapes, UnreadableError, shape_text, unreadable
from verify.values import Leaf


class Products(Computed):
    """The rules with those of dot_general, convolutions and lookups."""

    def contraction(
        self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], shape: Shapes, iteration: tuple[int, ...]
    ) -> Value:
        """A product that sums: a dense op, a lookup, a product of two activations or with a constant."""
        label = label_of(eqn)
        left, right = inputs[0], inputs[1]
        if eqn.primitive.name in RAGGED and (isinstance(left, Weight) or not dot_numbers(eqn.params)[1][1]):
            self.graph.problem(
                f"{eqn.primitive.name} is understood with groups of rows of an activation first and a matrix for each "
                "group second; write it so, or as a product with a one-hot code of the groups"
            )
        indices = "".join(f"[{index}]" for index in iteration)
        if label == "gather":
            return self.lookup(eqn, wide, inputs, shape, indices)
        if isinstance(left, Activation) and isinstance(right, Activation):
            return self.product(eqn, wide, left, right, shape, label + indices)
        position = 0 if isinstance(right, Activation) else 1
        weight, value = inputs[position], inputs[1 - position]
        if not isinstance(value, Activation):
            raise TypeError(value)
        if isinstance(weight, Weight) and weight.terms:
            return self.weighted(eqn, wide, position, weight, value, shape, indices)
        return self.constant_layer(eqn, wide, position, cast("Constant", weight), value, shape)

    def queries(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value]) -> list[Value]:
        """Two values made of parameters that are multiplied: a fixed number of vectors, as latents and queries are,
        meets a weight as activations do. Two weights that both grow stay what they are.
        """
        if not self.fan_pair(eqn, wide, 0)[0].grows:
            return inputs
        fixed = [not self.fan_pair(eqn, wide, position)[1].grows for position in (0, 1)]
        before = len(self.graph.nodes)
        found = [self.vector(value) if fits else value for value, fits in zip(inputs, fixed, strict=True)]  # type: ignore[arg-type]
        self.turned |= {*range(before, len(self.graph.nodes))}
        return found

    def lookup(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], shape: Shapes, indices: str) -> Value:
        """Rows at indices that depend on the inputs; of whole matrices it is left open what they are."""
        source, places = inputs[0], inputs[1]
        if isinstance(source, Weight) and isinstance(places, Activation):
            slices = tuple(tuple(each.params["slice_sizes"]) for each in (eqn, wide))
            if sum(size > 1 for size in slices[1]) > 1 and source.obstacle is None and not source.gains:
                rows = Lookup(cast("tuple[Shape, Shape]", slices), self.address)
                first = Operation("gather", partial(_first_rows, (eqn, wide))).compute([source])
                one = first if len(source.terms) == 1 else unreadable  # of several, each has matrices of its own
                return replace(source, shapes=shape, lookup=rows, compute=one)
            return self.weighted(eqn, wide, 0, source, places, shape, indices)
        if isinstance(source, Constant):
            return Activation(shape, size=self.constant_power(source))
        return replace(cast("Activation", self.activations([source])[0]), shapes=shape)

    def vector(self, value: Weight) -> Activation:
        """A parameter that meets activations entry by entry, or the rows of a table that were looked up."""
        if value.lookup is None:
            return super().vector(value)
        (path, term), *_ = value.terms.items()
        fans = self.graph.fan(1, 1), self.graph.fan(*map(prod, value.lookup.slices))
        seen = growth(self.graph.shapes[path], self.graph.ratio) - fans[1].power
        use = self.used(path, term, "gather", fans, Activation(value.shapes), "", -seen)
        use.address = value.lookup.address
        return self.output(use, value.shapes)

    def constant_layer(
        self, eqn: JaxprEqn, wide: JaxprEqn, position: int, weight: Constant, value: Activation, shape: Shapes
    ) -> Activation:
        """A product with a constant matrix: as a layer that is not trained where it is random, else a weighted sum.

        W dz adds up at random signs, n^(f/2), or aligned, n^f; on the way back fan_out terms do at random signs.
        """
        fan_in, fan_out = self.fan_pair(eqn, wide, position)
        constant, aligned_size, (bound, drawn) = self.constant_power(weight), settle(value), sizes(value)
        random = fan_in.grows and self.random(wide, position, weight, fan_out.power < fan_in.power)
        aligned = fan_in.power / 2 if random else fan_in.power
        if random:
            what = f"an array that is not in params, {shape_text(weight.shapes)}"
            self.grown(drawn.plain, f"the product with {what}")
            self.require(value, f"the input of {what}", bound)
        if fan_in.grows and value.chosen:
            self.uncounted("a product with an array", fan_in)
        coherent = value.nonnegative and nonnegative(weight)
        return self.merged(
            [(value, constant - aligned, constant - fan_out.power / 2)],
            shape,
            size=aligned_size + constant - (fan_in.power if coherent else aligned),
            cancelled=value.cancelled + (ZERO if coherent else aligned - fan_in.power / 2),
            nonnegative=coherent,
            layer=random,
        )

    def random(self, wide: JaxprEqn, position: int, weight: Constant, narrows: bool) -> bool:
        """Whether the constant is a matrix as one that was drawn."""
        pair = entries(weight)
        if pair is None or self.graph.ratio == 1:
            return False
        array = np.broadcast_to(pair[1], weight.shapes[1])
        return is_random(as_matrix(label_of(wide), wide.params, array, position), narrows)

    def fan_pair(self, eqn: JaxprEqn, wide: JaxprEqn, position: int) -> list[Fan]:
        """(fan_in, fan_out) of the operand at that place."""
        label = label_of(eqn)
        small, large = (fans(label, each.params, each.invars[position].aval.shape, position) for each in (eqn, wide))  # type: ignore[union-attr]
        return [self.graph.fan(first, second) for first, second in zip(small, large, strict=True)]

    def all_rows(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: Sequence[Value]) -> None:
        """Say where a layer is sent numbers with as many rows as the width: an identity, to ask for its weight."""
        for position, value in enumerate(inputs[:2]):
            if isinstance(value, Constant) and self.fan_pair(eqn, wide, position)[1].grows:
                weight = next(each for each in inputs if isinstance(each, Weight))
                self.graph.problem(
                    f"what is made of parameter {', '.join(sorted(weight.terms))} meets an array of numbers alone "
                    f"whose rows grow with the width, {shape_text(value.shapes)}, as when an identity is sent through "
                    "layers to have their weight (PEFT's DoRA does); of a weight so computed no rule tells"
                )

    def weighted(
        self,
        eqn: JaxprEqn,
        wide: JaxprEqn,
        position: int,
        weight: Weight,
        value: Activation,
        shape: Shapes,
        indices: str,
    ) -> Activation:
        """A product of what is made of parameters with an activation: a use of each, times its gains."""
        label, fans = label_of(eqn), self.fan_pair(eqn, wide, position)
        if weight.obstacle is not None and label == "dot" and not weight.mixed and not fans[0].grows:
            # Entries that meet without a sum that grows: a function of parameters, as a vector.
            spread, vector = self.moved("broadcast_in_dim", value, shape), self.vector(replace(weight, shapes=shape))
            return self.multiplied("mul", spread, vector, shape, [value, weight])
        wrong = weight.obstacle
        if wrong is None and any(term.degree not in (0, 1) for term in weight.terms.values()):
            wrong = "its own norm"
        sides = [self.side(gain, label, eqn, position) for gain in weight.gains]
        if wrong is None and (None in sides or (label == "gather" and weight.gains)):
            wrong = "mul"
        if wrong is not None:
            self.computed_weight(weight, label, wrong)
            sides = []
        for gain, side in zip(weight.gains, sides, strict=False):
            if side == "input":
                by = self.vector(replace(gain, shapes=value.shapes))
                value = self.multiplied("mul", value, by, value.shapes, [value, gain])
        found = self.dense(eqn, wide, position, weight, value, shape, indices)
        for gain, side in zip(weight.gains, sides, strict=False):
            if side == "output":
                by = self.vector(replace(gain, shapes=shape))
                found = self.multiplied("mul", found, by, shape, [found, gain])
        return found

    def dense(
        self,
        eqn: JaxprEqn,
        wide: JaxprEqn,
        position: int,
        weight: Weight,
        value: Activation,
        shape: Shapes,
        indices: str,
    ) -> Activation:
        """The uses of a weight's parameters on an activation; each has its own part of the fans."""
        label, whole, found = label_of(eqn), self.fan_pair(eqn, wide, position), []
        for path, term in weight.terms.items():
            fans = whole
            if len(weight.terms) > 1 and weight.obstacle is None:
                fans = self.part_fans(weight, path, label, (eqn, wide), position, whole)
            if fans[0].grows and value.chosen:
                self.uncounted(path, fans[0])
            size, drawn = sizes(value)
            self.grown(drawn.plain, f"the dense op of {path}")
            self.require(value, f"the input of {path}", size)
            shared = self.shared(eqn, wide, position, path, weight)
            use = self.used(path, term, label, fans, value, indices, shared)
            use.axes = partial(matrix_axes, weight, path, self.graph.shapes[path], label, eqn.params, position)
            found.append(self.output(use, shape))
        return found[0] if len(found) == 1 else self.added(found, shape)

    def output(self, use: Use, shape: Shapes) -> Activation:
        """What a use makes: of size 1 by its weight's initial size, or what a normalised weight leaves of its input."""
        left = ZERO if use.fixed is None else use.fixed + use.input_size - use.fan_in.power / 2
        cancelled = use.cancelled + (DrawnExponent.made_by(use) if use.narrows else ZERO)
        if left <= 0:
            return Activation(shape, use.node, cancelled=cancelled, owners=((use, ZERO),))
        use.trailing = ZERO
        size = max(ZERO, left - use.fan_in.power / 2) if use.narrows else left  # cosines align
        return Activation(shape, use.node, size=size, cancelled=cancelled)

    def part_fans(
        self,
        weight: Weight,
        path: str,
        label: DensePrimitive,
        equations: Sequence[JaxprEqn],
        position: int,
        whole: Sequence[Fan],
    ) -> Sequence[Fan]:
        """The fans of the part that one of several parameters has in a weight; the whole's where it cannot be read."""
        try:
            small, large = self.part(weight, path, label, equations, position)
        except UnreadableError:
            self.computed_weight(weight, label, "an array whose numbers cannot be read")
            return whole
        return [self.graph.fan(*pair) for pair in zip(small, large, strict=True)]

    def used(
        self,
        path: str,
        term: Term,
        label: DensePrimitive,
        fans: Sequence[Fan],
        value: Activation,
        indices: str,
        shared: Fraction,
    ) -> Use:
        """A use of a parameter as a weight, with its node."""
        size, drawn = sizes(value)
        fan_in, fan_out = fans
        use = Use(
            self.unique(path + indices),
            path,
            label,
            fan_in,
            fan_out,
            len(self.graph.nodes),
            term.scale if term.degree else ZERO,
            self.address,
            value.node,
            value.shift,
            value.back,
            size,
            drawn - size,
            shared,
            self.asked.get(len(self.graph.nodes)),
            fixed=None if term.degree else term.scale,
            stopped=term.stopped,
        )
        self.graph.add(Node(use=use))
        self.graph.uses.append(use)
        return use

    def shared(self, eqn: JaxprEqn, wide: JaxprEqn, position: int, path: str, source: Weight) -> Fraction:
        """The power of n in the number of positions at which a product uses each of the parameter's entries.

        Those are the output's entries, per entry of one position's output; copies of the parameter count as well. Of a
        table that grows it is negative: a row is looked up ever less often.
        """
        label, counts = label_of(eqn), []
        for each in (eqn, wide):
            out, weight = (shape_of(atom) for atom in (each.outvars[0], each.invars[position]))
            batch = dot_numbers(each.params)[1][position] if label == "dot" else ()
            groups = each.params["feature_group_count"] if label == "conv" else 1
            fan_out = fans(label, each.params, weight, position)[1]
            counts.append((prod(out), fan_out * groups * prod(weight[axis] for axis in batch), prod(weight)))
        all_out, one_out, copied = (power(*pair, self.graph.ratio) for pair in zip(*counts, strict=True))
        if label == "gather":  # every row is seen by its share of the positions
            return all_out - one_out - (growth(self.graph.shapes[path], self.graph.ratio) - one_out)
        entries = growth(self.graph.shapes[path], self.graph.ratio)
        if source.lookup is not None:  # every matrix by its share of them
            return all_out - one_out - (entries - growth(source.lookup.slices, self.graph.ratio))
        return all_out - one_out + max(ZERO, copied - entries)

    def product(
        self, eqn: JaxprEqn, wide: JaxprEqn, left: Activation, right: Activation, shape: Shapes, name: str
    ) -> Activation:
        """x y summed: each factor's change times the other, the power that may align left to the alignment."""
        name = self.unique(name)
        (first, first_drawn), (second, second_drawn) = sizes(left), sizes(right)
        size, cancelled = first + second, first_drawn + second_drawn - first - second
        both = [self.fan_pair(eqn, wide, position) for position in (0, 1)]
        fan = both[0][0]
        # On the way back the gradient of one operand sums over the free axes of the other.
        terms = [
            (left, second, second_drawn - both[1][1].power / 2),
            (right, first, first_drawn - both[0][1].power / 2),
        ]
        self.require(left, f"the product {name}", first)
        self.require(right, f"the product {name}", second)
        chosen = left.chosen or right.chosen
        if fan.grows and chosen:
            self.uncounted(name, fan)
        if fan.grows:
            for value, (_, free) in zip((left, right), both, strict=True):
                if free.grows:
                    self.no_matrix(name, value)
        coherent = left.nonnegative and right.nonnegative
        asked = self.asked.get(len(self.graph.nodes))
        product = Product(name, fan, len(self.graph.nodes), size, self.address, asked, coherent=coherent)
        self.graph.all_products.append(product)
        edges = [Edge(v.node, v.shift + forward, v.back + back) for v, forward, back in terms if v.node is not None]
        if not edges:  # nothing that enters it changes
            product.trailing = ZERO
            return Activation(shape, size=size, cancelled=cancelled, chosen=chosen)
        node = self.graph.add(Node(edges, product=product))
        if not fan.grows:
            product.trailing = ZERO
            return Activation(shape, node, size=size, cancelled=cancelled, nonnegative=coherent, chosen=chosen)
        return Activation(shape, node, cancelled=cancelled, owners=((product, ZERO),), nonnegative=coherent)


def _first_rows(equations: Sequence[JaxprEqn], which: int, arrays: Sequence[Leaf]) -> Leaf:
    """What a lookup gives where all its indices are 0."""
    places = cast("Any", equations[which].invars[1]).aval
    return bind_equation(equations[which], [*arrays, jnp.zeros(places.shape, places.dtype)])[0]


def label_of(eqn: JaxprEqn) -> DensePrimitive:
    """Of which kind a product is."""
    return "dot" if eqn.primitive.name in RAGGED else LABELS[eqn.primitive.name]
