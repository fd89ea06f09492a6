"""Rates that follow measured alignments: derive's exact answer inside the loop, and nothing changed without them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sympy import Rational

from derive.alignments import Alignment, Ratios
from derive.errors import DeriveError
from derive.running import run
from derive.solve import prescribe
from verify.commands.main import app
from verify.measuring.forward import initial_inputs, measure
from verify.measuring.trace import trace
from verify.sweeps import online as online
from verify.sweeps.capacity import bytes_per_run
from verify.sweeps.loop import SEGMENT, Loop, Structure, layer_rates, train, trajectory
from verify.sweeps.online import ClosedForm, Plan
from verify.sweeps.records import GROWTH, ONLINE, Batch, Conditions, Setting
from verify.sweeps.settings.named import prescribed, representatives
from verify.sweeps.storage.store import read
from verify.training.data import Corpus, load_corpus, next_token
from verify.training.networks import loss
from verify.training.rules.transforms import ScaledRule, per_layer
from verify.training.rules.usual import base_epsilon

CONDITIONS = Conditions(
    model="mlp",
    sizes={"vocabulary": 256, "context": 4, "hidden_layers": 2},
    base_width=16,
    steps=7,
    batch=16,
    evaluation=64,
    corpus="the default",
    code="any",
)
WIDTH, RATE, SEED = 64, 0.02, 3
FULL = [[1, 1, 1], [0.5, 0.5, 0.5], [1, 1, 1]]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def setting_of(name: str, layers: int | None = 2, **options: Any) -> Setting:
    return prescribed(*name.split(), hidden_layers=layers, **options).setting


def loop_of(setting: Setting, width: int = WIDTH, **changed: Any) -> Loop:
    return Loop(Structure.of(replace(CONDITIONS, **changed), setting, width))


def outcome(loop: Loop, setting: Setting, corpus: Corpus, rates: tuple[float, ...] = (RATE,)) -> list[Any]:
    batch = Batch(setting.name, loop.structure.width, rates, (SEED,))
    return [(record.loss, record.curve) for record in train(loop, setting, batch, corpus)]


def losses_of(found: list[Any]) -> list[float]:
    return [each for loss, curve in found for each in (loss, *(value for _, value in curve))]


# The closed form


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adafactor", "adam,hidden=muon"])
@pytest.mark.parametrize("scheme", ["sp", "ntk", "mup", "mfp"])
def test_the_jitted_exponents_are_those_that_derive_answers(optimizer: str, scheme: str) -> None:
    """Alignments from 0 to 1 of every layer, as exact rationals there and float32 here."""
    random = np.random.default_rng(0)
    for hidden in (1, 2, 3):
        closed = ClosedForm(setting_of(f"{optimizer} {scheme} {ONLINE}", hidden).layers, clips=False)
        solve = jax.jit(closed.exponents)
        for _ in range(4):
            exact = [[Rational(int(x), 64) for x in row] for row in random.integers(0, 65, (3, hidden + 1))]
            ratios = [Ratios(*column) for column in zip(*exact, strict=True)]
            assumed = Alignment("random", ratios[0], ratios[-1], dict(enumerate(ratios[:-1])), hidden)
            expected = [float(c) for c in prescribe(optimizer, scheme, assumed, hidden_layers=hidden).c]
            capped = jnp.minimum(jnp.array(exact, dtype=jnp.float32), closed.most)
            assert np.asarray(solve(capped)) == pytest.approx(expected, abs=1e-6)


def test_clipping_changes_what_bounds_the_readout() -> None:
    for clip in (False, True):
        exact = prescribe("sgd", "sp", "alpha=3/4,u=3/4", clip_global_norm=clip, hidden_layers=2)
        closed = ClosedForm(setting_of(f"sgd sp {ONLINE}", clip=clip).layers, clips=clip)
        found = closed.exponents(jnp.array([[0.75] * 3, [0.5] * 3, [0.75] * 3]))
        assert np.asarray(found) == pytest.approx([float(c) for c in exact.c], abs=1e-6)
    assert exact.c != prescribe("sgd", "sp", "alpha=3/4,u=3/4", hidden_layers=2).c


def test_a_matrix_rule_caps_what_is_measured() -> None:
    closed = ClosedForm(setting_of(f"adam,hidden=muon sp {ONLINE}").layers, clips=False)
    assert closed.most.tolist() == [[0.5, 0.5, 1.0], [1.0] * 3, [0.5, 0.5, 1.0]]


# The schedule


def test_steps_grow_by_k_and_the_last_is_left_out() -> None:
    assert Plan(5, "independent").steps(150) == [1, 5, 25, 125]
    assert Plan(3, "independent").steps(82) == [1, 3, 9, 27, 81]
    assert Plan(3, "independent").steps(81) == [1, 3, 9, 27], "after the last step no rate is applied"
    assert Plan(2, "independent").steps(2) == [1]
    assert Plan(2, "independent").steps(1) == []


# The loop


@pytest.mark.parametrize(
    ("name", "clip", "decay"),
    [
        ("sgd mup", 1.0, 0.1),
        pytest.param("adam sp", None, 0.0, marks=pytest.mark.slow),
        pytest.param("adam,hidden=muon mfp", None, 0.0, marks=pytest.mark.slow),
    ],
)
def test_with_full_alignment_found_the_run_is_that_of_full(
    name: str, clip: float | None, decay: float, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the rounding of two programs that are compiled apart: a step of theirs differs in its last bit."""
    full, following = (setting_of(f"{name} {each}", clip=clip is not None) for each in ("full", ONLINE))
    shared: Any = {"clip": clip, "weight_decay": decay}
    expected = losses_of(outcome(loop_of(full, **shared), full, corpus))
    monkeypatch.setattr(online.Online, "measured", lambda *_: jnp.array(FULL))
    assert losses_of(outcome(loop_of(following, **shared), following, corpus)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_without_full_alignment_the_run_is_another(corpus: Corpus) -> None:
    full, following = setting_of("adam sp full"), setting_of(f"adam sp {ONLINE}")
    assert outcome(loop_of(following), following, corpus) != outcome(loop_of(full), full, corpus)


@pytest.mark.slow
def test_at_the_base_width_nothing_changes(corpus: Corpus) -> None:
    full, following = setting_of("adam sp full"), setting_of(f"adam sp {ONLINE}")
    width = CONDITIONS.base_width
    found, expected = (losses_of(outcome(loop_of(each, width), each, corpus)) for each in (following, full))
    assert found == pytest.approx(expected, rel=1e-4), "to the rounding of two programs"
    rows = trajectory(CONDITIONS, following, width, RATE, SEED, corpus)
    assert {row.c for row in rows if row.step == 0} != {row.c for row in rows if row.step}


def by_hand(corpus: Corpus, setting: Setting, decay: float = 0.0, steps: int = CONDITIONS.steps) -> tuple[Any, float]:
    """The same run without the loop: optax step by step, measured outside, and `derive` for the exponents.

    Returns what was measured and applied as {step: ([alpha, omega, u] per layer, c per layer)}, and the final loss.
    """
    model = loop_of(setting).model
    params: Any = model.init(jax.random.key(SEED))
    kinds = model.labels(params)
    labels = {**kinds, "hidden": {index: f"hidden.{index}" for index in kinds["hidden"]}}
    probe = jnp.asarray(corpus.batch("train", CONDITIONS.batch // 4, 4, 0, 0, next_token)[0])
    traced = trace(model.apply, params, probe)
    inputs = initial_inputs(traced, params, probe)
    start = prescribe("adam", "sp", "full", hidden_layers=2)
    c, found, state = [float(each) for each in start.c], {}, None
    for step in range(1, steps + 1):
        rules = []
        for layer, exponent in zip(setting.layers, c, strict=True):
            epsilon = base_epsilon("adam") * 4.0 ** -float(Rational(layer.epsilon))
            rules.append(ScaledRule(layer.label, "adam", RATE * 4.0**-exponent, epsilon, decay * 4.0**exponent))
        transform = per_layer(rules, labels)
        state = transform.init(params) if state is None else state
        batch, targets = map(jnp.asarray, corpus.batch("train", CONDITIONS.batch, 4, step, SEED))
        gradients = jax.grad(lambda p: loss(model.apply(p, batch), targets))(params)  # noqa: B023
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        if step in (1, 3) and step < steps:
            sizes = jax.device_get(measure(traced, model.init(jax.random.key(SEED)), inputs, params, probe))
            rows = []
            for name in ("hidden.0", "hidden.1", "readout"):
                one = sizes[name]
                alpha = one["term_alpha"] / one["delta_w"] / one["input"]
                omega = one["term_omega"] / one["weight"] / one["delta_input"]
                u = one["term_u"] / one["delta_w"] / one["delta_input"]
                rows.append(np.log([alpha, omega, u]) / np.log(WIDTH))
            ratios = [Ratios(*(Rational(min(float(each), 1.0)) for each in row)) for row in rows]
            assumed = Alignment("measured", ratios[0], ratios[2], {0: ratios[0], 1: ratios[1]}, 2)
            c = [float(each) for each in prescribe("adam", "sp", assumed, hidden_layers=2).c]
            found[step] = (rows, c)
    held, targets = map(jnp.asarray, corpus.batch("held_out", CONDITIONS.evaluation, 4, 0, 0))
    return found, float(loss(model.apply(params, held), targets))


@pytest.mark.parametrize("decay", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_what_is_measured_and_applied_is_what_one_does_by_hand(corpus: Corpus, decay: float) -> None:
    """Step by step with optax, measured outside and solved exactly: the same alignments, exponents and final loss."""
    setting = setting_of(f"adam sp {ONLINE}")
    conditions = replace(CONDITIONS, weight_decay=decay, steps=4)
    with jax.default_matmul_precision("highest"):
        expected, final = by_hand(corpus, setting, decay, 4)
    rows = trajectory(conditions, setting, WIDTH, RATE, SEED, corpus)
    assert [row.step for row in rows] == [step for step in (0, 1, 3) for _ in range(4)]
    assert [row.layer for row in rows[:4]] == ["embedding", "hidden.0", "hidden.1", "readout"]
    assert [(row.alpha, row.omega, row.u) for row in rows[:2]] == [(None, None, None), (1.0, 0.5, 1.0)]
    for step, (ratios, c) in expected.items():
        at = [row for row in rows if row.step == step]
        assert [row.c for row in at] == pytest.approx(c, abs=1e-4)
        for row, (alpha, omega, u) in zip(at[1:], ratios, strict=True):
            assert (row.alpha, row.omega, row.u) == pytest.approx((alpha, omega, u), abs=1e-4)
    assert outcome(loop_of(setting, weight_decay=decay, steps=4), setting, corpus)[0][0] == pytest.approx(
        final, rel=2e-5
    )
    if decay:  # lambda follows c by its convention, which shows at once in what is learnt
        fixed = setting_of(f"adam sp {ONLINE}", decay="constant")
        changed = outcome(loop_of(fixed, weight_decay=decay, steps=4), fixed, corpus)[0][0]
        assert changed != pytest.approx(final, rel=2e-4)


@pytest.mark.slow
def test_runs_side_by_side_each_follow_their_own(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an accelerator, where runs are mapped over: the same losses, and the measurement still a branch."""
    setting = setting_of(f"adam sp {ONLINE}")
    one_by_one = outcome(loop_of(setting), setting, corpus, (RATE, 4 * RATE))
    monkeypatch.setattr("verify.training.runs.jax.default_backend", lambda: "gpu")
    loop = loop_of(setting)
    together = outcome(loop, setting, corpus, (RATE, 4 * RATE))
    assert [each[0] for each in together] == pytest.approx([each[0] for each in one_by_one], rel=1e-4)
    keys, rates = jax.random.split(jax.random.key(0), 2), jnp.ones((3, 4))
    assert loop.online is not None
    state = jax.eval_shape(loop.start, keys, rates, loop.online.probe(corpus, next_token))
    windows = jax.ShapeDtypeStruct((2, SEGMENT, 16, 4), jnp.int32), jax.ShapeDtypeStruct((2, SEGMENT, 16), jnp.int32)
    program = loop.advance.trace(*state, rates, *windows, 3, 1).jaxpr
    assert len(branches(program)) == 1 and branches(program)[0].invars[0].aval.shape == ()


def branches(program: Any) -> list[Any]:
    """Every cond in a program and in the programs within it."""
    found = []
    for equation in program.eqns:
        found += [equation] if equation.primitive.name == "cond" else []
        inner = [
            each for value in equation.params.values() for each in (value if isinstance(value, tuple) else (value,))
        ]
        for each in inner:
            body = getattr(each, "jaxpr", each)
            found += branches(body) if hasattr(body, "eqns") else []
    return found


def test_what_has_not_moved_keeps_the_alignment_before(corpus: Corpus) -> None:
    """With a rate of 0 nothing changes: no ratio is finite, and full alignment stays."""
    setting = setting_of(f"adam sp {ONLINE}")
    rows = trajectory(CONDITIONS, setting, WIDTH, 0.0, SEED, corpus)
    first = [replace(row, step=0) for row in rows if row.step == 3]
    assert first == rows[:4] and [row.c for row in first] == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_transformer_follows_by_kind_with_the_largest_of_each(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"vocabulary": 256, "context": 8, "blocks": 1, "head_dimension": 16}
    conditions = replace(CONDITIONS, model="transformer", sizes=sizes, batch=4, steps=2)
    setting = setting_of(f"adam sp {ONLINE}", None)
    assert [layer.label for layer in setting.layers] == ["embedding", "hidden", "readout"]
    seen: list[Any] = []

    def kept(sizes: Any, fan_in: int, inner: Any = online.log_alignments) -> Any:
        ratios = inner(sizes, fan_in)
        jax.debug.callback(lambda ratios: seen.append((fan_in, ratios)), ratios)
        return ratios

    monkeypatch.setattr(online, "log_alignments", kept)
    rows = trajectory(conditions, setting, 32, RATE, SEED, corpus)
    jax.effects_barrier()
    fans = sorted(fan_in for fan_in, _ in seen)
    assert fans == [32] * 6 + [128], "q, k, v, o, up and the readout; down has four widths of inputs"
    hidden = rows[-2]
    assert hidden.layer == "hidden" and hidden.alpha is not None
    largest = np.max([ratios for _, ratios in seen], axis=0)
    readout = [rows[-1].alpha, rows[-1].omega, rows[-1].u]
    found = np.maximum([hidden.alpha, hidden.omega, hidden.u], readout)  # type: ignore[list-item]
    assert found == pytest.approx(largest, abs=1e-6)


# What is not asked for does not change


def test_settings_without_it_are_what_they_were() -> None:
    """No word of it in what identifies a run, and a loop that carries and decides nothing more."""
    setting = prescribed("adam", "sp", "full").setting
    assert setting.online is None and "online" not in setting.content()
    loop = loop_of(setting)
    assert loop.online is None
    state: Any = jax.eval_shape(loop.start, jax.random.split(jax.random.key(0), 1), jnp.ones((1, 3)))
    assert jax.tree.leaves(state[1][1]) == []
    windows = jax.ShapeDtypeStruct((1, SEGMENT, 16, 4), jnp.int32), jax.ShapeDtypeStruct((1, SEGMENT, 16), jnp.int32)
    assert not branches(loop.advance.trace(*state, jnp.ones((1, 3)), *windows, 3, 1).jaxpr)


def test_one_compilation_serves_all_rates_seeds_and_segments(corpus: Corpus) -> None:
    setting = setting_of(f"adam sp {ONLINE}")
    loop = loop_of(setting, steps=SEGMENT + 3)
    for rate in (RATE, 2 * RATE):
        outcome(loop, setting, corpus, (rate,))
    assert loop.advance._cache_size() == 1  # type: ignore[attr-defined]


@pytest.mark.slow
def test_segments_do_not_change_when_it_measures(corpus: Corpus) -> None:
    """A measurement after the first segment has the step's number, not its place in the segment."""
    conditions = replace(CONDITIONS, steps=60)
    setting = setting_of(f"adam sp {ONLINE}:54")
    rows = trajectory(conditions, setting, 32, RATE, SEED, corpus)
    assert sorted({row.step for row in rows}) == [0, 1, 54]
    first, second = ([row.alpha for row in rows if row.step == step] for step in (1, 54))
    assert first != second
    again = setting_of(f"adam sp {ONLINE}:53")
    assert [row.alpha for row in trajectory(conditions, again, 32, RATE, SEED, corpus) if row.step == 1] == first


@pytest.mark.slow
def test_equal_settings_train_alike_and_others_do_not(corpus: Corpus) -> None:
    pairs = [prescribed("adam", scheme, each) for each in ("full", ONLINE, f"{ONLINE}:7") for scheme in ("sp", "ntk")]
    alike = representatives(pairs, decays=False, clips=False)
    assert alike == {
        "adam NTK full": "adam SP full",
        f"adam NTK {ONLINE}": f"adam SP {ONLINE}",
        f"adam NTK {ONLINE}:7": f"adam SP {ONLINE}:7",
    }
    losses = [
        outcome(loop_of(setting), setting, corpus)[0][0]
        for setting in (setting_of(f"adam {scheme} {ONLINE}") for scheme in ("sp", "ntk"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    sqrt = [replace(each, setting=replace(each.setting, decay="sqrt")) for each in pairs[2:3]]
    assert representatives([pairs[2], *sqrt], decays=True, clips=False) == {}
    assert pairs[2].setting.content() != sqrt[0].setting.content()


@pytest.mark.parametrize("model", ["mlp", pytest.param("transformer", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_one_run_needs_no_more_memory_than_the_estimate(model: str) -> None:
    sizes = {"mlp": {"hidden_layers": 2}, "transformer": {"blocks": 1}}[model]
    changed: Any = {"model": model, "sizes": {"vocabulary": 256, "context": 4, **sizes}, "evaluation": 8, "batch": 8}
    loop = loop_of(setting_of(f"sgd sp {ONLINE}", 2 if model == "mlp" else None), 256, **changed)
    assert loop.online is not None
    keys, rates = jax.random.split(jax.random.key(0), 1), jnp.ones((1, len(loop.structure.layers)))
    tokens = jax.ShapeDtypeStruct((loop.online.probe_size, loop.context), jnp.int32)
    state = jax.eval_shape(loop.start, keys, rates, tokens)
    shape = (1, SEGMENT, 8, loop.context)
    inputs = jax.ShapeDtypeStruct(shape, jnp.int32)
    targets = jax.ShapeDtypeStruct(shape if model == "transformer" else shape[:-1], jnp.int32)
    used = loop.advance.lower(*state, rates, inputs, targets, 1, 1).compile().memory_analysis()
    assert used is not None
    needed = used.argument_size_in_bytes + used.temp_size_in_bytes - 4 * (inputs.size + targets.size)
    plain = sum(4 * leaf.size for leaf in jax.tree.leaves(loop.shapes))
    assert plain < needed <= bytes_per_run(loop)


# The command


SMALL = [
    *("--widths", "16,32", "--rates", "3", "--halvings", "0", "--seeds", "2", "--steps", "5", "--batch", "8"),
    *("--context", "4", "--depth", "2", "--evaluation", "32", "--processes", "1", "--parameterization", "sp"),
]


def verify(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_a_study_is_trained_resumed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    command = ["transfer", *SMALL, "--alignment", "full,Measured Online", "--out", str(folder)]
    code, out, err = verify(capsys, *command)
    assert code == 0 and f"adam SP {ONLINE}" in out, err
    assert err.count("note: measured-online begins as full; after steps 1, 3, 9, ...") == 1
    study = read(folder / "study.sqlite")
    setting = study.settings[f"adam SP {ONLINE}"]
    assert (setting.online, len(setting.layers)) == (GROWTH, 4)
    code, again, _ = verify(capsys, *command)
    assert code == 0 and again == out and read(folder / "study.sqlite").records == study.records
    full, following = (study.losses(f"adam SP {name}", 16)[1] for name in ("full", ONLINE))
    assert np.allclose(full, following, rtol=1e-4), "at the base width all settings are one network"
    assert (study.losses(f"adam SP {ONLINE}", 32)[1] != study.losses("adam SP full", 32)[1]).all()
    code, _, err = verify(capsys, "report", str(folder), "--out", str(tmp_path / "report"))
    assert code == 0 and ONLINE in (tmp_path / "report" / "report.html").read_text(), err
    stored = json.loads((tmp_path / "report" / "study.json").read_text())["settings"]
    assert [each["online"] for each in stored] == [None, GROWTH]
    record = next(each for each in study.records if each.setting == setting.name and each.width == 32)
    corpus = load_corpus()
    rows = trajectory(study.conditions, setting, 32, record.base_rate, record.seed, corpus)
    assert sorted({row.step for row in rows}) == [0, 1, 3]


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        ("measured-onlin", "unknown alignment 'measured-onlin'"),
        ("measured-online:", "whole number k from 2"),
        ("measured-online:1", "whole number k from 2"),
        ("measured-online:2.5", "whole number k from 2"),
        ("measured-online:9999999", "whole number k from 2"),
        ("measured-online,alpha=1/2", "alpha"),
    ],
)
def test_wrong_names_are_one_line(
    alignment: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = verify(capsys, "transfer", *SMALL, "--alignment", alignment, "--out", str(tmp_path / "study"))
    assert code == 2 and message in err and err.count("\n") == 1 and out == "", err
    assert not (tmp_path / "study").exists()


def test_a_fixed_setting_has_no_trajectory(corpus: Corpus) -> None:
    with pytest.raises(DeriveError, match="adam SP full measures nothing while training"):
        trajectory(CONDITIONS, setting_of("adam sp full"), WIDTH, RATE, SEED, corpus)


def test_the_rates_begin_as_those_of_full(corpus: Corpus) -> None:
    following, full = setting_of(f"adam mup {ONLINE}"), prescribe("adam", "mup", "full", hidden_layers=2)
    assert [layer.c for layer in following.layers] == [str(c) for c in full.c]
    assert layer_rates(following, 0.01, 4.0) == pytest.approx([0.01 * 4 ** -float(c) for c in full.c])
