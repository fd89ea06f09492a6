"""Weights made of parameters: joined, with gains, normalised, frozen; the answer by hand, or of another form."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from derive.alignments import FULL
from derive.parameterizations import MUP
from derive.registry import optimizers
from tests.helpers.graphs import HALF, Apply, exponents, graph, same, shape, solved, three
from tests.helpers.zoo import normal
from verify.model.graph.graph import GraphError
from verify.model.graph.rates import solve_graph
from verify.model.graph.rules.constants import size_power
from verify.model.graph.start import Wanted
from verify.model.graph.value import Constant
from verify.model.make import graph_of

# Several parameters in one weight


def parts_of(n: int) -> dict[str, tuple[int, ...]]:
    return {"in": (6, n), "q": (n, n), "k": (n, n), "out": (n, 2)}


FUSED: dict[str, Apply] = {
    "columns": lambda p, z: jnp.split(z @ jnp.concatenate([p["q"], p["k"]], axis=1), 2, axis=-1),
    "transposed": lambda p, z: jnp.split(z @ jnp.concatenate([p["q"].T, p["k"].T]).T, 2, axis=-1),
    "stacked": lambda p, z: jnp.einsum("bd,kdf->kbf", z, jnp.stack([p["q"], p["k"]])),
    "interleaved": lambda p, z: jnp.moveaxis(
        (z @ jnp.stack([p["q"], p["k"]], axis=-1).reshape(len(p["q"]), -1)).reshape(len(z), -1, 2), -1, 0
    ),
    "mapped": lambda p, z: jax.vmap(lambda w: z @ w)(jnp.stack([p["q"], p["k"]])),
    "scanned": lambda p, z: jax.lax.scan(lambda c, w: (c, z @ w), 0, jnp.stack([p["q"], p["k"]]))[1],
    "pieces": lambda p, z: [z @ w for w in jnp.split(jnp.concatenate([p["q"], p["k"]], axis=1), 2, axis=1)],
}


@pytest.mark.parametrize("form", FUSED)
def test_kernels_joined_before_one_product_are_as_apart(form: str):
    def fused(p: Any, x: Any) -> Any:
        q, k = FUSED[form](p, jnp.tanh(x @ p["in"]))
        return jnp.tanh(q * jnp.tanh(k)) @ p["out"]

    def apart(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh((z @ p["q"]) * jnp.tanh(z @ p["k"])) @ p["out"]

    found = same(fused, apart, parts_of)
    assert (found["q"][0], found["q"][3], found["k"][3]) == ("hidden", 1, 1)


def test_the_parts_of_a_joined_weight_have_fans_of_their_own():
    """[x, z] [v; w]: x @ v embeds, z @ w is hidden. [q, k] with 8 columns in k: fan-outs n and 8."""

    def rows(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.concatenate([x, z], axis=1) @ jnp.concatenate([p["v"], p["w"]])) @ p["out"]

    found = exponents(solved(rows, lambda n: {"in": (6, n), "v": (6, n), "w": (n, n), "out": (n, 2)}))
    assert [(found[path][0], found[path][2], found[path][3]) for path in "vw"] == [
        ("embedding", 0, 0),
        ("hidden", HALF, 1),
    ]

    def columns(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"]) @ jnp.concatenate([p["q"], p["k"]], axis=1)
        return jnp.tanh(z[:, :-8]) @ p["out"] + jnp.tanh(z[:, -8:]).sum(-1, keepdims=True)

    uses = graph(columns, lambda n: {"in": (6, n), "q": (n, n), "k": (n, 8), "out": (n, 2)}).uses
    fans = {use.path: (use.fan_in.power, use.fan_out.power) for use in uses if use.is_dense}
    assert (fans["q"], fans["k"]) == ((1, 1), (1, 0))


def test_real_and_imaginary_parts_are_two_layers():
    def complex_layer(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh((z @ (p["re"] + 1j * p["im"])).real @ p["c"]) @ p["out"]

    def by_lax(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh((z @ jax.lax.complex(p["re"], p["im"])).real @ p["c"]) @ p["out"]

    found = same(
        complex_layer, by_lax, lambda n: {"in": (6, n), "re": (n, 4), "im": (n, 4), "c": (4, n), "out": (n, 2)}
    )
    for path in ("re", "im"):  # four outputs at any width: they start as a readout does
        assert (found[path][0], found[path][2], found[path][3]) == ("hidden", 1, 1)


def test_a_sum_of_two_weights_is_the_sum_of_two_layers():
    same(
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ (p["q"] + p["k"])) @ p["out"],
        lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["q"] + jnp.tanh(x @ p["in"]) @ p["k"]) @ p["out"],
        parts_of,
    )


@pytest.mark.parametrize("function", [jnp.exp, jnp.tanh, jax.nn.softplus])
def test_a_function_of_a_parameter_without_a_sum_is_a_vector(function: Any):
    """As Mamba's A: an outer product with f(A), whether by einsum or by *."""

    def summed(p: Any, x: Any) -> Any:
        return jnp.einsum("bd,dn->bdn", jnp.tanh(x @ p["in"]), -function(p["A"])).sum(-1) @ p["out"]

    def times(p: Any, x: Any) -> Any:
        return (jnp.tanh(x @ p["in"])[..., None] * -function(p["A"])).sum(-1) @ p["out"]

    found = same(summed, times, lambda n: {"in": (6, n), "A": (n, 4), "out": (n, 2)})
    assert (found["A"][0], found["A"][3]) == ("embedding", 0)


