"""The page of JAX's primitives is what the rules are, and the rules are what the functions do."""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.graphs import exponents, graph, solve, solved, three
from tests.helpers.paths import ROOT
from verify.measuring.primitives import AT_SIZE_1, BOUNDED, POWERS, SMOOTH
from verify.model.graph.rules.groups import GROUPS, group_of
from verify.model.graph.rules.page import NONE, installed, page, rows

PAGE = ROOT / "docs" / "primitives.md"


@pytest.fixture(scope="module")
def names() -> set[str]:
    return installed()


def written() -> dict[str, tuple[str, list[str]]]:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "`" in line]
    cells = [line.strip("|").split(" | ") for line in lines]
    return {rule.strip(): (what.strip(), re.findall("`([^`]+)`", members)) for rule, what, members in cells}


def test_the_page_names_every_primitive_of_this_release(names: set[str]) -> None:
    named = {name for _, members in written().values() for name in members}
    assert len(names) > 250
    assert not names - named, "run python -m verify.model.graph.rules.page > docs/primitives.md"


def test_the_page_says_what_the_rules_are(names: set[str]) -> None:
    found = written()
    expected = rows(names | set(found[NONE][1]))
    assert found == expected, "run python -m verify.model.graph.rules.page > docs/primitives.md"
    if f"for JAX {jax.__version__};" in PAGE.read_text():
        assert PAGE.read_text() == page(names)


def test_no_primitive_has_two_rules() -> None:
    counted = [name for group in GROUPS.values() for name in set(group.members)]
    twice = {name for name in counted if counted.count(name) > 1}
    assert all(name in GROUPS["scattered"].members for name in twice), twice


def of_one(name: str) -> Callable[[Any], Any] | None:
    function = getattr(jax.lax, name, None)
    return None if function is None or name in ("igamma", "igammac", "igamma_grad_a", "zeta") else function


@pytest.mark.parametrize("name", POWERS)
def test_powers_have_their_degree(name: str) -> None:
    """f(tx) / f(x) = t^p; of the logarithm, for t far from its entries, up to a logarithm."""
    function, x = getattr(jax.lax, name), np.float32(1e6)
    found = np.log(float(function(x * 1e6) / function(x))) / np.log(1e6)
    assert found == pytest.approx(float(POWERS[name]), abs=0.06 if name == "log" else 1e-3)


@pytest.mark.parametrize("name", sorted(BOUNDED | SMOOTH))
def test_functions_are_at_0_what_their_rule_says(name: str) -> None:
    at_zero = float(getattr(jax.lax, name)(np.float32(0)))
    assert np.isfinite(at_zero) and (at_zero != 0) == (name in BOUNDED)


def test_functions_at_size_1_have_a_pole_at_0_or_go_by_the_smaller() -> None:
    assert not np.isfinite(float(jax.lax.lgamma(0.0))) and not np.isfinite(float(jax.lax.digamma(0.0)))
    assert float(jax.lax.atan2(1e-3, 1e-3)) == pytest.approx(np.pi / 4) and float(jax.lax.rem(1.0, 1e-3)) < 1e-3
    assert {"lgamma", "digamma", "atan2", "rem", "pow"} <= AT_SIZE_1


def through(function: Callable[[Any], Any]) -> Any:
    return lambda p, x: function(x @ p["in"]) @ p["w"] @ p["out"]


UNDERSTOOD: dict[str, Callable[[Any], Any]] = {
    "unstack": lambda z: sum(jnp.unstack(z, axis=0)),
    "composite": lambda z: jax.lax.composite(jnp.tanh, "house.tanh")(z),
    "debug_print": lambda z: (jax.debug.print("{}", z.sum()), jnp.tanh(z))[1],
    "debug_callback": lambda z: (jax.debug.callback(print, z), jnp.tanh(z))[1],
    "lgamma": jax.lax.lgamma,
    "atan2": lambda z: jnp.arctan2(z, 1 + z),
    "relu6": jax.nn.relu6,
    "clip": lambda z: jnp.clip(z, -1, 1),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_entries_of_size_1_pass_as_through_a_tanh(name: str) -> None:
    found, expected = (exponents(solved(through(each), three)) for each in (UNDERSTOOD[name], jnp.tanh))
    assert found == expected


def scaled(function: Callable[[Any, int], Any]) -> Any:
    """A function of z / n and n, z of size 1: what it makes of it goes into a product."""
    return lambda p, x: function(jnp.tanh(x @ p["in"]) / p["in"].shape[1], p["in"].shape[1]) @ p["w"] @ p["out"]


@pytest.mark.parametrize(
    ("name", "function", "same"),
    [
        ("a clip around 0 is the identity there", lambda z, _: jnp.clip(z, -1, 1), lambda z, _: z),
        ("relu6", lambda z, _: jax.nn.relu6(z), lambda z, _: jax.nn.relu(z)),
        ("a clip away from 0 is a function with f(0) = 1", lambda z, _: jnp.clip(z, 1, 2), lambda z, _: jnp.exp(z)),
        ("acos", lambda z, _: jnp.arccos(z), lambda z, _: jnp.exp(z)),
        ("cosh", lambda z, _: jnp.cosh(z), lambda z, _: jnp.exp(z)),
        ("a logarithm has no size", lambda z, _: jnp.log(jnp.abs(z)), lambda z, n: jnp.log(jnp.abs(z * n))),
    ],
)
def test_small_entries_come_out_as_the_function_is_near_0(name: str, function: Any, same: Any) -> None:
    del name
    found, expected = (solved(scaled(each), three).parameters for each in (function, same))
    assert [(r.b, r.c, r.g) for r in found.values()] == [(r.b, r.c, r.g) for r in expected.values()]


@pytest.mark.parametrize(
    ("words", "apply"),
    [
        ("lgamma of entries that are n^-1", scaled(lambda z, _: jax.lax.lgamma(z))),
        ("atan2 of entries that are n^-1", scaled(lambda z, _: jnp.arctan2(z, z[::-1]))),
        (
            "pure_callback is not understood: it is computed outside",
            through(lambda z: jax.pure_callback(np.tanh, jax.ShapeDtypeStruct(z.shape, z.dtype), z)),
        ),
        ("reduce is not understood: it takes", through(lambda z: z + jax.lax.reduce(z, 0.0, lambda a, b: a - b, (0,)))),
    ],
)
def test_what_cannot_be_told_is_named_with_the_reason(words: str, apply: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        solve(graph(apply, three))


def test_the_logarithm_of_a_sum_over_the_width_follows_its_change() -> None:
    """log sum_i exp(z_i) moves as the mean of the z_i that rule, whatever their number."""

    def gated(p: Any, x: Any) -> Any:
        z = x @ p["in"] @ p["w"]
        return jax.scipy.special.logsumexp(z, axis=-1, keepdims=True) * (x @ p["first"]) @ p["out"]

    found = solved(gated, lambda n: {**three(n), "first": (6, n)}).parameters
    assert (found["w"].c, found["in"].c, found["w"].b) == (1, 0, Fraction(1, 2))
    assert group_of("log") == "power"
