"""Multipliers that wrap puts on branches: the function written out by hand, and what cannot be is refused."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.errors import DeriveError
from derive.running import run
from tests.verify.model.test_own_depth import along, chain, norm, prescribed, residual
from verify.commands.main import app
from verify.model.check.check import starts_at
from verify.model.check.coordinates import Coordinates
from verify.model.check.depth import depth_check, prescriptions
from verify.model.depth.prescribe import at_depth
from verify.model.graph.walk import path_name
from verify.model.make import build, load_make
from verify.model.prescription import ModelPrescription


def block(add: Callable[[Any, Any], Any], last: Callable[[Any], Any] = lambda z: z) -> Callable[[int, int], Any]:
    """make(width, depth) of blocks z -> add(z, weights), with a matrix and a bias that write into the stream."""

    def make(width: int, depth: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(0), 3 * depth + 2))

        def draw(*shape: int) -> Any:
            return jax.random.normal(next(keys), shape) / shape[0] ** 0.5

        blocks = [{"up": draw(width, width), "down": draw(width, width), "bias": draw(width)} for _ in range(depth)]

        def apply(params: Any, inputs: Any) -> Any:
            z = inputs @ params["first"]
            for weights in params["blocks"]:
                z = add(z, weights)
            return norm(last(z)) @ params["last"]

        return {"first": draw(4, width), "last": draw(width, 3), "blocks": blocks}, apply, jnp.ones((2, 4))

    return make


def branch(z: Any, weights: Any) -> Any:
    return jax.nn.relu(norm(z) @ weights["up"]) @ weights["down"] + weights["bias"]


def accumulated(z: Any, weights: Any) -> Any:
    """Of (what came in, the branches so far), as some code has it."""
    return jnp.stack([z[0], z[1] + branch(z[0] + z[1], weights)])


def scaled(params: Any, ends: Collection[str], factor: float) -> Any:
    """The parameters with those that write into the stream times the factor, which is a multiplier by hand."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * factor if path_name(path).endswith(tuple(ends)) else leaf, params
    )


def agrees(make: Any, answer: ModelPrescription, ends: Collection[str], factor: float) -> None:
    params, apply, inputs = make(16, 8)[:3]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases that start at 0 would show nothing
    inputs = inputs(0) if callable(inputs) else inputs
    by_hand = apply(scaled(params, ends, factor), inputs)
    assert np.allclose(answer.at(16).wrap(apply)(params, inputs), by_hand, rtol=1e-5, atol=1e-5)
    assert not np.allclose(apply(params, inputs), by_hand, rtol=1e-2)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    ("asked", "found", "c", "factor"),
    [("1", 0.0, "0", 1 / 4), ("depth-mup", 0.0, "1/2", 1 / 2), ("completep", 0.5, "0", 1 / 2), ("1/2", 1.0, "1/2", 2)],
)
def test_what_the_code_lacks_is_put_in_and_rates_are_those_of_the_whole(
    asked: str, found: float, c: str, factor: float, scan: bool
) -> None:
    """From 2 to 8 blocks N^-x is 4^-x; Adam's rate is N^-(1 - delta)."""
    make = residual(found, scan=scan)
    answer = prescribed(make, residual=asked)
    assert along(answer, "blocks.up" if scan else "blocks.7.up", "c") == [c]
    assert answer.needs_wrapping and [4 ** -float(x) for x in answer.branches.values()] == [factor]
    agrees(make, answer, ["down"], factor)
    assert ModelPrescription.from_json(answer.to_json()) == answer


def test_what_has_the_multiplier_stays_as_it_is() -> None:
    answer = prescribed(residual(1.0), residual="1")
    apply = residual(1.0)(16, 8)[1]
    assert answer.branches == {} and not answer.needs_wrapping and answer.at(16).wrap(apply) is apply
    assert (
        "branches" in answer.to_json()
        and "branches" not in verify.prescribe(lambda width: residual(1.0)(width, 2), base_width=16, width=32).to_json()
    )


def test_a_bias_that_writes_into_the_stream_is_multiplied_too() -> None:
    make = block(lambda z, weights: z + branch(z, weights))
    answer = prescribed(make, residual="1")
    assert set(answer.branches) == {"blocks.*.bias", "blocks.*.down, blocks.*.up"}
    agrees(make, answer, ["down", "bias"], 1 / 4)
    assert str(answer).count("by 0.25 (N^-1): wrap(apply) does") == 2


def test_branches_that_are_added_up_by_themselves_are_multiplied_once() -> None:
    make = block(lambda z, weights: z + branch(z, weights))

    def apart(width: int, depth: int) -> Any:
        params, _, inputs = make(width, depth)

        def apply(params: Any, inputs: Any) -> Any:
            first, more = inputs @ params["first"], 0.0
            for weights in params["blocks"]:
                more = more + branch(first + more, weights)
            return norm(first + more) @ params["last"]

        return params, apply, inputs

    agrees(apart, prescribed(apart, residual="1"), ["down", "bias"], 1 / 4)


