"""Where a constant epsilon bites: onsets of made-up gradients and costs, and a small study from end to end."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.integrate import quad

import verify.studies.epsilon.study as epsilon_study
from derive.emit import dump
from derive.running import run
from derive.solve import prescribe, solve_kinds
from verify.commands.main import app
from verify.fit.backward import Gradients
from verify.studies.epsilon.onsets import THRESHOLD, Cost, Result, costs, falling_below, first_cost, layer_onsets
from verify.studies.epsilon.plots import cost_against_width
from verify.studies.epsilon.results import EPSILON, Backward, read_result
from verify.studies.epsilon.settings import study_settings
from verify.studies.epsilon.study import halving_epsilon, update_sizes
from verify.studies.epsilon.text import as_json, text, width_text
from verify.studies.folder import state
from verify.sweeps.engines import Task
from verify.sweeps.records import Conditions, Record, Study
from verify.sweeps.settings.named import representatives
from verify.sweeps.storage.export import load_export
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.networks import loss

Capture = pytest.CaptureFixture[str]
WIDTHS = (64, 128, 256, 512, 1024)
KINDS: Any = {"embedding": "embedding", "hidden.0": "hidden", "readout": "readout"}
SMALL = [
    *("--widths", "16,32", "--seeds", "2", "--steps", "3", "--batch", "8", "--context", "4", "--depth", "1"),
    *(
        "--evaluation",
        "32",
        "--epsilon",
        "1e-2",
        "--processes",
        "1",
        "--parameterization",
        "mfp",
        "--dtype",
        "bfloat16",
    ),
]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def halves(moment: Any, root: Any) -> float:
    return float(halving_epsilon(jnp.asarray(moment, jnp.float32), jnp.asarray(root, jnp.float32)))


@pytest.mark.parametrize("size", [1e-12, 3e-3, 1.0])
def test_entries_of_one_size_halve_at_that_size(size: float) -> None:
    signs = np.array([1, -1, 1, 1])
    assert halves(size * signs, np.full(4, size)) == pytest.approx(size, rel=1e-5)


def test_normal_entries_halve_at_a_known_share_of_their_rms() -> None:
    gradients = np.random.default_rng(0).standard_normal(400_000) * 1e-4
    share = halves(gradients, np.abs(gradients)) / 1e-4

    def size(x: float) -> float:
        return 2 * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x / (x + share)) ** 2

    assert quad(size, 0, math.inf)[0] ** 0.5 == pytest.approx(0.5, abs=2e-3)
    assert share == pytest.approx(0.703, abs=5e-3)


def test_entries_without_a_gradient_have_no_part() -> None:
    gradients = np.array([0.3, -0.1, 0.2])
    padded = np.concatenate([gradients, np.zeros(97)])
    alone = halves(gradients, np.abs(gradients))
    assert halves(padded, np.abs(padded)) == pytest.approx(alone, rel=1e-5)
    # A gradient whose square is too small to be stored leaves a moment where v = 0.
    assert halves(np.append(gradients, 5.0), np.append(np.abs(gradients), 0.0)) == pytest.approx(alone, rel=1e-5)


def test_a_large_moment_of_few_rules_where_the_update_halves() -> None:
    # U = 1 for 1 entry, 0.1 for 99 small ones: 1.99 = 1 + 0.99 in squares.
    root = np.array([1.0, *[1e-3] * 99])
    moment = np.array([1.0, *[1e-4] * 99])
    epsilon = halves(moment, root)
    sizes = np.sum((moment / (root + epsilon)) ** 2) / 1.99
    assert sizes**0.5 == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("width", [70.0, 128.0, 300.0, 1000.0])
def test_the_width_of_a_power_law_is_recovered(exponent: float, width: float) -> None:
    sizes = 2e-3 * (np.array(WIDTHS) / 64) ** -exponent
    epsilon = 2e-3 * (width / 64) ** -exponent
    assert falling_below(WIDTHS, sizes, epsilon) == pytest.approx(width, rel=1e-9)


def test_widths_outside_are_below_and_above() -> None:
    sizes = 2e-3 * (np.array(WIDTHS) / 64) ** -0.5
    assert falling_below(WIDTHS, sizes, 3e-3) == 0.0 and width_text(0.0, WIDTHS) == "below 64"
    assert falling_below(WIDTHS, sizes, 1e-5) == math.inf and width_text(math.inf, WIDTHS) == "above 1024"
    assert math.isnan(falling_below(WIDTHS, np.full(5, np.nan), 1e-5)) and width_text(math.nan, WIDTHS) == "-"


def noisy(mean: Callable[[float], float], spread: float, seed: int = 0) -> Any:
    noise = np.random.default_rng(seed).standard_normal((len(WIDTHS), 3)) * spread
    return np.array([[mean(width)] * 3 for width in WIDTHS]) + noise


@pytest.mark.parametrize("width", [80.0, 200.0, 900.0])
def test_a_cost_that_begins_at_a_known_width_is_found_there(width: float) -> None:
    # A straight line against log width crosses the threshold at that width.
    found = noisy(lambda n: THRESHOLD + 0.1 * math.log2(n / width), 1e-4)
    assert first_cost(WIDTHS, found) == pytest.approx(width, rel=0.01)


def test_no_cost_and_noise_have_no_onset_and_a_cost_everywhere_lies_below() -> None:
    assert first_cost(WIDTHS, noisy(lambda _: 0.0, 1e-3)) == math.inf
    assert first_cost(WIDTHS, noisy(lambda n: -0.1 * math.log2(n / 64), 1e-3)) == math.inf, "a gain is no cost"
    loud = [np.array([[0.0, 0.0, 0.0], *[[0.09, -0.03, 0.01]] * 4]), noisy(lambda _: 0.0, 0.05, seed=1)]
    assert [first_cost(WIDTHS, each) for each in loud] == [math.inf] * 2, "the interval has to exclude 0"
    assert first_cost(WIDTHS, noisy(lambda _: 0.009, 1e-5)) == math.inf, "below the threshold"
    assert first_cost(WIDTHS, noisy(lambda _: 0.05, 1e-3)) == 0.0


def test_a_divergence_costs_and_missing_runs_do_not() -> None:
    diverged = np.zeros((5, 3))
    diverged[3, 1] = np.inf
    assert first_cost(WIDTHS, diverged) == 512.0
    assert first_cost(WIDTHS, np.full((5, 3), np.nan)) == math.inf


def test_flat_means_no_change_beyond_chance() -> None:
    setting = study_settings(["sp"], [1e-3], 1)[1].setting

    def flat(found: Any) -> bool | None:
        return Cost(setting, None, WIDTHS, found).flat

    assert flat(noisy(lambda _: 0.3, 1e-3)) is True, "a cost that is there from the start does not grow"
    assert flat(noisy(lambda n: 0.02 * math.log2(n / 64), 1e-3)) is False
    assert flat(noisy(lambda n: -0.02 * math.log2(n / 64), 1e-3)) is False
    assert flat(noisy(lambda n: 0.001 * math.log2(n / 64), 1e-5)) is True, "below the threshold, however certain"
    wide = np.array([[0.0, 0.0, 0.0], *[[0.09, -0.03, 0.01]] * 4])
    assert flat(wide) is True, "above it, and no more than chance"
    assert flat(np.full((5, 3), np.nan)) is None


def made_up(scheme: str, widths: tuple[int, ...] = WIDTHS, shape: float = 0.5) -> Backward:
    """Gradients that follow the theory exactly, and are halved at `shape` of their RMS."""
    prescription = solve_kinds(prescribe("adam", scheme).problem)
    ratio = (np.array(widths) / widths[0])[:, None] * np.ones(3)
    sizes, ones = {}, np.ones((len(widths), 3))
    for layer, (name, rms) in zip(prescription.layers, zip(KINDS, (4e-4, 8e-3, 2e-3), strict=True), strict=True):
        size = rms * ratio ** -float(layer.g)
        sizes[name] = {"rms": size, "half": shape * size, "share": 0.25 * ones}
    every = ("delta", "input", "gradient", "weight", "delta_w", "back", "back_initial", "back_change")
    table: Any = {name: dict.fromkeys(every, ones) for name in KINDS}
    return Backward(prescription, Gradients(widths, KINDS, {0: table, 100: table}), {1: sizes, 100: sizes})


def test_onsets_of_layers_by_hand() -> None:
    found = {(each.layer, each.step): each for each in layer_onsets(made_up("mfp"), [1e-4])}
    assert len(found) == 6
    embedding, hidden, readout = (found[name, 1] for name in KINDS)
    # g = 1, 3/2, 1: n = 64 (size / epsilon)^(1/g)
    assert embedding.predicted == pytest.approx(256) and embedding.by_half == pytest.approx(128)
    assert hidden.predicted == pytest.approx(64 * 80 ** (2 / 3)) and hidden.by_half == pytest.approx(64 * 40 ** (2 / 3))
    assert embedding.observed == pytest.approx(128) and readout.observed == pytest.approx(640)
    assert hidden.observed == pytest.approx(64 * 40 ** (2 / 3)) and embedding.share == 0.25
    (readout,) = (each for each in layer_onsets(made_up("sp"), [1e-4]) if (each.layer, each.step) == ("readout", 1))
    assert readout.predicted is None and readout.observed == math.inf, "SP's readout gradient keeps its size"


RATES = {"adam": 0.01, "adam-atan2": 0.01}
CONDITIONS = Conditions("mlp", {"vocabulary": 256}, 64, 100, 256, 2048, "text", "code")


def made_up_study(bite: float = 200.0) -> Study:
    """Constant epsilons cost 0.1 nats per octave beyond `bite`, per-layer ones 0.01 per octave at all widths.

    Every seed has a level of its own.
    """
    settings = study_settings(["sp", "ntk"], [1e-3, 1e-4], 1)
    alike = representatives(settings, decays=False, clips=False)
    records = []
    for name, setting in ((each.setting.name, each.setting) for each in settings):
        for width in WIDTHS if name not in alike else ():
            for seed in range(3):
                value = 2.0 + seed - 0.1 * math.log2(width)
                if setting.epsilon_rule == "constant":
                    start = bite * 1e-3 / setting.epsilon  # type: ignore[operator]
                    value += max(0.0, 0.1 * math.log2(width / start))
                elif setting.epsilon:
                    value += 0.01 * math.log2(setting.epsilon / 1e-4)
                elif setting.optimizer == "adam-atan2":
                    value += 0.05
                records.append(Record(name, width, 0.01, seed, value, device="made up"))
    return Study(CONDITIONS, {each.setting.name: each.setting for each in settings}, alike, tuple(records))


def test_costs_are_paired_over_seeds_and_equivalents_stand_for_each_other() -> None:
    found = {each.setting.name: each for each in costs(made_up_study(), WIDTHS, RATES)}
    assert "adam SP full" not in found and "adam NTK full" not in found
    for scheme in ("SP", "NTK"):
        constant = found[f"adam {scheme} full, epsilon 0.001 constant"]
        # From 200 on; the line between widths 128 and 256, where it is 0 and 0.1 log2(256 / 200), passes 0.01 at:
        assert constant.onset == pytest.approx(128 * 2 ** (0.1 / math.log2(256 / 200)))
        assert constant.estimates[2].high - constant.estimates[2].low < 1e-9, "what seeds share is no noise"
        assert found[f"adam {scheme} full, epsilon 0.0001 constant"].onset == math.inf
        assert found[f"adam {scheme} full, epsilon 0.001 per layer"].flat
        assert found[f"adam-atan2 {scheme} full"].flat
    assert found["adam-atan2 NTK full"].trained_as == "adam-atan2 SP full"
    assert found["adam NTK full, epsilon 0.001 constant"].trained_as is None


def test_a_diverged_run_is_an_infinite_cost() -> None:
    study = made_up_study()
    name = "adam SP full, epsilon 0.0001 constant"
    broken = [
        replace(each, loss=math.nan, diverged=7) if (each.setting, each.width, each.seed) == (name, 512, 1) else each
        for each in study.records
    ]
    found = {each.setting.name: each for each in costs(replace(study, records=tuple(broken)), WIDTHS, RATES)}
    assert found[name].onset == 512.0 and found["adam NTK full, epsilon 0.0001 constant"].onset == math.inf


def test_texts_json_and_picture_of_a_made_up_study() -> None:
    result = Result(made_up_study(), RATES, (made_up("sp"), made_up("ntk")))
    first = next(each for each in result.onsets if each.cost.setting.name == "adam SP full, epsilon 0.0001 constant")
    assert first.first is not None and first.first.layer == "embedding" and first.first.predicted == pytest.approx(1024)
    assert first.late is not None and (first.first.step, first.late.step) == (1, 100)
    assert first.halved is not None and first.halved.observed == pytest.approx(256)
    # Per layer 2e-4 costs 0.01; a constant 1e-4 is that at 64 (2e-4 / 1e-4)^(1/g): g = 1/2, NTK's hidden layer 1.
    assert result.costly("SP") == pytest.approx(2e-4) and first.expected == pytest.approx((256, 256))
    (ntk,) = (each for each in result.onsets if each.cost.setting.name == "adam NTK full, epsilon 0.0001 constant")
    assert ntk.expected == pytest.approx((128, 256)) and ntk.beyond == ntk.cost.onset == math.inf
    (early,) = (each for each in result.onsets if each.cost.setting.name == "adam SP full, epsilon 0.001 constant")
    assert early.beyond > early.cost.onset, "the same per layer costs 0.033 by itself"
    free = replace(result.study, records=tuple(replace(each, loss=2.0) for each in result.study.records))
    (nowhere,) = (
        each.expected
        for each in replace(result, study=free).onsets
        if each.cost.setting.name == "adam SP full, epsilon 0.0001 constant"
    )
    assert nowhere is None, "no epsilon per layer costs anything, so none is expected to"
    shown = text(result)
    assert "SP = NTK" in shown and "adam-atan2" in shown and "not flat" not in shown
    content = json.loads(json.dumps(as_json([result]), allow_nan=False))
    (row,) = (
        each
        for each in content["rows"]
        if (each["parameterization"], each["epsilon"], each["rule"]) == ("NTK", 1e-4, "constant")
    )
    assert row["observed"] is None and row["outside"] == "above"
    assert row["first"] == {"layer": "embedding", "predicted": pytest.approx(1024)}
    figure = cost_against_width(result)
    assert [axis.get_title() for axis in figure.axes if axis.get_title()] == ["SP", "NTK"]


def test_every_epsilon_per_layer_is_trained_for_itself() -> None:
    settings = study_settings(["sp", "ntk", "mup", "mfp"], [1e-3, 1e-4], 2)
    alike = representatives(settings, decays=False, clips=False)
    trained = [each.setting.name for each in settings if each.setting.name not in alike]
    assert len(settings) == 4 * 6 and len(trained) == 2 * 4 + 4 * 2, "constant ones four times, all others twice"
    assert alike["adam MFP full, epsilon 0.001 per layer"] == "adam muP full, epsilon 0.001 per layer"


class Untrained:
    """In place of a trainer: gradients that stay as they are, of three entries, for two seeds."""

    def __init__(self, config: Any, width: int, seeds: Any) -> None:
        del config, seeds
        sizes = jnp.array([[1.0, -2.0, 0.0], [3.0, 4.0, 0.0]]) / width
        self.gradients = {"hidden": {"0": sizes}}
        self.transform = optax.scale_by_adam()

    def initial(self) -> Any:
        return jax.tree.map(jnp.zeros_like, self.gradients)

    def init_state(self, params: Any) -> Any:
        return jax.vmap(self.transform.init)(params)

    def batches(self, corpus: Any, step: int) -> tuple[()]:
        del corpus, step
        return ()

    def step(self, params: Any, state: Any) -> Any:
        return params, jax.vmap(self.transform.update)(self.gradients, state)[1], None, None


@pytest.mark.usefixtures("unchecked")
def test_what_meets_epsilon_is_the_root_of_the_corrected_second_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients that do not change, sqrt(v) is their size after any number of steps: RMS sqrt((1 + 4) / 2)."""
    monkeypatch.setattr(epsilon_study, "Trainer", Untrained)
    told: list[int] = []
    found = update_sizes(Any, (1, 10), (0, 1), 3, Any, lambda: told.append(1))  # type: ignore[arg-type]
    assert found.keys() == {1, 3} and len(told) == 2 * 3
    for step, sizes in found.items():
        assert sizes.keys() == {"hidden.0"}
        expected = np.array([[2.5**0.5, 12.5**0.5]]) / np.array([[1.0], [10.0]])
        np.testing.assert_allclose(sizes["hidden.0"]["rms"], expected, rtol=1e-4)
        np.testing.assert_allclose(sizes["hidden.0"]["share"], np.full((2, 2), 2 / 3), rtol=1e-6)
        assert sizes["hidden.0"]["half"].shape == (2, 2)
        if step == 1:  # m = 0.1 g then, so that nothing but its size differs; g / (|g| + epsilon) of 1 and 2
            half = sizes["hidden.0"]["half"][0, 0]
            assert ((1 / (1 + half)) ** 2 + (2 / (2 + half)) ** 2) / 2 == pytest.approx(0.25, rel=1e-4)


