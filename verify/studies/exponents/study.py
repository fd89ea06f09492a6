"""The study behind `verify exponents`: networks of growing width, measured and judged against the prediction."""

import csv
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from derive import __version__
from derive.emit import as_json as prescription_json
from verify.fit.forward import Row, Table, verdicts
from verify.fit.four_steps import counts, rejected_by, resolution
from verify.fit.judging import finite
from verify.fit.judging import row_json as row_json
from verify.provenance import device_name, loaded_code, today
from verify.studies.study import StudyError, check_widths
from verify.training.checkpoint import Checkpoints
from verify.training.data import Corpus
from verify.training.hosts import check_same
from verify.training.trainer import Config, Run, study


@dataclass(frozen=True)
class Result:
    """A finished study: runs of every width, sizes per step as table[layer][quantity][width, seed], and verdicts."""

    config: Config
    corpus: Corpus
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    tables: dict[int, Table]
    rows: tuple[Row, ...]
    mesh: Mesh | None = None

    @property
    def divergences(self) -> list[str]:
        """One line per run that diverged."""
        return [
            f"width {run.width}, seed {seed}: the loss was not finite at step {step}"
            for run in self.runs
            for seed, step in sorted(run.diverged.items())
        ]


def exponents(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> Result:
    """Train every width, measure at log-spaced steps and judge every prediction; with checkpoints, go on from them."""
    check_widths(widths)
    for width in widths:
        config.at(width)  # sizes that do not fit are an error before anything is trained
    trained = conditions(config, widths, seeds, steps, corpus)
    check_same(trained)
    if checkpoints:
        checkpoints.open(trained)
    runs = tuple(study(config, widths, seeds, steps, corpus, progress, mesh, checkpoints))
    return judged(config, runs, seeds, corpus, mesh)


def judged(
    config: Config, runs: Sequence[Run], seeds: Sequence[int], corpus: Corpus, mesh: Mesh | None = None
) -> Result:
    """Judge every prediction by runs of growing width; StudyError where nothing was measured."""
    if not any(run.measurements for run in runs):
        raise StudyError("every run diverged in its first step; give a smaller --base-rate")
    widths, tables = tuple(run.width for run in runs), _tables(runs, seeds)
    rows: list[Row] = []
    for step, table in tables.items():
        rows += verdicts(config.prescription, widths, step, table, runs[0].kinds, chain=config.model == "mlp")
    return Result(config, corpus, widths, tuple(seeds), tuple(runs), tables, tuple(rows), mesh)


def conditions(
    config: Config, widths: Sequence[int], seeds: Sequence[int], steps: int, corpus: Corpus
) -> dict[str, Any]:
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


def _tables(runs: Sequence[Run], seeds: Sequence[int]) -> dict[int, Table]:
    """Measurements by step as [width, seed]; a run that has diverged by then is NaN."""
    by_step = {run.width: {each.step: each.values for each in run.measurements} for run in runs}
    steps = sorted({step for measured in by_step.values() for step in measured})
    layers = {name: sizes for run in runs for each in run.measurements for name, sizes in each.values.items()}
    missing = np.full(len(seeds), np.nan)

    def column(step: int, layer: str, quantity: str) -> Any:
        values = [by_step[run.width].get(step, {}).get(layer, {}).get(quantity, missing) for run in runs]
        alive = [[run.diverged.get(seed, math.inf) > step for seed in seeds] for run in runs]
        return np.where(np.array(alive), np.array(values, dtype=float), np.nan)

    return {
        step: {layer: {each: column(step, layer, each) for each in sizes} for layer, sizes in layers.items()}
        for step in steps
    }


def as_json(result: Result, command: str = "exponents") -> dict[str, Any]:
    """The JSON contract of every verify command, with what is needed to repeat the study."""
    config, problem = result.config, result.config.prescription.problem
    return {
        "schema": 2,
        "command": command,
        "version": __version__,
        "code": loaded_code(),
        "date": today(),
        "device": device_name(),
        "corpus": f"{result.corpus.name} {result.corpus.fingerprint}",
        "optimizer": config.prescription.optimizer_name,
        "parameterization": problem.parameterization.name,
        "alignment": problem.alignment.name,
        "model": config.model,
        "sizes": config.sizes,
        "widths": list(result.widths),
        "seeds": list(result.seeds),
        "base_width": config.base_width,
        "base_rate": config.base_rate,
        "batch": config.batch,
        "probe": config.probe,
        "dtype": config.dtype,
        "mesh": result.mesh and "x".join(map(str, result.mesh.devices.shape)),
        "processes": jax.process_count(),
        "jax": jax.__version__,
        "diverged": result.divergences,
        "steps": {name: asdict(count) for name, count in counts(result.rows).items()},
        "rejected_by": list(rejected_by(result.rows)),
        "told_apart": finite(resolution(result.rows)),
        "rows": [row_json(row) for row in result.rows],
    }


def write_sizes(result: Result, path: Path) -> None:
    """Every measured size as CSV: step, layer, quantity, width, seed, value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "layer", "quantity", "width", "seed", "value"])
        for step, table in result.tables.items():
            for layer, sizes in table.items():
                for quantity, values in sizes.items():
                    for width, per_seed in zip(result.widths, values, strict=True):
                        for seed, value in zip(result.seeds, per_seed, strict=True):
                            writer.writerow([step, layer, quantity, width, seed, f"{value:.7g}"])
