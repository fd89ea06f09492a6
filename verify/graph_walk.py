"""From a JAX function at two widths to its graph: one walk over both programs, an equation of each at a time."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.extend.core import Literal as Literal_

from verify.graph import (
    HALF,
    OUTPUT,
    ZERO,
    Activation,
    Constant,
    Edge,
    Graph,
    GraphError,
    Node,
    Owner,
    Product,
    Requirement,
    Use,
    Value,
    Weight,
    growth,
    scalar_power,
    settle,
)
from verify.trace import BODIES, CALLS, LABELS, Shape, Tree, as_closed, bind_equation, fans, scan_split

LINEAR = frozenset(
    "reshape transpose squeeze expand_dims rev copy copy_p convert_element_type reduce_precision neg real imag "
    "broadcast_in_dim slice dynamic_slice split pad roll stop_gradient optimization_barrier sharding_constraint "
    "mesh_cast reshard device_put pvary layout_constraint reduce_max reduce_min cummax cummin sort top_k name".split()
)
"""Moves entries or picks among them: sizes and changes stay."""
SUMS = frozenset(["reduce_sum", "cumsum", "reduce_window_sum"])
ADDITIVE = frozenset(
    "add add_any sub max min select_n clamp concatenate atan2 nextafter rem dynamic_update_slice scatter scatter-add "
    "scatter_add select_and_gather_add reduce_window_max reduce_window".split()
)
"""The change is the largest of the operands' changes."""
PRODUCTS = frozenset(["mul", "div"])
POWERS = {"sqrt": HALF, "rsqrt": -HALF, "cbrt": Fraction(1, 3), "square": Fraction(2), "abs": Fraction(1)}
"""Homogeneous functions with their degree: f(tx) = t^p f(x)."""
BOUNDED = frozenset("exp exp2 cos logistic erfc".split())
"""Functions with f(0) other than 0."""
SMOOTH = frozenset(
    "tanh sin tan sinh cosh erf erf_inv log log1p expm1 asin acos atan asinh acosh atanh lgamma digamma pow".split()
)
"""Functions of entries, without a degree."""
DISCRETE = frozenset(
    "eq ne lt le gt ge is_finite sign floor ceil round argmax argmin and or not xor eq_to le_to lt_to iota "
    "shift_left shift_right_logical shift_right_arithmetic population_count clz".split()
)
"""Functions whose value is one of few: it does not follow small changes."""
NONNEGATIVE = frozenset(["square", "abs", "exp", "exp2", "logistic", "sqrt", "rsqrt"])
LARGEST_CONSTANT = 2**22


def walk(apply: Sequence[Callable[..., Any]], params: Sequence[Tree], inputs: Sequence[Tree], widths: Sequence[int]) -> Graph:
    """The graph of apply(params, inputs), each given at the base width and at the target width.

    Trees may hold jax.ShapeDtypeStruct. What is not understood is in Graph.problems. GraphError where the two widths
    are not the same program.
    """
    programs = [jax.make_jaxpr(f)(p, x) for f, p, x in zip(apply, params, inputs, strict=True)]
    leaves = [jax.tree_util.tree_leaves_with_path(each) for each in params]
    paths = [[path_name(path) for path, _ in each] for each in leaves]
    if paths[0] != paths[1]:
        odd = next(iter([path for path in paths[1] if path not in paths[0]] or [path for path in paths[0] if path not in paths[1]] or paths[0]))
        raise GraphError(
            f"the model has other parameters at width {widths[1]} than at {widths[0]}, such as {odd}; "
            "make(width) must change sizes only"
        )
    for path, count in Counter(paths[0]).items():
        if count > 1:
            raise GraphError(f"{count} parameters have the path {path}, made of keys joined by dots; rename a key")
    shapes = {path: (_shape(leaf), _shape(large)) for (_, leaf), (_, large), path in zip(*leaves, paths[0], strict=True)}
    graph = Graph(Fraction(widths[1], widths[0]), shapes)
    values: list[Value] = [Weight(shapes[path], {path: ZERO}) for path in paths[0]]
    extra = [each.jaxpr.invars[len(paths[0]) :] for each in programs]
    values += [Activation((_shape(a.aval), _shape(b.aval))) for a, b in zip(*extra, strict=True)]
    state = _Walk(graph)
    outputs = state.program(programs[0], programs[1], values, ())
    for value in outputs:
        if isinstance(value, Activation):
            settle(value)
            if value.node is not None:
                graph.outputs.append((value.node, value.shift, value.back))
                state.require(value, OUTPUT)
    return graph


