"""Step 2: `verify exponents` of the multilayer perceptron to widths where the theory should be exact.

Adam in SP and muP to 16,384 and SGD to 8192, from 512 on; ten steps, four seeds, measured after 1, 2, 5 and 10.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax

from benchmarks.accelerator.ledger import Cost, Ledger
from benchmarks.accelerator.runs import judge, trained
from derive.solve import prescribe, solve_kinds
from verify.data import load_corpus
from verify.exponents import Result, as_json
from verify.optimizers import BASE_RATES
from verify.plan import mlp, training_flops
from verify.train import Config

BYTES_PER_PARAMETER = 36
"""Of a run with Adam while it trains or is measured: W, two moments, gradient, update, W_0 and its drawing, ΔW."""
SHARE = 0.7
COMPILING = 14
"""Seconds to trace and compile a width's five programs."""


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
    4,
    10,
    256,
    {"context": 16, "vocabulary": 256, "hidden_layers": 2},
)
TOY = Scale((8, 16), (8, 16), 2, 2, 8, {"context": 2, "vocabulary": 256, "hidden_layers": 1})
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


def chunks(scale: Scale, width: int) -> list[Sequence[int]]:
    """The seeds, as many at once as the device's memory holds."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    size = BYTES_PER_PARAMETER * mlp(width, **_counted(scale)).parameters
    most = scale.seeds if limit is None else max(1, min(scale.seeds, int(SHARE * limit // size)))
    return [range(first, min(first + most, scale.seeds)) for first in range(0, scale.seeds, most)]


def _counted(scale: Scale) -> dict[str, int]:
    return {name: scale.sizes[name] for name in ("hidden_layers", "context", "vocabulary")}


def run(ledger: Ledger, toy: bool) -> None:
    """A part for every series, width and chunk of seeds."""
    scale, corpus = TOY if toy else FULL, load_corpus()
    for name, width in order(scale):
        for seeds in chunks(scale, width):
            flops = training_flops(mlp(width, **_counted(scale)), scale.batch, False) * scale.steps * len(seeds)
            compiling = COMPILING if seeds[0] == 0 else COMPILING / 3  # from the second chunk on it is in the cache
            ledger.part(
                f"{name}, width {width}, seeds {seeds[0]} to {seeds[-1]}",
                Cost(compiling, flops),
                lambda n=name, w=width, s=seeds: trained(configuration(n, toy), w, s, scale.steps, corpus),
            )


def studies(parts: Mapping[str, Any], toy: bool) -> dict[str, Result]:
    """The judged study of every series of which two widths are there."""
    found = {name: judge(configuration(name, toy), parts, name, load_corpus()) for name in SERIES}
    return {name: study for name, study in found.items() if study is not None}


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """Every series as `verify exponents` writes it."""
    return {name: as_json(study) for name, study in studies(parts, toy).items()}
