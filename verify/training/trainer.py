"""One run: a network of one width, several seeds at once, measured at log-spaced steps."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import isfinite

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from derive.emit import layer_names, parts
from derive.words import Kind
from verify.measuring.forward import gradient_sizes, initial_inputs, matrix_ops, measure
from verify.measuring.trace import Trace, roles, trace
from verify.training.checkpoint import Checkpoints, RunState
from verify.training.config import Config, Measurement, Run
from verify.training.data import Corpus
from verify.training.mesh import (
    activation_sharding,
    along_seeds,
    batch_sharding,
    place,
    place_activation,
    product,
    replicated,
    weight_sharding,
)
from verify.training.networks import computed_in, label_writers, loss, stacks
from verify.training.rules.transforms import label_layers, optimizer
from verify.training.runs import for_each
from verify.values import Leaf, Tree


def log_spaced(steps: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to and with `steps`."""
    marks = [digit * 10**power for power in range(len(str(steps))) for digit in (1, 2, 5)]
    return sorted({*(mark for mark in marks if mark <= steps), steps})


class Trainer:
    """Everything compiled for one width and all seeds; arrays have a leading axis of seeds.

    On a mesh every array is spread over its devices from the start, as `verify.training.mesh` says, and the numbers
    stay the same but for the order of sums.
    """

    def __init__(self, config: Config, width: int, seeds: Sequence[int], mesh: Mesh | None = None) -> None:
        self.config, self.width, self.seeds, self.mesh = config, width, list(seeds), mesh
        self.model = config.at(width, **({"place": partial(place_activation, mesh=mesh)} if mesh else {}))
        self.keys = jnp.stack([jax.random.key(seed) for seed in self.seeds])
        if mesh:
            bits = place(np.asarray(jax.random.key_data(self.keys)), replicated(mesh))
            self.keys = jax.random.wrap_key_data(bits)
        shapes = jax.eval_shape(self.model.init, jax.random.key(0))
        kinds = self.model.labels(shapes)
        labels = label_layers(layer_names(config.prescription), kinds)
        if any(part for _, _, part in parts(config.prescription)):
            labels = label_writers(self.model.parameters(), labels)
        self.stacked = stacks(self.model.parameters(), labels)
        self.transform = optimizer(
            config.prescription,
            labels,
            config.base_rate,
            width / config.base_width,
            epsilon=config.epsilon,
            weight_decay=config.weight_decay,
            stacked=self.stacked.values(),
        )
        self.apply = computed_in(config.dtype, self.model.apply)
        tokens = jax.ShapeDtypeStruct((config.probe, self.context), jnp.int32)
        self.trace: Trace = trace(self.model.apply, shapes, tokens)
        normed = matrix_ops(self.trace, kinds, config.prescription.problem.optimizers)
        multiply = partial(product, self.trace, mesh=mesh) if mesh else None
        measured = partial(measure, self.trace, normed=normed, multiply=multiply)
        observed = partial(initial_inputs, self.trace, multiply=multiply)
        weights, whole = self._placed(weight_sharding, shapes), mesh and replicated(mesh)
        state = self._placed(weight_sharding, jax.eval_shape(self.transform.init, shapes))
        inputs = self._placed(activation_sharding, jax.eval_shape(observed, shapes, tokens))
        self._draw = jax.jit(for_each(self.model.init, [True]), out_shardings=weights)
        self.init_state = jax.jit(for_each(self.transform.init, [True]), out_shardings=state)
        placed = mesh and (weights, state, whole, whole)
        self.step = jax.jit(for_each(self._step, [True] * 4), donate_argnums=(0, 1), out_shardings=placed)
        self.initial_inputs = jax.jit(for_each(observed, [True, False]), out_shardings=inputs)
        self.measure = jax.jit(for_each(measured, [True, True, True, False]), out_shardings=whole)

    def _placed(self, sharding: Callable[..., NamedSharding], shapes: Tree) -> Tree:
        """Where the leaves of a tree lie, of which there is one per seed; None without a mesh."""
        mesh = self.mesh
        return mesh and jax.tree.map(lambda leaf: along_seeds(sharding(leaf.shape, mesh)), shapes)

    @property
    def context(self) -> int:
        """Tokens that the model reads at once."""
        return self.model.context  # type: ignore[attr-defined]

    def initial(self) -> Tree:
        """W_0 of every seed, drawn from its key: the same bits each time."""
        return self._draw(self.keys)

    def _step(self, params: Tree, state: Tree, inputs: Tree, targets: Tree) -> tuple[Tree, Tree, Tree, Tree]:
        value, gradients = jax.value_and_grad(lambda p: loss(self.apply(p, inputs), targets))(params)
        updates, state = self.transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value, gradient_sizes(gradients, self.stacked)

    def batches(self, corpus: Corpus, step: int) -> tuple[Tree, Tree]:
        """A training batch for every seed, stacked."""
        config = self.config
        pairs = [corpus.batch("train", config.batch, self.context, step, seed, config.targets) for seed in self.seeds]
        inputs, targets = (np.stack(each) for each in zip(*pairs, strict=True))
        if self.mesh is None:
            return inputs, targets
        split = along_seeds(batch_sharding(inputs.shape[1:], self.mesh))
        return place(inputs, split), place(targets, split)

    def probe(self, corpus: Corpus) -> Tree:
        """The probe batch: fixed, held out, the same for all seeds and widths."""
        tokens = corpus.batch("held_out", self.config.probe, self.context, 0, 0, self.config.targets)[0]
        return tokens if self.mesh is None else place(tokens, batch_sharding(tokens.shape, self.mesh))

    def run(
        self,
        corpus: Corpus,
        steps: int,
        progress: Callable[[], None] = lambda: None,
        checkpoints: Checkpoints | None = None,
    ) -> Run:
        """Train for `steps` steps and measure at log-spaced ones; with checkpoints, from the last that is stored.

        A seed whose loss is no longer finite is noted with its step, and measured as NaN from there on; when all
        have diverged the run ends.
        """
        marks, probe, params = log_spaced(steps), self.probe(corpus), self.initial()
        inputs = self.initial_inputs(params, probe)
        run = RunState(params, self.init_state(params))
        del params
        if checkpoints:
            checkpoints.restore(self.width, run)
        for _ in range(run.step):
            progress()

        def going() -> bool:
            return run.step < steps and len(run.diverged) < len(self.seeds)

        while going():
            step = run.step + 1
            run.params, run.state, values, gradients = self.step(run.params, run.state, *self.batches(corpus, step))
            run.losses.append(np.asarray(values))
            for seed, value in zip(self.seeds, run.losses[-1], strict=True):
                if not isfinite(value):
                    run.diverged.setdefault(seed, step)
            if step in marks:
                run.sizes[step] = self._sizes(inputs, run.params, probe, gradients)
            progress()
            if checkpoints and (checkpoints.due(step) or not going()):
                checkpoints.save(self.width, run)
        fans = {op.name: op.fan_in for op in self.trace.ops}
        measurements = [Measurement(self.width, step, sizes) for step, sizes in run.sizes.items()]
        return Run(self.width, self.kinds(), fans, measurements, np.array(run.losses), run.diverged)

    def _sizes(self, inputs: Tree, params: Tree, probe: Tree, gradients: Tree) -> dict[str, dict[str, Leaf]]:
        """What one step shows, gradients too."""
        sizes = jax.device_get(self.measure(self.initial(), inputs, params, probe))
        for path, size in jax.device_get(gradients).items():
            for op in self.trace.ops:
                if op.path == path:
                    sizes[op.name]["gradient"] = size[:, op.iteration[0]] if path in self.stacked else size
        return sizes

    def kinds(self) -> dict[str, Kind]:
        """The role of every dense op, from its shapes at this width and at twice it."""
        wide = self.config.at(2 * self.width)
        tokens = jax.ShapeDtypeStruct((self.config.probe, self.context), jnp.int32)
        larger = trace(wide.apply, jax.eval_shape(wide.init, jax.random.key(0)), tokens)
        return roles(self.trace, larger, 2)


def study(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> Iterator[Run]:
    """Train every width in turn; yields each as it is finished."""
    for width in widths:
        yield train_width(config, width, seeds, steps, corpus, progress, mesh, checkpoints)


def train_width(
    config: Config,
    width: int,
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
    mesh: Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> Run:
    """Train every seed of one width, products in full precision."""
    with jax.default_matmul_precision("highest"):
        return Trainer(config, width, seeds, mesh).run(corpus, steps, progress, checkpoints)
