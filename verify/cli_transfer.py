"""`verify transfer` and what goes with it: sweeps of the base rate over widths, stored as they go."""

from collections.abc import Callable
from datetime import datetime
from functools import cache
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import typer

from derive.errors import DeriveError, shorten
from verify.options import (
    Progress,
    check_positive,
    make_folder,
    read_choice,
    read_corpus,
    read_numbers,
    split_values,
    write_error,
    write_out,
)

STORE = "study.sqlite"
WATCH_SECONDS = 2
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
        typer.Option(help="full, none, prior, ... or global, one raw rate everywhere.  [default: global,full]"),
    ] = None,
    model: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp",
    widths: Annotated[str, typer.Option(help="Growing widths.")] = "64,128,256",
    base_width: Annotated[int | None, typer.Option(help="Where all settings agree.  [default: the first]")] = None,
    rates: Annotated[int, typer.Option(help="Base rates to begin with, an octave apart.")] = 9,
    base_rate: Annotated[float | None, typer.Option(help="The middle one.  [default: by optimizer]")] = None,
    halvings: Annotated[int, typer.Option(help="How often to halve the spacing around the best.", min=0, max=6)] = 1,
    seeds: Annotated[int, typer.Option(help="Networks per rate.")] = 2,
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
    train_equivalents: Annotated[
        bool, typer.Option("--train-equivalents", help="Train what is proved to train alike, too.")
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
    from verify.exponents import check_widths
    from verify.settings import UNTUNED, prescribed
    from verify.store import Store
    from verify.studies import Conditions
    from verify.sweep import Driver, Grid, code_version

    model = read_choice("model", model, tuple(SIZES))
    shown = read_choice("--format", output_format, ("table", "json"))
    engine = read_choice("engine", engine, ("local", "ray"))
    if address is not None and engine == "local":
        raise DeriveError(f"--address {shorten(address)} goes with --engine ray; give both, or leave it out")
    if processes is not None and engine == "ray":
        raise DeriveError(
            f"--processes {processes} goes with --engine local; Ray counts the cores of its cluster itself"
        )
    check_positive(rates=rates, seeds=seeds, steps=steps, base_width=base_width, base_rate=base_rate, batch=batch)
    check_positive(context=context, depth=depth, head_dimension=head_dimension, evaluation=evaluation)
    check_positive(tune_constants=tune_constants, clip_global_norm=clip_global_norm, epsilon=epsilon)
    check_positive(processes=processes)
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
    settings = tuple(
        prescribed(name, scheme, assumed, clip=clip_global_norm is not None, constants=factors)  # type: ignore[arg-type]
        for name in split_values(optimizer, ["adam"])
        for scheme in split_values(parameterization, ["sp", "mup"])
        for assumed in split_values(alignment, ["global", "full"])
    )
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
    )
    grid = Grid(
        settings,
        tuple(growing),
        tuple(range(seeds)),
        {each.setting.optimizer: _search(each.setting, rates, base_rate, halvings) for each in settings},
        train_equivalents,
        _share(part),
    )
    _check_models(conditions, grid)
    make_folder(out)
    with Store(out / STORE, conditions) as store:
        chosen = _engine(engine, address, processes, text, corpus, vocab)
        try:
            with Progress("training", len(settings) * len(growing) * rates * seeds) as bar:
                driver = Driver(store, chosen, conditions, grid.seeds, _at_once(conditions, seeds), bar.advance)
                if tune_constants:
                    grid = grid.tuned(driver, tune_constants, write_error)
                grid.train(driver)
        except KeyboardInterrupt:
            write_error(f"interrupted; what is finished is in {out / STORE}, the same command goes on")
            raise
        finally:
            chosen.close()
        study = store.study()
    _print(study, out, shown)


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


def _search(setting: Any, rates: int, base_rate: float | None, halvings: int) -> Any:
    from verify.optimizers import BASE_RATES
    from verify.search import Search

    hidden = next(layer.rule for layer in setting.layers if layer.label.startswith("hidden"))
    # BASE_RATES are safe; the best ones are somewhat above them.
    return Search(base_rate or 4 * BASE_RATES[hidden], rates, halvings)


def _check_models(conditions: Any, grid: Any) -> None:
    """Sizes that do not fit, and layers without a parameter, are errors before anything is trained."""
    from verify.batch import Loop, Structure

    for each in grid.settings:
        for width in grid.widths:
            Loop(Structure.of(conditions, each.setting, width))


def _engine(
    name: str, address: str | None, processes: int | None, corpus: Any, path: Path | None, vocabulary: int | None
) -> Any:
    """The engine that was asked for: an accelerator is used by one process, a CPU by one process per core."""
    import jax

    from verify.engines import InProcess, Processes, available_cores

    if name == "ray":
        from verify.engine_ray import Ray

        return Ray(address, corpus)
    count = processes or (available_cores() if jax.default_backend() == "cpu" else 1)
    return InProcess(corpus) if count == 1 else Processes(count, path, vocabulary)


def _at_once(conditions: Any, seeds: int) -> Callable[[Any, int], int]:
    from verify.batch import Structure
    from verify.capacity import rates_at_once

    return cache(lambda setting, width: rates_at_once(Structure.of(conditions, setting, width), seeds))


