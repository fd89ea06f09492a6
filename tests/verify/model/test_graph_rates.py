"""Rates over graphs: the closed form on chains; sums, products, attention and ties (docs/theory.md, section 4)."""

from fractions import Fraction
from random import Random
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from sympy import Rational

import verify
from derive.alignments import FULL, Alignment, Ratios
from derive.parameterizations import MFP, MUP, NTK, SP, Parameterization
from derive.propagation import Problem
from derive.registry import optimizers
from derive.solve import prescribe, solve
from tests.helpers.zoo import ZOO
from verify.model.graph.graph import GraphError
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of
from verify.training.networks import Scaling
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import Transformer

HALF = Fraction(1, 2)
SCHEMES: dict[str, Parameterization] = {"sp": SP, "ntk": NTK, "mup": MUP, "mfp": MFP}
RULES = ["sgd", "adam", "adafactor", "lars", "muon", "normalised-sgd", "shampoo", "adam,hidden=muon"]
FAST = ("sgd", "adam", "muon")


def own(kind: type[MLP] | type[Transformer], scheme: Parameterization, **sizes: Any) -> Any:
    """One of the project's models as a user's: with that scheme's multipliers in its code."""

    def make(width: int) -> Any:
        model = kind(Scaling(width, 64, scheme.a, scheme.b), **sizes)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        return shapes, model.apply, jax.ShapeDtypeStruct((2, model.context), jnp.int32)

    return make


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def solved(
    make: Any, optimizer: str = "adam", scheme: Parameterization = SP, alignment: Alignment = FULL, **how: Any
) -> Rates:
    return solve_graph(graph_of(make, 64, 256)[0], Wanted(optimizers(optimizer), scheme, alignment, **how))


