"""Stores of array tasks are united in one, or refused; none is changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.verify.sweeps.test_store import (
    ADAM,
    BATCHES,
    CONDITIONS,
    SGD,
    contents,
    filled,
    record,
    refused,
    rows,
    setting,
    texts,
    unchanged,
)
from verify.sweeps.records import Batch, Conditions
from verify.sweeps.storage.store import Store, merge, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def part(path: Path, batches: list[Batch], conditions: Conditions = CONDITIONS, loss: float | None = None) -> Path:
    with Store(path, conditions) as store:
        store.add_settings([ADAM, SGD], {})
        for batch in batches:
            number = store.add_batch(batch)
            for run in batch.runs():
                store.finish(number, record(batch.setting, batch.width, *run, loss=loss))
    return path


def test_stores_of_array_tasks_merge_into_what_one_driver_makes(tmp_path: Path, path: Path):
    filled(path)
    parts = [part(tmp_path / "1.sqlite", BATCHES[:5]), part(tmp_path / "2.sqlite", BATCHES[3:])]
    before = contents(tmp_path)
    merge(tmp_path / "merged.sqlite", [*parts, parts[0]])
    assert {name: value for name, value in contents(tmp_path).items() if name != "merged.sqlite"} == before
    merged, whole = read(tmp_path / "merged.sqlite"), read(path)
    assert texts(merged.records) == texts(whole.records)
    assert replace(merged, records=()) == replace(whole, records=())
    assert rows(tmp_path / "merged.sqlite") == rows(path)  # keys and numbers of batches as well
    with Store(tmp_path / "merged.sqlite", CONDITIONS) as store:
        assert store.unfinished() == []


def test_an_unfinished_batch_is_finished_by_merging(tmp_path: Path):
    halves = []
    for half in (0, 1):
        with Store(tmp_path / f"{half}.sqlite", CONDITIONS) as store:
            store.add_settings([ADAM], {})
            number = store.add_batch(BATCHES[0])
            for run in BATCHES[0].runs()[half::2]:
                store.finish(number, record(ADAM.name, 64, *run))
        halves.append(tmp_path / f"{half}.sqlite")
    merge(tmp_path / "one.sqlite", halves[:1])
    merge(tmp_path / "both.sqlite", halves)
    with Store(tmp_path / "one.sqlite", CONDITIONS) as store:
        assert store.unfinished() == [(1, BATCHES[0])]
    with Store(tmp_path / "both.sqlite", CONDITIONS) as store:
        assert store.unfinished() == []


def test_stores_that_contradict_each_other_are_not_merged(tmp_path: Path):
    first = part(tmp_path / "1.sqlite", BATCHES[:1])
    other = part(tmp_path / "2.sqlite", BATCHES[:1], loss=1.5)
    elsewhere = part(tmp_path / "3.sqlite", BATCHES[:1], replace(CONDITIONS, code="code-2"))
    target = tmp_path / "merged.sqlite"
    with unchanged(tmp_path):
        with refused("adam muP full, width 64, rate 0.1, seed 0", "1.5", "1.sqlite", "2.sqlite"):
            merge(target, [first, other])
        with refused("made by code code-2, this is code-1", "3.sqlite"):
            merge(target, [first, elsewhere])
        with refused("no store at"):
            merge(target, [first, tmp_path / "absent.sqlite"])
        with refused("exists"):
            merge(other, [first])
        with refused("at least one"):
            merge(target, [])
        with refused("merged.sqlite"):
            merge(tmp_path / "absent" / "merged.sqlite", [first])
    assert {file.suffix for file in tmp_path.iterdir()} == {".sqlite", ".lock"}


def test_equal_exponents_under_two_names_merge_into_one(tmp_path: Path):
    prior, gauge = setting("adam", "1", "prior"), setting("adam", "3/4", "none")
    paths = []
    for number, each in enumerate([ADAM, prior, gauge]):
        paths.append(tmp_path / f"{number}.sqlite")
        with Store(paths[-1], CONDITIONS) as store:
            alike = {gauge.name: ADAM.name, prior.name: ADAM.name}
            store.add_settings([each] if number else [ADAM, prior, gauge], {} if number else alike)
            batch = store.add_batch(Batch(each.name, 64 + number, (0.1,), (0,)))
            store.finish(batch, record(each.name, 64 + number, 0.1, 0))
    merge(tmp_path / "merged.sqlite", paths[:2])
    merged = read(tmp_path / "merged.sqlite")
    assert merged.widths(prior.name) == merged.widths(ADAM.name) == [64, 65]
    with refused("'adam muP none' was trained in", "counts as 'adam muP full'"):
        merge(tmp_path / "none.sqlite", paths)
