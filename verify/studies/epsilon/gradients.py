"""Measures the backward pass of networks of growing width; `gradient_verdicts` judges what is found."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from derive.words import Kind
from verify.fit.backward import Gradients
from verify.measuring.backward import backward
from verify.measuring.trace import trace
from verify.studies.study import check_widths
from verify.training.config import Config
from verify.training.data import Corpus
from verify.training.networks import loss
from verify.training.runs import for_each
from verify.training.trainer import Trainer
from verify.values import Tree


def gradients(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
) -> Gradients:
    """Measure the backward pass of every width at initialisation (step 0) and after `steps` steps of training.

    It is measured in float32, on the batch that the next step is trained on; a seed that has diverged measures as NaN.
    StudyError for fewer than two widths, ModelError for sizes that do not fit.
    """
    check_widths(widths)
    for width in widths:
        config.at(width)
    found = [gradients_at(config, width, seeds, steps, corpus, progress) for width in widths]
    tables = {
        step: jax.tree.map(lambda *sizes: np.stack(sizes), *(table[step] for table, _ in found)) for step in (0, steps)
    }
    return Gradients(tuple(widths), found[-1][1], tables)


def gradients_at(
    config: Config,
    width: int,
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
) -> tuple[dict[int, Tree], dict[str, Kind]]:
    """(sizes by step, layer and quantity, [seeds] each; the layers' kinds) of one width."""
    found: dict[int, Tree] = {}
    with jax.default_matmul_precision("highest"):
        trainer = Trainer(config, width, seeds)
        measure = _compiled(trainer)
        params = trainer.initial()
        state = trainer.init_state(params)
        for step in range(steps + 1):
            batch = trainer.batches(corpus, step + 1)
            if step in (0, steps):
                found[step] = jax.device_get(measure(trainer.initial(), params, *batch))
            if step < steps:
                params, state, *_ = trainer.step(params, state, *batch)
                progress()
        return found, trainer.kinds()


def _compiled(trainer: Trainer) -> Callable[..., Any]:
    """`backward` of every seed, on batches of the size that is trained on."""
    model, tokens = trainer.model, jax.ShapeDtypeStruct((trainer.config.batch, trainer.context), jnp.int32)
    traced = trace(model.apply, jax.eval_shape(model.init, trainer.keys[0]), tokens)
    return jax.jit(for_each(partial(backward, traced, loss), [True] * 4))
