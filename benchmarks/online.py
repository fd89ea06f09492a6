"""What rates that follow their run's alignments cost, beside the same run with fixed rates.

    python -m benchmarks.online [--rounds 9]

A run is what `verify transfer` trains: an MLP with Adam, 150 steps on 256 examples, held-out loss included, compiled
before. The floor is the measurements alone: what W_0 drawn again, a forward pass and three products per dense op take
by themselves, as many times as the run measures. Solving for the rates is timed apart.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import alternating_medians
from benchmarks.results import arguments, report
from verify.sweeps.loop import Loop, Structure, train
from verify.sweeps.records import ONLINE, Batch, Conditions
from verify.sweeps.settings.named import prescribed
from verify.training.config import TARGETS
from verify.training.data import load_corpus

WIDTHS = (64, 128, 256, 512)
STEPS = 150
RATE = 1 / 64
SOLVES = 100


CONDITIONS = Conditions(
    model="mlp",
    sizes={"vocabulary": 256, "context": 8, "hidden_layers": 2},
    base_width=WIDTHS[0],
    steps=STEPS,
    batch=256,
    evaluation=2048,
    corpus="default",
    code="the benchmark's",
)


def whole_run(optimizer: str, alignment: str, width: int) -> tuple[Loop, Callable[[], Any]]:
    """A run as `verify transfer` trains it, in its compiled loop, and the loop."""
    setting = prescribed(optimizer, "sp", alignment, hidden_layers=2).setting
    loop, corpus = Loop(Structure.of(CONDITIONS, setting, width)), load_corpus()
    return loop, lambda: train(loop, setting, Batch(setting.name, width, (RATE,), (0,)), corpus)[0].loss


def cost(width: int, rounds: int) -> dict[str, float]:
    corpus = load_corpus()
    loops, actions = zip(*(whole_run("adam", name, width) for name in ("full", ONLINE)), strict=True)
    online = loops[1].online
    assert online is not None
    probe = jnp.asarray(online.probe(corpus, TARGETS["mlp"]))
    params = loops[1].model.init(jax.random.key(0))
    followed = jax.jit(online.start)(jax.random.key(0), params, probe)
    moved = jax.tree.map(lambda weight: 1.01 * weight, params)
    with jax.default_matmul_precision("highest"):
        measure, solve = jax.jit(online.measured), jax.jit(online.solver.exponents)

        def solves() -> Any:
            return [solve(followed.ratios) for _ in range(SOLVES)]

        fixed, following, measured, solved = alternating_medians(
            [*actions, lambda: measure(moved, followed), solves], rounds
        )
    return {
        "width": width,
        "measurements": len(online.steps),
        "fixed_s": fixed,
        "online_s": following,
        "overhead": following / fixed - 1,
        "floor_overhead": len(online.steps) * measured / fixed,
        "measurement_ms": measured * 1e3,
        "solve_and_dispatch_ms": solved / SOLVES * 1e3,
    }


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    rows = [cost(width, options.rounds) for width in WIDTHS]
    together = sum(row["online_s"] for row in rows) / sum(row["fixed_s"] for row in rows) - 1
    result = {
        "steps": STEPS,
        "rows": rows,
        "overhead_median": statistics.median(row["overhead"] for row in rows),
        "overhead_of_all": together,
    }
    report("online", result, options.out)


if __name__ == "__main__":
    main()
