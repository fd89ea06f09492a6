"""One SQLite file per transfer study: what is planned, and every run that is finished; nothing in it is ever changed.

A study's driver writes, one transaction per finished run (`Store`); anybody may read meanwhile (`read`). The driver
holds `<name>.lock`, a lock that ends with its process however it ends. Every row has a checksum and all rows a seal
(`verify.checksums`), written in the same transaction and recomputed on reading. Losses, rates and seconds are SQLite's
8-byte reals in columns without a type (a column of type REAL drops the sign of -0.0); NaN, for which SQLite has no
value, is NULL, and inf is inf. All come back bit for bit, but for the sign and payload of a NaN.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from derive.errors import shorten
from verify.checksums import Seal
from verify.files import named
from verify.sweeps.records import Batch, Conditions, Record, Setting, Study, run_key
from verify.sweeps.storage.database import (
    StoreError,
    appearing,
    check_current,
    check_file,
    create,
    explained,
    located,
    lock,
    snapshot,
)
from verify.sweeps.storage.rows import Columns, Contents, as_row, contents, planned, read_seal, with_checksum


class Store:
    """A study's driver's side of its store: opened or created, and locked against other drivers until closed.

    Every commit is on the disk before it counts (WAL, synchronous FULL): a run is worth minutes and a flush
    milliseconds, so a power failure loses no finished run either, which NORMAL would allow; kill -9 loses none
    under both. StoreError where another driver has the store, its conditions or schema differ, or it is damaged or
    cannot be written; its file is then as it was.
    """

    def __init__(self, path: Path, conditions: Conditions) -> None:
        self.path = path = located(path)
        if not path.parent.is_dir():
            raise StoreError(f"folder {named(path.parent)} for the store does not exist; make it, or give another")
        if path.exists():
            check_file(path)
        for each in filter(Path.exists, (path.parent, path)):
            if not os.access(each, os.W_OK):
                raise StoreError(f"{named(each)} is read-only; give a folder and a store that can be written")
        with explained(path), ExitStack() as stack:
            stack.enter_context(closing(lock(path)))
            if not path.exists():
                first = with_checksum("study", (json.dumps(conditions.content()),))
                create(path, first, Seal().plus(first[-1]))
            # Keys are made from the conditions as stored: 0 and 0.0 are equal and yet written differently.
            snapshot(path, lambda connection: check_current(connection, path))
            self.conditions = snapshot(path, _whole)
            if self.conditions != conditions:
                raise StoreError(
                    f"{named(path)} holds a study under other conditions: "
                    f"{_differences(self.conditions, conditions)}; give the same options, or another folder"
                )
            connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=60, isolation_level=None)
            self._connection = stack.enter_context(closing(connection))
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise StoreError(f"{named(path)} lies where SQLite cannot share memory; give a folder on a local disk")
            study, self._batches, _ = contents(connection)
            self._settings = dict(study.settings)
            self._sources = {name: study.source(name) for name in self._settings}
            self._seal = self._written = read_seal(connection)
            self._open = stack.pop_all()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file and of the lock; once more does nothing."""
        self._open.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, or a part of the one that is under way."""
        connection = self._connection
        with explained(self.path):
            if connection.in_transaction:
                yield
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                if self._seal != self._written:
                    connection.execute("UPDATE seal SET rows = ?, checksum = ?", (self._seal.rows, self._seal.checksum))
                connection.execute("COMMIT")
                self._written = self._seal
            finally:
                self._seal = self._written
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _insert(self, table: str, row: Columns, otherwise: str = "") -> bool:
        """Add a row with its checksum, within a transaction; False where it is there, and `otherwise` allows that."""
        stored = with_checksum(table, row)
        places = ", ".join("?" * len(stored))
        added = self._connection.execute(f"INSERT INTO {table} VALUES ({places}) {otherwise}", stored).rowcount == 1  # noqa: S608
        if added:
            self._seal = self._seal.plus(stored[-1])
        return added

    def add_settings(self, settings: Iterable[Setting], trained_as: Mapping[str, str]) -> dict[str, str]:
        """Add those that are new; return for every given setting the one whose runs stand for it, mostly itself.

        Settings that `trained_as` makes equal, or whose exponents are, are trained once: as the one that the store
        had first, which may differ from what `trained_as` says. StoreError where a name is taken by other content.
        """
        given = list(settings)
        known, sources = dict(self._settings), dict(self._sources)
        for setting in sorted(given, key=lambda setting: setting.name in trained_as):
            name, stands = setting.name, trained_as.get(setting.name, setting.name)
            if known.setdefault(name, setting) != setting:
                raise StoreError(
                    f"setting {shorten(name)} has other exponents or constants in {named(self.path)}; "
                    "give another folder"
                )
            if name not in sources:
                equal = (
                    source
                    for other, source in sources.items()
                    if trained_as.get(other, other) == stands or known[other].content() == setting.content()
                )
                sources[name] = next(equal, stands)
        if wrong := sorted({source for source in sources.values() if sources.get(source) != source}):
            raise LookupError(f"stand for other settings, and are not given or not trained: {', '.join(wrong)}")
        new = {setting.name: setting for setting in given if setting.name not in self._settings}
        with self._writing():
            for name, setting in new.items():
                self._insert("settings", (name, json.dumps(setting.stored()), sources[name]))
        self._settings |= new
        self._sources = sources
        return {setting.name: sources[setting.name] for setting in given}

    def add_batch(self, batch: Batch) -> int:
        """Record a batch before it is trained, so that its shape survives; the same batch has the same number."""
        if self._sources.get(batch.setting) != batch.setting:
            raise LookupError(f"runs of {batch.setting} are made as {self._sources.get(batch.setting)}")
        rates, seeds = tuple(map(float, batch.rates)), tuple(map(int, batch.seeds))
        batch = Batch(batch.setting, int(batch.width), rates, seeds)
        for number, known in self._batches.items():
            if known == batch:
                return number
        number = max(self._batches, default=0) + 1
        row = (number, batch.setting, batch.width, json.dumps(rates), json.dumps(seeds))
        with self._writing():
            self._insert("batches", row)
        self._batches[number] = batch
        return number

    def batches(self) -> dict[int, Batch]:
        """All batches by number, in the order in which they were added."""
        return dict(self._batches)

    def unfinished(self) -> list[tuple[int, Batch]]:
        """(number, batch) of those with missing runs: train each whole, in its own shape, and finish all its runs."""
        with explained(self.path):
            done = set(self._connection.execute("SELECT setting, width, base_rate, seed FROM runs"))
        return [(number, batch) for number, batch in self._batches.items() if planned([batch]) - done]

    def finish(self, number: int, record: Record) -> bool:
        """Add a finished run of a batch, in one transaction; False where it is there already, and is left as it is."""
        batch = self._batches[number]
        row = as_row(record)
        if row[:4] not in planned([batch]):
            raise LookupError(f"{_run(record)} is not part of batch {number}: {batch}")
        key = run_key(self.conditions, self._settings[batch.setting], *row[1:4])
        with self._writing():
            return self._insert("runs", (key, number, *row), "ON CONFLICT (key) DO NOTHING")

    def study(self) -> Study:
        """The study as it stands."""
        with explained(self.path):
            return _study(self._connection)


def read(path: Path, left_out: list[str] | None = None) -> Study:
    """The study in a store at one moment, while its driver writes or not; nothing there is changed or added.

    StoreError where there is no store, or one that is damaged or of another schema. Where a list is given, rows that
    are damaged are left out and named in it, and the rest is returned.
    """
    return _contents(path, left_out)[0]


def _contents(path: Path, left_out: list[str] | None) -> Contents:
    def take(connection: sqlite3.Connection) -> Contents:
        return contents(connection, None if left_out is None else found)

    found: list[str] = []
    taken = snapshot(located(path), take, salvage=left_out is not None)
    if left_out is not None:
        left_out += [f"{named(path)}: {each}" for each in dict.fromkeys(found)]
    return taken


def merge(target: Path, sources: Sequence[Path], left_out: list[str] | None = None) -> None:
    """Unite stores of equal conditions, such as those of array tasks, in a new one; the first of equal runs is kept.

    A store without checksums, of an earlier version, gets them so. StoreError where the target exists, a store is
    damaged (with a list its sound rows are taken, as in `read`), conditions or settings disagree, or a run has two
    losses; no target is left.
    """
    target = located(target)
    stores = [(path, *_contents(path, left_out)) for path in sources]
    if not stores:
        raise StoreError("no stores to merge were given; give at least one")
    origin, conditions = stores[0][0], stores[0][1].conditions
    for path, study, _, _ in stores:
        if study.conditions != conditions:
            entries = _differences(study.conditions, conditions)
            raise StoreError(f"{named(path)} and {named(origin)} differ in their conditions: {entries}; merge others")
    with explained(target), appearing(target) as draft, Store(draft, conditions) as store, store._writing():
        kept: dict[tuple[Any, ...], tuple[Path, Record]] = {}
        for path, study, batches, records in stores:
            trained = store.add_settings(study.settings.values(), study.trained_as)
            numbers: dict[int, int] = {}
            for number, batch in batches.items():
                name = trained[batch.setting]
                if store._settings[name].content() != study.settings[batch.setting].content():
                    raise StoreError(
                        f"{shorten(batch.setting)} was trained in {named(path)} and counts as {shorten(name)} in "
                        "another of the stores; merge stores whose drivers were given the same settings"
                    )
                numbers[number] = store.add_batch(replace(batch, setting=name))
            for number, record in records:
                record = replace(record, setting=trained[record.setting])
                if number not in numbers:  # its batch is damaged; a finished run needs no shape
                    alone = Batch(record.setting, record.width, (record.base_rate,), (record.seed,))
                    numbers[number] = store.add_batch(alone)
                before, other = kept.setdefault(as_row(record)[:4], (path, record))
                if (repr(other.loss), other.diverged) != (repr(record.loss), record.diverged):
                    raise StoreError(
                        f"{_run(record)} has loss {other.loss} in {named(before)} and {record.loss} in {named(path)}; "
                        "find out which is right, and merge without the other"
                    )
                store.finish(numbers[number], record)


def _run(record: Record) -> str:
    return f"the run {record.setting}, width {record.width}, rate {record.base_rate!r}, seed {record.seed}"


def _differences(stored: Conditions, given: Conditions) -> str:
    code = f"made by code {stored.code}, this is {given.code}"
    return "; ".join(code if entry.startswith("code:") else entry for entry in stored.differences(given))


def _whole(connection: sqlite3.Connection) -> Conditions:
    """The conditions of a store in which every page, index and row is sound."""
    if (found := connection.execute("PRAGMA integrity_check (1)").fetchone()) != ("ok",):
        raise sqlite3.DatabaseError(str(found[0]))
    return _study(connection).conditions


def _study(connection: sqlite3.Connection) -> Study:
    return contents(connection)[0]
