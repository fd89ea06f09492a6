"""Changes are held to the size that a value has for its consumer, and sums count what is there.

See docs/theory.md, section 11.

Right values are worked out by hand, or hold between two ways to write one function.
"""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from derive.alignments import FULL
from derive.parameterizations import MUP, SP
from derive.registry import optimizers
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of

HALF = Fraction(1, 2)
PLACES = ("input", "weight", "output")
DEGREES = {"adam": 1, "sgd": 2, "muon": 1, "adam-ps": 0, "adam,hidden=muon": 1}
"""1 + k - m, by which a rate's exponent goes with a multiplier's (theory 6); Adafactor's k is 0 and its m is 1."""
FAST = {("adam", "ce"), ("sgd", "mse"), ("adam-ps", "mse"), ("adam,hidden=muon", "ce")}


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


@pytest.mark.parametrize(
    ("rule", "loss"),
    [
        (rule, loss) if (rule, loss) in FAST else pytest.param(rule, loss, marks=pytest.mark.slow)
        for rule in DEGREES
        for loss in ("mse", "ce")
    ],
)
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
