"""Folders and files of studies: made before anything is trained, named so that names tell apart, never written over."""

import hashlib
import re
from pathlib import Path
from tempfile import TemporaryFile

from derive.errors import DeriveError, shorten

LONGEST_STEM = 80


def named(path: Path) -> str:
    """The path in quotes, on one line."""
    return shorten(str(path), 200)


def make_folder(path: Path, option: str = "--out") -> None:
    """Make the folder of that option and see that it can be written to, before anything is trained."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise DeriveError(f"cannot write to {option} {shorten(str(path))}: {error.strerror}; give a folder") from None


def file_stem(name: str) -> str:
    """The name as it can stand in a file's name; where that changes it, with a digest that tells it from others."""
    plain = re.sub(r"[^\w=,.+()^-]+", "_", name)
    return plain if plain == name and len(name) <= LONGEST_STEM else f"{plain[:LONGEST_STEM]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_new(path: Path, text: str) -> None:
    """Write a file that is not there yet; DeriveError where it is, or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise DeriveError(f"--out {shorten(str(path))} is there already; give another file, or move that one") from None
    except OSError as error:
        raise DeriveError(f"cannot write to --out {shorten(str(path))}: {error.strerror}; give a file") from None
