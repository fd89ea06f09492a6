"""`verify status`, `report` and `merge`: what a transfer study has done, as a page, and stores united."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Annotated

import typer

from derive.errors import DeriveError, shorten
from derive.terminal import wrapped
from verify.commands.options import write_error, write_out
from verify.files import make_folder

WATCH_SECONDS = 2
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
    """Show what a study has done so far: runs and the best loss of every setting at every width."""
    from rich.console import Console
    from rich.live import Live

    from verify.studies.transfer.text import progress_table
    from verify.sweeps.storage.export import load

    if not watch:
        with salvaging(salvage) as left_out:
            write_out(wrapped(progress_table(load(study, left_out))))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(progress_table(load(study, [] if salvage else None)), refresh=True)
            sleep(WATCH_SECONDS)


def report(
    study: Annotated[Path, typer.Argument(help="The study's folder, its store, or an export of it.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, pictures, runs.csv and transfer.json.")],
    salvage: SalvageOption = False,
) -> None:
    """Write a study as one self-contained page with its pictures, and as CSV and JSON."""
    from derive.emit import dump
    from verify.checksums import sealed
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.report import write_report
    from verify.studies.transfer.text import as_json
    from verify.sweeps.storage.export import DESCRIPTION, export, load

    with salvaging(salvage) as left_out:
        found = load(study, left_out)
    if (out / DESCRIPTION).exists():
        raise DeriveError(f"--out {shorten(str(out))} already holds a report; give another folder, or move that one")
    make_folder(out)
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
    """Unite the stores of job array tasks in one; a store of an earlier version, or what is sound of a damaged one."""
    from verify.sweeps.storage.store import merge as unite

    make_folder(target.parent)
    with salvaging(salvage) as left_out:
        unite(target, stores, left_out)
    write_out(f"written to {target}\n")
