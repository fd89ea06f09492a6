"""What `verify exponents` wrote, read back without JAX: what was trained, every judged row, and every size.

Of schema 1 and 2: sizes are the same in both. The rows are as they were judged then; `judged_again` judges the stored
sizes by the rule of today, in which a result can fail.
"""

import csv
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from derive.errors import DeriveError
from derive.solve import Prescription, prescribe, solve_kinds
from derive.words import Kind
from verify.files import named
from verify.fit.forward import Quantity, Row, Table, verdicts
from verify.sweeps.records import GLOBAL
from verify.sweeps.settings.one_rate import at_one_rate
from verify.sweeps.storage.database import StoreError
from verify.values import Entries, Leaf

DESCRIPTION = "measured.json"
TABLES = ("sizes.csv", "sizes.csv.gz")


@dataclass(frozen=True)
class Measured:
    """A finished study; tables[step][layer][quantity] is [width, seed]."""

    conditions: Entries
    rows: tuple[Entries, ...]
    tables: Mapping[int, Table]

    @property
    def widths(self) -> tuple[int, ...]:
        """Growing."""
        return tuple(self.conditions["widths"])

    @property
    def kinds(self) -> dict[str, Kind]:
        """The role in width of every layer, in the order of execution."""
        return {row["layer"]: row["kind"] for row in self.rows}

    def row(self, step: int, layer: str, quantity: Quantity) -> Entries:
        """One prediction beside its measurement; StoreError where the study has none."""
        for row in self.rows:
            if (row["step"], row["layer"], row["quantity"]) == (step, layer, quantity):
                return row
        raise StoreError(f"the study has no {quantity} of {layer} at step {step}; run verify exponents again")


def prescription(study: Measured) -> Prescription:
    """What the study was trained by, solved again from its names; StoreError where they do not say it."""
    optimizer, scheme, alignment = (study.conditions[name] for name in ("optimizer", "parameterization", "alignment"))
    try:
        if alignment != GLOBAL:
            return solve_kinds(prescribe(optimizer, scheme, alignment).problem)
        hidden = list(study.kinds.values()).count("hidden") if study.conditions["model"] == "mlp" else None
        listed = prescribe(optimizer, scheme, "full", hidden_layers=hidden)
        return at_one_rate(listed if hidden else solve_kinds(listed.problem))
    except DeriveError as error:
        raise StoreError(f"what the study was trained by cannot be solved again: {error}") from None


def judged_again(study: Measured) -> list[Row]:
    """Every row of the four steps, from the stored sizes and by the rule of today."""
    chain = study.conditions["model"] == "mlp"
    return [
        row
        for step, table in study.tables.items()
        for row in verdicts(prescription(study), study.widths, step, table, study.kinds, chain=chain)
    ]


def read_measured(folder: Path) -> Measured:
    """The study in that folder: measured.json, and sizes.csv or sizes.csv.gz; StoreError where it holds none."""
    found = [folder / name for name in TABLES if (folder / name).exists()]
    if len(found) != 1:
        raise StoreError(f"{named(folder)} is no study of verify exponents; it must hold {' or '.join(TABLES)}")
    try:
        conditions = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        rows = tuple(conditions.pop("rows"))
        data = found[0].read_bytes()
        text = (gzip.decompress(data) if found[0].suffix == ".gz" else data).decode()
        widths, seeds = conditions["widths"], conditions["seeds"]
        tables: dict[int, dict[str, dict[str, Leaf]]] = {}
        for line in csv.DictReader(text.splitlines()):
            layer = tables.setdefault(int(line["step"]), {}).setdefault(line["layer"], {})
            sizes = layer.setdefault(line["quantity"], np.full((len(widths), len(seeds)), np.nan))
            sizes[widths.index(int(line["width"])), seeds.index(int(line["seed"]))] = float(line["value"])
        return Measured(conditions, rows, tables)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the study in {named(folder)} cannot be read: {error!r}; run it again") from error
