"""Horizons, schedules, disjoint batches and sweeps that end on the right: what is trained, kept and said."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derive.running import run
from paper_figures.paths import DATA
from verify.commands.main import app
from verify.fit.optimum import optimum
from verify.studies.transfer.analysis import analyse
from verify.studies.transfer.headline import short
from verify.studies.transfer.text import as_json
from verify.sweeps.driver import Driver, Grid
from verify.sweeps.engines import InProcess, Task, perform
from verify.sweeps.records import Batch, Conditions, Setting, Study, run_key
from verify.sweeps.search import Search
from verify.sweeps.settings.named import at_horizons, prescribed, representatives
from verify.sweeps.storage.export import export, load
from verify.sweeps.storage.store import Store
from verify.training.data import Corpus, DataError, load_corpus
from verify.training.networks import Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.networks.transformer import Transformer
from verify.training.schedules import read_schedule

SIZES = {"vocabulary": 256, "context": 4, "hidden_layers": 1}
CONDITIONS = Conditions("mlp", SIZES, 16, 6, 16, 64, "the default", "code")
FULL = prescribed("adam", "sp", "full")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def trained(setting: Setting, corpus: Corpus, rate: float = 0.02, **changed: Any) -> Any:
    """The record of one run at width 32."""
    task = Task(0, replace(CONDITIONS, **changed), setting, Batch(setting.name, 32, (rate,), (1,)))
    return perform(task, corpus)[0]


def by_hand(corpus: Corpus, conditions: Conditions, rate: float) -> float:
    """Adam on SP at width 32 with optax alone: rates and epsilons of full alignment, and optax's own schedule."""
    model = MLP(Scaling(32, 16, (0, 0, 0), (0, 0.5, 0.5)), context=4, hidden_layers=1)
    params: Any = model.init(jax.random.key(1))
    schedule = read_schedule(conditions.schedule)

    def factor(count: Any) -> Any:
        return schedule.factor(count + 1, conditions.steps)

    def rule(scale: float, epsilon: float) -> optax.GradientTransformation:
        return optax.adam(lambda count: rate * scale * factor(count), eps=epsilon)

    rules: Any = {"embedding": rule(1, 1e-8 / 2**0.5), "hidden": rule(0.5, 1e-8 / 2**0.5), "readout": rule(0.5, 1e-8)}
    transform = optax.multi_transform(rules, model.labels(params))
    state = transform.init(params)
    for step in range(1, conditions.steps + 1):
        draw = corpus.disjoint_batch if conditions.windows else lambda *a: corpus.batch("train", *a)
        inputs, targets = map(jnp.asarray, draw(16, 4, step, 1))
        gradients = jax.grad(lambda p: loss(model.apply(p, inputs), targets))(params)  # noqa: B023
        updates, state = transform.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    inputs, targets = map(jnp.asarray, corpus.batch("held_out", 64, 4, 0, 0))
    return float(loss(model.apply(params, inputs), targets))


@pytest.mark.parametrize(
    "changed",
    [
        *(pytest.param(each, marks=pytest.mark.slow) for each in ({"schedule": "cosine:0.2"}, {"windows": 1})),
        *({"schedule": "wsd:0.3"}, {"schedule": "cosine:0.2", "windows": 1}),
    ],
)
def test_training_follows_schedule_and_disjoint_batches(changed: dict[str, Any], corpus: Corpus) -> None:
    conditions = replace(CONDITIONS, **changed)
    with jax.default_matmul_precision("highest"):
        expected = by_hand(corpus, conditions, 0.02)
    assert trained(FULL.setting, corpus, **changed).loss == pytest.approx(expected, rel=2e-6)
    assert abs(trained(FULL.setting, corpus).loss - expected) > 1e-3, "it makes a difference"


# Horizons


def test_a_settings_own_horizon_is_what_the_conditions_would_be(corpus: Corpus) -> None:
    own = replace(FULL.setting, steps=9)
    assert own.name == "adam SP full, 9 steps" and short(own) == "SP full"
    one, other = trained(own, corpus, steps=6), trained(FULL.setting, corpus, steps=9)
    assert (one.loss, one.curve) == (other.loss, other.curve) and one.curve[-1][0] == 9
    one, other = trained(own, corpus, schedule="cosine"), trained(FULL.setting, corpus, steps=9, schedule="cosine")
    assert one.loss == other.loss


