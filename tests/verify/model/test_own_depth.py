"""The user's own model along depth: rows by hand, multipliers that are seen, and what cannot be in one line."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import verify
from derive.errors import DeriveError
from verify.model.make import load_make
from verify.model.prescription import ModelPrescription
from verify.torch.emit import as_torch

HALF = "1/2"


def norm(z: Any) -> Any:
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def residual(
    delta: float = 0.0, start: float = 0.0, normed: bool = True, shared: bool = False, scan: bool = False
) -> Callable[[int, int], Any]:
    """make(width, depth) of blocks z + N^-delta down(relu(up(norm z))), down drawn N^-start smaller."""

    def make(width: int, depth: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(0), 2 * depth + 2))
        tidy = norm if normed else lambda z: z

        def matrix(scale: float = 1.0) -> Any:
            return scale * jax.random.normal(next(keys), (width, width)) / width**0.5

        blocks = [{"up": matrix(), "down": matrix(depth**-start)} for _ in range(1 if shared else depth)]
        params: dict[str, Any] = {"first": jax.random.normal(next(keys), (4, width)), "last": matrix()[:, :3]}
        params["blocks"] = jax.tree.map(lambda *each: jnp.stack(each), *blocks) if scan else blocks

        def add(z: Any, weights: Any) -> Any:
            return z + depth**-delta * (jax.nn.relu(tidy(z) @ weights["up"]) @ weights["down"])

        def apply(params: Any, inputs: Any) -> Any:
            z = inputs @ params["first"]
            if scan:
                z, _ = jax.lax.scan(lambda z, weights: (add(z, weights), None), z, params["blocks"])
            else:
                for index in range(depth):
                    z = add(z, params["blocks"][0 if shared else index])
            return tidy(z) @ params["last"]

        return params, apply, jnp.ones((2, 4))

    return make


def prescribed(make: Any, optimizer: str = "adam", **given: Any) -> ModelPrescription:
    return verify.prescribe(
        make, **{"base_width": 16, "width": 32, "base_depth": 2, "depth": 8, **given}, optimizer=optimizer
    )


def along(answer: ModelPrescription, path: str, *names: str) -> list[str]:
    return [str(answer.row(path).depth[name]) for name in names]


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "delta", "start", "up", "down"),
    [
        ("adam", 1.0, 0.0, ("0", "1", "0"), ("0", "1", "0")),
        ("sgd", 1.0, 0.0, ("-1", "1", "0"), ("-1", "1", "0")),
        ("adam", 0.5, 0.0, (HALF, HALF, "0"), (HALF, HALF, "0")),
        ("sgd", 0.0, 0.5, ("0", HALF, "0"), ("1", "0", HALF)),
        ("adam", 0.5, 0.5, ("0", "1", "0"), (HALF, HALF, HALF)),
    ],
)
def test_multipliers_and_starts_are_seen_and_rows_are_those_by_hand(
    optimizer: str, delta: float, start: float, up: tuple[str, ...], down: tuple[str, ...], scan: bool
) -> None:
    """(c, g, b): kappa = 1, so c = 1 - (delta + start) (1 + k) inside, and for down 1 - delta (1 + k)."""
    answer = prescribed(residual(delta, start, scan=scan), optimizer)
    prefix = "blocks" if scan else "blocks.7"
    assert tuple(along(answer, f"{prefix}.up", "c", "g", "b")) == up
    assert tuple(along(answer, f"{prefix}.down", "c", "g", "b")) == down
    for path in ("first", "last"):
        assert along(answer, path, "c", "g", "b") == ["0", "0", "0"]


def test_numbers_multiply_and_starts_are_those_of_the_base() -> None:
    answer = prescribed(residual(0.0, 0.5), "sgd", base_width=16, width=64)
    row = answer.row("blocks.5.down")
    assert answer.scaled(row, "c") == answer.factor(row.c) * 4**-1.0
    assert answer.scaled(row, "b") == answer.factor(row.b) * 4**-0.5
    assert row.std == pytest.approx(16**-0.5 * 2**-0.5, rel=0.1)
    rates = answer.rates(answer.structure)
    assert rates["blocks"][5]["down"] == answer.scaled(row, "c")
    assert ModelPrescription.from_json(answer.to_json()) == answer
    assert "depth 2 -> 8" in str(answer)


def test_without_a_multiplier_a_note_says_what_it_costs() -> None:
    answer = prescribed(residual())
    assert along(answer, "blocks.3.up", "a", "c", "epsilon") == ["0", HALF, HALF]
    assert any("delta = 0" in note and "grows as N^1/2" in note for note in answer.notes)
    linear = prescribed(residual(0.5))
    assert any("it is linearised" in note for note in linear.notes)
    assert not any("branch" in note for note in prescribed(residual(1.0)).notes)


def test_changes_that_do_not_add_up_leave_larger_rates() -> None:
    answer = prescribed(residual(0.5), depth_alignment="none")
    assert along(answer, "blocks.0.up", "c") == ["0"]


def odd(width: int, depth: int) -> Any:
    params, apply, inputs = residual()(width, depth)
    return (params | ({"more": jnp.ones(width)} if depth > 2 else {})), apply, inputs


def chain(width: int, depth: int) -> Any:
    weights = [jnp.eye(width) for _ in range(depth)]

    def apply(params: Any, inputs: Any) -> Any:
        for weight in params["layers"]:
            inputs = jax.nn.relu(inputs @ weight)
        return inputs @ params["last"]

    return {"layers": weights, "last": jnp.ones((width, 3))}, apply, jnp.ones((2, width))


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (residual(), {"base_depth": 0}, "--base-depth 0 is not allowed; give a whole number from 1"),
        (residual(), {"depth": 0}, "--depth 0 is not allowed"),
        (residual(), {"base_depth": 8, "depth": 2}, "--base-depth 8 is not below --depth 2"),
        (residual(), {"depth": None}, "--base-depth and --depth belong together"),
        (residual(), {"depth_alignment": "1/4"}, "give full, none, or 1/2 to 1"),
        (odd, {}, "blocks do not match: 'more' is there at only one of depths 2 and 8"),
        (chain, {}, "there is no residual stream h \\+ f\\(h\\)"),
        (residual(shared=True, scan=False), {}, "change neither a parameter nor its shape"),
        (residual(normed=False), {}, "grows as N\\^1/2 at the start, and no norm divides by it"),
        (residual(0.25, normed=False), {}, "grows as N\\^1/4 at the start"),
    ],
)
def test_what_cannot_be_is_one_line(make: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeriveError, match=message) as refused:
        prescribed(make, **given)
    assert "\n" not in str(refused.value)


IN_BRANCH = {"completep": ("0", "1"), "none": (HALF, HALF)}


@pytest.mark.parametrize(
    ("name", "outside", "multiplier"),
    [
        ("equinox_residual", ("first.", "norm.", "last."), "completep"),
        ("scan_layers", ("tokens", "positions", "readout"), "none"),
        pytest.param("nnx_transformer", ("tokens", "positions", "norm.", "head"), "none", marks=pytest.mark.slow),
    ],
)
def test_examples_in_every_row(name: str, outside: tuple[str, ...], multiplier: str) -> None:
    """From (64, 2) to (256, 8) by Adam: (c, epsilon) are CompleteP's where branches are divided by the depth."""
    make = load_make(f"examples.{name}:make")
    answer = verify.prescribe(make, base_width=64, width=256, base_depth=2, depth=8)
    for row in answer.parameters:
        expected = ("0", "0") if row.path.startswith(outside) else IN_BRANCH[multiplier]
        assert tuple(along(answer, row.path, "c", "epsilon")) == expected, row.path
        stacked = name == "scan_layers" and row.path.startswith("blocks")
        assert not stacked or (row.base_shape[0], row.shape[0]) == (2, 8)
        assert answer.scaled(row, "c") == pytest.approx(4 ** -float(row.c + Fraction(expected[0])))


def test_what_goes_by_the_width_alone_refuses_depth() -> None:
    """Torch code and the coordinate check would leave the factors of depth out without a word."""
    answer = prescribed(residual(1.0))
    for use in (
        lambda: as_torch(answer),
        answer.torch,
        lambda: verify.coordinate_check(lambda width: residual(1.0)(width, 4), answer, (8, 16)),
    ):
        with pytest.raises(DeriveError, match="goes by the width alone, and this prescription by depth 2 -> 8 too"):
            use()
