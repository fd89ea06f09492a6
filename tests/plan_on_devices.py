"""A training step of the scanned transformer compiled for a mesh of simulated devices, from shapes alone.

Run in a process of its own, whose environment gives the number of devices: prints what XLA says of its memory.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax

from derive.solve import prescribe, solve_kinds
from verify.mesh import batch_sharding, make_mesh, shardings
from verify.models import Scaling, computed_in, loss, stacks
from verify.models.transformer import Transformer
from verify.optimizers import optimizer


class SplitByExample(Transformer):
    """Says at every block that examples lie along the data axis.

    On a mesh of data x 1 XLA splits features over it otherwise, as it finds them in the weights, and every device
    then holds all examples.
    """

    def _block(self, weights: Any, z: Any) -> Any:
        return super()._block(weights, jax.lax.with_sharding_constraint(z, jax.sharding.PartitionSpec("data")))


def lowered(data: int, model: int, width: int, batch: int, dtype: str, sizes: dict[str, Any]) -> Any:
    """The lowered step with Adam, its arguments laid out by `verify.mesh`; parameters and state are donated."""
    mesh = make_mesh(data, model)
    network = SplitByExample(Scaling(width, width, (0, 0, 0), (0, 0, 0)), scan=True, **sizes)
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
    with mesh:
        return jitted.lower(params, state, tokens, tokens)


def main() -> None:
    """Memory of the step that is described by the JSON given, in bytes of one device."""
    memory = lowered(**json.loads(sys.argv[1])).compile().memory_analysis()
    found = {"arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
