"""`verify fit`: a sweep that somebody else ran, from its table."""

from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError
from derive.terminal import wrapped
from verify.commands.options import read_choice, write_error, write_out
from verify.files import make_folder


def fit(
    files: Annotated[list[Path], typer.Argument(help="CSV, TSV, JSON lines or Parquet: a row per run.")],
    width: Annotated[str | None, typer.Option(help="Column of the widths.  [default: width]")] = None,
    rate: Annotated[str, typer.Option(help="Column of the learning rates.")] = "lr",
    loss: Annotated[str, typer.Option(help="Column of final losses; empty, NaN or inf where a run diverged.")] = "loss",
    seed: Annotated[str | None, typer.Option(help="Column of the seeds.")] = None,
    group: Annotated[str | None, typer.Option(help="Column of what is fitted apart.")] = None,
    depth: Annotated[str | None, typer.Option(help="Column of depths.")] = None,
    batch: Annotated[str | None, typer.Option(help="Column of batch sizes.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Column of training tokens.")] = None,
    steps: Annotated[str | None, typer.Option(help="Column of training steps.")] = None,
    names: Annotated[
        str | None,
        typer.Option(help="What runs' names say, as w{width}-lr{rate}: Weights & Biases' and TensorBoard's exports."),
    ] = None,
    predict: Annotated[
        str | None, typer.Option(help="OPTIMIZER/PARAMETERIZATION/ALIGNMENT, or .../global for one raw rate.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Nats below which a loss by transferring is none.")] = 0.01,
    report: Annotated[Path | None, typer.Option(help="Folder for the page with its pictures.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """A sweep of your own, from its table: best rates, their drift, whether they transfer, and what to run next."""
    from derive.emit import dump
    from verify.studies.table.fit import fit as fit_runs
    from verify.studies.table.runs import read_runs
    from verify.studies.table.text import as_json, predictions, study_of, table

    shown = read_choice("--format", output_format, ("table", "json"))
    if not 0 < margin < float("inf"):
        raise DeriveError(f"--margin {margin} is not allowed; give nats above 0, such as 0.01")
    given = {"width": width, "rate": rate, "loss": loss, "seed": seed, "group": group}
    given |= {"depth": depth, "batch": batch, "tokens": tokens, "steps": steps}
    others = any((depth, batch, tokens, steps))
    columns = {field: name for field, name in given.items() if name is not None}
    if width is None and not others:
        columns["width"] = "width"
    said = None if predict is None else predictions(predict)
    runs = read_runs(files, columns, names)
    found = fit_runs(runs, margin)
    write_out(dump(as_json(runs, found, said)) if shown == "json" else wrapped(table(runs, found, margin, said)))
    if report is not None:
        from verify.studies.transfer.report import write_report

        make_folder(report, "--report")
        for path in write_report(study_of(runs, files), report):
            if path.suffix == ".html":
                write_error(f"wrote {path}")
