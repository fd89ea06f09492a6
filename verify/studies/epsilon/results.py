"""What `verify epsilon` leaves in its folder, and its answer from there.

A folder holds a file for every unit, epsilon.json, and the runs as text: study.json with runs.csv.gz. Earlier versions
left gradients_SCHEME.json for every parameterization in place of the units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from derive.errors import canonical
from derive.solve import Prescription, prescribe, solve_kinds
from verify.checksums import read_document, refused
from verify.fit.backward import Gradients, Row, verdicts
from verify.studies.epsilon.conditions import ByLayer, Conditions, Found, epsilon_values, file_name
from verify.studies.epsilon.onsets import Result
from verify.studies.epsilon.text import as_json, text
from verify.studies.folder import read_study
from verify.studies.plan import read_plan
from verify.studies.study import Answer, Part, Progress, Study, StudyError, Unit, made_by, shared
from verify.sweeps import records
from verify.sweeps.storage.database import StoreError
from verify.sweeps.storage.export import DESCRIPTION, TABLES, export, load_export
from verify.training.data import Corpus
from verify.values import Entries, Tree

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


def backward_path(folder: Path, scheme: str) -> Path:
    """The file of a parameterization's gradients."""
    return folder / f"gradients_{canonical(scheme)}.json"


def read_backward(path: Path) -> Backward:
    """What earlier versions kept of all widths; StoreError where the file holds something else."""
    with refused(path, "gradients of verify epsilon", "move it away, or give another folder", StoreError):
        content = read_document(path)
        scheme, _, _, widths, _ = content["made_with"]
        prescription = solve_kinds(prescribe("adam", scheme).problem)
        found = Gradients(tuple(widths), content["kinds"], _arrays(content["gradients"]))
        return Backward(prescription, found, _arrays(content["sizes"]))


def _arrays(tables: Tree) -> Tree:
    if isinstance(tables, dict):
        return {int(key) if key.isdecimal() else key: _arrays(value) for key, value in tables.items()}
    return np.array(tables, dtype=float)


def write_study(study: records.Study, folder: Path) -> None:
    """Write study.json and runs.csv.gz, in place of those that the folder holds."""
    for name in (DESCRIPTION, *TABLES):
        (folder / name).unlink(missing_ok=True)
    export(study, folder, compress=True)


def read_result(folder: Path) -> Result:
    """The finished study in that folder, of this version or of an earlier one; an error for anything else."""
    if read_plan(folder) is not None:
        return read_study(EPSILON, folder)
    study = load_export(folder)
    with refused(folder / RESULT, "a result of verify epsilon", "run it again", StoreError):
        (described,) = read_document(folder / RESULT)["studies"]
        rates = dict(described["base_rates"])
    schemes = dict.fromkeys(setting.parameterization for setting in study.settings.values())
    return Result(study, rates, tuple(read_backward(backward_path(folder, scheme)) for scheme in schemes))


def result(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Found]], _: Path) -> Result:
    """What the runs and the gradients of all parameterizations show."""
    from verify.studies.epsilon.settings import study_settings
    from verify.sweeps.settings.named import representatives

    conditions = shared({unit: each for unit, each in wanted.items() if unit[0] != "rate"})
    schemes: dict[str, list[tuple[int, Found]]] = {}
    for unit, part in parts.items():
        if unit[0] == "gradients":
            schemes.setdefault(str(unit[1]), []).append((int(unit[2]), part.found))
    settings = study_settings([*schemes], epsilon_values([*wanted]), conditions.hidden_layers)
    runs = [record for unit, part in parts.items() if unit[0] == "run" for record in part.found.runs]
    study = records.Study(
        conditions.of_runs(made_by(parts.values()).code),
        {each.setting.name: each.setting for each in settings},
        representatives(settings, decays=False, clips=False),
        tuple(runs),
        len(runs),
    )
    return Result(study, conditions.rates, tuple(_backward(scheme, found) for scheme, found in schemes.items()))


def _backward(scheme: str, found: Sequence[tuple[int, Found]]) -> Backward:
    """One parameterization's widths together."""

    def together(tables: Sequence[Mapping[int, ByLayer]]) -> dict[int, Tree]:
        return {
            step: {
                layer: {size: np.stack([table[step][layer][size] for table in tables]) for size in sizes}
                for layer, sizes in layers.items()
            }
            for step, layers in tables[0].items()
        }

    prescription = solve_kinds(prescribe("adam", scheme).problem)
    widths, kinds = tuple(width for width, _ in found), found[-1][1].kinds
    gradients = Gradients(widths, kinds, together([each.gradients for _, each in found]))
    return Backward(prescription, gradients, together([each.sizes for _, each in found]))


def draw(found: Result, folder: Path) -> None:
    """Write the study as text, and the picture."""
    from verify.studies.epsilon.plots import cost_against_width
    from verify.studies.pictures import save

    write_study(found.study, folder)
    save(cost_against_width(found), folder / "epsilon")


def _units(_: Entries) -> list[Unit]:
    raise StudyError(f"it was made by a version that kept no parts of its runs; its {RESULT} holds what was printed")


def _train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress) -> Found:
    from verify.studies.epsilon.study import train

    return train(conditions, unit, corpus, progress)


ANSWER = Answer(Conditions, RESULT, _units, result, lambda found: as_json([found]), text, draw)
EPSILON = Study("epsilon", "verify.studies.epsilon.study", Found, file_name, _train, None, answer=ANSWER)
