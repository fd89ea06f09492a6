"""`verify decay`: decay that training applies, what a random walk with decay comes to, and the command."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sympy import Rational

from derive.decays import DECAYS, Decay, read_decay
from derive.errors import DeriveError
from derive.running import run
from derive.solve import prescribe, solve_kinds
from derive.words import KINDS, Kind
from verify.commands.main import app
from verify.provenance import Made
from verify.studies.decay import study as module
from verify.studies.decay.conditions import prescription
from verify.studies.decay.results import DECAY, Conditions
from verify.studies.decay.study import scaled, steps_needed, train
from verify.studies.decay.theory import MARKS, Network, balance, rows
from verify.studies.study import Part, StudyError
from verify.sweeps.settings.one_rate import at_one_rate
from verify.training.config import Config
from verify.training.data import Corpus, load_corpus
from verify.training.rules.transforms import optimizer
from verify.training.trainer import Trainer

Capture = pytest.CaptureFixture[str]

# c of the published table (docs/theory.md, section 5), and how much of it eta lambda follows (section 7 there).
RATES = {
    ("adamw", "sp"): (0.0, 1.0, 1.0),
    ("adamw", "mup"): (0.5, 1.0, 0.5),
    ("lion", "sp"): (0.0, 1.0, 1.0),
    ("sgd", "sp"): (-0.5, 0.5, 1.0),
}
FOLLOWED = {"independent": 0.0, "sqrt": 0.5, "constant": 1.0}


@pytest.mark.parametrize("convention", list(DECAYS))
@pytest.mark.parametrize(("rule", "scheme"), list(RATES))
def test_training_decays_by_the_convention_and_by_nothing_else(rule: str, scheme: str, convention: Decay) -> None:
    """Without gradients a step leaves W (1 - eta lambda), eta lambda = 0.02 x 8^-(0, c/2, c)."""
    prescribed = prescription(rule, scheme, convention)
    labels = {kind: kind for kind in KINDS}
    transform = optimizer(prescribed, labels, 0.1, 8.0, weight_decay=0.2)
    weights = {kind: jnp.linspace(-2.0, 3.0, 12).reshape(3, 4) for kind in KINDS}
    nothing = jax.tree.map(jnp.zeros_like, weights)
    found: Any = transform.update(nothing, transform.init(weights), weights)[0]
    numbers = scaled(prescribed, 0.1, 0.2, 8.0)
    for kind, c in zip(KINDS, RATES[rule, scheme], strict=True):
        lost = 0.02 * 8.0 ** (-c * FOLLOWED[convention])
        assert np.allclose(found[kind], -lost * weights[kind], rtol=1e-5, atol=0)
        assert numbers[kind] == pytest.approx((0.1 * 8.0**-c, lost))


def test_a_prescription_names_its_convention() -> None:
    assert [solve_kinds(prescription("adam", "sp", each).problem, each).decay for each in DECAYS] == list(DECAYS)


def test_any_power_of_the_width() -> None:
    """eta lambda ~ n^-1 for every layer: lambda's exponent is 1 - c, here with c = 0, 1 and 1."""
    assert [str(each.decay) for each in prescription("adam", "sp", "n^-1").layers] == ["1", "0", "0"]
    assert [str(each.decay) for each in at_one_rate(prescription("adam", "sp", "n^-1")).layers] == ["1"] * 3
    paces = [[layer.c + layer.decay for layer in prescription("adam", of, "n^-2/3").layers] for of in ("sp", "ntk")]
    assert paces == [[Rational(2, 3)] * 3] * 2  # gauge shifts leave eta lambda as it is
    numbers = scaled(prescription("adam", "sp", "n^(1/2)"), 0.1, 0.2, 4.0)
    assert [pace for _, pace in numbers.values()] == pytest.approx([0.04] * 3)


SPELLED = {
    "n^-1": "n^-1",
    "n**-1.0": "n^-1",
    " n ^ -1": "n^-1",
    "n": "n^1",
    "n^0": "independent",
    "Sqrt": "sqrt",
    "n^-1/2": "n^(-1/2)",
    "n^(-1/2)": "n^(-1/2)",
    "n^-0.5": "n^(-1/2)",
    "Independent": "independent",
}


@pytest.mark.parametrize("given", SPELLED)
def test_one_power_has_one_name(given: str) -> None:
    assert read_decay(given) == SPELLED[given] == read_decay(SPELLED[given])