def test_a_kernel_made_of_several_parameters_over_axes_that_stay():
    """As S4D's: exp(time decay) summed over 8 states into a filter of 12 steps, applied by a Fourier transform."""

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(jnp.swapaxes(x @ p["in"], 1, 2))  # batch, channels, time
        pole = -jnp.exp(p["real"]) + 1j * p["imag"]
        step = jnp.exp(p["step"])[:, None]
        powers = jnp.exp((pole * step)[..., None] * jnp.arange(12))
        kernel = 2 * jnp.einsum("dn,dnt->dt", (p["cr"] + 1j * p["ci"]) * (jnp.exp(pole * step) - 1) / pole, powers).real
        y = jnp.fft.irfft(jnp.fft.rfft(kernel, n=24) * jnp.fft.rfft(z, n=24), n=24)[..., :12]
        return jnp.tanh(jnp.swapaxes(y, 1, 2) @ p["w"]).mean(1) @ p["out"]

    states = {"real", "imag", "cr", "ci"}
    found = exponents(
        solved(
            apply,
            lambda n: dict.fromkeys(states, (n, 8)) | {"in": (6, n), "step": (n,), "w": (n, n), "out": (n, 2)},
            inputs=shape(5, 12, 6),
        )
    )
    assert {path: row[3] for path, row in found.items()} == dict.fromkeys([*states, "in", "step"], 0) | {
        "w": 1,
        "out": 1,
    }


# Normalised weights

NORMS: dict[str, Callable[[Any], Any]] = {
    "norm": lambda w: w / jnp.linalg.norm(w, axis=0, keepdims=True),
    "root": lambda w: w * jax.lax.rsqrt(jnp.sum(w**2, axis=0, keepdims=True) + 1e-12),
    "floor": lambda w: w / jnp.maximum(jnp.linalg.norm(w, axis=0), 1e-6),
    "standardised": lambda w: (w - w.mean(0)) / jnp.sqrt(jnp.var(w, axis=0) * len(w) + 1e-5),
    "scaled": lambda w: w / (w.std(0) + 1e-5) * len(w) ** -0.5,
    "stopped": lambda w: w / jax.lax.stop_gradient(jnp.linalg.norm(w, axis=0)),
    "whole": lambda w: w / jnp.linalg.norm(w) * len(w) ** 0.5,
}


