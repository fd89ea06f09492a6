"""`verify shapes`: an existing set-up of microsoft/mup beside what is derived, parameter by parameter."""

from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, shorten
from verify.options import read_choice, write_out


def shapes(
    base: Annotated[Path, typer.Argument(help="Base shapes, as microsoft/mup's save_base_shapes wrote them.")],
    target: Annotated[
        Path | None, typer.Option(help="Shapes of the target, {name: [dims]} in YAML or JSON, for numbers.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam or adamw: MuSGD, MuAdam, MuAdamW.")] = "adam",
    parameterization: Annotated[str, typer.Option(help="What to compare with: mup, sp, ...")] = "mup",
    alignment: Annotated[str, typer.Option(help="full, none, ... as in derive.")] = "full",
    role: Annotated[
        list[str] | None, typer.Option(help="NAME=embedding or NAME=readout, where shapes leave it open; repeat it.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Why does my muP code not match the table? Every parameter's exponents there and here, and the shift between."""
    from derive.emit import dump, terminal_table, title
    from derive.solve import prescribe, solve_kinds
    from verify.base_shapes import compare, entries_json, read_shapes

    chosen = read_choice("--format", output_format, ("table", "json"))
    given = {}
    for text in role or []:
        name, equals, kind = text.partition("=")
        if not equals:
            raise DeriveError(f"--role {shorten(text)} names no kind; write NAME=embedding or NAME=readout")
        given[name] = kind
    prescription = solve_kinds(prescribe(optimizer, parameterization, alignment).problem)
    wide = None if target is None else read_shapes(target, "target shapes")
    entries = compare(read_shapes(base, "base shapes"), prescription, given, wide)
    if chosen == "json":
        write_out(dump({"schema": 1, "command": "shapes", "rows": entries_json(entries)}))
        return
    columns = ["parameter", "base", "role", "package a, b, c", "derived a, b, c", "theta", "", "why"]
    cells = []
    for entry in entries:
        sides = [", ".join(map(str, each)) if each else "-" for each in (entry.theirs, entry.ours)]
        dims = "x".join("." if each is None else str(each) for each in entry.dims)
        verdict = {True: "agrees", False: "DIFFERS", None: "?"}[entry.agrees]
        theta = "-" if entry.theta is None else str(entry.theta)
        cells.append([entry.name, dims, entry.role or "?", *sides, theta, verdict, entry.differs or entry.why])
        if entry.growth is not None and entry.theirs is not None and entry.ours is not None:
            numbers = [", ".join(f"{x:.4g}" for x in entry.factors(each)) for each in (entry.theirs, entry.ours)]
            cells.append(
                ["", f"x {entry.growth:g}", "", *numbers, "", "", "multiplier, initial std, rate relative to the base"]
            )
    undecided, differing = (sum(entry.agrees is value for entry in entries) for value in (None, False))
    lines = [
        f"{title(prescription)}, beside microsoft/mup: n^-a multiplier, n^-b initial std, n^-c rate; "
        "theta moves a into b and c by the optimizer's degree",
        terminal_table(columns, cells),
        f"{len(entries) - undecided - differing} of {len(entries)} agree, {differing} differ"
        + (f", {undecided} cannot be told from shapes alone" if undecided else ""),
    ]
    write_out("\n".join(lines) + "\n")
