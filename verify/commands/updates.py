"""`verify updates`: every optimizer's update exponents, predicted and measured, in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import check_positive
from verify.commands.options import read_choice, read_corpus, read_numbers, split_values, write_error
from verify.commands.studies import answer, train_all

if TYPE_CHECKING:
    from verify.studies.updates.study import Row, Trained


def updates(
    optimizer: Annotated[
        list[str] | None, typer.Option(help="all, or one or several: sgd,adam.  [default: all]")
    ] = None,
    parameterization: Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")] = "sp",
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "128,256,512,1024,2048",
    base_width: Annotated[
        int | None, typer.Option(help="Where the rate is the base rate.  [default: the first]")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks per width.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps; measured after the first and the last.")] = 10,
    batch: Annotated[
        int,
        typer.Option(
            help="Examples per training step; an eighth of the smallest width, or less, make a gradient of fixed rank."
        ),
    ] = 256,
    context: Annotated[int, typer.Option(help="Tokens read at once.")] = 8,
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 2,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[
        int, typer.Option(help="16 reads text as half bytes, 256 as bytes; or the vocabulary of token shards.")
    ] = 16,
    out: Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")] = Path("updates"),
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train every optimizer at growing widths, and say which of the predicted exponents of its updates hold."""
    from verify.studies.study import Training, Unit, check_widths
    from verify.studies.updates.study import UPDATES, Conditions, as_json, explained, rows
    from verify.training.rules.transforms import DIRECTIONS

    shown = read_choice("--format", output_format, ("table", "json"))
    check_positive(seeds=seeds, steps=steps, base_width=base_width, batch=batch, context=context, depth=depth)
    growing = read_numbers("--widths", widths, int, "128,256,512")
    check_widths(growing)
    text = read_corpus(corpus, vocab)
    names = split_values(optimizer, ["all"])
    shared: dict[str, Any] = {
        "widths": tuple(growing),
        "seeds": seeds,
        "steps": steps,
        "base_width": base_width or growing[0],
        "batch": batch,
        "context": context,
        "hidden_layers": depth,
        "corpus": f"{text.name} {text.fingerprint}",
    }
    chosen = [Conditions.of(name, parameterization, **shared) for name in (DIRECTIONS if names == ["all"] else names)]
    note_fixed_dimensions(context * text.vocabulary, growing[0])
    wanted: dict[Unit, Conditions] = {(each.optimizer,): each for each in chosen}
    parts = train_all(Training(UPDATES, wanted, out), text, len(growing) * steps)
    studies = [(wanted[unit], part) for unit, part in parts.items()]
    judged = explained([row for each, part in studies for row in rows(each, part.found)], out)
    answer(as_json(studies, judged), table(studies, judged), out, shown)


def note_fixed_dimensions(rows: int, width: int) -> None:
    """Say where an embedding has more rows than the smallest network units, which bends what goes with the larger."""
    if rows > width:
        write_error(
            f"note: the embedding has {rows} rows and the smallest width is {width}: what depends on max(fan_in, "
            "fan_out) or on a rank bends amid the widths; give --vocab 16, a smaller --context or larger --widths"
        )


def table(studies: "Sequence[Trained]", found: "Sequence[Row]") -> str:
    """One row per exponent: predicted, after the first step, which is judged, and after the last beside it."""
    from derive.emit import terminal_table
    from verify.studies.updates.study import paired

    conditions = studies[0][0]
    steps = sorted({row.step for row in found})
    steps = list(dict.fromkeys((steps[0], steps[-1])))
    cells, sections = [], []
    for first, last in paired(found):
        if not cells or cells[-1][0] != first.optimizer:
            sections.append(len(cells))
        cells.append(
            [
                *(first.optimizer, first.layer, first.quantity, str(first.predicted)),
                *(part for row in (first, last)[: len(steps)] for part in (*_measured(row), row.verdict)),
                first.reason or (last.reason or ""),
            ]
        )
    columns = ["optimizer", "layer", "exponent", "predicted"]
    for step in steps:
        columns += [f"step {step}", "95 % interval", "verdict"]
    lines = [
        f"{conditions.parameterization}, full alignment, mlp, widths {','.join(map(str, conditions.widths))}, "
        f"{conditions.seeds} seeds; {conditions.corpus}",
        "RMS(U) = n^-s, ||U||_op = n^p, RMS(U z) = n^(alpha - s) RMS(z)",
        terminal_table([*columns, "why"], cells, sections),
        _summary(found),
        *(f"{each.optimizer} diverged: {line}" for each, part in studies for line in part.found.diverged),
    ]
    return "\n".join(lines) + "\n"


def _measured(row: "Row") -> tuple[str, str]:
    measured = row.measured
    value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
    return value, "-" if measured.low != measured.low else f"{measured.low:+.3f} .. {measured.high:+.3f}"


def _summary(found: "Sequence[Row]") -> str:
    parts = []
    for step in sorted({row.step for row in found}):
        counts = []
        for quantity in dict.fromkeys(row.quantity for row in found):
            verdicts = [row.verdict for row in found if (row.quantity, row.step) == (quantity, step)]
            counts.append(f"{quantity} {verdicts.count('holds')}/{len(verdicts)}")
        parts.append(f"step {step}: {', '.join(counts)} hold")
    return "; ".join(parts)