def test_horizons_are_never_taken_for_one_another() -> None:
    both = at_horizons((FULL, prescribed("adam", "ntk", "full")), (6, 9))
    assert [each.setting.steps for each in both] == [6, 6, 9, 9]
    alike = representatives(both, decays=False, clips=False)
    assert alike == {f"adam NTK full, {steps} steps": f"adam SP full, {steps} steps" for steps in (6, 9)}
    assert at_horizons((FULL,), (6,)) == (FULL,)
    keys = {run_key(CONDITIONS, each.setting, 16, 0.1, 0) for each in (FULL, *both)}
    assert len(keys) == 5, "a horizon of its own is no part of another's key"


def test_a_study_of_horizons_keeps_them_apart_and_comes_back(tmp_path: Path, corpus: Corpus) -> None:
    grid = Grid(at_horizons((FULL,), (3, 9)), (16, 32), (0, 1), {"adam": Search(0.02, count=3, halvings=0, reach=0)})
    conditions = replace(CONDITIONS, steps=3, windows=corpus.windows(4))
    with Store(tmp_path / "study.sqlite", conditions) as store:
        grid.train(Driver(store, InProcess(corpus), conditions, (0, 1), lambda _setting, _width: 1))
        study = store.study()
    assert study.horizons == [3, 9]
    assert {record.setting: record.curve[-1][0] for record in study.records} == {
        "adam SP full, 3 steps": 3,
        "adam SP full, 9 steps": 9,
    }
    export(study, tmp_path / "export", compress=True)
    assert load(tmp_path / "export") == study == load(tmp_path)
    rows = as_json(study, analyse(study))["rows"]
    assert [row["steps"] for row in rows] == [3, 9]
    uses = study.uses()
    assert (uses[3], uses[9]) == pytest.approx((3 * 16 / corpus.windows(4), 9 * 16 / corpus.windows(4)))


def test_what_has_none_of_it_is_written_as_before(tmp_path: Path) -> None:
    """Stores, exports and JSON of studies without the new options have the entries of earlier versions, and no more."""
    stored = json.loads((DATA / "equivalence" / "study.json").read_text())
    study = load(DATA / "equivalence")
    assert stored["conditions"].items() <= study.conditions.content().items()
    given = [
        {**each, "layers": tuple(each["layers"]), "constants": tuple(each["constants"])} for each in stored["settings"]
    ]
    assert all(one.items() <= each.stored().items() for one, each in zip(given, study.settings.values(), strict=True))
    found = as_json(study, [])
    assert found["conditions"] == study.conditions.content() and found["schema"] == 1
    assert not {"schedule", "windows"} & found["conditions"].keys()
    assert not any("steps" in each.stored() or "steps" in each.content() for each in study.settings.values())
    export(study, tmp_path, compress=True)
    assert repr(load(tmp_path).records) == repr(study.records) and not study.uses()


# Disjoint batches


def row(tokens: int) -> Corpus:
    """A corpus whose tokens are their own places, so that a window says where it was taken."""
    return Corpus("places", np.arange(tokens, dtype=np.uint16), 2**16)


def test_every_window_is_used_once_before_any_is_used_again() -> None:
    text = row(1000)  # 900 to train on: 224 windows of 4 and the token after each
    count = text.windows(4)
    assert count == 224
    seen = [text.disjoint_batch(24, 4, step, 3)[0][:, 0] for step in range(1, 29)]
    starts = np.concatenate(seen)
    first, second, third = starts[:count], starts[count : 2 * count], starts[2 * count :]
    assert sorted(first) == sorted(second) == list(range(0, 896, 4))
    assert list(first) != list(second) and list(first) != sorted(first) and len(set(third)) == len(third)
    inputs, targets = text.disjoint_batch(24, 4, 10, 3)  # this one straddles two uses
    assert (inputs[:, 1:] - inputs[:, :-1] == 1).all() and (targets == inputs[:, -1] + 1).all()
    assert targets.max() < 900, "nothing of what is held out"
    assert (text.disjoint_batch(24, 4, 10, 3)[0] == inputs).all()
    assert (text.disjoint_batch(24, 4, 10, 4)[0] != inputs).any()


def test_a_batch_larger_than_the_text_uses_it_several_times() -> None:
    text = row(100)
    starts = text.disjoint_batch(50, 4, 1, 0)[0][:, 0]
    assert text.windows(4) == 22 and sorted(starts[:22]) == sorted(starts[22:44]) and len(set(starts[44:])) == 6


