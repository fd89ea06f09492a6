"""Training with planted theories: the networks of `verify exponents` at its defaults, kept as they come."""

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.plants.sizes import STEPS, WIDTHS, Sizes
from benchmarks.plants.theories import DEFAULT_SEEDS, OPTIMIZERS, SCHEMES, plants, right, trained_as
from derive.solve import Prescription
from verify.fit.forward import Table

Wanted = tuple[str, Prescription, int]
"""An optimizer, a theory to train with, and how many seeds."""


@dataclass(frozen=True)
class Piece:
    """Networks that are trained at once."""

    optimizer: str
    theory: Prescription
    seeds: range
    widths: tuple[int, ...] = WIDTHS
    steps: int = STEPS[-1]

    def __str__(self) -> str:
        """As it is told when done."""
        return f"{self.optimizer} {trained_as(self.theory)}: seeds {self.seeds.start} to {self.seeds.stop - 1}"


def of_plants() -> Iterator[Wanted]:
    """What the plants train with: three seeds of each, then the more that some need."""
    listed = [(optimizer, plant) for optimizer in OPTIMIZERS for plant in plants(optimizer)]
    for most in (DEFAULT_SEEDS, max(plant.seeds for _, plant in listed)):
        for optimizer, plant in listed:
            yield optimizer, plant.theory, min(plant.seeds, most)


def of_right(groups: int) -> Iterator[Wanted]:
    """The right theories of SP and of muP: a quarter of the groups of each, then half, then all."""
    for most in (groups // 4, groups // 2, groups):
        for scheme in SCHEMES:
            for optimizer in OPTIMIZERS:
                yield optimizer, right(optimizer, scheme), DEFAULT_SEEDS * most


def measured(piece: Piece) -> dict[int, Table]:
    """The tables of `verify exponents` at its defaults, with that theory in place of the one derived."""
    from verify.studies.exponents.study import exponents
    from verify.training.config import Config
    from verify.training.data import load_corpus
    from verify.training.rules.usual import BASE_RATES

    corpus = load_corpus()
    base, rate, sizes = piece.widths[0], BASE_RATES[piece.optimizer], {"vocabulary": corpus.vocabulary}
    config = Config(piece.theory, base, rate, sizes=sizes)
    return exponents(config, piece.widths, piece.seeds, piece.steps, corpus).tables


def missing(wanted: Iterable[Wanted], folder: Path, chunk: int, widths: tuple[int, ...] = WIDTHS) -> list[Piece]:
    """What is wanted and not yet in the folder, in pieces of `chunk` seeds."""
    stored = {optimizer: Sizes(folder, optimizer) for optimizer in OPTIMIZERS}
    ends: dict[tuple[str, str], int] = {}
    pieces = []
    for optimizer, theory, seeds in wanted:
        name = trained_as(theory)
        start = ends.get((optimizer, name), stored[optimizer].seeds(name))
        while start < seeds:
            stop = min(start + chunk, seeds)
            pieces.append(Piece(optimizer, theory, range(start, stop), widths))
            start = stop
        ends[optimizer, name] = start
    return pieces


def train(pieces: Sequence[Piece], folder: Path, minutes: float, processes: int = 1) -> bool:
    """Train the pieces, each written as it ends, until time is up; whether all were trained."""
    ends = time.time() + 60 * minutes
    work = [(piece, ends) for piece in pieces]
    if processes == 1:
        return _keep(pieces, map(_in_time, work), folder)
    context = multiprocessing.get_context("spawn")
    turns = context.Value("i", 0)
    with ProcessPoolExecutor(processes, context, _settle, (turns, processes)) as pool:
        return _keep(pieces, pool.map(_in_time, work), folder)


def _in_time(work: tuple[Piece, float]) -> dict[int, Table] | None:
    piece, ends = work
    return None if time.time() > ends else measured(piece)


def _keep(pieces: Sequence[Piece], tables: Iterable[dict[int, Table] | None], folder: Path) -> bool:
    """Write tables as they come, in order; the first that was not trained ends it."""
    for piece, table in zip(pieces, tables, strict=True):
        if table is None:
            return False
        Sizes(folder, piece.optimizer).add(trained_as(piece.theory), table, _about())
        print(f"{datetime.now(UTC):%H:%M:%S} {piece}", flush=True)
    return True


def _about() -> Mapping[str, Any]:
    import jax

    from verify.provenance import device_name
    from verify.training.data import load_corpus

    corpus = load_corpus()
    made = {"device": device_name(), "jax": jax.__version__, "date": datetime.now(UTC).date().isoformat()}
    return {**made, "corpus": f"{corpus.name} {corpus.fingerprint}"}


def _settle(turns: Any, processes: int) -> None:
    """Give each process cores of its own, before JAX counts them."""
    with turns.get_lock():
        turn, turns.value = turns.value, turns.value + 1
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // processes
    if each:
        os.sched_setaffinity(0, cores[turn * each : (turn + 1) * each])
