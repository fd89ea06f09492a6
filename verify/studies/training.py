"""Training what a study's folder lacks: every unit is kept as it ends, and the same command goes on with the rest.

What another code or another JAX made is never gone on with, and a folder that is refused is left as it was.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

from derive.errors import shorten
from verify.provenance import Made, loaded_code, made
from verify.studies.plan import Plan, read_plan, write_plan
from verify.studies.study import Conditions, Found, Part, Progress, Study, StudyError, Unit
from verify.studies.workers import UnitTask, Workers
from verify.training.data import Corpus

EARLIER = ("study.sqlite", "rates.sqlite")
"""Stores in which earlier versions kept what is now kept by units."""
Cost = Callable[[Unit], int]
"""Of a unit, in steps of the progress bar."""


@dataclass
class Training(Generic[Conditions, Found]):
    """One run of a study: the units that are wanted, each with its conditions, and the parts there are.

    `share` = (i, n) trains only the units i, i + n, i + 2n, ... of those wanted. `more_follow` says that what is wanted
    next depends on these; `keeps` is false where another process writes the same parts.
    """

    study: Study[Conditions, Found]
    wanted: Mapping[Unit, Conditions]
    folder: Path
    share: tuple[int, int] = (0, 1)
    more_follow: bool = False
    keeps: bool = True
    parts: dict[Unit, Part[Found]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loaded_code(self.study.module)  # before anything is trained: files may change while a long study runs

    @property
    def own(self) -> list[Unit]:
        """The units of this share."""
        first, parts = self.share
        return list(self.wanted)[first::parts]

    @property
    def is_finished(self) -> bool:
        """Whether every unit that is wanted has its part."""
        return all(unit in self.parts for unit in self.wanted)

    def path(self, unit: Unit) -> Path:
        """Where that unit is kept."""
        return self.folder / self.study.file_name(unit)

    def take_stock(self) -> list[Unit]:
        """Read the parts there are, and return the units left; StudyError where those cannot be gone on with."""
        plan = read_plan(self.folder)
        if plan is not None and plan.study != self.study.name:
            raise StudyError(
                f"--out {shorten(str(self.folder))} holds a study of verify {plan.study}; give another --out"
            )
        there = [unit for unit in self.wanted if self.path(unit).exists()]
        self._refuse_earlier_version(kept=bool(there or plan))
        self.parts = {unit: self.study.read(self.path(unit), self.wanted[unit]) for unit in there}
        left = [unit for unit in self.own if unit not in self.parts]
        if left and there:
            now = made(self.study.module)
            for unit in there:
                self._refuse_other(unit, now)
        return left

    def _refuse_earlier_version(self, kept: bool) -> None:
        """A study whose parts were not kept, or not in these files, would be written over."""
        names = [*([self.study.answer.file] if self.study.answer else []), *EARLIER]
        found = [name for name in names if (self.folder / name).exists()]
        if found and not kept:
            raise StudyError(
                f"--out {shorten(str(self.folder))} already holds a study ({found[0]}); give another folder, or move "
                "that one"
            )

    def _refuse_other(self, unit: Unit, now: Made) -> None:
        other = other_maker(self.parts[unit].made, now)
        if other:
            raise StudyError(
                f"{shorten(self.path(unit).name)} in --out was made by {'; '.join(other)}: what is still to be trained "
                "would not be the same study; give another --out, or go on with what began it"
            )

    def run(
        self,
        left: Sequence[Unit],
        corpus: Corpus,
        progress: Progress,
        workers: Workers | None = None,
        cost: Cost = lambda _: 1,
    ) -> dict[Unit, Part[Found]]:
        """Train what is left, each unit kept as it ends; all parts there are, in the order in which they were wanted.

        Workers train as many units at once as they are, and progress is then told the unit's cost as it ends.
        """
        plan = Plan.of(self.study, self.wanted, self.more_follow)
        # Where nothing is left, a plan that wanted more is set right: this is the study that is answered.
        if self.keeps and (left or not (self.more_follow or read_plan(self.folder) == plan)):
            write_plan(self.folder, plan)
        if workers is None:
            for unit in left:
                self._keep(unit, self.study.train(self.wanted[unit], unit, corpus, progress))
        else:
            tasks = [UnitTask(self.study.train, self.study.module, self.wanted[unit], unit) for unit in left]
            for unit, found in workers.train(tasks):
                self._keep(unit, found)
                progress(cost(unit))
        return {unit: self.parts[unit] for unit in self.wanted if unit in self.parts}

    def _keep(self, unit: Unit, found: Found) -> None:
        conditions, part = self.wanted[unit], Part(found, made(self.study.module))
        if self.keeps:
            self.study.write(self.path(unit), conditions, part)
            # As it was rounded: what is judged now is what is judged when the folder is gone on with.
            part = self.study.read(self.path(unit), conditions)
        self.parts[unit] = part


def other_maker(then: Made, now: Made, this_is: str = "and this is") -> list[str]:
    """In what the maker of a part differs from another, as "code a, and this is b"; nothing where that is not known."""
    pairs = [("code", then.code, now.code), ("JAX", then.jax, now.jax)]
    return [f"{what} {was}, {this_is} {this}" for what, was, this in pairs if was is not None and was != this]
