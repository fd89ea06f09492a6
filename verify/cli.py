"""The `verify` command."""

import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from derive.cli import INTERRUPTED, run
from derive.errors import DeriveError, canonical, shorten
from verify import cli_decay, cli_epsilon, cli_model, cli_phase, cli_plan, cli_shapes, cli_transfer, cli_updates
from verify.options import Progress, check_positive, make_folder, read_choice, read_corpus, read_numbers, write_out

app = typer.Typer(
    name="verify",
    help="Measures in real networks of growing width what derive predicts.",
    epilog="Examples:  verify exponents --parameterization mup   |   "
    "verify exponents --optimizer sgd --widths 128,256,512,1024 --seeds 3 --out study",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def commands() -> None:
    """Measures in real networks of growing width what derive predicts."""


app.command()(cli_transfer.transfer)
app.command()(cli_transfer.status)
app.command()(cli_transfer.report)
app.command()(cli_transfer.merge)
app.command()(cli_updates.updates)
app.command()(cli_decay.decay)
app.command()(cli_epsilon.epsilon)
app.command()(cli_phase.phase)
app.command()(cli_model.prescribe)
app.command()(cli_model.check)
app.command()(cli_shapes.shapes)
app.command()(cli_plan.plan)


@app.command()
def exponents(
    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adam, sgd, adam-ps, lion, ...")] = "adam",
    parameterization: Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")] = "sp",
    alignment: Annotated[
        str, typer.Option(help="The assumption to test: full, none, ... as in derive; global: one rate for all layers.")
    ] = "full",
    model: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp",
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "128,256,512,1024",
    seeds: Annotated[int, typer.Option(help="Networks per width, trained side by side.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps; measured at 1, 2, 5, 10, ...")] = 10,
    base_width: Annotated[
        int | None, typer.Option(help="Where all parameterizations agree.  [default: the first]")
    ] = None,
    base_rate: Annotated[float | None, typer.Option(help="Learning rate at the base width.")] = None,
    batch: Annotated[int, typer.Option(help="Examples per training step.")] = 256,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards; 16 reads text as half bytes.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens read at once.  [default: 16; transformer 64]")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for measured.json, sizes.csv and pictures.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train networks of growing width, measure alignments and update sizes, and say which exponents hold."""
    from derive.solve import prescribe, solve_kinds
    from verify.exponents import as_json, check_widths
    from verify.exponents import exponents as measured_exponents
    from verify.models.mlp import MLP
    from verify.optimizers import BASE_RATES, check_trainable
    from verify.settings import at_one_rate
    from verify.studies import GLOBAL
    from verify.sweep import loaded_code
    from verify.train import Config

    loaded_code()

    name = read_choice("model", model, ("mlp", "transformer"))
    chosen = read_choice("--format", output_format, ("table", "json"))
    check_positive(seeds=seeds, steps=steps, base_width=base_width, base_rate=base_rate, batch=batch, context=context)
    sizes = read_numbers("--widths", widths, int, "128,256,512")
    check_widths(sizes)
    raw = canonical(alignment) == GLOBAL
    depth = MLP.hidden_layers if raw and name == "mlp" else None  # one rate leaves every hidden layer an r of its own
    prescription = prescribe(optimizer, parameterization, "full" if raw else alignment, hidden_layers=depth)
    rules = {kind: row.name for kind, row in prescription.problem.optimizers.items()}
    check_trainable(rules)
    hidden_layers = prescription.problem.alignment.hidden_layers
    if hidden_layers is None and depth is None:
        prescription = solve_kinds(prescription.problem)
    if raw:
        prescription = at_one_rate(prescription)
    text = read_corpus(corpus, vocab)
    config = Config(
        prescription,
        base_width or sizes[0],
        base_rate or min(BASE_RATES[rule] for rule in rules.values()),
        model=name,  # type: ignore[arg-type]
        batch=batch,
        sizes={"vocabulary": text.vocabulary}
        | ({"context": context} if context else {})
        | ({"hidden_layers": hidden_layers} if hidden_layers and name == "mlp" else {}),
    )
    if out is not None:
        make_folder(out)
        if (out / "measured.json").exists():
            raise DeriveError(f"--out {shorten(str(out))} already holds a study; give another folder, or move that one")
    if name == "mlp" and any(rule.is_matrix_rule for rule in prescription.problem.optimizers.values()):
        cli_updates.note_fixed_dimensions(config.at(sizes[0]).context * text.vocabulary, sizes[0])  # type: ignore[attr-defined]
    with Progress("training and measuring", len(sizes) * steps) as bar:
        result = measured_exponents(config, sizes, range(seeds), steps, text, bar.advance)
    if out is not None:
        _write_study(result, out)
    _print(as_json(result), result, chosen, out)


def _write_study(result: Any, out: Path) -> None:
    from derive.emit import dump, title
    from verify.exponents import as_json, write_sizes
    from verify.plots import alignments_against_step, save, sizes_against_width

    (out / "measured.json").write_text(dump(as_json(result)), encoding="utf-8")
    write_sizes(result, out / "sizes.csv")
    heading = f"{title(result.config.prescription)}, {result.config.model}"
    last = max(result.tables)
    if result.config.model == "mlp":
        a = result.config.prescription.layers[-1].a
        for step in dict.fromkeys((min(result.tables), last)):
            figure = sizes_against_width(result.rows, result.widths, result.tables[step], step, heading, a)
            save(figure, out / f"sizes_step_{step}")
    fans = result.runs[0].fan_in
    save(alignments_against_step(result.tables, result.widths, fans, heading), out / "alignments")


def _print(content: dict[str, Any], result: Any, output_format: str, out: Path | None) -> None:
    from derive.emit import dump, terminal_table, title
    from verify.exponents import summary

    if output_format == "json":
        write_out(dump(content))
        return
    cells, sections = [], []
    shown = {min(result.tables), max(result.tables)}
    for row in (row for row in result.rows if row.step in shown):
        if not cells or (cells[-1][0], cells[-1][1]) != (str(row.step), row.layer):
            sections.append(len(cells))
        measured = row.measured
        interval = "-" if measured.low != measured.low else f"{measured.low:+.2f} .. {measured.high:+.2f}"
        implied = "-" if row.reference is None or row.quantity != "delta_z" else f"{row.reference:+.2f}"
        value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
        reason = row.reason or ""
        cells.append(
            [
                str(row.step),
                row.layer,
                row.quantity,
                row.predicted or "-",
                implied,
                value,
                interval,
                row.verdict,
                reason,
            ]
        )
    columns = ["step", "layer", "quantity", "predicted", "implied", "measured", "95 % interval", "verdict", "why"]
    lines = [
        f"{title(result.config.prescription)}, {content['model']}, widths {','.join(map(str, result.widths))}, "
        f"{len(result.seeds)} seeds, on {content['device']}; {content['corpus']}",
        "Sizes are n^-x (alignments n^+x); implied: from the measured alignments and the sizes of the terms",
        terminal_table(columns, cells, sections),
        summary(result.config.prescription, result.rows),
        *(f"diverged: {line}" for line in result.divergences),
        *([f"written to {out}: measured.json, sizes.csv, pictures"] if out else []),
    ]
    write_out("\n".join(lines) + "\n")


def main() -> None:
    """Entry point of the `verify` command."""

    def command() -> Any:
        return app(standalone_mode=False)

    code = run(command, "verify", (ValueError,))
    if code == INTERRUPTED:
        # XLA may still be computing on its own threads, which taking the interpreter down would crash.
        gc.collect()  # gives back what closed workers shared
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
