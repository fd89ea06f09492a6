"""Sweeps: a run equals a plain loop, batches repeat bit for bit, settings that are proved alike train alike."""

import math
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from verify.provenance import code_version
from verify.sweeps.driver import Cell, Driver, Grid
from verify.sweeps.engines import Engine, EngineError, InProcess, Processes, Task, perform
from verify.sweeps.loop import Loop, Structure, layer_rates, train
from verify.sweeps.records import Batch, Conditions, Record, Setting, Study
from verify.sweeps.search import Search
from verify.sweeps.settings.named import prescribed, representatives
from verify.sweeps.storage.store import Store
from verify.training.data import Corpus, load_corpus
from verify.training.networks import Scaling, loss
from verify.training.networks.mlp import MLP
from verify.training.rules.directions import DIRECTIONS, FINISHES
from verify.training.rules.transforms import ScaledRule
from verify.training.rules.usual import base_epsilon

CONDITIONS = Conditions(
    model="mlp",
    sizes={"vocabulary": 256, "context": 4, "hidden_layers": 1},
    base_width=16,
    steps=6,
    batch=16,
    evaluation=64,
    corpus="the default",
    code=code_version(),
)
SEARCH = Search(0.02, count=3, extension=1, reach=1)
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def losses(
    setting: Setting, width: int, rates: tuple[float, ...], seeds: tuple[int, ...], corpus: Corpus, **changed: Any
) -> Any:
    """Final losses [rates, seeds] of one batch."""
    task = Task(0, replace(CONDITIONS, **changed), setting, Batch(setting.name, width, rates, seeds))
    records = perform(task, corpus)
    return np.array([record.loss for record in records]).reshape(len(rates), len(seeds))


def plain_loop(corpus: Corpus, width: int, rates: dict[str, float], epsilons: dict[str, float], seed: int) -> float:
    """Adam on SP, written with optax alone, on the same text and initial weights."""
    model = MLP(Scaling(width, 16, (0, 0, 0), (0, 0.5, 0.5)), context=4, hidden_layers=1)
    params: Any = model.init(jax.random.key(seed))
    rules: dict[Hashable, optax.GradientTransformation] = {
        kind: optax.adam(rates[kind], eps=epsilons[kind]) for kind in rates
    }
    rule = optax.multi_transform(rules, model.labels(params))
    state = rule.init(params)

    @jax.jit
    def advance(params: Any, state: Any, inputs: Any, targets: Any) -> tuple[Any, Any]:
        gradients = jax.grad(lambda p: loss(model.apply(p, inputs), targets))(params)
        updates, state = rule.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for step in range(1, 7):
        params, state = advance(params, state, *map(jnp.asarray, corpus.batch("train", 16, 4, step, seed)))
    inputs, targets = map(jnp.asarray, corpus.batch("held_out", 64, 4, 0, 0))
    return float(loss(model.apply(params, inputs), targets))


def test_a_run_equals_a_plain_optax_loop(corpus: Corpus) -> None:
    setting = prescribed("adam", "sp", "full").setting
    found = losses(setting, 64, (0.01, 0.04), (3,), corpus)
    with jax.default_matmul_precision("highest"):
        for row, rate in enumerate((0.01, 0.04)):
            per_layer = {"embedding": rate, "hidden": rate / 4, "readout": rate / 4}  # n^0, n^-1, n^-1
            epsilons = {"embedding": 5e-9, "hidden": 5e-9, "readout": 1e-8}  # n^-1/2, n^-1/2, n^0
            assert found[row, 0] == pytest.approx(plain_loop(corpus, 64, per_layer, epsilons, 3), rel=2e-6)


def test_constants_and_exponents_make_the_rates() -> None:
    setting = prescribed("adam", "mup", "full", constants=(5.0, 1.5, 10.0)).setting
    assert layer_rates(setting, 0.01, 16.0) == pytest.approx([0.05 / 4, 0.015 / 16, 0.1 / 4])
    raw = prescribed("adam", "mup", "global").setting
    assert layer_rates(raw, 0.01, 16.0) == [0.01] * 3


@pytest.mark.parametrize(
    "optimizer", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "adafactor"))]
)
def test_the_same_batch_gives_the_same_bits_and_single_runs_agree(optimizer: str, corpus: Corpus) -> None:
    setting = prescribed(optimizer, "sp", "full").setting
    rates, seeds = (0.005, 0.02), (0, 1, 2)
    together = losses(setting, 32, rates, seeds, corpus)
    assert (losses(setting, 32, rates, seeds, corpus) == together).all()
    alone = [[losses(setting, 32, (rate,), (seed,), corpus)[0, 0] for seed in seeds[:2]] for rate in rates]
    assert together[:, :2] == pytest.approx(np.array(alone), rel=1e-5)
    assert len(np.unique(together)) == together.size, "every run is a network of its own"


