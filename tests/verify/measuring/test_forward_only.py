"""Multipliers that act forward only: rates by hand, against a trained step, and in a model with a rule of its own."""

import json
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from derive.cli import app
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization, custom
from derive.running import run
from derive.solve import prescribe

UNIT = "a=0,1/2,1;b=0,0,0"
HALF = Fraction(1, 2)


def rates(rule: str | Optimizer, **how: Any) -> list[str]:
    return [str(layer.c) for layer in prescribe(rule, custom(UNIT), "full", **how).layers]


def test_rates_by_hand() -> None:
    """d is what it was, (0, 1, 1); c = d - a - s with s = k g and g = (1, 1, 0), where it was (1, 3/2, 1)."""
    assert rates("sgd", forward_only=True) == ["-1", "-1/2", "0"]
    assert rates("sgd") == ["-1", "-1", "-1"]
    assert rates("adam", forward_only=True) == rates("adam") == ["0", "1/2", "0"]
    for rule in ("sgd", "adam"):
        for seen in (False, True):
            answer = prescribe(rule, custom(UNIT), "full", forward_only=seen)
            assert [layer.r for layer in answer.layers] == [0, 0, 0], "the same changes, at the rates of each"
            assert answer.certificate is not None


@pytest.mark.parametrize("rule", ["sgd", "adam", "muon", "kfac", "lamb", "adafactor", "m*rms(w)", "g**3"])
@pytest.mark.parametrize("theta", [HALF, Fraction(-1, 4)])
def test_a_shift_moves_the_rate_by_theta_and_by_the_weights_degree(rule: str, theta: Fraction) -> None:
    """(a, b) -> (a + theta, b - theta) on the hidden layer: c -> c - (1 - m) theta; U of the gradient stays."""
    given = Optimizer("mine", rule) if "(" in rule or "*" in rule else rule
    schemes = [
        Parameterization("shifted", tuple(map(custom_number, a)), tuple(map(custom_number, b)))
        for a, b in (((0, 0, 0), (0, HALF, HALF)), ((0, theta, 0), (0, HALF - theta, HALF)))
    ]
    before, after = (prescribe(given, scheme, "full", forward_only=True).layers[1] for scheme in schemes)
    degree = {"lamb": 1, "adafactor": 1, "m*rms(w)": 1}.get(rule, 0)
    assert after.c - before.c == -(1 - degree) * theta
    assert (after.g, after.r, after.epsilon) == (before.g, before.r, before.epsilon)


def custom_number(value: int | Fraction) -> Any:
    from sympy import Rational

    return Rational(Fraction(value).numerator, Fraction(value).denominator)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def scaled_product(x: Any, w: Any, scale: float) -> Any:
    """x w times a number that the gradient of w does not have."""
    return scale * (x @ w)


def _forward(x: Any, w: Any, scale: float) -> Any:
    return scaled_product(x, w, scale), (x, w)


def _backward(scale: float, kept: Any, g: Any) -> Any:
    x, w = kept
    return scale * (g @ w.T), x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])


scaled_product.defvjp(_forward, _backward)


def make(n: int, product: Callable[[Any, Any, float], Any] = scaled_product) -> Any:
    keys = jax.random.split(jax.random.key(0), 4)
    sizes = {"in": (6, n), "w": (n, n), "out": (n, 3)}
    params = {name: jax.random.normal(key, size) for key, (name, size) in zip(keys, sizes.items(), strict=False)}

    def apply(p: Any, x: Any) -> Any:
        z = jnp.tanh(product(x, p["in"], 1.0))
        return product(jnp.tanh(product(z, p["w"], n**-0.5)), p["out"], 1 / n)

    return params, apply, jax.random.normal(keys[3], (8, 6)), lambda out, _: ((out - 1) ** 2).mean()


def true_product(x: Any, w: Any, scale: float) -> Any:
    return scale * (x @ w)


@pytest.mark.parametrize(("product", "forward_only"), [(scaled_product, True), (true_product, False)])
def test_gradients_and_a_step_of_a_model_are_as_prescribed(product: Any, forward_only: bool) -> None:
    """Its own gradients over widths have the slopes -g, and SGD at n^-c changes every layer as much at each width."""
    answer = verify.prescribe(
        partial(make, product=product), base_width=64, width=128, optimizer="sgd", forward_only=forward_only
    )
    assert [str(answer.row(path).c) for path in ("in", "w", "out")] == rates("sgd", forward_only=forward_only)

    def sizes(n: int) -> dict[str, float]:
        params, apply, x, loss = make(n, product)
        gradients = jax.grad(lambda p: loss(apply(p, x), x))(params)
        exponents = {path: float(answer.row(path).c) for path in params}
        moved = {path: params[path] - 1e-3 * n ** -exponents[path] * gradients[path] for path in params}
        found = {f"g {path}": gradients[path] for path in params}
        found["change"] = jnp.tanh(x @ moved["in"]) @ moved["w"] - jnp.tanh(x @ params["in"]) @ params["w"]
        found["change"] *= n**-0.5
        found["output"] = apply(moved, x) - apply(params, x)
        return {name: float(jnp.sqrt(jnp.mean(jnp.square(each)))) for name, each in found.items()}

    small, large = sizes(64), sizes(512)
    slopes = {name: float(np.log(large[name] / small[name]) / np.log(8)) for name in small}
    for path in ("in", "w", "out"):
        assert slopes[f"g {path}"] == pytest.approx(-float(answer.row(path).g), abs=0.12), path
    assert slopes["change"] == pytest.approx(0, abs=0.15)
    assert slopes["output"] == pytest.approx(0, abs=0.15)


def test_multipliers_that_wrap_puts_in_act_forward_only_too() -> None:
    def bare(n: int) -> Any:
        params, _, x, _ = make(n)
        return params, lambda p, x: jnp.tanh(jnp.tanh(x @ p["in"]) @ p["w"]) @ p["out"], x

    answer = verify.prescribe(
        bare, base_width=16, width=64, optimizer="sgd", parameterization="mfp", gauge="own", forward_only=True
    )
    rows = [answer.row(path) for path in ("in", "w", "out")]
    assert [str(row.a) for row in rows] == ["0", "1/2", "1"]
    assert [str(row.c) for row in rows] == ["-1", "-1/2", "0"]
    params, apply, x = bare(64)
    wrapped = answer.wrap(apply)
    scaled = {row.path: params[row.path] * answer.factor(row.a) for row in rows}
    np.testing.assert_allclose(wrapped(params, x), apply(scaled, x), rtol=1e-5, atol=1e-6)
    seen, plain = (jax.grad(lambda p, f=f: f(p, x).sum())(at) for f, at in ((wrapped, params), (apply, scaled)))
    for row in rows:
        np.testing.assert_allclose(seen[row.path], plain[row.path], rtol=2e-4, atol=1e-5)
    assert verify.ModelPrescription.from_json(answer.to_json()).forward_only


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--optimizer", "sgd", "--a=0,1/2,1", "--b=0,0,0", "--forward-only"]
    assert run(lambda: app([*chosen, "--format", "json"], standalone_mode=False), "derive") in (0, None)
    found = json.loads(capsys.readouterr().out)
    assert found["forward_only"] is True and [layer["c"] for layer in found["layers"]] == ["-1", "-1/2", "0"]
    assert run(lambda: app(["check", "--c=-1,-1/2,0", *chosen], standalone_mode=False), "derive") in (0, None)
    assert "multipliers forward only" in capsys.readouterr().out
