"""A training step of the scanned transformer, and a measurement, compiled for simulated devices from shapes alone.

Run in a process of its own, whose environment gives the number of devices: prints what XLA says of its memory.
"""

import json
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from derive.solve import prescribe, solve_kinds
from verify.measuring.forward import initial_inputs, measure
from verify.measuring.trace import trace
from verify.training.mesh import activation_sharding, batch_sharding, make_mesh, place_activation, product, shardings
from verify.training.networks import Scaling, computed_in, loss, stacks
from verify.training.networks.transformer import Transformer
from verify.training.rules.transforms import optimizer


def lowered(data: int, model: int, width: int, batch: int, dtype: str, sizes: dict[str, Any]) -> Any:
    """The lowered step with Adam, its arguments laid out by `training.mesh`; parameters and state are donated."""
    mesh = make_mesh(data, model)
    place = partial(place_activation, mesh=mesh)  # as the trainer does: XLA may leave all examples on every device
    network = Transformer(Scaling(width, width, (0, 0, 0), (0, 0, 0)), scan=True, place=place, **sizes)
    params = jax.eval_shape(network.init, jax.random.key(0))
    labels = network.labels(params)
    stacked = stacks(network.parameters(), labels).values()
    transform = optimizer(solve_kinds(prescribe("adam", "sp", "full").problem), labels, 1e-3, 1.0, stacked=stacked)
    apply = computed_in(dtype, network.apply)

    def step(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        gradients = jax.grad(lambda weights: loss(apply(weights, tokens), targets))(params)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(transform.init, params)
    tokens = jax.ShapeDtypeStruct((batch, network.context), jnp.int32)
    laid, given = (shardings(params, mesh), shardings(state, mesh)), batch_sharding(tokens.shape, mesh)
    jitted = jax.jit(step, in_shardings=(*laid, given, given), out_shardings=laid, donate_argnums=(0, 1))
    return jitted.lower(params, state, tokens, tokens)


def measurement(data: int, model: int, width: int, probe: int, sizes: dict[str, Any]) -> Any:
    """The lowered measurement of that many sequences, laid out as the trainer does."""
    mesh = make_mesh(data, model)
    network = Transformer(Scaling(width, width, (0, 0, 0), (0, 0, 0)), **{**sizes, "remat": False})
    params = jax.eval_shape(network.init, jax.random.key(0))
    tokens = jax.ShapeDtypeStruct((probe, network.context), jnp.int32)
    traced = trace(network.apply, params, tokens)
    multiply = partial(product, traced, mesh=mesh)
    kept = jax.eval_shape(partial(initial_inputs, traced, multiply=multiply), params, tokens)
    weights = shardings(params, mesh)
    inputs = jax.tree.map(lambda leaf: activation_sharding(leaf.shape, mesh), kept)
    laid = (weights, inputs, weights, batch_sharding(tokens.shape, mesh))
    return jax.jit(partial(measure, traced, multiply=multiply), in_shardings=laid).lower(params, kept, params, tokens)


def main() -> None:
    """Memory of what the JSON given describes, in bytes of one device; a probe of 0 sequences is not measured."""
    given = json.loads(sys.argv[1])
    probe = given.pop("probe")
    memory = lowered(**given).compile().memory_analysis()
    found = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
    if probe:
        described = {name: given[name] for name in ("data", "model", "width", "sizes")}
        found["measuring"] = measurement(**described, probe=probe).compile().memory_analysis().temp_size_in_bytes
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
