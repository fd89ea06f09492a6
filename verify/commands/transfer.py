"""`verify transfer` and what goes with it: sweeps of the base rate over widths, stored as they go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

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
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.sweeps.records import Setting

TRIALS = "constants.sqlite"
SMALLEST_RATE = 1e-12
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
            "following alignments measured after steps 1, 3, 9, ...  [default: global,full]"
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp",
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "64,128,256",
    base_width: Annotated[int | None, typer.Option(help="Where all settings agree.  [default: the first]")] = None,
    rates: Annotated[int, typer.Option(help="Base rates to begin with, an octave apart.")] = 9,
    base_rate: Annotated[
        str | None, typer.Option(help="The middle one: 0.01, or adam=0.01,sgd=0.2.  [default: by optimizer]")
    ] = None,
    halvings: Annotated[int, typer.Option(help="How often to halve the spacing around the best.", min=0, max=6)] = 1,
    seeds: Annotated[int, typer.Option(help="Networks per rate.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 100,
    batch: Annotated[int | None, typer.Option(help="Examples per step.  [default: 256; transformer 16]")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens read at once.  [default: 8; transformer 64]")] = None,
    depth: Annotated[int, typer.Option(help="Hidden layers, or blocks of the transformer.")] = 2,
    head_dimension: Annotated[
        int | None, typer.Option(help="Of the transformer, at every width.  [default: 32]")
    ] = None,
    evaluation: Annotated[
        int | None, typer.Option(help="Held-out windows for the final loss.  [default: 2048; transformer 128]")
    ] = None,
    constants: Annotated[
        str | None, typer.Option(help="Factors on embedding, hidden and readout rates: 5.3,1.26,11.7")
    ] = None,
    tune_constants: Annotated[int | None, typer.Option(help="Find such factors by N random trials.")] = None,
    clip_global_norm: Annotated[float | None, typer.Option(help="Clip the whole gradient's norm there.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="epsilon at the base width.  [default: by optimizer]")] = None,
    weight_decay: Annotated[float, typer.Option(help="lambda at the base width.", min=0)] = 0.0,
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent",
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
    from verify.studies.study import check_widths
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.text import as_json, table
    from verify.sweeps.driver import Driver, Grid, check_trains
    from verify.sweeps.records import Conditions
    from verify.sweeps.search import Search
    from verify.sweeps.settings import UNTUNED, check_effect, prescribed
    from verify.sweeps.storage.export import STORE
    from verify.sweeps.storage.store import Store

    model = read_choice("model", model, tuple(SIZES))
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
    check_positive(rates=rates, seeds=seeds, steps=steps, base_width=base_width, batch=batch, context=context)
    check_positive(depth=depth, head_dimension=head_dimension, evaluation=evaluation, tune_constants=tune_constants)
    check_positive(clip_global_norm=clip_global_norm, epsilon=epsilon, processes=processes)
    check_positive(weight_decay=weight_decay or None)
    if head_dimension and model != "transformer":
        raise DeriveError(
            f"--head-dimension {head_dimension} goes with --model transformer; give both, or leave it out"
        )
    growing = read_numbers("--widths", widths, int, "128,256,512")
    check_widths(growing)
    factors = UNTUNED if constants is None else _constants(constants)
    if tune_constants and (constants or part != "1/1"):
        raise DeriveError(
            "--tune-constants goes with neither --constants nor --part; tune first, then give --constants"
        )
    clips, layers = clip_global_norm is not None, depth if model == "mlp" else None
    settings = tuple(
        prescribed(name, scheme, assumed, clip=clips, constants=factors, hidden_layers=layers, decay=convention)
        for name in split_values(optimizer, ["adam"])
        for scheme in split_values(parameterization, ["sp", "mup"])
        for assumed in split_values(alignment, ["global", "full"])
    )
    for each in settings:
        check_effect(each, epsilon=epsilon is not None)
    for note in dict.fromkeys(note for each in settings for note in each.prescription.notes):
        write_error(f"note: {note}")
    text = read_corpus(corpus, vocab)
    usual = SIZES[model]
    lengths = {"vocabulary": text.vocabulary, "context": context or usual["context"], DEPTH[model]: depth}
    conditions = Conditions(
        model=model,
        sizes=lengths | ({"head_dimension": head_dimension} if head_dimension else {}),
        base_width=base_width or growing[0],
        steps=steps,
        batch=batch or usual["batch"],
        evaluation=evaluation or usual["evaluation"],
        corpus=f"{text.name} {text.fingerprint}",
        code=code_version(),
        epsilon=epsilon,
        weight_decay=weight_decay,
        clip=clip_global_norm,
        dtype=precision,
    )
    centres = _base_rates(base_rate, [each.setting for each in settings])
    searches = {name: Search(centre, rates, halvings) for name, centre in centres.items()}
    grid = Grid(settings, tuple(growing), tuple(range(seeds)), searches, train_equivalents, _share(part))
    check_trains(conditions, [each.setting for each in settings], growing, text)
    make_folder(out)
    chosen = _engine(engine, address, processes, text, corpus, vocab)
    try:
        with Progress("training", len(settings) * len(growing) * rates * seeds) as bar:

            def driver(store: Store) -> Driver:
                return Driver(store, chosen, conditions, grid.seeds, _at_once(conditions, seeds), bar.advance)

            if tune_constants:
                with Store(out / TRIALS, conditions) as store:
                    grid = grid.tuned(driver(store), tune_constants, write_error)
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


def _share(text: str) -> tuple[int, int]:
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise DeriveError(f"--part {shorten(text)} is not a share; write 3/16 for the third of sixteen")
    return int(first) - 1, int(last)


def _base_rates(text: str | None, settings: "Sequence[Setting]") -> dict[str, float]:
    """The middle of the rates by optimizer: one number for all, or adam=0.01,sgd=0.2, or what suits the models here."""
    from verify.training.rules.transforms import base_rate

    optimizers = list(dict.fromkeys(setting.optimizer for setting in settings))
    if text is not None:
        given = _named_rates(text)
        values = read_numbers("--base-rate", ",".join(given.values()), float, "0.01, or adam=0.01,sgd=0.2")
        if not all(SMALLEST_RATE <= value <= 1 / SMALLEST_RATE for value in values):
            raise DeriveError(f"--base-rate {shorten(text)} is not allowed; give numbers from 1e-12 to 1e12")
        rates = dict(zip(given, values, strict=True))
        if set(rates) == {""}:
            return dict.fromkeys(optimizers, rates[""])
        if set(rates) != set(optimizers):
            raise DeriveError(
                f"--base-rate {shorten(text)} does not name the optimizers {', '.join(optimizers)}; give one number "
                "for all, or one for each such as adam=0.01,sgd=0.2"
            )
        return rates
    hidden = {s.optimizer: next(each.rule for each in s.layers if each.label.startswith("hidden")) for s in settings}
    # These are safe; the best ones are somewhat above them.
    return {name: 4 * base_rate(rule) for name, rule in hidden.items()}


def _named_rates(text: str) -> dict[str, str]:
    """The rates as text by the optimizer's name, "" where there is none; names may have commas and = of their own."""
    from derive.parsing import split_outside
    from derive.registry import joined, optimizers

    rates, name = {}, ""
    for part in split_outside(text, "--base-rate"):
        before, equals, value = part.rpartition("=")
        if not _is_number(value):
            name += f"{part},"
            continue
        rates[joined(optimizers(f"{name}{before}")) if equals else ""] = value
        name = ""
    return rates | ({name: name} if name else {})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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


