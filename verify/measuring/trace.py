"""Any JAX function apply(params, inputs) -> its dense ops: which parameter, on what input, as which weight.

A value comes from a parameter when it is computed from that one leaf of `params` and constants alone, by whatever
ops; it is an activation when it depends on `inputs`. A dense op is a product of the two: a dot_general or a
convolution of an activation with a weight that comes from one parameter (or from several side by side or added, an op
for each), or a lookup (gather) of such a weight's rows at indices computed from the inputs. Whole matrices that are
looked up and then multiplied are the weight of that product. A product of two activations (q·k) is no layer, and is
listed apart.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array

from derive.words import Kind
from verify.measuring.jaxpr import DENSE, TraceError
from verify.measuring.trace_ops import DenseOp, Evaluate, Operands, Product
from verify.measuring.trace_walk import Walk
from verify.values import Tree

__all__ = ["DenseOp", "Evaluate", "Operands", "Product", "Trace", "TraceError", "Tree", "roles", "trace"]


@dataclass(frozen=True)
class Trace:
    """The dense ops of a function, in the order of execution.

    `products` are the products of two activations, except those in loops that no parameter enters. `others` are the
    paths of the parameters in no dense op: biases, gains, positions.
    """

    ops: tuple[DenseOp, ...]
    products: tuple[Product, ...]
    others: tuple[str, ...]
    _closed: ClosedJaxpr = field(repr=False, compare=False)
    _paths: tuple[str, ...] = field(repr=False, compare=False)
    _signature: dict[str, str] = field(repr=False, compare=False)
    _output: Tree = field(repr=False, compare=False)

    def run(
        self,
        params: Tree,
        inputs: Tree,
        shifts: Mapping[str, Array] | None = None,
        evaluate: Evaluate | None = None,
    ) -> tuple[Tree, dict[str, Operands]]:
        """Evaluate the function: its outputs, and the operands of every dense op by name.

        Pure; may be jitted, differentiated and vmapped. These are apply's own ops in apply's order and outputs are
        equal bit for bit, but for one case: a part that apply compiles (jit, scan) is run op by op here where it has
        dense ops, and may be rounded otherwise. To compare, compile both sides. `shifts` are added to the outputs of
        the ops of those names: the derivative at shifts of zero is the cotangent of each output. `evaluate` gives
        the output of every dense op from the op and its operands, in place of the product itself; then rules for
        derivatives that functions bring with them are lost. TraceError for arguments that differ in structure, shape
        or dtype from those traced, and for shifts that fit no op.
        """
        given, traced = _signature(params, inputs), self._signature
        for leaf in {**traced, **given}:
            if given.get(leaf) != traced.get(leaf):
                raise TraceError(
                    f"{leaf} is {given.get(leaf, 'missing')} and was {traced.get(leaf, 'missing')} when traced; "
                    "give arguments of the same structure, or trace again"
                )
        shifts, shapes = shifts or {}, {op.name: op.output_shape for op in self.ops}
        for name, shift in shifts.items():
            if shift.shape != shapes.get(name):
                raise TraceError(
                    f"a shift of {name} has shape {shift.shape}, and "
                    + (f"its output {shapes[name]}" if name in shapes else "there is no dense op of that name")
                    + "; give one array of output_shape per op of Trace.ops"
                )
        walk = Walk(shifts, evaluate)
        outputs = walk.program(self._closed, self._paths, [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))])
        return jax.tree.unflatten(jax.tree.structure(self._output), outputs), walk.operands

    def product_values(self, params: Tree, inputs: Tree) -> dict[str, Array]:
        """The outputs of `products` by name: what `run` computes between two activations."""
        walk = Walk()
        walk.program(self._closed, self._paths, [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))])
        return walk.product_values

    def product(self, op: DenseOp, input: Array, weight: Array) -> Array:  # noqa: A002
        """Replay one op on other operands of the same shapes, such as dW z, W dz and dW dz; linear in each.

        For a lookup, `input` is an array of indices and only the weight is a linear operand.
        """
        operands = (weight, input) if op.weight_position == 0 else (input, weight)
        return DENSE[op.primitive].bind(*operands, **op.params)


def trace(apply: Callable[[Tree, Tree], Tree], params: Tree, inputs: Tree) -> Trace:
    """Find the dense ops of apply(params, inputs); both arguments may be trees of jax.ShapeDtypeStruct.

    Looks into jit, checkpoint, custom derivatives and scan (one op per iteration). Any other control flow is left
    whole. TraceError where that, or a weight made of several parameters, would hide a dense op, and where there is
    no dense op at all.
    """
    closed, output = jax.make_jaxpr(apply, return_shape=True)(params, inputs)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = tuple(jax.tree_util.keystr(path, simple=True, separator=".") or "params" for path, _ in leaves)
    for path, count in Counter(paths).items():
        if count > 1:
            raise TraceError(f"{count} parameters have the path {path}, made of keys joined by dots; rename a key")
    walk = Walk()

    def visit(*values: Array) -> None:
        walk.program(closed, paths, values)
        walk.operands.clear()  # abstract values may not outlive this function

    jax.eval_shape(visit, *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals))
    if not walk.ops:
        raise TraceError(
            f"no dense op: none of {len(paths)} parameters is multiplied by a value that depends on the inputs; "
            "write apply(params, inputs) with the data in its second argument"
        )
    others = tuple(path for path in paths if path not in {op.path for op in walk.ops})
    return Trace(tuple(walk.ops), tuple(walk.products), others, closed, paths, _signature(params, inputs), output)


def roles(small: Trace, large: Trace, width_ratio: float | None = None) -> dict[str, Kind]:
    """The role in width of every dense op, by name, from one function traced at two widths.

    Embedding: fan_out alone grows. Hidden: both fans grow. Readout: fan_in alone grows. They grow by `width_ratio`,
    by default the most frequent growth. TraceError naming the op for anything else.
    """
    ops, larger = ({op.name: op for op in traced.ops} for traced in (small, large))
    for name in sorted(ops.keys() ^ larger.keys()):
        raise TraceError(f"{name} is a dense op at one of the two widths only; trace the same function at both")
    growth = {
        name: (Fraction(larger[name].fan_in, op.fan_in), Fraction(larger[name].fan_out, op.fan_out))
        for name, op in ops.items()
    }
    grown = Counter(fan for fans in growth.values() for fan in fans if fan > 1).most_common(1)
    ratio = Fraction(width_ratio or (grown[0][0] if grown else 1)).limit_denominator(10**6)
    kinds: dict[tuple[Fraction, Fraction], Kind] = {
        (Fraction(1), ratio): "embedding",
        (ratio, ratio): "hidden",
        (ratio, Fraction(1)): "readout",
    }
    for name, fans in growth.items():
        if ratio <= 1 or fans not in kinds:
            before, after = (
                f"{op.fan_in} -> {op.fan_out} with weight {op.weight_shape}" for op in (ops[name], larger[name])
            )
            raise TraceError(
                f"{name} has no role in width: {before} became {after}; each fan has to stay or to grow by the ratio "
                f"of the widths, {ratio}, and one of them to grow; make the layer's sizes multiples of the width"
            )
    return {name: kinds[fans] for name, fans in growth.items()}


def _signature(params: Tree, inputs: Tree) -> dict[str, str]:
    """The dtype and shape of every leaf, by its path."""
    leaves = {"params": params, "inputs": inputs}
    return {
        name + jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}"
        for name, tree in leaves.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda x: x, tree))
    }
