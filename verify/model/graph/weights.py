"""What is made of parameters alone: several side by side, times gains, normalised, or functions of their entries.

w / |w|, |w| the root of a sum of n^f squares:  n^-f/2 whatever w is; its change relative to it is that of w
[q, k], w + v, re + i im:                       one use of each;  g w: a use of w, and g as a vector
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.typing import DTypeLike

from verify.measuring.jaxpr import DensePrimitive, Shape, bind_equation, shape_of
from verify.measuring.primitives import ENTRYWISE, JOINS, LINEAR, PRODUCTS
from verify.model.graph.graph import ZERO, Graph
from verify.model.graph.rules.constants import as_matrices, size_power, uniform
from verify.model.graph.rules.norms import of_norms
from verify.model.graph.value import Compute, Constant, Form, Given, Term, Value, Weight, growth
from verify.values import Leaf, Tree

Shapes = tuple[Shape, Shape]
PARTS = frozenset(["slice", "split", "unstack", "dynamic_slice", "gather", "squeeze"])


LARGEST_EAGER = 2**22
"""Entries of a weight of several parameters up to which its parts are worked out as arrays."""


class UnreadableError(Exception):
    """A constant that a weight is made with has no numbers to read."""


def parameter(path: str, shapes: Shapes, dtype: DTypeLike) -> Weight:
    """The parameter itself."""
    return Weight(shapes, {path: Term()}, lambda which, given: given(path, shapes[which], dtype))


@dataclass(frozen=True)
class Operation:
    """One operation at both widths: its result from operands, by the width's place, and the exponent of a power.

    `mixes`: it makes an entry of several whose number grows.
    """

    name: str
    run: Callable[[int, Sequence[Leaf]], Leaf]
    mixes: bool = False
    exponent: Fraction | None = None

    def compute(self, inputs: Sequence[Value]) -> Compute:
        """The result, from arrays in the place of the parameters."""
        return lambda which, given: self.run(which, [computed(each, which, given) for each in inputs])


def computed(value: Value, which: int, given: Given) -> Leaf:
    """The constant or the weight, without its gains; UnreadableError where it takes a number that cannot be read."""
    if isinstance(value, Weight):
        return value.compute(which, given)
    pair = value.arrays() if isinstance(value, Constant) else None
    if pair is None:
        raise UnreadableError
    return jnp.asarray(pair[which])


@dataclass
class Weights:
    """What operations make of parameters and constants, with the graph that says what is not understood.

    `given` are the parameters' own arrays, where they are known, `frozen` those that are not trained, `stopped` the
    ones found to pass stop_gradient, and `turned` the nodes of parameters that met another one as vectors.
    """

    graph: Graph
    names: Counter[str] = field(default_factory=Counter)
    address: tuple[int, ...] = ()
    asked: Mapping[int, Fraction] = field(default_factory=dict)
    given: Mapping[str, tuple[Tree, Tree]] = field(default_factory=dict)
    frozen: Collection[str] = ()
    stopped: set[str] = field(default_factory=set)
    turned: set[int] = field(default_factory=set)

    def start(self, path: str, shapes: Shapes, dtype: DTypeLike) -> Value:
        """The parameter; one that is frozen is an array like any other."""
        value = parameter(path, shapes, dtype)
        return self._stop(value) if path in self.frozen else value

    def _stop(self, value: Weight) -> Value:
        """A weight through which no gradient flows: the array that it is, or where that is not known as it is drawn."""
        paths = {*value.terms, *(path for gain in value.gains for path in gain.terms)}
        self.stopped |= paths
        if value.lookup is None and not value.gains and paths <= self.given.keys():
            return Constant(value.shapes, partial(_arrays, value.compute, self.given))
        return _stopped(value)

    def of_weights(self, eqn: JaxprEqn, wide: JaxprEqn, inputs: list[Value], shapes: list[Shapes]) -> list[Value]:
        """The results of an operation on parameters and constants."""
        name, equations = eqn.primitive.name, (eqn, wide)
        first = next(value for value in inputs if isinstance(value, Weight))
        if name == "stop_gradient":
            # A norm that no gradient flows through is a norm, and changes with what it is of.
            return [first if first.form in ("norm", "mean") else self._stop(first)]
        mixes = name not in ENTRYWISE and name not in LINEAR and self._mixes(eqn, wide)
        exponent = None
        if name == "integer_pow":
            exponent = Fraction(eqn.params["y"])
        elif name == "pow" and isinstance(inputs[1], Constant) and (number := uniform(inputs[1])) is not None:
            exponent = Fraction(number).limit_denominator(1000)

        def one(index: int, shape: Shapes) -> Value:
            run = partial(_bound, equations, index)
            return self.made(Operation(name, run, mixes, exponent), inputs, shape)

        return [one(index, shape) for index, shape in enumerate(shapes)]

    def _mixes(self, eqn: JaxprEqn, wide: JaxprEqn) -> bool:
        """Whether an operation, no matter which, may make an entry of several whose number grows."""
        pairs = [tuple(map(shape_of, atoms)) for atoms in zip(eqn.invars, wide.invars, strict=True)]
        if eqn.primitive.name == "dot_general":
            return any(pairs[0][0][axis] != pairs[0][1][axis] for axis in eqn.params["dimension_numbers"][0][0])
        if eqn.primitive.name.startswith("reduce_") and "axes" in eqn.params:
            return any(pairs[0][0][axis] != pairs[0][1][axis] for axis in eqn.params["axes"])
        if eqn.primitive.name.startswith("cum"):
            return pairs[0][0][eqn.params["axis"]] != pairs[0][1][eqn.params["axis"]]
        if eqn.primitive.name == "fft":
            return eqn.params["fft_lengths"] != wide.params["fft_lengths"]
        return eqn.primitive.name not in JOINS and any(small != large for small, large in pairs)

    def made(self, operation: Operation, inputs: Sequence[Value], shapes: Shapes) -> Weight:
        """A value made of parameters and constants: of what form, and how it goes with each of them."""
        name, weights = operation.name, [value for value in inputs if isinstance(value, Weight)]
        first = weights[0]
        plain = Weight(shapes, first.terms, operation.compute(inputs), first.obstacle, first.mixed, first.form)
        if any(weight.gains for weight in weights):
            return self._gained(operation, inputs, plain, weights) or self._joined(operation, inputs, plain, weights)
        if len(weights) == 1 and name in PRODUCTS and (name == "mul" or inputs[0] is first):
            other = next(value for value in inputs if value is not first)
            power = self.constant_power(other) * (1 if name == "mul" else -1)
            return replace(
                plain, terms={p: replace(t, scale=t.scale + power) for p, t in first.terms.items()}, lookup=first.lookup
            )
        if len(weights) == 1 and name in LINEAR | {"gather"}:
            top = first.form == "powers" and name in ("reduce_max", "cummax")
            form: Form = "norm" if top else first.form
            terms = self._present(plain) if name in PARTS else first.terms
            return replace(plain, form=form, terms=terms, lookup=first.lookup)
        if any(weight.lookup for weight in weights):
            return self._joined(operation, inputs, plain, weights)
        return (
            of_norms(name, operation.exponent, inputs, plain, self.graph.ratio)
            or self._multiplied(operation, plain, weights)
            or self._joined(operation, inputs, plain, weights)
        )

    def _present(self, value: Weight) -> Mapping[str, Term]:
        """Of parameters that were joined those that are left in a part."""
        if len(value.terms) == 1 or value.obstacle is not None:
            return value.terms

        def left(path: str) -> bool:
            return bool(jnp.any(value.compute(0, lambda p, s, d: jnp.full(s, p == path, d)) != 0))

        with jax.ensure_compile_time_eval():
            try:
                return {path: term for path, term in value.terms.items() if left(path)}
            except UnreadableError:
                return value.terms

    def _gained(
        self, operation: Operation, inputs: Sequence[Value], plain: Weight, weights: list[Weight]
    ) -> Weight | None:
        """Weights with gains, moved with them, times a number or a vector, or less a mean with the same gains."""
        name = operation.name
        bare = [replace(each, gains=()) if isinstance(each, Weight) else each for each in inputs]
        if len(weights) == 1 and name in LINEAR:
            (host,) = weights
            moved = self.made(operation, bare, plain.shapes)
            swapped = ([gain if each is host else each for each in inputs] for gain in host.gains)
            return replace(moved, gains=tuple(self.made(operation, each, plain.shapes) for each in swapped))
        gains = [gain for weight in weights for gain in weight.gains]
        if name in ("add", "sub"):
            alike = {tuple(path for gain in weight.gains for path in gain.terms) for weight in weights}
            if len(alike) > 1 or len(weights) != len(inputs):
                return None
            gains = list(weights[0].gains)
        elif name not in PRODUCTS:
            return None
        made = self.made(operation, bare, plain.shapes)
        if made.form == "function":
            return None
        return replace(made, gains=(*made.gains, *(self._broadcast(gain, plain.shapes) for gain in gains)))

    def _broadcast(self, gain: Weight, shapes: Shapes) -> Weight:
        """A gain in the shape of what it multiplies."""
        run = Operation("broadcast_in_dim", lambda which, arrays: jnp.broadcast_to(arrays[0], shapes[which]))
        return replace(gain, shapes=shapes, compute=run.compute([gain]))

    def _multiplied(self, operation: Operation, plain: Weight, weights: list[Weight]) -> Weight | None:
        """A parameter, or its norm, times the vector of another one; or that vector by the norm."""
        if operation.name not in PRODUCTS or len(weights) != 2 or {*weights[0].terms} & {*weights[1].terms}:
            return None
        host, gain = sorted(weights, key=self._entries, reverse=True)
        if operation.name == "div" and host is weights[1]:
            if host.form != "norm":
                return None
            host = replace(host, terms={p: replace(t, scale=-t.scale, degree=-t.degree) for p, t in host.terms.items()})
        elif operation.name == "div":
            gain = replace(gain, obstacle=gain.obstacle or "div", form="function")
        if host.form == "function" or host.shapes != plain.shapes or gain.mixed:
            return None
        return replace(host, gains=(self._broadcast(gain, plain.shapes),))

    def _entries(self, value: Weight) -> tuple[Fraction, int]:
        """The power of n in the number of entries of what a weight is made of, and that number."""
        sizes = [self.graph.shapes[path] for path in value.terms]
        powers = (growth(each, self.graph.ratio) for each in sizes)
        return max(powers), max(math.prod(each[0]) for each in sizes)

    def _joined(self, operation: Operation, inputs: Sequence[Value], plain: Weight, weights: list[Weight]) -> Weight:
        """Several parameters side by side or added, or a function of them."""
        name, mixed = operation.name, operation.mixes or any(each.mixed for each in weights)
        terms: dict[str, Term] = {}
        clash = False
        for each in (*weights, *(gain for weight in weights for gain in weight.gains)):
            for path, term in each.terms.items():
                known = terms.setdefault(path, term)
                clash |= known.degree != term.degree
                terms[path] = Term(min(known.scale, term.scale), term.degree, known.stopped and term.stopped)
        joins = name in JOINS and not (name == "select_n" and isinstance(inputs[0], Weight)) and not clash
        if joins and all(each.form == "entries" and not each.gains and not each.lookup for each in weights):
            return replace(plain, terms=terms)
        obstacle = next(
            (each.obstacle for each in weights if each.obstacle and (each.mixed or not operation.mixes)), name
        )
        return replace(plain, terms=terms, obstacle=obstacle, mixed=mixed, form="function")

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

    def part(
        self, value: Weight, path: str, label: DensePrimitive, equations: Sequence[JaxprEqn], position: int
    ) -> list[tuple[int, int]]:
        """(fan_in, fan_out) at both widths of what one of several parameters has in a weight."""

        def counts(which: int) -> tuple[int, int]:
            def counted(one: Leaf) -> Leaf:
                array = value.compute(which, lambda p, s, d: jnp.full(s, one if p == path else 0).astype(d))
                matrices = as_matrices(label, equations[which].params, array, position) != 0
                return matrices.any((0, 2)).sum(), matrices.any((0, 1)).sum()

            # A large one takes no memory where it is compiled, with an argument that no compiler can work out before.
            large = math.prod(value.shapes[which]) > LARGEST_EAGER
            fan_in, fan_out = map(int, (jax.jit(counted) if large else counted)(1.0))
            groups = equations[which].params["feature_group_count"] if label == "conv" else 1
            return 1 if label == "gather" else fan_in, fan_out // groups

        with jax.ensure_compile_time_eval():
            return [counts(0), counts(1)]

    def side(self, gain: Weight, label: DensePrimitive, eqn: JaxprEqn, position: int) -> str | None:
        """Whether a gain is one number per "output" of a product, or per "input"; None where it is neither."""
        with jax.ensure_compile_time_eval():
            array = gain.compute(0, lambda _, s, d: (1 + jnp.arange(np.prod(s, dtype=int)).reshape(s)).astype(d))
            array = jnp.broadcast_to(array, gain.shapes[0])
            matrices = np.asarray(as_matrices(label, eqn.params, array, position))
        if (matrices == matrices[:, :1, :]).all():
            return "output"
        return "input" if (matrices == matrices[:, :, :1]).all() else None

    def unique(self, name: str, what: str = "") -> str:
        """The name, numbered where it was given before."""
        self.names[name + what] += 1
        count = self.names[name + what]
        return name if count == 1 else f"{name}#{count}"


def _arrays(compute: Compute, given: Mapping[str, tuple[Tree, Tree]]) -> tuple[Tree, Tree] | None:
    """The numbers at both widths; None where some are not known."""
    with jax.ensure_compile_time_eval():
        try:
            small, large = (compute(which, lambda path, _, __, which=which: given[path][which]) for which in (0, 1))
        except UnreadableError:
            return None
    return small, large


def unreadable(_: int, __: Leaf) -> Leaf:
    """The place of numbers that depend on the inputs."""
    raise UnreadableError


def _stopped(value: Weight) -> Weight:
    """The same weight, to whose parameters no gradient flows back."""
    terms = {path: replace(term, stopped=True) for path, term in value.terms.items()}
    return replace(value, terms=terms, gains=tuple(map(_stopped, value.gains)))


def shape_text(shapes: Shapes) -> str:
    """A shape at both widths."""
    return str(shapes[0]) if shapes[0] == shapes[1] else f"{shapes[0]} -> {shapes[1]}"


def _bound(equations: Sequence[JaxprEqn], index: int, which: int, arrays: Sequence[Leaf]) -> Leaf:
    return bind_equation(equations[which], arrays)[index]
