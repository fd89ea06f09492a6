"""Matrix rules on parameters of three and four axes: which axes are a matrix's, and a step on them by hand."""

import json
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import verify
from derive.emit_optax import as_optax
from derive.errors import DeriveError
from derive.running import run
from derive.solve import prescribe
from verify.commands.main import app
from verify.model.prescription import ModelPrescription
from verify.training.rules.directions import direction

BASE, WIDE = 8, 16
TOKENS = jax.ShapeDtypeStruct((4, 6, 3), jnp.float32)
Block = tuple[Callable[[int], Mapping[str, tuple[int, ...]]], Callable[[Any, Any], Any]]


def heads(p: Any, z: Any) -> Any:
    q, k = (jnp.einsum("btd,dhk->bthk", z, p[name]) for name in "qk")
    return z + jnp.einsum("bths,hsd->btd", jax.nn.silu(q) * k, p["o"])


def convolved(p: Any, z: Any) -> Any:
    numbers = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(z, p["w"], (1,), "SAME", dimension_numbers=numbers)


def grouped_rows(p: Any, z: Any) -> Any:
    rows = z.reshape(-1, z.shape[-1])
    return jax.lax.ragged_dot(rows, p["w"], jnp.array([4, 8, 12])).reshape(z.shape)


def chosen(p: Any, z: Any) -> Any:
    return jnp.einsum("btd,btdf->btf", z, p["w"][jnp.argmax(z[..., :3], -1)])


def one_hot(p: Any, z: Any) -> Any:
    return jnp.einsum("bte,btd,edf->btf", jax.nn.one_hot(jnp.argmax(z[..., :3], -1), 3), z, p["w"])


def scanned(p: Any, z: Any) -> Any:
    return jax.lax.scan(lambda z, w: (jnp.tanh(z @ w), None), z, p["w"])[0]


def sliced(p: Any, z: Any) -> Any:
    a, b, c = (jnp.einsum("btd,dhk->bthk", z, p["w"][:, index]) for index in range(3))
    return (a * b * c).reshape(z.shape)


def halves(p: Any, z: Any) -> Any:
    half = p["w"].shape[2] // 2
    return (z @ p["w"][:, 0, :half]) * (z @ p["w"][:, 0, half:])


def by_norm(p: Any, z: Any) -> Any:
    w = p["w"]
    return convolved({"w": w / jnp.sqrt((w**2).sum((0, 1), keepdims=True))}, z)


def standardised(p: Any, z: Any) -> Any:
    return by_norm({"w": p["w"] - p["w"].mean((0, 1), keepdims=True)}, z)


def tensor(*shape: int | str) -> Callable[[int], dict[str, tuple[int, ...]]]:
    return lambda n: {"w": tuple(n if each == "n" else int(each) for each in shape)}


