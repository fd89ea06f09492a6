"""Networks of growing width judged against the prediction, whatever trained them: results, JSON and sizes as CSV."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from derive import __version__
from verify.fit.forward import Row, Table, verdicts
from verify.fit.four_steps import counts, rejected_by, resolution
from verify.fit.judging import finite, row_json
from verify.provenance import Made
from verify.studies.study import StudyError
from verify.training.config import Config, Run
from verify.values import Document, Leaf


@dataclass(frozen=True)
class Result:
    """A finished study: runs of every width, sizes per step as table[layer][quantity][width, seed], and verdicts."""

    config: Config
    corpus: str
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    tables: dict[int, Table]
    rows: tuple[Row, ...]
    made: Made
    mesh: str | None = None
    processes: int = 1

    @property
    def divergences(self) -> list[str]:
        """One line per run that diverged."""
        return [
            f"width {run.width}, seed {seed}: the loss was not finite at step {step}"
            for run in self.runs
            for seed, step in sorted(run.diverged.items())
        ]


def judge(
    config: Config, runs: Sequence[Run], seeds: Sequence[int], corpus: str, made: Made, devices: tuple[str | None, int]
) -> Result:
    """Judge every prediction by runs of growing width; StudyError where nothing was measured.

    `devices` are the mesh as text, None for one device, and the number of processes.
    """
    if not any(run.measurements for run in runs):
        raise StudyError("every run diverged in its first step; give a smaller --base-rate")
    widths, tables = tuple(run.width for run in runs), tables_of(runs, seeds)
    rows: list[Row] = []
    for step, table in tables.items():
        rows += verdicts(config.prescription, widths, step, table, runs[0].kinds, chain=config.model == "mlp")
    return Result(config, corpus, widths, tuple(seeds), tuple(runs), tables, tuple(rows), made, *devices)


def tables_of(runs: Sequence[Run], seeds: Sequence[int]) -> dict[int, Table]:
    """Measurements by step as [width, seed]; a run that has diverged by then is NaN."""
    by_step = {run.width: {each.step: each.values for each in run.measurements} for run in runs}
    steps = sorted({step for measured in by_step.values() for step in measured})
    layers = {name: sizes for run in runs for each in run.measurements for name, sizes in each.values.items()}
    missing = np.full(len(seeds), np.nan)

    def column(step: int, layer: str, quantity: str) -> Leaf:
        values = [by_step[run.width].get(step, {}).get(layer, {}).get(quantity, missing) for run in runs]
        alive = [[run.diverged.get(seed, math.inf) > step for seed in seeds] for run in runs]
        return np.where(np.array(alive), np.array(values, dtype=float), np.nan)

    return {
        step: {layer: {each: column(step, layer, each) for each in sizes} for layer, sizes in layers.items()}
        for step in steps
    }


def as_json(result: Result, command: str = "exponents") -> Document:
    """The JSON contract of every verify command, with what is needed to repeat the study."""
    config, problem = result.config, result.config.prescription.problem
    return {
        "schema": 2,
        "command": command,
        "version": __version__,
        "code": result.made.code,
        "date": result.made.date,
        "device": result.made.device,
        "corpus": result.corpus,
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
        "mesh": result.mesh,
        "processes": result.processes,
        "jax": result.made.jax,
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
