"""Laws that no right answer breaks, on random networks: they test rates without knowing any.

See docs/theory.md, section 11.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from derive.alignments import alignment
from derive.parameterizations import MUP, SP
from derive.registry import optimizers
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted
from verify.model.linear_program import ProgramError
from verify.model.make import graph_of

DEGREES = {"adam": 1, "sgd": 2, "muon": 1, "adam-ps": 0}
"""1 + k - m, by which a rate's exponent goes with a multiplier's (theory 6); of parameter scaling k is 0 and m is 1."""
BLOCKS = ("layer", "residual", "gate", "attention", "norm", "bias", "shared", "mixed")


@dataclass(frozen=True)
class Network:
    """Blocks in order, trained by a rule under a scheme and a loss."""

    blocks: tuple[str, ...]
    rule: str
    scheme: str
    loss: Any
    assumed: str

    @property
    def layers(self) -> list[str]:
        """The names of its dense ops' parameters that are used once."""
        parts = {"layer": "w", "residual": "wv", "gate": "wu", "attention": "qkvo", "mixed": "mt"}
        inner = [f"{index}.{part}" for index, block in enumerate(self.blocks) for part in parts.get(block, "")]
        return ["in", *inner, "out"]


NETWORKS = st.builds(
    Network,
    st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3).map(tuple),
    st.sampled_from(sorted(DEGREES)),
    st.sampled_from(["sp", "mup"]),
    st.sampled_from(["mse", "ce"]),
    st.sampled_from(["full", "none"]),
)
Product = Callable[[str, Any, Any], Any]
"""A dense op of a network, from its parameter's name, the input and the weight."""


def norm(z: Any) -> Any:
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def plain(name: str, z: Any, w: Any) -> Any:
    return z @ w


def apply_block(block: str, at: Callable[[str], Any], z: Any, product: Callable[[str, Any], Any]) -> Any:
    """One block on z (tokens, width); `at` gives a parameter of the block and `product` a dense op with it."""
    if block == "layer":
        return jnp.tanh(product("w", z))
    if block == "residual":
        return z + product("v", jax.nn.relu(product("w", norm(z))))
    if block == "gate":
        return jax.nn.sigmoid(product("w", z)) * product("u", z)
    if block == "attention":
        q, k, v = (product(name, z).reshape(len(z), 4, -1) for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("thd,shd->hts", q, k) / q.shape[-1])
        return z + product("o", jnp.einsum("hts,shd->thd", scores, v).reshape(z.shape))
    if block == "norm":
        return at("gain") * norm(z)
    if block == "bias":
        return z + at("bias")
    if block == "shared":
        return jnp.tanh(jnp.tanh(z @ at("s")) @ at("s"))
    return z + product("t", jnp.tanh(product("m", z.T))).T


def shapes_of(block: str, width: int, tokens: int) -> Mapping[str, tuple[int, ...]]:
    square = {"layer": "w", "residual": "wv", "gate": "wu", "attention": "qkvo", "shared": "s"}.get(block, "")
    found: dict[str, tuple[int, ...]] = dict.fromkeys(square, (width, width))
    found |= {"gain": (width,)} if block == "norm" else {"bias": (width,)} if block == "bias" else {}
    return found | ({"m": (tokens, width), "t": (width, tokens)} if block == "mixed" else {})