def test_disjoint_batches_refuse_what_batches_refuse() -> None:
    with pytest.raises(DataError, match="too small"):
        row(40).disjoint_batch(4, 16, 1, 0)
    with pytest.raises(DataError, match="steps start at 1"):
        row(100).disjoint_batch(4, 4, 0, 0)


# Sweeps that end on the right


def swept(losses: Mapping[int, float], search: Search) -> tuple[list[Fraction], dict[Fraction, float]]:
    """The offsets that the search tried, in order, of a loss that is known at every half octave."""
    tried: list[Fraction] = []
    known: dict[Fraction, float] = {}
    while wanted := search.next(known):
        tried += wanted
        known |= {offset: losses[int(2 * offset)] for offset in wanted}
    return tried, known


def curve(best: float, cliff: float) -> dict[int, float]:
    """A parabola in octaves that falls off a cliff; by half octaves."""
    return {half: 2 + 0.05 * (half / 2 - best) ** 2 + (math.inf if half / 2 > cliff else 0) for half in range(-40, 41)}


def test_rates_above_one_that_is_too_high_are_not_tried() -> None:
    losses = curve(0.2, 20)  # 1.2 times the best, 2.4, is passed at 0.2 + 2.83 octaves
    tried, _ = swept(losses, Search(1.0, stop=1.2))
    assert max(tried) == 4 and losses[2 * 3] < 2.4 < losses[2 * 4]
    tried, _ = swept(losses, Search(1.0, stop=1.1))
    assert max(tried) == 3, "0.2 + 2 octaves"
    assert tried[:8] == [-4, -3, -2, -1, 0, 1, 2, 3], "one by one to the right"
    tried, _ = swept(curve(0.2, 0.9), Search(1.0, stop=1.2))
    assert max(tried) == 1, "it diverges there"
    tried, _ = swept(curve(-9, 30), Search(1.0, stop=1.2))
    assert max(tried) == 0 and min(tried) <= -9, "the best lies far below"
    tried, _ = swept(dict.fromkeys(range(-40, 41), math.nan) | {-16: 2.0}, Search(1.0, stop=1.2))
    assert max(tried) == 0, "everything diverges but one small rate"


def test_the_best_rate_of_another_width_is_not_tried_beyond_the_end() -> None:
    losses = curve(0, 20)
    _, known = swept(losses, Search(1.0, stop=1.2))
    assert max(known) == 3 and Search(1.0, stop=1.2).next(known, Fraction(6)) == []
    assert Search(1.0).next(known, Fraction(6)) != []
    assert Search(1.0, stop=1.2).next(known, Fraction(-6)) == [-5, -6, -7][::-1]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([1.0, 1.1, 1.3, 2.0, math.nan, math.inf]), min_size=81, max_size=81))
def test_every_search_ends_and_never_tries_what_lies_beyond_its_end(values: list[float]) -> None:
    losses = dict.fromkeys(range(-64, 65), 1.0) | dict(zip(range(-40, 41), values, strict=True))
    search, known = Search(1.0, halvings=0, stop=1.2), dict[Fraction, float]()
    while wanted := search.next(known):
        finite = {offset: loss for offset, loss in known.items() if math.isfinite(loss)}
        best = min(sorted(finite), key=finite.__getitem__, default=Fraction(-99))
        limit = 1.2 * finite.get(best, math.inf)
        high = [each for each, loss in known.items() if each > best and not (math.isfinite(loss) and loss <= limit)]
        assert not high or max(wanted) < min(high)
        assert not set(wanted) & set(known)
        known |= {offset: losses[int(2 * offset)] for offset in wanted}


@pytest.mark.slow
def test_the_fit_is_the_same_with_and_without_the_end(tmp_path: Path, corpus: Corpus) -> None:
    """A full grid of real networks, widths 16 and 32: best rates and losses agree, in nine tenths of the runs."""
    found: dict[float | None, Study] = {}
    for stop in (None, 1.2):
        search = {"adam": Search(0.04, count=9, halvings=1, stop=stop)}
        grid = Grid((FULL, prescribed("adam", "sp", "global")), (16, 32), (0, 1, 2), search)
        conditions = replace(CONDITIONS, steps=30, batch=32)
        with Store(tmp_path / f"{stop}.sqlite", conditions) as store:
            grid.train(Driver(store, InProcess(corpus), conditions, (0, 1, 2), lambda _setting, _width: 1))
            found[stop] = store.study()
    full, ended = found[None], found[1.2]
    assert len(ended.records) < 0.9 * len(full.records)
    for name in full.settings:
        for width in (16, 32):
            one, other = (optimum(*_with_inf(study, name, width)) for study in (full, ended))
            assert one.fitted == other.fitted and not (one.at_edge or other.at_edge)
            assert other.best_rate == pytest.approx(one.best_rate, rel=1e-9)
            assert other.best_losses == pytest.approx(one.best_losses, rel=1e-9)


