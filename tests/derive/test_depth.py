"""Exponents along depth: published rules, a simulation that shares no code, laws, and what the commands say of them."""

import json
from fractions import Fraction
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sympy import Rational, S, Symbol

from derive import registry
from derive.axes import OUT, Axis
from derive.cli import main
from derive.depth import Residual, depth_axis, read_kappa, read_residual
from derive.optimizers import Optimizer
from tests.helpers.numpy_rules import update
from tests.helpers.published import DEPTH_EPSILONS, DEPTH_RATES, SHAMPOO_POWERS

WIDTH, SEEDS, SMALL = 8, 48, 1e-6
QUICK, LONG = (32, 128, 512), (64, 512, 4096)
EVERY_DAY = ("sgd", "adam", "adam-ps", "muon")


def axis(optimizer: str | Optimizer, delta: str, kappa: str = "full") -> Axis:
    return depth_axis(registry.optimizers(optimizer), read_residual(delta), read_kappa(kappa))


@pytest.mark.parametrize(("optimizer", "delta"), DEPTH_RATES)
def test_published_rates(optimizer: str, delta: str) -> None:
    assert str(axis(optimizer, delta).rows["hidden"].c) == DEPTH_RATES[optimizer, delta]


@pytest.mark.parametrize(("optimizer", "delta"), DEPTH_EPSILONS)
def test_published_epsilons(optimizer: str, delta: str) -> None:
    assert str(axis(optimizer, delta).rows["hidden"].epsilon) == DEPTH_EPSILONS[optimizer, delta]


@pytest.mark.parametrize("power", SHAMPOO_POWERS)
def test_shampoo_of_any_power(power: str) -> None:
    shampoo = Optimizer("custom", f"spectral(g,sigma/(sigma**2+eps)**({power}/2)/(sigma**2+eps)**({power}/2))")
    assert str(axis(shampoo, "completep").rows["hidden"].c) == SHAMPOO_POWERS[power]


def test_names_stand_for_their_delta() -> None:
    assert read_residual("depth-mup") == read_residual("0.5") == Residual(Rational(1, 2))
    assert read_residual("CompleteP") == Residual(S.One)
    assert read_residual("init") == read_residual("init:depth-mup") == Residual(Rational(1, 2), at_start=True)