def path_name(path: Any) -> str:
    """A parameter's path: keys joined by dots."""
    return jax.tree_util.keystr(path, simple=True, separator=".") or "params"


def _shape(leaf: Any) -> Shape:
    return tuple(leaf.shape)


@dataclass
class _Walk:
    graph: Graph
    names: Counter[str] = field(default_factory=Counter)
    address: tuple[int, ...] = ()

    def program(self, small: ClosedJaxpr, large: ClosedJaxpr, arguments: list[Value], iteration: tuple[int, ...]) -> list[Value]:
        bodies = (small.jaxpr, large.jaxpr)
        values: dict[Any, Value] = dict(zip(small.jaxpr.invars, arguments, strict=True))
        for var, *pair in zip(small.jaxpr.constvars, small.consts, large.consts, strict=True):
            values[var] = _constant(*pair)
        if len(bodies[0].eqns) != len(bodies[1].eqns):
            self.different(bodies[0].eqns, bodies[1].eqns)

        def read(first: Any, second: Any) -> Value:
            return _constant(first.val, second.val) if isinstance(first, Literal_) else values[first]

        outer = self.address
        for index, (eqn, wide) in enumerate(zip(bodies[0].eqns, bodies[1].eqns, strict=True)):
            self.address = (*outer, index)
            if eqn.primitive.name != wide.primitive.name or len(eqn.invars) != len(wide.invars):
                self.different([eqn], [wide])
            inputs = [read(*pair) for pair in zip(eqn.invars, wide.invars, strict=True)]
            values.update(zip(eqn.outvars, self.equation(eqn, wide, inputs, iteration), strict=True))
        self.address = outer
        return [read(*pair) for pair in zip(bodies[0].outvars, bodies[1].outvars, strict=True)]

    def different(self, small: Sequence[JaxprEqn], large: Sequence[JaxprEqn]) -> None:
        names = ([eqn.primitive.name for eqn in each] for each in (small, large))
        for index, (first, second) in enumerate(zip(*names, strict=False)):
            if first != second:
                break
        else:
            index, first, second = min(len(small), len(large)), "an end", "an end"
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
        if name in LABELS and LABELS[name] != "gather" and any(isinstance(value, Constant) for value in inputs):
            if self.is_zero(next(value for value in inputs if isinstance(value, Constant))):
                return [Constant(shape, lambda: None) for shape in shapes]  # such as the first turn of a recurrent loop
            if any(isinstance(value, Weight) for value in inputs):
                inputs = [Activation(v.shapes, size=self.constant_power(v)) if isinstance(v, Constant) else v for v in inputs]
        if not any(isinstance(value, Activation) for value in inputs):
            return [self.of_weights(name, eqn, inputs, shape) for shape in shapes]
        if name in LABELS:
            return [self.contraction(eqn, wide, inputs, shapes[0], iteration)]
        if not any(jax.numpy.issubdtype(var.aval.dtype, jax.numpy.inexact) for var in eqn.outvars):
            return [Activation(shape) for shape in shapes]  # integers and truth values follow no small change
        return self.rule(name, eqn, inputs, shapes)

    def computed(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Constant], shapes: list[tuple[Shape, Shape]]) -> list[Value]:
        """The results of an equation among constants, worked out when they are asked for."""
        kept: list[Any] = []

        def results() -> Any:
            if not kept:
                pairs = [value.arrays() for value in inputs]
                big = any(math.prod(shape[1]) > LARGEST_CONSTANT for shape in shapes)
                if big or any(pair is None for pair in pairs):
                    kept.append(None)
                else:
                    with jax.ensure_compile_time_eval():
                        kept.append([bind_equation(e, [pair[which] for pair in pairs]) for which, e in enumerate((eqn, wide))])
            return kept[0]

        def one(index: int) -> Any:
            found = results()
            return None if found is None else (found[0][index], found[1][index])

        return [Constant(shape, lambda index=index: one(index)) for index, shape in enumerate(shapes)]

    def scan(
        self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], iteration: tuple[int, ...], shapes: list[tuple[Shape, Shape]]
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
            outputs = self.program(*bodies, [*constants, *carry, *sliced], (*iteration, step))
            carry, rows[step] = outputs[:kept], outputs[kept:]
        stacked = [self.joined(column, shape) for column, shape in zip(zip(*rows.values(), strict=True), shapes[kept:], strict=False)]
        if not rows:
            stacked = [Constant(shape, lambda: None) for shape in shapes[kept:]]
        return [*carry, *stacked]

    def row(self, value: Value, step: int) -> Value:
        shapes = (value.shapes[0][1:], value.shapes[1][1:])
        if isinstance(value, Constant):
            def arrays() -> Any:
                pair = value.arrays()
                return None if pair is None else (pair[0][step], pair[1][step])

            return Constant(shapes, arrays)
        return replace(value, shapes=shapes)

    # Values made of parameters alone

    def of_weights(self, name: str, eqn: JaxprEqn, inputs: list[Value], shapes: tuple[Shape, Shape]) -> Value:
        weights = [value for value in inputs if isinstance(value, Weight)]
        sources: dict[str, Fraction] = {}
        for weight in weights:
            for path, scale in weight.sources.items():
                sources[path] = min(sources.get(path, scale), scale)
        obstacle = next((weight.obstacle for weight in weights if weight.obstacle), None)
        if len(weights) == 1 and name in PRODUCTS and (name == "mul" or inputs[0] is weights[0]):
            other = next(value for value in inputs if value is not weights[0])
            scale = self.constant_power(other) * (1 if name == "mul" else -1)
            return Weight(shapes, {path: was + scale for path, was in sources.items()}, obstacle)
        picks = name in LINEAR or name in ("gather", "concatenate", "select_n", "dynamic_update_slice")
        if not picks or len(sources) > 1:
            obstacle = obstacle or name
        return Weight(shapes, sources, obstacle)

    def is_zero(self, value: Constant) -> bool:
        pair = value.arrays()
        return pair is not None and not any(np.any(np.asarray(each)) for each in pair)

    def constant_power(self, value: Value) -> Fraction:
        """m of a constant that is n^-m: from its RMS at both widths, 0 where the entries differ and hardly change."""
        if not isinstance(value, Constant):
            return ZERO
        pair = value.arrays()
        if pair is None:
            return ZERO
        arrays = [np.abs(np.asarray(each, dtype=np.float64)) for each in pair]
        uniform = all(each.size and (each == each.flat[0]).all() for each in arrays)
        sizes = [float(np.sqrt(np.mean(each**2))) if each.size else 0.0 for each in arrays]
        if not all(0 < size < math.inf for size in sizes):
            return ZERO
        exponent = scalar_power(sizes[0], sizes[1], self.graph.ratio)
        return ZERO if not uniform and abs(exponent) < Fraction(1, 4) else exponent

    # Activations

    def vector(self, value: Weight) -> Activation:
        """A parameter that meets activations entry by entry: a node of its own."""
        if not value.sources:
            return Activation(value.shapes)
        made: list[Activation] = []
        for path, scale in value.sources.items():
            entries = self.graph.shapes[path]
            name = self.unique(path, "as a vector")
            use = Use(
                name, path, "vector", self.graph.fan(1, 1), self.graph.fan(*map(math.prod, entries)), len(self.graph.nodes), scale
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
        return [self.vector(value) if isinstance(value, Weight) else value for value in inputs]

    def merged(self, terms: list[tuple[Activation, Fraction, Fraction]], shapes: tuple[Shape, Shape], **kept: Any) -> Activation:
        """r = min over terms of r + forward, with the gradient's exponent + back on the way back."""
        moving = [(value, forward, back) for value, forward, back in terms if value.node is not None]
        if not moving:
            return Activation(shapes, **kept)
        if len(moving) == 1:
            ((value, forward, back),) = moving
            return Activation(shapes, value.node, value.shift + forward, value.back + back, **kept)
        edges = [Edge(value.node, value.shift + forward, value.back + back) for value, forward, back in moving]  # type: ignore[arg-type]
        return Activation(shapes, self.graph.add(Node(edges)), **kept)

    def joined(self, values: Sequence[Value], shapes: tuple[Shape, Shape]) -> Value:
        """Several values side by side in one."""
        if all(isinstance(value, Constant) for value in values):
            return Constant(shapes, lambda: None)
        if not any(isinstance(value, Activation) for value in values):
            return self.of_weights("concatenate", None, list(values), shapes)  # type: ignore[arg-type]
        return self.added(self.activations(list(values)), shapes)

    def added(self, values: Sequence[Value], shapes: tuple[Shape, Shape], nonnegative: bool = False) -> Activation:
        """A sum, or a choice among values."""
        parts = [value for value in values if isinstance(value, Activation)]
        terms = [(part, ZERO, ZERO) for part in parts]
        constants = len(parts) < len(values)
        if all(part.owners for part in parts) and not constants:
            # Still the outputs of uses: a multiplier that follows belongs to all of them.
            owners: dict[Owner, Fraction] = {}
            for part in parts:
                for owner, multiplier in part.owners:
                    owners[owner] = min(owners.get(owner, multiplier), multiplier)
            return self.merged(terms, shapes, owners=tuple(owners.items()))
        sizes = [settle(part) for part in parts]
        size = min([*sizes, ZERO] if constants else sizes)
        return self.merged(terms, shapes, size=size, nonnegative=nonnegative)

    def require(self, value: Activation, what: str) -> None:
        """The change has to stay finite here."""
        if value.node is not None:
            self.graph.requirements.append(Requirement(value.node, value.shift, what))

    def grown(self, size: Fraction, what: str) -> None:
        if size < 0:
            self.graph.problem(
                f"at initialisation the input of {what} grows as n^{-size}, whatever the parameters' sizes; "
                "divide the sum that it comes from by that power of the width"
            )

    def rule(self, name: str, eqn: JaxprEqn, given: list[Value], shapes: list[tuple[Shape, Shape]]) -> list[Value]:
        shape, ratio = shapes[0], self.graph.ratio
        if name in DISCRETE:
            return [Activation(each) for each in shapes]
        if name == "gather":
            name = "slice" if isinstance(given[0], Activation) else name
        if name in PRODUCTS and sum(isinstance(value, Constant) for value in given) == 1:
            return [self.scaled(name, given, shape)]
        if name == "integer_pow" or (name == "pow" and isinstance(given[1], Constant)):
            exponent = eqn.params["y"] if name == "integer_pow" else self.uniform(given[1])
            if exponent is not None:
                return [self.homogeneous(self.activations(given)[0], Fraction(exponent).limit_denominator(1000), shape, exponent % 2 == 0)]
        inputs = self.activations(given)
        moving = [value for value in inputs if isinstance(value, Activation)]
        first = moving[0]
        if name in LINEAR or name == "optimization_barrier":
            return [self.moved(name, value, each) for value, each in zip(self.spread_over(moving, shapes), shapes, strict=True)]
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
            return [self.added(inputs, each, nonnegative) for each in shapes]
        if name in PRODUCTS:
            return [self.multiplied(name, inputs[0], inputs[1], shape, given)]
        if name in POWERS:
            return [self.homogeneous(first, POWERS[name], shape, name in NONNEGATIVE)]
        if name in BOUNDED or name in SMOOTH:
            sizes = [settle(value) for value in moving]
            for value, size in zip(moving, sizes, strict=True):
                self.grown(size, name)
                self.require(value, name)
            size = ZERO if name in BOUNDED else min(sizes)
            return [self.merged([(value, ZERO, ZERO) for value in moving], shape, size=max(ZERO, size), nonnegative=name in NONNEGATIVE)]
        paths = sorted({path for value in given if isinstance(value, Weight) for path in value.sources})
        self.graph.problem(
            f"{name} is not understood" + (f" (parameter {paths[0]} enters it)" if paths else "")
            + "; write it with sums, products, functions of entries and jax.lax.scan"
        )
        return [self.added(inputs, each) for each in shapes]

    def spread_over(self, moving: list[Activation], shapes: list[Any]) -> list[Activation]:
        return moving if len(moving) == len(shapes) else [moving[0]] * len(shapes)

    def uniform(self, value: Constant) -> float | None:  # type: ignore[override]
        pair = value.arrays()
        if pair is None:
            return None
        small, large = (np.asarray(each, dtype=np.float64) for each in pair)
        same = small.size and (small == small.flat[0]).all() and (large == small.flat[0]).all()
        return float(small.flat[0]) if same else None

    def scaled(self, name: str, given: list[Value], shape: tuple[Shape, Shape]) -> Activation:
        """An activation times a constant n^-m, or divided by it, or dividing it."""
        position = 0 if isinstance(given[1], Constant) else 1
        value, multiplier = self.activations([given[position]])[0], self.constant_power(given[1 - position])
        assert isinstance(value, Activation)
        if name == "div":
            if position == 1:
                inverse = self.homogeneous(value, Fraction(-1), shape, value.nonnegative)
                return replace(inverse, shift=inverse.shift + multiplier, back=inverse.back + multiplier, size=inverse.size + multiplier)
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

    def homogeneous(self, value: Value, degree: Fraction, shape: tuple[Shape, Shape], nonnegative: bool) -> Activation:
        """f(x) of that degree p: size p e, change r + (p - 1) e."""
        assert isinstance(value, Activation)
        size = settle(value)
        factor = (degree - 1) * size
        return self.merged([(value, factor, factor)], shape, size=degree * size, nonnegative=nonnegative)

    def moved(self, name: str, value: Activation, shape: tuple[Shape, Shape]) -> Activation:
        back = value.back
        if name == "broadcast_in_dim":
            back -= growth(shape, self.graph.ratio) / 2 - growth(value.shapes, self.graph.ratio) / 2
        return replace(value, shapes=shape, back=back, nonnegative=value.nonnegative and name not in ("neg", "pad"))

    def summed(self, value: Activation, shape: tuple[Shape, Shape]) -> Activation:
        """A sum over n^f entries: changes may all align; entries of random sign add up to n^(f/2) of one's size."""
        over = max(ZERO, growth(value.shapes, self.graph.ratio) - growth(shape, self.graph.ratio))
        if over == 0:
            return replace(value, shapes=shape)
        size = settle(value)
        return self.merged(
            [(value, -over, ZERO)], shape, size=size - (over if value.nonnegative else over / 2), nonnegative=value.nonnegative
        )

    def multiplied(self, name: str, left: Value, right: Value, shape: tuple[Shape, Shape], given: list[Value]) -> Activation:
        """x y, or x / y: r = min(r_x + e_y, r_y + e_x), for a quotient min(r_x - e_y, r_y + e_x - 2 e_y)."""
        assert isinstance(left, Activation)
        assert isinstance(right, Activation)
        first, second = settle(left), settle(right)
        same = given[0] is given[1]
        if name == "mul":
            terms = [(left, second, second), (right, first, first)]
            return self.merged(terms, shape, size=first + second, nonnegative=same or (left.nonnegative and right.nonnegative))
        terms = [(left, -second, -second), (right, first - 2 * second, first - 2 * second)]
        return self.merged(terms, shape, size=first - second, nonnegative=left.nonnegative and right.nonnegative)

    # Products that sum

    def contraction(
        self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], shape: tuple[Shape, Shape], iteration: tuple[int, ...]
    ) -> Value:
        label = LABELS[eqn.primitive.name]
        left, right = inputs[0], inputs[1]
        indices = "".join(f"[{index}]" for index in iteration)
        if label == "gather":
            if isinstance(left, Weight) and isinstance(right, Activation):
                return self.dense(eqn, wide, 0, left, right, shape, indices)
            return self.added(self.activations([left]), shape) if not isinstance(left, Activation) else replace(left, shapes=shape)
        if isinstance(left, Activation) and isinstance(right, Activation):
            return self.product(eqn, wide, left, right, shape, label + indices)
        position = 0 if isinstance(right, Activation) else 1
        weight, value = inputs[position], inputs[1 - position]
        assert isinstance(value, Activation)
        if isinstance(weight, Weight) and weight.sources:
            return self.dense(eqn, wide, position, weight, value, shape, indices)
        # A product with a constant matrix: a sum with fixed weights.
        fan, constant = self.fan_pair(eqn, wide, position)[0], self.constant_power(weight)
        size = settle(value)
        return self.merged([(value, constant - fan.power, constant)], shape, size=size + constant - fan.power / 2)

    def fan_pair(self, eqn: JaxprEqn, wide: JaxprEqn, position: int) -> Any:
        label = LABELS[eqn.primitive.name]
        small, large = (fans(label, each.params, each.invars[position].aval.shape, position) for each in (eqn, wide))  # type: ignore[union-attr]
        return [self.graph.fan(first, second) for first, second in zip(small, large, strict=True)]

    def dense(
        self, eqn: JaxprEqn, wide: JaxprEqn, position: int, weight: Weight, value: Activation, shape: tuple[Shape, Shape], indices: str
    ) -> Activation:
        label = LABELS[eqn.primitive.name]
        (path, scale), *others = weight.sources.items()
        if others or weight.obstacle:
            made = " and ".join(f"parameter {each}" for each in sorted(weight.sources))
            self.graph.problem(
                f"the weight of a {label}, {shape_text(weight.shapes)}, is computed from {made} by "
                f"{weight.obstacle or 'several operations'}; a weight has to be one parameter times a constant: "
                "multiply by one at a time, or make the computed weight the parameter"
            )
        fan_in, fan_out = self.fan_pair(eqn, wide, position)
        size = settle(value)
        self.grown(size, f"the dense op of {path}")
        self.require(value, f"the input of {path}")
        use = Use(
            self.unique(path + indices), path, label, fan_in, fan_out, len(self.graph.nodes), scale,
            self.address, value.node, value.shift, value.back, size,
        )
        node = self.graph.add(Node(use=use))
        self.graph.uses.append(use)
        return Activation(shape, node, owners=((use, ZERO),))

    def product(
        self, eqn: JaxprEqn, wide: JaxprEqn, left: Activation, right: Activation, shape: tuple[Shape, Shape], name: str
    ) -> Activation:
        name = self.unique(name)
        sizes = settle(left), settle(right)
        both = [self.fan_pair(eqn, wide, position) for position in (0, 1)]
        fan = both[0][0]
        # On the way back the gradient of one operand sums over the free axes of the other.
        terms = [
            (left, sizes[1], sizes[1] - both[1][1].power / 2),
            (right, sizes[0], sizes[0] - both[0][1].power / 2),
        ]
        for value in (left, right):
            self.require(value, f"the product {name}")
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

    def unique(self, name: str, what: str = "") -> str:
        self.names[name + what] += 1
        count = self.names[name + what]
        return name if count == 1 else f"{name}#{count}"


def shape_text(shapes: tuple[Shape, Shape]) -> str:
    """A shape at both widths."""
    return str(shapes[0]) if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"


def _constant(small: Any, large: Any) -> Constant:
    if isinstance(small, jax.core.Tracer) or isinstance(large, jax.core.Tracer):
        return Constant((np.shape(small), np.shape(large)), lambda: None)  # an argument of what is being compiled
    return Constant((np.shape(small), np.shape(large)), lambda: (small, large))