def make_of(network: Network, product: Product = plain, edit: Any = None, split: str | None = None) -> Any:
    """make(width); `edit` is done to the stream before every block, and `split` is a parameter held in two halves."""
    tokens = 4

    def make(width: int) -> Any:
        shapes: dict[str, tuple[int, ...]] = {"in": (6, width), "end": (width,), "out": (width, 2)}
        for index, block in enumerate(network.blocks):
            shapes |= {f"{index}.{name}": size for name, size in shapes_of(block, width, tokens).items()}
        if split:
            first, second = shapes.pop(split)
            shapes |= dict.fromkeys((f"{split}/left", f"{split}/right"), (first, second // 2))
        params = {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in shapes.items()}

        def dense(p: Any, name: str, z: Any) -> Any:
            if name == split:
                halves = [product(name, z, p[f"{name}/{half}"]) for half in ("left", "right")]
                return jnp.concatenate(halves, axis=-1)
            return product(name, z, p[name])

        def at(p: Any, index: int, name: str) -> Any:
            return p[f"{index}.{name}"]

        def inside(p: Any, index: int, name: str, z: Any) -> Any:
            return dense(p, f"{index}.{name}", z)

        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(dense(p, "in", x))
            for index, block in enumerate(network.blocks):
                z = edit(z) if edit else z
                z = apply_block(block, partial(at, p, index), z, partial(inside, p, index))
            return dense(p, "out", p["end"] * norm(z))

        return params, apply, jax.ShapeDtypeStruct((tokens, 6), jnp.float32)

    return make


def solved(network: Network, make: Any, requirement: int | None = None) -> Rates:
    """The network's rates; without the requirement of that index, counted round."""
    graph = graph_of(make, 32, 128)[0]
    if requirement is not None:
        kept = list(graph.requirements)
        kept.pop(requirement % len(kept))
        graph = replace(graph, requirements=kept)
    scheme = SP if network.scheme == "sp" else MUP
    return solve_graph(graph, Wanted(optimizers(network.rule), scheme, alignment(network.assumed), network.loss))


def c(rates: Rates) -> dict[str, Fraction]:
    return {path: row.c for path, row in rates.parameters.items()}


def moving_a_constant_across_a_product_changes_the_gauge_alone(network: Network, pick: int) -> None:
    """(z m) W, z (m W) and (z W) m: rates up to 1 + k - m times the exponent, a + b and r of every use as without m."""
    name, power = network.layers[pick % len(network.layers)], Fraction(1 + pick % 2, 2)
    bare = solved(network, make_of(network))

    def placed(where: str) -> Product:
        def product(path: str, z: Any, w: Any) -> Any:
            if path != name:
                return z @ w
            wide = max(w.shape[0], w.shape[1])
            m = (32 / wide) ** float(power)
            if where == "output":
                return (z @ w) * m
            return (z * m) @ w if where == "input" else z @ (w * m)

        return product

    for where in ("input", "weight", "output"):
        rates = solved(network, make_of(network, placed(where)))
        moved = DEGREES[network.rule] * power
        assert c(rates) | {name: c(rates)[name] + moved} == c(bare), (where, name)
        assert rates.parameters[name].b + power == bare.parameters[name].b, (where, name)
        for key, use in rates.uses.items():
            assert (use.total, use.r) == (bare.uses[key].total, bare.uses[key].r), (where, key)


def leaving_a_requirement_out_never_raises_the_sum(network: Network, pick: int) -> None:
    make = make_of(network)
    try:
        fewer = solved(network, make, requirement=pick)
    except ProgramError:  # nothing bounds the rates any more
        return
    assert sum(c(fewer).values()) <= sum(c(solved(network, make)).values())


def cross_entropy_asks_for_no_more_than_the_mean_square(network: Network, pick: int) -> None:
    """Wherever a multiplier stands: free logits leave a requirement out."""

    def product(path: str, z: Any, w: Any) -> Any:
        y = z @ w
        return y * (32 / z.shape[-1]) ** (pick % 3 / 2) if path == "out" else y

    make = make_of(network, product)
    mse, ce = (sum(c(solved(replace(network, loss=loss), make)).values()) for loss in ("mse", "ce"))
    assert ce <= mse


def multiplying_by_one_changes_nothing(network: Network, pick: int) -> None:
    edits = [lambda z: z * 1.0, lambda z: z * jnp.ones(z.shape[-1]), lambda z: z + 0.0, lambda z: z / jnp.ones(())]
    edits += [lambda z: z.T.T, lambda z: jnp.concatenate([z[:1], z[1:]]), lambda z: z[::-1][::-1]]
    first, second = solved(network, make_of(network)), solved(network, make_of(network, edit=edits[pick % len(edits)]))
    assert first.parameters.keys() == second.parameters.keys()
    for path, row in first.parameters.items():
        other = second.parameters[path]
        assert (row.role, row.b, row.c, row.g) == (other.role, other.b, other.c, other.g), path


def halves_of_a_weight_side_by_side_have_its_rate(network: Network, pick: int) -> None:
    names = [name for name in network.layers if name != "out"]
    name = names[pick % len(names)]
    whole, halves = solved(network, make_of(network)), solved(network, make_of(network, split=name))
    expected = {path: (row.role, row.b, row.c, row.g) for path, row in whole.parameters.items()}
    expected |= {f"{name}/{half}": expected[name] for half in ("left", "right")}
    del expected[name]
    assert {path: (row.role, row.b, row.c, row.g) for path, row in halves.parameters.items()} == expected


LAWS = [
    moving_a_constant_across_a_product_changes_the_gauge_alone,
    leaving_a_requirement_out_never_raises_the_sum,
    cross_entropy_asks_for_no_more_than_the_mean_square,
    multiplying_by_one_changes_nothing,
    halves_of_a_weight_side_by_side_have_its_rate,
]


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(NETWORKS, st.integers(0, 100))
def test_a_law_holds_on_random_networks(law: Callable[[Network, int], None], network: Network, pick: int):
    law(network, pick)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=500, deadline=None)
@given(NETWORKS, st.integers(0, 100))
def test_a_law_holds_on_many_random_networks(law: Callable[[Network, int], None], network: Network, pick: int):
    law(network, pick)
