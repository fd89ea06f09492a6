"""Anybody's table of runs as arrays: CSV, TSV, JSON lines or Parquet, columns by name, widths in names of runs too.

A file as it comes: one row per run, or what `verify.studies.table.exports` knows. Where what was varied is in the
run's name alone, a pattern such as w{width}-lr{rate}-s{seed} reads it.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from derive.errors import DeriveError, shorten, unknown_name
from verify.studies.table import exports
from verify.studies.table.exports import Column
from verify.studies.table.names import from_names, read_pattern
from verify.values import Document, Json

Reals = Float[np.ndarray, " runs"]
LARGEST = 1 << 30
"""Bytes of a file."""
FORMATS = ".csv, .tsv, .jsonl (.gz too) or .parquet"
DELIMITERS = ",\t;"


@dataclass(frozen=True, eq=False)
class Runs:
    """One entry per run: group, rate, loss (inf where it diverged), seed, and what else grows, by name.

    `repeated` says that seeds are counted from runs of one group, size and rate, because no column names them;
    `notes` what was left out.
    """

    groups: Shaped[np.ndarray, " runs"]
    rates: Reals
    losses: Reals
    seeds: Int[np.ndarray, " runs"]
    axes: Mapping[str, Reals]
    repeated: bool = False
    notes: tuple[str, ...] = ()

    @property
    def axis(self) -> str:
        """The one along which best rates are followed: the width, or the first there is."""
        return "width" if "width" in self.axes else next(iter(self.axes))

    @property
    def others(self) -> list[str]:
        """The axes beside that one."""
        return [name for name in self.axes if name != self.axis]

    def label(self, at: int) -> str:
        """Of what one run is fitted together with: its group and its size along the other axes."""
        return " ".join([str(self.groups[at]), *(f"{name} {self.axes[name][at]:g}" for name in self.others)])


def read_runs(paths: Sequence[Path], columns: Mapping[str, str], pattern: str | None = None) -> Runs:
    """The runs of all files; `columns` are names by field, `pattern` reads fields from names of runs or files.

    Raises DeriveError naming the file, the column and the row of what cannot be read.
    """
    parts = {path: _one_file(path, columns, pattern) for path in paths}
    fields = dict.fromkeys(field for part in parts.values() for field in part)
    table: dict[str, Column] = {field: [] for field in fields}
    for path, part in parts.items():
        lacking = [field for field in fields if field not in part and field not in exports.HIDDEN]
        if lacking:
            raise DeriveError(
                f"{shorten(str(path))} has no {lacking[0]}, which other files have; give one kind of file"
            )
        for field in fields:
            table[field] = [*table[field], *(part[field] if field in part else [None] * len(part["loss"]))]
    kept, notes = exports.whole(table)
    return replace(_runs(kept, ", ".join(shorten(str(path)) for path in paths)), notes=notes)


def _one_file(path: Path, columns: Mapping[str, str], pattern: str | None) -> dict[str, Column]:
    """Columns by field."""
    table, file = read_table(path), shorten(str(path))
    loss = columns.get("loss", "loss")
    if pattern is None:
        missing = [field for field in columns if columns[field] not in table]
        if missing:
            why = exports.refused(file, table, loss, named=False)
            raise DeriveError(why) if why else _unknown_column(missing[0], columns[missing[0]], table)
        return {**{field: table[name] for field, name in columns.items()}, **exports.states(table)}
    named = read_pattern(pattern)
    curves = exports.chart(table, loss) or exports.scalar(table, path.stem)
    if curves is not None:
        return from_names(named, curves.names, curves.fields())
    names = next((table[each] for each in ("Name", "name", "run", "Run") if each in table), None)
    if names is None:
        raise DeriveError(
            exports.refused(file, table, loss, named=True)
            or f"--names reads runs' names, and {file} has no column Name, no column 'NAME - LOSS' and no Step and "
            "Value; leave --names out, or give such a file"
        )
    kept = {field: table[name] for field, name in columns.items() if name in table and field not in named.groupindex}
    if "loss" not in kept:
        raise _unknown_column("loss", loss, table)
    return from_names(named, names, {**kept, **exports.states(table)})


def _unknown_column(field: str, given: str, table: Mapping[str, Column]) -> DeriveError:
    error = unknown_name(f"column --{field}", given, list(table))
    if exports.states(table):  # what was varied may be there, and not shown
        return DeriveError(f"{error}; Weights & Biases exports the columns that its table of runs shows: show it there")
    return error


def read_table(path: Path) -> dict[str, Column]:
    """Columns by their names; DeriveError for a file that is no table."""
    try:
        if path.stat().st_size > LARGEST:
            raise DeriveError(f"{shorten(str(path))} is larger than 1 GB; keep a row per run")
        packed = path.suffix.lower() == ".gz"
        kind = Path(path.stem if packed else path.name).suffix.lower()
        if kind in (".csv", ".tsv", ".txt"):
            return _delimited(path, _text(path, packed))
        if kind in (".jsonl", ".ndjson", ".json"):
            return _json_lines(path, _text(path, packed))
        if kind == ".parquet" and not packed:
            return _parquet(path)
    except UnicodeDecodeError:
        raise DeriveError(f"{shorten(str(path))} is not text in UTF-8; give {FORMATS}") from None
    raise DeriveError(f"{shorten(str(path))} is of no known kind; give {FORMATS}")


def _text(path: Path, packed: bool) -> str:
    """The text of a file, or of what gzip packed into it; DeriveError where that is more than a file may have."""
    if not packed:
        return path.read_text(encoding="utf-8-sig")
    try:
        with gzip.open(path) as packed_file:
            content = packed_file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DeriveError(f"{shorten(str(path))} is not packed by gzip, or cut; give {FORMATS}") from None
    if len(content) > LARGEST:
        raise DeriveError(f"{shorten(str(path))} has more than 1 GB in it; keep a row per run")
    return content.decode("utf-8-sig")


def _delimited(path: Path, text: str) -> dict[str, Column]:
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DeriveError(f"{shorten(str(path))} is no table: {error}") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise DeriveError(f"{shorten(str(path))} has no rows below its heading; give a row per run")
    names, body = [name.strip() for name in rows[0]], rows[1:]
    ragged = next((place for place, row in enumerate(body, 2) if len(row) != len(names)), None)
    if ragged is not None:
        raise DeriveError(
            f"{shorten(str(path))}, row {ragged} has {len(body[ragged - 2])} entries, and the heading {len(names)}"
        )
    return _by_name(names, list(zip(*body, strict=True)))


def _by_name(names: Sequence[str], values: Sequence[Column]) -> dict[str, Column]:
    """Columns by name; two of one name that differ are told apart as "loss (1)" and "loss (2)"."""
    by_name: dict[str, list[Column]] = {}
    for name, column in zip(names, values, strict=True):
        if column not in by_name.setdefault(name, []):
            by_name[name].append(column)
    return {
        name if len(columns) == 1 else f"{name} ({place})": column
        for name, columns in by_name.items()
        for place, column in enumerate(columns, 1)
    }


def _json_lines(path: Path, text: str) -> dict[str, Column]:
    rows: list[Document] = []
    for place, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise DeriveError(f"{shorten(str(path))}, row {place} is no JSON object; give one object per line and run")
        rows.append(row)
    if not rows:
        raise DeriveError(f"{shorten(str(path))} has no rows; give one JSON object per line and run")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, Column]:
    for library, read in (("pyarrow.parquet", "read_table"), ("polars", "read_parquet")):
        try:
            table = getattr(import_module(library), read)(path)
        except ImportError:
            continue
        except (OSError, ValueError, RuntimeError) as error:
            raise DeriveError(f"{shorten(str(path))} is no Parquet file: {shorten(str(error))}") from None
        return table.to_pydict() if hasattr(table, "to_pydict") else table.to_dict(as_series=False)
    raise DeriveError(f"{shorten(str(path))} needs pyarrow or polars to be read; install one, or write a CSV file")


def _runs(table: Mapping[str, Column], where: str) -> Runs:
    """Fields as arrays, checked."""
    own = ("rate", "loss", "seed", "group")
    if "rate" not in table or not set(table) - set(own):
        lacking = "{rate}" if "rate" not in table else "{width}"
        raise DeriveError(f"--names has no {lacking}, and no column does; write it as w{{width}}-lr{{rate}}")
    axes = {field: _reals(table[field], field, where) for field in table if field not in own}
    rates = _reals(table["rate"], "rate", where)
    losses = _reals(table["loss"], "loss", where, diverged=True)
    for field, values in {"rate": rates, **axes}.items():
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if bad.size:
            given = shorten(str(table[field][bad[0]]))
            raise DeriveError(f"{where}, run {bad[0] + 1}: {field} {given} is not allowed; give a number above 0")
    given = table.get("group")
    groups = np.full(len(rates), "sweep") if given is None else np.asarray([str(name) for name in given])
    key = np.column_stack([*([] if given is None else [_numbered(given)]), rates, *axes.values()])
    if "seed" not in table:
        seeds = _repetitions(key)
        return Runs(groups, rates, losses, seeds, axes, bool(seeds.any()))
    seeds = _numbered(table["seed"])
    again = np.flatnonzero(_repetitions(np.column_stack([key, seeds])))
    if again.size:
        raise DeriveError(
            f"{where}, run {again[0] + 1}: two runs have one group, size, rate and seed; keep a row per run, or leave "
            "--seed out where they are repetitions"
        )
    return Runs(groups, rates, losses, seeds, axes)


def _numbered(column: Column) -> Int[np.ndarray, " runs"]:
    """Equal entries have equal numbers; numbers are compared as such, which is ten times as fast."""
    try:
        entries = np.asarray(column, dtype=float)
    except (TypeError, ValueError):
        entries = np.asarray([str(entry) for entry in column])
    return np.unique(entries, return_inverse=True)[1]


def _repetitions(key: Float[np.ndarray, "runs fields"]) -> Int[np.ndarray, " runs"]:
    """How many rows before each have the same key."""
    order = np.lexsort(key.T)  # stable
    same = np.concatenate([[False], (np.diff(key[order], axis=0) == 0).all(axis=1)])
    counts = np.empty(len(order), int)
    counts[order] = np.arange(len(order)) - np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    return counts


def _reals(column: Column, field: str, where: str, diverged: bool = False) -> Reals:
    """Numbers; with `diverged` what is empty, NaN or infinite is inf."""
    try:
        values = np.asarray(column, dtype=float)
    except (TypeError, ValueError):
        values = np.asarray([_real(entry, place, field, where, diverged) for place, entry in enumerate(column, 1)])
    return np.where(np.isfinite(values), values, np.inf) if diverged else values


def _real(entry: Json, place: int, field: str, where: str, diverged: bool) -> float:
    if diverged and entry in ("", None):
        return float("inf")
    try:
        return float(entry)
    except (TypeError, ValueError):
        empty = ", or nothing where it diverged" if diverged else ""
        raise DeriveError(
            f"{where}, run {place}: {field} {shorten(str(entry))} is not a number; give one{empty}"
        ) from None