ALIKE = [
    pytest.param("adam ntk full", "adam sp full", marks=pytest.mark.slow),
    pytest.param("sgd mfp full", "sgd mup global", marks=pytest.mark.slow),
    pytest.param("adam ntk global", "adam sp none", marks=pytest.mark.slow),
    pytest.param("adam mfp none", "adam mup none", marks=pytest.mark.slow),
    pytest.param("sgd ntk global", "sgd sp prior", marks=pytest.mark.slow),
    pytest.param("adafactor ntk none", "adafactor sp global", marks=pytest.mark.slow),
]


# The representative of every run is in tests/verify/training/test_trained_equivalence.py.
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("first", "second"), ALIKE)
def test_settings_proved_alike_train_alike_bit_for_bit(first: str, second: str, corpus: Corpus) -> None:
    one, other = (prescribed(*name.split()) for name in (first, second))
    assert representatives([other, one], decays=False, clips=False) == {one.setting.name: other.setting.name}
    found = [losses(each.setting, 64, (0.02,), SEEDS, corpus) for each in (one, other)]  # 64 / 16 is a power of 4
    assert (found[0] == found[1]).all()


@pytest.mark.slow
def test_settings_not_proved_alike_train_differently_but_for_the_base_width(corpus: Corpus) -> None:
    names = [("adam", scheme, assumed) for scheme in ("sp", "mup") for assumed in ("global", "full", "none")]
    settings = [prescribed(*name) for name in names]
    assert representatives(settings, decays=False, clips=False) == {}
    at_base = [losses(each.setting, 16, (0.02,), SEEDS, corpus) for each in settings]
    assert all((found == at_base[0]).all() for found in at_base)
    above = [losses(each.setting, 64, (0.02,), (0,), corpus)[0, 0] for each in settings]
    assert len(set(above)) == len(settings)


def test_clipping_and_decay_decide_what_is_alike() -> None:
    pair = [prescribed("adam", "sp", "full"), prescribed("adam", "ntk", "full")]
    assert representatives(pair, decays=True, clips=False) == {"adam NTK full": "adam SP full"}
    assert representatives(pair, decays=False, clips=True) == {}
    tuned = [pair[0], prescribed("adam", "ntk", "full", constants=(2.0, 1.0, 1.0))]
    assert representatives(tuned, decays=False, clips=False) == {}


def test_clipping_acts_on_the_whole_norm(corpus: Corpus) -> None:
    setting = prescribed("sgd", "sp", "full").setting
    free = losses(setting, 32, (0.5,), (0,), corpus)
    assert losses(setting, 32, (0.5,), (0,), corpus, clip=1e6) == pytest.approx(free, rel=1e-6)
    assert losses(setting, 32, (0.5,), (0,), corpus, clip=0.01) > free + 0.1


def test_decay_shrinks_what_is_learnt(corpus: Corpus) -> None:
    setting = prescribed("adamw", "sp", "full").setting
    plain = losses(setting, 32, (0.02,), (0,), corpus)
    assert abs(losses(setting, 32, (0.02,), (0,), corpus, weight_decay=5.0) - plain) > 1e-3


def test_divergence_is_recorded_with_its_step_and_hurts_no_neighbour(corpus: Corpus) -> None:
    setting = prescribed("sgd", "sp", "full").setting
    conditions = replace(CONDITIONS, steps=60)
    loop = Loop(Structure.of(conditions, setting, 16))
    fine, broken = train(loop, setting, Batch(setting.name, 16, (0.1, 1e15), (0,)), corpus)
    assert fine.diverged is None and math.isfinite(fine.loss)
    assert fine.loss == pytest.approx(losses(setting, 16, (0.1,), (0,), corpus, steps=60)[0, 0], rel=1e-5)
    assert broken.diverged is not None and math.isnan(broken.loss)
    before = [value for step, value in broken.curve if step < broken.diverged]
    assert all(map(math.isfinite, before)) and not math.isfinite(dict(broken.curve)[60])
    (alone,) = train(loop, setting, Batch(setting.name, 16, (1e15,), (0,)), corpus)
    assert alone.diverged == broken.diverged, "a batch that has diverged ends early, and says the same"
    for steps in (broken.diverged - 1, broken.diverged):  # the last step is always in the curve
        shorter = Loop(Structure.of(replace(CONDITIONS, steps=steps), setting, 16))
        (record,) = train(shorter, setting, Batch(setting.name, 16, (1e15,), (0,)), corpus)
        assert math.isfinite(record.curve[-1][1]) == (steps < broken.diverged)


