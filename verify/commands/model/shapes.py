"""`verify shapes`: an existing set-up of microsoft/mup beside what is derived, parameter by parameter."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import DeriveError, shorten
from derive.terminal import wrapped
from verify.commands.options import read_choice, write_out

if TYPE_CHECKING:
    from derive.solve import Prescription
    from verify.model.mup_entries import Entry


def shapes(
    base: Annotated[Path, typer.Argument(help="Base shapes, as microsoft/mup's save_base_shapes wrote them.")],
    target: Annotated[
        Path | None, typer.Option(help="Shapes of the target, {name: [dims]} in YAML or JSON, for numbers.")
    ] = None,
    optimizer: Annotated[
        str, typer.Option(help="sgd, momentum, nesterov (MuSGD), adam (MuAdam) or adamw (MuAdamW).")
    ] = "adam",
    parameterization: Annotated[
        str, typer.Option(help="What to compare with: mup, sp, ... or a=0,0,1;b=0,1/2,0")
    ] = "mup",
    alignment: Annotated[str, typer.Option(help="full, none, ... as in derive.")] = "full",
    role: Annotated[
        list[str] | None, typer.Option(help="NAME=embedding or NAME=readout, where shapes leave it open; repeat it.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Why does my muP code not match the table? Every parameter's exponents there and here, and the shift between."""
    from derive.emit import dump
    from derive.parameterizations import custom
    from derive.solve import prescribe, solve_kinds
    from verify.model.mup_entries import counts, entries_json
    from verify.model.mup_shapes import compare, read_shapes, rule_name

    chosen = read_choice("--format", output_format, ("table", "json"))
    given: dict[str, str] = {}
    for text in role or []:
        name, equals, kind = text.rpartition("=")
        if not equals:
            raise DeriveError(f"--role {shorten(text)} names no kind; write NAME=embedding or NAME=readout")
        if name in given:
            raise DeriveError(f"--role gives {shorten(name)} twice; keep one of them")
        given[name] = kind
    problem = prescribe(rule_name(optimizer), custom(parameterization), alignment).problem
    prescription = solve_kinds(problem)
    wide = None if target is None else read_shapes(target, "target shapes")
    entries = compare(read_shapes(base, "base shapes"), prescription, given, wide)
    if chosen == "table":
        write_out(wrapped(table(prescription, entries)))
        return
    agree, differ, undecided = counts(entries)
    content = {
        "schema": 1,
        "command": "shapes",
        "optimizer": prescription.optimizer_name,
        "parameterization": problem.parameterization.name.lower(),
        "alignment": problem.alignment.name,
        "agree": agree,
        "differ": differ,
        "undecided": undecided,
        "notes": list(prescription.notes),
        "rows": entries_json(entries),
    }
    write_out(dump(content))


def table(prescription: "Prescription", entries: "Sequence[Entry]") -> str:
    """One row per parameter, with numbers under it where there is a target, and below what differs or is open."""
    from derive.emit import terminal_table, title
    from verify.model.mup_entries import counts

    cells, lines, notes = [], [], [f"note: {note}" for note in prescription.notes]
    for entry in entries:
        sides = [", ".join(map(str, each)) if each else "-" for each in (entry.theirs, entry.ours)]
        dims = "x".join("." if each is None else str(each) for each in entry.dims) or "scalar"
        verdict = {True: "agrees", False: "DIFFERS", None: "?"}[entry.agrees]
        theta = "-" if entry.theta is None else str(entry.theta)
        why = entry.why if entry.agrees else "see below"
        cells.append([entry.name, dims, entry.role or "?", *sides, theta, verdict, why])
        if entry.growth is not None and entry.theirs is not None and entry.ours is not None and entry.role != "fixed":
            numbers = (entry.package_factors, entry.factors(entry.ours))
            shown = [", ".join(f"{x:.4g}" for x in each) for each in numbers]
            cells.append(["", f"x {entry.growth.main:g}", "", *shown, "", "", ""])
        if entry.agrees is None:
            lines.append(f"? {entry.name}: {entry.why}")
        elif not entry.agrees:
            reason = f" ({entry.reason})" if entry.reason else ""
            lines.append(f"DIFFERS {entry.name}: to train as derived, {entry.cure}{reason}")
        if entry.note:
            notes.append(f"note: {entry.name}: {entry.note}")
    agree, differ, undecided = counts(entries)
    numbers = any(entry.growth is not None for entry in entries)
    columns = ["parameter", "base", "role", "package a, b, c", "derived a, b, c", "theta", "", "why"]
    heading = [
        f"{title(prescription)}, beside {entries[0].package} of microsoft/mup: multiplier n^-a, initial std n^-b, "
        "rate n^-c",
        "Dimensions that do not grow are a dot; theta takes the derived row to the package's: (a + theta, b - theta)"
        + ("; below each the factors at the target" if numbers else ""),
    ]
    summary = f"{agree} of {len(entries)} agree, {differ} differ" + (
        f", {undecided} undecided: shapes alone do not tell" if undecided else ""
    )
    return "\n".join([*heading, terminal_table(columns, cells), *lines, *notes, summary]) + "\n"
