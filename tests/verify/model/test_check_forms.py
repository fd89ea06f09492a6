"""The check of models that have a start of zeros in a loop, or parameters that are not trained."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import verify
from derive.running import run
from verify.commands.main import app
from verify.model.check.check import coordinate_check

WIDTHS = (16, 32, 64)


def gated_recurrent(n: int) -> Any:
    """W (r * h) from a state of zeros, as haiku's GRU: in the first turn its product is 0 at every width."""
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "in": jax.random.normal(keys[0], (6, n)),
        "r": jax.random.normal(keys[1], (6, n)),
        "w": jax.random.normal(keys[2], (n, n)) * n**-0.5,
        "out": jax.random.normal(keys[3], (n, 2)) * n**-0.5,
    }

    def apply(p: Any, x: Any) -> Any:
        def step(h: Any, x: Any) -> Any:
            return jnp.tanh((jax.nn.sigmoid(x @ p["r"]) * h) @ p["w"] + x @ p["in"]), None

        return jax.lax.scan(step, jnp.zeros((x.shape[1], n)), x)[0] @ p["out"]

    return params, apply, jax.random.normal(keys[4], (3, 16, 6))


@pytest.mark.slow
def test_a_product_that_is_zero_in_the_first_turn_is_no_failure() -> None:
    answer = verify.prescribe(gated_recurrent, base_width=16, width=64)
    found = coordinate_check(
        gated_recurrent, answer, WIDTHS, base_rate=1e-3, seeds=2, steps=1, setups=("prescribed",)
    ).measured["prescribed"]
    assert not found.failures
    assert {row.reason for row in found.rows if row.layer == "w[0]" and row.quantity == "size"} == {"0 at every width"}


def with_adapter(n: int) -> Any:
    keys = jax.random.split(jax.random.key(0), 5)
    base = {"in": (6, n), "w": (n, n), "out": (n, 2)}
    params = {
        name: jax.random.normal(key, s) * s[0] ** -0.5 for key, (name, s) in zip(keys, base.items(), strict=False)
    }
    params["out"] *= n**-0.5

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(x @ p["base"]["in"])
        return jnp.tanh(z @ p["base"]["w"] + z @ p["A"] @ p["B"]) @ p["base"]["out"]

    adapter = {"A": jax.random.normal(keys[3], (n, 4)) * n**-0.5, "B": jnp.zeros((4, n))}
    return {"base": params, **adapter}, apply, jax.random.normal(keys[4], (16, 6))


def test_what_is_frozen_is_neither_trained_nor_judged() -> None:
    """The adapters alone move."""
    answer = verify.prescribe(with_adapter, base_width=16, width=64, frozen=["base"])
    check = coordinate_check(with_adapter, answer, (16, 64), base_rate=1e-3, seeds=2, steps=2, setups=("prescribed",))
    found = check.measured["prescribed"]
    assert found.passes
    moved = {row.layer for row in found.rows if row.quantity == "delta_w"}
    assert {"A", "B"} <= moved and not any(name.startswith("base") for name in moved)


@pytest.mark.slow
def test_the_command_freezes_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """`verify check --frozen base`: the adapters alone move; the base is a row "not trained" of the prescription."""
    monkeypatch.setattr("verify.model.make.load_make", lambda _: with_adapter)
    chosen = [
        "check",
        "models:with_adapter",
        "--widths",
        "16,64",
        "--seeds",
        "2",
        "--steps",
        "2",
        "--frozen",
        "base",
    ]
    arguments = [*chosen, "--out", str(tmp_path / "checked"), "--format", "json"]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["passes"]["prescribed"]
    moved = {row["layer"] for row in found["rows"] if row["quantity"] == "delta_w"}
    assert {"A", "B"} <= moved and not any(name.startswith("base") for name in moved)


@pytest.mark.parametrize("how", ["optimizer", "rescale"])
def test_a_frozen_parameter_stays_as_it_is(how: str) -> None:
    answer = verify.prescribe(with_adapter, base_width=16, width=32, frozen=["base"])
    params, apply, x = with_adapter(32)
    if how == "rescale":
        moved = answer.rescale(params)
    else:
        transform = answer.optimizer(0.1)
        gradients = jax.grad(lambda p: (apply(p, x) ** 2).mean())(params)
        steps = transform.update(gradients, transform.init(params), params)[0]
        moved = jax.tree.map(jnp.add, params, steps)
        assert not bool(jnp.all(moved["B"] == params["B"]))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), moved["base"], params["base"])))
