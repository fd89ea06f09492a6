"""`verify transfer`: sweeps of the base rate over widths and horizons, stored as they go."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import DECAY_HELP
from derive.terminal import wrapped
from verify.commands.options import (
    read_choice,
    read_corpus,
    read_numbers,
    split_values,
    write_error,
    write_out,
)
from verify.commands.progress import Progress
from verify.commands.studies.transfer_axes import Axes, read_along
from verify.commands.studies.transfer_rates import read_base_rates, read_epsilons
from verify.files import make_folder

TRIALS, CONSTANTS = "constants.sqlite", "constants.json"
WATCH_SECONDS = 2
DTYPES = ("float32", "bfloat16")
SIZES = {
    "mlp": {"batch": 256, "context": 8, "evaluation": 2048},
    "transformer": {"batch": 16, "context": 64, "evaluation": 128},
}
DEPTH = {"mlp": "hidden_layers", "transformer": "blocks"}


def transfer(
    optimizer: Annotated[list[str] | None, typer.Option(help="One or several: sgd,adam.  [default: adam]")] = None,
    parameterization: Annotated[list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: sp,mup]")] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="full, none, prior, ... as in derive; global, one raw rate everywhere; or measured-online, the rates "
            "following alignments measured after steps 1, 3, 9, ...  Along depth, how blocks add up: full, none or "
            "global; along the batch, rule or global.  [default: global,full]"
        ),
    ] = None,
    axis: Annotated[
        str, typer.Option(help="What grows: width; depth, of a residual stream; or batch. The others stay.")
    ] = "width",
    model: Annotated[
        str | None, typer.Option(help="mlp or transformer.  [default: mlp; along depth transformer]")
    ] = None,
    widths: Annotated[
        str | None, typer.Option(help="Growing widths; one along other axes.  [default: 64,128,256; 64]")
    ] = None,
    base_width: Annotated[int | None, typer.Option(help="Where all settings agree.  [default: the first]")] = None,
    depths: Annotated[str | None, typer.Option(help="Of --axis depth.  [default: 2,4,8,16,32]")] = None,
    residual: Annotated[
        list[str] | None,
        typer.Option(
            help="Of --axis depth, how branches enter the stream, as in derive: 0, 1/2, 1, depth-mup, completep, init."
            "  [default: depth-mup]"
        ),
    ] = None,
    base_depth: Annotated[
        int | None, typer.Option(help="Where all settings agree along --axis depth.  [default: the first]")
    ] = None,
    batches: Annotated[str | None, typer.Option(help="Of --axis batch.  [default: 16,64,256,1024]")] = None,
    base_batch: Annotated[
        int | None, typer.Option(help="Where all settings agree along --axis batch.  [default: the first]")
    ] = None,
    hold: Annotated[
        str | None,
        typer.Option(
            help="What sizes have alike: along --axis batch tokens, so that larger batches take fewer steps, or steps; "
            "along the width steps, or ratio, of tokens to hidden parameters: steps grow as n^2.  [default: tokens; "
            "steps]"
        ),
    ] = None,
    horizon: Annotated[
        str | None,
        typer.Option(
            help="With --hold steps, what more tokens do to rates, as in derive: none or sde.  [default: none]"
        ),
    ] = None,
    rates: Annotated[int, typer.Option(help="Base rates to begin with, an octave apart.")] = 9,
    base_rate: Annotated[
        str | None, typer.Option(help="The middle one: 0.01, or adam=0.01,sgd=0.2.  [default: by optimizer]")
    ] = None,
    halvings: Annotated[int, typer.Option(help="How often to halve the spacing around the best.", min=0, max=6)] = 1,
    seeds: Annotated[int, typer.Option(help="Networks per rate.")] = 3,
    steps: Annotated[str, typer.Option(help="Training steps; several numbers for as many horizons: 150,1500.")] = "100",
    schedule: Annotated[
        str, typer.Option(help="Of the rate: constant, cosine or wsd, or cosine:0.05 with the share that warms up.")
    ] = "constant",
    stop_above: Annotated[
        float | None, typer.Option(help="Try no rate above one that ends this many times above the best loss: 1.2.")
    ] = None,
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Use every window of text once before any is used again.")
    ] = False,
    batch: Annotated[int | None, typer.Option(help="Examples per step.  [default: 256; transformer 16]")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens read at once.  [default: 8; transformer 64]")] = None,
    depth: Annotated[
        int | None, typer.Option(help="Hidden layers, or blocks of the transformer.  [default: 2]")
    ] = None,
    head_dimension: Annotated[
        int | None, typer.Option(help="Of the transformer, at every width.  [default: 32]")
    ] = None,
    evaluation: Annotated[
        int | None, typer.Option(help="Held-out windows for the final loss.  [default: 2048; transformer 128]")
    ] = None,
    constants: Annotated[
        str | None, typer.Option(help="Factors on embedding, hidden and readout rates: 5.3,1.26,11.7")
    ] = None,
    tune_constants: Annotated[int | None, typer.Option(help="Find such factors by N trials at the base width.")] = None,
    clip_global_norm: Annotated[float | None, typer.Option(help="Clip the whole gradient's norm there.")] = None,
    epsilon: Annotated[
        str | None, typer.Option(help="epsilon at the base width, or several: 1e-3,1e-5.  [default: by optimizer]")
    ] = None,
    epsilon_rule: Annotated[
        list[str] | None, typer.Option(help="At larger sizes: scaled per layer, or constant, or both.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="lambda at the base width.", min=0)] = 0.0,
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent",
    zero_init: Annotated[
        bool, typer.Option("--zero-init", help="Queries and readout of the transformer start at 0.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 with parameters in float32.")] = "float32",
    train_equivalents: Annotated[
        bool,
        typer.Option(
            "--train-equivalents", help="Train also what differs by a shift that is proved to change nothing."
        ),
    ] = False,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards.")] = None,
    engine: Annotated[str, typer.Option(help="local or ray.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Workers on this machine.  [default: one per core; 1 with an accelerator]")
    ] = None,
    part: Annotated[str, typer.Option(help="Only that share of the work, such as 3/16, for job arrays.")] = "1/1",
    out: Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")] = Path("transfer"),
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train networks over base rates and widths: does the best rate transfer, and what does each prescription cost."""
    from derive.decays import read_decay
    from derive.emit import dump
    from verify.provenance import code_version
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.text import as_json, table
    from verify.sweeps.constants import tuned
    from verify.sweeps.driver import Driver, Grid, check_trains
    from verify.sweeps.records import Conditions
    from verify.sweeps.search import Search
    from verify.sweeps.settings.named import UNTUNED, at_horizons, check_effect, check_starts
    from verify.sweeps.storage.export import STORE
    from verify.sweeps.storage.store import Store
    from verify.training.schedules import read_schedule

    shown = read_choice("--format", output_format, ("table", "json"))
    engine = read_choice("engine", engine, ("local", "ray"))
    convention = read_decay(decay)
    precision = read_choice("--dtype", dtype, DTYPES)
    if address is not None and engine == "local":
        raise DeriveError(f"--address {shorten(address)} goes with --engine ray; give both, or leave it out")
    if processes is not None and engine == "ray":
        raise DeriveError(
            f"--processes {processes} goes with --engine local; Ray counts the cores of its cluster itself"
        )
    check_positive(rates=rates, seeds=seeds, base_width=base_width, batch=batch, context=context)
    check_positive(base_depth=base_depth, base_batch=base_batch)
    check_positive(depth=depth, head_dimension=head_dimension, evaluation=evaluation, tune_constants=tune_constants)
    check_positive(clip_global_norm=clip_global_norm, processes=processes)
    check_positive(weight_decay=weight_decay or None)
    along = read_along(
        Axes(
            axis,
            model,
            widths,
            parameterization,
            alignment,
            base_width,
            depth,
            depths,
            residual,
            base_depth,
            batch,
            batches,
            base_batch,
            hold,
            horizon,
        )
    )
    model = along.model
    for option, value in (("--head-dimension", head_dimension), ("--zero-init", zero_init or None)):
        if value and model != "transformer":
            raise DeriveError(f"{option} goes with --model transformer; give both, or leave it out")
    horizons, factor = _horizons(steps), read_schedule(schedule)
    if stop_above is not None and not 1 < stop_above < float("inf"):
        raise DeriveError(f"--stop-above {stop_above:g} is not allowed; give a number above 1, such as 1.2")
    along.check_steps(horizons)
    factors = UNTUNED if constants is None else _constants(constants)
    if tune_constants and (constants or part != "1/1"):
        raise DeriveError(
            "--tune-constants goes with neither --constants nor --part; tune first, then give --constants"
        )
    settings = along.settings(split_values(optimizer, ["adam"]), factors, convention, clip_global_norm is not None)
    epsilons = read_epsilons(epsilon, epsilon_rule)
    check_effect(settings, epsilon=epsilons.given)
    for each in settings:
        check_starts(each, zero_init=zero_init)
    for note in dict.fromkeys(note for each in settings for note in each.prescription.notes):
        write_error(f"note: {note}")
    settings = at_horizons(epsilons.of(settings), horizons)
    text = read_corpus(corpus, vocab)
    usual = SIZES[model]
    lengths = {"vocabulary": text.vocabulary, "context": context or usual["context"]}
    lengths |= along.lengths(DEPTH[model])
    own = {"head_dimension": head_dimension or along.head_dimension, "zero_init": zero_init}
    conditions = Conditions(
        model=model,
        sizes=lengths | {name: size for name, size in own.items() if size},
        base_width=along.base,
        steps=horizons[0],
        batch=along.base if along.name == "batch" else batch or usual["batch"],
        evaluation=evaluation or usual["evaluation"],
        corpus=f"{text.name} {text.fingerprint}",
        code=code_version(),
        epsilon=epsilons.shared,
        weight_decay=weight_decay,
        clip=clip_global_norm,
        dtype=precision,
        schedule=factor.text,
        windows=text.windows(lengths["context"]) if disjoint else None,
        axis=along.name,
        held=along.held,
    )
    centres = read_base_rates(base_rate, [each.setting for each in settings])
    searches = {name: Search(centre, rates, halvings, stop=stop_above) for name, centre in centres.items()}
    grid = Grid(settings, along.sizes, tuple(range(seeds)), searches, train_equivalents, _share(part))
    check_trains(conditions, [each.setting for each in settings], along.sizes, text)
    make_folder(out)
    chosen = _engine(engine, address, processes, text, corpus, vocab)
    try:
        with Progress("training", len(settings) * len(along.sizes) * rates * seeds) as bar:

            def driver(store: Store) -> Driver:
                return Driver(store, chosen, conditions, grid.seeds, _at_once(conditions, seeds), bar.advance)

            if tune_constants:
                with Store(out / TRIALS, conditions) as store:
                    grid, found = tuned(grid, driver(store), tune_constants, write_error)
                kinds = [{"optimizer": name, "steps": horizon or horizons[0]} for name, horizon in found]
                rows = [kind | each.json() for kind, each in zip(kinds, found.values(), strict=True)]
                (out / CONSTANTS).write_text(dump({"schema": 1, "rows": rows}), encoding="utf-8")
            with Store(out / STORE, conditions) as store:
                grid.train(driver(store))
                study = store.study()
    except KeyboardInterrupt:
        write_error(f"interrupted; what is finished is in {out / STORE}, the same command goes on")
        raise
    finally:
        chosen.close()
    results = analyse(study)
    written = f"written to {out / STORE}\n"
    write_out(dump(as_json(study, results)) if shown == "json" else wrapped(table(study, results) + written))


