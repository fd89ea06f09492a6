"""How a study of the (c_hidden, c_readout) plane is kept: a file for every finished width, read without JAX."""

from collections.abc import Mapping
from pathlib import Path

from verify.studies.phase.plane import Conditions, Network
from verify.studies.phase.result import KEPT_DIGITS, PhaseResult, as_json
from verify.studies.phase.text import table
from verify.studies.study import Answer, Part, Progress, Study, Unit, shared
from verify.training.data import Corpus
from verify.values import Entries


def file_name(unit: Unit) -> str:
    """Where a finished width is kept in the study's folder."""
    return f"width_{unit[0]}.json.gz"


def _train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress) -> Network:
    from verify.studies.phase.study import train

    return train(conditions, int(unit[0]), corpus, progress)


def _units(content: Entries) -> list[Unit]:
    return [(width,) for width in content["widths"]]


def _result(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Network]], _: Path) -> PhaseResult:
    return PhaseResult.of(shared(wanted), list(parts.values()))


ANSWER = Answer(Conditions, "phase.json", _units, _result, as_json, table)
PHASE = Study("phase", "verify.studies.phase.study", Network, file_name, _train, KEPT_DIGITS, answer=ANSWER)
