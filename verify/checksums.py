"""Checksums over what is stored, recomputed by every reader, so that damage is noticed and not taken for data.

    checksum(content) = the first 16 hexadecimal digits of sha256 over its JSON with sorted keys
    Seal              = how many rows there are, and the sum of their checksums modulo 2^64, in any order

They tell accidents, a flipped bit or a page of zeros, with a chance of 2^-64 that one is overlooked; whoever means to
deceive can compute them too. Documents without a checksum are of versions that wrote none, and are read as they are.
"""

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from derive.errors import shorten
from verify.values import Document, Entries, Json

KEY = "checksum"
DIGITS = 16
UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, OSError, RecursionError, TypeError, ValueError),
    *(csv.Error, zlib.error),
)
"""What reading a file that another program wrote, or that is damaged, can raise: JSON alone raises three of them."""


class DamagedError(ValueError):
    """What does not fit its checksum."""


def checksum(content: Json) -> str:
    """The checksum of numbers, texts, lists and mappings of texts; TypeError for what JSON has not."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class Seal:
    """Of rows in any order: how many, and the sum of their checksums."""

    rows: int = 0
    total: int = 0

    def plus(self, row: str) -> "Seal":
        """With one more row of that checksum."""
        return Seal(self.rows + 1, (self.total + int(row, 16)) % 16**DIGITS)

    @property
    def checksum(self) -> str:
        """The sum as text."""
        return f"{self.total:0{DIGITS}x}"


def sealed(content: Entries) -> Document:
    """A JSON document with its checksum as the last entry."""
    plain = json.loads(json.dumps(content, allow_nan=False))
    return {**content, KEY: checksum(plain)}


def unsealed(content: Json) -> Json:
    """A document without its checksum, where it has one; DamagedError where that is another."""
    if not isinstance(content, dict) or not content:
        return content
    key = KEY if KEY in content else next(reversed(content))
    rest = {name: value for name, value in content.items() if name != key}
    fits = content[key] == checksum(rest)
    # A checksum that fits under another name: its very name was damaged, and no earlier version wrote the document.
    if fits != (key == KEY):
        raise DamagedError("was damaged or changed after it was written: it does not fit its checksum")
    return rest if fits else content


def write_document(path: Path, content: Entries) -> None:
    """Write JSON with its checksum, gzipped where the name ends in .gz; the file appears whole or not at all."""
    data = (json.dumps(sealed(content), allow_nan=False) + "\n").encode()
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    unfinished.replace(path)


def read_document(path: Path) -> Json:
    """What `write_document` wrote; one of UNREADABLE for anything else, DamagedError where it was damaged."""
    data = path.read_bytes()
    return unsealed(json.loads(gzip.decompress(data) if path.suffix == ".gz" else data))


@contextmanager
def refused(path: Path, what: str, cure: str, error: type[Exception]) -> Iterator[None]:
    """Turn what reading a file may raise into one line that names it: damaged, or not `what` it should be."""
    try:
        yield
    except error:
        raise
    except DamagedError as damage:
        raise error(f"{shorten(str(path), 200)} {damage}; {cure}") from damage
    except UNREADABLE as failure:
        raise error(f"{shorten(str(path), 200)} is damaged or not {what}; {cure}") from failure
