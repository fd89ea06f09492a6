"""`verify status`, `report` and `merge`: what a study has done, its answer again, and parts of it united."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, shorten
from derive.terminal import wrapped
from verify.commands.options import write_error, write_out
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.studies.folder import State
    from verify.studies.study import AnyStudy

WATCH_SECONDS = 2
FEW = 8
"""Units that are named one by one."""
SalvageOption = Annotated[
    bool, typer.Option("--salvage", help="Read what is sound of a damaged study, and say what is left out.")
]


@contextmanager
def salvaging(wanted: bool) -> Iterator[list[str] | None]:
    """A list for what is damaged, which is said once reading is over; None where damage is to be refused."""
    left_out: list[str] | None = [] if wanted else None
    yield left_out
    for each in left_out or ():
        write_error(f"left out: {each}")


def status(
    study: Annotated[Path, typer.Argument(help="The study's folder, or its store.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
    salvage: SalvageOption = False,
) -> None:
    """Show what a study has done so far: of a sweep the best loss of every setting at every width, else its units."""
    from rich.console import Console
    from rich.live import Live

    from verify.studies.catalogue import study_in
    from verify.studies.folder import state
    from verify.studies.transfer.text import progress_table
    from verify.sweeps.storage.export import load

    by_units = study_in(study)

    def shown(left_out: list[str] | None) -> str:
        if by_units is not None:
            return progress_of_units(by_units, state(by_units, study))
        return progress_table(load(study, left_out))

    if not watch:
        with salvaging(salvage) as left_out:
            write_out(wrapped(shown(left_out)))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(shown([] if salvage else None), refresh=True)
            sleep(WATCH_SECONDS)


def progress_of_units(study: "AnyStudy", found: "State") -> str:
    """How many units are done and left, by which code and when, and which are left."""
    from derive.emit import terminal_table

    cells = [
        [str(len(made)), code, jax or "-", min(each.date for each in made), max(each.date for each in made)]
        for (code, jax), made in found.makers.items()
    ]
    more = "; more follow from these" if found.more_follow else ""
    lines = [f"verify {study.name}: {len(found.parts)} of {len(found.wanted)} units are done{more}"]
    if cells:
        lines.append(terminal_table(["units", "code", "JAX", "from", "to"], cells))
    if found.left:
        named = [" ".join(filter(None, map(str, unit))) for unit in found.left[:FEW]]
        rest = f", and {len(found.left) - FEW} more" if len(found.left) > FEW else ""
        lines.append(f"left: {', '.join(named)}{rest}")
    return "\n".join(lines) + "\n"


def report(
    study: Annotated[Path, typer.Argument(help="The study's folder, its store, or an export of it.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html, pictures, runs.csv and transfer.json.")
    ] = None,
    salvage: SalvageOption = False,
) -> None:
    """Write a sweep as one page with pictures, CSV and JSON; answer any other study again from its folder."""
    from verify.studies.catalogue import study_in
    from verify.studies.folder import read_study

    by_units = study_in(study)
    if by_units is not None:
        _answer_again(by_units, read_study(by_units, study), out)
    elif out is None:
        raise DeriveError("the report of a sweep needs --out, a new folder for its page and pictures; give one")
    else:
        _report_sweep(study, out, salvage)


def _answer_again(study: "AnyStudy", found: Any, out: Path | None) -> None:
    from verify.commands.studies.command import answer

    if out is not None:
        _refuse_there(out, study.answers.file)
    answer(study, found, out, "table")


def _refuse_there(out: Path, name: str) -> None:
    if (out / name).exists():
        raise DeriveError(f"--out {shorten(str(out))} already holds a report; give another folder, or move that one")
    make_folder(out)


def _report_sweep(study: Path, out: Path, salvage: bool) -> None:
    from derive.emit import dump
    from verify.checksums import sealed
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.report import write_report
    from verify.studies.transfer.text import as_json
    from verify.sweeps.storage.export import DESCRIPTION, export, load

    with salvaging(salvage) as left_out:
        found = load(study, left_out)
    _refuse_there(out, DESCRIPTION)
    files = write_report(found, out)
    export(found, out)
    (out / "transfer.json").write_text(dump(sealed(as_json(found, analyse(found)))), encoding="utf-8")
    names = [*(path.name for path in files), "runs.csv", "study.json", "transfer.json"]
    write_out(wrapped(f"written to {out}: {', '.join(names)}\n"))


def merge(
    target: Annotated[Path, typer.Argument(help="The new store, such as study/study.sqlite.")],
    stores: Annotated[list[Path], typer.Argument(help="The stores of the parts.")],
    salvage: SalvageOption = False,
) -> None:
    """Unite the stores of job array tasks in one; a store of an earlier version, or what is sound of a damaged one.

    Folders of any other study are united in a new folder.
    """
    from verify.studies.catalogue import study_in

    found = [study_in(each) for each in stores]
    if any(each is not None for each in found):
        _merge_folders(found, target, stores)
        return
    from verify.sweeps.storage.store import merge as unite

    make_folder(target.parent)
    with salvaging(salvage) as left_out:
        unite(target, stores, left_out)
    write_out(f"written to {target}\n")


def _merge_folders(studies: "list[AnyStudy | None]", target: Path, folders: list[Path]) -> None:
    from verify.studies.folder import merge as unite

    first = next(each for each in studies if each is not None)
    for folder, each in zip(folders, studies, strict=True):
        if each is None or each.name != first.name:
            held = f"a study of verify {each.name}" if each else "no study that is kept by units"
            raise DeriveError(f"{shorten(str(folder), 200)} holds {held}; merge folders of verify {first.name} alone")
    state = unite(first, target, folders)
    write_out(wrapped(f"{progress_of_units(first, state)}written to {target}\n"))
