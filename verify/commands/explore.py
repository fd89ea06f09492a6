"""`verify explore`: the page to play with, one file that needs no server, written by `derive` alone."""

from pathlib import Path
from typing import Annotated

import typer

from verify.commands.options import write_out
from verify.files import write_new


def explore(
    out: Annotated[Path, typer.Option(help="The page's file.")] = Path("explore.html"),
    optimizer: Annotated[
        list[str] | None,
        typer.Option(help="A rule or mixture beside those with a name, as in derive --optimizer; repeat it."),
    ] = None,
) -> None:
    """A page to play with: exponents, what fixes them, regimes and numbers, by sliders; one file, no server."""
    from derive.explore import ALL, page

    write_new(out, page((*ALL, *(optimizer or ()))))
    write_out(f"written to {out}\n")