# The driver


def grid(*names: str, widths: tuple[int, ...] = (16, 32)) -> Grid:
    settings = tuple(prescribed(*name.split()) for name in names)
    return Grid(settings, widths, SEEDS, dict.fromkeys(("adam", "sgd"), SEARCH))


def study(path: Path, engine: Engine, what: Grid, **options: Any) -> Study:
    with Store(path, CONDITIONS) as store:
        what.train(Driver(store, engine, CONDITIONS, SEEDS, lambda _setting, _width: 1, **options))
        return store.study()


def outcome(found: Study) -> list[tuple[Any, ...]]:
    """What a study holds, without times, in no order."""
    return sorted((r.setting, r.width, r.base_rate, r.seed, r.loss, r.diverged, r.curve) for r in found.records)


class Interrupted(InProcess):
    """An engine whose process dies after some batches."""

    def __init__(self, corpus: Corpus, allowed: int) -> None:
        super().__init__(corpus)
        self.allowed = allowed

    def next(self) -> tuple[Task, list[Record]]:
        if not self.allowed:
            raise KeyboardInterrupt
        self.allowed -= 1
        return super().next()


class Backwards(InProcess):
    """An engine that finishes the latest task first."""

    capacity = 4

    def next(self) -> tuple[Task, list[Record]]:
        self.tasks.rotate(1)
        return super().next()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Study:
    path = tmp_path_factory.mktemp("whole") / "study.sqlite"
    return study(path, InProcess(corpus), grid("adam sp global", "adam ntk global", "adam sp full", "adam ntk full"))


@pytest.fixture
def names() -> Grid:
    return grid("adam sp global", "adam ntk global", "adam sp full", "adam ntk full")


def test_a_study_has_every_run_once_and_shares_those_of_equal_settings(whole: Study) -> None:
    keys = [entry[:4] for entry in outcome(whole)]
    assert len(keys) == len(set(keys)) >= 3 * 2 * 3 * 2
    assert whole.trained_as == {"adam NTK full": "adam SP full"}
    assert {record.setting for record in whole.records} == {"adam SP global", "adam NTK global", "adam SP full"}
    assert (whole.losses("adam NTK full", 32)[1] == whole.losses("adam SP full", 32)[1]).all()


def test_an_interrupted_study_goes_on_to_the_same_end(
    tmp_path: Path, corpus: Corpus, names: Grid, whole: Study
) -> None:
    path = tmp_path / "study.sqlite"
    finished = 0
    for allowed in (1, 4, 0, 7, 1000):
        try:
            study(path, Interrupted(corpus, allowed), names)
        except KeyboardInterrupt:
            with Store(path, CONDITIONS) as store:
                assert len(store.study().records) == finished + allowed * len(SEEDS)
                finished = len(store.study().records)
    with Store(path, CONDITIONS) as store:
        assert outcome(store.study()) == outcome(whole)


