"""A sum of products of entries is a dot, however it is written: in the graph, in the trace and in networks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.errors import UserError
from verify.measuring.contractions import contractions

KEY = jax.random.key(0)


def drawn(place: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(place), shape) * shape[-2] ** -0.5


def attention(by_hand: bool, power: float) -> Callable[[int], Any]:
    """Attention whose scores are a dot, or products that are summed; times n^-power."""

    def make(width: int) -> Any:
        shapes = {"in": (6, width), **dict.fromkeys("qkvo", (width, width)), "out": (width, 2)}
        params = {name: drawn(place, *shape) for place, (name, shape) in enumerate(shapes.items())}

        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            q, k, v = (z @ p[name] for name in "qkv")
            scores = (q[:, :, None] * k[:, None]).sum(-1) if by_hand else jnp.einsum("btn,bsn->bts", q, k)
            return (jax.nn.softmax(scores * width**-power) @ v @ p["o"]) @ p["out"]

        return params, apply, jnp.ones((3, 4, 6)) * jnp.arange(4)[:, None]

    return make


def graph_attention(by_hand: bool, form: str = "two axes") -> Callable[[int], Any]:
    """Scores of edges by a vector of weights, as graph attention has them: a layer with one output."""

    def make(width: int) -> Any:
        shapes = {"in": (6, width), "w": (width, width), "a": (width, 1), "out": (width, 2)}
        params = {name: drawn(place, *shape) for place, (name, shape) in enumerate(shapes.items())}

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"]) @ p["w"]
            if not by_hand:
                scores = (z @ p["a"])[..., 0]
            elif form == "rounded":
                scores = (z * p["a"][:, 0]).astype(jnp.bfloat16).astype(jnp.float32).sum(-1)
            else:
                scores = (z * p["a"].T).sum(-1)
            return jnp.einsum("bt,btn->bn", jax.nn.softmax(jnp.tanh(scores)), z) @ p["out"]

        return params, apply, jnp.ones((3, 4, 6)) * jnp.arange(4)[:, None]

    return make


def answers(make: Callable[[int], Any]) -> Any:
    answer = verify.prescribe(make, base_width=16, width=64)
    return {row.path: (row.b, row.c, row.epsilon) for row in answer.parameters}, list(answer.multipliers.values())


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_scores_that_are_summed_by_hand_have_the_rates_of_a_dot(power: float) -> None:
    assert answers(attention(True, power)) == answers(attention(False, power))


@pytest.mark.parametrize("form", ["two axes", "rounded"])
def test_a_vector_of_weights_that_is_summed_by_hand_is_a_layer(form: str) -> None:
    assert answers(graph_attention(True, form)) == answers(graph_attention(False))
    assert answers(graph_attention(True))[0]["a"][1] == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_layer_that_is_summed_by_hand_is_a_layer(first: bool) -> None:
    """With its fan-out: (z[:, :, None] * w).sum(1) is z @ w."""

    def layer(z: Any, w: Any) -> Any:
        return (z[:, :, None] * w).sum(1) if first else (w.T[:, None] * z[None]).sum(-1).T

    def made(multiply: Callable[[Any, Any], Any]) -> Callable[[int], Any]:
        def make(width: int) -> Any:
            shapes = {"in": (6, width), "w": (width, width), "out": (width, 2)}
            params = {name: drawn(place, *shape) for place, (name, shape) in enumerate(shapes.items())}

            def apply(p: Any, x: Any) -> Any:
                return multiply(jnp.tanh(multiply(jnp.tanh(x @ p["in"]), p["w"])), p["out"])

            return params, apply, drawn(9, 5, 6)

        return make

    assert answers(made(layer)) == answers(made(jnp.matmul))
    params, apply, inputs = made(layer)(16)
    traced = verify.trace(apply, params, inputs)
    assert [(op.path, op.fan_in, op.fan_out) for op in traced.ops] == [("in", 6, 16), ("w", 16, 16), ("out", 16, 2)]
    outputs, _ = traced.run(params, inputs, evaluate=lambda op, each: traced.product(op, *each))
    np.testing.assert_allclose(outputs, apply(params, inputs), rtol=1e-4, atol=1e-5)


def test_a_matrix_that_activations_make_of_a_parameter_is_refused() -> None:
    """Modulated, mixed or chosen weights: no rule tells how they go, and the way out is said."""
    forms: list[Callable[[Any, Any, Any], Any]] = [
        lambda p, x, z: jnp.einsum("bi,bio->bo", z, p["w"] * x[:, :1, None]),
        lambda p, x, z: (z[:, :, None] * (p["w"] * x[:, :1, None])).sum(1),
        lambda p, x, z: z @ jnp.where(x.mean() > 0, p["w"], -p["w"]),
    ]
    for form in forms:

        def make(width: int, form: Any = form) -> Any:
            shapes = {"in": (6, width), "w": (width, width), "out": (width, 2)}
            params = {name: drawn(place, *shape) for place, (name, shape) in enumerate(shapes.items())}
            return params, lambda p, x: jnp.tanh(form(p, x, jnp.tanh(x @ p["in"]))) @ p["out"], drawn(9, 5, 6)

        with pytest.raises(UserError, match="a matrix that activations make of parameter w"):
            verify.prescribe(make, base_width=16, width=64)


def test_the_multiplier_is_put_behind_the_sum() -> None:
    wrapped = []
    for by_hand in (True, False):
        make = attention(by_hand, 0.5)
        answer = verify.prescribe(make, base_width=16, width=64)
        params, apply, inputs = make(64)
        wrapped.append(answer.wrap(apply)(params, inputs))
        assert not np.allclose(wrapped[-1], apply(params, inputs), rtol=1e-3)
    np.testing.assert_allclose(wrapped[0], wrapped[1], rtol=1e-4, atol=1e-5)


def test_the_trace_has_both_and_runs_as_before() -> None:
    make = graph_attention(by_hand=True)
    params, apply, inputs = make(16)
    traced = verify.trace(apply, params, inputs)
    (op,) = [op for op in traced.ops if op.path == "a"]
    assert (op.fan_in, op.fan_out) == (16, 1)
    outputs, operands = traced.run(params, inputs)
    np.testing.assert_array_equal(outputs, jax.jit(apply)(params, inputs))
    scores = traced.product(op, operands["a"].input, operands["a"].weight)
    np.testing.assert_allclose(scores, (operands["w"].input @ params["w"] @ params["a"])[..., 0], rtol=1e-4, atol=1e-5)
    shift = {"a": jnp.full(op.output_shape, 3.0).at[:, 0].set(0.0)}
    assert not np.allclose(traced.run(params, inputs, shift)[0], outputs)
    params, apply, inputs = attention(True, 1.0)(16)
    assert [product.name for product in verify.trace(apply, params, inputs).products] == ["sum", "dot"]


@pytest.mark.slow
def test_a_graph_attention_is_checked() -> None:
    make = graph_attention(by_hand=True)
    answer = verify.prescribe(make, base_width=16, width=64)
    found = verify.coordinate_check(make, answer, (16, 32, 64), base_rate=0.01, seeds=2, steps=2)
    assert found.measured["prescribed"].passes


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda x, y: (x * y).sum(-1), 1),
        (lambda x, y: (x * y).sum(), 1),
        (lambda x, y: (x[:, None] * y[None]).sum(-1), 1),
        (lambda x, y: (x[None] * y[:, None]).sum(-1), 1),
        (lambda x, y: (x[:, :, None] * y[:, None]).sum(0), 1),
        (lambda x, y: (y[:, None, :] * x[:, :, None]).sum(0), 1),
        (lambda x, y: (x[None, :, None] * y[None]).sum((0, 3)), 1),
        (lambda x, y: (x * x).sum(-1) + y[:, 0], 0),
        (lambda x, y: (x * y[:, :1]).sum(-1), 0),  # the same along the axis: y times the sum of x
        (lambda x, y: (3.0 * x).sum(-1) + y[:, 0], 0),
        (lambda x, y: (lambda z: z.sum(-1) + z[:, 0])(x * y), 0),  # the product is used elsewhere
    ],
)
def test_what_is_a_contraction(function: Callable[[Any, Any], Any], count: int) -> None:
    x, y = drawn(0, 4, 8), drawn(1, 4, 8)
    program = jax.make_jaxpr(function)(x, y)
    found = list(contractions(program.jaxpr).values())
    assert len(found) == count
    for each in found:
        ordered = (x, y) if each.factors[0].source is program.jaxpr.invars[0] else (y, x)
        factors = [array.reshape(each.operand(place)) for place, array in enumerate(ordered)]
        (dot,) = [each.dot.primitive.bind(*factors, **each.dot.params)]
        np.testing.assert_allclose(each.from_dot(dot), function(x, y), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(each.to_dot(each.from_dot(dot)), dot)
