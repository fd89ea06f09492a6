"""A training step of the transformer beside a Flax decoder of the same configuration and the device's own ceiling.

    python -m benchmarks.transformer [--widths 256,1024] [--rounds 5]

A step is forward, backward and Adam, in float32, parameters and state given away; ours takes the prescribed rates
layer by layer. FLOPs are those of `verify plan`: products alone, masked entries included, 6 per weight and position.
The ceiling is the fastest of square products; the floor the step's own products, each timed alone at its own shape.
All are taken in turns, and a ratio is the median of the rounds' ratios, so that a slow minute slows both sides.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.flax_decoder import Decoder
from benchmarks.measure import alternating
from benchmarks.results import arguments, report
from derive.solve import prescribe, solve_kinds
from verify.planning.counts import training_flops, transformer
from verify.training.config import Config
from verify.training.networks import computed_in, loss, stacks
from verify.training.rules.transforms import optimizer

RATE = 1e-3
SEQUENCES = {256: 16, 1024: 4}
"""By width; 4 for others. Of 256 positions each: enough that products take most of a step."""
CEILING_SIZES = (1024, 2048)
DEPTHS = (2, 4, 8, 16)
COMPILED_WIDTH = 128

Action = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """What both networks are set to."""

    width: int
    blocks: int = 2
    sequences: int = 4
    context: int = 256
    vocabulary: int = 256
    head_dimension: int = 64
    dtype: str = "float32"

    @property
    def heads(self) -> int:
        """Heads of a block."""
        return self.width // self.head_dimension

    @property
    def positions(self) -> int:
        """Positions of a step."""
        return self.sequences * self.context

    def flops(self) -> float:
        """Floating-point operations of a step, as `verify plan` counts them."""
        network = transformer(self.width, self.blocks, self.context, self.vocabulary, self.head_dimension)
        return training_flops(network, self.sequences, remat=False)

    def batch(self) -> Any:
        """Tokens and targets, [2, sequences, context]."""
        return np.random.default_rng(0).integers(0, self.vocabulary, (2, self.sequences, self.context))


@dataclass(frozen=True)
class Network:
    """A network in training: how it is made, its loss of (parameters, tokens, targets), its optimizer."""

    init: Callable[[Any], Any]
    loss: Callable[[Any, Any, Any], Any]
    transform: optax.GradientTransformation

    def step(self, params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        """One step of training: parameters, state, loss."""
        value, gradients = jax.value_and_grad(self.loss)(params, tokens, targets)
        updates, state = self.transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    def shapes(self) -> Any:
        """The parameters' shapes."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def action(self, batch: Any) -> Action:
        """Takes a step from where the last one ended."""
        params = jax.jit(self.init)(jax.random.key(0))
        compiled, held = jax.jit(self.step, donate_argnums=(0, 1)), [params, self.transform.init(params)]

        def act() -> Any:
            *held[:], value = compiled(*held, *batch)
            return value

        return act


def ours(setting: Setting, scan: bool = False, remat: bool = False) -> Network:
    """`verify`'s transformer with the rates prescribed for Adam."""
    sizes = {name: getattr(setting, name) for name in ("vocabulary", "context", "blocks", "head_dimension")}
    prescription = solve_kinds(prescribe("adam", "sp", "full").problem)
    config = Config(prescription, setting.width, RATE, "transformer", sizes={**sizes, "scan": scan, "remat": remat})
    model = config.at(setting.width)
    labels = model.labels(jax.eval_shape(model.init, jax.random.key(0)))
    stacked = stacks(model.parameters(), labels).values()
    transform = optimizer(prescription, labels, RATE, 1.0, stacked=stacked)
    apply = computed_in(setting.dtype, model.apply)
    return Network(model.init, lambda params, tokens, targets: loss(apply(params, tokens), targets), transform)


def flax(setting: Setting) -> Network:
    """The Flax decoder with optax's Adam and cross-entropy."""
    decoder = Decoder(setting.vocabulary, setting.context, setting.width, setting.heads, setting.blocks)
    apply: Any = computed_in(setting.dtype, decoder.apply)  # type: ignore[arg-type]

    def objective(params: Any, tokens: Any, targets: Any) -> Any:
        logits = apply(params, tokens).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    return Network(lambda key: decoder.init(key, setting.batch()[0]), objective, optax.adam(RATE))


def product(rows: int, inner: int, columns: int, batch: int = 1, dtype: str = "float32") -> Action:
    """One product of random [batch, rows, inner] and [batch, inner, columns]."""
    generator = np.random.default_rng(0)
    shapes = ((rows, inner), (inner, columns))
    pair = [
        jnp.asarray(generator.standard_normal((batch, *each) if batch > 1 else each, np.float32), dtype)
        for each in shapes
    ]
    compiled = jax.jit(jnp.matmul)
    return lambda: compiled(*pair)


