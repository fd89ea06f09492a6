"""Units trained in processes of this machine, one core each; the driver alone writes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.provenance import loaded_code
from verify.studies.study import Unit
from verify.sweeps import engines
from verify.sweeps.engines import EngineError, Pool


@dataclass(frozen=True)
class UnitTask:
    """A unit with all that a worker needs to train it; `train` is found by its name there."""

    train: Callable[..., Any]
    module: str
    conditions: object
    unit: Unit


class Workers:
    """A pool of worker processes, as a sweep's, that train units."""

    def __init__(self, count: int, path: Path | None, vocabulary: int | None, fingerprint: str) -> None:
        self.pool = Pool(count, path, vocabulary, fingerprint)

    def train(self, tasks: Sequence[UnitTask]) -> Iterator[tuple[Unit, Any]]:
        """(unit, what was found) as they end; EngineError where a worker died or has other code."""
        waiting = list(tasks)
        while waiting or self.pool.running:
            while waiting and len(self.pool.running) < self.pool.capacity:
                self.pool.start(_train, waiting.pop(0))
            done, (found, code) = self.pool.ended()
            if code != loaded_code(done.module):
                raise EngineError(
                    f"files changed while the study ran: a worker trained by code {code}, and this is "
                    f"{loaded_code(done.module)}; what is finished is stored, start again to go on"
                )
            yield done.unit, found

    def close(self) -> None:
        """Stop the workers at once."""
        self.pool.close()


def _train(task: UnitTask, fingerprint: str) -> tuple[Any, str]:
    """In a worker: what the unit shows, and by which code."""
    code, corpus = loaded_code(task.module), engines._corpus
    if corpus is None or corpus.fingerprint != fingerprint:
        raise EngineError(
            "the corpus changed while the study ran; put the old text back, or start a new study in another folder"
        )
    return task.train(task.conditions, task.unit, corpus, lambda _: None), code
