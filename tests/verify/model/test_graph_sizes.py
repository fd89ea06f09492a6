"""Sizes at initialisation and gradients of real networks go with the width as their graph says, op by op.

The oracle is the network itself, drawn as prescribed at growing widths and differentiated by JAX. Gradients share no
code with the graph; outputs of dense ops are those that `verify.measuring.trace` finds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from tests.helpers.zoo import ZOO
from verify.measuring.trace import trace
from verify.model.check.coordinates import default_loss
from verify.model.graph.walk import path_name
from verify.model.make import UserModel, build
from verify.model.prescription import ModelPrescription

TOLERANCE = 0.2
"""Rates and sizes differ by halves; what is left is the scatter of small networks."""
SEEDS = 64
FAST = ("gains",)
"""Gates, scalars and concatenation; the others are in the slow run."""
BOTH = ("flax lm1b", "flax vit", "equinox gpt", "haiku mlp", "convolutions", *FAST)
BOTH += ("llama", "two inputs", "experts", "recurrent")
"""Under SP and muP; test_zoo measures all under muP."""
UNSEEN = ("key.bias",)
"""A bias of the keys moves all scores of a query alike, which no softmax sees: its gradient is 0 but for rounding."""


def sizes_of(model: UserModel, how: ModelPrescription) -> Callable[[Any], Any]:
    """The RMS of every gradient and of every dense op's output, of the network drawn from a key."""
    apply, batch = how.wrap(model.apply), model.batch(0)
    traced = trace(apply, model.params, batch)

    def sizes(key: Any) -> Any:
        params = how.init(key, model.params)
        gradient = jax.grad(lambda p: default_loss(apply(p, batch), batch))(params)
        operands = traced.run(params, batch)[1]
        outputs = {op.name: traced.product(op, *operands[op.name]) for op in traced.ops}
        named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)}
        return jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x**2)), {"gradient": named, "output": outputs})

    return sizes


def measured_exponents(make: Any, answer: ModelPrescription, widths: list[int]) -> dict[str, dict[str, float]]:
    """x of n^-x for the RMS over networks, by quantity and name."""
    keys = jax.random.split(jax.random.key(7), SEEDS)
    found: dict[str, dict[str, list[float]]] = {"gradient": {}, "output": {}}
    for width in widths:
        drawn = jax.jit(partial(jax.lax.map, sizes_of(build(make, width), answer.at(width))))(keys)
        for quantity, by_name in drawn.items():
            for name, values in by_name.items():
                found[quantity].setdefault(name, []).append(float(np.sqrt(np.mean(np.square(values)))))

    def exponent(values: list[float]) -> float:
        return -float(np.polyfit(np.log(widths), np.log(values), 1)[0])

    return {quantity: {name: exponent(v) for name, v in each.items() if all(v)} for quantity, each in found.items()}


@pytest.mark.parametrize("scheme", ["sp", pytest.param("mup", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name not in FAST else []) for name in BOTH]
)
def test_a_network_starts_and_sends_back_as_its_graph_says(name: str, scheme: str):
    model = ZOO[name]
    answer = verify.prescribe(model.make, base_width=model.base_width, width=model.width, parameterization=scheme)
    found = measured_exponents(model.make, answer, [2 * model.base_width, 8 * model.base_width])
    predicted = {row.path: float(row.g) for row in answer.parameters if not row.path.endswith(UNSEEN)}
    assert {path: found["gradient"][path] for path in predicted} == pytest.approx(predicted, abs=TOLERANCE)
    sizes = {op.name: float(op.size - op.after) for op in answer.ops if op.size is not None}
    assert {path: found["output"][path] for path in sizes} == pytest.approx(sizes, abs=TOLERANCE)
