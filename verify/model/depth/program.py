"""A JAX program as a graph of values, calls written out and loops once: what is needed to see the terms of a sum."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from verify.measuring.jaxpr import BODIES, CALLS, Atom, Shape, as_closed, bind_equation, scan_split
from verify.model.graph.walk import path_name
from verify.values import Leaf, Tree

PARAMETER, INPUT, CONSTANT, CARRY, LOOP = "parameter", "input", "constant", "carry", "loop"
Address = tuple[int, ...]
SMALL = 64
"""Entries up to which a constant's values are worked out."""


@dataclass(eq=False)
class Value:
    """One value: the operation that makes it, from what, and of a parameter its path, of a constant its number.

    A `carry` is what a loop hands on, as its body sees it, and a `loop` what is left of it at the end: of (start, what
    the body makes of the carry, the carry), after that many `turns`. `address` says where the operation stands: the
    indices of the equations around it and its own; of what no equation makes it is empty.
    """

    operation: str
    shape: Shape
    sources: tuple["Value", ...] = ()
    path: str | None = None
    number: Leaf = None
    turns: int = 1
    address: Address = ()


@dataclass
class Program:
    """The values of apply(params, inputs), in order, and its results."""

    values: list[Value] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)

    def add(self, value: Value) -> Value:
        """Keep the value; itself."""
        self.values.append(value)
        return value


def read_program(closed: ClosedJaxpr, params: Tree) -> Program:
    """The program of apply(params, inputs), whose first arguments are the leaves of `params`."""
    program = Program()
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    arguments = []
    for index, var in enumerate(closed.jaxpr.invars):
        path = paths[index] if index < len(paths) else None
        arguments.append(program.add(Value(INPUT if path is None else PARAMETER, var.aval.shape, path=path)))  # type: ignore[attr-defined]
    program.results = _read(program, closed, arguments)
    return program


def _read(program: Program, closed: ClosedJaxpr, arguments: Sequence[Value], around: Address = ()) -> list[Value]:
    known: dict[Atom, Value] = dict(zip(closed.jaxpr.invars, arguments, strict=True))
    for var, const in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        known[var] = program.add(_constant(const))

    def value(atom: Atom) -> Value:
        return program.add(_constant(atom.val)) if isinstance(atom, Literal) else known[atom]

    for index, eqn in enumerate(closed.jaxpr.eqns):
        results = _equation(program, eqn, [value(atom) for atom in eqn.invars], (*around, index))
        known.update(zip(eqn.outvars, results, strict=True))
    return [value(atom) for atom in closed.jaxpr.outvars]


def _constant(const: Leaf) -> Value:
    small = not isinstance(const, Tracer | jax.ShapeDtypeStruct) and np.size(const) <= SMALL
    return Value(CONSTANT, np.shape(const), number=np.asarray(const) if small else None)


def _equation(program: Program, eqn: JaxprEqn, sources: list[Value], address: Address) -> list[Value]:
    name = eqn.primitive.name
    if name in CALLS:
        body = next((eqn.params[each] for each in BODIES if each in eqn.params), None)
        if body is not None:
            closed = as_closed(body)
            return _read(program, closed, sources[len(sources) - len(closed.jaxpr.invars) :], address)
    if name == "scan":
        return _scan(program, eqn, sources, address)
    shapes = [var.aval.shape for var in eqn.outvars]  # type: ignore[attr-defined]
    if sources and all(each.number is not None for each in sources) and all(prod(shape) <= SMALL for shape in shapes):
        with jax.ensure_compile_time_eval():
            results = bind_equation(eqn, [each.number for each in sources])
        return [program.add(_constant(each)) for each in results]
    if name == "optimization_barrier":
        return sources
    return [program.add(Value(name, shape, tuple(sources), address=address)) for shape in shapes]


def _scan(program: Program, eqn: JaxprEqn, sources: list[Value], address: Address) -> list[Value]:
    closed, turns = as_closed(eqn.params["jaxpr"]), int(eqn.params["length"])
    first, last, carried = scan_split(eqn, closed)
    inner = [*sources[:first]]
    carries = [program.add(Value(CARRY, each.shape, (each,))) for each in sources[first:last]]
    rows = []
    for stack, var in zip(sources[last:], closed.jaxpr.invars[last:], strict=True):
        row = Value("row", var.aval.shape, (stack,), stack.path)  # type: ignore[attr-defined]
        rows.append(program.add(row))
    made = _read(program, closed, [*inner, *carries, *rows], address)
    ends = [
        program.add(Value(LOOP, start.shape, (start, out, carry), turns=turns))
        for start, out, carry in zip(sources[first:last], made[:carried], carries, strict=True)
    ]
    stacked = [program.add(Value("stack", (turns, *each.shape), (each,))) for each in made[carried:]]
    return ends + stacked
