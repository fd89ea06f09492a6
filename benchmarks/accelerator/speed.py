"""Step 3: a bfloat16 training step of the transformer beside the Flax decoder and the device's ceiling, in turns.

The networks are those of step 4. Measuring costs what one measurement takes beside one step of the same trainer; over a
run it is taken after steps 1, 2, 5, 10, ..., so that its share falls with the run's length. Each width is measured in a
process of its own, as in step 4, whose kernels XLA does not choose by timing them: for those in float32 that took an
H100 longer than everything else.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

import jax

from benchmarks.accelerator.alignments import FULL, TOY, Scale, configuration
from benchmarks.accelerator.device import IN_FLIGHT
from benchmarks.accelerator.job import separate, untuned
from benchmarks.accelerator.ledger import Cost, Ledger
from benchmarks.accelerator.runs import PRECISION, prepared
from benchmarks.measure import alternating, alternating_medians
from benchmarks.transformer import Network, Setting, flax, ours, over, product
from verify.planning.counts import measuring_flops
from verify.training.data import load_corpus
from verify.training.trainer import Trainer, log_spaced

CEILING, TOY_CEILING = 8192, 64
ROUNDS, TOY_ROUNDS = 7, 2
RUNS = (200, 1000, 10_000, 50_000)
"""Steps of runs for which the share of measuring is given."""
COMPILING, COMPILED, MEASURING = 85, 4, 40
"""Seconds to compile the steps of all widths, side by side; of a width after that; and of a width's measuring.

An H100 took 84 for the first; measuring starts a process and compiles as step 4 does.
"""


def run(ledger: Ledger, toy: bool) -> None:
    """A part for the steps of every width, all of them compiled side by side first; then one each for measuring."""
    scale, rounds = TOY if toy else FULL, TOY_ROUNDS if toy else ROUNDS
    settings = [setting_at(scale, width) for width in scale.widths]
    missing = [each for each in settings if f"steps, width {each.width}" not in ledger.kept["parts"]]
    programs: dict[int, list[Future[Any]]] = {}

    def steps_of(setting: Setting) -> dict[str, Any]:
        if not programs:  # within the first part, whose cost says so; nothing is timed beside a compiler
            pool = ThreadPoolExecutor(2 * len(missing))
            makers = (ours, flax)
            programs.update({each.width: [pool.submit(compiled, make, each) for make in makers] for each in missing})
            pool.shutdown(wait=True)
        made = [each.result() for each in programs.pop(setting.width)]
        return steps(setting, made, rounds, TOY_CEILING if toy else CEILING)

    for setting in settings:
        first = bool(missing) and setting is missing[0]
        cost = Cost(COMPILING if first else COMPILED, 2 * (rounds + 1) * setting.flops(), "bfloat16", str(first))
        ledger.part(f"steps, width {setting.width}", cost, lambda s=setting: steps_of(s))
    for width in scale.widths:
        cost = Cost(MEASURING, (rounds + 2) * measuring_flops(scale.counted(width), scale.probe), kind="measuring")
        work = partial(separate, "speed", width, rounds, toy, environment=untuned())
        ledger.part(f"measuring, width {width}", cost, work)


def compiled(make: Callable[[Setting], Network], setting: Setting) -> tuple[Network, Any]:
    """A network and its compiled step, of which nothing is on the device yet."""
    network = make(setting)
    params = network.shapes()
    state = jax.eval_shape(network.transform.init, params)
    program = jax.jit(network.step, donate_argnums=(0, 1))
    return network, program.lower(params, state, *setting.batch()).compile()


def action(network: Network, program: Any, setting: Setting) -> Callable[[], Any]:
    """Takes a step from where the last one ended."""
    params = jax.jit(network.init)(jax.random.key(0))
    held, batch = [params, jax.jit(network.transform.init)(params)], jax.device_put(setting.batch())
    tokens, targets = batch

    def act() -> Any:
        *held[:], value = program(*held, tokens, targets)
        return value

    return act


def setting_at(scale: Scale, width: int) -> Setting:
    """What both networks are set to."""
    return Setting(width, sequences=scale.batch, dtype="bfloat16", **scale.sizes)


def steps(setting: Setting, made: Sequence[tuple[Network, Any]], rounds: int, size: int) -> dict[str, Any]:
    """Seconds, tokens a second and shares of the ceiling, ours and the peer's."""
    actions = [action(*each, setting) for each in made]
    square_product = product(size, size, size, dtype="bfloat16")
    actions.append(lambda: [square_product() for _ in range(IN_FLIGHT)])  # one alone is timed with the host's wait
    mine, peer, square = alternating(actions, rounds)
    flops, rates = setting.flops(), [IN_FLIGHT * 2 * size**3 / each for each in square]
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


def job(width: int, rounds: int, toy: bool) -> dict[str, Any]:
    """Seconds of a step and of a measurement of the same trainer, and the share of measuring by the run's length."""
    corpus = load_corpus()
    with jax.default_matmul_precision(PRECISION):
        network = Trainer(configuration(toy), width, [0])
        programs = prepared(network, corpus)
        params, probe, batch = programs.pop("initial"), network.probe(corpus), network.batches(corpus, 1)
        inputs, held = programs["initial_inputs"](params, probe), [params, programs["init_state"](params)]
        del params

        def step() -> Any:
            *held[:], value, _ = programs["step"](*held, *batch)
            return value

        def measurement() -> Any:
            return programs["measure"](network.initial(), inputs, held[0], probe)

        measure, train = alternating_medians([measurement, step], rounds)
    shares = {str(length): len(log_spaced(length)) * measure / (length * train) for length in RUNS}
    return {"width": width, "step_s": train, "measurement_s": measure, "overhead_by_steps": shares}


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:  # noqa: ARG001 - as all steps have it
    """A row for each width."""
    of = {kind: [part for name, part in parts.items() if name.startswith(kind)] for kind in ("steps", "measuring")}
    return {"rows": of["steps"], "measuring": of["measuring"]}
