"""Runs of `verify exponents` as parts: each width's measurements as JSON, and a study judged from those there are."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator.ledger import plain
from verify.studies.exponents.study import Result, judged
from verify.training.config import Config, Measurement, Run
from verify.training.data import Corpus, load_corpus
from verify.training.trainer import Trainer

PRECISION = "highest"
"""Of products in float32, as in every study of `verify exponents`."""


def prepared(trainer: Trainer, corpus: Corpus) -> dict[str, Any]:
    """The trainer's programs, compiled side by side: compiling takes most of a short run on an accelerator."""
    params, probe, batch = jax.eval_shape(trainer.initial), trainer.probe(corpus), trainer.batches(corpus, 1)
    inputs = jax.eval_shape(trainer.initial_inputs, params, probe)
    state = jax.eval_shape(trainer.init_state, params)
    programs: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "initial_inputs": (trainer.initial_inputs, (params, probe)),
        "init_state": (trainer.init_state, (params,)),
        "step": (trainer.step, (params, state, *batch)),
        "measure": (trainer.measure, (params, inputs, params, probe)),
    }

    def compiled(program: Any, arguments: tuple[Any, ...]) -> Any:
        with jax.default_matmul_precision(PRECISION):  # which every thread has for itself
            return program.lower(*arguments).compile()

    with ThreadPoolExecutor(len(programs) + 1) as pool:
        drawing = pool.submit(trainer.initial)
        made = {name: pool.submit(compiled, *each) for name, each in programs.items()}
        return {name: each.result() for name, each in made.items()} | {"initial": drawing.result()}


def trained(config: Config, width: int, seeds: Sequence[int], steps: int) -> dict[str, Any]:
    """Train and measure one width, products in float32's full precision; everything measured, as JSON."""
    corpus, start = load_corpus(), time.perf_counter()
    with jax.default_matmul_precision(PRECISION):
        trainer = Trainer(config, width, seeds)
        prepared(trainer, corpus)
        compiling = time.perf_counter() - start
        run = trainer.run(corpus, steps)
    return plain(
        {
            "width": run.width,
            "seeds": list(seeds),
            "compiling_s": compiling,
            "running_s": time.perf_counter() - start - compiling,
            "peak": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
            "kinds": run.kinds,
            "fan_in": run.fan_in,
            "steps": {each.step: each.values for each in run.measurements},
            "losses": np.array(run.losses),
            "diverged": run.diverged,
        }
    )


def joined(parts: Sequence[Mapping[str, Any]]) -> Run:
    """The run of one width from parts with some of its seeds each; a part that ended early is NaN from there on."""
    steps = sorted({int(step) for part in parts for step in part["steps"]})
    shape = next(part["steps"][str(steps[0])] for part in parts if str(steps[0]) in part["steps"])
    measurements = []
    for step in steps:
        values: dict[str, dict[str, Any]] = {op: {} for op in shape}
        for op, sizes in shape.items():
            for quantity in sizes:
                missing = [np.full(len(part["seeds"]), np.nan) for part in parts]
                found = [
                    np.array(part["steps"][str(step)][op][quantity], float) if str(step) in part["steps"] else nothing
                    for part, nothing in zip(parts, missing, strict=True)
                ]
                values[op][quantity] = np.concatenate(found)
        measurements.append(Measurement(parts[0]["width"], step, values))
    longest = max(len(part["losses"]) for part in parts)
    losses = np.full((longest, sum(len(part["seeds"]) for part in parts)), np.nan)
    first = 0
    for part in parts:
        losses[: len(part["losses"]), first : first + len(part["seeds"])] = np.array(part["losses"], float)
        first += len(part["seeds"])
    diverged = {int(seed): step for part in parts for seed, step in part["diverged"].items()}
    return Run(parts[0]["width"], parts[0]["kinds"], parts[0]["fan_in"], measurements, losses, diverged)


def series(parts: Mapping[str, Any], name: str) -> dict[int, list[Mapping[str, Any]]]:
    """By width, growing, the parts called "name, width W, seeds ..."."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for each, part in parts.items():
        if each.startswith(f"{name}, width "):
            found.setdefault(part["width"], []).append(part)
    return {width: sorted(found[width], key=lambda part: part["seeds"]) for width in sorted(found)}


def judge(config: Config, parts: Mapping[str, Any], name: str, corpus: Corpus) -> Result | None:
    """The study of that series, of the widths that have all seeds; None where fewer than two are there."""
    widths = series(parts, name)
    most = max((sum(len(part["seeds"]) for part in found) for found in widths.values()), default=0)
    whole = {width: found for width, found in widths.items() if sum(len(part["seeds"]) for part in found) == most}
    if len(whole) < 2:
        return None
    seeds = sorted(seed for part in next(iter(whole.values())) for seed in part["seeds"])
    return judged(config, [joined(found) for found in whole.values()], seeds, corpus)
