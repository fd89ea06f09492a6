"""`verify epsilon`: the width at which a constant epsilon bites: predicted, seen in updates, paid for in loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, check_positive
from derive.terminal import wrapped
from verify.commands.options import (
    one_driver,
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
    from verify.studies.epsilon.onsets import Result

DTYPES = ("float32", "bfloat16")
RATES = "rates.sqlite"


def epsilon(
    parameterization: Annotated[
        list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: all of them]")
    ] = None,
    epsilon: Annotated[str, typer.Option(help="Values at the base width, each constant and per layer.")] = (
        "1e-3,3e-4,1e-4"
    ),
    widths: Annotated[str, typer.Option(help="Growing widths; the first is the base width.")] = "64,128,256,512,1024",
    seeds: Annotated[int, typer.Option(help="Networks per width.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 150,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16.  [default: float32; one study each]")
    ] = None,
    base_rate: Annotated[
        float | None, typer.Option(help="Learning rate at the base width.  [default: the best one there]")
    ] = None,
    batch: Annotated[int, typer.Option(help="Examples per step.")] = 256,
    context: Annotated[int, typer.Option(help="Tokens read at once.")] = 8,
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 2,
    evaluation: Annotated[int, typer.Option(help="Held-out windows for the final loss.")] = 2048,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="Workers on this machine.  [default: one per core; 1 with an accelerator]")
    ] = None,
    out: Annotated[Path, typer.Option(help="The study's folder; the same command goes on with it.")] = Path("epsilon"),
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Train Adam with constant and per-layer epsilon, and Adam-atan2: from which width does a constant one cost."""
    from derive.emit import dump
    from verify.checksums import sealed
    from verify.provenance import code_version
    from verify.studies.epsilon.plots import cost_against_width
    from verify.studies.epsilon.results import RESULT, write_study
    from verify.studies.epsilon.study import study_settings
    from verify.studies.epsilon.text import as_json, text
    from verify.studies.pictures import save
    from verify.studies.study import check_widths
    from verify.sweeps.driver import check_trains
    from verify.sweeps.records import Conditions

    shown = read_choice("--format", output_format, ("table", "json"))
    dtypes = [read_choice("--dtype", each, DTYPES) for each in split_values(dtype, ["float32"])]
    check_positive(seeds=seeds, steps=steps, base_rate=base_rate, batch=batch, context=context, depth=depth)
    check_positive(evaluation=evaluation, processes=processes)
    if steps < 2:
        raise DeriveError(f"--steps {steps} is not allowed; give at least 2, since the first and the last are compared")
    growing = read_numbers("--widths", widths, int, "64,128,256")
    check_widths(growing)
    values = sorted(set(read_numbers("--epsilon", epsilon, float, "1e-3,1e-4")), reverse=True)
    if not all(0 < value < float("inf") for value in values):
        raise DeriveError(f"--epsilon {epsilon} is not allowed; give numbers above 0, such as 1e-3,1e-4")
    schemes = split_values(parameterization, ["sp", "ntk", "mup", "mfp"])
    settings = study_settings(schemes, values, depth)
    read = read_corpus(corpus, vocab)
    studies = [
        Conditions(
            model="mlp",
            sizes={"vocabulary": read.vocabulary, "context": context, "hidden_layers": depth},
            base_width=growing[0],
            steps=steps,
            batch=batch,
            evaluation=evaluation,
            corpus=f"{read.name} {read.fingerprint}",
            code=code_version(),
            dtype=each,
        )
        for each in dtypes
    ]
    for conditions in studies:
        check_trains(conditions, [each.setting for each in settings], growing, read)
    make_folder(out)
    results = []
    for conditions in studies:
        folder = out / conditions.dtype
        make_folder(folder)
        engine = _engine(processes, read, corpus, vocab)
        try:
            with one_driver(folder):
                result = _study(conditions, settings, growing, seeds, base_rate, engine, read, folder)
                write_study(result.study, folder)
        except KeyboardInterrupt:
            write_error(f"interrupted; what is finished is in {folder}, the same command goes on")
            raise
        finally:
            engine.close()
        (folder / RESULT).write_text(dump(sealed(as_json([result]))), encoding="utf-8")
        save(cost_against_width(result), folder / "epsilon")
        results.append(result)
    write_out(
        dump(as_json(results)) if shown == "json" else wrapped("\n".join(map(text, results)) + f"written to {out}\n")
    )


def _engine(processes: int | None, corpus: Any, path: Path | None, vocabulary: int | None) -> Any:
    import jax

    from verify.sweeps.engines import InProcess, Processes, available_cores

    count = processes or (available_cores() if jax.default_backend() == "cpu" else 1)
    return InProcess(corpus) if count == 1 else Processes(count, path, vocabulary, corpus.fingerprint)


def _study(
    conditions: Any,
    settings: Any,
    widths: list[int],
    seeds: int,
    base_rate: float | None,
    engine: Any,
    corpus: Any,
    folder: Path,
) -> "Result":
    """Find the base rate, train every setting with it at every width, and measure the gradients; resumes each."""
    from verify.studies.epsilon.onsets import Result
    from verify.studies.epsilon.study import best_rates, measure_backward, train
    from verify.sweeps.driver import Driver
    from verify.sweeps.search import Search
    from verify.sweeps.storage.export import STORE
    from verify.sweeps.storage.store import Store
    from verify.training.rules.transforms import BASE_RATES

    names = list(dict.fromkeys(each.setting.optimizer for each in settings))
    schemes = list(dict.fromkeys(each.setting.parameterization for each in settings))
    rates = {} if base_rate is None else dict.fromkeys(names, base_rate)
    if not rates:
        # BASE_RATES are safe; the best ones are somewhat above them.
        searches = {name: Search(4 * BASE_RATES[name], count=7) for name in names}
        with (
            Progress("finding the base rate", len(names) * 7 * seeds) as bar,
            Store(folder / RATES, conditions) as store,
        ):
            driver = Driver(store, engine, conditions, range(seeds), lambda *_: 1, bar.advance)
            rates = best_rates(driver, settings, searches)
    with Progress("training", len(settings) * len(widths) * seeds) as bar, Store(folder / STORE, conditions) as store:
        train(Driver(store, engine, conditions, range(seeds), lambda *_: 1, bar.advance), settings, widths, rates)
        study = store.study()
    with Progress("measuring gradients", 2 * len(schemes) * len(widths) * conditions.steps) as bar:
        found = [
            measure_backward(
                scheme,
                conditions,
                rates["adam"],
                widths,
                range(seeds),
                corpus,
                folder,
                bar.advance,
            )
            for scheme in schemes
        ]
    return Result(study, rates, tuple(found))