def test_a_batch_that_was_stored_in_part_is_done_again_in_its_own_shape(
    tmp_path: Path, corpus: Corpus, names: Grid, whole: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "study.sqlite", Store.finish
    stored = iter(range(7))  # an odd number, so that one of the two seeds of a batch is missing

    def finish(store: Store, number: int, record: Record) -> bool:
        if next(stored, None) is None:
            raise KeyboardInterrupt
        return kept(store, number, record)

    monkeypatch.setattr(Store, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        study(path, InProcess(corpus), names)
    monkeypatch.undo()
    assert outcome(study(path, InProcess(corpus), names)) == outcome(whole)
    with Store(path, CONDITIONS) as store:
        assert {batch.seeds for batch in store.batches().values()} == {SEEDS}


def test_engines_and_orders_make_no_difference(tmp_path: Path, corpus: Corpus, names: Grid, whole: Study) -> None:
    assert outcome(study(tmp_path / "backwards.sqlite", Backwards(corpus), names)) == outcome(whole)


@pytest.mark.parametrize(
    ("processes", "settings", "widths"),
    [(1, 1, (16,)), pytest.param(2, 4, (16, 32), marks=pytest.mark.slow)],
)
def test_other_processes_make_no_difference(
    processes: int, settings: int, widths: tuple[int, ...], tmp_path: Path, corpus: Corpus, names: Grid, whole: Study
) -> None:
    engine = Processes(processes, None, None, corpus.fingerprint)
    part = replace(names, settings=names.settings[:settings], widths=widths)
    chosen = {each.setting.name for each in part.settings}
    try:
        found = outcome(study(tmp_path / "processes.sqlite", engine, part))
    finally:
        engine.close()
    assert found == [each for each in outcome(whole) if each[0] in chosen and each[1] in widths] and found


def test_a_finished_study_trains_nothing_and_a_larger_one_only_what_is_new(
    tmp_path: Path, corpus: Corpus, names: Grid, whole: Study
) -> None:
    path = tmp_path / "study.sqlite"
    first = study(path, InProcess(corpus), replace(names, settings=names.settings[:1]))
    assert outcome(study(path, Interrupted(corpus, 0), replace(names, settings=names.settings[:1]))) == outcome(first)
    wider = study(path, InProcess(corpus), names)
    assert outcome(wider) == outcome(whole)
    assert wider.records[: len(first.records)] == first.records


def test_shares_of_the_settings_add_up(tmp_path: Path, corpus: Corpus, names: Grid, whole: Study) -> None:
    parts = [study(tmp_path / f"{i}.sqlite", InProcess(corpus), replace(names, share=(i, 2))) for i in (0, 1)]
    assert sorted(entry for part in parts for entry in outcome(part)) == outcome(whole)
    assert all(part.records for part in parts)


@pytest.mark.slow
def test_equivalents_are_trained_on_demand(tmp_path: Path, corpus: Corpus, names: Grid) -> None:
    everything = study(
        tmp_path / "study.sqlite", InProcess(corpus), replace(names, train_equivalents=True, widths=(16, 64))
    )
    assert everything.trained_as == {}
    first, second = ([e[1:] for e in outcome(everything) if e[0] == name] for name in ("adam SP full", "adam NTK full"))
    assert first and first == second


def test_the_best_rate_of_the_smallest_width_is_tried_at_every_other(tmp_path: Path, corpus: Corpus) -> None:
    setting = prescribed("adam", "sp", "full").setting
    search = Search(1e-4, count=3, extension=1, reach=0)  # far too small, so that the best is at the upper edge
    with Store(tmp_path / "study.sqlite", CONDITIONS) as store:
        store.add_settings([setting], {})
        small = Cell(setting, 16, Search(1e-4, count=3, extension=2, reach=9))
        large = Cell(setting, 32, search, small)
        Driver(store, InProcess(corpus), CONDITIONS, SEEDS, lambda _setting, _width: 2).run([small, large])
        best = small.best(SEEDS)[0]
        rates, found = store.study().losses(setting.name, 32)
    assert rates.min() < best < rates.max() and np.isfinite(found).all()


def test_workers_refuse_a_text_that_is_not_the_drivers(tmp_path: Path, names: Grid) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"to be or not to be, that is the question " * 100)
    fingerprint = load_corpus(text).fingerprint
    text.write_bytes(b"something else entirely, and as long as it was before " * 100)
    engine = Processes(1, text, None, fingerprint)
    try:
        with pytest.raises(EngineError, match="the corpus changed"):
            study(tmp_path / "study.sqlite", engine, names)
        with Store(tmp_path / "study.sqlite", CONDITIONS) as store:
            assert not store.study().records
    finally:
        engine.close()


RULES = sorted(DIRECTIONS.keys() - FINISHES.keys())
LARGE = ("adafactor", "adamuon", "dion", "grafted-shampoo", "soap", "soap-left", "soap-right")
"""They take longest to compile, and are scaled by what scales the others."""


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, marks=pytest.mark.slow) if rule in LARGE else rule for rule in RULES]
)
def test_weight_decay_is_decoupled_from_every_rule(rule: str) -> None:
    """W <- W - rate (U + decay W): with decay, the update has rate x decay x W on top of what it is without."""
    weights = {"hidden": jax.random.normal(jax.random.key(0), (6, 4))}
    gradients = {"hidden": jax.random.normal(jax.random.key(1), (6, 4))}
    plain, decayed = (ScaledRule("hidden", rule, 0.1, base_epsilon(rule), decay).transform() for decay in (0.0, 0.5))
    one, _ = plain.update(gradients, plain.init(weights), weights)
    other, _ = decayed.update(gradients, decayed.init(weights), weights)
    assert np.allclose(one["hidden"] - other["hidden"], 0.05 * weights["hidden"], atol=1e-6)  # type: ignore[index]
