"""Changes are held to the size that a value has for its consumer, and sums count what is there (THEORY 11).

Right values are worked out by hand, or hold between two ways to write one function.
"""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.alignments import FULL
from derive.optimizers import optimizers
from derive.parameterizations import MUP, SP
from tests.test_graph_sizes import measured_exponents
from tests.zoo import normal
from verify.graph import GraphError
from verify.graph_rates import Rates, solve_graph
from verify.graph_start import Wanted
from verify.user_model import graph_of

HALF = Fraction(1, 2)
PLACES = ("input", "weight", "output")
DEGREES = {"adam": 1, "sgd": 2, "muon": 1, "adam-ps": 0, "adam,hidden=muon": 1}
"""1 + k - m, by which a rate's exponent goes with a multiplier's (THEORY 6); Adafactor's k is 0 and its m is 1."""


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def solved(make: Any, optimizer: str = "adam", width: int = 256, **how: Any) -> Rates:
    wanted = Wanted(optimizers(optimizer), how.pop("scheme", MUP), FULL, **how)
    return solve_graph(graph_of(make, 64, width)[0], wanted)


def exponents(rates: Rates, what: str) -> dict[str, Fraction]:
    return {path: getattr(row, what) for path, row in rates.parameters.items()}


def norm(z: Any) -> Any:
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def placed(where: str, power: float, tied: bool = False, normed: bool = True, residual: bool = True) -> Any:
    """Two blocks of a residual network and a readout, n^-power on the way in, on the weight or on the way out."""

    def make(width: int) -> Any:
        params = {"table": shape(32, width), "gain": shape(width)} | ({} if tied else {"out": shape(32, width)})
        for block in range(2):
            params |= {f"up{block}": shape(width, 2 * width), f"down{block}": shape(2 * width, width)}
        scale = {place: (64 / width) ** power if place == where else 1.0 for place in PLACES}

        def apply(p: Any, tokens: Any) -> Any:
            z = p["table"][tokens]
            for block in range(2):
                y = jax.nn.relu((norm(z) if normed else z) @ p[f"up{block}"]) @ p[f"down{block}"]
                z = z + y if residual else y
            z = p["gain"] * (norm(z) if normed else z)
            readout = p["table"] if tied else p["out"]
            return (z * scale["input"]) @ (readout * scale["weight"]).T * scale["output"]

        return params, apply, jax.ShapeDtypeStruct((4, 3), jnp.int32)

    return make


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("rule", DEGREES)
def test_a_multiplier_before_on_or_after_the_readouts_weight_is_one_prescription(rule: str, loss: Any):
    """Rates up to the gauge, a + b and r of every use; over ties, norms, residual sums and the multiplier's power."""
    for kind in ({}, {"tied": True}, {"normed": False}, {"residual": False}):
        plain = solved(placed("nowhere", 0, **kind), rule, loss=loss)
        for power, where in [(Fraction(1, 2), "input"), *((Fraction(1), place) for place in PLACES)]:
            rates = solved(placed(where, float(power), **kind), rule, loss=loss)
            for path, row in rates.parameters.items():
                moved = 0 if kind.get("tied") or path != "out" else power
                assert row.found == moved or kind.get("tied"), (kind, where, path)
                assert row.c + DEGREES[rule] * moved == plain.parameters[path].c, (kind, where, path)
                assert row.b + moved == plain.parameters[path].b, (kind, where, path)
            for name, use in rates.uses.items():
                assert (use.total, use.r) == (plain.uses[name].total, plain.uses[name].r), (kind, where, name)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_the_rates_of_a_readout_that_is_divided_by_the_width(loss: Any):
    """As microsoft/mup's MuReadout: gains n^0, hidden matrices n^-1, the readout 0 and its start 1."""
    for where in PLACES:
        rates = solved(placed(where, 1.0), loss=loss)
        rest = {f"{name}{block}": 1 for block in range(2) for name in ("up", "down")}
        assert exponents(rates, "c") == {"table": 0, "gain": 0, "out": 0} | rest
        assert rates.parameters["out"].b == 0
        muon = solved(placed(where, 1.0), "adam,hidden=muon", loss=loss)
        assert exponents(muon, "c") == {"table": 0, "gain": 0, "out": 0} | dict.fromkeys(rest, 0)


