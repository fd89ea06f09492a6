"""Units trained in processes of this machine, one core each; the driver alone writes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.provenance import loaded_code
from verify.studies.study import Unit
from verify.sweeps import engines
from verify.sweeps.engines import EngineError, Processes


@dataclass(frozen=True)
class UnitTask:
    """A unit with all that a worker needs to train it; `train` is found by its name there."""

    train: Callable[..., Any]
    module: str
    conditions: Any
    unit: Unit


class Workers(Processes):
    """A sweep's processes, which train units here: they end with the driver, even where it is killed."""

    def __init__(self, count: int, path: Path | None, vocabulary: int | None, fingerprint: str) -> None:
        super().__init__(count, path, vocabulary, fingerprint)
        self.units: dict[Future[Any], UnitTask] = {}
        self.running = self.units  # type: ignore[assignment]  # what `next` waits for

    def train(self, tasks: Sequence[UnitTask]) -> Iterator[tuple[Unit, Any]]:
        """(unit, what was found) as they end; EngineError where a worker died or has other code."""
        waiting = list(tasks)
        while waiting or self.units:
            while waiting and len(self.units) < self.capacity:
                task = waiting.pop(0)
                self.units[self.pool.submit(_train, task, self.fingerprint)] = task
            done, answered = self.next()
            found, code = answered  # type: ignore[misc]
            if code != loaded_code(done.module):  # type: ignore[attr-defined]
                raise EngineError(
                    f"files changed while the study ran: a worker trained by code {code}, and this is "
                    f"{loaded_code(done.module)}; what is finished is stored, start again to go on"  # type: ignore[attr-defined]
                )
            yield done.unit, found  # type: ignore[attr-defined]


def _train(task: UnitTask, fingerprint: str) -> tuple[Any, str]:
    """In a worker: what the unit shows, and by which code."""
    code, corpus = loaded_code(task.module), engines._corpus
    if corpus is None or corpus.fingerprint != fingerprint:
        raise EngineError(
            "the corpus changed while the study ran; put the old text back, or start a new study in another folder"
        )
    return task.train(task.conditions, task.unit, corpus, lambda _: None), code
