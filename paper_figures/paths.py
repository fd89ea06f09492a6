"""Where results are read from and where tables and figures go; a missing result is named with what makes it."""

from pathlib import Path

from derive.errors import UserError
from paper_figures.studies import STUDIES, command

ROOT = Path(__file__).parent
DATA = ROOT / "data"
OUT = ROOT / "out"
GALLERY = ROOT / "gallery"
STYLE = ROOT / "style.mplstyle"
ADOPTED = ROOT.parent / "benchmarks" / "results"
"""Runs of the accelerator's benchmark, a folder per device."""


class MissingResultError(UserError):
    """A study that an item is made from is not there; the message says how to make it."""


def result(data: Path, study: str, file: str = "") -> Path:
    """The folder of a study under `data`, or a file in it; MissingResultError where it is not there."""
    if study not in STUDIES:
        raise MissingResultError(f"no study is called {study}; studies are {', '.join(STUDIES)}")
    path = data / study / file
    if not path.exists():
        raise MissingResultError(
            f"{_short(path)} is missing; make it with: {command(study, 'cpu', _short(data / study))}"
        )
    return path


def _short(path: Path) -> Path:
    """As seen from the project's root, where it lies in it."""
    return path.relative_to(ROOT.parent) if path.is_relative_to(ROOT.parent) else path