def test_a_gain_and_a_bias_before_a_divided_layer_keep_their_rates():
    """(gain z + bias) / n^p enters a readout, or a hidden matrix: both may change by their own size, 1, and no more."""
    for power, role in [(1.0, "readout"), (0.5, "readout"), (0.5, "hidden")]:

        def make(width: int, power: float = power, role: str = role) -> Any:
            params = {"in": shape(6, width), "w": shape(width, width), "gain": shape(width), "bias": shape(width)}
            params["next"] = shape(width, width if role == "hidden" else 2)
            params |= {"out": shape(width, 2)} if role == "hidden" else {}

            def apply(p: Any, x: Any) -> Any:
                z = p["gain"] * norm(jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"])) + p["bias"]
                y = (z / width**power) @ p["next"]
                return jnp.tanh(y) @ p["out"] if role == "hidden" else y

            return params, apply, shape(5, 6)

        rates = solved(make)
        expected = {"in": 0, "gain": 0, "bias": 0, "w": 1, "next": 1 - Fraction(power)}
        assert exponents(rates, "c") == expected | ({"out": 1} if role == "hidden" else {})
        assert rates.parameters["next"].found == Fraction(power)


@pytest.mark.parametrize("first", ["divided", "whole"])
def test_an_output_that_one_of_its_consumers_divides_has_its_size_for_the_others(first: str):
    """y = W x enters q as y / n and k as it is, whichever is computed first: found is 1 at q, and 0 elsewhere."""

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "q": shape(width, width), "k": shape(width, width), "out": shape(width, 2)}

        def apply(p: Any, x: Any) -> Any:
            y = x @ p["in"]
            if first == "divided":
                q = (y / width) @ p["q"]
                return jnp.tanh(q + y @ p["k"]) @ p["out"]
            k = y @ p["k"]
            return jnp.tanh(k + (y / width) @ p["q"]) @ p["out"]

        return params, apply, shape(5, 6)

    rates = solved(make)
    assert exponents(rates, "found") == {"in": 0, "q": 1, "k": 0, "out": 0}
    assert exponents(rates, "b") == {"in": 0, "q": -HALF, "k": HALF, "out": 1}
    assert exponents(rates, "c") == {"in": 0, "q": 0, "k": 1, "out": 1}


def test_logits_with_a_bias_and_free_logits_have_a_solution():
    """Under cross-entropy only W dz of the readout is left out: the bias and the readout's own update stay bounded."""

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "w": shape(width, width), "out": shape(width, 3), "bias": shape(3)}
        return params, lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"] + p["bias"], shape(5, 6)

    for rule in ("adam", "sgd", "muon"):
        mse, ce = (solved(make, rule, scheme=SP, loss=loss) for loss in ("mse", "ce"))
        assert exponents(ce, "c")["bias"] == 0
        assert sum(exponents(ce, "c").values()) <= sum(exponents(mse, "c").values())
    assert exponents(solved(make, scheme=SP, loss="ce"), "c") == {"in": 0, "w": 1, "out": 1, "bias": 0}


def selective(blocks: int, rank: int) -> Any:
    """State-space blocks: one projection gives a rank of n/rank for the step's size, and two states of 8 beside it."""

    def make(width: int) -> Any:
        inner, low, states = 2 * width, width // rank, 8
        block = {"inp": shape(width, 2 * inner), "proj": shape(inner, low + 2 * states), "step": shape(low, inner)}
        block |= {"bias": shape(inner), "decay": shape(inner, states), "out": shape(inner, width)}
        params = {"embed": shape(64, width), "head": shape(width, 64), "blocks": [block] * blocks}

        def apply(p: Any, tokens: Any) -> Any:
            z = p["embed"][tokens]
            for b in p["blocks"]:
                x, gate = jnp.split(norm(z) @ b["inp"], 2, axis=-1)
                step, entering, leaving = jnp.split(jax.nn.silu(x) @ b["proj"], [low, low + states], axis=-1)
                step = jax.nn.softplus(step @ b["step"] + b["bias"])[..., None]
                state = jnp.exp(-step * jnp.exp(b["decay"])) * step * entering[:, None, :] * jax.nn.silu(x)[..., None]
                y = jnp.einsum("bdn,bn->bd", state, leaving)
                z = z + (y * jax.nn.silu(gate)) @ b["out"]
            return norm(z) @ p["head"]

        return params, apply, jax.ShapeDtypeStruct((8,), jnp.int32)

    return make


