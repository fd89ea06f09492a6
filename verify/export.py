"""A study as text, `study.json` and `runs.csv`, to be kept and read by anything; and any form of a study read back."""

import csv
import gzip
import hashlib
import io
import json
from dataclasses import asdict, fields
from pathlib import Path

from verify.database import StoreError, appearing, named
from verify.store import as_record, as_row, as_setting, read
from verify.studies import Conditions, Record, Study

SCHEMA = 1
STORE = "study.sqlite"
DESCRIPTION = "study.json"
TABLES = ("runs.csv", "runs.csv.gz")
COLUMNS = [entry.name for entry in fields(Record)]


def export(study: Study, folder: Path, compress: bool = False) -> None:
    """Write `study.json`, and `runs.csv` or `runs.csv.gz` with a row per run, into a folder that holds neither yet.

    Reals are written so that they come back bit for bit, NaN as nan; the same study gives the same bytes. The
    description comes last and carries the table's sha256. StoreError where there is an export already, or no room.
    """
    for name in (DESCRIPTION, *TABLES):
        if (folder / name).exists():
            raise StoreError(f"{named(folder)} already holds {name}; give another folder, or move that one")
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_text(value) for value in as_row(record)] for record in study.records)
    rows = table.getvalue().encode()
    content = {
        "schema": SCHEMA,
        "conditions": asdict(study.conditions),
        "settings": [asdict(setting) for setting in study.settings.values()],
        "trained_as": dict(study.trained_as),
        "planned": study.planned,
        "runs": {"rows": len(study.records), "sha256": hashlib.sha256(rows).hexdigest()},
    }
    description = (json.dumps(content, indent=2) + "\n").encode()
    packed = gzip.compress(rows, mtime=0) if compress else rows
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in ((TABLES[compress], packed), (DESCRIPTION, description)):
            with appearing(folder / name) as draft:
                draft.write_bytes(data)
    except OSError as error:
        raise StoreError(f"cannot write to {named(folder)}: {error.strerror}; give another folder") from error


def load_export(folder: Path) -> Study:
    """Read back what `export` wrote, equal to the study that was exported.

    StoreError where a file is absent, or the table is not the one that the description was written with.
    """
    found = [folder / name for name in TABLES if (folder / name).exists()]
    if len(found) != 1 or not (folder / DESCRIPTION).exists():
        raise StoreError(f"{named(folder)} is no export; it must hold {DESCRIPTION} and either {' or '.join(TABLES)}")
    try:
        content = json.loads((folder / DESCRIPTION).read_bytes())
        if content["schema"] != SCHEMA:
            raise StoreError(
                f"the export {named(folder)} has schema {content['schema']}, and this program has {SCHEMA}; "
                "use the version that made it"
            )
        rows = found[0].read_bytes()
        rows = gzip.decompress(rows) if found[0].suffix == ".gz" else rows
        if hashlib.sha256(rows).hexdigest() != content["runs"]["sha256"]:
            raise StoreError(f"{named(found[0])} was changed or cut short after it was written; export it again")
        _, *table = csv.reader(io.StringIO(rows.decode(), newline=""))
        settings = [as_setting(setting) for setting in content["settings"]]
        return Study(
            Conditions(**content["conditions"]),
            {setting.name: setting for setting in settings},
            content["trained_as"],
            tuple(_record(row) for row in table),
            content["planned"],
        )
    except StoreError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the export {named(folder)} cannot be read: {error!r}; export it again") from error


def load(path: Path) -> Study:
    """The study in a store, in a folder with `study.sqlite`, or in the folder of an export, in this order."""
    if path.is_dir():
        if (path / STORE).exists():
            return read(path / STORE)
        if (path / DESCRIPTION).exists():
            return load_export(path)
        raise StoreError(
            f"folder {named(path)} holds neither {STORE} nor an export ({DESCRIPTION}); give one that does"
        )
    return read(path)


def _text(value: object) -> str:
    """A number as Python writes it, which reads back as the same bits; what is absent as nothing."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _record(row: list[str]) -> Record:
    setting, width, base_rate, seed, loss, diverged, curve, seconds, device, finished = row
    reals = float(base_rate), float(loss), float(seconds)
    step = int(diverged) if diverged else None
    return as_record((setting, int(width), reals[0], int(seed), reals[1], step, curve, reals[2], device, finished))
