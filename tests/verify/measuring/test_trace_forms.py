"""Tracing of weights that several parameters make up, of normalised ones, and of matrices that are looked up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from tests.verify.measuring.test_trace import (
    BATCH,
    CLASSES,
    FEATURES,
    INPUT,
    WIDTH,
    assert_close,
    assert_same,
    assert_unchanged,
    message,
    names,
    normal,
)
from verify.model.graph.walk import walk

PARAMS = {
    "in": normal(0, FEATURES, WIDTH),
    "q": normal(1, WIDTH, WIDTH),
    "k": normal(2, WIDTH, WIDTH),
    "gain": normal(3, WIDTH),
    "experts": normal(4, 3, WIDTH, WIDTH),
    "out": normal(5, WIDTH, CLASSES),
}


def fused(p: Any, x: Array) -> Array:
    q, k = jnp.split(jnp.tanh(x @ p["in"]) @ jnp.concatenate([p["q"], p["k"]], axis=1), 2, axis=-1)
    return jnp.tanh(q * k) @ p["out"]


def added(p: Any, x: Array) -> Array:
    return (jnp.tanh(x @ p["in"]) @ (p["q"] + 1j * p["k"])).real @ p["out"]


def normalised(p: Any, x: Array) -> Array:
    w = p["gain"] * p["q"] / jnp.linalg.norm(p["q"], axis=0)
    return jnp.tanh(jnp.tanh(x @ p["in"]) @ w) @ p["out"]


def looked_up(p: Any, x: Array) -> Array:
    return jnp.einsum("bi,bio->bo", jnp.tanh(x @ p["in"]), p["experts"][jnp.argmax(x[:, :3], 1)] / 2) @ p["out"]


def tables(p: Any, x: Array) -> Array:
    rows = jnp.swapaxes(p["experts"][jnp.argmax(x[:, :3], 1)], 1, 2)
    return jnp.tanh(jnp.tanh(x @ p["in"])[..., None] * rows).sum(1) @ p["out"]


def ragged(p: Any, x: Array) -> Array:
    return jax.lax.ragged_dot(jnp.tanh(x @ p["in"]), p["experts"], jnp.array([2, 1, BATCH - 3])) @ p["out"]


FORMS: dict[str, tuple[Callable[[Any, Array], Array], list[str]]] = {
    "fused": (fused, ["in", "q", "k", "out"]),
    "added": (added, ["in", "q", "k", "out"]),
    "normalised": (normalised, ["in", "q", "out"]),
    "looked up": (looked_up, ["in", "experts", "out"]),
    "tables": (tables, ["in", "experts", "out"]),
    "ragged": (ragged, ["in", "experts", "out"]),
}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_ops_that_its_graph_has(form: str):
    """One for each parameter of a weight, under one name here and there; outputs are apply's own."""
    apply, expected = FORMS[form]
    kept = {*expected, *(["gain"] if form == "normalised" else [])}
    params = {path: leaf for path, leaf in PARAMS.items() if path in kept}
    traced = assert_unchanged(apply, params, INPUT)
    assert names(traced) == expected
    program = jax.make_jaxpr(apply)(params, INPUT)
    assert [use.name for use in walk((program, program), (params, params), (1, 1)).uses if use.is_dense] == expected


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("form", FORMS)
def test_products_are_replayed_shifted_and_evaluated(form: str):
    """Operands give the outputs, in one sum for the parts of a weight; a shift of an op shifts what follows."""
    apply, expected = FORMS[form]
    traced = assert_unchanged(apply, PARAMS, INPUT)
    outputs, operands = traced.run(PARAMS, INPUT)
    assert_close(traced.run(PARAMS, INPUT, evaluate=lambda op, each: traced.product(op, *each))[0], outputs)
    for op in traced.ops:
        shape = traced.product(op, *operands[op.name]).shape
        assert shape == op.output_shape
    last = {expected[-1]: normal(6, BATCH, CLASSES)}
    assert_close(traced.run(PARAMS, INPUT, last)[0], outputs + last[expected[-1]])
    inner = {expected[1]: 3.0 + jnp.zeros(next(op for op in traced.ops if op.name == expected[1]).output_shape)}
    assert not jnp.allclose(jnp.real(traced.run(PARAMS, INPUT, inner)[0]), jnp.real(outputs))


def test_the_parts_of_a_weight_are_its_own_entries():
    operands = assert_unchanged(fused, PARAMS, INPUT).run(PARAMS, INPUT)[1]
    assert_same(operands["q"].weight, jnp.concatenate([PARAMS["q"], jnp.zeros((WIDTH, WIDTH))], axis=1))
    assert_same(operands["k"].weight, jnp.concatenate([jnp.zeros((WIDTH, WIDTH)), PARAMS["k"]], axis=1))
    unit = PARAMS["gain"] * PARAMS["q"] / jnp.linalg.norm(PARAMS["q"], axis=0)
    assert_close(assert_unchanged(normalised, PARAMS, INPUT).run(PARAMS, INPUT)[1]["q"].weight, unit)


def test_a_function_of_several_parameters_is_refused_where_it_sums_and_a_vector_where_not():
    text = message(lambda p, x: jnp.tanh(x @ p["in"]) @ jnp.tanh(p["q"] + p["k"]) @ p["out"], PARAMS, INPUT)
    assert "computed from parameter k and parameter q" in text
    apply = lambda p, x: jnp.einsum("bd,dn->bdn", x @ p["in"], jnp.exp(p["q"] + p["k"])).sum(-1) @ p["out"]  # noqa: E731
    assert names(assert_unchanged(apply, PARAMS, INPUT)) == ["in", "out"]
