"""Models per minute of a sweep, beside the same runs done one process at a time, as is usual.

    python -m benchmarks.sweep [--widths 64,128,256] [--models 240]

The same networks (MLP on text, Adam, 150 steps) at each width: by `verify transfer`'s engine, start of its worker
processes and compilation included, and each in a process of its own, which imports, compiles and trains one. Both
without a compilation cache on disk. The floor is the training alone: steps of compiled loops that are warm, on all
cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.results import arguments, report

STEPS = 150
RATES = 2.0**-6
SINGLES = 3


def conditions(base_width: int) -> Any:
    from verify.provenance import code_version
    from verify.sweeps.records import Conditions
    from verify.training.data import load_corpus

    corpus = load_corpus()
    sizes = {"vocabulary": corpus.vocabulary, "context": 8, "hidden_layers": 2}
    return Conditions("mlp", sizes, base_width, STEPS, 256, 2048, corpus.fingerprint, code_version())


def engine() -> Any:
    import jax

    from verify.sweeps.engines import InProcess, Processes, available_cores
    from verify.training.data import load_corpus

    return (
        InProcess(load_corpus())
        if jax.default_backend() != "cpu"
        else Processes(available_cores(), None, None, load_corpus().fingerprint)
    )


def tasks(width: int, models: int, first: int = 0) -> list[Any]:
    """`models` runs at one width: five seeds, and as many rates as it takes, in batches as the driver makes them."""
    from verify.sweeps.capacity import rates_at_once
    from verify.sweeps.engines import Task
    from verify.sweeps.loop import Structure
    from verify.sweeps.records import Batch
    from verify.sweeps.settings.named import prescribed

    setting, shared = prescribed("adam", "sp", "full").setting, conditions(width)
    seeds = tuple(range(5))
    rates = [RATES * 2 ** (index / 16) for index in range(first, first + models // len(seeds))]
    most = rates_at_once(Structure.of(shared, setting, width), len(seeds))
    batches = [tuple(rates[start : start + most]) for start in range(0, len(rates), most)]
    return [Task(i, shared, setting, Batch(setting.name, width, each, seeds)) for i, each in enumerate(batches)]


def drain(chosen: Any, work: list[Any]) -> float:
    """Seconds to finish the tasks."""
    start = time.perf_counter()
    for task in work:
        chosen.submit(task)
    for _ in work:
        chosen.next()
    return time.perf_counter() - start


def sweep(widths: list[int], models: int) -> dict[int, tuple[float, float]]:
    """By width: seconds of a cold engine, from nothing, and of a warm one, for as many models."""
    found = {}
    for width in widths:
        start = time.perf_counter()
        chosen = engine()
        drain(chosen, tasks(width, models))
        cold = time.perf_counter() - start
        warm = drain(chosen, tasks(width, models, first=models // 5))
        chosen.close()
        found[width] = (cold, warm)
    return found


def one_process(width: int, index: int) -> float:
    """Seconds of a fresh process that trains one model."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.sweep", "--child", str(width), str(index)]
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def child(width: int, index: int) -> None:
    from verify.sweeps.engines import Task, perform
    from verify.sweeps.records import Batch
    from verify.sweeps.settings.named import prescribed
    from verify.training.data import load_corpus

    setting = prescribed("adam", "sp", "full").setting
    batch = Batch(setting.name, width, (RATES * 2 ** (index / 16),), (0,))
    perform(Task(0, conditions(width), setting, batch), load_corpus())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--widths", default="64,128,256")
    parser.add_argument("--models", type=int, default=240)
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        compare(options)


def compare(options: argparse.Namespace) -> None:
    widths = [int(part) for part in options.widths.split(",")]
    swept = sweep(widths, options.models)
    rows = []
    for width in widths:
        single = statistics.median(one_process(width, index) for index in range(SINGLES))
        cold, warm = swept[width]
        rows.append(
            {
                "width": width,
                "models": options.models,
                "models_per_minute": 60 * options.models / cold,
                "one_process_at_a_time": 60 / single,
                "ratio": single * options.models / cold,
                "floor_models_per_minute": 60 * options.models / warm,
                "over_floor": cold / warm,
            }
        )
    single = sum(60 * row["models"] / row["one_process_at_a_time"] for row in rows)
    together = sum(60 * row["models"] / row["models_per_minute"] for row in rows)
    result = {"steps": STEPS, "rows": rows, "ratio_of_all": single / together}
    report("sweep", result, options.out)


if __name__ == "__main__":
    main()
