"""Any JAX function apply(params, inputs) -> its dense ops: which parameter, on what input, as which weight.

A value comes from a parameter when it is computed from that one leaf of `params` and constants alone, by whatever
ops; it is an activation when it depends on `inputs`. A dense op is a product of the two: a dot_general or a
convolution of an activation with a weight that comes from one parameter, or a lookup (gather) of such a weight's
rows at indices computed from the inputs. A product of two activations (q·k) is no layer, and is listed apart.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, Var, primitives
from jax.extend.core import Literal as Constant
from jaxtyping import Array

from derive.exponents import Kind

Tree = Any
# The parameters that a value is computed from; None once it depends on the inputs.
Origin = frozenset[str] | None
Shape = tuple[int, ...]
DensePrimitive = Literal["dot", "gather", "conv"]

DENSE: dict[DensePrimitive, Primitive] = {
    "dot": primitives.dot_general_p,
    "gather": primitives.gather_p,
    "conv": primitives.conv_general_dilated_p,
}
LABELS: dict[str, DensePrimitive] = {primitive.name: label for label, primitive in DENSE.items()}
# Products as well, whose weights no single fan-in describes.
REFUSED = ("ragged_dot", "ragged_dot_general", "scaled_matmul")
# Calls that evaluate their body once, on their own arguments, under the names they have had in releases of JAX.
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
CALLS = ("jit", "pjit", "call", "core_call", "closed_call", "remat", "remat2", "checkpoint", *CUSTOM)
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class TraceError(ValueError):
    """What was given, what is allowed and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@dataclass(frozen=True)
class DenseOp:
    """One product of a weight with an activation.

    `name` is the parameter's path, then [i] for iteration i of each scan around the op, then #2, #3, ... on further
    uses. `params` are the static parameters of the JAX primitive and `weight_position` is the weight's place among
    its operands. fan_in is what is summed over (1 for a lookup; taps x channels for a convolution), fan_out what
    one input is turned into (the length of a row for a lookup; a group's channels for a convolution); batch
    dimensions of the weight count in neither.
    """

    name: str
    path: str
    primitive: DensePrimitive
    params: Mapping[str, Any] = field(repr=False, compare=False)
    weight_position: int
    iteration: tuple[int, ...]
    input_shape: Shape
    weight_shape: Shape
    output_shape: Shape
    fan_in: int
    fan_out: int


class Product(NamedTuple):
    """A product of two activations; its name is "dot" or "conv", numbered as the names of dense ops are."""

    name: str
    left_shape: Shape
    right_shape: Shape
    output_shape: Shape


class Operands(NamedTuple):
    """The two values that enter a dense op; the input of a lookup is its array of indices."""

    input: Array
    weight: Array


Evaluate = Callable[[DenseOp, Operands], Array]
"""The output of a dense op from its operands."""


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
        walk = _Walk(shifts, evaluate)
        outputs = walk.program(self._closed, self._paths, [jnp.asarray(x) for x in jax.tree.leaves((params, inputs))])
        return jax.tree.unflatten(jax.tree.structure(self._output), outputs), walk.operands

    def product_values(self, params: Tree, inputs: Tree) -> dict[str, Array]:
        """The outputs of `products` by name: what `run` computes between two activations."""
        walk = _Walk()
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
    walk = _Walk()

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


class _Tagged(NamedTuple):
    """A value and where it comes from."""

    value: Any
    origin: Origin


