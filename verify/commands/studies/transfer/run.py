"""`verify transfer`: sweeps of the base rate over widths and horizons, stored as they go."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from derive.terminal import wrapped
from verify.commands.options import read_corpus, split_values, write_error, write_out
from verify.commands.progress import Progress
from verify.commands.studies.command import command, read_share
from verify.commands.studies.transfer.axes import Along, read_along
from verify.commands.studies.transfer.options import (
    TransferOptions,
    check_goes_with,
    checked,
    read_constants,
    read_horizons,
)
from verify.commands.studies.transfer.rates import read_base_rates, read_epsilons
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.commands.studies.transfer.rates import Epsilons
    from verify.sweeps.driver import Driver, Grid
    from verify.sweeps.engines import Engine
    from verify.sweeps.records import Conditions, Study
    from verify.sweeps.settings.named import Prescribed
    from verify.sweeps.storage.store import Store
    from verify.training.data import Corpus

TRIALS, CONSTANTS = "constants.sqlite", "constants.json"
SIZES = {
    "mlp": {"batch": 256, "context": 8, "evaluation": 2048},
    "transformer": {"batch": 16, "context": 64, "evaluation": 128},
}
DEPTH = {"mlp": "hidden_layers", "transformer": "blocks"}


def run(given: TransferOptions) -> None:
    """Train what the study lacks of this share, and answer from all that it has."""
    from derive.emit import dump
    from verify.studies.transfer.analysis import analyse
    from verify.studies.transfer.text import as_json, table
    from verify.sweeps.driver import check_trains
    from verify.sweeps.storage.export import STORE
    from verify.training.schedules import read_schedule

    given = checked(given)
    along = read_along(given)
    horizons, schedule = read_horizons(given.steps), read_schedule(given.schedule)
    check_goes_with(given, along.model)
    along.check_steps(horizons)
    settings, epsilons = _settings(given, along, horizons)
    corpus = read_corpus(given.corpus, given.vocab)
    conditions = _conditions(given, along, horizons[0], epsilons.shared, schedule.text, corpus)
    grid = _grid(given, along, settings)
    check_trains(conditions, [each.setting for each in settings], along.sizes, corpus)
    make_folder(given.out)
    study = _train(given, conditions, grid, horizons[0], corpus)
    results = analyse(study)
    if given.output_format == "json":
        write_out(dump(as_json(study, results)))
    else:
        write_out(wrapped(f"{table(study, results)}written to {given.out / STORE}\n"))


def _settings(
    given: TransferOptions, along: Along, horizons: "Sequence[int]"
) -> "tuple[tuple[Prescribed, ...], Epsilons]":
    """What is trained, at every horizon and epsilon, with its notes written; and the epsilons."""
    from verify.sweeps.settings.named import UNTUNED, at_horizons, check_effect, check_starts

    factors = UNTUNED if given.constants is None else read_constants(given.constants)
    optimizers = split_values(given.optimizer, ["adam"])
    settings = along.settings(optimizers, factors, given.decay, given.clip_global_norm is not None)
    epsilons = read_epsilons(given.epsilon, given.epsilon_rule)
    check_effect(settings, epsilon=epsilons.given)
    for each in settings:
        check_starts(each, zero_init=given.zero_init)
    for note in dict.fromkeys(note for each in settings for note in each.prescription.notes):
        write_error(f"note: {note}")
    return at_horizons(epsilons.of(settings), horizons), epsilons


def _conditions(
    given: TransferOptions, along: Along, steps: int, epsilon: float | None, schedule: str, corpus: "Corpus"
) -> "Conditions":
    """What all runs share: sizes of the network, batch, text, and the code that trains."""
    from verify.provenance import code_version
    from verify.sweeps.records import Conditions

    usual = SIZES[along.model]
    lengths = {"vocabulary": corpus.vocabulary, "context": given.context or usual["context"]}
    lengths |= along.lengths(DEPTH[along.model])
    own = {"head_dimension": given.head_dimension or along.head_dimension, "zero_init": given.zero_init}
    return Conditions(
        model=along.model,
        sizes=lengths | {name: size for name, size in own.items() if size},
        base_width=along.base,
        steps=steps,
        batch=along.base if along.name == "batch" else given.batch or usual["batch"],
        evaluation=given.evaluation or usual["evaluation"],
        corpus=f"{corpus.name} {corpus.fingerprint}",
        code=code_version(),
        epsilon=epsilon,
        weight_decay=given.weight_decay,
        clip=given.clip_global_norm,
        dtype=given.dtype,
        schedule=schedule,
        windows=corpus.windows(lengths["context"]) if given.disjoint else None,
        axis=along.name,
        held=along.held,
    )


def _grid(given: TransferOptions, along: Along, settings: "tuple[Prescribed, ...]") -> "Grid":
    """Settings x sizes x seeds, each optimizer with its rates to begin with; this share of it."""
    from verify.sweeps.driver import Grid
    from verify.sweeps.search import Search

    centres = read_base_rates(given.base_rate, [each.setting for each in settings])
    searches = {
        name: Search(centre, given.rates, given.halvings, stop=given.stop_above) for name, centre in centres.items()
    }
    share = read_share(given.part)
    return Grid(settings, along.sizes, tuple(range(given.seeds)), searches, given.train_equivalents, share)


def _train(given: TransferOptions, conditions: "Conditions", grid: "Grid", steps: int, corpus: "Corpus") -> "Study":
    """Everything that the store has once the grid is trained, its constants tuned before where that was asked for."""
    from derive.emit import dump
    from verify.sweeps.constants import tuned
    from verify.sweeps.driver import Driver
    from verify.sweeps.storage.export import STORE
    from verify.sweeps.storage.store import Store

    engine = _engine(given, corpus)
    total = len(grid.settings) * len(grid.widths) * given.rates * given.seeds
    try:
        with Progress("training", total) as bar:

            def driver(store: "Store") -> "Driver":
                return Driver(store, engine, conditions, grid.seeds, _at_once(conditions, given.seeds), bar.advance)

            if given.tune_constants:
                with Store(given.out / TRIALS, conditions) as store:
                    grid, found = tuned(grid, driver(store), given.tune_constants, write_error)
                kinds = [{"optimizer": name, "steps": horizon or steps} for name, horizon in found]
                rows = [kind | each.json() for kind, each in zip(kinds, found.values(), strict=True)]
                (given.out / CONSTANTS).write_text(dump({"schema": 1, "rows": rows}), encoding="utf-8")
            with Store(given.out / STORE, conditions) as store:
                grid.train(driver(store))
                return store.study()
    except KeyboardInterrupt:
        write_error(f"interrupted; what is finished is in {given.out / STORE}, the same command goes on")
        raise
    finally:
        engine.close()


def _engine(given: TransferOptions, corpus: "Corpus") -> "Engine":
    """The engine that was asked for: an accelerator is used by one process, a CPU by one process per core."""
    from verify.sweeps.engines import InProcess, Processes, workers

    if given.engine == "ray":
        from verify.sweeps.ray import Ray

        return Ray(given.address, corpus)
    count = given.processes or workers()
    return InProcess(corpus) if count == 1 else Processes(count, given.corpus, given.vocab, corpus.fingerprint)


def _at_once(conditions: Any, seeds: int) -> Callable[[Any, int], int]:
    from verify.sweeps.capacity import rates_at_once
    from verify.sweeps.loop import Structure

    return cache(lambda setting, width: rates_at_once(Structure.of(conditions, setting, width), seeds))


transfer = command(TransferOptions, run, "transfer")
