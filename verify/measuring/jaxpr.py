"""JAX's programs: products with their fan-ins and fan-outs, calls and loops around them, and how to evaluate them."""

from collections.abc import Sequence
from math import prod
from typing import Literal, TypeAlias

from jax.extend import core
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, primitives

from derive.errors import UserError
from verify.values import Entries, Leaf, Tree

Shape = tuple[int, ...]
DensePrimitive = Literal["dot", "gather", "conv"]
Atom: TypeAlias = core.Var | core.Literal
"""What an equation takes: a value by its name, or a number written there."""

DENSE: dict[DensePrimitive, Primitive] = {
    "dot": primitives.dot_general_p,
    "gather": primitives.gather_p,
    "conv": primitives.conv_general_dilated_p,
}
LABELS: dict[str, DensePrimitive] = {primitive.name: label for label, primitive in DENSE.items()}
# Products of rows with the matrix of the group that they are in.
RAGGED = ("ragged_dot", "ragged_dot_general")
# Calls that evaluate their body once, on their own arguments, under the names they have had in releases of JAX.
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
CALLS = ("jit", "pjit", "call", "core_call", "closed_call", "remat", "remat2", "checkpoint", "composite", *CUSTOM)
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class TraceError(UserError):
    """A function that cannot be traced, or whose products cannot be told."""


def fans(primitive: DensePrimitive, params: Entries, shape: Shape, position: int) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of that shape at that place among the operands, as `DenseOp` counts them."""
    if primitive == "gather":
        return 1, prod(params["slice_sizes"])
    if primitive == "conv":
        channels = shape[params["dimension_numbers"].rhs_spec[0]]
        return prod(shape) // channels, channels // params["feature_group_count"]
    contracted, batch = (axes[position] for axes in dot_numbers(params))
    free = (size for axis, size in enumerate(shape) if axis not in {*contracted, *batch})
    return prod(shape[axis] for axis in contracted), prod(free)


def dot_numbers(params: Entries) -> tuple[Tree, Tree]:
    """(contracted, batch) axes of both operands of a dot; in a ragged one a group's matrix is one of a batch."""
    if "dimension_numbers" in params:
        return params["dimension_numbers"]
    numbers = params.get("ragged_dot_dimension_numbers")
    if numbers is None:
        return ((1,), (1,)), ((), (0,))
    contracted, (left, right) = numbers.dot_dimension_numbers
    return contracted, (left, (*right, *numbers.rhs_group_dimensions))


def scan_split(eqn: JaxprEqn, body: ClosedJaxpr) -> tuple[int, int, int]:
    """(where a scan's carry begins among its operands, where its stacks begin, how many results are carried).

    Told by shapes, since releases of JAX name the counts differently: a stack has one axis more than its rows.
    """
    pairs = zip(eqn.invars, body.jaxpr.invars, strict=True)
    last = sum(shape_of(outer) == shape_of(inner) for outer, inner in pairs)
    pairs = zip(eqn.outvars, body.jaxpr.outvars, strict=True)
    carried = sum(shape_of(outer) == shape_of(inner) for outer, inner in pairs)
    return last - carried, last, carried


def bind_equation(eqn: JaxprEqn, operands: Sequence[Leaf]) -> list[Leaf]:
    """The results of the equation on these operands."""
    # A pair of functions and parameters in older releases of JAX, parameters alone since.
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*functions, *operands, **params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def shape_of(atom: Atom) -> Shape:
    """The shape of what the atom stands for."""
    value: Leaf = atom.aval  # of a class that promises no shape; those of arrays have one
    return value.shape


def as_closed(body: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """The body of an equation, which may have no constants of its own."""
    return body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