@dataclass
class _Walk:
    """One evaluation of the equations, on arrays or on abstract values, that notes the dense ops it passes."""

    shifts: Mapping[str, Array] = field(default_factory=dict)
    evaluate: Evaluate | None = None
    ops: list[DenseOp] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    product_values: dict[str, Array] = field(default_factory=dict)
    operands: dict[str, Operands] = field(default_factory=dict)
    shifted: dict[str, Array] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)

    def program(self, closed: ClosedJaxpr, paths: Sequence[str], values: Sequence[Array]) -> list[Array]:
        origins: list[Origin] = [frozenset({path}) for path in paths]
        origins += [None] * (len(values) - len(paths))
        arguments = [_Tagged(*pair) for pair in zip(values, origins, strict=True)]
        return [output.value for output in self.jaxpr(closed, arguments, ())]

    def jaxpr(self, closed: ClosedJaxpr, arguments: Sequence[_Tagged], iteration: tuple[int, ...]) -> list[_Tagged]:
        jaxpr = closed.jaxpr
        values: dict[Var, _Tagged] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {var: _Tagged(x, frozenset()) for var, x in zip(jaxpr.constvars, closed.consts, strict=True)}

        def read(atom: Var | Constant) -> _Tagged:
            return _Tagged(atom.val, frozenset()) if isinstance(atom, Constant) else values[atom]

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(atom) for atom in eqn.invars], iteration)
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, arguments: list[_Tagged], iteration: tuple[int, ...]) -> list[_Tagged]:
        name, origin = eqn.primitive.name, _join(arguments)
        # The parameters that activations meet in this equation, or nothing.
        met = "" if origin is not None else _names(_parameters(arguments))
        if name in REFUSED and met:
            raise TraceError(f"{name} of {met} and an activation is not supported; use jax.lax.dot_general instead")
        if _holds_product(eqn):
            if name in CALLS:
                body, before = next(eqn.params[key] for key in BODIES if key in eqn.params), len(self.ops)
                outputs = self.jaxpr(as_closed(body), arguments, iteration)
                if name not in CUSTOM or self.evaluate:
                    return outputs
                # The rule for derivatives belongs to the call and not to its body: take the call's own values.
                bound = _bind(eqn, arguments)
                for lost in (op.name for op in self.ops[before:] if op.name in self.shifts):
                    places = [place for place, output in enumerate(outputs) if output.value is self.shifted[lost]]
                    if not places:
                        raise TraceError(
                            f"{lost} is inside a function with a derivative rule of its own, through which no shift "
                            "of its output passes; give no shift for it, or write the function without the rule"
                        )
                    for place in places:  # the function ends in this op: its value can be shifted from outside
                        bound[place] = self.shift(lost, bound[place])
                return [_Tagged(x, output.origin) for x, output in zip(bound, outputs, strict=True)]
            if met and name != "scan":
                raise TraceError(
                    f"{name} contains a product or lookup, and {met} enters it together with activations; dense ops "
                    "are found in jit, checkpoint, custom derivatives and scan: for loops use jax.lax.scan, instead "
                    "of branches jnp.where"
                )
            if met and eqn.params["length"]:
                return self.scan(eqn, arguments, iteration)
        outputs = _bind(eqn, arguments)
        if name in LABELS:
            outputs = [self.note(eqn, arguments[0], arguments[1], outputs[0], iteration)]
        return [_Tagged(output, origin) for output in outputs]

    def scan(self, eqn: JaxprEqn, arguments: list[_Tagged], iteration: tuple[int, ...]) -> list[_Tagged]:
        body = as_closed(eqn.params["jaxpr"])
        first, last, _ = scan_split(eqn, body)
        constants, carry, stacks = arguments[:first], arguments[first:last], arguments[last:]
        steps = range(eqn.params["length"])
        rows: dict[int, list[_Tagged]] = {}
        for step in reversed(steps) if eqn.params["reverse"] else steps:
            sliced = [_Tagged(jax.lax.index_in_dim(x, step, keepdims=False), origin) for x, origin in stacks]
            outputs = self.jaxpr(body, [*constants, *carry, *sliced], (*iteration, step))
            carry, rows[step] = outputs[: len(carry)], outputs[len(carry) :]
        columns = zip(*(rows[step] for step in steps), strict=True)
        return [*carry, *(_Tagged(jnp.stack([x for x, _ in column]), _join(column)) for column in columns)]

    def note(self, eqn: JaxprEqn, left: _Tagged, right: _Tagged, output: Any, iteration: tuple[int, ...]) -> Any:
        """The output, shifted where that is asked for."""
        primitive, params = LABELS[eqn.primitive.name], eqn.params
        indices = "".join(f"[{index}]" for index in iteration)
        if left.origin is None and right.origin is None and primitive != "gather":
            shapes = (left.value.shape, right.value.shape, output.shape)
            self.products.append(Product(self.unique(primitive + indices), *shapes))
            self.product_values[self.products[-1].name] = output
        position = 0 if right.origin is None else 1
        weight, activation = (left, right) if position == 0 else (right, left)
        if not weight.origin or activation.origin is not None or (primitive == "gather" and position == 1):
            return output
        shape = weight.value.shape
        if primitive == "conv" and position == 0:
            raise TraceError(
                f"a convolution slides over {_names(weight.origin)}, {shape}; make the parameter its kernel"
            )
        if len(weight.origin) > 1:
            raise TraceError(
                f"the weight of a {primitive}, {shape}, is computed from {_names(weight.origin)}; a weight comes from "
                "one parameter: multiply by one at a time, or make the computed weight the parameter"
            )
        (path,) = weight.origin
        name = self.unique(path + indices)
        sizes = (activation.value.shape, shape, output.shape, *fans(primitive, params, shape, position))
        self.ops.append(DenseOp(name, path, primitive, params, position, iteration, *sizes))
        self.operands[name] = Operands(activation.value, weight.value)
        if self.evaluate:  # the output that was bound already is not used, and compiled it is left out
            output = self.evaluate(self.ops[-1], self.operands[name])
        return self.shift(name, output)

    def shift(self, name: str, output: Array) -> Array:
        """The output of the op, shifted where that is asked for."""
        if name not in self.shifts:
            return output
        self.shifted[name] = output + self.shifts[name].astype(output.dtype)
        return self.shifted[name]

    def unique(self, name: str) -> str:
        self.uses[name] += 1
        return name if self.uses[name] == 1 else f"{name}#{self.uses[name]}"


