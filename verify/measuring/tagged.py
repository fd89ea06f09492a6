"""Values of a program by what they are made of: which parameters, in which parts, looked up or not.

A value that several parameters make up in a linear way, side by side or as a sum, has a part for each: itself with the
others at 0. Times a vector of another parameter it is still of the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from verify.measuring.jaxpr import bind_equation
from verify.measuring.primitives import JOINS, LINEAR, PRODUCTS
from verify.values import Leaf

# The parameters that a value is computed from; None once it depends on the inputs.
Origin = frozenset[str] | None


@dataclass(frozen=True, eq=False)
class Lookup:
    """Whole matrices looked up at indices that depend on the inputs, before it shows what they are used for.

    `raw` is what the lookup gave, and `replay` what was done to it since.
    """

    eqn: JaxprEqn
    source: "Tagged"
    places: "Tagged"
    raw: Leaf
    iteration: tuple[int, ...]
    replay: Callable[[Leaf], Leaf] = lambda value: value


@dataclass(frozen=True, eq=False)
class Tagged:
    """A value, the parameters it comes from, and its parts by parameter where it is linear in several."""

    value: Leaf
    origin: Origin
    parts: Mapping[str, Leaf] | None = None
    lookup: Lookup | None = None

    def split(self) -> Mapping[str, Leaf] | None:
        """Its part for every parameter that it is linear in."""
        if self.parts is None and self.origin and len(self.origin) == 1:
            return dict.fromkeys(self.origin, self.value)
        return self.parts


def join(values: Sequence[Tagged]) -> Origin:
    """What something made of all of them comes from."""
    return None if any(value.origin is None for value in values) else parameters(values)


def parameters(values: Sequence[Tagged]) -> frozenset[str]:
    """All parameters among them."""
    return frozenset().union(*(value.origin or () for value in values))


def bind(eqn: JaxprEqn, arguments: Sequence[Tagged]) -> list[Leaf]:
    """The results of the equation."""
    return bind_equation(eqn, [argument.value for argument in arguments])


def parted(eqn: JaxprEqn, arguments: Sequence[Tagged], sizes: Mapping[str, int]) -> Sequence[Mapping[str, Leaf] | None]:
    """The parts of every result, of values made of parameters alone; None where it is no sum of such."""
    name, none = eqn.primitive.name, [None] * len(eqn.outvars)
    if join(arguments) is None or len(parameters(arguments)) < 2:
        return none
    made = [place for place, argument in enumerate(arguments) if argument.origin]
    splits = {place: arguments[place].split() for place in made}
    if name == "mul" and len(made) == 2 and not parameters([arguments[made[0]]]) & parameters([arguments[made[1]]]):
        # One of them is a gain: that with the fewer entries.
        entries = {place: max(sizes[path] for path in arguments[place].origin or ()) for place in made}
        made = [max(made, key=lambda place: entries[place])]
    elif name in PRODUCTS and len(made) == 2 and splits[made[0]] and len(splits[made[0]] or ()) == 1:
        # A weight by its own norm.
        path = next(iter(splits[made[0]] or ()))
        return [{path: each} for each in bind(eqn, arguments)] if arguments[made[1]].origin == {path} else none
    elif name not in JOINS and not (len(made) == 1 and name in LINEAR | PRODUCTS):
        return none
    if name == "select_n" and arguments[0].origin:
        return none
    paths = dict.fromkeys(path for place in made for path in splits[place] or ())
    if any(splits[place] is None for place in made):
        return none
    by_path = {path: _part(eqn, arguments, {place: splits[place] or {} for place in made}, path) for path in paths}
    return [{path: results[index] for path, results in by_path.items()} for index in range(len(eqn.outvars))]


def _part(
    eqn: JaxprEqn, arguments: Sequence[Tagged], splits: Mapping[int, Mapping[str, Leaf]], path: str
) -> list[Leaf]:
    """The results with all parameters of the sum but one at 0."""
    operands = []
    for place, argument in enumerate(arguments):
        if place in splits:
            operands.append(splits[place].get(path, jnp.zeros_like(argument.value)))
        elif eqn.primitive.name in JOINS and jnp.issubdtype(jnp.result_type(argument.value), jnp.inexact):
            operands.append(jnp.zeros_like(argument.value))
        else:
            operands.append(argument.value)
    return bind_equation(eqn, operands)


def moved(eqn: JaxprEqn, arguments: Sequence[Tagged], results: Sequence[Leaf]) -> list[Tagged] | None:
    """Matrices that were looked up, in another place or times a number; None where that is not what happens."""
    looked = [argument for argument in arguments if argument.lookup]
    others = [argument for argument in arguments if argument.lookup is None]
    if len(looked) != 1 or eqn.primitive.name not in LINEAR | PRODUCTS or any(o.origin != frozenset() for o in others):
        return None
    (one,) = looked

    def outcome(index: int) -> Tagged:
        lookup = one.lookup
        assert lookup is not None  # noqa: S101

        def replay(raw: Leaf) -> Leaf:
            operands = [lookup.replay(raw) if each is one else each.value for each in arguments]
            return bind_equation(eqn, operands)[index]

        kept = Lookup(lookup.eqn, lookup.source, lookup.places, lookup.raw, lookup.iteration, replay)
        return Tagged(results[index], one.origin, None, kept)

    return [outcome(index) for index in range(len(results))]


def row(value: Tagged, step: int) -> Tagged:
    """One row of a stack."""

    def one(array: Leaf) -> Leaf:
        return jax.lax.index_in_dim(array, step, keepdims=False)

    parts = None if value.parts is None else {path: one(part) for path, part in value.parts.items()}
    return Tagged(one(value.value), value.origin, parts)


def stack(column: Sequence[Tagged]) -> Tagged:
    """The rows of a loop as one array."""
    return Tagged(jnp.stack([each.value for each in column]), join(column))
