"""All studies that are trained unit by unit, by name, loaded when asked for; and which one a folder holds."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from verify.checksums import UNREADABLE, read_document
from verify.files import named
from verify.studies.folder import read_study
from verify.studies.plan import read_plan
from verify.studies.study import AnyStudy, StudyError

HOMES = {
    "exponents": ("verify.studies.exponents.results", "EXPONENTS"),
    "exponents --axis depth": ("verify.studies.depth.results", "DEPTH"),
    "updates": ("verify.studies.updates.results", "UPDATES"),
    "decay": ("verify.studies.decay.results", "DECAY"),
    "phase": ("verify.studies.phase.kept", "PHASE"),
    "epsilon": ("verify.studies.epsilon.results", "EPSILON"),
}


class Studies(Mapping[str, AnyStudy]):
    """The studies by name."""

    def __getitem__(self, name: str) -> AnyStudy:
        module, attribute = HOMES[name]
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(HOMES)

    def __len__(self) -> int:
        return len(HOMES)


STUDIES = Studies()
FINISHED = {
    "exponents.json": "exponents --axis depth",
    "updates.json": "updates",
    "decay.json": "decay",
    "phase.json": "phase",
}
"""By the answer that says which study an earlier version finished there, parts and all."""


def study_in(folder: Path) -> AnyStudy | None:
    """The study that a folder holds, None where it holds none of these; StudyError where its plan names no such one."""
    if not folder.is_dir():
        return None
    plan = read_plan(folder)
    if plan is not None:
        if plan.study not in STUDIES:
            raise StudyError(f"{named(folder)} holds a study of verify {plan.study}, which this version has not")
        return STUDIES[plan.study]
    for file, name in FINISHED.items():
        try:
            content = read_document(folder / file)
        except UNREADABLE:
            continue
        if isinstance(content, dict) and content.get("command") == name.split()[0]:
            return STUDIES[name]
    return None


def read(folder: str | Path) -> Any:
    """The result of the finished study in that folder, without training; StudyError where there is none."""
    folder = Path(folder)
    study = study_in(folder)
    if study is None:
        raise StudyError(f"{named(folder)} holds no study of {', '.join(STUDIES)}; give the folder of one")
    return read_study(study, folder)
