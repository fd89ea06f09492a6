"""Networks trained until decay and updates are in balance: the study behind `verify decay`.

What the equilibrium should be, and how it is judged, is in `verify.studies.decay.theory`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array

from derive.errors import DeriveError
from derive.registry import spelled
from derive.solve import Prescription, prescribe
from derive.words import Kind
from verify.measuring.forward import Sizes, operator_norm, root_mean_square
from verify.measuring.trace import Trace
from verify.studies.decay.conditions import Conditions
from verify.studies.decay.theory import MARKS, Network
from verify.training.config import Config
from verify.training.data import Corpus, next_token
from verify.training.networks import loss
from verify.training.rules.directions import check_trainable
from verify.training.rules.usual import base_rate
from verify.training.runs import for_each
from verify.training.trainer import Trainer
from verify.values import Leaf, Tree

TIME_CONSTANTS = 4
"""How many times 1/(eta lambda) the slowest layer of the study is trained, unless the steps are given."""
TUNED = {"adam": 0.016, "adamw": 0.016}
"""Base rates that train well at width 64, where the best one is known."""


def usual_rate(optimizer: str) -> float:
    """The base rate where none is given; DeriveError for an optimizer that cannot be trained to an equilibrium.

    A step in proportion to the weights grows and shrinks with them, so that nothing fixes the size at which it balances
    the decay.
    """
    rules = prescribe(optimizer).problem.optimizers
    check_trainable({kind: spelled(rule) for kind, rule in rules.items()})
    for rule in rules.values():
        if rule.weight_degree != 0:
            raise DeriveError(
                f"{rule.name} takes steps in proportion to the weights, so that no size is an equilibrium with decay; "
                "give another optimizer, such as adamw or lion"
            )
    return min(TUNED.get(name, 4 * base_rate(name)) for name in map(spelled, rules.values()))


def scaled(prescribed: Prescription, rate: float, weight_decay: float, ratio: float) -> dict[Kind, tuple[float, float]]:
    """(eta, eta lambda) of every layer kind at n / n_0 = `ratio`."""
    return {
        layer.kind: (
            rate * ratio ** -float(layer.c),
            rate * weight_decay * ratio ** -float(layer.c + layer.decay),
        )
        for layer in prescribed.layers
    }


def steps_needed(
    prescriptions: Sequence[Prescription], rate: float, weight_decay: float, ratios: Sequence[float]
) -> int:
    """Four time constants of the slowest layer of all, 4 / (eta lambda), rounded up to whole marks.

    DeriveError where a layer would lose all of its weights, or more, in one step.
    """
    paces = [
        pace
        for each in prescriptions
        for ratio in ratios
        for _, pace in scaled(each, rate, weight_decay, ratio).values()
    ]
    if max(paces) >= 1:
        raise DeriveError(
            f"--weight-decay {weight_decay:g} with --base-rate {rate:g} takes {max(paces):.3g} of a layer's weights in "
            f"a step; give a decay below {weight_decay / max(paces):.3g}"
        )
    return MARKS * math.ceil(TIME_CONSTANTS / min(paces) / MARKS)


def train(
    conditions: Conditions,
    prescribed: Prescription,
    width: int,
    corpus: Corpus,
    progress: Callable[[int], None] = lambda _: None,
) -> Network:
    """Train all seeds of one width, measuring at evenly spaced steps; ends early where all have diverged."""
    config = Config(
        prescribed,
        conditions.base_width,
        conditions.base_rate,
        batch=conditions.batch,
        weight_decay=conditions.weight_decay,
        sizes={
            "context": conditions.context,
            "hidden_layers": conditions.hidden_layers,
            "vocabulary": corpus.vocabulary,
        },
    )
    with jax.default_matmul_precision("highest"):
        return _train(conditions, Trainer(config, width, range(conditions.seeds)), corpus, progress)


def _train(conditions: Conditions, trainer: Trainer, corpus: Corpus, progress: Callable[[int], None]) -> Network:
    prescribed, ops, kinds = trainer.config.prescription, trainer.trace.ops, trainer.kinds()
    ratio = trainer.width / conditions.base_width
    numbers = scaled(prescribed, conditions.base_rate, conditions.weight_decay, ratio)
    advance = steps_of(trainer, numbers)
    look = jax.jit(for_each(partial(present_sizes, trainer.trace), [True, False]))
    evaluate = jax.jit(for_each(lambda params, *batch: _loss(trainer, params, *batch), [True, False, False]))
    params, probe = trainer.initial(), trainer.probe(corpus)
    inputs, state = trainer.initial_inputs(params, probe), trainer.init_state(params)
    marks = [math.ceil(conditions.steps * (1 + mark) / MARKS) for mark in range(MARKS)]
    losses, measured = [], []
    for before, mark in pairwise([0, *marks]):
        drawn = [trainer.batches(corpus, step) for step in range(before + 1, mark + 1)]
        batches = (np.stack([pair[which] for pair in drawn], axis=1) for which in (0, 1))
        params, state, values, updates = advance(params, state, *batches)
        losses.append(np.asarray(values))
        found = trainer.measure(trainer.initial(), inputs, params, probe), look(params, probe)
        then, now, updates = jax.device_get((*found, updates))
        measured.append({op.name: then[op.name] | now[op.name] | {"update": updates[op.path]} for op in ops})
        progress(mark - before)
        if not np.isfinite(losses[-1][:, -1]).any():
            break
    curves, late = np.concatenate(losses, axis=1), measured[len(measured) // 2 :]
    held_out = corpus.batch("held_out", conditions.evaluation, trainer.context, 0, 0, next_token)
    return Network(
        parameterization=prescribed.problem.parameterization.name,
        decay=prescribed.decay,
        width=trainer.width,
        kinds=kinds,
        rates={name: numbers[kind][0] for name, kind in kinds.items()},
        paces={name: numbers[kind][1] for name, kind in kinds.items()},
        marks=tuple(marks[: len(measured)]),
        weights={name: np.stack([each[name]["now_weight"] for each in measured]) for name in kinds},
        sizes={name: {size: _mean([each[name][size] for each in late]) for size in late[0][name]} for name in kinds},
        held_out=np.asarray(evaluate(params, *held_out)),
        training=losses[-1].mean(axis=1),
        diverged={
            seed: int(np.argmin(np.isfinite(curve))) + 1
            for seed, curve in zip(trainer.seeds, curves, strict=True)
            if not np.isfinite(curve).all()
        },
    )


def _loss(trainer: Trainer, params: Tree, inputs: Array, targets: Array) -> Array:
    return loss(trainer.apply(params, inputs), targets)


def _mean(sizes: Sequence[Leaf]) -> Leaf:
    with np.errstate(divide="ignore"):  # a layer of zeros has size 0
        return np.exp(np.log(np.stack(sizes)).mean(axis=0))


def steps_of(trainer: Trainer, numbers: Mapping[Kind, tuple[float, float]]) -> Callable[..., Any]:
    """Compile (params, state, inputs, targets) -> (params, state, losses, RMS(U) by path): all steps in one call.

    Arrays have a leading axis of seeds, batches [seeds, steps, batch, ...], losses [seeds, steps]. A step of a narrow
    network takes less time than calling it would.
    """
    kinds = trainer.model.labels(jax.eval_shape(trainer.model.init, jax.random.key(0)))

    def mean_square(update: Array, weight: Array, kind: Kind) -> Array:
        rate, pace = numbers[kind]
        return root_mean_square((update + pace * weight) / rate) ** 2

    def step(carry: Tree, batch: Tree) -> Tree:
        params, state = carry
        value, gradients = jax.value_and_grad(lambda p: _loss(trainer, p, *batch))(params)
        updates, state = trainer.transform.update(gradients, state, params)
        squares = jax.tree.map(mean_square, updates, params, kinds)
        return (optax.apply_updates(params, updates), state), (value, squares)

    def run(params: Tree, state: Tree, inputs: Array, targets: Array) -> Tree:
        (params, state), (losses, squares) = jax.lax.scan(step, (params, state), (inputs, targets))
        named = jax.tree_util.tree_leaves_with_path(squares)
        sizes = {jax.tree_util.keystr(path, simple=True, separator="."): leaf.mean() ** 0.5 for path, leaf in named}
        return params, state, losses, sizes

    return jax.jit(for_each(run, [True] * 4), donate_argnums=(0, 1))


def present_sizes(trace: Trace, params: Tree, probe: Array) -> Sizes:
    """Per dense op now_weight RMS(W) and now_operator_norm; but for lookups now_input RMS(z), now_product RMS(W z)."""
    _, operands = trace.run(params, probe)
    found = {}
    for op in trace.ops:
        z, weight = operands[op.name]
        sizes = {"now_weight": root_mean_square(weight), "now_operator_norm": operator_norm(weight)}
        if op.primitive != "gather":
            product = trace.product(op, z, weight)
            sizes |= {"now_input": root_mean_square(z), "now_product": root_mean_square(product)}
        found[op.name] = sizes
    return found