SalvageOption = Annotated[
    bool, typer.Option("--salvage", help="Read what is sound of a damaged study, and say what is left out.")
]


@contextmanager
def salvaging(wanted: bool) -> Iterator[list[str] | None]:
    """A list for what is damaged, which is said once reading is over; None where damage is to be refused."""
    left_out: list[str] | None = [] if wanted else None
    yield left_out
    for each in left_out or ():
        write_error(f"left out: {each}")


def status(
    study: Annotated[Path, typer.Argument(help="The study's folder, or its store.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
    salvage: SalvageOption = False,
) -> None:
    """Show what a study has done so far: runs and the best loss of every setting at every width."""
    from rich.console import Console
    from rich.live import Live

    from verify.studies.transfer.text import progress_table
    from verify.sweeps.storage.export import load

    if not watch:
        with salvaging(salvage) as left_out:
            write_out(wrapped(progress_table(load(study, left_out))))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(progress_table(load(study, [] if salvage else None)), refresh=True)
            sleep(WATCH_SECONDS)


def report(
    study: Annotated[Path, typer.Argument(help="The study's folder, its store, or an export of it.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, pictures, runs.csv and transfer.json.")],
    salvage: SalvageOption = False,
) -> None:
    """Write a study as one self-contained page with its pictures, and as CSV and JSON."""
    from derive.emit import dump
    from verify.checksums import sealed
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.report import write_report
    from verify.studies.transfer.text import as_json
    from verify.sweeps.storage.export import DESCRIPTION, export, load

    with salvaging(salvage) as left_out:
        found = load(study, left_out)
    if (out / DESCRIPTION).exists():
        raise DeriveError(f"--out {shorten(str(out))} already holds a report; give another folder, or move that one")
    make_folder(out)
    files = write_report(found, out)
    export(found, out)
    (out / "transfer.json").write_text(dump(sealed(as_json(found, analyse(found)))), encoding="utf-8")
    names = [*(path.name for path in files), "runs.csv", "study.json", "transfer.json"]
    write_out(wrapped(f"written to {out}: {', '.join(names)}\n"))


def merge(
    target: Annotated[Path, typer.Argument(help="The new store, such as study/study.sqlite.")],
    stores: Annotated[list[Path], typer.Argument(help="The stores of the parts.")],
    salvage: SalvageOption = False,
) -> None:
    """Unite the stores of job array tasks in one; a store of an earlier version, or what is sound of a damaged one."""
    from verify.sweeps.storage.store import merge as unite

    make_folder(target.parent)
    with salvaging(salvage) as left_out:
        unite(target, stores, left_out)
    write_out(f"written to {target}\n")
