"""The options of `verify transfer`, and which of them do not go together."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import DECAY_HELP
from verify.commands.options import read_choice, read_numbers
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE

DTYPES = ("float32", "bfloat16")
OF_TRANSFORMERS = ("head_dimension", "zero_init")


@dataclass(frozen=True)
class TransferOptions:
    """Train networks over base rates and widths: does the best rate transfer, and what does each prescription cost."""

    optimizer: Annotated[list[str] | None, typer.Option(help="One or several: sgd,adam.  [default: adam]")] = None
    parameterization: Annotated[
        list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: sp,mup; grid mup]")
    ] = None
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="full, none, prior, ... as in derive; global, one raw rate everywhere; or measured-online, the rates "
            "following alignments measured after steps 1, 3, 9, ...  Along depth, how blocks add up: full, none or "
            "global; along the batch, rule or global.  [default: global,full]"
        ),
    ] = None
    axis: Annotated[
        str, typer.Option(help="What grows: width; depth, of a residual stream; or batch. The others stay.")
    ] = "width"
    model: Annotated[str | None, typer.Option(help="mlp or transformer.  [default: mlp; along depth transformer]")] = (
        None
    )
    widths: Annotated[
        str | None,
        typer.Option(
            help="Growing widths; along depth one, or a grid of both; along the batch one.  [default: 64,128,256; 64]"
        ),
    ] = None
    base_width: Annotated[int | None, typer.Option(help="Where all settings agree.  [default: the first]")] = None
    depths: Annotated[str | None, typer.Option(help="Of --axis depth.  [default: 2,4,8,16,32]")] = None
    residual: Annotated[
        list[str] | None,
        typer.Option(
            help="Of --axis depth, how branches enter the stream, as in derive: 0, 1/2, 1, depth-mup, completep, init."
            "  [default: depth-mup]"
        ),
    ] = None
    base_depth: Annotated[
        int | None, typer.Option(help="Where all settings agree along --axis depth.  [default: the first]")
    ] = None
    batches: Annotated[str | None, typer.Option(help="Of --axis batch.  [default: 16,64,256,1024]")] = None
    base_batch: Annotated[
        int | None, typer.Option(help="Where all settings agree along --axis batch.  [default: the first]")
    ] = None
    hold: Annotated[
        str | None,
        typer.Option(
            help="What sizes have alike: along --axis batch tokens, so that larger batches take fewer steps, or steps; "
            "along the width steps, or ratio, of tokens to hidden parameters: steps grow as n^2.  [default: tokens; "
            "steps]"
        ),
    ] = None
    horizon: Annotated[
        str | None,
        typer.Option(
            help="With --hold steps, what more tokens do to rates, as in derive: none or sde.  [default: none]"
        ),
    ] = None
    rates: Annotated[int, typer.Option(help="Base rates to begin with, an octave apart.")] = 9
    base_rate: Annotated[
        str | None, typer.Option(help="The middle one: 0.01, or adam=0.01,sgd=0.2.  [default: by optimizer]")
    ] = None
    halvings: Annotated[int, typer.Option(help="How often to halve the spacing around the best.", min=0, max=6)] = 1
    seeds: Annotated[int, typer.Option(help="Networks per rate.")] = 3
    steps: Annotated[str, typer.Option(help="Training steps; several numbers for as many horizons: 150,1500.")] = "100"
    schedule: Annotated[
        str, typer.Option(help="Of the rate: constant, cosine or wsd, or cosine:0.05 with the share that warms up.")
    ] = "constant"
    stop_above: Annotated[
        float | None, typer.Option(help="Try no rate above one that ends this many times above the best loss: 1.2.")
    ] = None
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Use every window of text once before any is used again.")
    ] = False
    batch: Annotated[int | None, typer.Option(help="Examples per step.  [default: 256; transformer 16]")] = None
    context: Annotated[int | None, typer.Option(help="Tokens read at once.  [default: 8; transformer 64]")] = None
    depth: Annotated[int | None, typer.Option(help="Hidden layers, or blocks of the transformer.  [default: 2]")] = None
    head_dimension: Annotated[int | None, typer.Option(help="Of the transformer, at every width.  [default: 32]")] = (
        None
    )
    evaluation: Annotated[
        int | None, typer.Option(help="Held-out windows for the final loss.  [default: 2048; transformer 128]")
    ] = None
    constants: Annotated[
        str | None, typer.Option(help="Factors on embedding, hidden and readout rates: 5.3,1.26,11.7")
    ] = None
    tune_constants: Annotated[int | None, typer.Option(help="Find such factors by N trials at the base width.")] = None
    clip_global_norm: Annotated[float | None, typer.Option(help="Clip the whole gradient's norm there.")] = None
    epsilon: Annotated[
        str | None, typer.Option(help="epsilon at the base width, or several: 1e-3,1e-5.  [default: by optimizer]")
    ] = None
    epsilon_rule: Annotated[
        list[str] | None, typer.Option(help="At larger sizes: scaled per layer, or constant, or both.")
    ] = None
    weight_decay: Annotated[float, typer.Option(help="lambda at the base width.", min=0)] = 0.0
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent"
    zero_init: Annotated[
        bool, typer.Option("--zero-init", help="Queries and readout of the transformer start at 0.")
    ] = False
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 with parameters in float32.")] = "float32"
    train_equivalents: Annotated[
        bool,
        typer.Option(
            "--train-equivalents", help="Train also what differs by a shift that is proved to change nothing."
        ),
    ] = False
    corpus: shared.CorpusOption = None
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards.")] = None
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local"
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None
    processes: shared.WorkersOption = None
    part: shared.PartOption = WHOLE
    out: shared.OutOption = Path("transfer")
    output_format: shared.FormatOption = "table"


def checked(given: TransferOptions) -> TransferOptions:
    """The options with their names as they are spelled here; DeriveError for those that are not allowed."""
    from derive.decays import read_decay

    named = replace(
        given,
        output_format=read_choice("--format", given.output_format, ("table", "json")),
        engine=read_choice("engine", given.engine, ("local", "ray")),
        decay=read_decay(given.decay),
        dtype=read_choice("--dtype", given.dtype, DTYPES),
    )
    if given.address is not None and named.engine == "local":
        raise DeriveError(f"--address {shorten(given.address)} goes with --engine ray; give both, or leave it out")
    if given.processes is not None and named.engine == "ray":
        raise DeriveError(
            f"--processes {given.processes} goes with --engine local; Ray counts the cores of its cluster itself"
        )
    check_positive(rates=given.rates, seeds=given.seeds, base_width=given.base_width, batch=given.batch)
    check_positive(context=given.context, base_depth=given.base_depth, base_batch=given.base_batch, depth=given.depth)
    check_positive(head_dimension=given.head_dimension, evaluation=given.evaluation)
    check_positive(tune_constants=given.tune_constants, clip_global_norm=given.clip_global_norm)
    check_positive(processes=given.processes, weight_decay=given.weight_decay or None)
    return named


def check_goes_with(given: TransferOptions, model: str) -> None:
    """DeriveError for options that do not go with the model, with each other, or with anything."""
    for name in OF_TRANSFORMERS:
        if getattr(given, name) and model != "transformer":
            option = name.replace("_", "-")
            raise DeriveError(f"--{option} goes with --model transformer; give both, or leave it out")
    if given.stop_above is not None and not 1 < given.stop_above < float("inf"):
        raise DeriveError(f"--stop-above {given.stop_above:g} is not allowed; give a number above 1, such as 1.2")
    if given.tune_constants and (given.constants or given.part != WHOLE):
        raise DeriveError(
            "--tune-constants goes with neither --constants nor --part; tune first, then give --constants"
        )


def read_constants(text: str) -> tuple[float, float, float]:
    """Factors on embedding, hidden and readout rates; DeriveError unless they are three positive numbers."""
    values = read_numbers("--constants", text, float, "5.3,1.26,11.7")
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise DeriveError(
            f"--constants {shorten(text)} is not allowed; give three numbers above 0, such as 5.3,1.26,11.7"
        )
    return (values[0], values[1], values[2])


def read_horizons(text: str) -> list[int]:
    """Growing numbers of steps, several horizons of the same runs; DeriveError otherwise."""
    numbers = read_numbers("--steps", text, int, "150,1500")
    if numbers[0] < 1 or any(later <= earlier for earlier, later in pairwise(numbers)):
        raise DeriveError(f"--steps {shorten(text)} is not allowed; give growing numbers from 1, such as 150,1500")
    return numbers
