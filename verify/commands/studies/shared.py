"""The options that several studies have, each declared once; a study says its own default."""

from pathlib import Path
from typing import Annotated

import typer

WidthsOption = Annotated[str, typer.Option(help="Growing widths.")]
SeedsOption = Annotated[int, typer.Option(help="Networks per width.")]
BatchOption = Annotated[int, typer.Option(help="Examples per step.")]
ContextOption = Annotated[int, typer.Option(help="Tokens read at once.")]
DepthOption = Annotated[int, typer.Option(help="Hidden layers.")]
EvaluationOption = Annotated[int, typer.Option(help="Held-out windows for the final loss.")]
SchemeOption = Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")]
UsualRateOption = Annotated[
    float | None, typer.Option(help="Learning rate at the base width.  [default: by optimizer]")
]
CorpusOption = Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")]
VocabOption = Annotated[
    int, typer.Option(help="16 reads text as half bytes, 256 as bytes; or the vocabulary of token shards.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--processes", help="Workers on this machine.  [default: one per core; 1 with an accelerator]"),
]
ProcessesOption = Annotated[
    int | None, typer.Option(help="Workers on this machine, a unit each.  [default: this process alone]")
]
PartOption = Annotated[str, typer.Option(help="Only that share of the work, such as 3/16, for job arrays.")]
OutOption = Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")]
FormatOption = Annotated[str, typer.Option("--format", help="table or json.")]
