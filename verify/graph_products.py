"""What products do: dense ops, each a use of its parameter, and products of two activations."""

from dataclasses import replace
from fractions import Fraction
from math import prod

from jax.extend.core import JaxprEqn

from verify.graph import ZERO, Activation, Edge, Fan, Node, Product, Use, Value, Weight, growth, power, settle
from verify.graph_rules import Rules, Shapes, shape_text
from verify.trace import LABELS, fans


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
            return (
                self.added(self.activations([left]), shape)
                if not isinstance(left, Activation)
                else replace(left, shapes=shape)
            )
        if isinstance(left, Activation) and isinstance(right, Activation):
            return self.product(eqn, wide, left, right, shape, label + indices)
        position = 0 if isinstance(right, Activation) else 1
        weight, value = inputs[position], inputs[1 - position]
        if not isinstance(value, Activation):
            raise TypeError(value)
        if isinstance(weight, Weight) and weight.sources:
            return self.dense(eqn, wide, position, weight, value, shape, indices)
        # A product with a constant matrix: a sum with fixed weights.
        fan, constant = self.fan_pair(eqn, wide, position)[0], self.constant_power(weight)
        size = settle(value)
        return self.merged([(value, constant - fan.power, constant)], shape, size=size + constant - fan.power / 2)

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
        size = settle(value)
        self.grown(size, f"the dense op of {path}")
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
            self.shared(eqn, wide, position, path),
        )
        node = self.graph.add(Node(use=use))
        self.graph.uses.append(use)
        return Activation(shape, node, owners=((use, ZERO),))

    def shared(self, eqn: JaxprEqn, wide: JaxprEqn, position: int, path: str) -> Fraction:
        """The power of n in the number of positions at which a product uses each of the parameter's entries.

        Those are the output's entries, per entry of one position's output; copies of the parameter count as well.
        """
        label, entries = LABELS[eqn.primitive.name], []
        for each in (eqn, wide):
            out, weight = prod(each.outvars[0].aval.shape), each.invars[position].aval.shape
            batch = 1
            if label == "dot":
                batch = prod(weight[axis] for axis in each.params["dimension_numbers"][1][position])
            fan_out = fans(label, each.params, weight, position)[1]
            groups = each.params["feature_group_count"] if label == "conv" else 1
            entries.append((out, fan_out * groups * batch, prod(weight)))
        (out, used, copied), (wide_out, wide_used, wide_copied) = entries
        positions = power(out, wide_out, self.graph.ratio) - power(used, wide_used, self.graph.ratio)
        single = growth(self.graph.shapes[path], self.graph.ratio)
        return positions + max(ZERO, power(copied, wide_copied, self.graph.ratio) - single)

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
        sizes = settle(left), settle(right)
        both = [self.fan_pair(eqn, wide, position) for position in (0, 1)]
        fan = both[0][0]
        # On the way back the gradient of one operand sums over the free axes of the other.
        terms = [
            (left, sizes[1], sizes[1] - both[1][1].power / 2),
            (right, sizes[0], sizes[0] - both[0][1].power / 2),
        ]
        for value, size in zip((left, right), sizes, strict=True):
            self.require(value, f"the product {name}", size)
        product = Product(name, fan, len(self.graph.nodes), sum(sizes, ZERO), self.address)
        self.graph.all_products.append(product)
        edges = [Edge(v.node, v.shift + forward, v.back + back) for v, forward, back in terms if v.node is not None]
        if not edges:  # nothing that enters it changes
            product.trailing = ZERO
            return Activation(shape, size=sum(sizes, ZERO))
        node = self.graph.add(Node(edges, product=product))
        if not fan.grows:
            product.trailing = ZERO
            return Activation(shape, node, size=sum(sizes, ZERO), nonnegative=left.nonnegative and right.nonnegative)
        return Activation(shape, node, owners=((product, ZERO),))
