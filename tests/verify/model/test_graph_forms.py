"""Common forms of layers: two ways to write one function have one answer, and the rest has its answer by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.graphs import HALF, Apply, exponents, graph, same, shape, solved, three
from verify.model.graph.graph import GraphError


def test_a_stack_is_a_concatenation():
    def stacked(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.stack([z, jnp.roll(z, 1, axis=-1)], axis=-1).mean(axis=-1) @ p["w"]) @ p["out"]

    def joined(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        parts = [z[..., None], jnp.roll(z, 1, axis=-1)[..., None]]
        return jnp.tanh(jnp.concatenate(parts, axis=-1).mean(axis=-1) @ p["w"]) @ p["out"]

    found = same(stacked, joined, three)
    assert {path: (row[2], row[3]) for path, row in found.items()} == {"in": (0, 0), "w": (HALF, 1), "out": (1, 1)}


def test_a_mean_over_a_mapped_axis_is_a_mean():
    def mapped(p: Any, x: Any) -> Any:
        def one(row: Any) -> Any:
            z = row @ p["in"]
            return jnp.tanh((z - jax.lax.pmean(z, "b")) @ p["w"]) @ p["out"]

        return jax.vmap(one, axis_name="b")(x)

    def whole(p: Any, x: Any) -> Any:
        z = x @ p["in"]
        return jnp.tanh((z - z.mean(0)) @ p["w"]) @ p["out"]

    same(mapped, whole, three)


def test_a_fourier_transform_over_the_width_and_back_is_nothing():
    def there_and_back(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.fft.irfft(jnp.fft.rfft(z)) @ p["w"]) @ p["out"]

    def mixed(p: Any, x: Any) -> Any:
        z = jnp.fft.fft(jnp.tanh(x @ p["in"])).real
        z = z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)
        return jnp.tanh(z @ p["w"]) @ p["out"]

    plain = exponents(solved(lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"], three))
    assert exponents(solved(there_and_back, three)) == plain
    assert exponents(solved(mixed, three)) == plain
    with pytest.raises(GraphError, match=r"grows as n\^1/2"):
        solved(lambda p, x: jnp.tanh(jnp.fft.fft(x @ p["in"]).real @ p["w"]) @ p["out"], three)


def test_the_largest_of_a_segment_is_one_of_them_and_products_of_size_1_stay():
    def graph_layer(reduce: str) -> Apply:
        def apply(p: Any, x: Any) -> Any:
            z, edges = jnp.tanh(x @ p["in"]), jnp.array([0, 1, 1, 0, 2])
            if reduce == "mul":
                y = jnp.ones((3, z.shape[1])).at[edges].multiply(z)
            else:
                y = getattr(jax.ops, f"segment_{reduce}")(z, edges, 3)
            return jnp.tanh(y @ p["w"]) @ p["out"]

        return apply

    plain = exponents(solved(lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"], three))
    for reduce in ("max", "min", "sum", "mul"):
        assert exponents(solved(graph_layer(reduce), three)) == plain, reduce
    with pytest.raises(GraphError, match=r"scatter.mul of entries that are not of size 1"):
        solved(
            lambda p, x: (
                jnp.ones((3, len(p["w"]))).at[:, :].multiply(jnp.tanh(x @ p["in"])[:3] / len(p["w"])) @ p["out"]
            ),
            three,
        )


def test_experts_by_groups_of_rows_by_lookup_and_by_one_hot_codes_are_one():
    """fan-in n and 4n, hidden, rate n^-1; the router gets what the best two experts make."""

    def experts(form: str) -> Apply:
        def apply(p: Any, x: Any) -> Any:
            z = x @ p["in"]
            score, chosen = jax.lax.top_k(z @ p["router"], 2)
            share = jax.nn.softmax(score)
            if form == "lookup":
                h = jax.nn.gelu(jnp.einsum("bd,bkdf->bkf", z, p["up"][chosen]))
                y = jnp.einsum("bkf,bkfd,bk->bd", h, p["down"][chosen], share)
            elif form == "ragged":
                flat = chosen.reshape(-1)
                order = jnp.argsort(flat)
                sizes = jnp.bincount(flat, length=8)
                h = jax.lax.ragged_dot(jnp.repeat(z, 2, 0)[order], p["up"], sizes)
                h = jax.lax.ragged_dot(jax.nn.gelu(h), p["down"], sizes)
                y = (jnp.zeros_like(h).at[order].set(h).reshape(-1, 2, z.shape[1]) * share[..., None]).sum(1)
            else:
                codes = jax.nn.one_hot(chosen, 8)
                h = jax.nn.gelu(jnp.einsum("bke,bd,edf->bkf", codes, z, p["up"]))
                y = jnp.einsum("bke,bkf,efd,bk->bd", codes, h, p["down"], share)
            return (z + y) @ p["out"]

        return apply

    def sizes(n: int) -> dict[str, tuple[int, ...]]:
        return {"in": (6, n), "router": (n, 8), "up": (8, n, 4 * n), "down": (8, 4 * n, n), "out": (n, 3)}

    found = same(experts("ragged"), experts("lookup"), sizes)
    assert found == same(experts("one hot"), experts("lookup"), sizes)
    assert {path: row[0] for path, row in found.items()} == dict.fromkeys(["router", "up", "down"], "hidden") | {
        "in": "embedding",
        "out": "readout",
    }
    assert {row[2:4] for path, row in found.items() if path in ("up", "down")} == {(HALF, 1)}


def test_matrices_that_are_looked_up_and_multiplied_by_entries_are_a_table():
    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])[..., None] * p["tables"][jnp.argmax(x, axis=1)]
        return jnp.tanh(z.sum(-1) @ p["w"]) @ p["out"]

    found = exponents(solved(apply, lambda n: three(n) | {"tables": (7, n, 4)}))
    assert (found["tables"][0], found["tables"][2], found["tables"][3]) == ("embedding", 0, 0)


def test_a_branch_is_a_choice_and_a_loop_over_data_as_many_turns_as_there_are():
    def branch(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jax.lax.cond(x.sum() > 0, lambda z: z @ p["w"], lambda z: z, z)) @ p["out"]

    def choice(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["in"])
        return jnp.tanh(jnp.where(x.sum() > 0, z @ p["w"], z)) @ p["out"]

    def loop(p: Any, x: Any) -> Any:
        turns = jnp.argmax(x.sum(0)) + 1
        z = jax.lax.fori_loop(0, turns, lambda _, z: z + 0.1 * jnp.tanh(z @ p["w"]), x @ p["in"])
        return z @ p["out"]

    def scan(p: Any, x: Any) -> Any:
        z = jax.lax.scan(lambda z, _: (z + 0.1 * jnp.tanh(z @ p["w"]), None), x @ p["in"], None, length=3)[0]
        return z @ p["out"]

    same(branch, choice, three)
    same(loop, scan, three)
    with pytest.raises(GraphError, match="another size after every turn"):
        solved(
            lambda p, x: (
                jax.lax.fori_loop(0, jnp.argmax(x), lambda _, z: z * len(p["w"]), jnp.tanh(x @ p["in"])) @ p["out"]
            ),
            lambda n: {"in": (6, n), "w": (n, n), "out": (n, 2)},
        )


def test_data_that_no_parameter_enters_may_be_made_in_any_way():
    def apply(p: Any, x: Any) -> Any:
        y = jax.lax.while_loop(lambda y: y.sum() > 1, lambda y: y / 2, jnp.abs(x))
        y = y @ jnp.linalg.inv(x.T @ x + jnp.eye(6))
        return jnp.tanh(jnp.tanh(y @ p["in"]) @ p["w"]) @ p["out"]

    plain = exponents(solved(lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"], three))
    assert exponents(solved(apply, three)) == plain


@pytest.mark.parametrize("guard", [lambda y: y + 1e-12, lambda y: jnp.maximum(y, 1e-6)])
def test_a_small_number_that_keeps_a_norm_from_0_leaves_its_size(guard: Any):
    """Heads of 16 entries, n^-1/2 each since all is of norm 1, divided by their norm: 1/4 each, whatever guards it."""

    def divided(norm: Any) -> Apply:
        def apply(p: Any, x: Any) -> Any:
            z = jnp.tanh(x @ p["in"])
            z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
            y = (z @ (p["w"] / jnp.linalg.norm(p["w"], axis=0))).reshape(len(x), -1, 16)
            y = y * jax.lax.rsqrt(norm(jnp.sum(y**2, axis=-1, keepdims=True)))
            return jnp.tanh(y.reshape(len(x), -1)) @ p["out"]

        return apply

    found = same(divided(lambda y: y), divided(guard), three)
    assert {path: (row[2], row[3], row[4]) for path, row in found.items()} == {
        "in": (0, 0, 1),
        "w": (HALF, 1, 1),
        "out": (1, 1, 0),
    }


def test_a_product_with_data_is_linear_and_what_enters_it_is_still_a_readout():
    """Messages along a matrix among the inputs, behind the last weight, as graph networks have them, or before it."""

    def graph_network(behind: bool) -> Apply:
        def apply(p: Any, inputs: Any) -> Any:
            x, near = inputs
            z = jnp.tanh(near @ jnp.tanh(x @ p["in"]) @ p["w"])
            return near @ (z @ p["out"]) if behind else (near @ z) @ p["out"]

        return apply

    behind, before = (
        exponents(solved(graph_network(each), three, (shape(5, 6), shape(5, 5)))) for each in (True, False)
    )
    assert behind == before
    assert behind["out"][:4] == ("readout", 0, 1, 1)


def test_experts_that_grow_in_number_are_in_no_fan_and_see_a_share_of_the_rows():
    """As many experts as n / 8 for a fixed batch: n x n each, and every one of them sees n^-1 of the rows."""

    def apply(p: Any, x: Any) -> Any:
        sizes = jnp.zeros(len(p["w"]), int).at[0].set(len(x))
        return jax.lax.ragged_dot(jnp.tanh(x @ p["in"]), p["w"], sizes) @ p["out"]

    (use,) = (use for use in graph(apply, lambda n: three(n) | {"w": (n // 8, n, n)}).uses if use.path == "w")
    assert (use.fan_in.power, use.fan_out.power, use.shared) == (1, 1, -1)