@pytest.mark.parametrize("form", NORMS)
def test_a_weight_divided_by_its_norm_is_as_one_of_that_size(form: str):
    """Columns of norm 1 have entries n^-1/2: rates and gradients of a hidden layer that starts there."""

    def apply(p: Any, x: Any) -> Any:
        return jnp.tanh(jnp.tanh(x @ p["in"]) @ NORMS[form](p["w"])) @ p["out"]

    same(apply, lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"], three)


def standardised(p: Any, g: Any) -> Any:
    """As in NFNets: (w - mean) g / sqrt(var n), written as w scale - mean scale."""
    w = p["w"]
    scale = jax.lax.rsqrt(jnp.maximum(jnp.var(w, axis=0, keepdims=True) * len(w), 1e-4)) * g
    return w * scale - jnp.mean(w, axis=0, keepdims=True) * scale


GAINS: dict[str, Callable[[Any, Any], Any]] = {
    "after": lambda p, g: g * NORMS["norm"](p["w"]),
    "before": lambda p, g: (g * p["w"]) / jnp.linalg.norm(p["w"], axis=0, keepdims=True),
    "on the norm": lambda p, g: p["w"] * (g / jnp.linalg.norm(p["w"], axis=0, keepdims=True)),
    "standardised": standardised,
    "plain": lambda p, g: p["w"] * g,
    "exp": lambda p, g: p["w"] * jnp.exp(g),
    "two": lambda p, g: p["w"] * g * p["other"][:, None],
}


@pytest.mark.parametrize("form", GAINS)
def test_gains_of_weights_are_vectors(form: str):
    """Weight norm: g w / |w| with a gain per output, or per input; both move by their own size, 1."""
    for places in ((None, slice(None)), (slice(None), None)):
        if form in ("on the norm", "standardised") and places[1] is None:
            continue

        def apply(p: Any, x: Any, places: Any = places) -> Any:
            return jnp.tanh(jnp.tanh(x @ p["in"]) @ GAINS[form](p, p["gain"][places])) @ p["out"]

        found = exponents(solved(apply, lambda n: three(n) | {"gain": (n,), "other": (n,)}))
        for gain in ("gain", *(["other"] if form == "two" else [])):
            assert (found[gain][0], found[gain][2], found[gain][3]) == ("embedding", 0, 0)
        assert (found["w"][0], found["w"][2], found["w"][3]) == ("hidden", HALF, 1)


def test_normalised_tables_and_readouts():
    """Rows of norm 1 leave a stream of n^-1/2, with a norm behind it as any; a cosine head needs no multiplier."""

    def apply(p: Any, x: Any) -> Any:
        unit = lambda z: z / jnp.linalg.norm(z, axis=-1, keepdims=True)  # noqa: E731
        z = unit(p["table"])[x]
        z = unit(z + unit(jnp.tanh((z * len(p["w"]) ** 0.5) @ p["w"])))
        return z @ unit(p["out"]).T

    tokens = jax.ShapeDtypeStruct((5,), jnp.int32)
    rates = solved(apply, lambda n: {"table": (40, n), "w": (n, n), "out": (3, n)}, inputs=tokens)
    found = exponents(rates)
    assert {path: row[2:4] for path, row in found.items()} == {
        "table": (HALF, HALF),
        "w": (HALF, 1),
        "out": (HALF, HALF),
    }
    assert not any(use.extra for use in rates.uses.values())

    def plain(p: Any, x: Any) -> Any:
        return jnp.tanh(p["table"][x]) @ (p["out"] / jnp.linalg.norm(p["out"], axis=-1, keepdims=True)).T

    rates = solved(plain, lambda n: {"table": (40, n), "out": (3, n)}, inputs=tokens)
    assert rates.uses["out"].extra == HALF  # no initial size makes it smaller
    assert rates.parameters["table"].c == 0


# What is not trained


def test_what_is_frozen_unused_or_behind_a_sign_is_named_and_not_trained():
    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ jax.lax.stop_gradient(p["base"]) + jax.lax.stop_gradient(x @ p["cut"]))
        return jnp.tanh(z @ p["w"] + jnp.sign(z @ p["lost"])) @ p["out"]

    rates = solved(
        apply, lambda n: three(n) | {"base": (6, n), "cut": (6, n), "lost": (n, n), "spare": (n, n), "spare2": (n,)}
    )
    assert {path: row.c for path, row in rates.parameters.items()} == {"w": 1, "out": 1}
    (note,) = [note for note in rates.notes if note.startswith("not trained")]
    assert all(path in note for path in ("base", "cut", "lost", "spare", "spare2", "in"))


