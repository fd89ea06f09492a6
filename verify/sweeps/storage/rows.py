"""The rows of a store: records, settings and batches as SQLite keeps them, each with a checksum, and read back.

A reader recomputes the checksum of every row, and over all of them the seal, which tells rows that are absent. What
does not fit is refused by its table and number; or, to save the rest, left out and named.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import TypeVar

from verify.checksums import UNREADABLE, DamagedError, Seal, checksum
from verify.sweeps.records import Across, Batch, Conditions, LayerScaling, Record, Setting, Study
from verify.values import Entries, Json

Made = TypeVar("Made")
Contents = tuple[Study, dict[int, Batch], list[tuple[int, Record]]]

UNSEALED = 1
"""The schema of stores whose rows have no checksums."""
SMALLEST_ROW = 32
"""Bytes that no row of a store is below, by which a file's size bounds their number."""
SHOWN_RANGES = 8


Columns = Sequence[Json]
"""A row of the database, by its columns."""


def as_row(record: Record) -> tuple[Json, ...]:
    """The record's entries in their order, as plain numbers and texts; the curve as "step:loss step:loss ..."."""
    curve = " ".join(f"{int(step)}:{float(loss)!r}" for step, loss in record.curve)
    return (
        record.setting,
        int(record.width),
        float(record.base_rate),
        int(record.seed),
        float(record.loss),
        None if record.diverged is None else int(record.diverged),
        curve,
        float(record.seconds),
        record.device,
        record.finished,
    )


def as_record(row: Columns) -> Record:
    """The record of a row, where a real that is None is NaN; ValueError where an entry is of another type."""
    setting, width, base_rate, seed, loss, diverged, curve, seconds, device, finished = row
    loss, seconds = (math.nan if real is None else real for real in (loss, seconds))
    whole = (width, seed, 0 if diverged is None else diverged)
    typed = {str: (setting, curve, device, finished), int: whole, float: (base_rate, loss, seconds)}
    if not all(type(value) is kind for kind, values in typed.items() for value in values):
        raise ValueError("an entry is of another type")
    points = tuple((int(step), float(value)) for step, value in (point.split(":") for point in curve.split()))
    return Record(setting, width, base_rate, seed, loss, diverged, points, seconds, device, finished)


def as_setting(content: Entries) -> Setting:
    """The setting of what `asdict` made of one, and JSON of that."""
    across = content.get("across")
    if across is not None:
        across = Across(**{**across, "layers": _layers(across)})
    read = {"layers": _layers(content), "constants": tuple(content["constants"]), "across": across}
    return Setting(**{**content, **read})


def _layers(content: Entries) -> tuple[LayerScaling, ...]:
    return tuple(LayerScaling(**layer) for layer in content["layers"])


def with_checksum(table: str, row: Columns) -> tuple[Json, ...]:
    """The row as it is stored, where NaN is NULL, with its checksum at the end."""
    stored = [None if value != value else value for value in row]
    return (*row, checksum([table, *stored]))


def planned(batches: Iterable[Batch]) -> set[tuple[str, int, float, int]]:
    """(setting, width, base rate, seed) of every run of the batches."""
    return {(batch.setting, batch.width, *run) for batch in batches for run in batch.runs()}


def contents(connection: sqlite3.Connection, left_out: list[str] | None = None) -> Contents:
    """The study, its batches by number, and every record with its batch's number.

    DamagedError names the first row that is not as it was written. Where a list is given, what is damaged is left out
    and named in it instead; without the conditions, which all keys are made of, nothing can be told of the rest.
    """
    reader = _Reader(connection, left_out)
    ((_, conditions),) = reader.made("study", _as_conditions) or [(0, None)]
    if conditions is None:
        raise DamagedError("its conditions are damaged, without which nothing can be told of its runs")
    listed = [each for _, each in reader.made("settings", _as_settings)]
    settings = {name: setting for name, setting, _ in listed}
    sources = {name: source for name, _, source in listed if source in settings}
    batches = dict(each for _, each in reader.made("batches", _as_batch))
    runs = reader.made("runs", lambda row: (int(row[1]), as_record(row[2:])))
    records = [(number, record) for _, (number, record) in runs if record.setting in settings]
    if left_out is None and (len(sources) < len(listed) or len(records) < len(runs)):
        raise DamagedError("a setting that others refer to is absent")
    if len(records) < len(runs):
        reader.leave_out(f"{len(runs) - len(records)} runs of settings that are damaged")
    reader.check_seal()
    trained_as = {name: source for name, source in sources.items() if source != name}
    batches = {number: batch for number, batch in batches.items() if batch.setting in settings}
    made = tuple(record for _, record in records)
    study = Study(conditions, settings, trained_as, made, len(planned(batches.values()) | _runs(made)))
    return study, batches, records


