"""Networks over a grid of learning-rate exponents (c_hidden, c_readout): the training behind `verify phase`.

    eta_l = base rate (n / n_0)^-c_l

Rates are traced values, so that one compilation per width serves the whole grid. What is predicted, and how it
compares, is in `verify.studies.phase.result`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import jax
import numpy as np
import optax
from jaxtyping import Array

from derive.emit import layer_names
from derive.registry import spelled
from derive.solve import prescribe, solve_kinds
from verify.measuring.forward import initial_inputs, measure
from verify.studies.phase.plane import Conditions, Network
from verify.training.config import Config
from verify.training.data import Corpus
from verify.training.networks import loss
from verify.training.rules.directions import check_trainable
from verify.training.rules.transforms import ScaledRule, label_layers, per_layer
from verify.training.rules.usual import base_epsilon, base_rate
from verify.training.runs import for_each
from verify.training.trainer import Trainer
from verify.values import Tree


def usual_rate(optimizer: str) -> float:
    """The base rate where none is given; DeriveError for an optimizer that cannot be trained."""
    names = {kind: spelled(rule) for kind, rule in prescribe(optimizer).problem.optimizers.items()}
    check_trainable(names)
    return base_rate(*names.values())


def train(
    conditions: Conditions, width: int, corpus: Corpus, progress: Callable[[int], None] = lambda _: None
) -> Network:
    """Train every point and seed at one width.

    Points whose rates are the same numbers are one network: at the base width that is all of them.
    """
    sizes = {"context": conditions.context, "hidden_layers": conditions.hidden_layers, "vocabulary": corpus.vocabulary}
    prescribed = solve_kinds(conditions.prescription().problem)
    config = Config(prescribed, conditions.base_width, conditions.base_rate, batch=conditions.batch, sizes=sizes)
    exponents = np.array([[float(c) for c in conditions.exponents(point)] for point in conditions.points])
    rates = conditions.base_rate * (width / conditions.base_width) ** -exponents[:, [0, 1, -1]]
    distinct, place = np.unique(rates, axis=0, return_inverse=True)
    with jax.default_matmul_precision("highest"):
        trainer = Trainer(config, width, range(conditions.seeds))
        batches = [trainer.batches(corpus, step) for step in range(1, conditions.steps + 1)]
        inputs, targets = (np.stack([pair[which] for pair in batches], axis=1) for which in (0, 1))
        run = jax.jit(for_each(partial(_run, trainer, conditions.marks), [True, True, True, False, False]))
        found = []
        for index, each in enumerate(distinct):
            found.append(jax.device_get(run(trainer.keys, inputs, targets, each, trainer.probe(corpus))))
            progress(int((place == index).sum()))
    losses, measured = zip(*(found[index] for index in place.ravel()), strict=True)
    tables = jax.tree.map(lambda *values: np.stack(values).astype(float), *measured)
    return Network(width, tables, np.stack(losses).astype(float))


def _run(
    trainer: Trainer, marks: Sequence[int], key: Array, inputs: Array, targets: Array, rates: Array, probe: Array
) -> tuple[Array, dict[int, Tree]]:
    """(losses of every step, sizes after the marked ones) of one network; a loss is that before its step."""
    initial = trainer.model.init(key)
    transform = _transform(trainer, rates)
    before = initial_inputs(trainer.trace, initial, probe)

    def step(carry: Tree, batch: Tree) -> Tree:
        params, state = carry
        value, gradients = jax.value_and_grad(lambda p: loss(trainer.apply(p, batch[0]), batch[1]))(params)
        updates, state = transform.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), value

    carry, losses, sizes = (initial, transform.init(initial)), [], {}
    for start, end in pairwise((0, *marks)):
        carry, values = jax.lax.scan(step, carry, (inputs[start:end], targets[start:end]))
        losses.append(values)
        sizes[end] = measure(trainer.trace, initial, before, carry[0], probe)
    return jax.numpy.concatenate(losses), sizes


def _transform(trainer: Trainer, rates: Array) -> optax.GradientTransformation:
    """The optimizer with the prescribed epsilons and these rates of embedding, hidden and readout."""
    prescribed, ratio = trainer.config.prescription, trainer.width / trainer.config.base_width
    rules = []
    for label, layer, rate in zip(layer_names(prescribed), prescribed.layers, rates, strict=True):
        rule = spelled(prescribed.problem.optimizers[layer.kind])
        epsilon = base_epsilon(rule) * ratio ** -float(layer.epsilon or 0)
        rules.append(ScaledRule(label, rule, rate, epsilon, 0.0))
    kinds = trainer.model.labels(jax.eval_shape(trainer.model.init, jax.random.key(0)))
    return per_layer(rules, label_layers(layer_names(prescribed), kinds))