def test_a_frozen_parameter_is_the_array_that_it_is():
    """LoRA by stop_gradient, by `frozen` and by closing over the base weights: one answer."""

    def make(width: int, how: str = "stopped") -> Any:
        base = {"w": normal(1, width, width), "out": normal(2, width, 2) * width**-0.5, "in": normal(0, 6, width)}
        own = {"A": normal(3, width, 4), "B": jnp.zeros((4, width))}

        def apply(p: Any, x: Any) -> Any:
            f = base if how == "closed" else {path: p[path] for path in base}
            f = jax.lax.stop_gradient(f) if how == "stopped" else f
            z = jnp.tanh(x @ f["in"])
            return jnp.tanh(z @ f["w"] + z @ p["A"] @ p["B"]) @ f["out"]

        return own if how == "closed" else own | base, apply, normal(4, 5, 6)

    wanted = Wanted(optimizers("adam"), MUP, FULL)
    closed = solve_graph(graph_of(lambda n: make(n, "closed"), 64, 256)[0], wanted)
    stopped = solve_graph(graph_of(make, 64, 256)[0], wanted)
    plain = solve_graph(graph_of(lambda n: make(n, "none"), 64, 256, ["in", "w", "o*"])[0], wanted)
    assert exponents(closed) == exponents(stopped) == exponents(plain)
    assert {path: (row.b, row.c) for path, row in closed.parameters.items()} == {"A": (HALF, 1), "B": (0, 0)}


@pytest.mark.parametrize("power", [HALF, Fraction(1)])
def test_the_size_of_a_few_random_numbers_is_the_power_next_to_what_is_seen(power: Fraction):
    """Of 16 and 64 numbers the exponent has a standard error of 0.14; nothing but whole powers was read of them."""
    right = 0
    for seed in range(50):
        draws = np.random.default_rng(seed)
        pair = tuple(draws.normal(size=size) * float(size) ** -float(power) for size in (16, 64))
        right += size_power(Constant(((16,), (64,)), lambda pair=pair: pair), Fraction(4)) == power
    assert right >= 42


def test_a_weight_asked_for_by_an_identity_is_refused():
    def apply(p: Any, x: Any) -> Any:
        z, rows = jnp.tanh(x @ p["in"]), jnp.eye(len(p["w"]))
        return jnp.tanh((z @ p["w"]) / jnp.linalg.norm(rows @ p["w"], axis=0)) @ p["out"]

    with pytest.raises(GraphError, match=r"parameter w meets an array of numbers alone whose rows grow"):
        solved(apply, three)


def test_what_one_use_trains_changes_in_the_others():
    """A weight used once more behind stop_gradient changes there as well: the same rates, by way of its own changes."""

    def apply(p: Any, x: Any, stop: Any = jax.lax.stop_gradient) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.tanh(z @ p["w"]) @ stop(p["w"])) @ p["out"]

    with_stop = solved(apply, three)
    assert {path: row.c for path, row in with_stop.parameters.items()} == {"in": 0, "w": 1, "out": 1}
    assert "w#2" in with_stop.uses


def test_a_model_of_which_nothing_is_trained_is_refused():
    with pytest.raises(GraphError, match="no parameter is trained"):
        solved(lambda p, x: jnp.sign(x @ p["in"]) @ jax.lax.stop_gradient(p["out"]), three)
