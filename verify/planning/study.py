"""The plans of a study: every width on every number of devices, from shapes of the real model and optimizer."""

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod

import jax

from derive.registry import optimizers, spelled
from derive.words import Kind
from verify.planning.counts import Network, mlp, shard, transformer
from verify.planning.devices import Devices, Mesh, Plan, Share, Training, plan
from verify.training.config import build
from verify.training.networks import Scaling, stacks
from verify.training.rules.directions import check_trainable
from verify.training.rules.transforms import ScaledRule, per_layer
from verify.training.trainer import log_spaced
from verify.values import Entries, Leaf, Tree

GIGA, TERA = 10**9, 10**12


def planned(conditions: Entries, widths: Sequence[int], counts: Sequence[int]) -> list[Plan]:
    """A plan for every number of devices and width; DeriveError or ModelError for what cannot be trained.

    `conditions` are those of the command: model, sizes, optimizer, batch, probe, steps, rates, seeds, dtype, remat, and
    of a device its memory in GB, flops in TFLOP/s and utilisation.
    """
    rules: dict[Kind, str] = {kind: spelled(row) for kind, row in optimizers(conditions["optimizer"]).items()}
    training = Training(
        rules=rules,
        sequences=conditions["batch"],
        probe=conditions["probe"],
        steps=conditions["steps"],
        measurements=len(log_spaced(conditions["steps"])),
        runs=conditions["rates"] * conditions["seeds"],
        dtype=conditions["dtype"],
        remat=conditions["remat"],
    )
    networks = [
        (
            counted(conditions["model"], width, conditions["sizes"]),
            share(conditions["model"], width, conditions["sizes"], rules),
        )
        for width in widths
    ]
    device = conditions["memory"] * GIGA, conditions["flops"] * TERA, conditions["utilisation"]
    return [plan(network, training, each, Devices(count, *device)) for count in counts for network, each in networks]


def counted(model: str, width: int, sizes: Mapping[str, int]) -> Network:
    """The named model as it is counted."""
    return {"mlp": mlp, "transformer": transformer}[model](width, **sizes)


def shapes(model: str, width: int, sizes: Mapping[str, int], rules: Mapping[Kind, str]) -> tuple[Tree, Tree]:
    """The trees of parameters and optimizer state as shapes, nothing of them made; the transformer's blocks stacked.

    ModelError for sizes that do not fit; DeriveError for an optimizer that is not trained.
    """
    check_trainable(rules)
    scanned = {"scan": True} if model == "transformer" else {}
    network = build(model, Scaling(width, width, (0, 0, 0), (0, 0, 0)), {**sizes, **scanned})
    weights = network.parameters()
    parameters = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, "float32"), weights)
    labels = network.labels(parameters)
    stacked = stacks(weights, labels).values()
    scaled = [ScaledRule(kind, rule, 1.0, 1e-8, 0.0, kind in stacked) for kind, rule in rules.items()]
    return parameters, jax.eval_shape(per_layer(scaled, labels).init, parameters)


def share(model: str, width: int, sizes: Mapping[str, int], rules: Mapping[Kind, str]) -> Share:
    """Bytes of parameters and of optimizer state on one device, by mesh."""
    parameters, state = (jax.tree.leaves(tree) for tree in shapes(model, width, sizes, rules))

    @cache
    def on(mesh: Mesh) -> tuple[int, int]:
        return shard_bytes(parameters, mesh), shard_bytes(state, mesh)

    return on


def shard_bytes(leaves: Sequence[Leaf], mesh: Mesh) -> int:
    """Bytes of one device, counted without a mesh, which would need its devices."""
    total = 0
    for leaf in leaves:
        *ahead, fan_in, fan_out = (1, 1, *leaf.shape)
        total += prod(ahead) * prod(shard((fan_in, fan_out), *mesh)) * leaf.dtype.itemsize
    return total
