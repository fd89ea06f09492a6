"""`verify phase`: over a plane of learning-rate exponents, which changes stay finite, grow or vanish with the width."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import check_positive
from verify.commands.options import read_corpus, read_numbers
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE, Run, carry_out, command

if TYPE_CHECKING:
    from verify.studies.study import Unit


@dataclass(frozen=True)
class PhaseOptions:
    """Train a few steps at a plane of rate exponents: where features and logits are stable, diverge or freeze."""

    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adam, sgd, lion, muon, ...")] = "adam"
    parameterization: shared.SchemeOption = "sp"
    c_hidden: Annotated[
        str | None, typer.Option(help="Exponents such as 0,1/4,1/2.  [default: prescription +-1 in quarters]")
    ] = None
    c_readout: Annotated[str | None, typer.Option(help="Likewise; write --c-readout=-1/2,0 where one is negative.")] = (
        None
    )
    c_embedding: Annotated[str | None, typer.Option(help="One exponent.  [default: the prescription]")] = None
    widths: shared.WidthsOption = "64,128,256,512"
    base_width: Annotated[int | None, typer.Option(help="Where every rate is the base rate.  [default: the first]")] = (
        None
    )
    base_rate: shared.UsualRateOption = None
    seeds: Annotated[int, typer.Option(help="Networks per point and width.")] = 2
    steps: Annotated[int, typer.Option(help="Training steps; measured after the first and the last.")] = 10
    batch: Annotated[int, typer.Option(help="Examples per training step.")] = 128
    context: shared.ContextOption = 8
    depth: shared.DepthOption = 2
    corpus: shared.CorpusOption = None
    vocab: shared.VocabOption = 16
    processes: shared.ProcessesOption = None
    part: shared.PartOption = WHOLE
    out: shared.OutOption = Path("phase")
    output_format: shared.FormatOption = "table"


def run(given: PhaseOptions) -> None:
    """Train and answer."""
    from derive.parsing import parse_number
    from derive.solve import prescribe
    from verify.studies.phase.kept import PHASE
    from verify.studies.phase.plane import Conditions, grid, read_exponents
    from verify.studies.phase.study import usual_rate
    from verify.studies.study import check_widths

    check_positive(base_width=given.base_width, base_rate=given.base_rate, seeds=given.seeds, steps=given.steps)
    check_positive(batch=given.batch, context=given.context, depth=given.depth)
    growing = read_numbers("--widths", given.widths, int, "64,128,256,512")
    check_widths(growing)
    rate = given.base_rate or usual_rate(given.optimizer)
    prescribed = prescribe(given.optimizer, given.parameterization, hidden_layers=given.depth)
    embedding, hidden, readout = prescribed.c[0], prescribed.c[1], prescribed.c[-1]
    own = given.c_embedding
    text = read_corpus(given.corpus, given.vocab)
    conditions = Conditions(
        optimizer=prescribed.optimizer_name,
        parameterization=prescribed.problem.parameterization.name,
        c_embedding=str(embedding if own is None else parse_number(own, "--c-embedding")),
        points=grid(
            read_exponents("--c-hidden", given.c_hidden, hidden),
            read_exponents("--c-readout", given.c_readout, readout),
            (str(hidden), str(readout)),
        ),
        seeds=given.seeds,
        steps=given.steps,
        base_width=given.base_width or growing[0],
        base_rate=rate,
        batch=given.batch,
        context=given.context,
        hidden_layers=given.depth,
        corpus=f"{text.name} {text.fingerprint}",
    )
    wanted: dict[Unit, Conditions] = {(width,): conditions for width in growing}
    carry_out(PHASE, wanted, Run.of(given, text, given.processes), lambda _: len(conditions.points))


phase = command(PhaseOptions, run, "phase")
