"""Multipliers for single products and branches of a function, put in by rewriting its program; loops stay loops.

Needed where no parameter can carry a multiplier: one table that is both embedding and readout, q k^T, and what enters
a residual stream.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.extend.core import Literal as Constant

from verify.measuring.jaxpr import BODIES, CALLS, CUSTOM, Atom, TraceError, as_closed, bind_equation, scan_split
from verify.model.depth.multiply import places
from verify.model.depth.program import Address, read_program
from verify.model.graph.graph import Graph
from verify.model.graph.start import key
from verify.model.graph.walk import walk
from verify.model.make import Apply
from verify.values import Leaf, Tree

Factors = dict[tuple[Address, int | None], float]
"""By the address of an equation, and which of its operands; None for its results."""


def multiplied(apply: Apply, factors: Mapping[str, float], branches: Mapping[str, float] | None = None) -> Apply:
    """The function with the outputs of the uses and products of those names multiplied; TraceError for unknown ones.

    `branches` are factors of what enters a stream of blocks, by the branches' names; DeriveError for unknown ones.
    """

    def wrapped(params: Tree, inputs: Tree) -> Tree:
        program, output = jax.make_jaxpr(apply, return_shape=True)(params, inputs)
        found: Factors = {}
        if factors:
            graph = walk((program, program), (params, params), (1, 1))
            found |= {(address, None): factor for address, factor in _addresses(graph, factors).items()}
        if branches:
            found |= {place: branches[name] for place, name in places(read_program(program, params), branches).items()}
        results = _evaluate(program, found, jax.tree.leaves((params, inputs)))
        return jax.tree.unflatten(jax.tree.structure(output), results)

    return wrapped


def _addresses(graph: Graph, factors: Mapping[str, float]) -> dict[Address, float]:
    """Where those products stand in the program; in a loop every turn is one place."""
    places: dict[str, Address] = {key(use): use.address for use in graph.uses}
    places |= {product.name: product.address for product in graph.all_products}
    found: dict[Address, float] = {}
    for name, factor in factors.items():
        if name not in places:
            raise TraceError(f"there is no product {name} in this function; prescribe for the function that is trained")
        if found.setdefault(places[name], factor) is not factor and found[places[name]] != factor:
            raise TraceError(f"{name} has another multiplier than other turns of its loop; unroll the loop")
    return found


def _evaluate(program: ClosedJaxpr, factors: Factors, arguments: Sequence[Leaf]) -> list[Leaf]:
    jaxpr = program.jaxpr
    values: dict[Atom, Leaf] = dict(zip(jaxpr.invars, arguments, strict=True))
    values |= dict(zip(jaxpr.constvars, program.consts, strict=True))

    def read(atom: Atom) -> Leaf:
        return atom.val if isinstance(atom, Constant) else values[atom]

    for index, eqn in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in eqn.invars]
        here = {place: factor for place, factor in factors.items() if place[0][0] == index}
        inside = {(address[1:], position): factor for (address, position), factor in here.items() if address[1:]}
        operands = [_times(operand, here.get(((index,), place))) for place, operand in enumerate(operands)]
        results = _inside(eqn, operands, inside) if inside else bind_equation(eqn, operands)
        results = [_times(result, here.get(((index,), None))) for result in results]
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _times(value: Leaf, factor: float | None) -> Leaf:
    return value if factor is None else value * jnp.asarray(factor, value.dtype)


def _inside(eqn: JaxprEqn, operands: list[Leaf], factors: Factors) -> list[Leaf]:
    name = eqn.primitive.name
    if name == "scan":
        body = as_closed(eqn.params["jaxpr"])
        first, last, carried = scan_split(eqn, body)
        constants = operands[:first]

        def step(carry: list[Leaf], row: list[Leaf]) -> tuple[list[Leaf], list[Leaf]]:
            results = _evaluate(body, factors, [*constants, *carry, *row])
            return results[:carried], results[carried:]

        options = {option: eqn.params[option] for option in ("length", "reverse", "unroll")}
        carry, stacks = jax.lax.scan(step, operands[first:last], operands[last:], **options)
        return [*carry, *stacks]
    if name in CUSTOM:
        raise TraceError(
            "what needs a multiplier is inside a function with a derivative rule of its own; multiply there by hand"
        )
    body = as_closed(next(eqn.params[each] for each in BODIES if each in eqn.params))

    def inner(*values: Leaf) -> list[Leaf]:
        return _evaluate(body, factors, values)

    if name in CALLS and "remat" not in name and name != "checkpoint":
        return inner(*operands)
    return jax.checkpoint(inner, policy=eqn.params.get("policy"), prevent_cse=eqn.params.get("prevent_cse", True))(
        *operands
    )
