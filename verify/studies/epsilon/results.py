"""What `verify epsilon` leaves in its folder, written and read back without JAX: gradients, and the study as text.

A folder holds gradients_SCHEME.json of every parameterization, epsilon.json, and study.json with runs.csv.gz.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from derive.errors import canonical
from derive.solve import Prescription, prescribe, solve_kinds
from verify.checksums import read_document, refused, write_document
from verify.fit.backward import Gradients, Row, verdicts
from verify.studies.epsilon.onsets import Result
from verify.sweeps.records import Study
from verify.sweeps.storage.database import StoreError
from verify.sweeps.storage.export import DESCRIPTION, TABLES, export, load_export

RESULT = "epsilon.json"

Sizes = Mapping[str, Mapping[str, Float[np.ndarray, "widths seeds"]]]
"""Of every layer: rms, of sqrt(v) over the entries with a gradient; share, of these entries; half, what halves U."""


@dataclass(frozen=True)
class Backward:
    """One parameterization's gradients at initialisation and after training, and what meets epsilon in its updates."""

    prescription: Prescription
    gradients: Gradients
    sizes: Mapping[int, Sizes]

    @property
    def name(self) -> str:
        """The parameterization's."""
        return self.prescription.problem.parameterization.name

    def rows(self) -> list[Row]:
        """The exponents of gradients and backward alignments, judged."""
        table, found = self.gradients.tables, self.gradients
        return [
            row
            for step in sorted(table)
            for row in verdicts(self.prescription, found.widths, step, table[step], found.kinds)
        ]

    def write(self, folder: Path, made_with: Any) -> None:
        """Store in the folder with a checksum, and with what decided the numbers; what is not finite is null."""
        tables = {"kinds": dict(self.gradients.kinds), "gradients": self.gradients.tables, "sizes": self.sizes}
        path = backward_path(folder, self.name)
        write_document(path, {"made_with": made_with, **_lists(tables)})


def backward_path(folder: Path, scheme: str) -> Path:
    """The file of a parameterization's gradients."""
    return folder / f"gradients_{canonical(scheme)}.json"


def read_backward(path: Path) -> tuple[Backward, Any]:
    """What `Backward.write` stored, and what it was made with; StoreError where the file holds something else."""
    with refused(path, "gradients of verify epsilon", "move it away, or give another folder", StoreError):
        content = read_document(path)
        scheme, _, _, widths, _ = made_with = content["made_with"]
        prescription = solve_kinds(prescribe("adam", scheme).problem)
        found = Gradients(tuple(widths), content["kinds"], _arrays(content["gradients"]))
        return Backward(prescription, found, _arrays(content["sizes"])), made_with


def _lists(tables: Any) -> Any:
    """Nested tables as JSON has them, kinds as they are."""
    if isinstance(tables, str):
        return tables
    if isinstance(tables, Mapping):
        return {str(key): _lists(value) for key, value in tables.items()}
    return [[float(f"{each:.7g}") if np.isfinite(each) else None for each in row] for row in tables]


def _arrays(tables: Any) -> Any:
    if isinstance(tables, dict):
        return {int(key) if key.isdecimal() else key: _arrays(value) for key, value in tables.items()}
    return np.array(tables, dtype=float)


def write_study(study: Study, folder: Path) -> None:
    """Write study.json and runs.csv.gz, in place of those that the folder holds."""
    for name in (DESCRIPTION, *TABLES):
        (folder / name).unlink(missing_ok=True)
    export(study, folder, compress=True)


def read_result(folder: Path) -> Result:
    """The finished study in that folder, from its text files; StoreError where one is absent or something else."""
    study = load_export(folder)
    with refused(folder / RESULT, "a result of verify epsilon", "run it again", StoreError):
        (described,) = read_document(folder / RESULT)["studies"]
        rates = dict(described["base_rates"])
    schemes = dict.fromkeys(setting.parameterization for setting in study.settings.values())
    return Result(study, rates, tuple(read_backward(backward_path(folder, scheme))[0] for scheme in schemes))