def test_the_first_update_is_halved_at_the_measured_epsilon() -> None:
    corpus = load_corpus()
    config = Config(
        solve_kinds(prescribe("adam", "mup").problem),
        16,
        0.01,
        batch=16,
        sizes={"vocabulary": 256, "context": 4, "hidden_layers": 1},
    )
    (sizes, later) = update_sizes(config, (32,), (5,), 2, corpus).values()
    model = config.at(32)
    inputs, targets = map(jnp.asarray, corpus.batch("train", 16, 4, 1, 5))
    with jax.default_matmul_precision("highest"):
        found: Any = jax.grad(lambda p: loss(model.apply(p, inputs), targets))(model.init(jax.random.key(5)))
    for name, tree in (("embedding", found["embedding"]), ("hidden.0", found["hidden"]["0"])):
        gradient = np.asarray(tree, dtype=np.float64)
        seen = gradient[gradient != 0]
        assert sizes[name]["share"][0, 0] == pytest.approx(seen.size / gradient.size)
        assert sizes[name]["rms"][0, 0] == pytest.approx(np.sqrt(np.mean(seen**2)), rel=1e-3)
        # g / (|g| + epsilon) against g / |g|, whose RMS is 1
        update = seen / (np.abs(seen) + sizes[name]["half"][0, 0])
        assert np.sqrt(np.mean(update**2)) == pytest.approx(0.5, rel=1e-3)
    assert later["embedding"]["share"][0, 0] > sizes["embedding"]["share"][0, 0], "the second batch reads other rows"


