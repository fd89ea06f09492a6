"""The plans of a study: every width on every number of devices, from shapes of the real model and optimizer."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jax

from derive.exponents import Kind
from derive.optimizers import optimizers
from verify.models import Scaling
from verify.optimizers import ScaledRule, check_trainable, per_layer
from verify.plan import Network, mlp, transformer
from verify.plan_fit import Devices, Mesh, Plan, Share, Training, plan
from verify.train import build, log_spaced

GIGA, TERA = 10**9, 10**12


def planned(conditions: Mapping[str, Any], widths: Sequence[int], counts: Sequence[int]) -> list[Plan]:
    """A plan for every number of devices and width; DeriveError or ModelError for what cannot be trained.

    `conditions` are those of the command: model, sizes, optimizer, batch, probe, steps, rates, seeds, dtype, remat, and
    of a device its memory in GB, flops in TFLOP/s and utilisation.
    """
    rules: dict[Kind, str] = {kind: row.name for kind, row in optimizers(conditions["optimizer"]).items()}
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


def shapes(model: str, width: int, sizes: Mapping[str, int], rules: Mapping[Kind, str]) -> tuple[Any, Any]:
    """The trees of parameters and optimizer state as shapes, nothing of them made.

    ModelError for sizes that do not fit; DeriveError for an optimizer that is not trained.
    """
    check_trainable(rules)
    network = build(model, Scaling(width, width, (0, 0, 0), (0, 0, 0)), sizes)
    parameters = jax.tree.map(lambda each: jax.ShapeDtypeStruct(each.shape, "float32"), network.parameters())
    scaled = [ScaledRule(kind, rule, rate=1.0, epsilon=1e-8, decay=0.0) for kind, rule in rules.items()]
    state = jax.eval_shape(per_layer(scaled, network.labels(parameters)).init, parameters)
    return parameters, state


def share(model: str, width: int, sizes: Mapping[str, int], rules: Mapping[Kind, str]) -> Share:
    """Bytes of parameters and of optimizer state on one device, by mesh."""
    parameters, state = shapes(model, width, sizes, rules)

    @cache
    def on(mesh: Mesh) -> tuple[int, int]:
        return _shard(parameters, mesh), _shard(state, mesh)

    return on


def _shard(tree: Any, mesh: Mesh) -> int:
    """TEMPORARY"""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.size * leaf.dtype.itemsize
        p = mesh[0] * mesh[1]
        total += size // p if any(d % p == 0 for d in leaf.shape) else size
    return total
