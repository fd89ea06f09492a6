"""Networks of one width trained in one compiled loop, every seed with every rate.

Rates and seeds are traced values, so one compilation serves every base rate, alignment and set of constants at
that width. The shape of a batch is part of its record: a batch done again in the same shape gives the same bits.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from derive.exponents import KINDS, Kind
from verify.data import Corpus
from verify.each import for_each
from verify.models import Model, Scaling, computed_in, loss
from verify.optimizers import ScaledRule, base_epsilon, label_layers, per_layer
from verify.studies import Batch, Conditions, LayerScaling, Record, Setting
from verify.train import TARGETS, build, device_name, log_spaced

SEGMENT = 50
"""Steps in one compiled call: its batches are held at once, and a batch that has diverged ends after it."""
EVALUATION_CHUNK = 256
"""Held-out windows in one forward pass."""


def kind_of(label: str) -> Kind:
    """The layer kind of a label such as hidden or hidden.3."""
    return next(kind for kind in KINDS if label.split(".")[0] == kind)


def layer_rates(setting: Setting, base_rate: float, ratio: float) -> list[float]:
    """Learning rate of every layer: base_rate * constant_l * ratio^-c_l, with ratio = n / n_0."""
    constants = dict(zip(KINDS, setting.constants, strict=True))
    return [
        base_rate * constants[kind_of(layer.label)] * ratio ** -float(Fraction(layer.c)) for layer in setting.layers
    ]


def model_at(conditions: Conditions, layers: Sequence[LayerScaling], width: int) -> Model:
    """The model at that width; ModelError for sizes that do not fit."""
    of_kind = {kind_of(layer.label): layer for layer in layers}
    a, b = ([Fraction(getattr(of_kind[kind], name)) for kind in KINDS] for name in ("a", "b"))
    scaling = Scaling(width, conditions.base_width, tuple(a), tuple(b))  # type: ignore[arg-type]
    return build(conditions.model, scaling, conditions.sizes)


@dataclass(frozen=True)
class Structure:
    """What is compiled: everything but rates and seeds. `layers` have their c left out, since rates are traced."""

    conditions: Conditions
    layers: tuple[LayerScaling, ...]
    width: int
    epsilon: float | None = None

    @classmethod
    def of(cls, conditions: Conditions, setting: Setting, width: int) -> "Structure":
        """The structure that the setting shares with others of its optimizer and parameterization."""
        decays = conditions.weight_decay > 0
        layers = (replace(layer, c="", decay=layer.decay if decays else "0") for layer in setting.layers)
        return cls(conditions, tuple(layers), width, conditions.epsilon if setting.epsilon is None else setting.epsilon)

    @property
    def ratio(self) -> float:
        """n / n_0."""
        return self.width / self.conditions.base_width


class Loop:
    """The compiled training loop of one structure; arrays have leading axes of seeds and rates.

    `rates` [rates, layers] are learning rates per layer; parameters and state are [seeds, rates, ...].
    """

    def __init__(self, structure: Structure) -> None:
        self.conditions, self.structure = structure.conditions, structure
        self.model = model_at(self.conditions, structure.layers, structure.width)
        self.apply = computed_in(self.conditions.dtype, self.model.apply)
        self.shapes = jax.eval_shape(self.model.init, jax.random.key(0))
        self.labels = label_layers((layer.label for layer in structure.layers), self.model.labels(self.shapes))
        self.start = jax.jit(self._start)
        self.advance = jax.jit(self._advance, donate_argnums=(0, 1))
        self.evaluate = jax.jit(self._evaluate)

    @property
    def context(self) -> int:
        """Tokens that the model reads at once."""
        return self.model.context  # type: ignore[attr-defined]

    def transform(self, rates: Any) -> optax.GradientTransformation:
        """The update rules with their rates, clipped before by the norm of the whole gradient where asked for."""
        conditions, ratio = self.conditions, self.structure.ratio
        rules = []
        for index, layer in enumerate(self.structure.layers):
            start = base_epsilon(layer.rule) if self.structure.epsilon is None else self.structure.epsilon
            epsilon = start * ratio ** -float(Fraction(layer.epsilon or 0))
            decay = conditions.weight_decay * ratio ** -float(Fraction(layer.decay))
            rules.append(ScaledRule(layer.label, layer.rule, rates[index], epsilon, decay))
        updates = per_layer(rules, self.labels)
        if conditions.clip is None:
            return updates
        return optax.chain(optax.clip_by_global_norm(conditions.clip), updates)

    def _each(self, function: Any, over: Any) -> Any:
        """The function of one run for all of them; `over`: whether an argument has axes of (seeds, rates)."""
        inner = for_each(function, [rates for _, rates in over])
        return for_each(inner, [seeds for seeds, _ in over])

    def _start(self, keys: Any, rates: Any) -> tuple[Any, Any]:
        def begin(key: Any, rate: Any) -> tuple[Any, Any]:
            params = self.model.init(key)
            return params, self.transform(rate).init(params)

        return self._each(begin, [(True, False), (False, True)])(keys, rates)

    def _advance(self, params: Any, state: Any, rates: Any, inputs: Any, targets: Any, count: Any) -> Any:
        """`count` steps on inputs and targets [seeds, SEGMENT, batch, ...]; losses [seeds, rates, SEGMENT]."""

        def run(params: Any, state: Any, rates: Any, inputs: Any, targets: Any) -> Any:
            def body(index: Any, carry: Any) -> Any:
                params, state, losses = carry
                value, gradients = jax.value_and_grad(lambda p: loss(self.apply(p, inputs[index]), targets[index]))(
                    params
                )
                updates, state = self.transform(rates).update(gradients, state, params)
                return optax.apply_updates(params, updates), state, losses.at[index].set(value)

            return jax.lax.fori_loop(0, count, body, (params, state, jnp.zeros(SEGMENT)))

        over = [(True, True), (True, True), (False, True), (True, False), (True, False)]
        return self._each(run, over)(params, state, rates, inputs, targets)

    def _evaluate(self, params: Any, inputs: Any, targets: Any) -> Any:
        """Mean loss [seeds, rates] over held-out windows [chunks, chunk, ...], chunk by chunk."""

        def run(params: Any) -> Any:
            return jax.lax.map(lambda pair: loss(self.apply(params, pair[0]), pair[1]), (inputs, targets)).mean()

        return self._each(run, [(True, True)])(params)


def _segments(
    conditions: Conditions, corpus: Corpus, context: int, seeds: Sequence[int], first: int, count: int
) -> Any:
    """Training batches of `count` steps from step `first` on, padded to SEGMENT: [seeds, SEGMENT, batch, ...]."""
    steps = [*range(first, first + count), *[first] * (SEGMENT - count)]
    drawn = [
        [corpus.batch("train", conditions.batch, context, step, seed, TARGETS[conditions.model]) for step in steps]
        for seed in seeds
    ]
    return [np.stack([[pair[which] for pair in row] for row in drawn]) for which in (0, 1)]


def _held_out(conditions: Conditions, corpus: Corpus, context: int) -> Any:
    """The held-out windows on which every run of the study ends: [chunks, chunk, ...]."""
    pair = corpus.batch("held_out", conditions.evaluation, context, 0, 0, TARGETS[conditions.model])
    chunk = math.gcd(conditions.evaluation, EVALUATION_CHUNK)
    return [each.reshape(-1, chunk, *each.shape[1:]) for each in pair]


def train(loop: Loop, setting: Setting, batch: Batch, corpus: Corpus) -> list[Record]:
    """Train the batch from its seeds to the end; one Record per run.

    A run that diverges goes on as NaN beside the others; when all have diverged the batch ends.
    """
    conditions, started = loop.conditions, time.perf_counter()
    rates = np.array([layer_rates(setting, rate, loop.structure.ratio) for rate in batch.rates], dtype=np.float32)
    keys = jnp.stack([jax.random.key(seed) for seed in batch.seeds])
    losses = []
    with jax.default_matmul_precision("highest"):
        params, state = loop.start(keys, rates)
        for first in range(1, conditions.steps + 1, SEGMENT):
            count = min(SEGMENT, conditions.steps + 1 - first)
            windows = _segments(conditions, corpus, loop.context, batch.seeds, first, count)
            params, state, values = loop.advance(params, state, rates, *windows, count)
            losses.append(np.asarray(values)[..., :count])
            if not np.isfinite(losses[-1][..., -1]).any():
                break
        final = np.asarray(loop.evaluate(params, *_held_out(conditions, corpus, loop.context)))
    curves = np.concatenate(losses, axis=-1)
    seconds = (time.perf_counter() - started) / final.size
    make = partial(_record, setting.name, batch.width, conditions.steps, seconds, device_name())
    return [
        make(rate, seed, curves[column, row], float(final[column, row]))
        for row, rate in enumerate(batch.rates)
        for column, seed in enumerate(batch.seeds)
    ]


def _record(
    setting: str, width: int, steps: int, seconds: float, device: str, rate: float, seed: int, curve: Any, final: float
) -> Record:
    broken = np.flatnonzero(~np.isfinite(curve))
    diverged = int(broken[0]) + 1 if broken.size else None if math.isfinite(final) else steps
    kept = tuple((step, float(curve[step - 1])) for step in log_spaced(steps) if step <= len(curve))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    loss = math.nan if broken.size else final
    return Record(setting, width, rate, seed, loss, diverged, kept, seconds, device, now)
