"""The SQLite file under a store: its tables, its lock, how it is made whole, read without a trace, and its errors."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from derive.errors import UserError
from verify.checksums import DamagedError, Seal
from verify.files import named

Taken = TypeVar("Taken")

SCHEMA = 2
READABLE = (1, SCHEMA)
"""Rows of schema 1 have no checksums; such stores are read, and merged into one that has them."""
APPLICATION = int.from_bytes(b"vrfy", "big")
TABLES = f"""
PRAGMA journal_mode = MEMORY;
BEGIN;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {SCHEMA};
CREATE TABLE study (conditions TEXT NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE seal (rows INTEGER NOT NULL, checksum TEXT NOT NULL);
CREATE TABLE settings (
    name TEXT PRIMARY KEY, content TEXT NOT NULL,
    trained_as TEXT NOT NULL REFERENCES settings (name) DEFERRABLE INITIALLY DEFERRED, checksum TEXT NOT NULL);
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, setting TEXT NOT NULL REFERENCES settings (name), width INTEGER NOT NULL,
    rates TEXT NOT NULL, seeds TEXT NOT NULL, checksum TEXT NOT NULL, UNIQUE (setting, width, rates, seeds));
CREATE TABLE runs (
    key TEXT PRIMARY KEY, batch INTEGER NOT NULL REFERENCES batches (id),
    setting TEXT NOT NULL, width INTEGER NOT NULL, base_rate NOT NULL, seed INTEGER NOT NULL, loss,
    diverged INTEGER, curve TEXT NOT NULL, seconds, device TEXT NOT NULL, finished TEXT NOT NULL,
    checksum TEXT NOT NULL);
CREATE TRIGGER runs_stay BEFORE DELETE ON runs BEGIN SELECT RAISE (ABORT, 'finished runs stay'); END;
CREATE TRIGGER runs_stay_as_they_are BEFORE UPDATE ON runs BEGIN SELECT RAISE (ABORT, 'finished runs stay'); END;
COMMIT;
"""
CURES = {
    "DAMAGED": "take a whole copy; or --salvage of verify status, report and merge reads what is sound",
    "NOTADB": "it is no store of this program; give another path",
    "CORRUPT": "it is damaged or cut short; take a whole copy, or let --salvage of verify merge take what is sound",
    "READONLY": "it is read-only; copy it to where it can be written",
    "CANTOPEN": "see to the path, and to the rights of the file and its folder",
    "FULL": "all runs finished before are kept; free some space and start again",
    "IOERR": "all runs finished before are kept; see to the disk and its free space and start again",
    "BUSY": "another process holds it; try again when that has ended",
}


class StoreError(UserError):
    """A store or a part of a study that cannot be read, made or gone on with."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What SQLite and the system report, as one line with the file and a cure."""
    try:
        yield
    except DamagedError as error:
        raise StoreError(f"store {named(path)}: {error}; {CURES['DAMAGED']}") from error
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where the damage is in SQLite's own message
        kind = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT").split("_")[1]
        raise StoreError(f"store {named(path)}: {error}; {CURES.get(kind, 'see to the file')}") from error
    except OSError as error:
        raise StoreError(f"store {named(path)}: {error.strerror}; see to the file and its folder") from error


def check_file(path: Path) -> None:
    """Refuse what is no store without opening it: opening and closing it would drop this process's locks on it."""
    if path.is_dir():
        raise StoreError(f"{named(path)} is a folder; give the store in it")
    if not path.is_file():
        raise StoreError(f"no store at {named(path)}; give the path of a store, such as study.sqlite")
    if path.stat().st_size == 0:
        raise StoreError(f"{named(path)} is empty and no store; give another path, or remove it first")


def lock(path: Path, work: Path | None = None) -> sqlite3.Connection:
    """Hold `<name>.lock`, an empty database of its own, so that readers of the store are not kept out.

    `work` is what it stands for where that is not the file beside it.
    """
    connection = sqlite3.connect(_beside(path, ".lock"), timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise StoreError(
                f"another driver is at work on {named(work or path)}; wait for it or stop it (reading needs no wait)"
            ) from None
        raise
    return connection


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Somewhere to write a new file, which then appears at `path` at once and whole, or not at all."""
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        draft = Path(folder, path.name)
        yield draft
        if path.exists():
            raise StoreError(f"{named(path)} exists; give another path")
        draft.rename(path)


def create(path: Path, conditions: Sequence[str], seal: Seal) -> None:
    """Make a store with a row of conditions and the seal over it, without settings, batches and runs.

    One that is killed in the midst leaves no file at `path`.
    """
    with appearing(path) as draft, closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        connection.executescript(TABLES)
        connection.execute("INSERT INTO study VALUES (?, ?)", conditions)
        connection.execute("INSERT INTO seal VALUES (?, ?)", (seal.rows, seal.checksum))


def located(path: Path) -> Path:
    """The file behind links, absolute; of links in a circle one of them, which then is no file."""
    return Path(os.path.realpath(path))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _reading(path: Path, salvage: bool) -> Iterator[sqlite3.Connection]:
    """A connection to one moment of a store that writes nothing, and needs no right to."""
    check_file(path)
    log, shared = _beside(path, "-wal"), _beside(path, "-shm")
    with explained(path), ExitStack() as stack:
        source, mode = path, "ro"
        if alone := not log.exists():
            mode = "ro&immutable=1"  # nobody writes, and SQLite would make a log where it finds none
        elif not shared.exists():  # nobody writes either; SQLite would make this file, where it may
            folder = Path(stack.enter_context(TemporaryDirectory()))
            source, mode = folder / path.name, "rw"
            for each in (path, log):
                shutil.copyfile(each, folder / each.name)
        uri = f"{source.as_uri()}?mode={mode}"
        connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)))
        if salvage:
            connection.execute("PRAGMA writable_schema = ON")  # else a file cut short is not opened at all
        connection.execute("BEGIN")
        if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION,):
            raise StoreError(
                f"{named(path)} is no store, but a file of another program or the mere start of a store; give a store"
            )
        # SQLite takes the missing end of a last page for zeros; beside a log a page may be half-way, and is in the log.
        ((page,),) = connection.execute("PRAGMA page_size")
        if alone and not salvage and path.stat().st_size % page:
            raise StoreError(
                f"{named(path)} is a store cut short, no whole number of pages; take a whole copy, or --salvage"
            )
        ((schema,),) = connection.execute("PRAGMA user_version")
        if schema not in READABLE:
            raise StoreError(
                f"{named(path)} has schema {schema}, and this program reads {' and '.join(map(str, READABLE))}; "
                "use the version that made it"
            )
        yield connection


def check_current(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse to go on with a store of an earlier version; reading it is no trouble."""
    ((schema,),) = connection.execute("PRAGMA user_version")
    if schema != SCHEMA:
        raise StoreError(
            f"{named(path)} has schema {schema}, without checksums, and a study goes on with schema {SCHEMA}: make "
            "one by `verify merge NEW/study.sqlite OLD/study.sqlite`, and go on with --out NEW"
        )


def snapshot(path: Path, take: Callable[[sqlite3.Connection], Taken], salvage: bool = False) -> Taken:
    """What `take` reads from one moment of a store; no byte is changed, and no file added.

    It reads again where a driver came or went meanwhile, which reading without locks does not notice.
    """

    def stamp() -> object:
        if _beside(path, "-wal").exists():
            return "a driver's log, with locks"
        return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None

    while True:
        before = stamp()
        try:
            with _reading(path, salvage) as connection:
                taken = take(connection)
        except StoreError:
            if stamp() == before:
                raise
        else:
            if stamp() == before:
                return taken
