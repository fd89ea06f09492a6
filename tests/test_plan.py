"""`verify plan`: its counts against JAX's own of the same networks, and what it says where nothing fits."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from derive.exponents import KINDS
from verify.measure import initial_inputs, measure
from verify.models import Scaling, computed_in, loss
from verify.optimizers import DIRECTIONS
from verify.plan import (
    MATRIX_FLOPS,
    activation_bytes,
    measuring_flops,
    optimizer_flops,
    probe_bytes,
    training_flops,
    working_bytes,
)
from verify.plan_study import counted, share
from verify.trace import trace
from verify.train import build

Sizes = dict[str, Any]
SIZES: Mapping[str, Sizes] = {
    "transformer": {"context": 64, "vocabulary": 256, "blocks": 2, "head_dimension": 32},
    "mlp": {"context": 4, "vocabulary": 100, "hidden_layers": 3},
}
Capture = pytest.CaptureFixture[str]
SEQUENCES = {"transformer": 16, "mlp": 1024}


def rules(optimizer: str) -> dict[Any, str]:
    return dict.fromkeys(KINDS, optimizer)


def network(model: str, width: int, **changes: Any) -> Any:
    return build(model, Scaling(width, width, (0, 0, 0), (0, 0, 0)), {**SIZES[model], **changes})


def shapes(model: str, width: int, **changes: Any) -> tuple[Any, Any, Any]:
    """Parameters, inputs and targets, nothing of them made."""
    made = network(model, width, **changes)
    inputs = jax.ShapeDtypeStruct((SEQUENCES[model], made.context), jnp.int32)
    targets = inputs if model == "transformer" else jax.ShapeDtypeStruct((SEQUENCES[model],), jnp.int32)
    return jax.eval_shape(made.init, jax.random.key(0)), inputs, targets


def nbytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def objective(model: str, width: int, dtype: str = "float32", **changes: Any) -> Any:
    apply = computed_in(dtype, network(model, width, **changes).apply)
    return lambda params, inputs, targets: loss(apply(params, inputs), targets)


def compiled_step(model: str, width: int, **changes: Any) -> Any:
    """A training step with Adam, compiled from shapes; parameters and state are donated."""
    params, inputs, targets = shapes(model, width, **changes)
    transform = optax.adam(1e-3)
    function = objective(model, width, **changes)

    def step(params: Any, state: Any, inputs: Any, targets: Any) -> Any:
        gradients = jax.grad(function)(params, inputs, targets)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    arguments = params, jax.eval_shape(transform.init, params), inputs, targets
    return jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("width", [64, 192])
def test_every_weight_is_counted(model: str, width: int) -> None:
    plain = counted(model, width, SIZES[model])
    params, _, _ = shapes(model, width)
    assert Counter(leaf.shape for leaf in jax.tree.leaves(params)) == Counter(
        shape for _, shape, count, _ in plain.weights for _ in range(count)
    )
    assert plain.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))


def moments(optimizer: str, shape: tuple[int, int]) -> int:
    """Numbers that an optimizer keeps of a matrix, from its paper: copies, rows and columns, or Gram matrices."""
    rows, columns = shape
    copies = {"momentum": 1, "nesterov": 1, "rmsprop": 1, "lion": 1, "lars": 1} | dict.fromkeys(
        ("adam", "adamw", "adam-ps", "lamb", "adam-atan2"), 2
    )
    copies |= dict.fromkeys(("muon", "muon-keller", "muon-rms"), 1) | dict.fromkeys(
        ("soap", "soap-left", "soap-right"), 2
    )
    rest = {
        "adafactor": rows + columns,
        "shampoo": rows**2 + columns**2,
        "soap": 2 * (rows**2 + columns**2),
        "soap-left": 2 * columns**2,
        "soap-right": 2 * rows**2,
    }
    return copies.get(optimizer, 0) * rows * columns + rest.get(optimizer, 0)


@pytest.mark.parametrize("optimizer", DIRECTIONS)
def test_the_state_of_every_optimizer(optimizer: str) -> None:
    """Single numbers, such as steps taken, are all that is on top."""
    plain = counted("mlp", 96, SIZES["mlp"])
    parameters, state = share("mlp", 96, SIZES["mlp"], rules(optimizer))((1, 1))
    assert parameters == 4 * plain.parameters
    kept = 4 * sum(count * moments(optimizer, shape) for _, shape, count, _ in plain.weights)
    assert kept <= state <= kept + 300


@pytest.mark.parametrize("model", SIZES)
def test_parameters_and_state_are_the_compiled_steps_arguments(model: str) -> None:
    _, inputs, targets = shapes(model, 128)
    taken = compiled_step(model, 128).memory_analysis().argument_size_in_bytes
    parameters, state = share(model, 128, SIZES[model], rules("adam"))((1, 1))
    scalars = 2 * 3 * 4  # the transform of every kind of layer counts its own steps; the one compiled here counts once
    assert 0 <= parameters + state - (taken - nbytes((inputs, targets))) <= scalars


@pytest.mark.parametrize("model", SIZES)
def test_flops_are_xlas_but_for_entrywise_work(model: str) -> None:
    """XLA counts sums, norms, the softmax and Adam as well: a share of the products that falls as 1/D."""
    excess = []
    for width in (128, 256):
        counted_here = training_flops(counted(model, width, SIZES[model]), SEQUENCES[model], remat=False)
        excess.append(compiled_step(model, width).cost_analysis()["flops"] / counted_here - 1)
    assert 0 < excess[1] < 0.6 * excess[0] < 0.06


@pytest.mark.parametrize("optimizer", MATRIX_FLOPS)
def test_flops_of_matrix_rules(optimizer: str) -> None:
    """XLA counts the products, and nothing for an eigendecomposition, which is a call to a library."""
    shape = rows, columns = 256, 512
    transform = DIRECTIONS[optimizer](1e-8)
    weights = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
    arguments = weights, jax.eval_shape(transform.init, weights), weights
    flops = jax.jit(transform.update).lower(*arguments).compile().cost_analysis()["flops"]
    sides = {"shampoo": rows**3 + columns**3, "soap": (rows**3 + columns**3) / 10, "soap-left": columns**3 / 10}
    decomposed = 9 * {**sides, "soap-right": rows**3 / 10}.get(optimizer, 0)
    assert 1 < flops / (MATRIX_FLOPS[optimizer](rows, columns) - decomposed) < 1.015


def test_a_mixture_counts_every_layer_with_its_own_rule() -> None:
    plain = counted("mlp", 96, SIZES["mlp"])
    mixture = {"embedding": "adam", "hidden": "muon", "readout": "adam"}
    assert optimizer_flops(plain, mixture) == 3 * MATRIX_FLOPS["muon"](96, 96)  # type: ignore[arg-type]
    _, state = share("mlp", 96, SIZES["mlp"], mixture)((1, 1))  # type: ignore[arg-type]
    kept = 4 * (3 * 96**2 + 2 * (400 * 96 + 96 * 100))
    assert kept <= state <= kept + 300


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", SIZES)
def test_activations_are_what_the_derivative_keeps(model: str, dtype: str) -> None:
    """To the byte: the arrays that jax.vjp hands from forward to backward, but for weights and indices."""
    params, inputs, targets = shapes(model, 96)
    function = objective(model, 96, dtype)
    kept = jax.eval_shape(lambda p, *given: jax.vjp(lambda q: function(q, *given), p)[1], params, inputs, targets)
    first = SEQUENCES[model]
    arrays = [leaf for leaf in jax.tree.leaves(kept) if leaf.shape[:1] == (first,) and leaf.dtype != jnp.int32]
    plain = counted(model, 96, SIZES[model])
    assert activation_bytes(plain, first, jnp.dtype(dtype).itemsize, remat=False) == nbytes(arrays)


@pytest.mark.parametrize("model", SIZES)
def test_memory_of_a_step_is_xlas_within_a_factor(model: str) -> None:
    """XLA computes cheap arrays again rather than keep them: 0.63 to 1.1 of the plan on a CPU in float32."""
    ratios = []
    for width in (128, 256):
        plain, first = counted(model, width, SIZES[model]), SEQUENCES[model]
        planned = 4 * plain.parameters + activation_bytes(plain, first, 4, remat=False)
        planned += working_bytes(plain, first, 4, remat=False)
        ratios.append(compiled_step(model, width).memory_analysis().temp_size_in_bytes / planned)
    assert all(0.6 < ratio < 1.15 for ratio in ratios), ratios


@pytest.mark.parametrize("model", SIZES)
def test_the_probe_is_all_inputs_of_dense_ops(model: str) -> None:
    params, inputs, _ = shapes(model, 96)
    traced = trace(network(model, 96).apply, params, inputs)
    kept = jax.eval_shape(lambda *given: initial_inputs(traced, *given), params, inputs)
    numbers = [leaf for leaf in jax.tree.leaves(kept) if leaf.dtype == jnp.float32]
    assert probe_bytes(counted(model, 96, SIZES[model]), SEQUENCES[model]) == nbytes(numbers)


@pytest.mark.parametrize("model", SIZES)
def test_flops_of_a_measurement(model: str) -> None:
    params, inputs, _ = shapes(model, 256)
    traced = trace(network(model, 256).apply, params, inputs)
    kept = jax.eval_shape(lambda *given: initial_inputs(traced, *given), params, inputs)
    compiled = jax.jit(partial(measure, traced)).lower(params, kept, params, inputs).compile()
    counted_here = measuring_flops(counted(model, 256, SIZES[model]), SEQUENCES[model])
    assert 1 < compiled.cost_analysis()["flops"] / counted_here < 1.03
