"""`verify epsilon`: the width at which a constant epsilon bites: predicted, seen in updates, paid for in loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, check_positive
from derive.terminal import wrapped
from verify.commands.options import read_choice, read_corpus, read_numbers, split_values, write_out
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE, Run, command, keep, say_share, train_all

if TYPE_CHECKING:
    from verify.studies.epsilon.conditions import Conditions
    from verify.studies.epsilon.onsets import Result
    from verify.studies.study import Unit
    from verify.sweeps.settings.named import Prescribed

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class EpsilonOptions:
    """Train Adam with constant and per-layer epsilon, and Adam-atan2: from which width does a constant one cost."""

    parameterization: Annotated[list[str] | None, typer.Option(help="sp, ntk, mup, mfp.  [default: all of them]")] = (
        None
    )
    epsilon: Annotated[str, typer.Option(help="Values at the base width, each constant and per layer.")] = (
        "1e-3,3e-4,1e-4"
    )
    widths: Annotated[str, typer.Option(help="Growing widths; the first is the base width.")] = "64,128,256,512,1024"
    seeds: shared.SeedsOption = 3
    steps: Annotated[int, typer.Option(help="Training steps.")] = 150
    dtype: Annotated[list[str] | None, typer.Option(help="float32, bfloat16.  [default: float32; one study each]")] = (
        None
    )
    base_rate: Annotated[
        float | None, typer.Option(help="Learning rate at the base width.  [default: the best one there]")
    ] = None
    batch: shared.BatchOption = 256
    context: shared.ContextOption = 8
    depth: shared.DepthOption = 2
    evaluation: shared.EvaluationOption = 2048
    corpus: shared.CorpusOption = None
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards.")] = None
    processes: shared.WorkersOption = None
    part: shared.PartOption = WHOLE
    out: shared.OutOption = Path("epsilon")
    output_format: shared.FormatOption = "table"


def run(given: EpsilonOptions) -> None:
    """Train a study of every dtype, and answer."""
    from derive.emit import dump
    from verify.files import make_folder
    from verify.studies.epsilon.results import EPSILON
    from verify.studies.epsilon.text import as_json, text
    from verify.sweeps.driver import check_trains
    from verify.sweeps.engines import workers

    growing, settings, rates, studies, read = _read(given)
    plan = Run.of(given, read, given.processes or workers())
    for each in studies:
        check_trains(each.of_runs(""), [setting.setting for setting in settings], growing, read)
    make_folder(given.out)
    results = []
    for each in studies:
        here = replace(plan, out=given.out / each.dtype)
        found = _train(here, each, settings, growing, rates)
        if found is not None:
            keep(EPSILON, found, given.out / each.dtype)
            results.append(found)
    if len(results) == len(studies):
        shown = dump(as_json(results)) if plan.shown == "json" else "\n".join(map(text, results))
        write_out(shown if plan.shown == "json" else wrapped(f"{shown}written to {given.out}\n"))


def _read(
    given: EpsilonOptions,
) -> "tuple[list[int], Sequence[Prescribed], dict[str, float], list[Conditions], Any]":
    """The widths, all settings, base rates by optimizer where they are given, and the conditions of every dtype."""
    from verify.studies.epsilon.conditions import Conditions
    from verify.studies.epsilon.settings import study_settings
    from verify.studies.study import check_widths

    dtypes = [read_choice("--dtype", each, DTYPES) for each in split_values(given.dtype, ["float32"])]
    check_positive(seeds=given.seeds, steps=given.steps, base_rate=given.base_rate, batch=given.batch)
    check_positive(context=given.context, depth=given.depth, evaluation=given.evaluation, processes=given.processes)
    if given.steps < 2:
        raise DeriveError(
            f"--steps {given.steps} is not allowed; give at least 2, since the first and the last are compared"
        )
    growing = read_numbers("--widths", given.widths, int, "64,128,256")
    check_widths(growing)
    values = sorted(set(read_numbers("--epsilon", given.epsilon, float, "1e-3,1e-4")), reverse=True)
    if not all(0 < value < float("inf") for value in values):
        raise DeriveError(f"--epsilon {given.epsilon} is not allowed; give numbers above 0, such as 1e-3,1e-4")
    schemes = split_values(given.parameterization, ["sp", "ntk", "mup", "mfp"])
    settings = study_settings(schemes, values, given.depth)
    names = dict.fromkeys(each.setting.optimizer for each in settings)
    rates = {} if given.base_rate is None else dict.fromkeys(names, given.base_rate)
    text = read_corpus(given.corpus, given.vocab)
    studies = [
        Conditions(
            rates={},
            dtype=each,
            base_width=growing[0],
            seeds=given.seeds,
            steps=given.steps,
            batch=given.batch,
            vocabulary=text.vocabulary,
            context=given.context,
            hidden_layers=given.depth,
            evaluation=given.evaluation,
            corpus=f"{text.name} {text.fingerprint}",
        )
        for each in dtypes
    ]
    return growing, settings, rates, studies, text


def _train(
    plan: Run,
    conditions: "Conditions",
    settings: "Sequence[Prescribed]",
    widths: Sequence[int],
    rates: Mapping[str, float],
) -> "Result | None":
    """Find the base rates, train every setting with them at every width, and measure the gradients; None for a share.

    Every share finds the rates for itself, since all of its runs wait for them.
    """
    from verify.studies.epsilon.results import EPSILON
    from verify.studies.epsilon.study import RATES, best_rate
    from verify.studies.training import Training

    def cost(unit: "Unit") -> int:
        return {"rate": RATES, "run": 1, "gradients": 2}[str(unit[0])] * conditions.steps

    names = dict.fromkeys(each.setting.optimizer for each in settings)
    searched: dict[Unit, Conditions] = {} if rates else {("rate", name): conditions for name in names}
    with plan.folder() as folder:
        if searched:
            first = Training(EPSILON, searched, folder, more_follow=True)
            train_all(first, plan, cost, "finding the base rate")
            rates = {
                name: best_rate(conditions, name, first.parts["rate", name].found.runs) for name in reversed(names)
            }
        wanted = searched | dict.fromkeys(_units(settings, widths), replace(conditions, rates=rates))
        training = Training(EPSILON, wanted, folder, plan.share)
        train_all(training, plan, cost, "training and measuring")
        if not training.is_finished:
            say_share("epsilon", len(training.parts), len(wanted), plan)
            return None
        return EPSILON.answers.result(training.wanted, training.parts, folder)


def _units(settings: "Sequence[Prescribed]", widths: Sequence[int]) -> "list[Unit]":
    """Of settings that train alike the first, width by width; and the gradients of every parameterization."""
    from verify.studies.epsilon.conditions import run_unit
    from verify.sweeps.settings.named import representatives

    alike = representatives(settings, decays=False, clips=False)
    trained = {each.setting.name: each.setting for each in settings if each.setting.name not in alike}
    schemes = dict.fromkeys(each.setting.parameterization for each in settings)
    runs: list[Unit] = [run_unit(setting, width) for width in widths for setting in trained.values()]
    gradients: list[Unit] = [("gradients", scheme, width) for scheme in schemes for width in widths]
    return runs + gradients


epsilon = command(EpsilonOptions, run, "epsilon")
