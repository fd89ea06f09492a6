"""Folders of studies: what is done and left there, several of them in one, and the answer again without training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derive.errors import shorten
from verify.checksums import read_document, refused
from verify.files import named
from verify.provenance import Made
from verify.studies.content import build, plain
from verify.studies.plan import FILE, Plan, read_plan, write_plan
from verify.studies.study import AnyPart, AnyStudy, StudyError, Unit, differences
from verify.studies.training import other_maker


@dataclass(frozen=True)
class State:
    """A study's folder: the units wanted with their conditions, the parts there are, and whether more is to follow."""

    wanted: Mapping[Unit, object]
    parts: Mapping[Unit, AnyPart]
    more_follow: bool = False

    @property
    def left(self) -> list[Unit]:
        """The units without a part."""
        return [unit for unit in self.wanted if unit not in self.parts]

    @property
    def makers(self) -> dict[tuple[str, str | None], list[Made]]:
        """With what the parts were made, by code and JAX."""
        found: dict[tuple[str, str | None], list[Made]] = {}
        for part in self.parts.values():
            found.setdefault((part.made.code, part.made.jax), []).append(part.made)
        return found


def state(study: AnyStudy, folder: Path) -> State:
    """What the folder holds of that study, every part read; StudyError where one of them is something else."""
    plan = read_plan(folder)
    if plan is None:
        return _finished_earlier(study, folder)
    if plan.study != study.name:
        raise StudyError(f"{named(folder)} holds a study of verify {plan.study}, and not of verify {study.name}")
    with refused(folder / FILE, f"the plan of verify {study.name}", "take a whole copy", StudyError):
        wanted = {unit: build(study.answers.conditions, stored) for unit, stored in plan.units.items()}
    parts = {}
    for unit, conditions in wanted.items():
        path = folder / study.file_name(unit)
        if path.exists():
            parts[unit] = study.read(path, conditions)
    return State(wanted, parts, plan.more_follow)


def _finished_earlier(study: AnyStudy, folder: Path) -> State:
    """Of a folder without a plan, which an earlier version finished: its answer says what its units are."""
    path = folder / study.answers.file
    with refused(path, f"an answer of verify {study.name}", "give the folder of a study", StudyError):
        units = study.answers.units(read_document(path))
    read = {unit: study.read_any(folder / study.file_name(unit)) for unit in units}
    return State(
        {unit: conditions for unit, (_, conditions) in read.items()}, {unit: part for unit, (part, _) in read.items()}
    )


def read_study(study: AnyStudy, folder: Path) -> Any:
    """The result of a finished study; StudyError where units are left."""
    found = state(study, folder)
    if found.left or found.more_follow:
        raise StudyError(
            f"{named(folder)} is not finished: {len(found.parts)} of {len(found.wanted)} units are there; go on with "
            f"verify {study.name}, or unite its parts with verify merge"
        )
    return study.answers.result(found.wanted, found.parts, folder)


def merge(study: AnyStudy, target: Path, folders: Sequence[Path]) -> State:
    """Unite the parts of one study from several folders in a new one; StudyError, and no folder, where they differ.

    A unit that two folders have, both by the same code under the same conditions, is taken from the first.
    """
    if target.exists() and any(target.iterdir()):
        raise StudyError(f"{named(target)} is there already; give a new folder to merge into")
    states = {folder: state(study, folder) for folder in folders}
    wanted: dict[Unit, object] = {}
    parts: dict[Unit, tuple[Path, AnyPart]] = {}
    for folder, each in states.items():
        for unit, conditions in each.wanted.items():
            other = differences(wanted.setdefault(unit, conditions), plain(conditions))
            if other:
                raise StudyError(f"{named(folder)} was made with {'; '.join(other)} in the first; they are two studies")
        for unit, part in each.parts.items():
            parts.setdefault(unit, (folder, part))
    _refuse_several_makers(study, parts)
    more = all(each.more_follow for each in states.values())
    target.mkdir(parents=True, exist_ok=True)
    for unit, (folder, _) in parts.items():
        name = study.file_name(unit)
        (target / name).write_bytes((folder / name).read_bytes())
    write_plan(target, Plan.of(study, wanted, more))
    return State(wanted, {unit: part for unit, (_, part) in parts.items()}, more)


def _refuse_several_makers(study: AnyStudy, parts: Mapping[Unit, tuple[Path, AnyPart]]) -> None:
    """What two codes or two versions of JAX made is not one study."""
    for unit, (folder, part) in parts.items():
        first, begun = next(iter(parts.values()))
        other = other_maker(part.made, begun.made, "not by")
        if other:
            path = shorten(str(folder / study.file_name(unit)), 200)
            raise StudyError(
                f"{path} was made by {'; '.join(other)} in {named(first)}: they are not one study; train the rest "
                "again with one of the two"
            )
