"""One evaluation of a program that notes its dense ops: of what parameters every value is made, and where they meet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant
from jaxtyping import Array

from verify.measuring.contractions import Contraction, contractions
from verify.measuring.jaxpr import (
    BODIES,
    CALLS,
    CUSTOM,
    LABELS,
    RAGGED,
    DensePrimitive,
    Shape,
    TraceError,
    as_closed,
    dot_numbers,
    fans,
    scan_split,
)
from verify.measuring.tagged import Lookup, Origin, Tagged, bind, join, moved, parameters, parted, row, stack
from verify.measuring.trace_ops import DenseOp, Evaluate, Operands, Product
from verify.values import Entries, Leaf, Tree


@dataclass
class Walk:
    """One evaluation of the equations, on arrays or on abstract values, that notes the dense ops it passes."""

    shifts: Mapping[str, Array] = field(default_factory=dict)
    evaluate: Evaluate | None = None
    ops: list[DenseOp] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    product_values: dict[str, Array] = field(default_factory=dict)
    operands: dict[str, Operands] = field(default_factory=dict)
    shifted: dict[str, Array] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, int] = field(default_factory=dict)

    def program(self, closed: ClosedJaxpr, paths: Sequence[str], values: Sequence[Array]) -> list[Array]:
        """The outputs, from the parameters at these paths and the inputs after them."""
        self.sizes = {path: prod(value.shape) for path, value in zip(paths, values, strict=False)}
        origins: list[Origin] = [frozenset({path}) for path in paths]
        origins += [None] * (len(values) - len(paths))
        arguments = [Tagged(*pair) for pair in zip(values, origins, strict=True)]
        return [self.settled(output).value for output in self.jaxpr(closed, arguments, ())]

    def jaxpr(self, closed: ClosedJaxpr, arguments: Sequence[Tagged], iteration: tuple[int, ...]) -> list[Tagged]:
        """The results of a program on these arguments."""
        jaxpr = closed.jaxpr
        values: dict[Var, Tagged] = dict(zip(jaxpr.invars, arguments, strict=True))
        values |= {var: Tagged(x, frozenset()) for var, x in zip(jaxpr.constvars, closed.consts, strict=True)}

        def read(atom: Var | Constant) -> Tagged:
            return Tagged(atom.val, frozenset()) if isinstance(atom, Constant) else values[atom]

        written = {found.total.outvars[0]: found for found in contractions(jaxpr).values()}
        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(atom) for atom in eqn.invars], iteration)
            if eqn.primitive.name == "reduce_sum" and eqn.outvars[0] in written:
                found = written[eqn.outvars[0]]
                factors = [values[factor.source] for factor in found.factors]
                outputs = [self.by_hand(found, factors, outputs[0], iteration)]
            values.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, arguments: list[Tagged], iteration: tuple[int, ...]) -> list[Tagged]:
        """The results of one equation."""
        name, origin = eqn.primitive.name, join(arguments)
        made = any(argument.lookup or argument.parts for argument in arguments)
        if name in CALLS and (_holds_product(eqn) or made):
            return self.call(eqn, arguments, iteration)
        if name in LABELS or name in RAGGED:
            return self.product(eqn, arguments, iteration)
        if name != "scan" and any(argument.lookup for argument in arguments):
            if (found := moved(eqn, arguments, bind(eqn, arguments))) is not None:
                return found
            arguments = [self.settled(argument) for argument in arguments]
            origin = join(arguments)
        if origin is None and (met := _names(parameters(arguments))) and _holds_product(eqn):
            # Activations meet parameters in a body.
            if name != "scan":
                raise TraceError(
                    f"{name} contains a product or lookup, and {met} enters it together with activations; dense ops "
                    "are found in jit, checkpoint, custom derivatives and scan: for loops use jax.lax.scan, instead "
                    "of branches jnp.where"
                )
            if eqn.params["length"]:
                return self.scan(eqn, arguments, iteration)
        pieces = parted(eqn, arguments, self.sizes)
        outputs = zip(bind(eqn, arguments), pieces, strict=True)
        return [Tagged(output, origin, parts) for output, parts in outputs]

    def call(self, eqn: JaxprEqn, arguments: list[Tagged], iteration: tuple[int, ...]) -> list[Tagged]:
        """The results of a function that is called, with the dense ops inside it."""
        body, before = next(eqn.params[key] for key in BODIES if key in eqn.params), len(self.ops)
        outputs = self.jaxpr(as_closed(body), arguments, iteration)
        if eqn.primitive.name not in CUSTOM or self.evaluate:
            return outputs
        # The rule for derivatives belongs to the call and not to its body: take the call's own values.
        bound = bind(eqn, arguments)
        for lost in (op.name for op in self.ops[before:] if op.name in self.shifts):
            places = [place for place, output in enumerate(outputs) if output.value is self.shifted[lost]]
            if not places:
                raise TraceError(
                    f"{lost} is inside a function with a derivative rule of its own, through which no shift "
                    "of its output passes; give no shift for it, or write the function without the rule"
                )
            for place in places:  # the function ends in this op: its value can be shifted from outside
                bound[place] = self.shift(lost, bound[place])
        return [Tagged(x, output.origin) for x, output in zip(bound, outputs, strict=True)]

    def product(self, eqn: JaxprEqn, arguments: list[Tagged], iteration: tuple[int, ...]) -> list[Tagged]:
        """A product, convolution or lookup: noted where activations and parameters meet, or two activations."""
        left, right = arguments[0], arguments[1]
        looked = [each.lookup is not None for each in (left, right)]
        ragged = eqn.primitive.name in RAGGED
        if any(looked) and (ragged or all(looked) or eqn.primitive.name == "gather" or join([left, right]) is not None):
            left, right = self.settled(left), self.settled(right)
        (output,) = bind(eqn, [left, right, *arguments[2:]])
        if ragged:
            left, right, numbers = by_rows(eqn, left, right, arguments[2])
            return [Tagged(self.note("dot", numbers, left, right, output, iteration), join([left, right]))]
        label, params = LABELS[eqn.primitive.name], eqn.params
        rows = label == "gather" and len(left.origin or ()) == 1 and right.origin is None
        if rows and sum(size > 1 for size in params["slice_sizes"]) > 1:
            return [Tagged(output, left.origin, None, Lookup(eqn, left, right, output, iteration))]
        origin = None if any(looked) else join([left, right])
        pieces = parted(eqn, [left, right], self.sizes)[0]
        return [Tagged(self.note(label, params, left, right, output, iteration), origin, pieces)]

    def by_hand(
        self, found: Contraction, factors: Sequence[Tagged], output: Tagged, iteration: tuple[int, ...]
    ) -> Tagged:
        """A product of entries that was summed, noted as a dot where a plain parameter is in it, or none."""
        weights = [each for each in factors if each.origin is not None]
        if any(not each.origin or each.split() is None or each.lookup for each in weights) or len(weights) == 2:
            return output
        if not weights:
            self.note_product("sum", factors[0], factors[1], output.value, iteration)
            return output
        left, right = (_reshaped(each, found.operand(place)) for place, each in enumerate(factors))
        result = self.note("dot", found.dot.params, left, right, found.to_dot(output.value), iteration)
        return Tagged(found.from_dot(result), output.origin)

    def settled(self, value: Tagged) -> Tagged:
        """Matrices that were looked up, as rows of a table."""
        found = value.lookup
        if found is None:
            return value
        raw = self.note("gather", found.eqn.params, found.source, found.places, found.raw, found.iteration)
        return Tagged(value.value if raw is found.raw else found.replay(raw), None)

    def scan(self, eqn: JaxprEqn, arguments: list[Tagged], iteration: tuple[int, ...]) -> list[Tagged]:
        """The results of a loop, a turn at a time."""
        body = as_closed(eqn.params["jaxpr"])
        first, last, _ = scan_split(eqn, body)
        constants, carry, stacks = arguments[:first], arguments[first:last], arguments[last:]
        steps = range(eqn.params["length"])
        rows: dict[int, list[Tagged]] = {}
        for step in reversed(steps) if eqn.params["reverse"] else steps:
            sliced = [row(each, step) for each in stacks]
            outputs = self.jaxpr(body, [*constants, *carry, *sliced], (*iteration, step))
            carry, rows[step] = outputs[: len(carry)], outputs[len(carry) :]
        columns = zip(*(rows[step] for step in steps), strict=True)
        return [*carry, *(stack([self.settled(each) for each in column]) for column in columns)]

    def note(
        self,
        primitive: DensePrimitive,
        params: Entries,
        left: Tagged,
        right: Tagged,
        output: Leaf,
        iteration: tuple[int, ...],
    ) -> Tree:
        """The output, shifted where that is asked for."""
        indices = "".join(f"[{index}]" for index in iteration)
        if left.origin is None and right.origin is None and primitive != "gather":
            self.note_product(primitive, left, right, output, iteration)
        position = 0 if right.origin is None and right.lookup is None else 1
        weight, activation = (left, right) if position == 0 else (right, left)
        if not weight.origin or activation.origin is not None or (primitive == "gather" and position == 1):
            return output
        shape = weight.value.shape
        if primitive == "conv" and position == 0:
            raise TraceError(
                f"a convolution slides over {_names(weight.origin)}, {shape}; make the parameter its kernel"
            )
        sizes = fans(primitive, params, shape, position)
        parts = weight.split()
        if parts is None:
            if primitive == "dot" and not dot_numbers(params)[0][0]:
                return output  # no sum: a function of parameters as a vector
            raise TraceError(
                f"the weight of a {primitive}, {shape}, is computed from {_names(weight.origin)}; a weight comes from "
                "one parameter, or from several side by side or added: multiply by one at a time, or make the computed "
                "weight the parameter"
            )
        for path, part in parts.items():
            used = weight.value if len(parts) == 1 else part
            name = self.unique(path + indices)
            shapes = (activation.value.shape, shape, output.shape)
            self.ops.append(DenseOp(name, path, primitive, params, position, iteration, *shapes, *sizes))
            self.operands[name] = Operands(activation.value, used)
        names = [op.name for op in self.ops[-len(parts) :]]
        if self.evaluate:  # the output that was bound already is not used, and compiled it is left out
            output = sum(self.evaluate(op, self.operands[op.name]) for op in self.ops[-len(parts) :])
        for name in names:
            output = self.shift(name, output)
        return output

    def note_product(self, name: str, left: Tagged, right: Tagged, output: Leaf, iteration: tuple[int, ...]) -> None:
        """A product of two activations."""
        shapes = (left.value.shape, right.value.shape, output.shape)
        self.products.append(Product(self.unique(name + "".join(f"[{index}]" for index in iteration)), *shapes))
        self.product_values[self.products[-1].name] = output

    def shift(self, name: str, output: Array) -> Array:
        """The output of the op, shifted where that is asked for."""
        if name not in self.shifts:
            return output
        self.shifted[name] = output + self.shifts[name].astype(output.dtype)
        return self.shifted[name]

    def unique(self, name: str) -> str:
        """The name, numbered where it was given before."""
        self.uses[name] += 1
        return name if self.uses[name] == 1 else f"{name}#{self.uses[name]}"


def by_rows(eqn: JaxprEqn, left: Tagged, right: Tagged, sizes: Tagged) -> tuple[Tagged, Tagged, Mapping[str, Leaf]]:
    """A ragged product as one of every row with its group's matrix: both operands, and the parameters of that dot."""
    rows = (((1,), (1,)), ((), (0,)))
    if dot_numbers(eqn.params) != rows or left.value.ndim != 2:
        raise TraceError(
            f"{eqn.primitive.name} is understood of rows (m, k) with matrices (groups, k, n); use jax.lax.dot_general"
        )
    length, groups = left.value.shape[0], right.value.shape[0]

    def matrices(array: Leaf) -> Leaf:
        return array[jnp.repeat(jnp.arange(groups), sizes.value, total_repeat_length=length)]

    parts = None if right.parts is None else {path: matrices(part) for path, part in right.parts.items()}
    options = {name: eqn.params[name] for name in ("precision", "preferred_element_type") if name in eqn.params}
    shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (left.value, jax.eval_shape(matrices, right.value)))
    program = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, (((1,), (1,)), ((0,), (0,))), **options))(*shapes)
    return left, Tagged(matrices(right.value), right.origin, parts), program.jaxpr.eqns[0].params


def _reshaped(value: Tagged, shape: Shape) -> Tagged:
    parts = value.parts and {path: part.reshape(shape) for path, part in value.parts.items()}
    return Tagged(value.value.reshape(shape), value.origin, parts)


def _holds_product(eqn: JaxprEqn) -> bool:
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            body = item.jaxpr if isinstance(item, ClosedJaxpr) else item
            if isinstance(body, Jaxpr) and (
                contractions(body)
                or any(inner.primitive.name in (*LABELS, *RAGGED) or _holds_product(inner) for inner in body.eqns)
            ):
                return True
    return False


def _names(origin: frozenset[str]) -> str:
    return " and ".join(f"parameter {path}" for path in sorted(origin))
