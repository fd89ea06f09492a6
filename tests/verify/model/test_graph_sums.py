"""Sums and gradients count what is there, and arrays that apply closes over are what they are.

See docs/theory.md, section 11.

Right values are worked out by hand; gradients of shared weights are measured as well.
"""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.alignments import FULL
from derive.parameterizations import MUP
from derive.registry import optimizers
from tests.helpers.zoo import normal
from tests.verify.model.test_graph_sizes import measured_exponents
from verify.model.graph.graph import GraphError
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of

HALF = Fraction(1, 2)


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def solved(make: Any, optimizer: str = "adam", width: int = 256, **how: Any) -> Rates:
    wanted = Wanted(optimizers(optimizer), how.pop("scheme", MUP), FULL, **how)
    return solve_graph(graph_of(make, 64, width)[0], wanted)


def exponents(rates: Rates, what: str) -> dict[str, Fraction]:
    return {path: getattr(row, what) for path, row in rates.parameters.items()}


def norm(z: Any) -> Any:
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def shared_by(form: str) -> Any:
    """Two layers over 8 tokens, or over the entries of a head, that all channels or all heads share."""

    def make(width: int) -> Any:
        params = {"in": normal(0, 6, width), "mix": normal(1, 8, width), "back": normal(2, width, 8)}
        params |= {"out": normal(3, width, 3), "bias": jnp.zeros(width)}

        def mixed(p: Any, y: Any) -> Any:  # y: batch, 8, what shares
            if form == "swapped":
                return jnp.swapaxes(jnp.tanh(jnp.swapaxes(y, 1, 2) @ p["mix"] + p["bias"]) @ p["back"], 1, 2)
            if form == "einsum":
                hidden = jnp.tanh(jnp.einsum("btc,tm->bmc", y, p["mix"]) + p["bias"][:, None])
                return jnp.einsum("mt,bmc->btc", p["back"], hidden)
            if form == "copied":
                copies = jnp.broadcast_to(p["mix"], (y.shape[-1], 8, y.shape[-1]))
                hidden = jnp.tanh(jnp.einsum("btc,ctm->bcm", y, copies) + p["bias"])
                return jnp.einsum("mt,bcm->btc", p["back"], hidden)

            def one(column: Any) -> Any:
                return jnp.tanh(column @ p["mix"] + p["bias"]) @ p["back"]

            return jax.vmap(jax.vmap(one, in_axes=1, out_axes=1))(y)

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"])
            return (z + mixed(p, z)).mean(1) @ p["out"]

        return params, apply, normal(4, 4, 8, 6)

    return make


@pytest.mark.parametrize("form", ["swapped", "einsum", "copied", "mapped"])
def test_a_weight_shared_along_a_growing_axis_sums_its_gradient_along_it(form: str):
    """n^-3/2 a channel goes back through `back`, n channels of random sign: g of `mix` is 1, and 1/2 of `back`."""
    rates = solved(shared_by(form), "sgd")
    assert exponents(rates, "g") == {"in": 1, "mix": 1, "bias": 1, "back": HALF, "out": 0}
    assert exponents(rates, "c") == {"in": -1, "mix": -1, "bias": -1, "back": HALF, "out": 1}


@pytest.mark.slow
def test_gradients_of_shared_weights_go_as_said():
    answer = verify.prescribe(shared_by("swapped"), base_width=64, width=256)
    found = measured_exponents(shared_by("swapped"), answer, [256, 1024])["gradient"]
    assert found == pytest.approx({row.path: float(row.g) for row in answer.parameters}, abs=0.05)


