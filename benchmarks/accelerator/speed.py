"""Step 3: a bfloat16 training step of the transformer beside the Flax decoder and the device's ceiling, in turns.

The networks are those of step 4. Measuring costs what one measurement takes beside one step of the same trainer; over a
run it is taken after steps 1, 2, 5, 10, ..., so that its share falls with the run's length.
"""

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

import jax

from benchmarks.accelerator.alignments import FULL, TOY, Scale, configuration
from benchmarks.accelerator.ledger import Cost, Ledger
from benchmarks.measure import alternating, alternating_medians
from benchmarks.transformer import Setting, flax, ours, over, product
from verify.data import load_corpus
from verify.plan import measuring_flops
from verify.train import Trainer, log_spaced

CEILING, TOY_CEILING = 8192, 64
ROUNDS, TOY_ROUNDS = 7, 2
RUNS = (200, 1000, 10_000, 50_000)
"""Steps of runs for which the share of measuring is given."""
STEPS_COMPILING, MEASURING_COMPILING = 30, 30


def run(ledger: Ledger, toy: bool) -> None:
    """A part for the steps of every width, then one for measuring."""
    scale = TOY if toy else FULL
    rounds = TOY_ROUNDS if toy else ROUNDS
    for width in scale.widths:
        setting = setting_at(scale, width)
        flops = 2 * (rounds + 1) * setting.flops()
        ledger.part(
            f"steps, width {width}",
            Cost(STEPS_COMPILING, flops, "bfloat16"),
            lambda s=setting: steps(s, rounds, TOY_CEILING if toy else CEILING),
        )
    for width in scale.widths:
        flops = (rounds + 2) * measuring_flops(scale.counted(width), scale.probe)
        ledger.part(
            f"measuring, width {width}", Cost(MEASURING_COMPILING, flops), lambda w=width: measuring(w, rounds, toy)
        )


def setting_at(scale: Scale, width: int) -> Setting:
    """What both networks are set to."""
    return Setting(width, sequences=scale.batch, dtype="bfloat16", **scale.sizes)


def steps(setting: Setting, rounds: int, size: int) -> dict[str, Any]:
    """Seconds, tokens a second and shares of the ceiling, ours and the peer's."""
    actions = [ours(setting).action(setting.batch()), flax(setting).action(setting.batch())]
    actions.append(product(size, size, size, dtype="bfloat16"))
    mine, peer, square = alternating(actions, rounds)
    flops, rates = setting.flops(), [2 * size**3 / each for each in square]
    return {
        **asdict(setting),
        "flops": flops,
        "step_s": median(mine),
        "flax_step_s": median(peer),
        "ceiling_gflops": median(rates) / 1e9,
        "tokens_per_second": setting.positions / median(mine),
        "flax_tokens_per_second": setting.positions / median(peer),
        "flax_over_ours": over(peer, mine),
        "of_ceiling": over([flops / each for each in mine], rates),
        "flax_of_ceiling": over([flops / each for each in peer], rates),
    }


def measuring(width: int, rounds: int, toy: bool) -> dict[str, Any]:
    """Seconds of a step and of a measurement of the same trainer, and the share of measuring by the run's length."""
    corpus = load_corpus()
    with jax.default_matmul_precision("highest"):
        network = Trainer(configuration(toy), width, [0])
        params, probe = network.initial(), network.probe(corpus)
        inputs, batch = network.initial_inputs(params, probe), network.batches(corpus, 1)
        held = [params, network.init_state(params)]
        del params

        def step() -> Any:
            *held[:], value, _ = network.step(*held, *batch)
            return value

        measure, train = alternating_medians(
            [lambda: network.measure(network.initial(), inputs, held[0], probe), step], rounds
        )
    shares = {str(length): len(log_spaced(length)) * measure / (length * train) for length in RUNS}
    return {"width": width, "step_s": train, "measurement_s": measure, "overhead_by_steps": shares}


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:  # noqa: ARG001 - as all steps have it
    """A row for each width."""
    of = {kind: [part for name, part in parts.items() if name.startswith(kind)] for kind in ("steps", "measuring")}
    return {"rows": of["steps"], "measuring": of["measuring"]}