def _with_inf(study: Study, name: str, width: int) -> tuple[Any, Any]:
    rates, table = study.losses(name, width)
    return rates, np.where(np.isnan(table), np.inf, table)


# Zero initialisation


@pytest.mark.slow
def test_queries_and_readout_start_at_zero_and_nothing_else_does() -> None:
    sizes: Any = {"vocabulary": 16, "context": 8, "blocks": 2, "head_dimension": 8}
    for scan in (False, True):
        model = Transformer(Scaling(16, 16, (0, 0, 0), (0, 0, 0)), **sizes, scan=scan, zero_init=True)
        plain = Transformer(Scaling(16, 16, (0, 0, 0), (0, 0, 0)), **sizes, scan=scan)
        params, usual = model.init(jax.random.key(0)), plain.init(jax.random.key(0))
        zero = {
            jax.tree_util.keystr(path, simple=True, separator="."): not np.any(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        }
        assert {name for name, is_zero in zero.items() if is_zero} == {
            name for name in zero if name == "readout" or name.endswith(".q")
        }
        same = jax.tree.map(lambda one, other: bool((one == other).all()) or not one.any(), params, usual)
        assert all(jax.tree.leaves(same)), "the others have the bits that they have without it"
        tokens = jnp.zeros((1, 8), jnp.int32)
        assert float(loss(model.apply(params, tokens), tokens)) == pytest.approx(math.log(16))


# The command

SMALL = [
    *("--widths", "8,16", "--rates", "3", "--halvings", "0", "--seeds", "2", "--batch", "8", "--context", "4"),
    *("--depth", "1", "--evaluation", "32", "--processes", "1", "--parameterization", "sp", "--alignment", "full"),
]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("undrawn")
def test_the_command_trains_horizons_in_one_study_and_takes_more(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--schedule", "cosine", "--disjoint", "--stop-above", "1.2", "--out", str(tmp_path)]
    code, out, err = verify(capsys, *command, "--steps", "3,6")
    assert code == 0, err
    assert "3, 6 steps" in out and "adam SP full, 6 steps" in out and "the training text is used" in out
    before = load(tmp_path)
    assert before.conditions.schedule == "cosine:0.05" and before.conditions.windows
    code, out, err = verify(capsys, *command, "--steps", "3,6,9")
    after = load(tmp_path)
    assert code == 0 and after.records[: len(before.records)] == before.records, err
    assert {r.setting for r in after.records[len(before.records) :]} == {"adam SP full, 9 steps"}
    code, _, err = verify(capsys, "report", str(tmp_path), "--out", str(tmp_path / "report"))
    page = (tmp_path / "report" / "report.html").read_text()
    assert code == 0 and "Pictures: adam, 9 steps" in page and "3, 6, 9" in page and "times in 3" in page, err


@pytest.mark.slow
def test_a_transformer_with_zero_init_is_another_study(tmp_path: Path, capsys: Capture) -> None:
    command = ["transfer", *SMALL, "--model", "transformer", "--head-dimension", "8", "--steps", "2"]
    code, _, err = verify(capsys, *command, "--zero-init", "--out", str(tmp_path))
    assert code == 0 and load(tmp_path).conditions.sizes["zero_init"] is True, err
    code, _, err = verify(capsys, *command, "--out", str(tmp_path))
    assert code == 2 and "sizes" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps '0' is not allowed"),
        (["--steps", "150,150"], "growing numbers"),
        (["--steps", "1500,150"], "growing numbers"),
        (["--steps", "many"], "many"),
        (["--schedule", "linear"], "constant, cosine or wsd"),
        (["--schedule", "cosine:0.7"], "0 to 0.5"),
        (["--stop-above", "1"], "above 1"),
        (["--stop-above", "nan"], "above 1"),
        (["--zero-init"], "--model transformer"),
        (["--zero-init", "--model", "transformer", "--optimizer", "adam-ps"], "in proportion to the weights"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    code, printed, err = verify(capsys, "transfer", *SMALL, *arguments, "--out", str(tmp_path / "study"))
    assert code == 2 and message in err and err.count("\n") == 1 and printed == "", err
    assert not (tmp_path / "study").exists()