def read_seal(connection: sqlite3.Connection) -> Seal:
    """The seal as it is stored."""
    ((rows, total),) = connection.execute("SELECT rows, checksum FROM seal")
    return Seal(int(rows), int(total, 16))


def _runs(records: Iterable[Record]) -> set[tuple[str, int, float, int]]:
    return {(record.setting, record.width, record.base_rate, record.seed) for record in records}


def _as_conditions(row: Columns) -> Conditions:
    return Conditions.of(json.loads(row[0]))


def _as_settings(row: Columns) -> tuple[str, Setting, str]:
    name, content, source = row
    setting = as_setting(json.loads(content))
    return name, setting, source


def _as_batch(row: Columns) -> tuple[int, Batch]:
    number, setting, width, rates, seeds = row
    return int(number), Batch(setting, int(width), tuple(json.loads(rates)), tuple(json.loads(seeds)))


class _Reader:
    """Reads tables row by row, checking each, and adds up their seal; `left_out` collects what is damaged."""

    def __init__(self, connection: sqlite3.Connection, left_out: list[str] | None) -> None:
        self.connection, self.left_out = connection, left_out
        ((schema,),) = connection.execute("PRAGMA user_version")
        self.is_sealed = schema != UNSEALED
        self.seal = Seal()

    def leave_out(self, what: str) -> None:
        """Note it, or refuse to go on without it."""
        if self.left_out is None:
            raise DamagedError(f"{what} was damaged or changed after it was written")
        self.left_out.append(what)

    def made(self, table: str, make: Callable[[Columns], Made]) -> list[tuple[int, Made]]:
        """(number, what `make` makes of it) of every sound row, in the order of the numbers."""
        found: list[tuple[int, Made]] = []
        damaged: list[int] = []
        for number, row in self._scan(table) if self.left_out is None else self._salvage(table):
            try:
                found.append((number, make(self._checked(table, row))))
            except UNREADABLE:
                damaged.append(number)
        if damaged:
            self.leave_out(f"{ranges(damaged)} of {table}")
        return found

    def _checked(self, table: str, row: Columns | None) -> Columns:
        if row is None:
            raise DamagedError("it cannot be read")
        if not self.is_sealed:
            return row
        *content, stored = row
        if checksum([table, *content]) != stored:
            raise DamagedError("it does not fit its checksum")
        self.seal = self.seal.plus(stored)
        return content

    def check_seal(self) -> None:
        """See that the rows are those that were written, all of them."""
        if not self.is_sealed:
            return
        try:
            written = read_seal(self.connection)
        except (*UNREADABLE, sqlite3.Error):
            self.leave_out("the seal over all rows")
            return
        if written != self.seal:
            self.leave_out(f"the set of all {written.rows} rows, of which {self.seal.rows} are there,")

    def _scan(self, table: str, order: str = "ASC") -> Iterator[tuple[int, Columns]]:
        for number, *row in self.connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid {order}"):  # noqa: S608
            yield number, row

    def _salvage(self, table: str) -> list[tuple[int, Columns | None]]:
        """From both ends up to what cannot be read, and one by one between; None for what cannot be."""
        up, down = (self._until_failure(table, order) for order in ("ASC", "DESC"))
        rows: dict[int, Columns | None] = {**down, **up}
        ((pages,),), ((size,),) = (self.connection.execute(f"PRAGMA page_{each}") for each in ("count", "size"))
        last = max(up, default=0)
        for number in range(last + 1, min(down, default=last + pages * size // SMALLEST_ROW)):
            try:
                found = self.connection.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,)).fetchone()  # noqa: S608
            except (*UNREADABLE, sqlite3.Error):
                rows[number] = None
            else:
                rows |= {number: found} if found else {}
        sound = [number for number, row in rows.items() if row is not None]
        return sorted(
            ((number, row) for number, row in rows.items() if number <= max(sound, default=0)), key=itemgetter(0)
        )

    def _until_failure(self, table: str, order: str) -> dict[int, Columns]:
        rows: dict[int, Columns] = {}
        with suppress(*UNREADABLE, sqlite3.Error):
            rows.update(self._scan(table, order))  # one by one, up to the failure
        return rows


def ranges(numbers: Sequence[int]) -> str:
    """Such as "rows 3, 7-9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    shown = ", ".join("-".join(map(str, run)) for run in runs[:SHOWN_RANGES])
    return f"row{'s' * (len(numbers) > 1)} {shown}{', ...' * (len(runs) > SHOWN_RANGES)}"
