"""What a prescription for a model of one's own costs: the graph of a 48-block transformer, and the program over it.

    python -m benchmarks.prescribe [--blocks 48] [--rounds 5]

The graph's floor is JAX's own tracing of the same function at both widths; the program's is HiGHS on it in floats, an
answer without proof.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import alternating_medians
from benchmarks.results import arguments, report
from derive.alignments import FULL
from derive.parameterizations import MUP
from derive.registry import optimizers
from verify.model.graph.rates import solve_graph
from verify.model.graph.start import Wanted
from verify.model.linear_program import floats, minimise
from verify.model.make import graph_of
from verify.training.networks import Scaling
from verify.training.networks.transformer import Transformer

WIDTHS = (256, 4096)


def transformer(blocks: int) -> Callable[[int], Any]:
    """make(width) of the project's transformer, from shapes alone."""

    def make(width: int) -> Any:
        model = Transformer(Scaling(width, WIDTHS[0], (0, 0, 0), (0, Fraction(1, 2), Fraction(1, 2))), blocks=blocks)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        return shapes, model.apply, jax.ShapeDtypeStruct((2, model.context), jnp.int32)

    return make


def measure(blocks: int, rounds: int) -> dict[str, Any]:
    """Seconds of tracing, of the graph and of the program, each with its floor."""
    make = transformer(blocks)
    models = [make(width) for width in WIDTHS]

    def traced() -> None:
        for params, apply, inputs in models:
            jax.clear_caches()
            jax.make_jaxpr(apply)(params, inputs)

    def graph() -> Any:
        jax.clear_caches()
        return graph_of(make, *WIDTHS)[0]

    found = graph()
    wanted = Wanted(optimizers("adam"), MUP, FULL)
    rates = solve_graph(found, wanted)
    second = [1 - each for each in rates.objective]
    names = ("tracing alone", "graph", "HiGHS in floats", "program, proved", "all from the graph")
    seconds = alternating_medians(
        [
            traced,
            graph,
            lambda: floats(rates.objective, rates.rows),
            lambda: minimise(rates.objective, rates.rows, second),
            lambda: solve_graph(found, wanted),
        ],
        rounds,
    )
    return {
        "blocks": blocks,
        "parameters": len(rates.parameters),
        "constraints": len(rates.rows),
        "seconds": dict(zip(names, seconds, strict=True)),
        "graph over tracing": seconds[1] / seconds[0],
        "program over HiGHS": seconds[3] / seconds[2],
    }


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--blocks", type=int, default=48)
    options = parser.parse_args()
    report("prescribe", measure(options.blocks, options.rounds), options.out)


if __name__ == "__main__":
    main()
