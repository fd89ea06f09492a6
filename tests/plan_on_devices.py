"""A training step of the scanned transformer compiled for a mesh of simulated devices, from shapes alone.

Run in a process of its own, whose environment gives the number of devices: prints what XLA says of its memory.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

from verify.mesh import batch_sharding, make_mesh, replicated, shardings
from verify.models import Scaling, computed_in, loss
from verify.models.transformer import Transformer


def step_on(data: int, model: int, width: int, batch: int, dtype: str, sizes: dict[str, Any]) -> Any:
    """The lowered step with Adam, its arguments laid out by `verify.mesh`; parameters and state are donated."""
    mesh = make_mesh(data, model)
    network = Transformer(Scaling(width, width, (0, 0, 0), (0, 0, 0)), scan=True, **sizes)
    apply, transform = computed_in(dtype, network.apply), optax.adam(1e-3)

    def step(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        gradients = jax.grad(lambda weights: loss(apply(weights, tokens), targets))(params)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.eval_shape(network.init, jax.random.key(0))
    state = jax.eval_shape(transform.init, params)
    tokens = jax.ShapeDtypeStruct((batch, network.context), jnp.int32)
    laid = shardings(params, mesh), shardings(state, mesh)
    given = batch_sharding(tokens.shape, mesh)
    compiled = jax.jit(step, in_shardings=(*laid, given, given), out_shardings=laid, donate_argnums=(0, 1))
    return compiled.lower(params, state, tokens, tokens)


def main() -> None:
    """Memory of the step that is described by the JSON given, in bytes of one device."""
    memory = step_on(**json.loads(sys.argv[1])).compile().memory_analysis()
    found = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