def test_parts_of_fixed_and_of_growing_size_add_up_by_squares():
    """g is 1 in every block at any depth: epsilon x 1/8 from 64 to 512, and SGD's rates as without the split.

    The projection's own g is less: n^-1/2 on 2N of R + 2N outputs, R = n/16 -> 4 + 16 and 32 + 16 entries.
    """
    for blocks in (2, 24):
        adam, sgd = (solved(selective(blocks, 16), rule, width=512) for rule in ("adam", "sgd"))
        for path, row in adam.parameters.items():
            if path not in ("head",) and not path.endswith("proj"):
                assert (row.g, row.epsilon) == (1, 1), (blocks, path)
        c = exponents(sgd, "c")
        assert {c[f"blocks.{block}.{name}"] for block in range(blocks) for name in ("inp", "step", "out")} == {0}
        assert (c["embed"], c["blocks.0.bias"], c["head"]) == (-1, -1, 1)


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
    monkeypatch.setattr("verify.user_model.LARGEST_MODEL", 0)
    with pytest.raises(GraphError, match=r"an array, \(\), go with the width cannot be told: it is not in params"):
        solved(scaled_by("jax array"))
    with pytest.raises(GraphError, match=r"an array, \(64, 64\) -> \(256, 256\), go with the width cannot be told"):
        solved(adapted())


MEANS = {
    "tanh": lambda z, m: z * jnp.tanh(m),
    "logistic": lambda z, m: z * jax.nn.sigmoid(m),
    "exp": lambda z, m: z * jnp.exp(-m),
    "product": lambda z, m: z * m,
    "square": lambda z, m: z * m**2,
}


@pytest.mark.parametrize("means", [*MEANS, "layer"])
def test_a_mean_may_learn_though_it_cancels_at_the_start(means: str):
    """A mean of n channels is n^-1/2 as drawn, 1 where they align: nothing before it is slowed, no weight raised."""
    extra = ["spread"] if means == "layer" else []

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "w": shape(width, width), "next": shape(width, width), "out": shape(width, 2)}
        params |= {name: shape(1, width) for name in extra}

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"]) @ p["w"]
            m = z.mean(-1, keepdims=True)
            return jnp.tanh((z + m @ p["spread"] if extra else MEANS[means](z, m)) @ p["next"]) @ p["out"]

        return params, apply, shape(5, 6)

    rates = solved(make)
    assert exponents(rates, "c") == {"in": 0, "w": 1, "next": 1, "out": 1} | dict.fromkeys(extra, 0)
    assert exponents(rates, "b") == {"in": 0, "w": HALF, "next": HALF, "out": 1} | dict.fromkeys(extra, 0)


@pytest.mark.parametrize("function", [jnp.tanh, jax.nn.sigmoid, jnp.exp, jnp.sin])
def test_what_constants_make_small_stays_small_before_a_function_without_a_degree(function: Any):
    """f(gain z / n): the gain changes by its own size, 1, and not by n."""

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "gain": shape(width), "next": shape(width, width), "out": shape(width, 2)}

        def apply(p: Any, x: Any) -> Any:
            z = p["gain"] * norm(jnp.tanh(x @ p["in"])) / width
            return jnp.tanh(function(z) @ p["next"]) @ p["out"]

        return params, apply, shape(5, 6)

    assert exponents(solved(make), "c")["gain"] == 0


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


def test_gates_by_the_sign_of_an_entry_pick_a_share():
    """z (z > 0) is relu by hand, and no choice of a fixed number."""

    def make(width: int) -> Any:
        params = {"in": shape(6, width), "w": shape(width, width), "out": shape(width, 2)}

        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            z = (z * (z > 0)) @ p["w"]
            return jnp.where(z > 0, z, 0.0) @ p["out"]

        return params, apply, shape(5, 6)

    assert exponents(solved(make), "c") == {"in": 0, "w": 1, "out": 1}


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