def products(setting: Setting) -> Mapping[tuple[int, ...], int]:
    """The step's products, (rows, inner, columns, batch) -> how many: each forward, and two of its size backward."""
    width, positions, time, size = setting.width, setting.positions, setting.context, setting.head_dimension
    pairs = setting.sequences * setting.heads
    counts: dict[tuple[int, ...], int] = {}

    def add(times: int, rows: int, inner: int, columns: int, batch: int = 1) -> None:
        for shape in ((rows, inner, columns), (rows, columns, inner), (inner, rows, columns)):
            counts[*shape, batch] = counts.get((*shape, batch), 0) + times

    add(4 * setting.blocks, positions, width, width)
    add(setting.blocks, positions, width, 4 * width)
    add(setting.blocks, positions, 4 * width, width)
    add(1, positions, width, setting.vocabulary)
    add(setting.blocks, time, size, time, pairs)
    add(setting.blocks, time, time, size, pairs)
    return counts


def of_attention(shape: tuple[int, ...]) -> bool:
    """Whether a product is one of heads, not of weights."""
    return shape[3] > 1


def speed(width: int, rounds: int) -> dict[str, Any]:
    """One width: seconds, tokens per second and shares of the ceiling."""
    setting = Setting(width, sequences=SEQUENCES.get(width, 4))
    flops, batch, shapes = setting.flops(), setting.batch(), products(setting)
    steps = [ours(setting), flax(setting), ours(setting, scan=True)]
    actions = [network.action(batch) for network in steps]
    actions += [product(size, size, size) for size in CEILING_SIZES]
    actions += [product(rows, inner, columns, batch) for rows, inner, columns, batch in shapes]
    taken = alternating(actions, rounds)
    squares = taken[3 : 3 + len(CEILING_SIZES)]
    rates = [[2 * size**3 / each for each in record] for size, record in zip(CEILING_SIZES, squares, strict=True)]
    ceiling = max(rates, key=statistics.median)
    alone = dict(zip(shapes, taken[3 + len(CEILING_SIZES) :], strict=True))

    def together(kept: Callable[[tuple[int, ...]], bool]) -> list[float]:
        return [sum(n * alone[shape][i] for shape, n in shapes.items() if kept(shape)) for i in range(rounds)]

    floor, heads = together(lambda _: True), together(of_attention)
    mine, peer, scanned = taken[:3]
    tokens = setting.positions
    head_flops = sum(2 * n * np.prod(shape) for shape, n in shapes.items() if of_attention(shape))
    return {
        **{name: getattr(setting, name) for name in setting.__dataclass_fields__},
        "flops": flops,
        "step_s": statistics.median(mine),
        "flax_step_s": statistics.median(peer),
        "scan_step_s": statistics.median(scanned),
        "products_s": statistics.median(floor),
        "ceiling_gflops": statistics.median(ceiling) / 1e9,
        "tokens_per_second": tokens / statistics.median(mine),
        "flax_tokens_per_second": tokens / statistics.median(peer),
        "products_tokens_per_second": tokens / statistics.median(floor),
        "flax_over_ours": over(peer, mine),
        "scan_over_ours": over(scanned, mine),
        "of_ceiling": over([flops / each for each in mine], ceiling),
        "flax_of_ceiling": over([flops / each for each in peer], ceiling),
        "products_of_ceiling": over([flops / each for each in floor], ceiling),
        "attention_products_of_ceiling": over([head_flops / each for each in heads], ceiling),
        "products_over_step": over(floor, mine),
    }


def over(first: Sequence[float], second: Sequence[float]) -> float:
    """The median over rounds of a ratio."""
    return statistics.median(one / other for one, other in zip(first, second, strict=True))


def compiling(blocks: int) -> dict[str, float]:
    """Seconds to trace and compile a step of that depth, from shapes, with the blocks one by one and in a loop."""
    setting = Setting(COMPILED_WIDTH, blocks=blocks)

    def seconds(network: Network) -> float:
        params = network.shapes()
        state = jax.eval_shape(network.transform.init, params)
        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(network.step, donate_argnums=(0, 1)).lower(params, state, *setting.batch()).compile()
        return time.perf_counter() - start

    loop, single, peer = ours(setting, scan=True), ours(setting), flax(setting)
    return {"blocks": blocks, "scan_s": seconds(loop), "blocks_s": seconds(single), "flax_s": seconds(peer)}


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--widths", default="256,1024")
    options = parser.parse_args()
    with jax.default_matmul_precision("highest"):
        rows = [speed(int(width), options.rounds) for width in options.widths.split(",")]
        compiled = [compiling(blocks) for blocks in DEPTHS]
    ceiling = max(row["ceiling_gflops"] for row in rows)
    report("transformer", {"ceiling_gflops": ceiling, "rows": rows, "compiling": compiled}, options.out)


if __name__ == "__main__":
    main()
