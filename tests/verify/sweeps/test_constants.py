"""The search for constants: planted optima, ranges that move, what it says, and interruptions."""

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derive.errors import UserError
from verify.sweeps.constants import Triple, Tuned, search, tune_constants, tuned
from verify.sweeps.driver import Driver, Grid
from verify.sweeps.engines import Task
from verify.sweeps.records import Conditions, Record, Setting
from verify.sweeps.search import Search
from verify.sweeps.settings.named import at_horizons, prescribed
from verify.sweeps.storage.store import Store

SEEDS = (0, 1, 2)
CONDITIONS = Conditions("mlp", {"vocabulary": 256}, 16, 6, 16, 64, "the default", "code")
SETTING = prescribed("adam", "sp", "full").setting


def planted(factors: Sequence[float], best: Sequence[float], seed: int) -> float:
    """A loss whose curvatures differ tenfold, with a term between layers, noise by seed, and a cliff."""
    x = np.log10(factors) - np.log10(best)
    noise = 0.02 * seed + 0.001 * math.sin(7 * seed + 3 * x.sum())
    loss = 2 + 0.3 * x[0] ** 2 + 0.15 * x[1] ** 2 + 0.03 * x[2] ** 2 + 0.05 * x[0] * x[1] + noise
    return math.nan if x.sum() > 2.5 else float(loss)


def losses(best: Sequence[float], seen: list[Triple]) -> Any:
    def of(triples: Sequence[Triple]) -> dict[Triple, Any]:
        assert not set(triples) & set(seen), "a trial is made once"
        seen.extend(triples)
        return {each: np.array([planted(each, best, seed) for seed in SEEDS]) for each in triples}

    return of


def factors(found: Tuned) -> Any:
    return np.array(found.constants) * found.factor


@pytest.mark.parametrize("best", [(5.303, 1.258, 11.723), (0.3, 2.0, 0.05), (1.0, 1.0, 1.0), (50.0, 0.02, 90.0)])
def test_a_planted_optimum_is_found_within_a_tenth(best: Triple) -> None:
    seen: list[Triple] = []
    found = search(losses(best, seen), 200)
    assert len(seen) == len(set(seen)) == found.trials == 200
    assert factors(found) == pytest.approx(best, rel=0.1)
    assert np.prod(found.constants) == pytest.approx(1, rel=0.01), "the common factor is the base rate's"
    share = np.array(best) / np.prod(best) ** (1 / 3)
    assert all(low <= each <= high for low, each, high in zip(found.low, found.constants, found.high, strict=True))
    assert all(high / low < 2 for low, high in zip(found.low, found.high, strict=True))
    assert found.constants == pytest.approx(share, rel=0.1)
    assert found.loss <= found.untuned


def test_the_range_moves_to_an_optimum_beyond_its_edge() -> None:
    found = search(losses((1398.9, 5.53, 0.020), []), 200)
    assert factors(found) == pytest.approx((1398.9, 5.53, 0.020), rel=0.1)
    assert found.ranges[0][1] >= 1398.9 and found.ranges[1] == (0.01, 100.0)


@pytest.mark.parametrize("trials", [1, 2, 3, 7, 40])
def test_so_many_trials_and_no_more(trials: int) -> None:
    seen: list[Triple] = []
    found = search(losses((2.0, 1.0, 0.5), seen), trials)
    assert len(seen) == found.trials == trials and seen[0] == (1.0, 1.0, 1.0)


def test_one_seed_has_no_interval_and_divergence_no_constants() -> None:
    found = search(lambda triples: {each: np.array([planted(each, (2, 1, 1), 0)]) for each in triples}, 20)
    assert all(math.isnan(each) for each in (*found.low, *found.high)) and found.json()["low"] == [None] * 3
    json.dumps(found.json(), allow_nan=False)
    with pytest.raises(UserError, match="all 10 trials of constants diverge"):
        search(lambda triples: {each: np.array([math.nan, 1.0]) for each in triples}, 10)


def test_the_interval_is_of_trials_within_one_standard_error() -> None:
    """Seeds that differ alike everywhere say nothing; only differences from the best count."""
    wide, narrow = (
        search(
            lambda triples, spread=spread: {  # type: ignore[misc]
                each: planted(each, (3, 1, 1), 0)
                + np.array([0.0, 1.0, 5.0])
                + spread * np.sin(np.arange(3) * sum(each))
                for each in triples
            },
            100,
        )
        for spread in (0.02, 1e-5)
    )
    assert all(one[1] / one[0] > other[1] / other[0] for one, other in zip(_spans(wide), _spans(narrow), strict=True))