def test_the_wrapped_function_is_seen_to_have_its_multiplier() -> None:
    """Prescribed for once more there is nothing left to put in, and rates are the same."""
    make = block(lambda z, weights: z + branch(z, weights))
    answers = {
        2: prescribed(make, base_depth=1, depth=2, residual="1"),
        8: prescribed(make, base_depth=1, residual="1"),
    }

    def wrapped(width: int, depth: int) -> Any:
        params, apply, inputs = make(width, depth)
        return params, answers[depth].wrap(apply), inputs

    again = prescribed(wrapped, residual="1")
    assert again.branches == {}
    assert [row.depth for row in again.parameters] == [row.depth for row in prescribed(make, residual="1").parameters]


def test_without_a_norm_a_multiplier_makes_the_sum_finite() -> None:
    make = residual(normed=False)
    with pytest.raises(DeriveError, match="no norm divides by it"):
        prescribed(make)
    assert along(prescribed(make, residual="1/2"), "blocks.0.up", "c") == ["1/2"]


def used_twice(z: Any, weights: Any) -> Any:
    more = branch(z, weights)
    return z + more + 0.0 * jnp.tanh(more)


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (residual(), {"residual": "init"}, "--residual 'init': of your own model it is the multiplier"),
        (residual(), {"residual": "delta"}, "give a number from 0, such as 1/2 or 1"),
        (residual(), {"residual": "-1"}, "give a number from 0"),
        (residual(), {"residual": "x y"}, "--residual"),
        (residual(normed=False), {"residual": "1/4"}, "grows as N\\^1/4 at the start"),
        (residual(), {"residual": "1", "base_depth": None, "depth": None}, "--residual goes with --base-depth"),
        (block(used_twice), {"residual": "1"}, "no multiplier can be put on the branch with .*used by tanh too"),
    ],
)
def test_what_cannot_be_is_one_line(make: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeriveError, match=message) as refused:
        prescribed(make, **given) if given.get("depth", 8) else prescribed(lambda width: make(width, 2), **given)
    assert "\n" not in str(refused.value)


def test_another_function_than_the_one_it_is_for_is_refused() -> None:
    params, apply, inputs = chain(16, 8)
    with pytest.raises(DeriveError, match="there is no sum with the branch"):
        prescribed(residual(), residual="1").at(16).wrap(apply)(params, inputs)


def test_a_check_measures_the_wrapped_function() -> None:
    answer = prescriptions(residual(), 16, (2, 8), residual="1")[8]
    model = build(at_depth(residual(), 8), 16)
    coordinates = Coordinates(model, answer)
    starts = starts_at(answer, "prescribed", model, 16)
    for depth, factor in ((2, 1.0), (8, 1 / 4)):  # with the numbers of the base depth it is as it is
        apply = coordinates.wrapped(coordinates.prescribed(coordinates.numbers(16, starts, depth)))
        by_hand = model.apply(scaled(model.params, ["down"], factor), model.batch(0))
        assert np.allclose(apply(model.params, model.batch(0)), by_hand, rtol=1e-5)


@pytest.mark.slow
def test_a_check_trains_what_is_wrapped_and_sees_a_miscounted_multiplier() -> None:
    """delta = 0 in the code: SGD's rate N belongs to branches of 1/N, and is rejected where they stay as they are."""
    make = residual(scan=True)
    answers = prescriptions(make, 16, (2, 8), optimizer="sgd", residual="1")
    right = depth_check(make, answers, seeds=3, steps=1, base_rate=0.1)
    assert list(right.measured) == ["prescribed"] and right.measured["prescribed"].verdict == "passes"
    bare = {depth: replace(answer, branches={}) for depth, answer in answers.items()}
    wrong = depth_check(make, bare, seeds=3, steps=1, base_rate=0.1, setups=("prescribed",))
    assert wrong.measured["prescribed"].verdict == "fails"


def test_the_commands_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--base-width", "8", "--width", "16", "--base-depth", "2", "--depth", "4"]
    command = ["prescribe", "tests.verify.model.test_branch_multipliers:small", *sizes, "--residual", "1"]
    assert run(lambda: app(command, standalone_mode=False), "verify") == 0
    assert "multiply the branch with 'blocks.down, blocks.up' by 0.5 (N^-1)" in capsys.readouterr().out
    for other in (["prescribe", "m:make", *sizes[:4]], ["check", "m:make"]):
        assert run(lambda other=other: app([*other, "--residual", "1"], standalone_mode=False), "verify") == 2
        assert "--residual goes with" in capsys.readouterr().err


small = residual(scan=True)
ENDS = {
    "equinox_residual": ["down.weight", "down.bias"],
    "scan_layers": ["blocks.o", "blocks.down"],
    "nnx_transformer": ["out.kernel.value", "out.bias.value", "down.kernel.value", "down.bias.value"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scan_layers", "nnx_transformer"])
def test_examples_have_what_they_lack(name: str) -> None:
    make = load_make(f"examples.{name}:make")
    answer = prescribed(make, residual="1")
    assert {along(answer, row.path, "c")[0] for row in answer.parameters} == {"0"}
    agrees(make, answer, ENDS[name], 1 / 4)
