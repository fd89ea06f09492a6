"""Networks along depth: multipliers and starts, what a stream's change is made of by hand, and the command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sympy import S

from derive.depth import depth_axis, read_residual
from derive.running import run
from derive.solve import prescribe, solve_kinds
from verify.commands.main import app
from verify.measuring.stream import measure_stream
from verify.training.config import Config
from verify.training.networks import label_writers

Capture = pytest.CaptureFixture[str]
SIZES = {"vocabulary": 8, "context": 4, "head_dimension": 4}


def config(residual: str, depth: int) -> Config:
    solved = solve_kinds(prescribe("sgd").problem)
    axis = depth_axis(solved.problem.optimizers, read_residual(residual), S.One, sizes=(2, depth))
    sizes = {**SIZES, "blocks": depth}
    return Config(replace(solved, axes=(axis,)), 8, 0.1, model="transformer", batch=2, probe=2, sizes=sizes)


def test_a_multiplier_and_a_start_are_relative_to_the_base_depth() -> None:
    base, deep, drawn = (config(*given).at(8) for given in (("1", 2), ("1", 8), ("init", 8)))
    assert (base.branch_multiplier, deep.branch_multiplier, drawn.branch_multiplier) == (1, 1 / 4, 1)  # type: ignore[attr-defined]
    plain, small = deep.init(jax.random.key(0))["blocks"]["7"], drawn.init(jax.random.key(0))["blocks"]["7"]
    for name in plain:
        factor = 0.5 if name in ("o", "down") else 1.0
        np.testing.assert_array_equal(factor * plain[name], small[name])
    parameters = drawn.parameters()
    labels = label_writers(parameters, jax.tree.map(lambda parameter: parameter.kind, parameters))
    assert labels["blocks"]["0"] == {
        **dict.fromkeys(("q", "k", "v", "up"), "hidden"),
        **dict.fromkeys(("o", "down"), "hidden.out"),
    }


class Scalars:
    """z <- z + w z twice in a block, one entry; logits are u z."""

    @property
    def branches(self) -> dict[str, Any]:
        """What a block adds."""
        return {name: lambda weights, z, name=name: weights[name] * z for name in ("first", "second")}

    def enter(self, params: Any, _: Any) -> Any:
        """The stream as it begins."""
        return params["start"] * jnp.ones((1, 1, 1))

    def leave(self, params: Any, z: Any) -> Any:
        """The logits."""
        return params["last"] * z


def test_a_change_is_that_of_weights_of_the_stream_and_a_rest() -> None:
    def tree(start: float, first: float, second: float, last: float) -> dict[str, Any]:
        return {"start": start, "blocks": {"first": jnp.array([first]), "second": jnp.array([second])}, "last": last}

    found = measure_stream(Scalars(), tree(1.0, 2.0, 0.5, 1.0), tree(1.5, 2.25, 0.25, 2.0), jnp.ones(1))  # type: ignore[arg-type]
    z, moved = (1.0, 3.0, 4.5), (1.5, 4.875, 6.09375)
    first = {"size": 2.0, "own": 0.25 * z[0], "passed": 2.0 * 0.5, "delta": 2.25 * 1.5 - 2.0}
    second = {"size": 1.5, "own": 0.25 * z[1], "passed": 0.5 * (moved[1] - z[1]), "delta": abs(0.25 * 4.875 - 1.5)}
    for name, expected in (("first", first), ("second", second)):
        assert {each: float(value[0]) for each, value in found[name].items()} == pytest.approx(expected)
    own, passed = 0.25 - 0.75, 1.0 + second["passed"]
    stream = {"size": 4.5, "delta": moved[2] - 4.5, "embedding": 0.5, "own": abs(own), "passed": passed}
    stream["rest"] = abs(moved[2] - 4.5 - 0.5 - own - passed)
    assert {each: float(value) for each, value in found["stream"].items()} == pytest.approx(stream)
    assert float(found["logits"]["delta"]) == pytest.approx(2 * moved[2] - 4.5)


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(["exponents", *arguments], standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--axis", "length"), "unknown --axis"),
        (("--residual", "1"), "go with --axis depth"),
        (("--axis", "depth", "--depths", "4"), "a slope needs at least two"),
        (("--axis", "depth", "--depths", "0,4"), "0 is not a depth; give whole numbers from 1"),
        (("--axis", "depth", "--depths", "4,2"), "do not grow"),
        (("--axis", "depth", "--depths", "2,4", "--base-depth", "4"), "--base-depth 4 is above the first of --depths"),
        (("--axis", "depth", "--base-depth", "0"), "--base-depth 0 is not allowed"),
        (("--axis", "depth", "--batch", "0"), "--batch 0 is not allowed"),
        (("--axis", "depth", "--mesh", "2x1"), "--mesh does not go with --axis depth"),
        (("--axis", "depth", "--no-norm", "--residual", "1/4"), "the sum of N independent branches at the start grows"),
        (("--axis", "depth", "--optimizer", "kfac"), "unknown trainable optimizer"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: tuple[str, ...], message: str, capsys: Capture) -> None:
    code, out, err = verify(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_json_contract_and_going_on(tmp_path: Path, capsys: Capture) -> None:
    small = ("--axis", "depth", "--depths", "1,2", "--widths", "8", "--seeds", "2", "--steps", "2", "--batch", "4")
    given = (*small, "--context", "8", "--residual", "1", "--format", "json", "--out", str(tmp_path))
    code, out, err = verify(capsys, *given)
    assert code == 0, err
    found = json.loads(out)
    assert (found["command"], found["axis"], found["depths"]) == ("exponents", "depth", [1, 2])
    rows = {(row["layer"], row["quantity"], row["step"]): row for row in found["studies"][0]["rows"]}
    assert rows["stream", "kappa", 1]["predicted"] == "1" and rows["dense", "size", 1]["predicted"] == "1"
    assert verify(capsys, *given)[1] == out  # nothing is left to train
    code, _, err = verify(capsys, *given, "--base-rate", "0.5")
    assert code == 2 and "base_rate" in err
