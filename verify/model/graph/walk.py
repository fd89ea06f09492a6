"""From a JAX function at two widths to its graph: one walk over both programs, an equation of each at a time."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import zip_longest

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.extend.core import Literal as Literal_
from jax.tree_util import KeyPath

from verify.measuring.contractions import Contraction, contractions
from verify.measuring.jaxpr import BODIES, CALLS, LABELS, RAGGED, Atom, Shape, as_closed, bind_equation, scan_split
from verify.model.graph.branches import Branches
from verify.model.graph.graph import FAR, OUTPUT, ZERO, Fan, Graph, GraphError
from verify.model.graph.rules.constants import is_zero, size_power
from verify.model.graph.value import Activation, Constant, Value, Weight, growth, settle
from verify.model.graph.weights import Operation, Shapes, unreadable
from verify.values import Leaf, Tree


@dataclass(frozen=True)
class ByHand:
    """A contraction written by hand at both widths, and what is multiplied."""

    small: Contraction
    large: Contraction
    factors: list[Value]


LARGEST_CONSTANT = 2**24
"""Entries of a constant up to which its values are worked out."""


def walk(
    programs: Sequence[ClosedJaxpr], params: Sequence[Tree], widths: Sequence[int], frozen: Collection[str] = ()
) -> Graph:
    """The graph of the two programs of apply(params, inputs), made at the base width and at the target width.

    Trees may hold jax.ShapeDtypeStruct. The parameters at the paths in `frozen` are not trained. What is not understood
    is in Graph.problems. GraphError where the two widths are not the same program.
    """
    leaves = [jax.tree_util.tree_leaves_with_path(each) for each in params]
    paths = [[path_name(path) for path, _ in each] for each in leaves]
    if paths[0] != paths[1]:
        odd = min({*paths[0]} ^ {*paths[1]}, default=paths[0][0])
        raise GraphError(
            f"the model has other parameters at width {widths[1]} than at {widths[0]}, such as {odd}; "
            "make(width) must change sizes only"
        )
    for path, count in Counter(paths[0]).items():
        if count > 1:
            raise GraphError(f"{count} parameters have the path {path}, made of keys joined by dots; rename a key")
    shapes = {
        path: (_shape(leaf), _shape(large)) for (_, leaf), (_, large), path in zip(*leaves, paths[0], strict=True)
    }
    ratio = Fraction(widths[1], widths[0])
    arrays = {path: (leaf, large) for (_, leaf), (_, large), path in zip(*leaves, paths[0], strict=True)}
    known = {
        path for path, pair in arrays.items() if not any(isinstance(x, jax.ShapeDtypeStruct | Tracer) for x in pair)
    }
    graph = Graph(ratio, shapes)
    state = _Walk(graph, given={path: arrays[path] for path in known}, frozen=frozen)
    _traced(programs, state)
    both = state.stopped & {use.path for use in graph.uses if not use.stopped}
    owners = [*graph.uses, *graph.all_products]
    asks = any(owner.trailing is not None and owner.asked < owner.trailing for owner in owners)
    if both:  # what one use trains changes in the others as well, where no gradient flows
        state = replace(state, given={path: pair for path, pair in state.given.items() if path not in both})
    if asks:
        # One of several consumers multiplies the output by less than the first: it has size 1 where it is largest.
        state = replace(state, asked={owner.node: owner.asked for owner in owners if owner.asked < FAR})
    if both or asks:
        graph = Graph(ratio, shapes)
        _traced(programs, replace(state, graph=graph, names=Counter(), address=(), stopped=set(), turned=set()))
    graph.stopped |= state.stopped
    for path in {*shapes} - {use.path for use in graph.uses}:
        own = _constant(*arrays[path]) if path in known else None
        graph.untrained[path] = (size_power(own, ratio) if own and ratio != 1 else None) or ZERO
    return graph


def _traced(programs: Sequence[ClosedJaxpr], state: "_Walk") -> None:
    """The graph of the state filled."""
    graph = state.graph
    given = zip(graph.shapes.items(), programs[0].jaxpr.invars, strict=False)
    values: list[Value] = [state.start(path, shapes, var.aval.dtype) for (path, shapes), var in given]  # type: ignore[attr-defined]
    extra = [each.jaxpr.invars[len(values) :] for each in programs]
    values += [Activation((_shape(a.aval), _shape(b.aval))) for a, b in zip(*extra, strict=True)]
    for value in state.program(programs[0], programs[1], values, ()):
        if isinstance(value, Activation):
            settle(value)
            if value.node is not None:
                count = growth(value.shapes, graph.ratio)
                graph.outputs.append((value.node, value.shift, value.back, count))
                state.require(value, OUTPUT)


def path_name(path: KeyPath) -> str:
    """A parameter's path: keys joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "params"


def _shape(leaf: Leaf) -> Shape:
    return tuple(leaf.shape)