def scaled_by(scale: str) -> Any:
    """A network whose logits are divided by the width: by a number, or by an array that apply closes over."""

    def make(width: int) -> Any:
        numbers = {
            "number": 1 / width,
            "jax array": jnp.float32(1 / width),
            "numpy array": np.float32(1 / width),
            "vector": jnp.full(3, 1 / width),
        }
        m = numbers[scale.removesuffix(" in jit")]
        params = {"in": normal(0, 6, width), "w": normal(1, width, width), "out": normal(2, width, 3)}
        divided = jax.jit(lambda y: y * m) if "jit" in scale else lambda y: y * m
        return params, lambda p, x: divided(jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"]), normal(4, 5, 6)

    return make


@pytest.mark.parametrize("scale", ["number", "jax array", "jax array in jit", "numpy array", "vector"])
def test_an_array_that_apply_closes_over_is_read_at_both_widths(scale: str):
    rates = solved(scaled_by(scale))
    assert exponents(rates, "found") == {"in": 0, "w": 0, "out": 1}
    assert exponents(rates, "b") == {"in": 0, "w": HALF, "out": 0}
    assert exponents(rates, "c") == {"in": 0, "w": 1, "out": 0}


def adapted(frozen_readout: bool = True, normed: bool = False) -> Any:
    """LoRA: a base network that is not trained, drawn when it is made, and A and B beside its one hidden matrix."""

    def make(width: int) -> Any:
        base = {"in": normal(0, 6, width), "w": normal(1, width, width), "table": normal(7, 40, width, std=1.0)}
        out = normal(2, width, 2) * width**-0.5
        params = {"A": normal(3, width, 4), "B": jnp.zeros((4, width))} | ({} if frozen_readout else {"out": out})

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x[:, :6] @ base["in"] + base["table"][jnp.argmax(x, axis=1)])
            z = norm(z) if normed else z
            z = jnp.tanh(z @ base["w"] + z @ p["A"] @ p["B"])
            return z @ (out if frozen_readout else p["out"])

        return params, apply, normal(4, 5, 40)

    return make


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("frozen_readout", [True, False])
def test_a_frozen_base_is_read_and_its_adapters_are_prescribed(frozen_readout: bool, normed: bool):
    rates = solved(adapted(frozen_readout, normed))
    assert [(rates.parameters[name].role, rates.parameters[name].b, rates.parameters[name].c) for name in "AB"] == [
        ("hidden", HALF, 1),
        ("embedding", 0, 0),
    ]
    if not frozen_readout:
        assert (rates.parameters["out"].b, rates.parameters["out"].c) == (1, 1)


@pytest.mark.parametrize(("matrix", "loses"), [("random", HALF), ("rotation", HALF), ("mean", 1), ("one rank", 1)])
def test_changes_add_up_at_random_signs_through_a_random_constant_and_align_through_a_mean(
    matrix: str, loses: Fraction
):
    """z m @ w with m = n^-p of the matrix: p is 1/2 where rows add up at random signs and else 1."""

    def make(width: int) -> Any:
        q = jnp.linalg.qr(normal(5, width, width, std=1.0))[0]
        line = jnp.ones((width, 1)) @ normal(6, 1, width, std=1.0)
        values = {"random": normal(5, width, width), "rotation": q, "mean": jnp.full((width, width), 1 / width)}
        m = (values | {"one rank": line / width})[matrix]
        params = {"in": shape(6, width), "w": shape(width, width), "out": shape(width, 3)}
        return params, lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ m @ p["w"]) @ p["out"], shape(5, 6)

    graph = graph_of(make, 64, 256)[0]
    assert not graph.problems
    source = next(use for use in graph.uses if use.path == "in").node
    w = next(use for use in graph.uses if use.path == "w")
    layer = graph.nodes[w.input_node or 0]
    forward = w.input_shift + (layer.edges[0].forward if layer.layer else 0)
    assert (layer.layer, w.input_node == source) == (loses == HALF, loses == 1)
    assert forward == (HALF if loses == HALF else 1) - loses


def test_an_array_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("verify.model.make.LARGEST_MODEL", 0)
    with pytest.raises(GraphError, match=r"an array, \(\), go with the width cannot be told: it is not in params"):
        solved(scaled_by("jax array"))
    with pytest.raises(GraphError, match=r"an array, \(64, 64\) -> \(256, 256\), go with the width cannot be told"):
        solved(adapted())


def test_an_average_by_softmax_over_a_growing_axis_cancels_at_the_start_and_keeps_what_divides_it():
    """softmax(s) v over n keys is n^-1/2 of v as drawn and v's size where it aligns: with / n behind it, n^-1."""
    for power in (0, 1):

        def make(width: int, power: int = power) -> Any:
            params = {
                "in": shape(6, width),
                "key": shape(6, width),
                "value": shape(6, width, 4),
                "mix": shape(4, width),
            }
            params |= {"out": shape(width, 2)}

            def apply(p: Any, x: Any) -> Any:
                share = jax.nn.softmax(jnp.tanh(x @ p["key"]))  # batch, keys: as many as the width
                values = jnp.tanh(jnp.einsum("bi,ikd->bkd", x, p["value"]))
                mean = jnp.einsum("bk,bkd->bd", share, values) / width**power
                return jnp.tanh(jnp.tanh(x @ p["in"]) + mean @ p["mix"]) @ p["out"]

            return params, apply, shape(5, 6)

        rates = solved(make)
        mix = rates.parameters["mix"]
        assert (mix.found, mix.b, mix.c) == (power, -power, -power)
        assert mix.g == rates.parameters["in"].g + HALF + power  # what it takes is n^-1/2 smaller than 1
        assert {rates.parameters[name].c for name in ("in", "key", "value")} == {0}


