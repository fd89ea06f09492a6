"""`verify phase`: r over a plane of rate exponents, predicted and measured; the command's contract and its errors."""

import gzip
import json
from dataclasses import asdict
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sympy import Rational

from derive.errors import DeriveError
from derive.running import run
from derive.solve import solve_kinds
from verify.commands.main import app
from verify.provenance import made as made_now
from verify.studies.phase import study as module
from verify.studies.phase.kept import PHASE
from verify.studies.phase.plane import Conditions, grid, read_exponents
from verify.studies.phase.result import PhaseResult, agreements
from verify.studies.phase.study import train, usual_rate
from verify.studies.study import Part, differences
from verify.training.config import Config
from verify.training.data import load_corpus, next_token
from verify.training.networks import Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.rules.usual import base_epsilon
from verify.training.trainer import Trainer

Capture = pytest.CaptureFixture[str]
WIDTHS, BATCH, CONTEXT, DEPTH, STEPS, RATE = (16, 32), 16, 2, 2, 2, 0.004
SMALL = ["--widths", "16,32", "--seeds", "2", "--steps", str(STEPS), "--batch", str(BATCH), "--base-rate", str(RATE)]
SMALL += ["--context", str(CONTEXT), "--depth", str(DEPTH), "--c-hidden", "1/2,3/2", "--c-readout", "1/2,1"]
# a, b by layer kind (docs/theory.md, section 1); Adam has s = 0 and its prescribed c of the embedding is 0 and 1/2
# (section 5 there).
SCHEMES: dict[str, Any] = {
    "sp": ((0, 0, 0), (0, 0.5, 0.5), 0.0),
    "mup": ((-0.5, 0, 0.5), (0.5, 0.5, 0.5), 0.5),
}


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(["phase", *arguments], standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module", params=["sp", pytest.param("mup", marks=pytest.mark.slow)])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a small grid, in SP and in muP."""
    path = tmp_path_factory.mktemp("phase") / request.param
    arguments = ["phase", *SMALL, "--parameterization", request.param, "--out", str(path)]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 0
    return path


def rows(folder: Path) -> tuple[dict[str, Any], dict[tuple[int, str, str, str], dict[str, Any]]]:
    found = json.loads((folder / "phase.json").read_text())
    return found, {(row["step"], row["layer"], row["c_hidden"], row["c_readout"]): row for row in found["rows"]}


def recursion(scheme: str, c_hidden: float, c_readout: float, alignments: list[tuple[float, float, float]]) -> Any:
    """(r_L, r_{L+1}) by docs/theory.md, section 4, written out for two hidden layers."""
    (a_1, a_h, a_o), (_, b_h, b_o), c_1 = SCHEMES[scheme]
    r = before = a_1 + c_1
    for (alpha, omega, u), a, b, c in zip(
        alignments, (a_h, a_h, a_o), (b_h, b_h, b_o), (c_hidden, c_hidden, c_readout), strict=True
    ):
        before, r = r, min(a + c - alpha, a + c + r - u, a + b + r - omega)
    return before, r


def test_predictions_are_the_recursion_of_theory_4(folder: Path) -> None:
    found, by_place = rows(folder)
    assert len(by_place) == 2 * 2 * 5  # steps, layers, and the four points with the prescribed one
    for (step, layer, hidden, readout), row in by_place.items():
        index = 0 if layer == "hidden.1" else 1
        c = float(Fraction(hidden)), float(Fraction(readout))
        full = recursion(folder.name, *c, [(1, 0.5, 1)] * 3)
        assert float(Fraction(row["predicted"])) == full[index]
        known = {(each["layer"], each["quantity"]): each for each in found["alignments"] if each["step"] == step}
        ratios: Any = [
            tuple(min(1, known[name, quantity]["measured"]) for quantity in ("alpha", "omega", "u"))
            for name in ("hidden.0", "hidden.1", "readout")
        ]
        measured = recursion(folder.name, *c, ratios)
        assert float(Fraction(row["predicted_measured"])) == pytest.approx(measured[index], abs=5e-4)


@cache
def plain_sizes(scheme: str, c_hidden: float, c_readout: float, width: int) -> tuple[float, float]:
    """Mean log RMS(Dz_L) and log RMS(Dz_{L+1}) of networks trained by optax in a loop, looked at with numpy."""
    a, b, c_1 = SCHEMES[scheme]
    ratio = width / WIDTHS[0]
    corpus = load_corpus(vocabulary=16)
    model = MLP(Scaling(width, WIDTHS[0], a, b), CONTEXT, 16, DEPTH)
    start = a[2] + b[2]
    rates = {"embedding": (c_1, start + a[0]), "hidden": (c_hidden, start + a[1]), "readout": (c_readout, a[2])}
    rules = {name: optax.adam(RATE * ratio**-c, eps=1e-8 * ratio**-e) for name, (c, e) in rates.items()}
    transform = optax.multi_transform(rules, {name: name for name in rates})  # type: ignore[arg-type]
    probe = corpus.batch("held_out", 64, CONTEXT, 0, 0, next_token)[0]

    def look(params: Any) -> tuple[Any, Any]:
        embedding, readout = (np.asarray(params[name], dtype=float) for name in ("embedding", "readout"))
        z = sum(embedding[16 * position + probe[:, position]] for position in range(CONTEXT))
        z = np.maximum(ratio ** -a[0] * z, 0)
        for layer in range(DEPTH):
            z = np.maximum(ratio ** -a[1] * z @ np.asarray(params["hidden"][str(layer)], dtype=float), 0)
        return z, ratio ** -a[2] * z @ readout

    @jax.jit
    def advance(params: Any, state: Any, x: Any, y: Any) -> Any:
        updates, state = transform.update(jax.grad(lambda p: loss(model.apply(p, x), y))(params), state, params)
        return optax.apply_updates(params, updates), state

    found = []
    for seed in (0, 1):
        params = model.init(jax.random.key(seed))
        then, state = look(params), transform.init(params)
        for step in range(1, STEPS + 1):
            x, y = corpus.batch("train", BATCH, CONTEXT, step, seed, next_token)
            params, state = advance(params, state, jnp.asarray(x), jnp.asarray(y))
        sizes = [np.sqrt(np.square(now - before).mean()) for now, before in zip(look(params), then, strict=True)]
        found.append(np.log(sizes))
    features, logits = np.mean(found, axis=0)
    return float(features), float(logits)


def test_r_hat_is_the_slope_of_plainly_trained_networks(folder: Path) -> None:
    _, by_place = rows(folder)
    for index, layer in enumerate(("hidden.1", "readout")):
        logs = [plain_sizes(folder.name, 1.5, 0.5, width)[index] for width in WIDTHS]
        expected = -np.polyfit(np.log(WIDTHS), logs, 1)[0]
        assert by_place[STEPS, layer, "3/2", "1/2"]["measured"] == pytest.approx(expected, abs=2e-3)


def test_at_finite_width_the_largest_term_rules(folder: Path) -> None:
    """The prediction from the sizes of terms, by hand for the features: hidden.0, then hidden.1."""
    found, by_place = rows(folder)
    stored = json.loads(gzip.decompress((folder / "width_16.json.gz").read_bytes()))
    known = {(each["layer"], each["quantity"]): each["measured"] for each in found["alignments"] if each["step"] == 1}
    (a_1, a_h, _), (_, b_h, _), c_1 = SCHEMES[folder.name]
    n = np.array(WIDTHS) / WIDTHS[0]
    for hidden in ("1/2", "3/2"):
        point = stored["conditions"]["points"].index([hidden, "1"])
        shift = n ** -(a_1 + c_1)
        for layer in ("hidden.0", "hidden.1"):
            size = {name: np.mean(np.square(values[point])) for name, values in stored["sizes"]["1"][layer].items()}
            alpha, omega, u = (min(1, known[layer, name]) for name in ("alpha", "omega", "u"))
            d = a_h + float(Fraction(hidden))
            square = size["term_alpha"] * n ** (2 * (alpha - d))
            square = square + size["term_omega"] * shift**2 * n ** (2 * (omega - a_h - b_h))
            square = square + size["term_u"] * shift**2 * n ** (2 * (u - d))
            shift = np.sqrt(square / square[0])
        expected = -np.polyfit(np.log(n), np.log(shift), 1)[0]
        row = by_place[1, "hidden.1", hidden, "1"]
        assert row["predicted_finite"] == pytest.approx(expected, abs=2e-3)


def test_the_json_contract_and_the_files(folder: Path, capsys: Capture) -> None:
    arguments = [*SMALL, "--parameterization", folder.name, "--out", str(folder), "--format", "json"]
    code, out, err = verify(capsys, *arguments)
    assert code == 0, err
    found = json.loads(out)
    assert found == rows(folder)[0]
    assert (found["schema"], found["command"], found["widths"]) == (1, "phase", list(WIDTHS))
    assert load_corpus(vocabulary=16).fingerprint in found["corpus"] and found["code"] and found["device"]
    assert {"layer", "step", "quantity", "predicted", "measured", "low", "high", "holds"} <= found["rows"][0].keys()
    assert found["prescribed"] == {"sp": ["0", "1", "1", "1"], "mup": ["1/2", "1", "1", "1/2"]}[folder.name]
    for row in found["rows"]:
        assert row["low"] <= row["measured"] <= row["high"]
        assert row["holds"] == (abs(row["measured"] - float(Fraction(row["predicted"]))) <= found["tolerance"])
    for each in found["agreement"]:
        key = {"full": "holds", "measured": "holds_measured", "finite": "holds_finite"}[each["prediction"]]
        own = [row for row in found["rows"] if (row["step"], row["layer"]) == (each["step"], each["layer"])]
        assert (each["points"], each["within"]) == (len(own), sum(row[key] for row in own))
    names = {path.name for path in folder.iterdir()}
    assert names == {"wanted.json", "phase.json", *(f"width_{width}.json.gz" for width in WIDTHS)}


def test_what_is_finished_is_not_trained_again(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def stop(_conditions: Any, width: int, *_: Any) -> Any:
        trained.append(width)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", stop)
    own = [*SMALL, "--parameterization", folder.name, "--out", str(folder)]
    before = {path.name: path.read_bytes() for path in folder.glob("width_*")}
    code, out, err = verify(capsys, *own)
    assert (code, trained) == (0, []), err
    assert "r_hat" in out and "median" in out
    code, out, err = verify(capsys, *own, "--widths", "16,32,64")
    assert (code, out, trained) == (130, "", [64])
    assert "the same command goes on" in err
    assert {path.name: path.read_bytes() for path in folder.glob("width_*")} == before
    code, out, err = verify(capsys, *own, "--c-hidden", "0,1")
    assert (code, out) == (2, "") and "made with points: 5 points, not 4 points; give another --out" in err


def test_at_the_base_width_the_plane_is_one_network(folder: Path) -> None:
    base, wide = (json.loads(gzip.decompress((folder / f"width_{width}.json.gz").read_bytes())) for width in WIDTHS)
    changes, wider = (np.array(each["sizes"]["2"]["readout"]["delta_input"]) for each in (base, wide))
    assert changes.shape == wider.shape == (5, 2)
    assert (changes == changes[0]).all() and len(np.unique(wider[:, 0])) == 5
    assert np.shape(base["losses"]) == (5, 2, STEPS) and base["losses"][0][0] != base["losses"][0][1]


def test_points_of_equal_rates_are_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []

    def pretended(_function: Any, _axes: Any) -> Any:
        def run(_keys: Any, inputs: Any, targets: Any, rates: Any, _probe: Any) -> Any:
            assert inputs.shape == targets.shape == (2, 2, 8) and inputs[0, :, 0].tolist() == [1, 2]  # seeds, steps
            assert targets[1, :, 3].tolist() == [-1, -2]
            return np.zeros((2, 2)), trained.append(rates) or {}

        return run

    def batches(_trainer: Any, _corpus: Any, step: int) -> tuple[Any, Any]:
        return np.full((2, 8), step), np.full((2, 8), -step)

    monkeypatch.setattr(module.Trainer, "batches", batches)
    monkeypatch.setattr(module, "for_each", pretended)
    monkeypatch.setattr(module.jax, "jit", lambda function, **_: function)
    ticks: list[int] = []
    for width in (16, 32):
        train(conditions(), width, load_corpus(vocabulary=16), ticks.append)
    assert ticks == [4, 1, 1, 1, 1]
    assert trained[0] == pytest.approx([RATE] * 3)
    halves = {(RATE, RATE, RATE / 2), (RATE, RATE, RATE / 4), (RATE, RATE / 2, RATE / 2), (RATE, RATE / 2, RATE / 4)}
    assert {tuple(map(float, rates)) for rates in trained[1:]} == halves


def conditions(**changes: Any) -> Conditions:
    shared: dict[str, Any] = {"optimizer": "adam", "parameterization": "SP", "c_embedding": "0", "seeds": 2, "steps": 2}
    shared |= {"base_width": 16, "base_rate": RATE, "batch": 8, "context": 2, "hidden_layers": 1, "corpus": "text"}
    axes = read_exponents("c", "0,1", Rational(0)), read_exponents("c", "1,2", Rational(0))
    return Conditions(**{**shared, "points": grid(*axes, ("1", "1")), **changes})


def test_the_grid_is_that_given_or_one_on_either_side_in_quarters() -> None:
    assert read_exponents("--c-hidden", None, Rational(1, 2)) == [Rational(k, 4) for k in range(-2, 7)]
    assert read_exponents("--c-hidden", "-1,0.5,3/4", Rational(0)) == [-1, Rational(1, 2), Rational(3, 4)]
    for text in ("1,1", "0,1,1/2"):
        with pytest.raises(DeriveError, match="does not grow"):
            read_exponents("--c-hidden", text, Rational(0))
    half, one = Rational(1, 2), Rational(1)
    four = (("1/2", "1/2"), ("1/2", "1"), ("1", "1/2"), ("1", "1"))
    assert grid([half, one], [half, one], ("1", "1/2")) == four
    assert grid([half, one], [half, one], ("1", "2")) == (*four, ("1", "2"))


def test_what_conditions_say() -> None:
    """Adam + muP: c = 1/2, 1, 1/2; two hidden layers of one exponent."""
    made = conditions(parameterization="mup", c_embedding="1/3", steps=5, hidden_layers=2)
    assert (made.prescribed, made.marks, conditions(steps=1).marks) == (("1", "1/2"), (1, 5), (1,))
    assert made.exponents(("3/4", "-1/4")) == [Rational(1, 3), *[Rational(3, 4)] * 2, Rational(-1, 4)]
    stored = json.loads(json.dumps(asdict(made)))
    assert differences(made, stored) == []
    other = {**stored, "seeds": 7, "points": stored["points"][:1]}
    assert differences(made, other) == [
        f"points: 1 points, not {len(made.points)} points",
        f"seeds: 7, not {made.seeds}",
    ]
    assert usual_rate("adam") > 0
    with pytest.raises(DeriveError):
        usual_rate("sophia")


@pytest.mark.usefixtures("unchecked")
def test_each_layer_has_its_rate_and_its_prescribed_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam in SP: gradients of n^-1/2 but on the readout, where they are n^0, and epsilon with them."""
    monkeypatch.setattr(module, "per_layer", lambda rules, _labels: rules)
    answer = solve_kinds(conditions().prescription().problem)
    trainer = Trainer(Config(answer, 16, RATE, batch=8, sizes={"hidden_layers": 1, "vocabulary": 16}), 64, [0])
    rules: Any = module._transform(trainer, jnp.array([1.0, 2.0, 3.0]))
    assert [rule.label for rule in rules] == ["embedding", "hidden", "readout"]
    assert [float(rule.rate) for rule in rules] == [1.0, 2.0, 3.0]
    assert [rule.epsilon for rule in rules] == pytest.approx([base_epsilon("adam") * part for part in (0.5, 0.5, 1.0)])
    assert [rule.decay for rule in rules] == [0.0] * 3


@pytest.mark.slow
def test_a_diverged_point_has_no_r_and_says_why(tmp_path: Path) -> None:
    """SGD whose rates grow as n^100: at width 32 the weights leave the range of numbers at once."""
    made = conditions(optimizer="sgd", points=(("-100", "-100"), ("1/2", "1")), c_embedding="-1/2")
    found = []
    for width in (16, 32):
        PHASE.write(tmp_path / "one", made, Part(train(made, width, load_corpus(vocabulary=16)), made_now()))
        found.append(PHASE.read(tmp_path / "one", made))
    study = PhaseResult.of(made, found)
    assert len(study.divergences) == 2 and "width 32, c_hidden -100, c_readout -100, seed 0" in study.divergences[0]
    lost = [row for row in study.rows if row.point == ("-100", "-100") and row.step == 2]
    assert all(np.isnan(row.measured.value) and row.holds("full") is None for row in lost)
    assert {row.reason for row in lost} == {"the loss was not finite at width 32"}
    assert all(np.isfinite(row.measured.value) for row in study.rows if row.point == ("1/2", "1"))
    assert {each.points for each in agreements(study.rows) if each.step == 2} == {1}


def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "width_16.json.gz").write_text("{}")
    code, _, err = verify(capsys, *SMALL, "--out", str(tmp_path))
    assert code == 2 and "width_16.json.gz" in err and "not of verify phase" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "64"], "at least two"),
        (["--c-hidden", "1,1/2"], "does not grow"),
        (["--c-readout", "__import__('os')"], "is not allowed"),
        (["--c-hidden", "0,x"], "is not a number"),
        (["--c-embedding", "y"], "is not a number"),
        (["--optimizer", "kfac"], "unknown trainable optimizer"),
        (["--parameterization", "xyz"], "xyz"),
        (["--seeds", "0"], "above 0"),
        (["--depth", "0"], "above 0"),
        (["--base-rate", "nan"], "above 0"),
        (["--format", "csv"], "csv"),
        (["--corpus", "/no/such/text"], "/no/such/text"),
        (["--out", "/proc/nothing"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys: Capture) -> None:
    code, out, err = verify(capsys, "--widths", "16,32", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and err.startswith("verify: ")
    assert message in err