def chain(rule: object, blocks: int, delta: float, rates: tuple[float, float], at_start: bool) -> NDArray[np.float64]:
    """[RMS(U) in, RMS(U) out, change of the stream, of a branch's inner layer] of one step, geometric mean over seeds.

    h <- h + N^-delta V relu(W h) from one input, and a gradient of size 1 at the end, full of this one example.
    """
    random = np.random.default_rng(5)
    start, last = random.normal(size=(2, SEEDS, WIDTH))
    both = random.normal(size=(blocks, 2, SEEDS, WIDTH, WIDTH)) / WIDTH**0.5
    w, v = both[:, 0] * 2**0.5, both[:, 1]
    multiplier, v = (1.0, v * blocks**-delta) if at_start else (blocks**-delta, v)

    def forward(w: NDArray[np.float64], v: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        stream, inner = [start], []
        for one, two in zip(w, v, strict=True):
            inner.append(np.einsum("sij,sj->si", one, stream[-1]))
            stream.append(stream[-1] + multiplier * np.einsum("sij,sj->si", two, np.maximum(inner[-1], 0)))
        return np.stack(stream), np.stack(inner)

    stream, inner = forward(w, v)
    to_w, to_v = np.empty_like(w), np.empty_like(v)
    back = last
    for block in reversed(range(blocks)):
        through = multiplier * np.einsum("sij,si->sj", v[block], back) * (inner[block] > 0)
        to_v[block] = multiplier * back[:, :, None] * np.maximum(inner[block], 0)[:, None, :]
        to_w[block] = through[:, :, None] * stream[block][:, None, :]
        back = back + np.einsum("sij,si->sj", w[block], through)
    one, two = update(rule, to_w, w), update(rule, to_v, v)
    moved, within = forward(w - SMALL * blocks ** -rates[0] * one, v - SMALL * blocks ** -rates[1] * two)
    sizes = [np.median(np.sqrt((part**2).mean((-2, -1))), 0) for part in (one, two)]
    sizes += [np.sqrt((part**2).mean(-1)) for part in (moved[-1] - stream[-1], within[-1] - inner[-1])]
    return np.array([np.log(size).mean() for size in sizes]) - np.array([0, 0, np.log(SMALL), np.log(SMALL)])


def slopes(rule: object, depths: tuple[int, ...], delta: float, rates: tuple[float, float], at_start: bool) -> NDArray:
    """d log size / d log N over the larger depths, of the four sizes of `chain`."""
    found = np.stack([chain(rule, blocks, delta, rates, at_start) for blocks in depths])
    return np.polyfit(np.log(depths), found, 1)[0]


NAMES = [pytest.param(row.name, marks=() if row.name in EVERY_DAY else pytest.mark.slow) for row in registry.REGISTRY]


@pytest.mark.parametrize("delta", ["depth-mup", "completep", "init"])
@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_changes_are_those_of_a_simulated_chain(name: str, delta: str) -> None:
    """RMS(U) of both matrices, and at the prescribed rates a stream and branches that change alike at every depth."""
    found, residual = axis(name, delta), read_residual(delta)
    inside, out = found.rows["hidden"], found.row("hidden", OUT)
    rates = (float(inside.c), float(out.c))
    rule = registry.optimizer(name).first_rule
    measured = slopes(rule, QUICK, float(residual.delta), rates, residual.at_start)
    assert inside.s is not None and out.s is not None
    assert measured == pytest.approx([-float(inside.s), -float(out.s), 0, 0], abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_DAY)
def test_and_of_one_of_four_thousand_blocks(name: str) -> None:
    found = axis(name, "completep")
    rate = float(found.rows["hidden"].c)
    measured = slopes(registry.optimizer(name).first_rule, LONG, 1.0, (rate, rate), False)
    assert measured == pytest.approx([-float(found.rows["hidden"].s or 0)] * 2 + [0, 0], abs=0.05)


@pytest.mark.parametrize("off", [-0.5, 0.5])
def test_a_rate_off_by_half_a_power_is_seen(off: float) -> None:
    rate = float(axis("adam", "depth-mup").rows["hidden"].c) + off
    assert abs(slopes(registry.optimizer("adam").first_rule, QUICK, 0.5, (rate, rate), False)[2]) > 0.4


@pytest.mark.parametrize("row", registry.REGISTRY, ids=lambda row: row.name)
def test_the_factor_at_the_start_is_a_gauge_of_the_multiplier(row: Optimizer) -> None:
    """(a, b) -> (a - delta, b + delta) on what writes into the stream, and there alone: c + (1 + k - m) delta."""
    for delta in ("1/2", "3/4", "1"):
        multiplied, drawn = axis(row, delta), axis(row, f"init:{delta}")
        k, m = row.gradient_degree((S.Zero, S.Zero), Rational(delta)), row.weight_degree
        assert drawn.out is not None
        assert drawn.out.c - multiplied.rows["hidden"].c == (1 + k - m) * Rational(delta)
        assert drawn.rows["hidden"].c == multiplied.rows["hidden"].c


@pytest.mark.parametrize("row", registry.REGISTRY, ids=lambda row: row.name)
def test_changes_that_add_up_less_never_lower_the_rate(row: Optimizer) -> None:
    rates = [axis(row, "3/4", kappa).rows["hidden"].c for kappa in ("1/2", "2/3", "3/4", "1")]
    assert rates == sorted(rates)
    assert rates[0] == rates[2] < rates[3]


def test_symbols_are_answered_and_agree_with_numbers() -> None:
    found = axis("sgd", "d", "k").rows["hidden"].c
    for delta, kappa in (
        (Fraction(1, 2), Fraction(1)),
        (Fraction(1), Fraction(1, 2)),
        (Fraction(3, 4), Fraction(3, 4)),
    ):
        numbers = {
            symbol: Rational(delta if symbol.name == "d" else kappa)
            for symbol in cast("set[Symbol]", found.free_symbols)
        }
        assert found.xreplace(numbers) == axis("sgd", str(delta), str(kappa)).rows["hidden"].c


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[object, str, str]:
    monkeypatch.setattr("sys.argv", ["derive", *arguments])
    monkeypatch.setattr("sys.stdout.close", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return ended.value.code, out, err


COMPLETEP = ("--residual", "completep", "--base-depth", "4", "--depth", "32")


def test_json_is_the_contract_and_numbers_multiply_across_axes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = ("--base-width", "64", "--width", "256", "--base-rate", "0.01")
    code, out, _ = said(
        capsys,
        monkeypatch,
        *COMPLETEP,
        *wide,
        *("--parameterization", "sp", "--base-batch", "8", "--batch", "32", "--format", "json"),
    )
    answer = json.loads(out)
    assert (code, answer["schema"], answer["base_depth"], answer["depth"]) == (0, 2, 4, 32)
    hidden = answer["layers"][1]
    assert hidden["depth"] == {"a": "1", "c": "0", "epsilon": "1", "decay": "0", "r": "1"}
    assert hidden["batch"] == {"c": "-1/2", "epsilon": "1/2", "decay": "-1/2", "beta": "-1"}
    assert hidden["rate"] == pytest.approx(0.01 / 4 * 2)
    assert hidden["epsilon_factor"] == pytest.approx(1 / 2 / 8 / 2)
    assert (hidden["branch_multiplier"], hidden["multiplier"], hidden["beta_factor"]) == (1 / 8, 1, 4)


def test_one_branch_has_one_multiplier_however_many_layers_it_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers' own multipliers, muP's, and the branch's stand apart: their product would count twice."""
    _, out, _ = said(
        capsys,
        monkeypatch,
        *COMPLETEP,
        "--parameterization",
        "ntk",
        "--base-width",
        "64",
        "--width",
        "256",
        "--format",
        "json",
    )
    hidden = json.loads(out)["layers"][1]
    assert (hidden["multiplier"], hidden["branch_multiplier"]) == (1 / 2, 1 / 8)


def test_without_an_axis_nothing_is_said_of_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = said(capsys, monkeypatch, "--format", "json")
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert not {"depth", "batch", "tokens"} & set(answer["layers"][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--residual", "1/4"), "grows as N^1/4; give 1/2 or more"),
        (("--residual", "half:1"), "give depth-mup, completep, delta, or init:delta"),
        (("--depth", "4", "--base-depth", "2"), "--depth needs --residual"),
        (("--residual", "1", "--depth", "4"), "--base-depth and --depth belong together"),
        (("--residual", "1", "--base-depth", "0", "--depth", "4"), "--base-depth 0 is not allowed"),
        (("--residual", "1", "--base-depth", "8", "--depth", "4"), "--base-depth 8 is above --depth 4"),
        (("--residual", "1", "--depth-alignment", "1/4"), "give full, none, or 1/2 to 1"),
        (("--depth-alignment", "none"), "--depth needs --residual"),
        (("--base-batch", "0", "--batch", "4"), "--base-batch 0 is not allowed; give a whole number from 1"),
        (("--batch", "4"), "--base-batch and --batch belong together"),
        (("--betas", "scaled"), "give --base-batch and --batch"),
        (("--base-batch", "4", "--batch", "8", "--betas", "wrong"), "unknown --betas"),
        (("--horizon", "longer"), "unknown --horizon"),
        (("table", "--axis", "width"), "unknown --axis"),
        (("table", "--axis", "depth", "--layers", "2"), "leave out --alignment and --layers"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = said(capsys, monkeypatch, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("chosen", ["table", "csv", "markdown", "latex", "json"])
@pytest.mark.parametrize("along", ["depth", "batch"])
def test_tables_of_every_optimizer(
    along: str, chosen: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = said(
        capsys,
        monkeypatch,
        "table",
        "--axis",
        along,
        "--format",
        chosen,
        "--optimizer",
        "adam",
        "--optimizer",
        "clip(g)",
    )
    assert code == 0
    assert "adam" in out and "clip(g)" in out


def test_emitted_code_gives_the_numbers_of_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--residual", "init", "--base-depth", "4", "--depth", "64", "--base-batch", "8", "--batch", "32")
    wide = ("--base-width", "64", "--width", "256", "--base-rate", "0.01")
    _, out, _ = said(capsys, monkeypatch, *asked, *wide, "--format", "json")
    layers = {layer["layer"]: layer for layer in json.loads(out)["layers"]}
    assert list(layers) == ["embedding", "hidden", "hidden.out", "readout"]
    _, out, _ = said(capsys, monkeypatch, *asked, "--format", "python")
    module: dict[str, object] = {}
    exec(out, module)  # noqa: S102
    numbers = module["scale"](256, 64, 64, 4, 32, 8, base_rate=0.01)  # type: ignore[operator]
    for name, layer in layers.items():
        assert numbers[name]["rate"] == pytest.approx(layer["rate"])
        assert numbers[name]["init"] == pytest.approx(layer["init_factor"])
        assert numbers[name]["epsilon"] == pytest.approx(layer["epsilon_factor"])
        assert numbers[name]["beta"] == pytest.approx(layer["beta_factor"]) == 4
    assert module["beta"]("hidden", 0.9, 256, 64, 64, 4, 32, 8) == pytest.approx(0.6)  # type: ignore[operator]
    with pytest.raises(ValueError, match="too far from those of the base"):
        module["beta"]("hidden", 0.9, 256, 64, 64, 4, 320, 8)  # type: ignore[operator]


@pytest.mark.parametrize("optimizer", ["adam", "lion", "momentum", "adam,hidden=muon"])
def test_emitted_optax_trains(
    optimizer: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out, _ = said(
        capsys,
        monkeypatch,
        *COMPLETEP,
        "--base-batch",
        "8",
        "--batch",
        "16",
        "--format",
        "optax",
        "--optimizer",
        optimizer,
    )
    module: dict[str, object] = {}
    exec(out, module)  # noqa: S102
    parameters = {"hidden": np.ones((4, 4), np.float32)}

    def step(*sizes: int) -> float:
        made = module["optimizer"]({"hidden": "hidden"}, 0.1, 64, 64, *sizes)  # type: ignore[operator]
        updates, _ = made.update({"hidden": np.eye(4, dtype=np.float32)}, made.init(parameters), parameters)
        return float(updates["hidden"][0, 0])

    base = step(4, 4, 8, 8)
    assert base < 0
    expected = {"adam": 2**0.5, "lion": 2**0.5, "momentum": 16, "adam,hidden=muon": 2**0.5}[optimizer]
    assert step(32, 4, 16, 8) / base == pytest.approx(expected, rel=1e-5)
