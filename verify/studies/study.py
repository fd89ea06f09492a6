"""A study that is trained unit by unit: what its units are, how a unit is kept, and how the parts become an answer.

A unit is one piece of work, such as ("SP", "sqrt", 128): it is trained under conditions, and what is found is a
dataclass of numbers and arrays. Its file says under which conditions, with which code, by which JAX, on what and when
it was made. What was made under other conditions is never taken for the same study.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from derive import __version__
from derive.errors import UserError, shorten
from verify.checksums import read_document, refused, write_document
from verify.provenance import Made
from verify.studies.content import build, plain
from verify.training.data import Corpus
from verify.values import Document, Entries, Json

Conditions = TypeVar("Conditions")
Found = TypeVar("Found")
Result = TypeVar("Result")
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
class Answer(Generic[Conditions, Found, Result]):
    """How the parts of a finished study become an answer, without training anything and without JAX.

    `result(wanted, parts, folder)` judges; `file` is what holds `as_json(result)` in the study's folder, with a
    checksum where `is_sealed`; `units(content)` are the units of a folder that an earlier version made, from that
    file's content. `draw(result, folder)` writes pictures and whatever else there is, which `written` names.
    """

    conditions: type[Conditions]
    file: str
    units: Callable[[Entries], Sequence[Unit]]
    result: Callable[[Mapping[Unit, Conditions], Mapping[Unit, Part[Found]], Path], Result]
    as_json: Callable[[Result], Document]
    table: Callable[[Result], str]
    draw: Callable[[Result, Path], None] = lambda _result, _folder: None
    is_sealed: bool = True
    written: str = ""


@dataclass(frozen=True)
class Study(Generic[Conditions, Found]):
    """How the units of one command are trained, kept and answered from.

    `module` trains: with everything it imports it is the code of a part. `train(conditions, unit, corpus, progress)`
    calls progress with the steps done since. `within` names the entry of the file that holds what was found.
    """

    name: str
    module: str
    found: type[Found]
    file_name: Callable[[Unit], str]
    train: Callable[[Conditions, Unit, Corpus, Progress], Found]
    digits: int | None
    within: str | None = None
    answer: Answer[Conditions, Found, Any] | None = None

    @property
    def answers(self) -> Answer[Conditions, Found, Any]:
        """How it is answered; StudyError for a study that only trains."""
        if self.answer is None:
            raise StudyError(f"verify {self.name} only trains; read its parts with Study.read")
        return self.answer

    def write(self, path: Path, conditions: Conditions, part: Part[Found]) -> None:
        """Keep a part with a checksum; what is not finite is null."""
        content = plain(part.found, self.digits)
        kept = {"schema": SCHEMA, **asdict(part.made), "conditions": plain(conditions)}
        write_document(path, {**kept, **({self.within: content} if self.within else content)})

    def read(self, path: Path, conditions: Conditions) -> Part[Found]:
        """A part that `write` kept; StudyError where it was made under other conditions, or is something else."""
        part, stored = self._read(path)
        different = differences(conditions, stored)
        if different:
            raise StudyError(
                f"{shorten(path.name)} in --out was made with {'; '.join(different)}; give another --out, or those"
            )
        return part

    def read_any(self, path: Path) -> tuple[Part[Found], Conditions]:
        """A part with the conditions that it was made under, whatever they are."""
        part, stored = self._read(path)
        with self._refused(path):
            return part, build(self.answers.conditions, stored)

    def _refused(self, path: Path) -> AbstractContextManager[None]:
        return refused(path, f"of verify {self.name}", "move it away, or give another --out", StudyError)

    def _read(self, path: Path) -> tuple[Part[Found], Document]:
        with self._refused(path):
            content = read_document(path)
            names = Made.__dataclass_fields__
            found = build(self.found, content[self.within] if self.within else content)
            by = build(Made, {"jax": None, **{name: content[name] for name in names if name in content}})
            return Part(found, by), dict(content["conditions"])


AnyStudy: TypeAlias = Study[Any, Any]
AnyPart: TypeAlias = Part[Any]


def differences(conditions: object, stored: Entries) -> list[str]:
    """One "name: that, not this" for every condition in which what is stored differs."""
    return [
        f"{name}: {_brief(name, stored.get(name))}, not {_brief(name, value)}"
        for name, value in plain(conditions).items()
        if stored.get(name) != value
    ]


def _brief(name: str, value: Json) -> str:
    """The value; of a list of lists, which would fill the screen, how many there are."""
    nested = isinstance(value, list) and any(isinstance(each, list) for each in value)
    return f"{len(value)} {name}" if nested else str(value)


def shared(wanted: Mapping[Unit, Conditions]) -> Conditions:
    """The conditions that all units have; StudyError where they differ."""
    first, *rest = wanted.values()
    different = [each for other in rest if other is not first for each in differences(first, plain(other))]
    if different:
        raise StudyError(f"its parts were made with {'; '.join(dict.fromkeys(different))}: they are of two studies")
    return first


def made_by(parts: Iterable[AnyPart]) -> Made:
    """With what all parts were made: the makers one after another where they differ, and the last day."""
    everything = [asdict(part.made) for part in parts]

    def joined(name: str) -> str:
        return "; ".join(dict.fromkeys(each[name] for each in everything if each[name] is not None))

    return Made(joined("code"), joined("device"), max(each["date"] for each in everything), joined("jax"))


def head(command: str, parts: Iterable[AnyPart]) -> Document:
    """The first entries of every command's JSON: with what, on what and when its parts were made."""
    by = made_by(parts)
    made = {"code": by.code, "date": by.date, "device": by.device, "jax": by.jax}
    return {"schema": SCHEMA, "command": command, "version": __version__, **made}
