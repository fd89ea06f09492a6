"""What a study's folder is meant to hold: its units and their conditions, known before they are there.

The file is written when training begins. Folders that earlier versions finished have none, and are read by their
answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from verify.checksums import read_document, refused, write_document
from verify.studies.content import plain
from verify.studies.study import SCHEMA, AnyStudy, StudyError, Unit
from verify.values import Entries

FILE = "wanted.json"


@dataclass(frozen=True)
class Plan:
    """Of the study with that name every unit wanted, with its conditions as JSON has them."""

    study: str
    units: Mapping[Unit, Entries]
    more_follow: bool = False

    @classmethod
    def of(cls, study: AnyStudy, wanted: Mapping[Unit, object], more_follow: bool = False) -> "Plan":
        """What is wanted."""
        return cls(study.name, {unit: plain(conditions) for unit, conditions in wanted.items()}, more_follow)


def write_plan(folder: Path, plan: Plan) -> None:
    """Write it, in place of an earlier one; conditions that units share are written once."""
    distinct: list[Entries] = []
    for conditions in plan.units.values():
        if conditions not in distinct:
            distinct.append(conditions)
    content = {
        "schema": SCHEMA,
        "study": plan.study,
        "more_follow": plan.more_follow,
        "conditions": distinct,
        "units": [[distinct.index(conditions), *unit] for unit, conditions in plan.units.items()],
    }
    write_document(folder / FILE, content)


def read_plan(folder: Path) -> Plan | None:
    """What the folder is meant to hold, None where it does not say; StudyError for a file of something else."""
    path = folder / FILE
    if not path.exists():
        return None
    with refused(path, "the plan of a study", "move it away, or give another folder", StudyError):
        content = read_document(path)
        units = {tuple(unit): dict(content["conditions"][place]) for place, *unit in content["units"]}
        return Plan(str(content["study"]), units, bool(content["more_follow"]))
