"""Graphs of functions from shapes alone, their rates, and what is compared of two."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from derive.alignments import FULL
from derive.parameterizations import MUP
from derive.registry import optimizers
from verify.model.graph.graph import Graph
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of

HALF = Fraction(1, 2)
Apply = Callable[[Any, Any], Any]


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def graph(apply: Apply, sizes: Callable[[int], Any], inputs: Any = None) -> Graph:
    """The graph of a function whose parameters have those shapes at a width."""

    def make(width: int) -> Any:
        params = {path: shape(*each) for path, each in sizes(width).items()}
        return params, apply, shape(5, 6) if inputs is None else inputs

    return graph_of(make, 64, 256)[0]


def solve(found: Graph, optimizer: str = "adam") -> Rates:
    return solve_graph(found, Wanted(optimizers(optimizer), MUP, FULL))


def solved(apply: Apply, sizes: Callable[[int], Any], inputs: Any = None) -> Rates:
    return solve(graph(apply, sizes, inputs))


def exponents(rates: Rates) -> dict[str, tuple[Any, ...]]:
    return {
        path: (row.role, row.found, row.b, row.c, row.g, row.s, row.epsilon) for path, row in rates.parameters.items()
    }


def same(first: Apply, second: Apply, sizes: Callable[[int], Any]) -> dict[str, tuple[Any, ...]]:
    """Both are one function: for every rule their exponents are the same."""
    one, two = graph(first, sizes), graph(second, sizes)
    for rule in ("adam", "sgd", "adam,hidden=muon", "adam-ps"):
        assert exponents(solve(one, rule)) == exponents(solve(two, rule)), rule
    return exponents(solve(one))


def three(n: int) -> dict[str, tuple[int, ...]]:
    return {"in": (6, n), "w": (n, n), "out": (n, 2)}
