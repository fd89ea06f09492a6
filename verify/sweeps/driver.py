"""The driver of a transfer study: settings x widths x base rates x seeds, from and into a store.

It asks every cell, a setting at a width, which rates to train next, hands out what is missing in batches, and
writes each finished run; whatever is stored already is not trained again.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from verify.sweeps.engines import Engine, Task
from verify.sweeps.loop import Loop, Structure
from verify.sweeps.records import Batch, Conditions, Record, Setting
from verify.sweeps.search import Search
from verify.sweeps.settings.named import Prescribed, representatives
from verify.sweeps.storage.store import Store
from verify.training.config import TARGETS
from verify.training.data import Corpus


@dataclass
class Cell:
    """A setting at a width: its search, and the losses known, by base rate and seed.

    `smallest` is the setting's cell at the smallest width, whose best rate is tried here too.
    """

    setting: Setting
    width: int
    search: Search
    smallest: "Cell | None" = None
    known: dict[float, dict[int, float]] = field(default_factory=dict)
    in_flight: set[float] = field(default_factory=set)

    def wanted(self, seeds: Sequence[int]) -> list[tuple[float, tuple[int, ...]]]:
        """(base rate, seeds not yet trained) that can be handed out now."""
        elsewhere = None
        if self.smallest is not None:
            there = self.smallest.means(seeds)
            elsewhere = None if self.smallest.search.next(there) else self.smallest.search.best(there)
        offsets = self.search.next(self.means(seeds), elsewhere)
        rates = [self.search.rate(offset) for offset in offsets]
        missing = [(rate, tuple(seed for seed in seeds if seed not in self.known.get(rate, {}))) for rate in rates]
        return [each for each in missing if each[0] not in self.in_flight]

    def means(self, seeds: Sequence[int]) -> dict[Fraction, float]:
        """Mean loss over the seeds, by the search's offset; NaN where one diverged, none where one is missing."""
        found: dict[Fraction, float] = {}
        for rate, losses in self.known.items():
            offset = Fraction(round(64 * math.log2(rate / self.search.centre)), 64)
            if self.search.rate(offset) == rate and all(seed in losses for seed in seeds):
                found[offset] = float(np.mean([losses[seed] for seed in seeds]))
        return found

    def best(self, seeds: Sequence[int]) -> tuple[float, float]:
        """(base rate, mean loss) of the lowest mean loss; an infinite loss where every rate diverged."""
        means = self.means(seeds)
        best = self.search.best(means)
        return (self.search.centre, math.inf) if best is None else (self.search.rate(best), means[best])


class Driver:
    """Trains cells to the end of their searches.

    `at_once(setting, width)` says how many rates go in one batch, and `progress(finished, total)` is told how many
    runs were finished since, and how many there will be as far as is known.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        conditions: Conditions,
        seeds: Sequence[int],
        at_once: Callable[[Setting, int], int],
        progress: Callable[[int, int], None] = lambda _finished, _total: None,
    ) -> None:
        self.store, self.engine, self.conditions, self.seeds = store, engine, conditions, tuple(seeds)
        self.at_once, self.progress = at_once, progress
        self.cells: dict[tuple[str, int], Cell] = {}

    def run(self, cells: Iterable[Cell]) -> None:
        """Finish the search of every cell. What was begun earlier is done again first, in its own shape."""
        cells = list(cells)
        for cell in cells:
            self.cells[cell.setting.name, cell.width] = cell
        for record in self.store.study().records:
            self._learn(record)
        begun = [
            (number, batch)
            for number, batch in self.store.unfinished()
            if (batch.setting, batch.width) in self.cells and set(batch.seeds) <= set(self.seeds)
        ]
        running = 0
        while True:
            while running < self.engine.capacity and (task := self._next(begun, cells)):
                self.engine.submit(task)
                running += 1
            if not running:
                return
            task, records = self.engine.next()
            running -= 1
            for record in records:
                if self.store.finish(task.number, record):
                    self._learn(record)
            self.cells[task.batch.setting, task.batch.width].in_flight.difference_update(task.batch.rates)
            self.progress(len(records), self._total(cells))

    def _total(self, cells: Iterable[Cell]) -> int:
        known = sum(len(losses) for cell in cells for losses in cell.known.values())
        wanted = sum(len(seeds) for cell in cells for _, seeds in cell.wanted(self.seeds))
        return known + wanted + len(self.seeds) * sum(len(cell.in_flight) for cell in cells)

    def _learn(self, record: Record) -> None:
        cell = self.cells.get((record.setting, record.width))
        if cell is not None:
            loss = math.nan if record.diverged is not None else record.loss
            cell.known.setdefault(record.base_rate, {})[record.seed] = loss

    def _next(self, begun: list[tuple[int, Batch]], cells: Sequence[Cell]) -> Task | None:
        if begun:
            number, batch = begun.pop(0)
            cell = self.cells[batch.setting, batch.width]
            cell.in_flight.update(batch.rates)
            return Task(number, self.conditions, cell.setting, batch)
        for cell in cells:
            wanted = cell.wanted(self.seeds)
            if wanted:
                seeds = wanted[0][1]
                most = self.at_once(cell.setting, cell.width)
                rates = tuple(rate for rate, missing in wanted if missing == seeds)[:most]
                batch = Batch(cell.setting.name, cell.width, rates, seeds)
                cell.in_flight.update(rates)
                return Task(self.store.add_batch(batch), self.conditions, cell.setting, batch)
        return None


def check_trains(conditions: Conditions, settings: Sequence[Setting], widths: Sequence[int], corpus: Corpus) -> None:
    """Raise what training would raise before anything is stored: sizes, layers and corpora that do not fit."""
    structures = [Structure.of(conditions, setting, width) for setting in settings for width in widths]
    loops = [Loop(each) for each in {repr(each): each for each in structures}.values()]  # one for all alignments
    context, targets = loops[0].context, TARGETS[conditions.model]
    corpus.batch("train", conditions.batch, context, 0, 0, targets)
    corpus.batch("held_out", conditions.evaluation, context, 0, 0, targets)


@dataclass(frozen=True)
class Grid:
    """What a study trains; `share` = (i, n): only the settings i, i + n, i + 2n, ... of those that are trained."""

    settings: tuple[Prescribed, ...]
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    searches: Mapping[str, Search]
    """By optimizer."""
    train_equivalents: bool = False
    share: tuple[int, int] = (0, 1)
    factors: Mapping[tuple[str, int | None], float] = field(default_factory=dict)
    """By optimizer and horizon, what the middle of its rates is multiplied by where its constants were tuned."""

    def train(self, driver: Driver) -> None:
        """Train what is missing of it; settings that train alike are trained once, under the first one's name."""
        conditions = driver.conditions
        alike = {}
        if not self.train_equivalents:
            decays, clips = conditions.weight_decay > 0, conditions.clip is not None
            alike = representatives(self.settings, decays=decays, clips=clips)
        sources = driver.store.add_settings([each.setting for each in self.settings], alike)
        known = driver.store.study().settings
        part, parts = self.share
        cells: list[Cell] = []
        for name in list(dict.fromkeys(sources.values()))[part::parts]:
            search, smallest = self._search(known[name]), None
            for width in self.widths:
                cells.append(Cell(known[name], width, search, smallest))
                smallest = smallest or cells[-1]
        driver.run(cells)

    def _search(self, setting: Setting) -> Search:
        search = self.searches[setting.optimizer]
        return replace(search, centre=search.centre * self.factors.get((setting.optimizer, setting.steps), 1.0))
