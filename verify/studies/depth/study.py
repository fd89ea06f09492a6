"""The study behind `verify exponents --axis depth`: transformers of growing depth, one unit for each of their sizes."""

from collections.abc import Callable
from functools import partial
from math import isfinite

import jax
import numpy as np

from verify.measuring.forward import gradient_sizes
from verify.measuring.stream import measure_stream
from verify.studies.depth.conditions import PARAMETERS, Conditions, Network, PerSeed
from verify.training.data import Corpus
from verify.training.runs import for_each
from verify.training.trainer import Trainer, log_spaced
from verify.values import Leaf, Tree


def train(
    conditions: Conditions, width: int, depth: int, corpus: Corpus, progress: Callable[[int], None] = lambda _: None
) -> Network:
    """Train every seed of one size and measure at log-spaced steps; ends early where all have diverged."""
    with jax.default_matmul_precision("highest"):
        trainer = Trainer(conditions.config(width, depth, corpus.vocabulary), width, range(conditions.seeds))
        return _train(conditions, trainer, corpus, progress)


def _train(conditions: Conditions, trainer: Trainer, corpus: Corpus, progress: Callable[[int], None]) -> Network:
    look = jax.jit(for_each(partial(_look, trainer), [True, True, False]))
    params, probe = trainer.initial(), trainer.probe(corpus)
    state = trainer.init_state(params)
    found: dict[int, dict[str, dict[str, Leaf]]] = {}
    losses, diverged = [], dict[int, int]()
    for step in range(1, conditions.steps + 1):
        params, state, values, gradients = trainer.step(params, state, *trainer.batches(corpus, step))
        losses.append(np.asarray(values))
        for seed, value in enumerate(losses[-1]):
            if not isfinite(value):
                diverged.setdefault(seed, step)
        if step in log_spaced(conditions.steps):
            sizes, parameters = jax.device_get(look(trainer.initial(), params, probe))
            seen = {"gradient": jax.device_get(gradients), **parameters}
            of = {name: {each: values[name] for each, values in seen.items()} for name in PARAMETERS}
            found[step] = {name: dict(map(_over_blocks, each.items())) for name, each in (of | sizes).items()}
        progress(1)
        if len(diverged) == conditions.seeds:
            break
    return Network(found, np.array(losses), diverged)


def _look(trainer: Trainer, initial: Tree, params: Tree, probe: Tree) -> Tree:
    """Sizes of changes along the stream, and of every parameter and its change."""
    changes = jax.tree.map(lambda now, then: now - then, params, initial)
    weights = {"delta_w": changes, "weight": initial}
    sizes = {quantity: gradient_sizes(tree, trainer.stacked) for quantity, tree in weights.items()}
    return measure_stream(trainer.model, initial, params, probe), sizes  # type: ignore[arg-type]


def _over_blocks(named: tuple[str, Leaf]) -> tuple[str, PerSeed]:
    """Root mean square over blocks of what every block has, [seeds, blocks]."""
    name, values = named
    values = np.asarray(values, dtype=float)
    return name, values if values.ndim == 1 else np.sqrt(np.mean(values**2, axis=1))
