"""Step 2: `verify exponents` of the multilayer perceptron to widths where the theory should be exact.

Adam in SP and muP to 16,384 and SGD to 8192, from 512 on; ten steps, three seeds, measured after 1, 2, 5 and 10.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax

from benchmarks.accelerator.job import separate
from benchmarks.accelerator.ledger import Cost, Job, Ledger
from benchmarks.accelerator.runs import judge, trained
from derive.solve import prescribe, solve_kinds
from verify.planning.counts import mlp, training_flops
from verify.studies.exponents.judged import as_json
from verify.studies.exponents.study import Result
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.rules.usual import BASE_RATES

BYTES_PER_PARAMETER = 28
"""Of a run with Adam while it trains or is measured: W, two moments, gradient, update, W_0 and its drawing, ΔW."""
SHARE, ROOM = 0.75, 1.0
"""Of the memory that JAX gives one process: what the seeds of a part may take, and all parts under way together."""
AT_ONCE, TOY_AT_ONCE = 8, 2
COMPILING = 30
"""Seconds to start a process, and to trace and compile a width's five programs, beside others."""


@dataclass(frozen=True)
class Scale:
    """What is trained."""

    adam: tuple[int, ...]
    sgd: tuple[int, ...]
    seeds: int
    steps: int
    batch: int
    sizes: Mapping[str, int]


FULL = Scale(
    (512, 1024, 2048, 4096, 8192, 16384),
    (512, 1024, 2048, 4096, 8192),
    3,
    10,
    256,
    {"context": 16, "vocabulary": 256, "hidden_layers": 2},
)
TOY = Scale((8, 16), (), 2, 2, 8, {"context": 2, "vocabulary": 256, "hidden_layers": 1})
SERIES = ("adam sp", "adam mup", "sgd mup", "sgd sp")


@cache
def configuration(name: str, toy: bool) -> Config:
    """What a series such as "adam sp" trains."""
    optimizer, scheme = name.split()
    scale = TOY if toy else FULL
    prescription = solve_kinds(prescribe(optimizer, scheme, "full").problem)
    rate, base = BASE_RATES[optimizer], getattr(scale, optimizer)[0]
    return Config(prescription, base, rate, batch=scale.batch, probe=min(64, scale.batch), sizes=dict(scale.sizes))


def order(scale: Scale) -> Iterator[tuple[str, int]]:
    """Adam before SGD, and small widths before large ones, both parameterizations in turn."""
    for optimizer in ("adam", "sgd"):
        for width in getattr(scale, optimizer):
            yield from ((name, width) for name in SERIES if name.startswith(optimizer))


def bytes_of(scale: Scale, width: int) -> float:
    """Bytes of the device that one network takes."""
    return BYTES_PER_PARAMETER * mlp(width, **_counted(scale)).parameters


def chunks(scale: Scale, width: int, limit: float) -> list[Sequence[int]]:
    """The seeds, as many at once as the device's memory holds."""
    most = max(1, int(min(scale.seeds, SHARE * limit // bytes_of(scale, width))))
    return [range(first, min(first + most, scale.seeds)) for first in range(0, scale.seeds, most)]


def _counted(scale: Scale) -> dict[str, int]:
    return {name: scale.sizes[name] for name in ("hidden_layers", "context", "vocabulary")}


def run(ledger: Ledger, toy: bool) -> None:
    """A part for every series, width and chunk of seeds, each in a process, several at once."""
    scale = TOY if toy else FULL
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    jobs = []
    for name, width in order(scale):
        for seeds in chunks(scale, width, limit):
            flops = training_flops(mlp(width, **_counted(scale)), scale.batch, False) * scale.steps * len(seeds)
            jobs.append(
                Job(
                    f"{name}, width {width}, seeds {seeds[0]} to {seeds[-1]}",
                    Cost(COMPILING, flops),
                    partial(separate, "widths", name, width, list(seeds), toy),
                    len(seeds) * bytes_of(scale, width),
                )
            )
    ledger.parts(jobs, TOY_AT_ONCE if toy else AT_ONCE, ROOM * limit)


def job(name: str, width: int, seeds: list[int], toy: bool) -> dict[str, Any]:
    """A part, in a process of its own."""
    return trained(configuration(name, toy), width, seeds, (TOY if toy else FULL).steps)


def studies(parts: Mapping[str, Any], toy: bool) -> dict[str, Result]:
    """The judged study of every series of which two widths are there."""
    there = [name for name in SERIES if any(part.startswith(f"{name}, ") for part in parts)]
    found = {name: judge(configuration(name, toy), parts, name, load_corpus()) for name in there}
    return {name: study for name, study in found.items() if study is not None}


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """Every series as `verify exponents` writes it."""
    return {name: as_json(study) for name, study in studies(parts, toy).items()}
