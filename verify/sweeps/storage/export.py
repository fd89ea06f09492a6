"""A study as text, `study.json` and `runs.csv`, to be kept and read by anything; and any form of a study read back."""

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from derive.errors import shorten
from verify.checksums import KEY, UNREADABLE, DamagedError, checksum, read_document, refused, sealed
from verify.files import named
from verify.sweeps.records import Conditions, Record, Setting, Study
from verify.sweeps.storage.database import StoreError, appearing
from verify.sweeps.storage.rows import as_record, as_row, as_setting, ranges
from verify.sweeps.storage.store import read
from verify.values import Entries

SCHEMA = 2
UNSEALED = 1
"""The schema of exports whose description and rows have no checksums."""
STORE = "study.sqlite"
DESCRIPTION = "study.json"
TABLES = ("runs.csv", "runs.csv.gz")
COLUMNS = [entry.name for entry in fields(Record)]
CURE = "export it again, or take a whole copy"
PIECE = 256


def export(study: Study, folder: Path, compress: bool = False) -> None:
    """Write `study.json`, and `runs.csv` or `runs.csv.gz` with a row per run, into a folder that holds neither yet.

    Reals are written so that they come back bit for bit, NaN as nan; the same study gives the same bytes. The
    description comes last and carries the table's sha256 and its own checksum, and every row its own.
    StoreError where there is an export already, or no room.
    """
    for name in (DESCRIPTION, *TABLES):
        if (folder / name).exists():
            raise StoreError(f"{named(folder)} already holds {name}; give another folder, or move that one")
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    axis = study.conditions.axis
    writer.writerow([*(axis if name == "width" else name for name in COLUMNS), KEY])
    for record in study.records:
        row = [_text(value) for value in as_row(record)]
        writer.writerow([*row, checksum(row)])
    rows = table.getvalue().encode()
    content = {
        "schema": SCHEMA,
        "conditions": study.conditions.content(),
        "settings": [setting.stored() for setting in study.settings.values()],
        "trained_as": dict(study.trained_as),
        "planned": study.planned,
        "runs": {"rows": len(study.records), "sha256": hashlib.sha256(rows).hexdigest()},
    }
    description = (json.dumps(sealed(content), indent=2) + "\n").encode()
    packed = gzip.compress(rows, mtime=0) if compress else rows
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((TABLES[compress], packed), (DESCRIPTION, description)):
            with appearing(folder / name) as draft:
                draft.write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write to {named(folder)}: {error.strerror}; give another folder") from error


def load_export(folder: Path, left_out: list[str] | None = None) -> Study:
    """Read back what `export` wrote, equal to the study that was exported.

    StoreError where a file is absent, damaged, or the table is not the one that the description was written with.
    Where a list is given, rows that are damaged are left out and named in it, and the rest is returned.
    """
    found = [folder / name for name in TABLES if (folder / name).exists()]
    if len(found) != 1 or not (folder / DESCRIPTION).exists():
        raise StoreError(f"{named(folder)} is no export; it must hold {DESCRIPTION} and either {' or '.join(TABLES)}")
    with refused(folder / DESCRIPTION, "the description of an export", CURE, StoreError):
        content = read_document(folder / DESCRIPTION)
        if content["schema"] not in (UNSEALED, SCHEMA):
            raise StoreError(
                f"the export {named(folder)} has schema {content['schema']}, and this program reads {UNSEALED} and "
                f"{SCHEMA}; use the version that made it"
            )
        settings = {setting.name: setting for setting in map(as_setting, content["settings"])}
        study = Study(
            Conditions.of(content["conditions"]), settings, dict(content["trained_as"]), (), int(content["planned"])
        )
        written = dict(content["runs"])
        if not {*study.trained_as.values()} <= {*settings}:
            raise DamagedError("has a setting that stands for others under trained_as, and is absent")
    with refused(found[0], "a table of runs", f"{CURE}, or give --salvage", StoreError):
        rows = _table(found[0], written, content["schema"], left_out)
        return replace(study, records=tuple(_record(row, settings) for row in rows))


def _table(path: Path, written: Entries, schema: int, left_out: list[str] | None) -> list[list[str]]:
    """The rows of the table without their checksums, in which `written` says how many there were and their sha256."""
    data = path.read_bytes()
    whole = path.suffix != ".gz"
    try:
        data, whole = (data, True) if whole else (gzip.decompress(data), True)
    except UNREADABLE:
        if left_out is None:
            raise
        data = _readable_part(data)
    is_intact = whole and hashlib.sha256(data).hexdigest() == written["sha256"]
    _, *table = csv.reader(io.StringIO(data.decode(errors="strict" if is_intact else "replace"), newline=""))
    if schema == UNSEALED:
        if not is_intact:
            raise DamagedError("was changed or cut short after it was written, and has no checksums of its rows")
        return table
    sound = [number for number, row in enumerate(table, 1) if row and row[-1] == checksum(row[:-1])]
    if not is_intact:
        damaged = sorted({*range(1, len(table) + 1)} - {*sound})
        what = f"{ranges(damaged)} of {len(table)}" if damaged else f"{written['rows'] - len(sound)} rows absent"
        if left_out is None:
            raise DamagedError(f"was changed or cut short after it was written ({what})")
        left_out.append(f"{named(path)}: {what}; {len(sound)} of {written['rows']} rows are sound")
    return [table[number - 1][:-1] for number in sound]


def _readable_part(packed: bytes) -> bytes:
    """What a damaged gzip file gives up to its damage."""
    inflate, found = zlib.decompressobj(wbits=31), b""
    with suppress(zlib.error):
        for start in range(0, len(packed), PIECE):
            found += inflate.decompress(packed[start : start + PIECE])
    return found


def load(path: Path, left_out: list[str] | None = None) -> Study:
    """The study in a store, in a folder with `study.sqlite`, or in the folder of an export, in this order.

    With a list, the sound part of a damaged one, and what was left out is named there.
    """
    if path.is_dir():
        if (path / STORE).exists():
            return read(path / STORE, left_out)
        if (path / DESCRIPTION).exists():
            return load_export(path, left_out)
        raise StoreError(
            f"folder {named(path)} holds neither {STORE} nor an export ({DESCRIPTION}); give one that does"
        )
    return read(path, left_out)


def _text(value: object) -> str:
    """A number as Python writes it, which reads back as the same bits; what is absent as nothing."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _record(row: list[str], settings: Mapping[str, Setting]) -> Record:
    setting, width, base_rate, seed, loss, diverged, curve, seconds, device, finished = row
    reals = float(base_rate), float(loss), float(seconds)
    step = int(diverged) if diverged else None
    if setting not in settings:
        raise DamagedError(f"has runs of {shorten(setting)}, which {DESCRIPTION} does not have")
    return as_record((setting, int(width), reals[0], int(seed), reals[1], step, curve, reals[2], device, finished))
