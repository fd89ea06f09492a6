"""`verify phase`: over a plane of learning-rate exponents, which changes stay finite, grow or vanish with the width."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import check_positive
from verify.commands.options import read_choice, read_corpus, read_numbers
from verify.commands.studies import answer, train_all

if TYPE_CHECKING:
    from verify.studies.phase.result import PhaseResult


def phase(
    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adam, sgd, lion, muon, ...")] = "adam",
    parameterization: Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")] = "sp",
    c_hidden: Annotated[
        str | None, typer.Option(help="Exponents such as 0,1/4,1/2.  [default: prescription +-1 in quarters]")
    ] = None,
    c_readout: Annotated[
        str | None, typer.Option(help="Likewise; write --c-readout=-1/2,0 where one is negative.")
    ] = None,
    c_embedding: Annotated[str | None, typer.Option(help="One exponent.  [default: the prescription]")] = None,
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "64,128,256,512",
    base_width: Annotated[
        int | None, typer.Option(help="Where every rate is the base rate.  [default: the first]")
    ] = None,
    base_rate: Annotated[
        float | None, typer.Option(help="Learning rate at the base width.  [default: by optimizer]")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Networks per point and width.")] = 2,
    steps: Annotated[int, typer.Option(help="Training steps; measured after the first and the last.")] = 10,
    batch: Annotated[int, typer.Option(help="Examples per training step.")] = 128,
    context: Annotated[int, typer.Option(help="Tokens read at once.")] = 8,
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 2,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[
        int, typer.Option(help="16 reads text as half bytes, 256 as bytes; or the vocabulary of token shards.")
    ] = 16,
    out: Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")] = Path("phase"),
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train a few steps at a plane of rate exponents: where features and logits are stable, diverge or freeze."""
    from derive.parsing import parse_number
    from derive.solve import prescribe
    from verify.studies.phase.plane import PHASE, Conditions, grid, read_exponents
    from verify.studies.phase.result import PhaseResult, as_json
    from verify.studies.phase.study import usual_rate
    from verify.studies.study import Training, Unit, check_widths

    shown = read_choice("--format", output_format, ("table", "json"))
    check_positive(base_width=base_width, base_rate=base_rate, seeds=seeds, steps=steps, batch=batch)
    check_positive(context=context, depth=depth)
    growing = read_numbers("--widths", widths, int, "64,128,256,512")
    check_widths(growing)
    rate = base_rate or usual_rate(optimizer)
    prescribed = prescribe(optimizer, parameterization, hidden_layers=depth)
    embedding, hidden, readout = prescribed.c[0], prescribed.c[1], prescribed.c[-1]
    text = read_corpus(corpus, vocab)
    conditions = Conditions(
        optimizer=prescribed.optimizer_name,
        parameterization=prescribed.problem.parameterization.name,
        c_embedding=str(embedding if c_embedding is None else parse_number(c_embedding, "--c-embedding")),
        points=grid(
            read_exponents("--c-hidden", c_hidden, hidden),
            read_exponents("--c-readout", c_readout, readout),
            (str(hidden), str(readout)),
        ),
        seeds=seeds,
        steps=steps,
        base_width=base_width or growing[0],
        base_rate=rate,
        batch=batch,
        context=context,
        hidden_layers=depth,
        corpus=f"{text.name} {text.fingerprint}",
    )
    wanted: dict[Unit, Conditions] = {(width,): conditions for width in growing}
    parts = train_all(Training(PHASE, wanted, out), text, len(conditions.points))
    result = PhaseResult.of(conditions, list(parts.values()))
    answer(as_json(result), table(result), out, shown)


def table(study: "PhaseResult") -> str:
    """r_hat over the plane per step and layer, and how far each of the three predictions goes."""
    from derive.emit import terminal_table
    from verify.studies.phase.result import TOLERANCE, agreements

    conditions = study.conditions
    rows = {(row.step, row.layer, row.point): row for row in study.rows}
    hidden, readout = (list(dict.fromkeys(point[axis] for point in conditions.points)) for axis in (0, 1))
    lines = [
        f"{conditions.optimizer}, {conditions.parameterization}, mlp, widths {','.join(map(str, study.widths))}, "
        f"{conditions.seeds} seeds; c of the embedding {conditions.c_embedding}, prescribed for hidden and readout "
        f"{' and '.join(conditions.prescribed)}; {conditions.corpus}",
    ]
    for step, layer in dict.fromkeys((row.step, row.layer) for row in study.rows):
        cells = []
        for first in hidden:
            own = [rows.get((step, layer, (first, second))) for second in readout]
            marks = {True: " ", False: "*", None: " "}
            cells.append(
                [first, *("" if row is None else f"{row.measured.value:+.2f}{marks[row.holds('full')]}" for row in own)]
            )
        lines.append(f"{layer} after step {step}: r_hat, RMS(Dz) = n^-r; *: not the r of full alignment +-{TOLERANCE}")
        lines.append(terminal_table(["c_hidden \\ c_readout", *readout], cells))
    counts = [
        [
            *(str(each.step), each.layer, each.prediction, f"{each.within}/{each.points}"),
            *(f"{each.same_region}/{each.points}", f"{each.median_error:.3f}"),
        ]
        for each in agreements(study.rows)
    ]
    columns = ["step", "layer", "r predicted by", f"within {TOLERANCE}", "same region", "median |r_hat - r|"]
    lines.append(terminal_table(columns, counts, range(0, len(counts), 3)))
    lines += [f"diverged: {line}" for line in study.divergences]
    return "\n".join(lines) + "\n"