def _print(study: Any, out: Path, shown: str) -> None:
    from derive.emit import dump
    from verify.transfer import analyse

    results = analyse(study)
    write_out(
        dump(as_json(study, results)) if shown == "json" else table(study, results) + f"written to {out / STORE}\n"
    )


def as_json(study: Any, results: Any) -> dict[str, Any]:
    """The JSON contract of every verify command, with the study's conditions and one row per setting."""
    from dataclasses import asdict

    from verify.transfer import rows_json

    return {
        "schema": 1,
        "command": "transfer",
        "device": "; ".join(dict.fromkeys(record.device for record in study.records)),
        "corpus": study.conditions.corpus,
        "conditions": asdict(study.conditions),
        "runs": len(study.records),
        "rows": rows_json(results),
    }


def table(study: Any, results: Any) -> str:
    """One line per setting: drift of the best rate, best losses, and what transferring the smallest width's costs."""
    from derive.emit import terminal_table

    conditions = study.conditions
    rows, sections = [], []
    for index, each in enumerate(results):
        if not each.widths:
            continue
        if not index or results[index - 1].setting.optimizer != each.setting.optimizer:
            sections.append(len(rows))
        first, last = each.widths[0], each.widths[-1]
        rows.append(
            [
                each.setting.name,
                f"{first.best_rate:.3g}",
                f"{last.best_rate:.3g}",
                f"{each.drift.value:+.2f}",
                f"{each.drift.low:+.2f} .. {each.drift.high:+.2f}",
                f"{last.best_loss.value:.3f}",
                f"{last.lost.value:.3f}",
                str(sum(found.diverged for found in each.widths) or ""),
                f"= {each.trained_as}" if each.trained_as else "",
            ]
        )
    widths = sorted({record.width for record in study.records})
    columns = ["setting", f"best rate at {widths[0]}", f"at {widths[-1]}", "drift", "95 % interval"]
    columns += [f"loss at {widths[-1]}", "lost by transfer", "diverged", "trains like"]
    kept = [index for index in range(len(columns)) if index < 7 or any(row[index] for row in rows)]
    columns, rows = [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]
    seeds = len({record.seed for record in study.records})
    heading = (
        f"{conditions.model}, widths {','.join(map(str, widths))}, {seeds} seeds, {conditions.steps} steps, "
        f"{len(study.records)} runs; {conditions.corpus}\n"
        f"drift: best rate ~ n^drift, 0 is perfect transfer; lost: nats paid at {widths[-1]} "
        f"for using the best rate of {widths[0]}\n"
    )
    return heading + terminal_table(columns, rows, sections) + "\n"


def status(
    study: Annotated[Path, typer.Argument(help="The study's folder, or its store.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Show what a study has done so far: runs and the best loss of every setting at every width."""
    from rich.console import Console
    from rich.live import Live

    from verify.export import load

    if not watch:
        write_out(_progress_table(load(study)))
        return
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update(_progress_table(load(study)), refresh=True)
            sleep(WATCH_SECONDS)


def _progress_table(study: Any) -> str:
    """Settings down, widths across: finished runs and the lowest mean loss so far."""
    from derive.emit import terminal_table

    widths = sorted({record.width for record in study.records})
    rows = []
    for name in study.settings:
        if study.source(name) != name:
            continue
        cells = []
        for width in widths:
            means = [float(losses.mean()) for losses in study.losses(name, width)[1]]
            finished = [mean for mean in means if mean == mean]
            runs = sum(map(len, study.runs(name, width).values()))
            cells.append(f"{runs}  {min(finished):.3f}" if finished else str(runs or "-"))
        rows.append([name, *cells])
    diverged = sum(1 for _ in study.divergences())
    speed = _runs_per_minute(study.records)
    heading = (
        f"{len(study.records)} of {study.planned} runs handed out are finished, {diverged} of them diverged"
        f"{f', {speed:.0f} a minute' if speed else ''}; finished runs and lowest mean loss by width\n"
    )
    return heading + terminal_table(["setting", *map(str, widths)], rows, []) + "\n"


def _runs_per_minute(records: Any) -> float | None:
    """The speed of the last two hundred runs; None with too few to say."""
    times = sorted(datetime.fromisoformat(record.finished) for record in records)[-200:]
    seconds = (times[-1] - times[0]).total_seconds() if times else 0
    return 60 * (len(times) - 1) / seconds if seconds else None


def report(
    study: Annotated[Path, typer.Argument(help="The study's folder, its store, or an export of it.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, pictures, runs.csv and transfer.json.")],
) -> None:
    """Write a study as one self-contained page with its pictures, and as CSV and JSON."""
    from derive.emit import dump
    from verify.export import export, load
    from verify.report import write_report
    from verify.transfer import analyse

    found = load(study)
    make_folder(out)
    files = write_report(found, out)
    export(found, out)
    (out / "transfer.json").write_text(dump(as_json(found, analyse(found))), encoding="utf-8")
    write_out(f"written to {out}: {', '.join(path.name for path in files)}, runs.csv, study.json, transfer.json\n")


def merge(
    target: Annotated[Path, typer.Argument(help="The new store, such as study/study.sqlite.")],
    stores: Annotated[list[Path], typer.Argument(help="The stores of the parts.")],
) -> None:
    """Unite the stores of job array tasks in one."""
    from verify.store import merge as unite

    make_folder(target.parent)
    unite(target, stores)
    write_out(f"written to {target}\n")
