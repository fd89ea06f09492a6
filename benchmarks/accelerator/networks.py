"""Step 5: a study of a thousand networks of width up to 512 in one process, beside one at a time.

Multilayer perceptrons, Adam in SP: 17 base rates half an octave apart and six seeds for full, none and global at four
widths. At the base width the three are one network, trained once: 1,020 networks in all.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from benchmarks.accelerator.ledger import Cost, Job, Ledger
from verify.planning.counts import mlp, training_flops
from verify.provenance import loaded_code
from verify.studies.transfer.analysis import analyse, rows_json
from verify.sweeps.capacity import rates_at_once
from verify.sweeps.engines import Task
from verify.sweeps.loop import Loop, Structure, train
from verify.sweeps.records import Batch, Conditions, Record, Setting, Study
from verify.sweeps.settings.named import prescribed
from verify.sweeps.storage.rows import as_record, as_row
from verify.training.data import load_corpus

ALIGNMENTS = ("full", "none", "global")
CENTRE = 2.0**-6


@dataclass(frozen=True)
class Scale:
    """What is trained; `single` is the width of a network by itself."""

    widths: tuple[int, ...]
    rates: int
    seeds: int
    steps: int
    batch: int
    evaluation: int
    sizes: Mapping[str, int]
    single: int


FULL = Scale((64, 128, 256, 512), 17, 6, 150, 256, 2048, {"vocabulary": 256, "context": 8, "hidden_layers": 2}, 512)
TOY = Scale((4, 8), 3, 2, 2, 4, 8, {"vocabulary": 256, "context": 2, "hidden_layers": 1}, 8)
COMPILING, ALONE, PROCESS = 25, 12, 25
"""Seconds of a width beside others, most of which is compilation; of one loop by itself; of a process for one network.

An H100 took 21, 4 and 11.
"""


@cache
def settings() -> dict[str, Setting]:
    """The settings by alignment."""
    return {alignment: prescribed("adam", "sp", alignment).setting for alignment in ALIGNMENTS}


def conditions(scale: Scale) -> Conditions:
    """What all networks share."""
    corpus = load_corpus()
    common = (scale.steps, scale.batch, scale.evaluation, f"{corpus.name} {corpus.fingerprint}", loaded_code())
    return Conditions("mlp", dict(scale.sizes), scale.widths[0], *common)


def tasks(scale: Scale, setting: Setting, width: int) -> list[Task]:
    """Every rate with every seed, as many at once as the device holds."""
    shared, seeds = conditions(scale), tuple(range(scale.seeds))
    rates = [CENTRE * 2.0 ** ((index - scale.rates // 2) / 2) for index in range(scale.rates)]
    most = min(scale.rates, rates_at_once(Structure.of(shared, setting, width), scale.seeds))
    chunks = [tuple(rates[first : first + most]) for first in range(0, scale.rates, most)]
    return [Task(i, shared, setting, Batch(setting.name, width, each, seeds)) for i, each in enumerate(chunks)]


def trained(scale: Scale, width: int) -> dict[str, Any]:
    """All networks of a width, whose loop is compiled once: seconds of each alignment, compilation in the first."""
    corpus, seconds, rows = load_corpus(), dict[str, float](), list[Any]()
    loop = Loop(Structure.of(conditions(scale), settings()["full"], width))
    for alignment, setting in settings().items():
        if width > scale.widths[0] or alignment == ALIGNMENTS[0]:
            start = time.perf_counter()
            for task in tasks(scale, setting, width):
                rows += [as_row(record) for record in train(loop, setting, task.batch, corpus)]
            seconds[alignment] = time.perf_counter() - start
    return {"width": width, "seconds": seconds, "rows": rows}


def run(ledger: Ledger, toy: bool) -> None:
    """A part for every width, side by side in this process; then one network by itself, in this process and its own."""
    scale, jobs = TOY if toy else FULL, []
    for width in scale.widths:
        network = mlp(width, *(scale.sizes[name] for name in ("hidden_layers", "context", "vocabulary")))
        runs = scale.rates * scale.seeds * (1 if width == scale.widths[0] else len(ALIGNMENTS))
        flops = training_flops(network, scale.batch, False) * scale.steps * runs
        jobs.append(Job(f"width {width}", Cost(COMPILING, flops), partial(trained, scale, width)))
    missing = any(job.name not in ledger.kept["parts"] for job in jobs)
    start = ledger.clock()
    ledger.parts(jobs, len(jobs))
    if missing and all(job.name in ledger.kept["parts"] for job in jobs):
        ledger.part("together", Cost(0.1, kind="together"), lambda: {"seconds": ledger.clock() - start})
    ledger.part("one at a time", Cost(ALONE, kind="alone"), lambda: one_at_a_time(scale))
    ledger.part("one process", Cost(PROCESS, kind="process"), lambda: one_process(scale.single))


def one_at_a_time(scale: Scale) -> dict[str, float]:
    """Seconds of one network by itself in a compiled loop that is there."""
    task = tasks(scale, settings()["full"], scale.single)[0]
    alone = replace(task, batch=replace(task.batch, rates=task.batch.rates[:1], seeds=(0,)))
    loop, corpus = Loop(Structure.of(task.conditions, task.setting, scale.single)), load_corpus()
    train(loop, task.setting, alone.batch, corpus)
    start = time.perf_counter()
    train(loop, task.setting, alone.batch, corpus)
    return {"width": scale.single, "seconds": time.perf_counter() - start}


def one_process(width: int) -> dict[str, float]:
    """Seconds of a fresh process that starts, compiles and trains one network, beside this one on the device."""
    start = time.perf_counter()
    environment = {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # this process has taken most of the device's memory
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    command = [sys.executable, "-m", "benchmarks.sweep", "--child", str(width), "0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a process of one network ended with {done.returncode}: {done.stderr[-300:]}")
    return {"width": width, "seconds": time.perf_counter() - start}


def study(parts: Mapping[str, Any], toy: bool) -> Study:
    """The study of the parts that there are; the first alignment's networks stand for all at the base width."""
    scale, named, records = TOY if toy else FULL, settings(), list[Record]()
    for width in scale.widths:
        found = [as_record(row) for row in parts.get(f"width {width}", {"rows": ()})["rows"]]
        if width == scale.widths[0]:
            found = [replace(record, setting=each.name) for each in named.values() for record in found]
        records += found
    return Study(conditions(scale), {each.name: each for each in named.values()}, {}, tuple(records))


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """Networks a minute and how the best rate drifts under each alignment."""
    cells, found = [part for part in parts.values() if "rows" in part], study(parts, toy)
    networks, together = sum(len(part["rows"]) for part in cells), parts.get("together")
    return {
        "networks": networks,
        "seconds": together and together["seconds"],
        "networks_per_minute": together and 60 * networks / together["seconds"],
        **{
            f"{name.replace(' ', '_')}_per_minute": 60 / part["seconds"]
            for name in ("one at a time", "one process")
            if (part := parts.get(name))
        },
        "settings": rows_json(analyse(found)) if found.records else [],
    }
