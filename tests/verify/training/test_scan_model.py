"""The transformer with its blocks in one loop, and computed twice to save memory: the same network, less to compile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.parameterizations import MUP
from derive.solve import prescribe, solve_kinds
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.networks import Params, Scaling, loss
from verify.training.networks.transformer import Transformer
from verify.training.trainer import Trainer

KEY = jax.random.key(3)
SIZES: dict[str, Any] = {"vocabulary": 16, "context": 8, "head_dimension": 8}


def model(**options: Any) -> Transformer:
    return Transformer(Scaling(32, 16, MUP.a, MUP.b), **{**SIZES, "blocks": 2, **options})  # type: ignore[arg-type]


def unstacked(params: Params) -> Params:
    """The parameters of a scanned model under the names that they have without scan."""
    blocks = params["blocks"]
    count = len(blocks["q"])
    return {
        **params,
        "blocks": {str(each): {name: leaf[each] for name, leaf in blocks.items()} for each in range(count)},
    }


def some_params(network: Transformer) -> Params:
    """Parameters of the prescribed sizes, without the seconds that drawing them takes to compile."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda each: generator.standard_normal(each.shape, np.float32) * np.float32(each.std), network.parameters()
    )


def same(first: Any, second: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_initial_weights_are_the_same_bits() -> None:
    scanned = jax.jit(model(scan=True).init)(KEY)
    same(unstacked(scanned), jax.jit(model().init)(KEY))
    assert scanned["blocks"]["up"].shape == (2, 32, 128) == model(scan=True).parameters()["blocks"]["up"].shape


@pytest.mark.parametrize(
    "options",
    [pytest.param({"scan": True}, marks=pytest.mark.slow), {"remat": True}, {"scan": True, "remat": True}],
)
def test_losses_and_gradients_are_the_same(options: dict[str, bool]) -> None:
    tokens, targets = jnp.asarray(np.random.default_rng(1).integers(0, 16, (2, 4, 8)))
    params = some_params(model(scan=True))

    def graded(network: Transformer, params: Params) -> Any:
        return jax.jit(jax.value_and_grad(lambda p: loss(network.apply(p, tokens), targets)))(params)

    with jax.default_matmul_precision("highest"):
        expected, plain = graded(model(), unstacked(params))
        value, gradient = graded(model(**options), params if "scan" in options else unstacked(params))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    gradient = unstacked(gradient) if "scan" in options else gradient

    def close(found: Any, wanted: Any) -> None:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6 * float(jnp.abs(wanted).max()))

    jax.tree.map(close, gradient, plain)


MORE = ("sgd", "muon")


def trainer(optimizer: str, **options: Any) -> Trainer:
    prescription = solve_kinds(prescribe(optimizer, "mup").problem)
    sizes = {**SIZES, "blocks": 2, **options}
    return Trainer(Config(prescription, 16, 0.01, model="transformer", batch=8, probe=4, sizes=sizes), 32, [0, 1])


def run(optimizer: str, **options: Any) -> Any:
    with jax.default_matmul_precision("highest"):
        return trainer(optimizer, **options).run(load_corpus(vocabulary=16), 2)


# What a rule makes of a whole parameter (its RMS, its matrix) is where stacking could show.
@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam-ps", *MORE])
def test_training_and_measuring_are_the_same_layer_by_layer(optimizer: str) -> None:
    scanned, plain = run(optimizer, scan=True, remat=True), run(optimizer)
    np.testing.assert_allclose(scanned.losses, plain.losses, rtol=1e-5)

    def name(layer: str) -> str:
        """blocks.q[1] is blocks.1.q without scan."""
        path, _, block = layer.removesuffix("]").partition("[")
        return path.replace("blocks.", f"blocks.{block}.") if block else layer

    assert [name(layer) for layer in scanned.kinds] == list(plain.kinds)
    for found, expected in zip(scanned.measurements, plain.measurements, strict=True):
        for layer, sizes in found.values.items():
            assert set(sizes) == set(expected.values[name(layer)])
            for quantity, size in sizes.items():
                wanted = expected.values[name(layer)][quantity]
                np.testing.assert_allclose(size, wanted, rtol=1e-3, err_msg=f"{layer} {quantity}")


def equations(jaxpr: Any) -> int:
    """How many, in every body of every equation too."""
    inner = [body for eqn in jaxpr.eqns for body in jax.tree.leaves(list(eqn.params.values())) if hasattr(body, "eqns")]
    return len(jaxpr.eqns) + sum(equations(getattr(body, "jaxpr", body)) for body in inner)


def test_a_training_step_is_one_program_of_the_same_size_at_every_depth() -> None:
    def size(**options: Any) -> int:
        training = trainer("adam", **options)
        params = jax.eval_shape(training.initial)
        state = jax.eval_shape(training.init_state, params)
        batch = jax.eval_shape(lambda: (jnp.zeros((2, 8, 8), jnp.int32),) * 2)
        return equations(jax.make_jaxpr(training.step)(params, state, *batch).jaxpr)

    assert size(blocks=2, scan=True, remat=True) == size(blocks=32, scan=True, remat=True)
    assert size(blocks=2) - size(blocks=1) > 50