def _spans(found: Tuned) -> list[tuple[float, float]]:
    return list(zip(found.low, found.high, strict=True))


class Planted:
    """An engine that trains nothing: a run has the planted loss of its rates. It may be killed after some tasks."""

    capacity = 3

    def __init__(self, allowed: float = math.inf) -> None:
        self.tasks: list[Task] = []
        self.allowed = allowed

    def submit(self, task: Task) -> None:
        self.tasks.append(task)

    def next(self) -> tuple[Task, list[Record]]:
        self.allowed -= 1
        if self.allowed < 0:
            raise KeyboardInterrupt
        task = self.tasks.pop()
        batch = task.batch
        rates = [[rate * each / 0.01 for each in task.setting.constants] for rate in batch.rates]
        return task, [
            Record(batch.setting, batch.width, rate, seed, planted(each, (5.303, 1.258, 11.723), seed))
            for rate, each in zip(batch.rates, rates, strict=True)
            for seed in batch.seeds
        ]

    def close(self) -> None:
        """Nothing runs."""


SEARCH = Search(0.01, count=5)


def tune(path: Path, engine: Planted, said: list[str], setting: Setting = SETTING) -> Tuned:
    with Store(path, CONDITIONS) as store:
        driver = Driver(store, engine, CONDITIONS, SEEDS, lambda _setting, _width: 1)
        return tune_constants(driver, setting, SEARCH, 24, said.append)


def runs(path: Path) -> list[tuple[Any, ...]]:
    with Store(path, CONDITIONS) as store:
        return [(each.setting, each.base_rate, each.seed, each.loss) for each in store.study().records]


def kills() -> Iterator[int]:
    """So many tasks until the next kill."""
    yield from (3, 1, 0, 9)


def test_killed_and_resumed_it_repeats_no_trial_and_finds_the_same(tmp_path: Path) -> None:
    said: list[str] = []
    whole = tune(tmp_path / "whole.sqlite", Planted(), said)
    path, finished = tmp_path / "study.sqlite", 0
    for allowed in kills():
        with pytest.raises(KeyboardInterrupt):
            tune(path, Planted(allowed), said)
        finished += allowed
        assert len(runs(path)) == finished * len(SEEDS), "what was finished is kept, and nothing is made twice"
    assert tune(path, Planted(), said) == whole
    assert sorted(runs(path)) == sorted(runs(tmp_path / "whole.sqlite"))
    before = len(runs(path))
    assert tune(path, Planted(0), said) == whole and len(runs(path)) == before, "done, it trains nothing"
    assert said[0] == said[-1] and "24 tried" in said[0] and "[" in said[0]


def test_the_constants_and_their_factor_go_to_every_width_and_horizon(tmp_path: Path) -> None:
    each = at_horizons((prescribed("adam", "sp", "full"), prescribed("adam", "mup", "full")), (6, 9))
    grid = Grid(each, (16, 32), SEEDS, {"adam": SEARCH})
    with Store(tmp_path / "constants.sqlite", CONDITIONS) as store:
        driver = Driver(store, Planted(), CONDITIONS, SEEDS, lambda _setting, _width: 1)
        made, found = tuned(grid, driver, 30, lambda _line: None)
    assert list(found) == [("adam", 6), ("adam", 9)]
    constants = {(one.setting.steps, one.setting.constants) for one in made.settings}
    assert constants == {(6, found["adam", 6].constants), (9, found["adam", 9].constants)}
    with Store(tmp_path / "study.sqlite", CONDITIONS) as store:
        made.train(Driver(store, Planted(), CONDITIONS, SEEDS, lambda _setting, _width: 1))
        study = store.study()
    for name, setting in islice(study.settings.items(), 2):
        best = min(study.runs(name, 16).items(), key=lambda entry: np.mean([r.loss for r in entry[1].values()]))[0]
        rates = np.array(setting.constants) * best / 0.01
        assert np.log2(rates / (5.303, 1.258, 11.723)) == pytest.approx(0, abs=1.6)
        assert 0.01 * found["adam", 6].factor in study.runs(name, 16)