def fans(primitive: DensePrimitive, params: Mapping[str, Any], shape: Shape, position: int) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of that shape at that place among the operands, as `DenseOp` counts them."""
    if primitive == "gather":
        return 1, prod(params["slice_sizes"])
    if primitive == "conv":
        channels = shape[params["dimension_numbers"].rhs_spec[0]]
        return prod(shape) // channels, channels // params["feature_group_count"]
    contracted, batch = (axes[position] for axes in params["dimension_numbers"])
    free = (size for axis, size in enumerate(shape) if axis not in {*contracted, *batch})
    return prod(shape[axis] for axis in contracted), prod(free)


def scan_split(eqn: JaxprEqn, body: ClosedJaxpr) -> tuple[int, int, int]:
    """(where a scan's carry begins among its operands, where its stacks begin, how many results are carried).

    Told by shapes, since releases of JAX name the counts differently: a stack has one axis more than its rows.
    """
    pairs = zip(eqn.invars, body.jaxpr.invars, strict=True)
    last = sum(_shape(outer) == _shape(inner) for outer, inner in pairs)
    pairs = zip(eqn.outvars, body.jaxpr.outvars, strict=True)
    carried = sum(_shape(outer) == _shape(inner) for outer, inner in pairs)
    return last - carried, last, carried


def _bind(eqn: JaxprEqn, arguments: list[_Tagged]) -> list[Any]:
    return bind_equation(eqn, [argument.value for argument in arguments])


def bind_equation(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of the equation on these operands."""
    # A pair of functions and parameters in older releases of JAX, parameters alone since.
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*functions, *operands, **params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _shape(atom: Any) -> Shape:
    return atom.aval.shape


def as_closed(body: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """The body of an equation, which may have no constants of its own."""
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())


def _holds_product(eqn: JaxprEqn) -> bool:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            body = item.jaxpr if isinstance(item, ClosedJaxpr) else item
            if isinstance(body, Jaxpr) and any(
                inner.primitive.name in (*LABELS, *REFUSED) or _holds_product(inner) for inner in body.eqns
            ):
                return True
    return False


def _parameters(values: Sequence[_Tagged]) -> frozenset[str]:
    return frozenset().union(*(value.origin or () for value in values))


def _join(values: Sequence[_Tagged]) -> Origin:
    return None if any(value.origin is None for value in values) else _parameters(values)


def _names(origin: frozenset[str]) -> str:
    return " and ".join(f"parameter {path}" for path in sorted(origin))


def _signature(params: Tree, inputs: Tree) -> dict[str, str]:
    """The dtype and shape of every leaf, by its path."""
    leaves = {"params": params, "inputs": inputs}
    return {
        name + jax.tree_util.keystr(path): f"{leaf.dtype}{leaf.shape}"
        for name, tree in leaves.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.eval_shape(lambda x: x, tree))
    }
