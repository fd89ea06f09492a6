"""A study that is trained unit by unit: every unit is kept as it ends, and the same command goes on with the rest.

A unit is one piece of work, such as ("SP", "sqrt", 128): it is trained under conditions, and what is found is a
dataclass of numbers and arrays. Its file says under which conditions, with which code, by which JAX, on what and when
it was made. What was made under other conditions is never taken for the same study, and what another code or JAX made
is never gone on with: the folder is left as it was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

from derive import __version__
from derive.errors import UserError, shorten
from verify.checksums import read_document, refused, write_document
from verify.provenance import Made, loaded_code, made
from verify.studies.content import build, plain
from verify.training.data import Corpus

Conditions = TypeVar("Conditions")
Found = TypeVar("Found")
Unit = tuple[str | int, ...]
Progress = Callable[[int], None]
SCHEMA = 1


class StudyError(UserError):
    """A study that cannot be made as it was asked for, or not be gone on with."""


def check_widths(widths: Sequence[int]) -> None:
    """Raise StudyError unless there are at least two widths and they grow."""
    if len(widths) < 2:
        raise StudyError(f"{len(widths)} width given; a slope needs at least two, such as --widths 128,256,512")
    if any(later <= earlier for earlier, later in pairwise(widths)) or widths[0] < 1:
        raise StudyError(f"widths {','.join(map(str, widths))} do not grow; list them from small to large, once each")


@dataclass(frozen=True)
class Part(Generic[Found]):
    """What one unit showed, and with what it was made."""

    found: Found
    made: Made


@dataclass(frozen=True)
class Study(Generic[Conditions, Found]):
    """How the units of one command are trained and kept.

    `module` trains: with everything it imports it is the code of a part. `train(conditions, unit, corpus, progress)`
    calls progress with the steps done since. `within` names the entry of the file that holds what was found.
    """

    name: str
    module: str
    found: type[Found]
    file_name: Callable[[Unit], str]
    train: Callable[[Conditions, Unit, Corpus, Progress], Found]
    digits: int
    within: str | None = None

    def write(self, path: Path, conditions: Conditions, part: Part[Found]) -> None:
        """Keep a part with a checksum; what is not finite is null."""
        content = plain(part.found, self.digits)
        kept = {"schema": SCHEMA, **asdict(part.made), "conditions": plain(conditions)}
        write_document(path, {**kept, **({self.within: content} if self.within else content)})

    def read(self, path: Path, conditions: Conditions) -> Part[Found]:
        """A part that `write` kept; StudyError where it was made under other conditions, or is something else."""
        with refused(path, f"of verify {self.name}", "move it away, or give another --out", StudyError):
            content = read_document(path)
            stored = dict(content["conditions"])
            names = Made.__dataclass_fields__
            part = Part(
                build(self.found, content[self.within] if self.within else content),
                build(Made, {"jax": None, **{name: content[name] for name in names if name in content}}),
            )
            different = differences(conditions, stored)
        if different:
            raise StudyError(
                f"{shorten(path.name)} in --out was made with {'; '.join(different)}; give another --out, or those"
            )
        return part


def differences(conditions: Any, stored: Mapping[str, Any]) -> list[str]:
    """One "name: that, not this" for every condition in which what is stored differs."""
    return [
        f"{name}: {_brief(name, stored.get(name))}, not {_brief(name, value)}"
        for name, value in plain(conditions).items()
        if stored.get(name) != value
    ]


def _brief(name: str, value: Any) -> str:
    """The value; of a list of lists, which would fill the screen, how many there are."""
    nested = isinstance(value, list) and any(isinstance(each, list) for each in value)
    return f"{len(value)} {name}" if nested else str(value)


@dataclass
class Training(Generic[Conditions, Found]):
    """One run of a study: the units that are wanted, each with its conditions, and the parts there are."""

    study: Study[Conditions, Found]
    wanted: Mapping[Unit, Conditions]
    folder: Path
    parts: dict[Unit, Part[Found]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loaded_code(self.study.module)  # before anything is trained: files may change while a long study runs

    def path(self, unit: Unit) -> Path:
        """Where that unit is kept."""
        return self.folder / self.study.file_name(unit)

    def take_stock(self) -> list[Unit]:
        """Read the parts there are, and return the units left; StudyError where those cannot be gone on with."""
        there = [unit for unit in self.wanted if self.path(unit).exists()]
        self.parts = {unit: self.study.read(self.path(unit), self.wanted[unit]) for unit in there}
        left = [unit for unit in self.wanted if unit not in self.parts]
        if left and there:
            now = made(self.study.module)
            for unit in there:
                self._refuse_other(unit, now)
        return left

    def _refuse_other(self, unit: Unit, now: Made) -> None:
        then = self.parts[unit].made
        pairs = [("code", then.code, now.code), ("JAX", then.jax, now.jax)]
        other = [f"{what} {was}, and this is {this}" for what, was, this in pairs if was is not None and was != this]
        if other:
            raise StudyError(
                f"{shorten(self.path(unit).name)} in --out was made by {'; '.join(other)}: what is still to be trained "
                "would not be the same study; give another --out, or go on with what began it"
            )

    def run(self, left: Sequence[Unit], corpus: Corpus, progress: Progress) -> dict[Unit, Part[Found]]:
        """Train what is left, each unit kept as it ends; all parts in the order in which they were wanted."""
        for unit in left:
            conditions = self.wanted[unit]
            found = self.study.train(conditions, unit, corpus, progress)
            self.study.write(self.path(unit), conditions, Part(found, made(self.study.module)))
            # As it was rounded: what is judged now is what is judged when the folder is gone on with.
            self.parts[unit] = self.study.read(self.path(unit), conditions)
        return {unit: self.parts[unit] for unit in self.wanted}


def head(command: str, parts: Iterable[Part[Any]]) -> dict[str, Any]:
    """The first entries of every command's JSON: with what, on what and when its parts were made."""
    all_made = [asdict(part.made) for part in parts]

    def joined(name: str) -> str:
        return "; ".join(dict.fromkeys(each[name] for each in all_made if each[name] is not None))

    return {
        "schema": SCHEMA,
        "command": command,
        "version": __version__,
        "code": joined("code"),
        "date": max(each["date"] for each in all_made),
        "device": joined("device"),
        "jax": joined("jax"),
    }
