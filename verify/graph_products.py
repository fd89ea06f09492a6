"""What products do: dense ops, each a use of its parameter, and products of two activations."""

from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any, cast

import numpy as np
from jax.extend.core import JaxprEqn

from verify.graph import (
    ZERO,
    Activation,
    Constant,
    Edge,
    Fan,
    Node,
    Product,
    Use,
    Value,
    Weight,
    growth,
    power,
    settle,
    sizes,
)
from verify.graph_constants import as_matrix, entries, is_random, nonnegative
from verify.graph_rules import Rules
from verify.graph_values import Shapes, shape_text
from verify.trace import LABELS, Shape, fans


class Products(Rules):
    """The rules with those of dot_general, convolutions and lookups."""

    def contraction(
        self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], shape: Shapes, iteration: tuple[int, ...]
    ) -> Value:
        """A product that sums: a dense op, a lookup, a product of two activations or with a constant."""
        label = LABELS[eqn.primitive.name]
        left, right = inputs[0], inputs[1]
        indices = "".join(f"[{index}]" for index in iteration)
        if label == "gather":
            if isinstance(left, Weight) and isinstance(right, Activation):
                return self.dense(eqn, wide, 0, left, right, shape, indices)
            if isinstance(left, Constant):
                return Activation(shape, size=self.constant_power(left))
            return replace(cast("Activation", self.activations([left])[0]), shapes=shape)
        if isinstance(left, Activation) and isinstance(right, Activation):
            return self.product(eqn, wide, left, right, shape, label + indices)
        position = 0 if isinstance(right, Activation) else 1
        weight, value = inputs[position], inputs[1 - position]
        if not isinstance(value, Activation):
            raise TypeError(value)
        if isinstance(weight, Weight) and weight.sources:
            return self.dense(eqn, wide, position, weight, value, shape, indices)
        return self.frozen(eqn, wide, position, cast("Constant", weight), value, shape)

    def frozen(
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
            self.grown(drawn, f"the product with {what}")
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
        return is_random(as_matrix(LABELS[wide.primitive.name], wide.params, array, position), narrows)

    def fan_pair(self, eqn: JaxprEqn, wide: JaxprEqn, position: int) -> list[Fan]:
        """(fan_in, fan_out) of the operand at that place."""
        label = LABELS[eqn.primitive.name]
        small, large = (fans(label, each.params, each.invars[position].aval.shape, position) for each in (eqn, wide))  # type: ignore[union-attr]
        return [self.graph.fan(first, second) for first, second in zip(small, large, strict=True)]

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
        """A use of a parameter: a weight on an activation."""
        label = LABELS[eqn.primitive.name]
        (path, scale), *others = weight.sources.items()
        if others or weight.obstacle:
            made = " and ".join(f"parameter {each}" for each in sorted(weight.sources))
            self.graph.problem(
                f"the weight of a {label}, {shape_text(weight.shapes)}, is computed from {made} by "
                f"{weight.obstacle or 'several operations'}; a weight has to be one parameter times a constant: "
                "multiply by one at a time, or make the computed weight the parameter"
            )
        if label == "gather":
            self.vectors(eqn, wide, path)
        fan_in, fan_out = self.fan_pair(eqn, wide, position)
        size, drawn = sizes(value)
        if fan_in.grows and value.chosen:
            self.uncounted(path, fan_in)
        self.grown(drawn, f"the dense op of {path}")
        self.require(value, f"the input of {path}", size)
        use = Use(
            self.unique(path + indices),
            path,
            label,
            fan_in,
            fan_out,
            len(self.graph.nodes),
            scale,
            self.address,
            value.node,
            value.shift,
            value.back,
            size,
            drawn - size,
            self.shared(eqn, wide, position, path),
            self.asked.get(len(self.graph.nodes)),
        )
        node = self.graph.add(Node(use=use))
        self.graph.uses.append(use)
        return Activation(shape, node, cancelled=drawn - size, owners=((use, ZERO),))

    def shared(self, eqn: JaxprEqn, wide: JaxprEqn, position: int, path: str) -> Fraction:
        """The power of n in the number of positions at which a product uses each of the parameter's entries.

        Those are the output's entries, per entry of one position's output; copies of the parameter count as well. Of a
        table that grows it is negative: a row is looked up ever less often.
        """
        label, counts = LABELS[eqn.primitive.name], []
        for each in (eqn, wide):
            out, weight = (_shape(atom) for atom in (each.outvars[0], each.invars[position]))
            batch = each.params["dimension_numbers"][1][position] if label == "dot" else ()
            groups = each.params["feature_group_count"] if label == "conv" else 1
            fan_out = fans(label, each.params, weight, position)[1]
            counts.append((prod(out), fan_out * groups * prod(weight[axis] for axis in batch), prod(weight)))
        all_out, one_out, copied = (power(*pair, self.graph.ratio) for pair in zip(*counts, strict=True))
        if label == "gather":  # every row is seen by its share of the positions
            return all_out - one_out - (growth(self.graph.shapes[path], self.graph.ratio) - one_out)
        return all_out - one_out + max(ZERO, copied - growth(self.graph.shapes[path], self.graph.ratio))

    def vectors(self, eqn: JaxprEqn, wide: JaxprEqn, path: str) -> None:
        """A lookup has to give rows, which grow in one dimension."""
        sizes = zip(eqn.params["slice_sizes"], wide.params["slice_sizes"], strict=True)
        if sum(small != large for small, large in sizes) > 1:
            self.graph.problem(
                f"{path} is looked up matrix by matrix, so that whether it is a table or a layer cannot be told; "
                "multiply by a one-hot code of the indices, as in einsum('be,bd,edf->bf', chosen, z, weights)"
            )

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


def _shape(atom: Any) -> Shape:
    return atom.aval.shape