def made_up_runs(task: Task, corpus: Any) -> list[Record]:
    """In place of training: a loss with its best rate at 0.02, to which an epsilon adds its size at that width."""
    del corpus
    setting, batch = task.setting, task.batch
    scale = (batch.width / task.conditions.base_width) ** -0.5 if setting.epsilon_rule == "scaled" else 1.0
    cost = 3 * scale * (setting.epsilon or 0.0) - 0.1 * math.log2(batch.width)
    return [
        Record(setting.name, batch.width, rate, seed, 2 + cost + 0.1 * math.log2(rate / 0.02) ** 2 + 0.01 * seed)
        for rate in batch.rates
        for seed in batch.seeds
    ]


@pytest.mark.parametrize("trained_runs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_study_from_end_to_end_goes_on_and_is_refused_elsewhere(
    trained_runs: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients are measured in training; its runs, which `verify transfer` trains alike, only in the slow run."""
    if not trained_runs:
        monkeypatch.setattr(epsilon_study, "perform", made_up_runs)
    command = ["epsilon", *SMALL, "--out", str(tmp_path)]
    code, out, err = verify(capsys, *command, "--format", "json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["schema"], found["command"]) == (1, "epsilon") and {"device", "corpus"} <= found.keys()
    rows = {(each["optimizer"], each["rule"]): each for each in found["rows"]}
    assert len(rows) == len(found["rows"]) == 3 and {row["dtype"] for row in found["rows"]} == {"bfloat16"}
    constant, scaled = rows["adam", "constant"]["cost"], rows["adam", "per layer"]["cost"]
    assert constant["16"] == scaled["16"], "at the base width a constant epsilon is the per-layer one"
    assert constant["32"]["value"] != 0 and scaled["16"]["value"] != 0
    (study,) = found["studies"]
    assert {row["step"] for row in study["gradients"]} == {0, 3} and {row["step"] for row in study["layers"]} == {1, 3}
    folder = tmp_path / "bfloat16"
    assert json.loads((folder / "epsilon.json").read_text())["rows"] == found["rows"]
    assert (folder / "epsilon.png").stat().st_size > 10_000 and (folder / "epsilon.pdf").exists()

    assert json.loads(dump(as_json([read_result(folder)]))) == found, "the text files hold all of it"

    held = state(EPSILON, folder)
    trained = load_export(folder)
    for name in ("adam", "adam-atan2"):
        searched = held.parts["rate", name].found.runs
        tried = {run.base_rate: [each.loss for each in searched if each.base_rate == run.base_rate] for run in searched}
        assert {run.width for run in searched} == {16} and len(tried) >= 7
        best = min(tried, key=lambda rate: np.mean(tried[rate]))
        assert [set(trained.runs(f"{name} MFP full", width)) for width in (16, 32)] == [{best}] * 2, (
            "the best rate there, and no other"
        )

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*_*.json")}
    code, again, err = verify(capsys, *command, "--format", "json")
    assert code == 0 and again == out, err
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*_*.json")} == before, "nothing is trained again"


def test_a_study_of_an_earlier_version_is_read_and_not_gone_on_with(tmp_path: Path, capsys: Capture) -> None:
    """Of which the runs were in a store, or are here as text, and no part is left to go on from."""
    for name in ("study.sqlite", "epsilon.json"):
        folder = tmp_path / name / "bfloat16"
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
        code, _, err = verify(capsys, "epsilon", *SMALL, "--out", str(folder.parent))
        assert code == 2 and f"already holds a study ({name})" in err and err.count("\n") == 1, err
        assert [path.name for path in folder.iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epsilon", "1e-3,0"], "above 0"),
        (["--epsilon", "small"], "1e-3,1e-4"),
        (["--steps", "1"], "at least 2"),
        (["--dtype", "float16"], "bfloat16"),
        (["--widths", "64"], "widths"),
        (["--parameterization", "np"], "mup"),
    ],
)
def test_bad_options_are_refused_in_one_line(options: list[str], said: str, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = verify(capsys, "epsilon", *SMALL, *options, "--out", str(tmp_path / "study"))
    assert code == 2 and said in err and err.count("\n") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_results_are_read_and_drawn_without_jax() -> None:
    code = "import sys, verify.studies.epsilon.results, verify.studies.epsilon.plots\nassert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