def _constants(text: str) -> tuple[float, float, float]:
    values = read_numbers("--constants", text, float, "5.3,1.26,11.7")
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise DeriveError(
            f"--constants {shorten(text)} is not allowed; give three numbers above 0, such as 5.3,1.26,11.7"
        )
    return (values[0], values[1], values[2])


def _horizons(text: str) -> list[int]:
    numbers = read_numbers("--steps", text, int, "150,1500")
    if numbers[0] < 1 or any(later <= earlier for earlier, later in pairwise(numbers)):
        raise DeriveError(f"--steps {shorten(text)} is not allowed; give growing numbers from 1, such as 150,1500")
    return numbers


def _share(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise DeriveError(f"--part {shorten(text)} is not a share; write 3/16 for the third of sixteen")
    return int(first) - 1, int(last)


def _engine(
    name: str, address: str | None, processes: int | None, corpus: Any, path: Path | None, vocabulary: int | None
) -> Any:
    """The engine that was asked for: an accelerator is used by one process, a CPU by one process per core."""
    import jax

    from verify.sweeps.engines import InProcess, Processes, available_cores

    if name == "ray":
        from verify.sweeps.ray import Ray

        return Ray(address, corpus)
    count = processes or (available_cores() if jax.default_backend() == "cpu" else 1)
    return InProcess(corpus) if count == 1 else Processes(count, path, vocabulary, corpus.fingerprint)


def _at_once(conditions: Any, seeds: int) -> Callable[[Any, int], int]:
    from verify.sweeps.capacity import rates_at_once
    from verify.sweeps.loop import Structure

    return cache(lambda setting, width: rates_at_once(Structure.of(conditions, setting, width), seeds))
