"""Layers that make a fixed number of outputs from one that grows: readouts, the model's last or not."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.alignments import FULL
from derive.parameterizations import MUP, SP, Parameterization
from derive.registry import optimizers
from tests.helpers.zoo import normal
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of

HALF = Fraction(1, 2)


def solved(make: Any, scheme: Parameterization = MUP, rule: str = "adam") -> Rates:
    graph, *_ = graph_of(make, 64, 256)
    return solve_graph(graph, Wanted(optimizers(rule), scheme, FULL))


def squeezed(width: int) -> Any:
    """Eight numbers in the middle of a network, scaled and widened again."""
    params = {"in": normal(0, 6, width), "w": normal(1, width, width), "to": normal(2, width, 8), "gain": jnp.ones(8)}
    params |= {"from": normal(3, 8, width), "out": normal(4, width, 3)}

    def apply(p: Any, x: Any) -> Any:
        code = jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["to"] * p["gain"]
        return jnp.tanh(code @ p["from"]) @ p["out"]

    return params, apply, normal(5, 16, 6)


def joined(width: int) -> Any:
    """Four numbers in the middle of a network, and n^-1/4 of the data added to them."""
    params = {"in": normal(0, 6, width), "to": normal(1, width, 4), "gain": jnp.ones(4)}
    params |= {"from": normal(2, 4, width), "out": normal(3, width, 3)}

    def apply(p: Any, x: Any) -> Any:
        code = jnp.tanh(x @ p["in"]) @ p["to"] + x[:, :4] * width**-0.25
        return jnp.tanh(code * p["gain"] @ p["from"]) @ p["out"]

    return params, apply, normal(4, 16, 6)


def scaled(width: int) -> Any:
    """Logits times a gain."""
    params = {"in": normal(0, 6, width), "w": normal(1, width, width), "out": normal(2, width, 3), "gain": jnp.ones(3)}
    return params, lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"] * p["gain"], normal(3, 16, 6)


def cosines(width: int) -> Any:
    """Logits that are cosines of features and rows, times a gain."""
    params = {"in": normal(0, 6, width), "w": normal(1, width, width), "out": normal(2, 3, width), "gain": jnp.ones(3)}

    def unit(z: Any) -> Any:
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    def apply(p: Any, x: Any) -> Any:
        return unit(jnp.tanh(x @ p["in"]) @ p["w"]) @ unit(p["out"]).T * p["gain"]

    return params, apply, normal(3, 16, 6)


def adapted(width: int) -> Any:
    """An adapter on what never changes."""
    frozen = {"in": normal(0, 6, width), "w": normal(1, width, width), "out": normal(2, width, 3) / width**0.5}

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ frozen["in"])
        return jnp.tanh(z @ frozen["w"] + z @ p["A"] @ p["B"]) @ frozen["out"]

    return {"A": normal(3, width, 4), "B": jnp.zeros((4, width))}, apply, normal(4, 16, 6)


def asked(width: int) -> Any:
    """Two learned queries read a set, heads of 8."""
    params = {"in": normal(0, 6, width), "ask": normal(1, 2, width) * 2**0.5, "out": normal(5, width, 3)}
    params |= {name: normal(index, width, width) for index, name in ((2, "q"), (3, "k"), (4, "v"))}

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        q, k, v = (each.reshape(*each.shape[:-1], -1, 8) for each in (p["ask"] @ p["q"], z @ p["k"], z @ p["v"]))
        read = jnp.einsum("hqt,thd->qhd", jax.nn.softmax(jnp.einsum("qhd,thd->hqt", q, k)), v)
        return jnp.tanh(read.reshape(2, -1)) @ p["out"]

    return params, apply, normal(6, 5, 6)


def test_a_layer_in_the_middle_that_narrows_starts_as_a_readout_and_counts_as_hidden():
    rates = solved(squeezed)
    assert {path: row.b for path, row in rates.parameters.items()} == {
        "in": 0,
        "w": HALF,
        "to": 1,
        "gain": 0,
        "from": 0,
        "out": 1,
    }
    assert {path: row.c for path, row in rates.parameters.items()} == {
        "in": 0,
        "w": 1,
        "to": 1,
        "gain": 0,
        "from": 0,
        "out": 1,
    }
    assert rates.parameters["to"].role == "hidden"
    assert solved(squeezed, SP).parameters["to"].b == HALF
    row = next(each for each in verify.prescribe(squeezed, base_width=64, width=256).parameters if each.path == "to")
    assert "starts as a readout" in row.why


def test_where_what_enters_never_changes_it_starts_as_a_hidden_layer():
    rates = solved(adapted)
    assert (rates.parameters["A"].b, rates.parameters["A"].c, rates.parameters["B"].c) == (HALF, 1, 0)


def test_a_gain_behind_a_readout_sees_what_is_small_at_the_start_and_may_move_as_what_has_aligned():
    """The logits are n^-1/2 as drawn in muP and n^0 after a step: Adam's c is 0, and SGD's rate goes by the larger."""
    for make in (scaled, cosines):
        row = solved(make).parameters["gain"]
        assert (row.c, row.g) == (0, HALF)
        assert solved(make, rule="sgd").parameters["gain"].c == 0
    assert solved(scaled, SP).parameters["gain"].g == 0


def gradients(make: Any, how: Any, width: int) -> dict[str, float]:
    """Root mean squares over 8 networks, drawn as prescribed."""

    def one(key: Any) -> Any:
        keys = dict(zip(sorted(params), jax.random.split(key, len(params)), strict=True))
        rows = {row.path: row for row in how.parameters}
        drawn = {}
        for path, leaf in params.items():
            start, factor = rows[path].start, how.factor(rows[path].b)
            drawn[path] = factor * (start.mean + start.std * jax.random.normal(keys[path], leaf.shape))
        target = jax.random.normal(jax.random.key(9), apply(drawn, x).shape)
        return jax.tree.map(lambda g: jnp.mean(g**2), jax.grad(lambda p: (apply(p, x) * target).mean())(drawn))

    params, raw, x = make(width)
    apply = how.wrap(raw)
    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 8))
    return {path: float(np.sqrt(np.mean(each))) for path, each in found.items()}


@pytest.mark.parametrize(
    "make", [cosines, *(pytest.param(each, marks=pytest.mark.slow) for each in (squeezed, scaled, asked))]
)
def test_gradients_go_as_said_between_two_widths(make: Any):
    answer = verify.prescribe(make, base_width=32, width=256)
    small, large = (gradients(make, answer.at(width), width) for width in (32, 256))
    for row in answer.parameters:
        exponent = -np.log(large[row.path] / small[row.path]) / np.log(8)
        assert exponent == pytest.approx(float(row.g), abs=0.2), row.path


def test_queries_of_parameters_alone_are_vectors_and_what_multiplies_them_a_layer():
    rates = solved(asked)
    assert {path: row.c for path, row in rates.parameters.items()} == {
        "in": 0,
        "ask": 0,
        "q": 1,
        "k": 1,
        "v": 1,
        "out": 1,
    }


def test_a_product_of_two_parameters_says_what_one_by_one_says():
    def make(joined: bool) -> Any:
        def model(width: int) -> Any:
            params = {"in": normal(0, 6, width), "w": normal(1, width, width), "out": normal(2, width, 3)}

            def apply(p: Any, x: Any) -> Any:
                z = x @ (p["in"] @ p["w"]) if joined else x @ p["in"] @ p["w"]
                return jnp.tanh(z) @ p["out"]

            return params, apply, normal(3, 16, 6)

        return model

    both = [solved(make(joined)).parameters for joined in (True, False)]
    first, second = ({path: (row.b, row.c, row.role) for path, row in each.items()} for each in both)
    assert first == second


@pytest.mark.parametrize(
    ("scheme", "backward", "code"), [(SP, HALF, Fraction(0)), (MUP, Fraction(1), Fraction(1, 4))], ids=["sp", "mup"]
)
def test_the_largest_of_a_sum_is_that_of_the_parameterization(
    scheme: Parameterization, backward: Fraction, code: Fraction
) -> None:
    """n^0 and n^-1/4 in SP, where four outputs start at n^0; n^-1/2 and n^-1/4 in muP. g holds the size of the code."""
    found = solved(joined, scheme)
    assert found.parameters["from"].g == backward + code
    assert found.parameters["out"].g == code
