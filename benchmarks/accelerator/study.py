"""Step 6: the transfer study of `verify transfer` over widths 128 to 2048, width by width, as far as time allows.

Multilayer perceptrons, Adam, SP and muP, one raw rate and full alignment. The driver's own search says which rate comes
next; each batch it asks for, a rate with all its seeds, is a part, and what is kept answers for itself.
"""

import tempfile
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.accelerator.ledger import Cost, Ledger, tell
from verify.planning.counts import mlp, training_flops
from verify.provenance import loaded_code
from verify.studies.transfer.analysis import analyse, rows_json
from verify.sweeps.driver import Driver, Grid
from verify.sweeps.engines import Task
from verify.sweeps.loop import Loop, Structure, train
from verify.sweeps.records import Conditions, Record, Study
from verify.sweeps.search import Search
from verify.sweeps.settings.named import Prescribed, prescribed, representatives
from verify.sweeps.storage.rows import as_record, as_row
from verify.sweeps.storage.store import Store
from verify.training.data import load_corpus

COMPILING, COMPILED = 25, 2
"""Seconds of a batch whose loop is new, and of one whose loop is there, beside others."""
AT_ONCE = 8


@dataclass(frozen=True)
class Scale:
    """What is trained."""

    widths: tuple[int, ...]
    seeds: int
    steps: int
    batch: int
    evaluation: int
    sizes: Mapping[str, int]
    search: Search


FULL = Scale(
    (128, 256, 512, 1024, 2048),
    3,
    200,
    256,
    2048,
    {"vocabulary": 256, "context": 8, "hidden_layers": 2},
    Search(2.0**-7, count=9, halvings=1),
)
TOY = Scale(
    (4, 8), 1, 2, 4, 8, {"vocabulary": 256, "context": 2, "hidden_layers": 1}, Search(2.0**-7, 2, 0, extension=0)
)


class NoTimeError(Exception):
    """The next batch cannot end in time, or failed."""


class Kept:
    """An engine that takes batches from the ledger, and trains what is not there while there is time.

    Several at once, each in a thread: compiling is most of the work, and does not hold Python up.
    """

    def __init__(self, ledger: Ledger, at_once: int) -> None:
        self.ledger, self.corpus, self.capacity = ledger, load_corpus(), at_once
        self.pool = ThreadPoolExecutor(at_once)
        self.running: dict[Future[Any], tuple[Task, str, Cost, float]] = {}
        self.ready: list[tuple[Task, list[Any]]] = []
        self.loops: dict[str, tuple[Lock, Loop]] = {}

    def submit(self, task: Task) -> None:
        """Take a task; NoTimeError where it is neither kept nor can be made."""
        batch, structure = task.batch, Structure.of(task.conditions, task.setting, task.batch.width)
        name = f"{batch.setting}, width {batch.width}, rate {batch.rates[0]:.6g}"
        key, new = repr(structure), repr(structure) not in self.loops
        sizes = (task.conditions.sizes[each] for each in ("hidden_layers", "context", "vocabulary"))
        step = training_flops(mlp(batch.width, *sizes), task.conditions.batch, False)
        flops = step * task.conditions.steps * len(batch.runs())
        cost = Cost(COMPILING if new else COMPILED, flops, kind="new" if new else "again")
        if kept := self.ledger.kept["parts"].get(name):
            self.ready.append((task, kept["result"]))
        elif self.ledger.begins(name, cost):
            if new:
                self.loops[key] = (Lock(), Loop(structure))
            future = self.pool.submit(self._train, task, *self.loops[key])
            self.running[future] = (task, name, cost, self.ledger.clock())
        else:
            raise NoTimeError(name)

    def _train(self, task: Task, lock: Lock, loop: Loop) -> list[Any]:
        with lock:  # the first of a loop compiles it, and the others wait instead of doing the same
            return [as_row(record) for record in train(loop, task.setting, task.batch, self.corpus)]

    def next(self) -> tuple[Task, list[Record]]:
        """A finished task and its records; NoTimeError where it failed."""
        if self.ready:
            task, rows = self.ready.pop(0)
            return task, [as_record(row) for row in rows]
        future = next(iter(wait(self.running, return_when=FIRST_COMPLETED).done))
        task, name, cost, start = self.running.pop(future)
        error = future.exception()
        rows = None if error else future.result()
        self.ledger.ended(name, cost, self.ledger.clock() - start, rows, error)
        if rows is None:
            raise NoTimeError(name)
        return task, [as_record(row) for row in rows]

    def close(self) -> None:
        """Keep what is under way."""
        while self.running:
            with suppress(NoTimeError):
                self.next()
        self.pool.shutdown()


def conditions(scale: Scale) -> Conditions:
    """What all networks share."""
    corpus = load_corpus()
    common = (scale.steps, scale.batch, scale.evaluation, f"{corpus.name} {corpus.fingerprint}", loaded_code())
    return Conditions("mlp", dict(scale.sizes), scale.widths[0], *common)


def settings() -> tuple[Prescribed, ...]:
    """SP and muP, each with one raw rate and with the rates of full alignment."""
    return tuple(prescribed("adam", scheme, each) for scheme in ("sp", "mup") for each in ("global", "full"))


def run(ledger: Ledger, toy: bool) -> None:
    """The study, the small widths of all settings before the large ones."""
    scale, shared = TOY if toy else FULL, conditions(TOY if toy else FULL)
    grid = Grid(settings(), scale.widths, tuple(range(scale.seeds)), {"adam": scale.search})
    engine = Kept(ledger, AT_ONCE)
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "study.sqlite", shared) as store:
        driver = Driver(store, engine, shared, grid.seeds, lambda _setting, _width: 1)
        try:
            for count in range(1, len(scale.widths) + 1):
                replace(grid, widths=scale.widths[:count]).train(driver)
        except NoTimeError:
            tell(f"{ledger.kept['step']}: as far as time allows")
        finally:
            engine.ready.clear()
            engine.close()


def study(parts: Mapping[str, Any], toy: bool) -> Study:
    """The study as far as it is kept."""
    chosen = settings()
    records = tuple(as_record(row) for rows in parts.values() for row in rows)
    alike = representatives(chosen, decays=False, clips=False)
    return Study(conditions(TOY if toy else FULL), {each.setting.name: each.setting for each in chosen}, alike, records)


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """How many networks were trained, and every setting as `verify transfer` writes it."""
    found = study(parts, toy)
    widths = sorted({record.width for record in found.records})
    rows = rows_json(analyse(found)) if found.records else []
    return {"networks": len(found.records), "widths": widths, "settings": rows}
