"""The Ray engine: the same losses as in this process, bit for bit, also where a worker is killed in mid-study."""

import contextlib
import gc
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from verify.provenance import code_version
from verify.sweeps import ray as engine_ray
from verify.sweeps.driver import Driver, Grid
from verify.sweeps.engines import Engine, EngineError, InProcess, Task
from verify.sweeps.ray import Ray
from verify.sweeps.records import Batch, Conditions, Record, run_key
from verify.sweeps.search import Search
from verify.sweeps.settings.named import prescribed
from verify.sweeps.storage.store import Store
from verify.training.data import Corpus, load_corpus

# Ray reads its settings when it is imported, so that the engine is to import it first.
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the extra [ray] is not installed")
SEEDS = (0, 1)
SETTING = prescribed("adam", "mup", "full")
GRID = Grid((SETTING,), (16, 32), SEEDS, {"adam": Search(4e-3, count=3, extension=1)})


class Watched:
    """An engine that counts what comes back, and starts something beside it as soon as one task has."""

    def __init__(self, engine: Engine, beside: Callable[[], None] = lambda: None) -> None:
        self.engine, self.finished = engine, Counter[int]()
        self.thread = threading.Thread(target=beside, daemon=True)
        self.capacity, self.submit, self.close = engine.capacity, engine.submit, engine.close

    def next(self) -> tuple[Task, list[Record]]:
        task, records = self.engine.next()
        if not self.finished:
            self.thread.start()
        self.finished[task.number] += 1
        return task, records


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def conditions(corpus: Corpus) -> Conditions:
    sizes = {"vocabulary": 256, "context": 4, "hidden_layers": 1}
    return Conditions("mlp", sizes, 16, 100, 32, 256, corpus.fingerprint, code_version())


def losses(path: Path, engine: Any, conditions: Conditions) -> dict[str, tuple[float, tuple[tuple[int, float], ...]]]:
    """Train the grid; (loss, curve) by key, once per run."""
    with Store(path, conditions) as store:
        GRID.train(Driver(store, engine, conditions, SEEDS, lambda _setting, _width: 1))
        study = store.study()
    found = {
        run_key(conditions, study.settings[each.setting], each.width, each.base_rate, each.seed): (
            each.loss,
            each.curve,
        )
        for each in study.records
    }
    assert len(found) == len(study.records) == study.planned
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, conditions: Conditions) -> Any:
    return losses(tmp_path_factory.mktemp("here") / "study.sqlite", InProcess(corpus), conditions)


@pytest.fixture(scope="module")
def cluster(corpus: Corpus, expected: Any) -> Iterator[Ray]:
    """Two workers, started from a process in which JAX runs, as in the command."""
    with pytest.MonkeyPatch.context() as patch, what_ray_leaves_open():
        patch.setattr(engine_ray, "available_cores", lambda: 2)
        engine = Ray("local", corpus)
    yield engine
    with what_ray_leaves_open():
        engine.close()


@contextlib.contextmanager
def what_ray_leaves_open() -> Iterator[None]:
    """Some versions leave files and processes to the garbage collector: here, and not in a later test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def kill_a_worker_at_work(killed: list[int]) -> None:
    """Kill a process of this cluster while it trains: Ray puts what a worker does in its title."""
    import psutil  # Ray brings it

    until = time.monotonic() + 30
    while not killed and time.monotonic() < until:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if "_work" in process.cmdline()[0]:
                    process.suspend()  # so that it cannot finish between a second look and the end
                    if "_work" in process.cmdline()[0]:
                        process.kill()
                        killed.append(process.pid)
                        return
                    process.resume()


@needs_ray
def test_a_study_on_two_workers_is_bit_equal_to_one_in_this_process(
    tmp_path: Path, cluster: Ray, conditions: Conditions, expected: Any
) -> None:
    assert cluster.capacity == 3
    engine = Watched(cluster)
    assert losses(tmp_path / "study.sqlite", engine, conditions) == expected
    assert len(expected) >= 2 * 4 * 2 and set(engine.finished.values()) == {1}


@needs_ray
def test_a_killed_worker_costs_nothing_but_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cluster: Ray, conditions: Conditions, expected: Any
) -> None:
    killed: list[int] = []
    engine = Watched(cluster, lambda: kill_a_worker_at_work(killed))
    assert losses(tmp_path / "study.sqlite", engine, conditions) == expected
    assert len(killed) == 1 and set(engine.finished.values()) == {1}
    assert capsys.readouterr() == ("", "")


@needs_ray
@pytest.mark.parametrize(
    ("changed", "said"),
    [({"code": "0+other"}, r".* has version .* and the driver 0\+other;"), ({"batch": 0}, "cannot draw a batch")],
)
def test_a_task_that_fails_is_one_line(cluster: Ray, conditions: Conditions, changed: Any, said: str) -> None:
    batch = Batch(SETTING.setting.name, 16, (1e-3,), (0,))
    cluster.submit(Task(1, replace(conditions, **changed), SETTING.setting, batch))
    with pytest.raises(EngineError, match=rf"'adam muP full' at width 16: {said}.*; what is finished is stored") as one:
        cluster.next()
    assert "\n" not in str(one.value) and not cluster.running


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nonsense"])
def test_no_cluster_at_an_address_is_one_line(address: str, corpus: Corpus) -> None:
    with pytest.raises(EngineError, match=rf"'{address}' is no Ray cluster that can be used: [^\n]*; give host:port"):
        Ray(address, corpus)


def test_a_missing_ray_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, corpus: Corpus) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"needs the package ray; install .* '\.\[verify,ray\]'"):
        Ray("local", corpus)
