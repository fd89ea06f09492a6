"""`verify updates`: every optimizer's update exponents, predicted and measured, in one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import check_positive
from verify.commands.options import read_corpus, read_numbers, split_values, write_error
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE, Run, carry_out, command
from verify.values import Document

if TYPE_CHECKING:
    from verify.studies.study import Unit


@dataclass(frozen=True)
class UpdatesOptions:
    """Train every optimizer at growing widths, and say which of the predicted exponents of its updates hold."""

    optimizer: Annotated[list[str] | None, typer.Option(help="all, or one or several: sgd,adam.  [default: all]")] = (
        None
    )
    parameterization: shared.SchemeOption = "sp"
    widths: shared.WidthsOption = "128,256,512,1024,2048"
    base_width: Annotated[int | None, typer.Option(help="Where the rate is the base rate.  [default: the first]")] = (
        None
    )
    seeds: shared.SeedsOption = 3
    steps: Annotated[int, typer.Option(help="Training steps; measured after the first and the last.")] = 10
    batch: Annotated[
        int,
        typer.Option(
            help="Examples per training step; an eighth of the smallest width, or less, make a gradient of fixed rank."
        ),
    ] = 256
    context: shared.ContextOption = 8
    depth: shared.DepthOption = 2
    corpus: shared.CorpusOption = None
    vocab: shared.VocabOption = 16
    processes: shared.ProcessesOption = None
    part: shared.PartOption = WHOLE
    out: shared.OutOption = Path("updates")
    output_format: shared.FormatOption = "table"


def run(given: UpdatesOptions) -> None:
    """Train and answer."""
    from verify.studies.study import check_widths
    from verify.studies.updates.conditions import Conditions
    from verify.studies.updates.results import UPDATES
    from verify.training.rules.directions import DIRECTIONS

    check_positive(seeds=given.seeds, steps=given.steps, base_width=given.base_width, batch=given.batch)
    check_positive(context=given.context, depth=given.depth)
    growing = read_numbers("--widths", given.widths, int, "128,256,512")
    check_widths(growing)
    text = read_corpus(given.corpus, given.vocab)
    names = split_values(given.optimizer, ["all"])
    common: Document = {
        "widths": tuple(growing),
        "seeds": given.seeds,
        "steps": given.steps,
        "base_width": given.base_width or growing[0],
        "batch": given.batch,
        "context": given.context,
        "hidden_layers": given.depth,
        "corpus": f"{text.name} {text.fingerprint}",
    }
    chosen = DIRECTIONS if names == ["all"] else names
    conditions = [Conditions.of(name, given.parameterization, **common) for name in chosen]
    note_fixed_dimensions(given.context * text.vocabulary, growing[0])
    wanted: dict[Unit, Conditions] = {(each.optimizer,): each for each in conditions}
    carry_out(UPDATES, wanted, Run.of(given, text, given.processes), lambda _: len(growing) * given.steps)


def note_fixed_dimensions(rows: int, width: int) -> None:
    """Say where an embedding has more rows than the smallest network units, which bends what goes with the larger."""
    if rows > width:
        write_error(
            f"note: the embedding has {rows} rows and the smallest width is {width}: what depends on max(fan_in, "
            "fan_out) or on a rank bends amid the widths; give --vocab 16, a smaller --context or larger --widths"
        )


updates = command(UpdatesOptions, run, "updates")
