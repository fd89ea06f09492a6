"""Where batches are trained: in this process, or in one process per core; the driver alone writes to the store."""

import math
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from derive.errors import UserError
from verify.sweeps.records import Batch, Conditions, Record, Setting
from verify.training.data import Corpus, load_corpus

if TYPE_CHECKING:
    from verify.sweeps.loop import Loop

KEPT_LOOPS = 8


class EngineError(UserError):
    """An engine that cannot be had, or cannot train what it was given."""


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers() -> int:
    """How many processes train side by side if nothing else is asked for: one per core, one with an accelerator."""
    import jax

    return available_cores() if jax.default_backend() == "cpu" else 1


def use_compilation_cache() -> None:
    """Keep compiled programs on disk between processes, in JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "scaling-exponents" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@dataclass(frozen=True)
class Task:
    """A batch with all that a worker needs to train it."""

    number: int
    conditions: Conditions
    setting: Setting
    batch: Batch


_loops: "OrderedDict[str, Loop]" = OrderedDict()


def perform(task: Task, corpus: Corpus) -> list[Record]:
    """Train the task's batch; the compiled loops of the last few structures are kept in the process."""
    from verify.sweeps.loop import Loop, Structure, train

    structure = Structure.of(task.conditions, task.setting, task.batch.width)
    key = repr(structure)
    if key not in _loops:
        _loops[key] = Loop(structure)
        if len(_loops) > KEPT_LOOPS:
            _loops.popitem(last=False)
    _loops.move_to_end(key)
    return [as_cross_entropy(record) for record in train(_loops[key], task.setting, task.batch, corpus)]


def as_cross_entropy(record: Record) -> Record:
    """The record without what no cross-entropy is: below 0 by rounding it is 0, and -inf, of a diverged run, NaN."""

    def possible(loss: float) -> float:
        return math.nan if loss == -math.inf else 0.0 if loss < 0 else loss

    curve = tuple((step, possible(loss)) for step, loss in record.curve)
    return replace(record, loss=possible(record.loss), curve=curve)


@runtime_checkable
class Engine(Protocol):
    """Takes tasks and gives back finished ones, in any order."""

    capacity: int
    """How many tasks it wants to have at once."""

    def submit(self, task: Task) -> None:
        """Take a task."""
        ...

    def next(self) -> tuple[Task, list[Record]]:
        """Wait for a task to finish."""
        ...

    def close(self) -> None:
        """Stop, without waiting for what is unfinished."""
        ...


class InProcess:
    """Trains one task after the other in this process, which then owns the accelerator."""

    capacity = 1

    def __init__(self, corpus: Corpus) -> None:
        use_compilation_cache()
        self.corpus = corpus
        self.tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.tasks.append(task)

    def next(self) -> tuple[Task, list[Record]]:
        """Train the oldest task."""
        task = self.tasks.popleft()
        return task, perform(task, self.corpus)

    def close(self) -> None:
        """Nothing is running."""


class Pool:
    """Worker processes, one per core and each on a core of its own: faster on a CPU than all cores on one network.

    They end with the driver, even where it is killed, and read the corpus for themselves. What they perform is
    function(task, fingerprint), a function of a module, which refuses a corpus that has another fingerprint.
    """

    def __init__(self, count: int, path: Path | None, vocabulary: int | None, fingerprint: str) -> None:
        context = multiprocessing.get_context("spawn")
        order = context.Value("i", 0)
        self.capacity = count + 1  # one waits, so that no worker does
        self.pool = ProcessPoolExecutor(count, context, _begin, (order, path, vocabulary))
        self.fingerprint = fingerprint
        self.running: dict[Future[Any], Any] = {}

    def start(self, function: Callable[[Any, str], Any], task: Any) -> None:
        """Have it performed by whichever worker is free."""
        self.running[self.pool.submit(function, task, self.fingerprint)] = task

    def ended(self) -> tuple[Any, Any]:
        """Wait for a task to end, and return it with what the function returned; EngineError where a worker died."""
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        future = done.pop()
        try:
            return self.running.pop(future), future.result()
        except BrokenProcessPool:
            raise EngineError(
                "a worker process died, perhaps for want of memory; what is finished is stored: run the same command "
                "again to go on, with fewer --processes if it happens again"
            ) from None

    def close(self) -> None:
        """Stop the workers at once."""
        workers = list(self.pool._processes.values())  # type: ignore[union-attr]
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()


class Processes:
    """A sweep's tasks, trained by a pool of worker processes."""

    def __init__(self, count: int, path: Path | None, vocabulary: int | None, fingerprint: str) -> None:
        self.pool = Pool(count, path, vocabulary, fingerprint)
        self.capacity = self.pool.capacity

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.pool.start(_work, task)

    def next(self) -> tuple[Task, list[Record]]:
        """Wait for a task to finish; EngineError where a worker died."""
        return self.pool.ended()

    def close(self) -> None:
        """Stop the workers at once."""
        self.pool.close()


_corpus: Corpus | None = None


def _begin(order: Any, path: Path | None, vocabulary: int | None) -> None:
    """Set up a worker: a core of its own, the corpus, and an end when the driver's comes."""
    global _corpus
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with order.get_lock():
        place = order.value
        order.value += 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[place % len(cores)]})
    use_compilation_cache()
    _corpus = load_corpus(path, vocabulary)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task, fingerprint: str) -> list[Record]:
    assert _corpus is not None  # noqa: S101
    if _corpus.fingerprint != fingerprint:
        raise EngineError(
            f"the corpus changed while the study ran: it was {fingerprint} and is {_corpus.fingerprint}; "
            "put the old text back, or start a new study in another folder"
        )
    return perform(task, _corpus)