BLOCKS: dict[str, tuple[Block, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]] = {
    "heads": (
        (lambda n: {"q": (n, n // 4, 4), "k": (n, n // 4, 4), "o": (n // 4, 4, n)}, heads),
        {"q": ((0,), (1, 2)), "k": ((0,), (1, 2)), "o": ((0, 1), (2,))},
    ),
    "a convolution": ((tensor(3, "n", "n"), convolved), {"w": ((0, 1), (2,))}),
    "experts by rows": ((tensor(3, "n", "n"), grouped_rows), {"w": ((1,), (2,))}),
    "experts by lookup": ((tensor(3, "n", "n"), chosen), {"w": ((1,), (2,))}),
    "layers of a loop": ((tensor(3, "n", "n"), scanned), {"w": ((1,), (2,))}),
    "three in one": ((lambda n: {"w": (n, 3, n // 4, 4)}, sliced), {"w": ((0,), (2, 3))}),
    "halves of one": ((lambda n: {"w": (n, 1, 2 * n)}, halves), {"w": ((0,), (2,))}),
    "turned": ((tensor("n", 1, "n"), lambda p, z: z @ p["w"][:, 0].T), {"w": ((2,), (0,))}),
    "divided by its norm": ((tensor(3, "n", "n"), by_norm), {"w": ((0, 1), (2,))}),
    "standardised": ((tensor(3, "n", "n"), standardised), {"w": ((0, 1), (2,))}),
}


def make_of(block: Block) -> Callable[[int], Any]:
    sizes, function = block

    def make(n: int) -> Any:
        shapes = {"first": (3, n), **sizes(n), "out": (n, 2)}
        params = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
        return params, lambda p, x: function(p, jnp.tanh(x @ p["first"])) @ p["out"], TOKENS

    return make


def prescribed(name: str, rule: str = "muon-rms", **how: Any) -> ModelPrescription:
    make = make_of(BLOCKS[name][0])
    return verify.prescribe(make, base_width=BASE, width=WIDE, optimizer=f"adam,hidden={rule}", **how)


def axes_of(answer: ModelPrescription) -> dict[str, Any]:
    return {row.path: (row.in_axes, row.out_axes) for row in answer.parameters if "muon" in row.rule}


def some_params(answer: ModelPrescription, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    return {row.path: jnp.asarray(generator.normal(size=row.shape), jnp.float32) for row in answer.parameters}


def polar(gradient: Any) -> Any:
    """Newton and Schulz in five steps, with the coefficients of Muon."""
    x = np.asarray(gradient, np.float64)
    x = x / np.linalg.norm(x)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def by_hand(tensor: Any, inputs: tuple[int, ...], outputs: tuple[int, ...], rms: bool = True) -> Any:
    """The step of RMS-aligned Muon on every matrix of a tensor, an index of the other axes at a time."""
    rest = [axis for axis in range(tensor.ndim) if axis not in (*inputs, *outputs)]
    moved = np.moveaxis(np.asarray(tensor), (*rest, *inputs, *outputs), range(tensor.ndim))
    found = np.empty_like(moved)
    for index in np.ndindex(*moved.shape[: len(rest)]):
        part = moved[index]
        fan_in = int(np.prod(part.shape[: len(inputs)]))
        matrix = part.reshape(fan_in, -1)
        scale = 0.2 * max(matrix.shape) ** 0.5 if rms else 1.0
        found[index] = (scale * polar(matrix)).reshape(part.shape)
    return np.moveaxis(found, range(tensor.ndim), (*rest, *inputs, *outputs))


def step(transform: optax.GradientTransformation, params: Any) -> Any:
    return transform.update(params, transform.init(params), params)[0]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_axes_of_every_form_and_one_step_on_its_matrices(name: str) -> None:
    answer, expected = prescribed(name), BLOCKS[name][1]
    assert axes_of(answer) == expected
    params = some_params(answer)
    found = step(answer.optimizer(-1.0), params)
    for path, sides in expected.items():
        rate = answer.factor(answer.row(path).c)
        np.testing.assert_allclose(found[path], rate * by_hand(params[path], *sides), atol=2e-5)


def test_emitted_code_takes_the_same_step_with_these_numbers() -> None:
    answer = prescribed("heads")
    params = some_params(answer)
    numbers = answer.dimension_numbers(params)
    assert numbers["q"] == optax.contrib.MuonDimensionNumbers((0,), (1, 2))
    assert numbers["first"] is numbers["out"] is None
    module = types.ModuleType("emitted")
    exec(as_optax(prescribe("adam,hidden=muon-rms", "sp")), module.__dict__)  # noqa: S102
    labels = {row.path: {"hidden": "hidden.0"}.get(row.role, row.role) for row in answer.parameters}
    ours, theirs = (
        step(each, params)
        for each in (answer.optimizer(0.1), module.optimizer(labels, 0.1, WIDE, BASE, numbers=numbers))
    )
    for path in params:
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-6)
    with pytest.raises(ValueError, match=r"'k'.* has shape \(16, 4, 4\): give its axes of fan-in and fan-out in `num"):
        step(module.optimizer(labels, 0.1, WIDE, BASE), params)


def test_optax_takes_the_numbers_of_a_prescription() -> None:
    answer = prescribed("a convolution", "muon-keller")
    params = some_params(answer)
    transform = optax.contrib.muon(-1.0, muon_weight_dimension_numbers=answer.dimension_numbers(params))
    np.testing.assert_allclose(step(answer.optimizer(-1.0), params)["w"], step(transform, params)["w"], atol=1e-6)


def test_one_matrix_per_head_where_that_is_asked_for() -> None:
    answer = prescribed("heads", "muon", apart={"q": 1, "o": 0})
    assert axes_of(answer) == {"q": ((0,), (2,)), "k": ((0,), (1, 2)), "o": ((1,), (2,))}
    params = some_params(answer)
    found = step(answer.optimizer(-1.0), params)
    for path, sides in axes_of(answer).items():
        rate = answer.factor(answer.row(path).c)
        np.testing.assert_allclose(found[path], rate * by_hand(params[path], *sides, rms=False), atol=2e-5)


@pytest.mark.parametrize(("path", "axis", "c"), [("q", None, 0), ("q", 1, 0.5), ("o", None, 0), ("o", 0, 0.5)])
def test_the_rate_of_matrices_apart_is_that_which_keeps_an_aligned_step_at_one_size(
    path: str, axis: int | None, c: float
) -> None:
    """RMS(U z) of a gradient of rank one, with as many heads of size 4 as fit: per head it grows as n^1/2."""
    apart = {} if axis is None else {path: axis}
    assert prescribed("heads", "muon", apart=apart).row(path).c == c

    def change(n: int) -> float:
        generator = np.random.default_rng(1)
        z, delta = generator.normal(size=n), generator.normal(size=n)
        gradient = np.outer(z, delta).reshape((n, n // 4, 4) if path == "q" else (n // 4, 4, n))
        parts = [gradient] if axis is None else np.split(gradient, n // 4, axis)
        left = [part.reshape((n, -1) if path == "q" else (-1, n)) for part in parts]
        update = [part / np.linalg.norm(part) for part in left]  # of rank one: its one singular value
        split = np.split(z, len(parts))
        steps = [z @ u for u in update] if path == "q" else [sum(a @ u for a, u in zip(split, update, strict=True))]
        return float(np.sqrt(np.mean(np.square(np.concatenate(steps)))))

    assert np.log(change(1024) / change(64)) / np.log(16) == pytest.approx(c, abs=0.1)


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("shampoo", marks=pytest.mark.slow),
        pytest.param("normuon", marks=pytest.mark.slow),
        "polar(m)*fan_out",
    ],
)
def test_a_rule_takes_stacked_matrices_as_it_takes_each(rule: str) -> None:
    answer = prescribed("experts by rows", rule)
    params, row = some_params(answer), answer.row("w")
    found = step(answer.optimizer(-1.0, epsilon=1e-8), params)["w"]
    alone = direction(rule)(1e-8 * answer.factor(row.epsilon))
    expected = jnp.stack([answer.factor(row.c) * step(alone, matrix) for matrix in params["w"]])
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_what_has_no_matrix_is_refused_by_name() -> None:
    def grouped(p: Any, z: Any) -> Any:
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(z, p["w"], (1,), "SAME", dimension_numbers=numbers, feature_group_count=2)

    make = make_of((lambda n: {"w": (3, n // 2, n)}, grouped))
    answer = verify.prescribe(make, base_width=BASE, width=WIDE, optimizer="adam,hidden=muon")
    with pytest.raises(DeriveError, match=r"muon updates matrices, and w has shape \(3, 8, 16\), of which no product"):
        answer.optimizer(0.1)
    for path, axis, words in (
        ("first", 0, "its rule, adam, takes no matrices of it"),
        ("q", 5, "axis 5, and that is none of"),
        ("quary", 1, "parameter in apart"),
    ):
        with pytest.raises(ValueError, match=words):
            prescribed("heads", "muon", apart={path: axis})


def test_the_command_takes_axes_by_path(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.model.make.load_make", lambda _: make_of(BLOCKS["heads"][0]))
    sizes = ["--base-width", str(BASE), "--width", str(WIDE), "--optimizer", "adam,hidden=muon", "--format", "json"]
    assert run(
        lambda: app(["prescribe", "models:heads", *sizes, "--apart", "[qk]=1"], standalone_mode=False), "verify"
    ) in (0, None)
    found = json.loads(capsys.readouterr().out)["parameters"]
    assert {row["path"]: row["c"] for row in found if row["rule"] == "muon"} == {"q": "1/2", "k": "1/2", "o": "0"}
    assert run(lambda: app(["prescribe", "models:heads", *sizes, "--apart", "q"], standalone_mode=False), "verify") == 2
    assert "--apart takes path=axis, such as blocks.*.query=1; got 'q'" in capsys.readouterr().err