@pytest.mark.parametrize(
    "rule", [rule if rule in FAST else pytest.param(rule, marks=pytest.mark.slow) for rule in RULES]
)
@pytest.mark.parametrize(
    "name", ["sp", "mup", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ntk", "mfp"))]
)
def test_chains_and_transformers_have_the_rates_that_derive_has(rule: str, name: str):
    """a, b, c, g and epsilon, with the model's own multipliers and with those that wrap() puts in."""
    for alignment in ("full", "none", "prior"):
        layers = {layer.kind: layer for layer in prescribe(rule, name, alignment).layers}
        for make in (own(MLP, SP), own(Transformer, SCHEMES[name], blocks=1)):
            answer = verify.prescribe(
                make, base_width=64, width=256, optimizer=rule, parameterization=name, alignment=alignment, gauge="own"
            )
            for row in answer.parameters:
                layer = layers[row.role]
                found = (row.a + row.found, row.b, row.c, row.g, row.epsilon)
                expected = (layer.a, layer.b, layer.c, layer.g, layer.epsilon)
                assert list(map(str, found)) == list(map(str, expected)), row.path


@pytest.mark.parametrize("loss", ["mse", "ce"])
@pytest.mark.parametrize("rule", ["sgd", "adam", "adam-ps", "muon"])
def test_measured_alignments_give_the_closed_form_of_a_chain(rule: str, loss: Any):
    """Random alignments per layer, u above alpha among them, where raising one r pays for another."""
    random = Random(f"{rule} {loss}")
    graph = graph_of(own(MLP, SP, hidden_layers=3), 64, 256)[0]
    for trial in range(8):
        ratios = [Ratios(*(Rational(random.randint(0, 20), 20) for _ in range(3))) for _ in range(4)]
        scheme = list(SCHEMES.values())[trial % 4]
        alignment = Alignment("random", ratios[0], ratios[3], dict(enumerate(ratios[:3])), 3)
        chain = solve(Problem(optimizers(rule), scheme, alignment, 3, loss=loss))
        names = ["hidden.0", "hidden.1", "hidden.2", "readout"]
        measured = dict(zip(names, ratios, strict=True))
        rates = solve_graph(
            graph, Wanted(optimizers(rule), scheme, FULL, loss, own_multipliers=True, measured=measured)
        )
        found = [rates.parameters[name].c for name in ["embedding", *names]]
        assert list(map(str, found)) == list(map(str, chain.c))
        r = [rates.uses[name].r for name in ["embedding", *names]]
        assert list(map(str, r)) == [str(layer.r) for layer in chain.layers]


def test_the_residual_of_a_sum_is_the_smallest_and_of_a_product_of_two_as_well():
    """z = x + V (W x * U x): with rates n^0 for V alone, W and U at theirs, r is V's -1; a gate adds nothing."""

    def make(width: int) -> Any:
        params = {"in": shape(8, width), "w": shape(width, width), "u": shape(width, width), "v": shape(width, width)}

        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            return z + (jax.nn.silu(z @ p["w"]) * (z @ p["u"])) @ p["v"]

        return params, apply, shape(3, 8)

    rates = solved(make)
    assert {path: row.c for path, row in rates.parameters.items()} == {"in": 0, "u": 1, "v": 1, "w": 1}
    assert rates.uses["v"].r == 0


def test_an_unstable_readout_asks_every_branch_before_it_for_more():
    """Under `prior` SP's readout wants r = 1/2 of what it reads: a residual stream, so of all that is added to it."""
    layers = solved(own(Transformer, SP, blocks=2), alignment=prescribe("adam", "sp", "prior").problem.alignment)
    assert {
        layers.parameters[f"blocks.{block}.{name}"].c for block in range(2) for name in ("q", "o", "up", "down")
    } == {Fraction(3, 2)}
    assert layers.parameters["embedding.positions"].c == HALF


def attention(scale: str) -> Any:
    """Four heads that grow with the width; scores divided by the power of the head's dimension that is named."""

    def make(width: int) -> Any:
        params = {name: shape(width, width) for name in "qkvo"} | {"in": shape(8, width), "out": shape(width, 3)}

        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            q, k, v = ((z @ p[name]).reshape(*z.shape[:-1], 4, -1) for name in "qkv")
            scores = jnp.einsum("thd,shd->hts", q, k) * q.shape[-1] ** {"root": -0.5, "whole": -1.0}[scale]
            mixed = jnp.einsum("hts,shd->thd", jax.nn.softmax(scores), v)
            return (z + mixed.reshape(z.shape) @ p["o"]) @ p["out"]

        return params, apply, shape(5, 8)

    return make


@pytest.mark.parametrize(
    ("scale", "alignment", "extra"),
    [("root", "full", HALF), ("whole", "full", 0), ("root", "none", 0), ("whole", "none", 0)],
)
def test_scores_are_divided_by_the_heads_dimension_or_its_root(scale: str, alignment: str, extra: Fraction):
    rates = solved(attention(scale), alignment=prescribe("adam", "sp", alignment).problem.alignment)
    assert rates.products == {"dot": extra}
    assert rates.parameters["q"].c == rates.parameters["v"].c  # not paid for by the rates


def test_a_tied_table_is_as_an_embedding_and_its_readout_is_divided_by_the_width():
    """Its input holds rows of the table itself, so its products with them add up as n, SP or not."""

    def make(width: int) -> Any:
        def apply(p: Any, x: Any) -> Any:
            return jnp.tanh(p["table"][x] @ p["w"]) @ p["table"].T

        return {"table": shape(50, width), "w": shape(width, width)}, apply, jax.ShapeDtypeStruct((4,), jnp.int32)

    for scheme in (SP, MUP):
        rates = solved(make, scheme=scheme)
        table = rates.parameters["table"]
        assert (table.role, table.b, table.c) == ("embedding", 0, 0)
        assert rates.uses["table#2"].extra == 1
        assert any("table is used 2 times" in note for note in rates.notes)
    # Muon's ||U||_op = 1 and RMS(U) = n^-1/2 on 50 x n allow |U^T z| = n^1/2 RMS(z), alpha = 1, the other way round.
    assert solved(make, "muon").uses["table#2"].alpha == 1


def test_the_same_matrix_used_again_has_one_rate():
    def make(width: int) -> Any:
        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            for _ in range(3):
                z = jnp.tanh(z @ p["w"])
            return z @ p["out"]

        return {"in": shape(8, width), "w": shape(width, width), "out": shape(width, 3)}, apply, shape(5, 8)

    rates = solved(make)
    assert (rates.parameters["w"].b, rates.parameters["w"].c) == (HALF, 1)
    assert [rates.uses[name].extra for name in ("w", "w#2", "w#3")] == [0, 0, 0]


def test_every_op_goes_by_its_own_fans():
    """d_ff grows as n^(1/2) or not at all: sizes and rates follow each op's fan-in, and odd powers are named."""

    def make_ff(growth: Fraction) -> Any:
        def make(width: int) -> Any:
            ff = 128 if not growth else int(128 * (width / 64) ** float(growth))
            params = {"in": shape(8, width), "up": shape(width, ff), "down": shape(ff, width), "out": shape(width, 3)}

            def apply(p: Any, x: Any) -> Any:
                z = x @ p["in"]
                return (z + jax.nn.relu(z @ p["up"]) @ p["down"]) @ p["out"]

            return params, apply, shape(5, 8)

        return make

    for growth in (Fraction(0), HALF, Fraction(1), Fraction(2)):
        answer = verify.prescribe(make_ff(growth), base_width=64, width=256, parameterization="sp")
        up, down = answer.row("up"), answer.row("down")
        assert (up.role, up.b, up.c) == ("hidden", HALF, 1)
        assert (down.b, down.c) == (growth / 2, growth)
        assert down.role == ("hidden" if growth else "embedding")
        odd = growth not in (0, 1)
        assert any("128 ->" in note and f"n^{growth}" in note for note in answer.notes) == odd
    small = verify.prescribe(make_ff(Fraction(0)), base_width=64, width=256, optimizer="sgd", parameterization="sp")
    # Backward, n outputs of the narrow layer's product each send n^-1/2: gradients stay, and so does up's rate.
    assert [small.row(path).g for path in ("up", "down")] == [0, HALF]


def test_multipliers_in_the_code_count_wherever_they_stand():
    """Before the product, on the weight, or behind the bias: b is what is left of 1/2."""

    def make_with(place: str) -> Any:
        def make(width: int) -> Any:
            m = width**-0.5

            def apply(p: Any, x: Any) -> Any:
                z = jnp.tanh(x @ p["in"])
                h = {
                    "input": lambda: (z * m) @ p["w"] + p["bias"],
                    "weight": lambda: z @ (p["w"] * m) + p["bias"],
                    "output": lambda: m * (z @ p["w"] + p["bias"]),
                    "divided": lambda: z @ p["w"] / width**0.5 + p["bias"],
                }[place]()
                return jnp.tanh(h) @ p["out"]

            params = {"in": shape(8, width), "w": shape(width, width), "bias": shape(width), "out": shape(width, 3)}
            return params, apply, shape(5, 8)

        return make

    for place in ("input", "weight", "output", "divided"):
        rates = solved(make_with(place)).parameters
        assert (rates["w"].found, rates["w"].b, rates["w"].c) == (HALF, 0, HALF), place
        expected = -HALF if place == "output" else 0
        assert (rates["bias"].b, rates["bias"].c) == (expected, expected), place


def test_the_answer_carries_its_proof():
    """Duals by name: the optimum is what they say, from the constraints' bounds alone."""
    rates = solved(own(Transformer, SP, blocks=2))
    bound = -sum((y * row.bound for y, row in zip(rates.solution.duals, rates.rows, strict=True)), Fraction(0))
    assert bound == rates.solution.optimum == sum(row.c for row in rates.parameters.values())
    assert rates.parameters["blocks.0.up"].binding == ("blocks.0.up: dW z",)


BAD: dict[str, tuple[Any, str]] = {
    "a reduction of one's own": (
        lambda p, x: jax.lax.reduce(x @ p["in"] @ p["w"], 0.0, lambda a, b: a - b, (0,)) @ p["out"],
        "reduce is not understood: it takes a function",
    ),
    "an eigenvector": (
        lambda p, x: jnp.linalg.qr(x @ p["in"] @ p["w"])[1] @ p["out"],
        "qr is not understood",
    ),
    "weights of weights": (lambda p, x: x @ p["in"] @ jnp.tanh(p["w"]) @ p["out"], "computed from parameter w by tanh"),
    "two in one": (lambda p, x: x @ p["in"] @ (p["w"] @ p["w"].T) @ p["out"], "computed from parameter w by dot"),
    "growing": (lambda p, x: jnp.tanh((x @ p["in"] @ p["w"]).sum(-1, keepdims=True) * p["out"][0]), "grows as n^1/2"),
    "weights divided by their norm": (
        lambda p, x: (x @ p["in"] @ p["w"]) / jnp.linalg.norm(p["w"], axis=0) @ p["out"],
        "what meets activations entry by entry, (5, 64) -> (5, 256), is computed from parameter w by reduce_sum",
    ),
    "a matrix looked up and changed": (
        lambda p, x: jnp.einsum("bi,bio->bo", x @ p["in"], jnp.tanh(p["w"])[None][jnp.argmax(x, axis=1)]) @ p["out"],
        "is computed from parameter w by tanh",
    ),
    "merged": (
        lambda p, x: jnp.tanh(x @ p["in"]) @ (p["w"] + p["in"].T @ p["in"]) @ p["out"],
        "computed from parameter in and parameter w",
    ),
    "a gain of a gain": (
        lambda p, x: x @ p["in"] @ (p["w"] * (p["w"].T @ p["out"])[:, :1]) @ p["out"],
        "may be a matrix that is computed from parameters alone",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_decided_is_named(case: str):
    apply, message = BAD[case]

    def make(width: int) -> Any:
        return {"in": shape(8, width), "w": shape(width, width), "out": shape(width, 3)}, apply, shape(5, 8)

    with pytest.raises(GraphError) as caught:
        solved(make)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_depthwise_convolution_sends_every_channel_back_alone():
    """As measured in test_graph_sizes (slow): all gradients before SP's readout go as n^-1/2."""
    answer = verify.prescribe(ZOO["convolutions"].make, base_width=32, width=128, parameterization="sp")
    assert {row.g for row in answer.parameters if not row.path.startswith("head")} == {HALF}


def test_a_layer_chosen_by_the_data_is_a_layer():
    def make(width: int) -> Any:
        def apply(p: Any, x: Any) -> Any:
            return x @ p["in"] @ p["layers"][jnp.argmax(x.sum(axis=1))] @ p["out"]

        params = {"in": shape(8, width), "layers": shape(4, width, width), "out": shape(width, 3)}
        return params, apply, shape(5, 8)

    rates = solved(make).parameters
    assert (rates["layers"].role, rates["layers"].b, rates["layers"].c) == ("hidden", HALF, 1)


def test_two_programs_are_not_one():
    def make(width: int) -> Any:
        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            for part in range(width // 64):
                z = z.at[:, part].set(0.0)
            return z

        return {"in": shape(8, width)}, apply, shape(5, 8)

    with pytest.raises(GraphError, match="not the same program"):
        solved(make)