@pytest.mark.parametrize(
    "given", ["linear", "n^", "n^x", "n^n", "m^-1", "n-1", "n^1/0", "-1", "", "n^-1 sqrt", "2n^-1"]
)
def test_a_decay_that_is_no_power_is_refused(given: str) -> None:
    with pytest.raises(DeriveError, match="--decay"):
        prescribe(decay=given)


PREDICTED = [
    ("sp", "independent", "0 0 1 1 1 1"),
    ("sp", "sqrt", "0 0 3/4 1/2 3/4 1/2"),
    ("sp", "constant", "0 0 1/2 0 1/2 0"),
    ("mup", "independent", "1/2 1/2 1 1 1/2 1/2"),
    ("mup", "sqrt", "3/8 1/4 3/4 1/2 3/8 1/4"),
    ("mup", "constant", "1/4 0 1/2 0 1/4 0"),
]


@pytest.mark.parametrize(("scheme", "convention", "expected"), PREDICTED)
def test_predicted_exponents(scheme: str, convention: Decay, expected: str) -> None:
    layers = prescription("adamw", scheme, convention).layers
    assert " ".join(str(each) for layer in layers for each in balance(layer)) == expected


WIDTHS = (16, 32, 64, 128)
BASE_RATE, BASE_PACE, ENTRIES = 0.1, 0.05, 1500
Updates = Callable[[np.random.Generator, int], Iterator[np.ndarray[Any, Any]]]


def noise(generator: np.random.Generator, seeds: int) -> Iterator[np.ndarray[Any, Any]]:
    while True:
        yield generator.normal(size=(seeds, ENTRIES))


def persistent(part: float) -> Updates:
    def updates(generator: np.random.Generator, seeds: int) -> Iterator[np.ndarray[Any, Any]]:
        direction = generator.choice([-1.0, 1.0], size=(seeds, ENTRIES))
        for each in noise(generator, seeds):
            yield part * direction + (1 - part**2) ** 0.5 * each

    return updates


def momentum(b: float) -> Updates:
    def updates(generator: np.random.Generator, seeds: int) -> Iterator[np.ndarray[Any, Any]]:
        mean = generator.normal(size=(seeds, ENTRIES))
        for each in noise(generator, seeds):
            mean = b * mean + (1 - b**2) ** 0.5 * each
            yield mean

    return updates


