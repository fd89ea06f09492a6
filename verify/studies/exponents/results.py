"""How a study of growing widths is kept and answered from, without JAX: a file a width, then JSON and pictures."""

from collections.abc import Mapping
from pathlib import Path

from derive.emit import title
from verify.studies.exponents.conditions import MODULE, Conditions, Network
from verify.studies.exponents.judged import Result, as_json, judge, write_sizes
from verify.studies.exponents.measured import DESCRIPTION
from verify.studies.exponents.text import table
from verify.studies.study import Answer, Part, Progress, Study, StudyError, Unit, made_by, shared
from verify.training.data import Corpus
from verify.values import Entries


def file_name(unit: Unit) -> str:
    """Where a finished width is kept in the study's folder."""
    return f"width_{unit[0]}.json.gz"


def _train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress) -> Network:
    from verify.studies.exponents.study import train

    return train(conditions, unit, corpus, progress)


def _units(_: Entries) -> list[Unit]:
    raise StudyError(
        f"its {DESCRIPTION} is of a version that kept no parts: it holds all rows that were printed; read it, or "
        "run the study again in another folder"
    )


def result(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Network]], _: Path) -> Result:
    """What the networks of growing width show; StudyError where nothing was measured."""
    conditions = shared(wanted)
    runs = [part.found.run(int(unit[0])) for unit, part in parts.items()]
    meshes = dict.fromkeys(part.found.mesh for part in parts.values())
    mesh = (
        "; ".join("one device" if each is None else each for each in meshes) if len(meshes) > 1 else next(iter(meshes))
    )
    processes = max(part.found.processes for part in parts.values())
    by = made_by(parts.values())
    return judge(conditions.config(), runs, range(conditions.seeds), conditions.corpus, by, (mesh, processes))


def draw(result: Result, folder: Path) -> None:
    """Write every size as CSV, sizes against width for a chain, and alignments against the step."""
    from verify.studies.pictures import alignments_against_step, save, sizes_against_width

    write_sizes(result, folder / "sizes.csv")
    heading = f"{title(result.config.prescription)}, {result.config.model}"
    if result.config.model == "mlp":
        a = result.config.prescription.layers[-1].a
        for step in dict.fromkeys((min(result.tables), max(result.tables))):
            figure = sizes_against_width(result.rows, result.widths, result.tables[step], step, heading, a)
            save(figure, folder / f"sizes_step_{step}")
    fans = result.runs[0].fan_in
    save(alignments_against_step(result.tables, result.widths, fans, heading), folder / "alignments")


ANSWER = Answer(
    Conditions,
    DESCRIPTION,
    _units,
    result,
    as_json,
    table,
    draw,
    is_sealed=False,
    written=f": {DESCRIPTION}, sizes.csv, pictures",
)
EXPONENTS = Study("exponents", MODULE, Network, file_name, _train, None, answer=ANSWER)
