"""`verify decay`: weights, features and loss where decay and updates are in balance, under each convention of decay."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import DeriveError, check_positive
from verify.commands.options import read_choice, read_corpus, read_numbers, split_values, write_error
from verify.commands.studies import answer, train_all

if TYPE_CHECKING:
    from verify.fit.forward import Slope
    from verify.studies.decay.results import DecayResult
    from verify.studies.decay.theory import Row

PACE = 0.01
"""eta lambda at the base width, unless given: a memory of 100 steps, long beside the ten of Adam's momentum."""


def decay(
    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adamw, lion, sgd, muon, ...")] = "adamw",
    parameterization: Annotated[list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: sp,mup]")] = None,
    decay: Annotated[
        list[str] | None, typer.Option(help="independent, sqrt, constant, n^-1, ...  [default: the first three]")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="lambda at the base width.  [default: rate x lambda = 0.01]")
    ] = None,
    base_rate: Annotated[
        float | None, typer.Option(help="Learning rate at the base width.  [default: by optimizer]")
    ] = None,
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "64,128,256,512",
    base_width: Annotated[int | None, typer.Option(help="Where all conventions agree.  [default: the first]")] = None,
    seeds: Annotated[int, typer.Option(help="Networks per width.")] = 3,
    steps: Annotated[
        int | None, typer.Option(help="Training steps.  [default: 4 / (rate x lambda) of the slowest layer]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples per step.")] = 128,
    context: Annotated[int, typer.Option(help="Tokens read at once.")] = 8,
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 2,
    evaluation: Annotated[int, typer.Option(help="Held-out windows for the final loss.")] = 2048,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[
        int, typer.Option(help="16 reads text as half bytes, 256 as bytes; or the vocabulary of token shards.")
    ] = 16,
    out: Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")] = Path("decay"),
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train until decay and updates are in balance: how weights, alignments, features and loss go with the width."""
    from derive.decays import DECAYS, read_decay
    from verify.studies.decay.plots import against_width
    from verify.studies.decay.results import DECAY, Conditions, DecayResult, as_json, unit
    from verify.studies.decay.study import prescription, steps_needed, usual_rate
    from verify.studies.decay.theory import MARKS
    from verify.studies.pictures import save
    from verify.studies.study import Training, check_widths

    shown = read_choice("--format", output_format, ("table", "json"))
    check_positive(weight_decay=weight_decay, base_rate=base_rate, base_width=base_width, seeds=seeds, batch=batch)
    check_positive(context=context, depth=depth, evaluation=evaluation)
    if steps is not None and steps < MARKS:
        raise DeriveError(f"--steps {steps} is too few; weights are measured {MARKS} times, give at least that many")
    growing = read_numbers("--widths", widths, int, "64,128,256,512")
    check_widths(growing)
    conventions = list(dict.fromkeys(map(read_decay, split_values(decay, [*DECAYS]))))
    schemes = split_values(parameterization, ["sp", "mup"])
    usual, base = usual_rate(optimizer), base_width or growing[0]
    rate = base_rate or usual
    strength = weight_decay or PACE / rate
    prescribed = [prescription(optimizer, scheme, convention) for convention in conventions for scheme in schemes]
    enough = steps_needed(prescribed, rate, strength, [width / base for width in growing])
    if steps is not None and steps < enough:
        write_error(f"note: the slowest layer needs {enough} steps to forget its start; {steps} given")
    text = read_corpus(corpus, vocab)
    conditions = Conditions(
        optimizer=prescribed[0].optimizer_name,
        base_width=base,
        base_rate=rate,
        weight_decay=strength,
        seeds=seeds,
        steps=steps or enough,
        batch=batch,
        context=context,
        hidden_layers=depth,
        evaluation=evaluation,
        corpus=f"{text.name} {text.fingerprint}",
    )
    wanted = {unit(each, width): conditions for width in growing for each in prescribed}
    parts = train_all(Training(DECAY, wanted, out), text, conditions.steps)
    result = DecayResult.of(conditions, prescribed, list(parts.values()))
    save(against_width(result), out / "decay")
    answer(as_json(result), table(result), out, shown)


def table(study: "DecayResult") -> str:
    """A row per layer: exponents predicted and measured, alignment, features; and below the loss at every width."""
    from derive.emit import terminal_table

    conditions = study.conditions
    lines = [
        f"{conditions.optimizer}, full alignment, mlp, {conditions.seeds} seeds, {conditions.steps} steps; base rate "
        f"{conditions.base_rate:g}, lambda {conditions.weight_decay:g} at width {conditions.base_width}; "
        f"{conditions.corpus}",
        "RMS(W) = n^-x: predicted for uncorrelated .. coherent updates; RMS(W z) = n^a RMS(W) RMS(z), needed to keep "
        "features; RMS(z) = n^-x after the layer",
        terminal_table(LAYER_COLUMNS, *_layers(study)),
        "held-out loss (nats), mean of seeds; *: some layer not at equilibrium",
        terminal_table(["decay", "parameterization", *map(str, study.widths)], *_losses(study)),
        *(f"diverged: {line}" for line in study.divergences),
    ]
    return "\n".join(lines) + "\n"


LAYER_COLUMNS = (
    *("decay", "parameterization", "layer", "W predicted", "W measured", "95 % interval", "updates"),
    *("a needed", "a measured", "95 % interval", "z", "alpha", "why"),
)


def _layers(study: "DecayResult") -> tuple[list[list[str]], list[int]]:
    cells, sections = [], []
    for place, rows in study.by_layer().items():
        if not cells or cells[-1][:2] != list(place[:2]):
            sections.append(len(cells))
        weight, feature = rows["weight"], rows["feature"]
        span = "both " + str(weight.predicted)
        if weight.predicted != weight.coherent:
            span = f"{weight.predicted} .. {weight.coherent}"
        alignment = rows.get("alignment")
        cells.append(
            [
                *place,
                *(span, *_measured(weight.measured), weight.verdict),
                *(["-"] * 3 if alignment is None else [str(alignment.predicted), *_measured(alignment.measured)]),
                _measured(feature.measured)[0],
                _measured(rows["alpha"].measured)[0] if "alpha" in rows else "-",
                _why(weight, feature),
            ]
        )
    return cells, sections


def _why(*rows: "Row") -> str:
    return "; ".join(dict.fromkeys(row.reason for row in rows if row.reason))


def _measured(measured: "Slope") -> tuple[str, str]:
    value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
    return value, "-" if measured.low != measured.low else f"{measured.low:+.3f} .. {measured.high:+.3f}"


def _losses(study: "DecayResult") -> tuple[list[list[str]], Sequence[int]]:
    cells = []
    for (convention, scheme), networks in study.settings().items():
        shown = []
        for network in networks:
            there = all(network.at_equilibrium(layer) for layer in network.kinds)
            shown.append(f"{network.held_out.mean():.4f}{' ' if there else '*'}")
        cells.append([convention, scheme, *shown])
    return cells, ()
