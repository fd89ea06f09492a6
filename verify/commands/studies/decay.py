"""`verify decay`: weights, features and loss where decay and updates are in balance, under each convention of decay."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive
from verify.commands.options import read_corpus, read_numbers, split_values, write_error
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE, Run, carry_out, command

PACE = 0.01
"""eta lambda at the base width, unless given: a memory of 100 steps, long beside the ten of Adam's momentum."""


@dataclass(frozen=True)
class DecayOptions:
    """Train until decay and updates are in balance: how weights, alignments, features and loss go with the width."""

    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adamw, lion, sgd, muon, ...")] = "adamw"
    parameterization: Annotated[list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: sp,mup]")] = None
    decay: Annotated[
        list[str] | None, typer.Option(help="independent, sqrt, constant, n^-1, ...  [default: the first three]")
    ] = None
    weight_decay: Annotated[
        float | None, typer.Option(help="lambda at the base width.  [default: rate x lambda = 0.01]")
    ] = None
    base_rate: shared.UsualRateOption = None
    widths: shared.WidthsOption = "64,128,256,512"
    base_width: Annotated[int | None, typer.Option(help="Where all conventions agree.  [default: the first]")] = None
    seeds: shared.SeedsOption = 3
    steps: Annotated[
        int | None, typer.Option(help="Training steps.  [default: 4 / (rate x lambda) of the slowest layer]")
    ] = None
    batch: shared.BatchOption = 128
    context: shared.ContextOption = 8
    depth: shared.DepthOption = 2
    evaluation: shared.EvaluationOption = 2048
    corpus: shared.CorpusOption = None
    vocab: shared.VocabOption = 16
    processes: shared.ProcessesOption = None
    part: shared.PartOption = WHOLE
    out: shared.OutOption = Path("decay")
    output_format: shared.FormatOption = "table"


def run(given: DecayOptions) -> None:
    """Train and answer."""
    from derive.decays import DECAYS, read_decay
    from verify.studies.decay.conditions import Conditions, prescription
    from verify.studies.decay.results import DECAY, unit
    from verify.studies.decay.study import steps_needed, usual_rate
    from verify.studies.decay.theory import MARKS
    from verify.studies.study import check_widths

    check_positive(weight_decay=given.weight_decay, base_rate=given.base_rate, base_width=given.base_width)
    check_positive(seeds=given.seeds, batch=given.batch, context=given.context, depth=given.depth)
    check_positive(evaluation=given.evaluation)
    if given.steps is not None and given.steps < MARKS:
        raise DeriveError(
            f"--steps {given.steps} is too few; weights are measured {MARKS} times, give at least that many"
        )
    growing = read_numbers("--widths", given.widths, int, "64,128,256,512")
    check_widths(growing)
    conventions = list(dict.fromkeys(map(read_decay, split_values(given.decay, [*DECAYS]))))
    schemes = split_values(given.parameterization, ["sp", "mup"])
    usual, base = usual_rate(given.optimizer), given.base_width or growing[0]
    rate = given.base_rate or usual
    strength = given.weight_decay or PACE / rate
    prescribed = [prescription(given.optimizer, scheme, convention) for convention in conventions for scheme in schemes]
    enough = steps_needed(prescribed, rate, strength, [width / base for width in growing])
    if given.steps is not None and given.steps < enough:
        write_error(f"note: the slowest layer needs {enough} steps to forget its start; {given.steps} given")
    text = read_corpus(given.corpus, given.vocab)
    conditions = Conditions(
        optimizer=prescribed[0].optimizer_name,
        base_width=base,
        base_rate=rate,
        weight_decay=strength,
        seeds=given.seeds,
        steps=given.steps or enough,
        batch=given.batch,
        context=given.context,
        hidden_layers=given.depth,
        evaluation=given.evaluation,
        corpus=f"{text.name} {text.fingerprint}",
    )
    wanted = {unit(each, width): conditions for width in growing for each in prescribed}
    carry_out(DECAY, wanted, Run.of(given, text, given.processes), lambda _: conditions.steps)


decay = command(DecayOptions, run, "decay")
