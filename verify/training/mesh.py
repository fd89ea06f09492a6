"""How a model lies on a mesh of devices: weights and optimizer state split in both dimensions, batches by example.

Devices form a grid of `data` x `model`. JAX's compiler does the splitting and the communication; what is said here is
where every array lies:

    weights, and state of their shape    [..., fan in / data, fan out / model]: no device holds a whole matrix
    batches                              [examples / data, ...]
    activations that are kept            [examples / data, ..., features / model]

An axis that does not divide its dimension of a weight divides the other one, and a dimension of anything else stays
whole; so does whatever is stacked before the last two: layers, seeds. All are functions of shapes alone, so that a
model that fits nowhere near can be planned.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from derive.errors import DeriveError, shorten
from verify.measuring.trace import DenseOp, Operands, Trace
from verify.values import Leaf, Tree

AXES = ("data", "model")
LARGEST_AXIS = 10**6


def read_mesh(text: str) -> tuple[int, int]:
    """(data, model) of a text such as 4x2; DeriveError for anything else."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise _not_a_mesh(text)
    data, model = (int(part) for part in parts)
    if not (1 <= data <= LARGEST_AXIS and 1 <= model <= LARGEST_AXIS):
        raise _not_a_mesh(text)
    return data, model


def _not_a_mesh(text: str) -> DeriveError:
    return DeriveError(f"mesh {shorten(text)} is not one of data x model devices; write two whole numbers, such as 4x2")


def make_mesh(data: int, model: int, devices: Sequence[Leaf] | None = None) -> Mesh:
    """The mesh of all devices, of every process, neighbours along `model`; DeriveError where their number differs."""
    devices = jax.devices() if devices is None else devices
    if data * model != len(devices):
        raise DeriveError(
            f"mesh {data}x{model} needs {data * model} devices and there are {len(devices)}; give one of their number, "
            f"such as {len(devices)}x1"
        )
    return Mesh(np.array(devices).reshape(data, model), AXES)


def over_devices(shape: tuple[int, int] | None) -> Mesh | None:
    """The mesh of that shape; without one, all devices of several processes by example, and none for one process."""
    if shape is None and jax.process_count() > 1:
        shape = jax.device_count(), 1
    return make_mesh(*shape) if shape else None


def _split(size: int, axis: str, mesh: Mesh) -> str | None:
    return axis if size > 1 and size % mesh.shape[axis] == 0 else None


def layout(fan_in: int, fan_out: int, data: int, model: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes along which a matrix is cut: fan in along `data` and fan out along `model`.

    What one dimension cannot be divided by falls to the other, so that an odd vocabulary leaves no table whole.
    """
    left = [fan_in, fan_out]
    axes: tuple[list[str], list[str]] = [], []
    for axis, count, order in ((AXES[0], data, (0, 1)), (AXES[1], model, (1, 0))):
        side = next((side for side in order if left[side] > 1 and left[side] % count == 0), None)
        if side is not None:
            left[side] //= count
            axes[side].append(axis)
    return tuple(axes[0]), tuple(axes[1])


def weight_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """A matrix cut as `layout` says, and a vector like a matrix of one row; what is stacked before stays whole."""
    *_, fan_in, fan_out = (1, 1, *shape)
    spec = [axes or None for axes in layout(fan_in, fan_out, *mesh.devices.shape)]
    ahead = [None] * max(len(shape) - 2, 0)
    return NamedSharding(mesh, PartitionSpec(*ahead, *spec[2 - min(len(shape), 2) :]))


def shardings(shapes: Tree, mesh: Mesh) -> Tree:
    """`weight_sharding` of every leaf of a tree of parameters or optimizer state; shapes or arrays are given."""
    return jax.tree.map(lambda leaf: weight_sharding(leaf.shape, mesh), shapes)


def batch_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """[examples / data, ...] where the axis divides their number."""
    return NamedSharding(mesh, PartitionSpec(_split(shape[0], "data", mesh)))


def activation_sharding(shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    """[examples / data, ..., features / model], each where the axis divides it."""
    if len(shape) < 2:
        return batch_sharding(shape, mesh)
    between = [None] * (len(shape) - 2)
    spec = (_split(shape[0], "data", mesh), *between, _split(shape[-1], "model", mesh))
    return NamedSharding(mesh, PartitionSpec(*spec))


def place_activation(z: Array, mesh: Mesh) -> Array:
    """The activation with `activation_sharding`, inside a compiled function."""
    return jax.lax.with_sharding_constraint(z, activation_sharding(z.shape, mesh))


def product(trace: Trace, op: DenseOp, operands: Operands, mesh: Mesh) -> Array:
    """The product of a dense op made where its weight lies: activations move, and no weight does.

    A dot's input is split as the weight is along what is summed over: every device multiplies the part that it has,
    and the products are added up over `data`. Left to itself the compiler may gather the weight instead.
    """
    place_on, split = jax.lax.with_sharding_constraint, weight_sharding(operands.weight.shape, mesh)
    z, weight = operands.input, place_on(operands.weight, split)
    if op.primitive == "dot":
        contracted, _ = op.params["dimension_numbers"]
        spec: list[Leaf] = [None] * z.ndim
        for axis, of_weight in zip(contracted[1 - op.weight_position], contracted[op.weight_position], strict=True):
            spec[axis] = split.spec[of_weight]
        # From its usual place first, so that what made z (attention, with heads in between) is not made elsewhere too.
        z = place_on(place_activation(z, mesh), NamedSharding(mesh, PartitionSpec(*spec)))
    return place_activation(trace.product(op, z, weight), mesh)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place(array: Shaped[np.ndarray, "..."], sharding: NamedSharding) -> jax.Array:
    """An array that every process has whole, as one array over the devices of all: each takes its own part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def along_seeds(sharding: NamedSharding) -> NamedSharding:
    """The same for arrays with a leading axis of seeds, which stays whole."""
    return NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))


def shape_name(mesh: Mesh | None) -> str | None:
    """Such as 4x2; None without a mesh."""
    return mesh and "x".join(map(str, mesh.devices.shape))