def simulated(width: int, convention: str, updates: Updates, steps: int, start: float = 0.2, seeds: int = 3) -> Network:
    """W <- (1 - eta lambda) W - eta U of a hidden layer under Adam in SP, c = 1, by numpy alone."""
    ratio = width / WIDTHS[0]
    rate, pace = BASE_RATE / ratio, BASE_PACE * ratio ** -FOLLOWED[convention]
    generator = np.random.default_rng(width)
    initial = start * ratio**-0.5
    weights = initial * generator.normal(size=(seeds, ENTRIES))
    marks, sizes, of_updates = [], [], []
    for step, update in zip(range(1, steps + 1), updates(generator, seeds), strict=False):
        weights = (1 - pace) * weights - rate * update
        if step % (steps // MARKS) == 0:
            marks.append(step)
            sizes.append(np.sqrt((weights**2).mean(axis=1)))
            of_updates.append(np.sqrt((update**2).mean(axis=1)))
    late = np.exp(np.log(sizes[MARKS // 2 :]).mean(axis=0))
    name, ones = "hidden.0", np.ones(seeds)
    kinds: dict[str, Kind] = {name: "hidden"}
    found = {
        "weight": initial * ones,
        "now_weight": late,
        "update": np.mean(of_updates, axis=0),
        "now_operator_norm": late,
        "now_input": ones,
        "now_product": late * width,
    }
    return Network(
        *("SP", convention, width, kinds, {name: rate}, {name: pace}, tuple(marks)),
        *({name: np.array(sizes)}, {name: found}, ones, ones, {}),
    )


@cache
def judged(convention: Decay, updates: Updates, steps: int = 1600) -> dict[str, Any]:
    networks = [simulated(width, convention, updates, steps) for width in WIDTHS]
    return {row.quantity: row for row in rows(prescription("adamw", "sp", convention), networks)}


@pytest.mark.parametrize(
    ("convention", "updates", "exponent", "verdict"),
    [
        ("independent", noise, 1, "both"),
        ("independent", persistent(1.0), 1, "both"),
        ("sqrt", noise, 3 / 4, "uncorrelated"),
        ("sqrt", persistent(1.0), 1 / 2, "coherent"),
        ("constant", noise, 1 / 2, "uncorrelated"),
        ("constant", persistent(1.0), 0, "coherent"),
        ("constant", persistent(0.15), None, "between"),
    ],
)
def test_a_random_walk_with_decay(convention: Decay, updates: Updates, exponent: float | None, verdict: str) -> None:
    row = judged(convention, updates)["weight"]
    assert (row.verdict, row.widths, row.left_out) == (verdict, WIDTHS, ())
    if exponent is not None:
        assert row.measured.value == pytest.approx(exponent, abs=0.03)
    assert judged(convention, updates)["update"].measured.value == pytest.approx(0, abs=0.01)


def test_the_alignment_that_keeps_features_is_named() -> None:
    """The simulated layers have RMS(W z) = n RMS(W) RMS(z): what keeps features at RMS(W) ~ 1/n, and at no larger."""
    for convention, needed, verdict in (("independent", "1", "holds"), ("constant", "1/2", "fails")):
        found = judged(convention, noise)
        assert (str(found["alignment"].predicted), found["alignment"].verdict) == (needed, verdict)
        assert found["feature"].verdict == verdict


@pytest.mark.parametrize(("b", "pace"), [(0.0, 0.05), (0.9, 0.05), (0.9, 0.00625)])
def test_persistence_is_that_of_the_momentum(b: float, pace: float) -> None:
    """tau = 2 eta lambda (1 + b k) / (1 - b k) / (1 - k^2), k = 1 - eta lambda; (1 + b) / (1 - b) for a long memory."""
    width = round(WIDTHS[0] * BASE_PACE / pace)
    found = simulated(width, "constant", momentum(b), 1600).persistence("hidden.0")
    k = 1 - pace
    assert found == pytest.approx(2 * pace * (1 + b * k) / (1 - b * k) / (1 - k**2), rel=0.05)
    if pace < 0.01:
        assert found == pytest.approx((1 + b) / (1 - b), rel=0.1)


def test_widths_that_are_not_there_yet_are_left_out_and_named() -> None:
    """200 steps are 10 time constants at width 16 and 1.25 at width 128."""
    row = judged("constant", noise, 200)["weight"]
    assert row.left_out == (128,) and row.widths == (16, 32, 64)
    assert row.reason is not None and "not at equilibrium at 128" in row.reason
    none = judged("constant", noise, 20)["weight"]
    assert (none.verdict, none.widths) == ("not measured", ()) and not np.isfinite(none.measured.value)


def test_a_large_start_that_is_not_forgotten_is_seen() -> None:
    """The balance is missed by the drift: RMS(W) e^-t from far above is -1 per time constant."""
    far = simulated(16, "constant", noise, 100, start=1e4)
    assert far.drift("hidden.0") == pytest.approx(np.log(1 - BASE_PACE) / BASE_PACE, abs=0.01)
    assert far.remaining("hidden.0") == pytest.approx(1, abs=0.01)
    assert not far.at_equilibrium("hidden.0")


def two_layers(width: int, first: float = 0.0, second: float = 0.0) -> Network:
    """Two hidden layers of the sizes that the random walk comes to, whose weights still move by those drifts."""
    names, ones = ("hidden.0", "hidden.1"), np.ones(2)
    kinds: dict[str, Kind] = dict.fromkeys(names, "hidden")
    ratio, pace, marks = width / WIDTHS[0], 0.05, tuple(range(100, 2100, 100))
    sizes = {"weight": 0.1, "now_weight": 1 / ratio, "update": 1, "now_operator_norm": 1, "now_input": 1}
    found = {name: value * ones for name, value in (sizes | {"now_product": width}).items()}
    drifts = {name: drift * pace * np.array(marks)[:, None] for name, drift in zip(names, (first, second), strict=True)}
    return Network(
        *("SP", "independent", width, kinds),
        *(dict.fromkeys(names, 0.1 / ratio), dict.fromkeys(names, pace), marks),
        *({name: np.exp(drift) * ones for name, drift in drifts.items()}, dict.fromkeys(names, found), ones, ones, {}),
    )


def test_what_is_fed_into_a_layer_is_at_rest_only_where_the_layers_before_are() -> None:
    """At width 128 the first layer moves: no activation after it counts, but the second one's weights do."""
    networks = [two_layers(width, 0.1 if width == 128 else 0.0) for width in WIDTHS]
    found = {(row.layer, row.quantity): row for row in rows(prescription("adamw", "sp", "independent"), networks)}
    for layer, quantity, left_out in (
        *(("hidden.0", each, (128,)) for each in ("weight", "update", "operator_norm", "alignment", "feature")),
        *(("hidden.1", each, ()) for each in ("weight", "update", "operator_norm")),
        *(("hidden.1", each, (128,)) for each in ("alignment", "feature")),
    ):
        row = found[layer, quantity]
        assert (row.left_out, row.widths) == (left_out, WIDTHS[: len(WIDTHS) - len(left_out)]), (layer, quantity)
    later = rows(prescription("adamw", "sp", "independent"), [two_layers(width, 0.0, 0.1) for width in WIDTHS])
    assert {row.layer for row in later if not row.widths} == {"hidden.1"}  # what comes after has no say


def conditions(**changes: Any) -> Conditions:
    shared = {"optimizer": "adamw", "base_width": 8, "base_rate": 0.01, "weight_decay": 5.0, "seeds": 2, "steps": 200}
    shared |= {"batch": 8, "context": 2, "hidden_layers": 1, "evaluation": 16, "corpus": "text"}
    return Conditions(**{**shared, **changes})


@pytest.mark.slow
def test_text_that_never_changes_gives_coherent_updates_in_a_network() -> None:
    """The sign of every gradient stays what it was, so that W = U / lambda, and tau = 2 / (eta lambda)."""
    corpus = Corpus("zeros", np.zeros(2000, dtype=np.uint8), 4)
    asked = conditions(optimizer="sign-sgd", base_rate=0.002, weight_decay=25.0, steps=400)
    network = train(asked, prescription("sign-sgd", "sp", "constant"), 16, corpus)
    assert network.paces == pytest.approx({"embedding": 0.05, "hidden.0": 0.025, "readout": 0.025})
    for layer, pace in network.paces.items():
        assert network.at_equilibrium(layer)
        assert network.persistence(layer) == pytest.approx(2 / pace, rel=0.02)


def test_many_steps_in_one_call_are_the_trainers_own() -> None:
    """Weights, losses and RMS(U), which for SGD is the gradient's, as Trainer.step has them one by one."""
    corpus = load_corpus(vocabulary=16)
    asked = conditions(optimizer="sgd", base_rate=0.1, weight_decay=0.5, steps=MARKS)
    prescribed = prescription("sgd", "sp", "sqrt")
    network = train(asked, prescribed, 16, corpus)
    sizes = {"context": 2, "hidden_layers": 1, "vocabulary": 16}
    trainer = Trainer(Config(prescribed, 8, 0.1, batch=8, weight_decay=0.5, sizes=sizes), 16, range(2))
    params = trainer.initial()
    state = trainer.init_state(params)
    late: dict[str, list[Any]] = {}
    losses: Any = None
    for step in range(1, MARKS + 1):
        params, state, losses, gradients = trainer.step(params, state, *trainer.batches(corpus, step))
        if step > MARKS // 2:
            for name, size in gradients.items():
                late.setdefault(name, []).append(size)
    assert network.training == pytest.approx(np.asarray(losses), rel=1e-5)
    for name, leaf in (("embedding", params["embedding"]), ("hidden.0", params["hidden"]["0"])):
        measured = np.sqrt(np.square(leaf).mean(axis=(1, 2)))
        assert network.weights[name][-1] == pytest.approx(measured, rel=1e-5)
        expected = np.exp(np.log(np.array(late[name])).mean(axis=0))
        assert network.sizes[name]["update"] == pytest.approx(expected, rel=1e-3)


def test_the_slowest_layer_sets_the_steps() -> None:
    """eta lambda = 0.01 at width 64 is 0.01 / 8 on SP's hidden layers at 512 under constant: four of 800 steps."""
    prescribed = [prescription("adamw", "sp", convention) for convention in DECAYS]
    assert steps_needed(prescribed[:1], 0.01, 1.0, (1, 8)) == 400
    assert steps_needed(prescribed, 0.01, 1.0, (1, 8)) == 3200


SMALL = ["--parameterization", "sp", "--decay", "constant", "--seeds", "2", "--steps", "60", "--batch", "8"]
SMALL += ["--context", "2", "--depth", "1", "--evaluation", "16", "--weight-decay", "10", "--base-rate", "0.01"]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(["decay", *arguments], standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of widths 8 and 16."""
    path = tmp_path_factory.mktemp("decay")
    arguments = ["decay", *SMALL, "--widths", "8,16", "--out", str(path)]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 0
    return path


def test_the_json_contract_and_the_files(folder: Path, capsys: Capture) -> None:
    code, out, err = verify(capsys, *SMALL, "--widths", "8,16", "--out", str(folder), "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert found == json.loads((folder / "decay.json").read_text())
    assert (found["schema"], found["command"], found["steps"]) == (1, "decay", 60)
    assert load_corpus(vocabulary=16).fingerprint in found["corpus"] and found["code"] and found["device"]
    keys = {"layer", "step", "quantity", "predicted", "measured", "low", "high", "holds", "parameterization", "decay"}
    assert keys <= found["rows"][0].keys()
    assert {row["layer"] for row in found["rows"]} == {"embedding", "hidden.0", "readout"}
    weight = next(row for row in found["rows"] if (row["layer"], row["quantity"]) == ("hidden.0", "weight"))
    assert (weight["predicted"], weight["coherent"]) == ("1/2", "0")
    quantities = {row["quantity"] for row in found["rows"] if row["layer"] == "hidden.0"}
    assert quantities == {"weight", "update", "operator_norm", "alignment", "feature", "alpha", "omega", "u"}
    layer = found["networks"][-1]["layers"]["hidden.0"]
    assert layer["time_constants"] == pytest.approx(60 * 0.1 / 2)
    names = {path.name for path in folder.iterdir()}
    assert names == {"sp_constant_8.json", "sp_constant_16.json", "wanted.json", "decay.json", "decay.png", "decay.pdf"}


def test_what_is_finished_is_not_trained_again(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []

    def stop(_conditions: Any, _prescribed: Any, width: int, *_: Any) -> Any:
        trained.append(width)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", stop)
    before = {path.name: path.read_bytes() for path in folder.glob("sp_*")}
    code, out, err = verify(capsys, *SMALL, "--widths", "8,16", "--out", str(folder))
    assert (code, trained) == (0, []), err
    assert "held-out loss" in out and "hidden.0" in out and "1/2 .. 0" in out
    code, out, err = verify(capsys, *SMALL, "--widths", "8,16,32", "--out", str(folder))
    assert (code, out, trained) == (130, "", [32])
    assert "the same command goes on" in err
    assert {path.name: path.read_bytes() for path in folder.glob("sp_*")} == before


def test_other_options_are_an_error_that_names_them(folder: Path, capsys: Capture) -> None:
    code, out, err = verify(capsys, *SMALL, "--batch", "9", "--widths", "8,16", "--out", str(folder))
    assert (code, out) == (2, "") and "made with batch: 8, not 9; give another --out" in err


def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "sp_constant_8.json").write_text('{"conditions": {}}')
    code, _, err = verify(capsys, *SMALL, "--widths", "8,16", "--out", str(tmp_path))
    assert code == 2 and "sp_constant_8.json" in err and "not of verify decay" in err


def test_stored_networks_come_back_as_they_were(tmp_path: Path) -> None:
    network = simulated(16, "constant", noise, 100)
    diverged = replace(network, held_out=np.array([1.0, np.nan, 2.0]), diverged={1: 7})
    DECAY.write(tmp_path / "one.json", conditions(), Part(diverged, Made("code", "cpu", "2025-01-01")))
    again = DECAY.read(tmp_path / "one.json", conditions()).found
    assert (again.width, again.marks, again.diverged) == (16, network.marks, {1: 7})
    assert np.isnan(again.held_out[1]) and again.held_out[2] == 2
    assert np.allclose(again.weights["hidden.0"], network.weights["hidden.0"], rtol=1e-4)
    assert again.drift("hidden.0") == pytest.approx(network.drift("hidden.0"), abs=1e-3)
    with pytest.raises(StudyError, match=r"seeds: 2, not 5; steps: 200, not 7"):
        DECAY.read(tmp_path / "one.json", conditions(seeds=5, steps=7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths", "64"], "at least two"),
        (["--widths", "64,32"], "do not grow"),
        (["--decay", "linear"], "allowed: independent, sqrt, constant"),
        (["--optimizer", "adafactor"], "steps in proportion to the weights"),
        (["--optimizer", "kfac"], "unknown trainable optimizer"),
        (["--weight-decay", "0"], "above 0"),
        (["--weight-decay", "200"], "give a decay below 62.5"),
        (["--steps", "5"], "--steps 5 is too few"),
        (["--seeds", "0"], "above 0"),
        (["--parameterization", "xyz"], "xyz"),
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


def test_a_diverged_network_is_a_finding() -> None:
    asked = conditions(optimizer="sgd", base_rate=1e30, weight_decay=1e-32, steps=MARKS)
    network = train(asked, prescription("sgd", "sp", "sqrt"), 8, load_corpus(vocabulary=16))
    assert set(network.diverged) == {0, 1} and len(network.marks) < MARKS
    assert not network.at_equilibrium("hidden.0") and not np.isfinite(network.held_out).any()