def choosing(form: str) -> Any:
    """Experts, as many as n / 8, of which the two best are taken, or those above the second best's score."""

    def make(width: int) -> Any:
        count = width // 8
        params = {"in": shape(6, width), "router": shape(width, count), "experts": shape(count, width, width)}
        params["out"] = shape(width, 2)

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"])
            scores = z @ p["router"]
            best, chosen = jax.lax.top_k(scores, 2)
            if form == "one hot":
                share = (jax.nn.one_hot(chosen, count) * jax.nn.softmax(best)[..., None]).sum(1)
            elif form == "threshold":
                share = jax.nn.softmax(jnp.where(scores >= best[:, -1:], scores, -jnp.inf))
            else:
                share = jnp.zeros_like(scores).at[jnp.arange(5)[:, None], chosen].set(jax.nn.softmax(best))
            return jnp.tanh(jnp.einsum("be,bd,edf->bf", share, z, p["experts"])) @ p["out"]

        return params, apply, shape(5, 6)

    return make


@pytest.mark.parametrize("form", ["one hot", "threshold", "scatter"])
def test_a_sum_over_a_growing_number_of_which_few_are_chosen_is_named(form: str):
    with pytest.raises(GraphError, match="how many cannot be told"):
        solved(choosing(form))


@pytest.mark.parametrize(
    "gate",
    [
        lambda z, _: z * (z > 0),
        lambda z, _: jnp.where(z > 0, z, 0.0),
        lambda z, level: jnp.where(z > level, z, 0.0),
        lambda z, _: jnp.nan_to_num(z),
    ],
)
def test_a_gate_by_the_entry_itself_picks_a_share(gate: Any):
    """relu by hand, a threshold that is learned, a guard: no choice of a fixed number."""

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "level": shape(width), "w": shape(width, width), "out": shape(width, 2)}

        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"] + p["level"]
            return jnp.tanh(gate(z, p["level"]) @ p["w"]) @ p["out"]

        return params, apply, shape(5, 6)

    assert exponents(solved(make), "c") == {"in": 0, "level": 0, "w": 1, "out": 1}


def test_sums_that_run_over_a_growing_axis_and_sums_of_growing_segments_count_their_terms():
    """Of n entries of random sign: n^1/2 as drawn, aligned n^1. Divided by n, what is made of them is as a mean."""

    def run(name: str, power: float) -> Rates:
        def make(width: int) -> Any:
            params = {"in": shape(6, width), "w": shape(width, width), "gain": shape(width), "out": shape(width, 2)}

            def apply(p: Any, x: Any) -> Any:
                z = p["gain"] * (jnp.tanh(x @ p["in"]) @ p["w"])
                if name == "cumsum":
                    y = jnp.cumsum(z, axis=1)
                else:
                    y = jax.ops.segment_sum(z.T, jnp.arange(width) % 4, 4).T @ jnp.ones((4, width))
                return jnp.tanh(y / width**power) @ p["out"]

            return params, apply, shape(5, 6)

        return solved(make)

    for name in ("cumsum", "segments"):
        with pytest.raises(GraphError, match=r"grows as n\^1/2"):
            run(name, 0.0)
        rates = run(name, 1.0)
        assert exponents(rates, "c") == {"in": 0, "w": 1, "gain": 0, "out": 1}
        assert exponents(run(name, 0.5), "c")["w"] == Fraction(3, 2)  # its change aligns as n^1


def test_classes_and_rows_that_grow_in_number():
    """One class of n has a gradient of order 1: g of a readout is 1/2, and one row's size goes back, n^-1/2."""

    def make(width: int) -> Any:
        params = {"table": shape(width, width), "w": shape(width, width), "out": shape(width, width)}
        return params, lambda p, x: jnp.tanh(p["table"][x] @ p["w"]) @ p["out"], jax.ShapeDtypeStruct((5,), jnp.int32)

    rates = solved(make, loss="ce")
    assert exponents(rates, "c") == {"table": 0, "w": 1, "out": 1}
    assert exponents(rates, "g") == {"out": HALF, "w": HALF, "table": 1}
    assert any("table has rows that grow in number" in note for note in rates.notes)
    with pytest.raises(GraphError, match=r"table has rows that grow in number.* cannot be told"):
        solved(make, "sgd", loss="ce")
    assert exponents(solved(make), "g") == {"out": 1, "w": 1, "table": Fraction(3, 2)}  # the loss a mean over n entries
