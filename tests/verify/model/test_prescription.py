"""A prescription in use: what it draws, wraps and trains with, and that nothing of it is lost."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import verify
from derive.errors import UserError
from tests.helpers.paths import ROOT
from verify.model.check.coordinates import Coordinates, default_loss
from verify.model.make import UserModel, build, load_make
from verify.model.prescription import ModelPrescription
from verify.training.networks import Scaling
from verify.training.networks.transformer import Transformer

KEY = jax.random.key(3)
BASE, WIDTH = 32, 128


def toy(width: int) -> Any:
    """Two hidden layers, biases as PyTorch draws them, a gain."""
    rng = np.random.default_rng(width)

    def uniform(fan_in: int, *shape: int) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, shape) * fan_in**-0.5, jnp.float32)

    params = {
        "in": uniform(6, 6, width),
        "w": [uniform(width, width, width), uniform(width, width, width)],
        "bias": uniform(width, width),
        "gain": jnp.ones(width),
        "out": uniform(width, width, 3),
    }

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        z = jnp.tanh(p["gain"] * (z @ p["w"][0] + p["bias"]))
        return jnp.tanh(z @ p["w"][1]) @ p["out"]

    return params, apply, jnp.asarray(rng.standard_normal((16, 6)), jnp.float32)


def equinox_mlp(width: int) -> Any:
    """Parameters are a module, whose leaves that are no arrays are None."""
    params, static = eqx.partition(eqx.nn.MLP(6, 2, width, 2, key=KEY), eqx.is_inexact_array)
    return params, lambda p, x: jax.vmap(eqx.combine(p, static))(x), jnp.ones((4, 6))


def rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


def steps(apply: Any, params: Any, transform: Any, inputs: Any, count: int = 3) -> list[float]:
    """Losses of some steps."""
    state, losses = transform.init(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradients = jax.value_and_grad(lambda p: default_loss(apply(p, inputs), inputs))(params)
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    for _ in range(count):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


def test_parameters_start_at_the_prescribed_sizes_from_init_and_from_rescale():
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH)
    base, own = toy(BASE)[0], toy(WIDTH)[0]
    for tree in (answer.init(KEY), jax.jit(answer.init)(KEY), answer.rescale(own), jax.jit(answer.rescale)(own)):
        assert rms(tree["in"]) == pytest.approx(rms(base["in"]), rel=0.1)
        assert rms(tree["bias"]) == pytest.approx(rms(base["bias"]), rel=0.3)  # its own initialiser shrinks it by half
        assert rms(tree["w"][0]) == pytest.approx(rms(base["w"][0]) / 2, rel=0.05)
        assert rms(tree["out"]) == pytest.approx(rms(base["out"]) / 4, rel=0.2)
        assert (np.asarray(tree["gain"]) == 1).all()
    exact = answer.rescale(own)
    assert rms(exact["out"]) == pytest.approx(rms(base["out"]) / 4, rel=1e-5)
    assert np.corrcoef(np.ravel(exact["out"]), np.ravel(own["out"]))[0, 1] == pytest.approx(1)
    again = answer.init(KEY)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), again, answer.init(KEY)))
    assert not (answer.init(jax.random.key(0))["out"] == again["out"]).any()


def test_at_the_base_width_nothing_changes():
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH, gauge="own").at(BASE)
    params, apply, inputs = toy(BASE)
    assert steps(answer.wrap(apply), answer.rescale(params), answer.optimizer(1e-2), inputs) == pytest.approx(
        steps(apply, params, optax.adam(1e-2), inputs), rel=1e-5
    )


@pytest.mark.parametrize(
    "optimizer",
    ["adam,hidden=muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adam", "sgd", "lion"))],
)
def test_with_and_without_multipliers_training_is_the_same(optimizer: str):
    """The gauge a = 0 and each scheme's own multipliers are one trajectory; SP and muP are two.

    See docs/theory.md, section 6.
    """

    def losses(scheme: str, gauge: Any) -> list[float]:
        answer = verify.prescribe(
            toy, base_width=BASE, width=WIDTH, optimizer=optimizer, parameterization=scheme, gauge=gauge
        )
        _, apply, inputs = toy(WIDTH)
        assert gauge == "own" or not answer.needs_wrapping
        return steps(answer.wrap(apply), answer.init(KEY), answer.optimizer(3e-3), inputs)

    plain = {scheme: losses(scheme, "0") for scheme in ("sp", "mup")}
    for scheme, same in (("sp", "sp"), ("ntk", "sp"), ("mup", "mup"), ("mfp", "mup")):
        assert losses(scheme, "own") == pytest.approx(plain[same], rel=2e-4)
    assert plain["sp"] != pytest.approx(plain["mup"], rel=1e-3)


def test_each_parameter_moves_at_its_rate():
    """sign-SGD moves every entry by its rate: read off the update itself, schedule and all."""
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH, optimizer="sign-sgd")
    params = toy(WIDTH)[0]
    transform: Any = answer.optimizer(0.02, schedule=lambda step: 1.0 / (1 + step))
    state = transform.init(params)
    for turn in range(2):
        updates, state = transform.update(jax.tree.map(jnp.ones_like, params), state, params)
        for path, factor in (("in", 1), ("bias", 1), ("gain", 1), ("out", 0.25)):
            assert -float(updates[path].ravel()[0]) == pytest.approx(0.02 * factor / (1 + turn), rel=1e-5)
        assert -float(updates["w"][1][0, 0]) == pytest.approx(0.005 / (1 + turn), rel=1e-5)


def test_decay_and_epsilon_scale_as_derived():
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH, optimizer="adamw", parameterization="sp")
    params = toy(WIDTH)[0]
    transform: Any = answer.optimizer(0.01, weight_decay=0.1, epsilon=1e-3)
    # A gradient of the size of epsilon: U = g / (|g| + eps), with eps halved twice on layers whose g is 1/2 or 1.
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), params)
    updates, _ = transform.update(gradients, transform.init(params), params)
    for path, eps, rate, decay in (("in", 5e-4, 1, 1), ("out", 1e-3, 0.25, 4)):
        expected = -0.01 * rate * (1e-3 / (1e-3 + eps) + 0.1 * decay * params[path])
        np.testing.assert_allclose(updates[path], expected, rtol=1e-4)


@pytest.mark.slow
def test_multipliers_of_single_products_are_put_in_and_leave_the_rest_alone():
    """Growing heads in a scan with checkpoint: as dividing the scores by hand."""
    make = load_make("examples.scan_layers:make")
    answer = verify.prescribe(make, base_width=32, width=128)
    model = build(make, 128)
    tokens, params = model.batch(0), answer.init(KEY)
    wrapped = answer.wrap(model.apply)

    import examples.scan_layers as module

    def by_hand(params: Any, tokens: Any) -> Any:
        root = 2.0  # (128 / 32) ** 0.5, on top of the code's own 1 / sqrt(d)
        return model.apply({**params, "blocks": {**params["blocks"], "q": params["blocks"]["q"] / root}}, tokens)

    assert module.HEADS == 4

    def with_gradient(apply: Any) -> Any:
        def total(params: Any) -> Any:
            outputs = apply(params, tokens)
            return outputs.sum(), outputs

        (_, outputs), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(params)
        return outputs, gradient["blocks"]["q"]

    (found, gradient), (hand, hand_gradient) = with_gradient(wrapped), with_gradient(by_hand)
    np.testing.assert_allclose(found, hand, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, hand_gradient, rtol=1e-3, atol=1e-4)
    assert not np.allclose(jax.jit(model.apply)(params, tokens), hand, rtol=1e-2, atol=1e-2)
    program = str(jax.make_jaxpr(wrapped)(params, tokens))
    assert "scan" in program
    assert "remat" in program or "checkpoint" in program  # by release of JAX
    assert np.isfinite(np.asarray(found)).all()


def test_a_tied_table_is_multiplied_in_its_second_use_alone():
    make = load_make("examples.tied_embeddings:make")
    answer = verify.prescribe(make, base_width=32, width=128)
    model = build(make, 128)
    np.testing.assert_allclose(
        answer.wrap(model.apply)(model.params, model.batch(0)), model.apply(model.params, model.batch(0)) / 4, rtol=1e-5
    )


def test_json_gives_the_same_prescription_and_the_same_optimizer():
    for make, rule in ((toy, "adam,hidden=muon"), (equinox_mlp, "adamw")):
        answer = verify.prescribe(make, base_width=BASE, width=WIDTH, optimizer=rule, alignment="prior", gauge="own")
        back = ModelPrescription.from_json(answer.to_json())
        assert back == answer
        params, apply, inputs = build(make, WIDTH).params, build(make, WIDTH).apply, build(make, WIDTH).batch(0)
        start = back.init(KEY, like=params)
        assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), start, answer.init(KEY)))
        first, second = (steps(each.wrap(apply), start, each.optimizer(1e-3), inputs) for each in (answer, back))
        assert first == second


def test_what_is_not_a_prescription_is_said_in_one_line():
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH).to_json()
    broken = json.loads(answer)
    del broken["parameters"][0]["c"]
    for text in ("", "{}", "[1]", answer.replace('"schema": 1', '"schema": 2'), json.dumps(broken)):
        with pytest.raises(UserError, match="not a prescription of schema 1") as caught:
            ModelPrescription.from_json(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="like=params"):
        ModelPrescription.from_json(answer).init(KEY)


def shrinks(width: int) -> Any:
    """Heads of 20 units at width 60 and of 16 at 128."""
    params, apply = {"w": jnp.ones((6, width // (width // 16)))}, lambda p, x: x @ p["w"]
    return params, apply, jnp.ones((2, 6))


def bad(what: str) -> Any:
    def make(width: int) -> Any:
        params, apply, inputs = toy(width)
        return {
            "two": (params, apply),
            "count": ({**params, "count": jnp.zeros((), jnp.int32)}, apply, inputs),
            "none": ({}, apply, inputs),
            "complex": ({**params, "w": [w.astype(jnp.complex64) for w in params["w"]]}, apply, inputs),
            "nan": ({**params, "bias": params["bias"] * jnp.nan}, apply, inputs),
            "loss": (params, apply, inputs, 3),
            "broken": (params, lambda p, x: x @ p["missing"], inputs),
            "branch": (params, lambda p, x: apply(p, x) if x.sum() > 0 else x, inputs),
        }[what]

    return make


@pytest.mark.parametrize(
    ("make", "how", "message"),
    [
        (bad("two"), {}, "2 values"),
        (bad("count"), {}, "parameter count is int32"),
        (bad("none"), {}, "no parameters"),
        (bad("complex"), {}, "parameter w.0 is complex64"),
        (bad("nan"), {}, "parameter bias starts with entries that are not finite"),
        (bad("loss"), {}, "'int' as the loss"),
        (
            bad("broken"),
            {},
            r"apply\(params, inputs\) at width 32 raised KeyError at test_prescription.py:\d+: ''missing''",
        ),
        (bad("branch"), {}, "raised TracerBoolConversionError at test_prescription.py"),
        (lambda: None, {}, r"make\(32\) raised TypeError: "),
        (lambda _: SimpleNamespace(named_parameters=list), {}, "a PyTorch module wants --framework torch"),
        (shrinks, {"base_width": 60}, "a dimension shrinks from 20 to 16"),
        (toy, {"width": BASE}, "two that differ"),
        (toy, {"width": 8}, "do not grow"),
        (toy, {"gauge": "1"}, "gauge of"),
        (toy, {"alignment": {"w.7": None}}, "did you mean w"),
        (toy, {"optimizer": "adamm"}, "did you mean adam"),
    ],
)
def test_errors_are_one_line(make: Any, how: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message) as caught:
        verify.prescribe(make, **{"base_width": BASE, "width": WIDTH, **how})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("broken:make", "x = (", "importing 'broken' raised SyntaxError"),
        ("raises:make", "raise ValueError('no data')", "raised ValueError at raises.py:1: 'no data'"),
        ("exits:make", "raise SystemExit(3)", "raised SystemExit at exits.py:1"),
        (
            "missing_part:make",
            "import no_such_module",
            "cannot import 'missing_part': No module named 'no_such",
        ),
        ("../up:make", "", "is no module below this folder"),
        ("empty:make", "", "has no function make"),
    ],
)
def test_a_module_that_cannot_be_read_is_one_line(
    name: str, content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path(name.partition(":")[0].rpartition("/")[2] + ".py").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_make(name)
    assert "\n" not in str(caught.value)


def test_a_loss_has_to_be_one_number():
    params, apply, inputs = toy(BASE)
    answer = verify.prescribe(toy, base_width=BASE, width=WIDTH)
    for loss in (lambda outputs, _: outputs, lambda outputs, _: {"loss": outputs.mean()}):
        with pytest.raises(UserError, match="has to give one number"):
            Coordinates(UserModel(params, apply, inputs, loss), answer)


def test_a_matrix_rule_names_the_parameter_that_is_no_matrix():
    with pytest.raises(UserError, match="muon updates matrices, and bias has shape"):
        verify.prescribe(toy, base_width=BASE, width=WIDTH, optimizer="muon").optimizer(0.1)


def test_shapes_are_enough_to_prescribe_and_not_to_draw():
    def make(width: int) -> Any:
        model = Transformer(Scaling(width, 64, (0, 0, 0), (0, Fraction(1, 2), Fraction(1, 2))), blocks=1)
        shapes = jax.eval_shape(model.init, KEY)
        return shapes, model.apply, jax.ShapeDtypeStruct((2, 8), jnp.int32)

    answer = verify.prescribe(make, base_width=64, width=16384)
    assert answer.row("blocks.0.up").shape == (16384, 65536)
    with pytest.raises(UserError, match="shapes; let it return arrays"):
        answer.init(KEY)


def test_the_wide_model_takes_no_memory():
    """make at the target is only traced: a matrix of 16 TiB is never there."""

    def make(width: int) -> Any:
        params = {"in": jnp.ones((4, width)), "w": jnp.zeros((width, width)), "out": jnp.ones((width, 2))}
        return params, lambda p, x: jnp.tanh(x @ p["in"]) @ p["w"] @ p["out"], jnp.ones((2, 4))

    assert verify.prescribe(make, base_width=64, width=2**21).row("w").shape == (2**21, 2**21)


def test_leaves_that_are_no_parameters_stay_out_of_the_way():
    leaves = jax.tree.leaves(equinox_mlp(BASE)[0], is_leaf=lambda leaf: leaf is None)
    assert any(leaf is None for leaf in leaves)
    answer = verify.prescribe(equinox_mlp, base_width=BASE, width=WIDTH)
    start = answer.init(KEY)
    assert isinstance(start, eqx.nn.MLP)
    _, apply, inputs = equinox_mlp(WIDTH)
    assert len(steps(apply, start, answer.optimizer(1e-3), inputs)) == 3


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import verify
from tests.verify.model.test_prescription import toy, steps
answer = verify.prescribe(toy, base_width=32, width=128)
params, apply, inputs = answer.init(jax.random.key(0)), *toy(128)[1:]
alone = steps(apply, params, answer.optimizer(1e-2), inputs, 10)
mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))
def place(x):
    spec = PartitionSpec(*[None] * (x.ndim - 1), "model") if x.shape[-1] % 2 == 0 else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, spec))
split = jax.tree.map(place, params)
batch = jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("data")))
together = steps(apply, split, answer.optimizer(1e-2), batch, 10)
assert len(split["w"][0].sharding.device_set) == 8
np.testing.assert_allclose(together, alone, rtol=1e-5)
assert alone[-1] < alone[0]
print("equal")
"""


def test_sharded_over_eight_devices_it_trains_to_the_same_loss():
    flags = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **flags},
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]
