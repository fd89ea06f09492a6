"""The training behind `verify exponents`: networks of growing width, one after another."""

from collections.abc import Callable, Sequence
from dataclasses import fields

import jax
from jax.sharding import Mesh

from derive.emit import as_json as prescription_json
from verify.provenance import loaded_code, made
from verify.studies.exponents.conditions import MODULE, Conditions, Network
from verify.studies.exponents.judged import Result, judge
from verify.studies.study import Progress, Unit, check_widths
from verify.training.checkpoint import Checkpoints
from verify.training.config import Config, Run
from verify.training.data import Corpus
from verify.training.hosts import check_same
from verify.training.mesh import shape_name
from verify.training.trainer import study, train_width
from verify.values import Document


def exponents(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train every width, measure at log-spaced steps and judge every prediction; with checkpoints, go on from them."""
    check_widths(widths)
    for width in widths:
        config.at(width)  # sizes that do not fit are an error before anything is trained
    begin(config, widths, seeds, steps, corpus, checkpoints)
    return judged(
        config, tuple(study(config, widths, seeds, steps, corpus, progress, None, checkpoints)), seeds, corpus
    )


def judged(
    config: Config, runs: Sequence[Run], seeds: Sequence[int], corpus: Corpus, mesh: Mesh | None = None
) -> Result:
    """Judge every prediction by runs of growing width; StudyError where nothing was measured."""
    devices = (shape_name(mesh), jax.process_count())
    return judge(config, runs, seeds, f"{corpus.name} {corpus.fingerprint}", made(MODULE), devices)


def begin(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    checkpoints: Checkpoints | None,
) -> None:
    """Open the checkpoints and see that every process was given the same; DeriveError where they hold another study."""
    trained = conditions(config, widths, seeds, steps, corpus)
    check_same(trained)
    if checkpoints:
        checkpoints.open(trained)


def conditions(config: Config, widths: Sequence[int], seeds: Sequence[int], steps: int, corpus: Corpus) -> Document:
    """Everything that losses depend on but for the devices, as JSON."""
    parts = {each.name: getattr(config, each.name) for each in fields(config) if each.name != "prescription"}
    return {
        **parts,
        "prescription": prescription_json(config.prescription),
        "widths": list(widths),
        "seeds": list(seeds),
        "steps": steps,
        "corpus": corpus.fingerprint,
        "code": loaded_code(),
        "jax": jax.__version__,
    }


def train(
    conditions: Conditions,
    unit: Unit,
    corpus: Corpus,
    progress: Progress = lambda _: None,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> Network:
    """Train every seed of one width."""
    config, seeds = conditions.config(), range(conditions.seeds)
    run = train_width(config, int(unit[0]), seeds, conditions.steps, corpus, lambda: progress(1), mesh, checkpoints)
    return Network.of(run, shape_name(mesh), jax.process_count())