class _Walk(Branches):
    """One walk over both programs; what it finds goes into the graph."""

    def program(
        self, small: ClosedJaxpr, large: ClosedJaxpr, arguments: list[Value], iteration: tuple[int, ...]
    ) -> list[Value]:
        bodies = (small.jaxpr, large.jaxpr)
        values: dict[Atom, Value] = dict(zip(small.jaxpr.invars, arguments, strict=True))
        for var, *pair in zip(small.jaxpr.constvars, small.consts, large.consts, strict=True):
            values[var] = _constant(*pair)
        if len(bodies[0].eqns) != len(bodies[1].eqns):
            self.different(bodies[0].eqns, bodies[1].eqns)

        def read(first: Leaf, second: Tree) -> Value:
            return _constant(first.val, second.val) if isinstance(first, Literal_) else values[first]

        outer = self.address
        written, sums = [contractions(body) for body in bodies], dict[Atom, ByHand]()
        for index, (eqn, wide) in enumerate(zip(bodies[0].eqns, bodies[1].eqns, strict=True)):
            self.address = (*outer, index)
            if eqn.primitive.name != wide.primitive.name or len(eqn.invars) != len(wide.invars):
                self.different([eqn], [wide])
            inputs = [read(*pair) for pair in zip(eqn.invars, wide.invars, strict=True)]
            result = eqn.outvars[0] if eqn.outvars else None
            if result in written[0] and wide.outvars[0] in written[1]:
                both = written[0][result], written[1][wide.outvars[0]]
                found = ByHand(*both, [values[factor.source] for factor in both[0].factors])
                if self.contracts(found):
                    sums[found.small.total.outvars[0]] = found
                    values[result] = Activation((_shape(result.aval), _shape(wide.outvars[0].aval)))
                    continue
            outputs = [self.by_hand(sums[result], iteration)] if result in sums else None
            values.update(zip(eqn.outvars, outputs or self.equation(eqn, wide, inputs, iteration), strict=True))
        self.address = outer
        return [read(*pair) for pair in zip(bodies[0].outvars, bodies[1].outvars, strict=True)]

    def different(self, small: Sequence[JaxprEqn], large: Sequence[JaxprEqn]) -> None:
        names = ([eqn.primitive.name for eqn in each] for each in (small, large))
        pairs = enumerate(zip_longest(*names, fillvalue="missing"))
        index, (first, second) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        raise GraphError(
            f"the two widths are not the same program: operation {index} is {first} at one and {second} at the other; "
            "loops must not run over the width, and a dimension must not be 1 at the base width alone"
        )

    def equation(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], iteration: tuple[int, ...]) -> list[Value]:
        name = eqn.primitive.name
        shapes = [(_shape(a.aval), _shape(b.aval)) for a, b in zip(eqn.outvars, wide.outvars, strict=True)]
        if all(isinstance(value, Constant) for value in inputs):
            return self.computed(eqn, wide, inputs, shapes)  # type: ignore[arg-type]
        if name in CALLS:
            body = next(key for key in BODIES if key in eqn.params)
            return self.program(as_closed(eqn.params[body]), as_closed(wide.params[body]), inputs, iteration)
        if name == "scan":
            return self.scan(eqn, wide, inputs, iteration, shapes)
        if name in ("cond", "while"):
            return self.branches(eqn, wide, inputs, iteration, shapes)
        product = name in LABELS or name in RAGGED
        if product and name != "gather" and any(isinstance(value, Constant) for value in inputs[:2]):
            if is_zero(next(value for value in inputs if isinstance(value, Constant))):
                return [self.filled(shape) for shape in shapes]  # such as the first turn of a recurrent loop
            if any(isinstance(value, Weight) for value in inputs):
                self.all_rows(eqn, wide, inputs)
                inputs = [
                    Activation(v.shapes, size=self.constant_power(v)) if isinstance(v, Constant) else v for v in inputs
                ]
        if name == "dynamic_slice" and isinstance(inputs[0], Weight) and isinstance(inputs[1], Activation):
            return [self.made(Operation(name, unreadable), inputs[:1], shapes[0])]  # wherever the slice begins
        if product and len(inputs) == 2 and all(isinstance(value, Weight) for value in inputs):
            inputs = self.queries(eqn, wide, inputs)
        if not any(isinstance(value, Activation) for value in inputs):
            return self.of_weights(eqn, wide, inputs, shapes)
        if product:
            return [self.contraction(eqn, wide, inputs, shapes[0], iteration)]
        if not any(jax.numpy.issubdtype(var.aval.dtype, jax.numpy.inexact) for var in eqn.outvars):  # type: ignore[attr-defined]
            # Integers and truth values follow no small change.
            return [Activation(shape, chosen=self.picks(name, inputs, shape)) for shape in shapes]
        return self.rule(name, eqn, wide, inputs, shapes)

    def contracts(self, found: ByHand) -> bool:
        """Whether a product of entries that is summed is one of two activations, or a layer's."""
        if all(isinstance(each, Activation) for each in found.factors):
            return True
        weights = [each for each in found.factors if isinstance(each, Weight)]
        plain = len(weights) == 1 and bool(weights[0].terms) and weights[0].obstacle is None and not weights[0].gains
        return plain and any(isinstance(each, Activation) for each in found.factors) and self.fan_of(found).grows

    def fan_of(self, found: ByHand) -> Fan:
        """How many entries are summed."""
        return self.graph.fan(found.small.entries, found.large.entries)

    def by_hand(self, found: ByHand, iteration: tuple[int, ...]) -> Value:
        """A product of entries that is summed, as the dot that it is."""
        eqn, wide = found.small.dot, found.large.dot
        shape = (_shape(found.small.total.outvars[0].aval), _shape(found.large.total.outvars[0].aval))
        factors = [
            self.reshaped(value, (found.small.operand(place), found.large.operand(place)))
            for place, value in enumerate(found.factors)
        ]
        if all(isinstance(value, Activation) for value in factors):
            name = "sum" + "".join(f"[{index}]" for index in iteration)
            return self.product(eqn, wide, *factors, shape, name)  # type: ignore[arg-type]
        return self.contraction(eqn, wide, factors, shape, iteration)

    def reshaped(self, value: Value, shapes: Shapes) -> Value:
        """A factor without its axes of one entry."""
        if isinstance(value, Weight):
            return self.made(
                Operation("reshape", lambda which, arrays: arrays[0].reshape(shapes[which])), [value], shapes
            )
        return replace(value, shapes=shapes)

    def computed(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Constant], shapes: list[Shapes]) -> list[Value]:
        """The results of an equation among constants, worked out when they are asked for."""
        kept: list[Leaf] = []
        if eqn.primitive.name == "broadcast_in_dim" and all(math.prod(each) == 1 for each in inputs[0].shapes):
            return [Constant(shapes[0], partial(self.copied, inputs[0], shapes[0]))]

        def results() -> Tree:
            if not kept:
                pairs = [value.arrays() for value in inputs]
                big = any(math.prod(shape[1]) > LARGEST_CONSTANT for shape in shapes)
                if big or any(pair is None for pair in pairs):
                    kept.append(None)
                else:
                    with jax.ensure_compile_time_eval():
                        kept.append(
                            [bind_equation(e, [pair[which] for pair in pairs]) for which, e in enumerate((eqn, wide))]
                        )
            return kept[0]

        def one(index: int) -> Leaf:
            found = results()
            return None if found is None else (found[0][index], found[1][index])

        return [Constant(shape, partial(one, index)) for index, shape in enumerate(shapes)]

    def copied(self, value: Constant, shapes: Shapes) -> Leaf:
        """The arrays of one number in every entry, which take no memory."""
        pair = value.arrays()
        if pair is None:
            return None
        return tuple(
            np.broadcast_to(np.asarray(each).reshape(()), shape) for each, shape in zip(pair, shapes, strict=True)
        )

    def filled(self, shapes: Shapes) -> Constant:
        """Zeros."""
        return Constant(shapes, lambda: tuple(np.broadcast_to(np.float32(0), shape) for shape in shapes))

    def scan(
        self,
        eqn: JaxprEqn,
        wide: JaxprEqn,
        inputs: list[Value],
        iteration: tuple[int, ...],
        shapes: list[Shapes],
    ) -> list[Value]:
        if eqn.params["length"] != wide.params["length"]:
            self.graph.problem(
                f"a scan runs {eqn.params['length']} times at one width and {wide.params['length']} at the other; "
                "loops must not run over the width"
            )
            return [self.joined(inputs, shape) for shape in shapes]
        bodies = [as_closed(each.params["jaxpr"]) for each in (eqn, wide)]
        first, last, kept = scan_split(eqn, bodies[0])
        constants, carry, stacks = inputs[:first], inputs[first:last], inputs[last:]
        steps = range(eqn.params["length"])
        rows: dict[int, list[Value]] = {}
        for step in reversed(steps) if eqn.params["reverse"] else steps:
            sliced = [self.row(value, step) for value in stacks]
            outputs = self.program(bodies[0], bodies[1], [*constants, *carry, *sliced], (*iteration, step))
            carry, rows[step] = outputs[:kept], outputs[kept:]
        columns: list[list[Value]] = [[rows[step][index] for step in steps] for index in range(len(shapes) - kept)]
        stacked = [self.joined(column, shape) for column, shape in zip(columns, shapes[kept:], strict=True)]
        return [*carry, *stacked]

    def row(self, value: Value, step: int) -> Value:
        shapes = (value.shapes[0][1:], value.shapes[1][1:])
        if isinstance(value, Constant):

            def arrays() -> Tree:
                pair = value.arrays()
                return None if pair is None else (pair[0][step], pair[1][step])

            return Constant(shapes, arrays)
        if isinstance(value, Weight):
            return self.made(Operation("slice", lambda _, arrays: arrays[0][step]), [value], shapes)
        return replace(value, shapes=shapes)


def _constant(small: Leaf, large: Leaf) -> Constant:
    if isinstance(small, Tracer) or isinstance(large, Tracer):
        return Constant((np.shape(small), np.shape(large)), lambda: None)  # an argument of what is being compiled
    return Constant((np.shape(small), np.shape(large)), lambda: (small, large))
