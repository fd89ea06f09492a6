"""What measuring costs, beside training steps of the same network in the same run.

    python -m benchmarks.measure [--rounds 15]

A measurement draws W_0 again, runs one forward pass and three products per dense op on the probe batch. Its floor
is those four products alone, at the speed of the training step's own three (forward, and two backward): 4/3 of a
step at equal batches, 4/3 x probe/batch in general.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.results import arguments, report

WIDTHS = (256, 512, 1024, 2048)
MEMORY_WIDTH = 2048


def alternating(actions: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of several actions in every round, taken in turns so that noise falls on all; a first round is left out.

    Numbers of one round stand beside each other: their ratios bear a machine that is slow for a while.
    """
    import jax

    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds + 1):
        for record, action in zip(seconds, actions, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(action())
            record.append(time.perf_counter() - start)
    return [record[1:] for record in seconds]


def alternating_medians(actions: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Median seconds of several actions, taken in turns."""
    return [statistics.median(record) for record in alternating(actions, rounds)]


def trainer(width: int) -> Any:
    from derive.solve import prescribe, solve_kinds
    from verify.training.config import Config
    from verify.training.trainer import Trainer

    config = Config(solve_kinds(prescribe("adam", "sp", "full").problem), 128, 1e-3)
    return Trainer(config, width, [0])


def cost(width: int, rounds: int) -> dict[str, float]:
    import jax

    from verify.training.data import load_corpus

    corpus = load_corpus()
    with jax.default_matmul_precision("highest"):
        network = trainer(width)
        params = network.initial()
        probe = network.probe(corpus)
        inputs = network.initial_inputs(params, probe)
        batch = network.batches(corpus, 1)
        held = [params, network.init_state(params)]

        def step() -> Any:
            held[0], held[1], *rest = network.step(held[0], held[1], *batch)
            return rest

        draw, measure, train = alternating_medians(
            [network.initial, lambda: network.measure(network.initial(), inputs, held[0], probe), step], rounds
        )
    floor = 4 / 3 * network.config.probe / network.config.batch
    return {
        "width": width,
        "step_ms": train * 1e3,
        "measurement_ms": measure * 1e3,
        "of_which_drawing_ms": draw * 1e3,
        "measurement_over_step": measure / train,
        "floor_over_step": floor,
    }


def peak_memory(measuring: bool) -> float:
    """Peak resident MiB of a process that trains ten steps, with or without measuring."""
    command = [sys.executable, "-m", "benchmarks.measure", "--child", "measure" if measuring else "train"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(measuring: bool) -> None:
    from verify.training.data import load_corpus

    network, corpus = trainer(MEMORY_WIDTH), load_corpus()
    if measuring:
        network.run(corpus, 10)
    else:
        params = network.initial()
        state = network.init_state(params)
        for step in range(1, 11):
            params, state, *_ = network.step(params, state, *network.batches(corpus, step))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def default_command() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "verify", "exponents"], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--child", choices=["measure", "train"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child == "measure")
        return
    plain, measured = peak_memory(False), peak_memory(True)
    result = {
        "cost": [cost(width, options.rounds) for width in WIDTHS],
        "peak_memory": {"training_mib": plain, "with_measuring_mib": measured, "ratio": measured / plain},
        "default_command_s": default_command(),
    }
    report("measure", result, options.out)


if __name__ == "__main__":
    main()
