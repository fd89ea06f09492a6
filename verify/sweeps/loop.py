"""Networks of one width trained in one compiled loop, every seed with every rate.

Rates and seeds are traced values, so one compilation serves every base rate, alignment and set of constants at
that width. The shape of a batch is part of its record: a batch done again in the same shape gives the same bits.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax

from derive.axes import OUT
from derive.errors import DeriveError
from derive.words import KINDS
from verify.provenance import device_name
from verify.sweeps.online import Online, Plan
from verify.sweeps.records import ONLINE, Across, Batch, Conditions, LayerScaling, Record, Setting
from verify.training.config import TARGETS, build
from verify.training.data import Corpus
from verify.training.networks import Model, Scaling, computed_in, label_writers, loss, stacks
from verify.training.rules.transforms import ScaledRule, label_layers, per_layer
from verify.training.rules.usual import base_epsilon
from verify.training.runs import for_each
from verify.training.schedules import read_schedule
from verify.training.trainer import log_spaced
from verify.values import Document, Leaf, Tree

SEGMENT = 50
"""Steps in one compiled call: its batches are held at once, and a batch that has diverged ends after it."""
EVALUATION_CHUNK = 256
"""Held-out windows in one forward pass."""


def layer_rates(setting: Setting, base_rate: float, ratio: float) -> list[float]:
    """Learning rate of every layer: base_rate * constant_l * ratio^-c_l, with ratio = n / n_0."""
    constants = dict(zip(KINDS, setting.constants, strict=True))
    if setting.across is not None:
        constants = {kind: constant * setting.across.factor(kind, "c") for kind, constant in constants.items()}
    return [base_rate * constants[layer.kind] * ratio ** -float(Fraction(layer.c)) for layer in setting.layers]


def model_at(conditions: Conditions, layers: Sequence[LayerScaling], size: int, across: Across | None = None) -> Model:
    """The model at that size along the study's axis, and at a width beside it; ModelError for what does not fit."""
    of_kind = {layer.kind: layer for layer in layers}  # of a hidden layer's two parts, what writes into the stream
    if conditions.axis == "width":
        return build(conditions.model, _of_width(size, conditions.base_width, layers), conditions.sizes)
    lengths: Document = dict(conditions.sizes)
    width = lengths.pop("width")
    if conditions.axis == "depth":
        ratio, writes = size / conditions.base_width, of_kind["hidden"]
        factors = {"branch_multiplier": ratio ** -float(Fraction(writes.a))}
        factors["out_factor"] = ratio ** -float(Fraction(writes.b))
        lengths |= {"blocks": size, "scan": True, **factors}  # one block is compiled, whatever the depth
    scaling = Scaling(width, width, (0, 0, 0), (0, 0, 0))
    if across is not None:
        scaling = _of_width(across.width, across.base, across.layers)
    return build(conditions.model, scaling, lengths)


def _of_width(width: int, base: int, layers: Sequence[LayerScaling]) -> Scaling:
    of_kind = {layer.kind: layer for layer in layers}
    a, b = ([Fraction(getattr(of_kind[kind], name)) for kind in KINDS] for name in ("a", "b"))
    return Scaling(width, base, tuple(a), tuple(b))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Structure:
    """What is compiled: everything but rates and seeds.

    `layers` have their c left out, since rates are traced; not where an `online` plan changes them while training.
    `width` is the size along the study's axis, and `conditions` are those of that size.
    """

    conditions: Conditions
    layers: tuple[LayerScaling, ...]
    width: int
    epsilon: float | None = None
    online: Plan | None = None
    across: Across | None = None

    @classmethod
    def of(cls, conditions: Conditions, setting: Setting, width: int) -> "Structure":
        """The structure that the setting shares with others of its optimizer and parameterization."""
        decays = conditions.weight_decay > 0
        conditions = replace(conditions, steps=setting.steps or conditions.steps).at(width)
        online = None if setting.online is None else Plan(setting.online, setting.decay if decays else "independent")
        layers = (
            replace(layer, c=layer.c if online else "", decay=layer.decay if decays else "0")
            for layer in setting.layers
        )
        epsilon = conditions.epsilon if setting.epsilon is None else setting.epsilon
        across = setting.across
        if across is not None:
            across = replace(across, layers=tuple(replace(layer, c="") for layer in across.layers))
        return cls(conditions, tuple(layers), width, epsilon, online, across)

    @property
    def ratio(self) -> float:
        """n / n_0, or N / N_0, or B / B_0."""
        return self.width / self.conditions.base_width


class Loop:
    """The compiled training loop of one structure; arrays have leading axes of seeds and rates.

    `rates` [rates, layers] are learning rates per layer; parameters and state are [seeds, rates, ...]. The state is
    that of the optimizer, and what `online` carries where the rates follow alignments.
    """

    def __init__(self, structure: Structure) -> None:
        self.conditions, self.structure = structure.conditions, structure
        self.model = model_at(self.conditions, structure.layers, structure.width, structure.across)
        self.apply = computed_in(self.conditions.dtype, self.model.apply)
        self.shapes = jax.eval_shape(self.model.init, jax.random.key(0))
        names, kinds = {layer.label for layer in structure.layers}, self.model.labels(self.shapes)
        apart = {name for name in names if name.endswith(f".{OUT}")}
        self.labels = label_layers(names - apart, kinds)
        if apart:
            self.labels = label_writers(self.model.parameters(), self.labels)
        self.stacked = frozenset(stacks(self.model.parameters(), self.labels).values())
        plan, layers = structure.online, structure.layers
        self.online = plan and Online(plan, layers, self.conditions, self.model, self.shapes, self.labels)
        self.schedule = read_schedule(self.conditions.schedule)
        self.start = jax.jit(self._start)
        self.advance = jax.jit(self._advance, donate_argnums=(0, 1))
        self.evaluate = jax.jit(self._evaluate)

    @property
    def context(self) -> int:
        """Tokens that the model reads at once."""
        return self.model.context  # type: ignore[attr-defined]

    def transform(self, rates: Tree, decays: Tree = None) -> optax.GradientTransformation:
        """The update rules with their rates, clipped before by the norm of the whole gradient where asked for.

        `decays` are factors of the layers' decays, where they change while training.
        """
        conditions, ratio = self.conditions, self.structure.ratio
        rules = []
        for index, layer in enumerate(self.structure.layers):
            start = base_epsilon(layer.rule) if self.structure.epsilon is None else self.structure.epsilon
            epsilon = start * ratio ** -float(Fraction(layer.epsilon or 0))
            decay = conditions.weight_decay * ratio ** -float(Fraction(layer.decay))
            if (across := self.structure.across) is not None:
                epsilon *= across.factor(layer.kind, "epsilon")
                decay *= across.factor(layer.kind, "decay")
            decay = decay * decays[index] if decay and decays is not None else decay
            stacked = layer.label in self.stacked
            rules.append(ScaledRule(layer.label, layer.rule, rates[index], epsilon, decay, stacked))
        updates = per_layer(rules, self.labels)
        if conditions.clip is None:
            return updates
        return optax.chain(optax.clip_by_global_norm(conditions.clip), updates)

    def _each(self, function: Callable[..., Tree], over: Tree) -> Tree:
        """The function of one run for all of them; `over`: whether an argument has axes of (seeds, rates)."""
        inner = for_each(function, [rates for _, rates in over])
        return for_each(inner, [seeds for seeds, _ in over])

    def _start(self, keys: Leaf, rates: Tree, probe: Tree = None) -> tuple[Tree, Tree]:
        def begin(key: Leaf, rate: Leaf, probe: Tree) -> tuple[Tree, Tree]:
            params = self.model.init(key)
            followed = self.online.start(key, params, probe) if self.online else ()
            return params, (self.transform(rate).init(params), followed)

        return self._each(begin, [(True, False), (False, True), (False, False)])(keys, rates, probe)

    def _advance(
        self, params: Tree, state: Tree, rates: Tree, inputs: Tree, targets: Tree, count: Leaf, first: Leaf = 1
    ) -> Tree:
        """`count` steps from step `first` on, on inputs and targets [seeds, SEGMENT, batch, ...].

        Losses are [seeds, rates, SEGMENT].
        """

        def run(params: Tree, state: Tree, rates: Tree, inputs: Tree, targets: Tree) -> Tree:
            def body(index: Leaf, carry: Tree) -> Tree:
                params, (state, followed), losses = carry
                scheduled = rates * self.schedule.factor(first + index, self.conditions.steps)
                now = self.online.scaled(scheduled, followed) if self.online else (scheduled,)
                value, gradients = jax.value_and_grad(lambda p: loss(self.apply(p, inputs[index]), targets[index]))(
                    params
                )
                updates, state = self.transform(*now).update(gradients, state, params)
                params = optax.apply_updates(params, updates)
                # Whether to measure hangs on the step, which all runs share: a branch even where they go side by side.
                followed = self.online.follow(first + index, params, followed) if self.online else ()
                return params, (state, followed), losses.at[index].set(value)

            return jax.lax.fori_loop(0, count, body, (params, state, jnp.zeros(SEGMENT)))

        over = [(True, True), (True, True), (False, True), (True, False), (True, False)]
        return self._each(run, over)(params, state, rates, inputs, targets)

    def _evaluate(self, params: Tree, inputs: Tree, targets: Tree) -> Tree:
        """Mean loss [seeds, rates] over held-out windows [chunks, chunk, ...], chunk by chunk."""

        def run(params: Tree) -> Tree:
            return jax.lax.map(lambda pair: loss(self.apply(params, pair[0]), pair[1]), (inputs, targets)).mean()

        return self._each(run, [(True, True)])(params)


def _segments(
    conditions: Conditions, corpus: Corpus, context: int, seeds: Sequence[int], first: int, count: int
) -> Tree:
    """Training batches of `count` steps from step `first` on, padded to SEGMENT: [seeds, SEGMENT, batch, ...]."""
    steps = [*range(first, first + count), *[first] * (SEGMENT - count)]
    draw = partial(corpus.batch, "train") if conditions.windows is None else corpus.disjoint_batch
    targets = TARGETS[conditions.model]
    drawn = [[draw(conditions.batch, context, step, seed, targets) for step in steps] for seed in seeds]
    return [np.stack([[pair[which] for pair in row] for row in drawn]) for which in (0, 1)]


def _ends(steps: int, *marks: int) -> list[int]:
    """The steps after which a compiled call ends: every SEGMENT steps, at the marks and at the end."""
    return sorted({*range(SEGMENT, steps, SEGMENT), *marks, steps})


def _held_out(conditions: Conditions, corpus: Corpus, context: int) -> Tree:
    """The held-out windows on which every run of the study ends: [chunks, chunk, ...]."""
    pair = corpus.batch("held_out", conditions.evaluation, context, 0, 0, TARGETS[conditions.model])
    chunk = math.gcd(conditions.evaluation, EVALUATION_CHUNK)
    return [each.reshape(-1, chunk, *each.shape[1:]) for each in pair]


def _advances(loop: Loop, setting: Setting, batch: Batch, corpus: Corpus, ends: Sequence[int]) -> Iterator[Tree]:
    """(parameters, state, losses since the one before) after each of the steps `ends`, at most SEGMENT apart."""
    conditions, targets = loop.conditions, TARGETS[loop.conditions.model]
    rates = np.array([layer_rates(setting, rate, loop.structure.ratio) for rate in batch.rates], dtype=np.float32)
    keys = jnp.stack([jax.random.key(seed) for seed in batch.seeds])
    params, state = loop.start(keys, rates, loop.online and loop.online.probe(corpus, targets))
    for before, end in pairwise((0, *ends)):
        windows = _segments(conditions, corpus, loop.context, batch.seeds, before + 1, end - before)
        params, state, values = loop.advance(params, state, rates, *windows, end - before, before + 1)
        yield params, state, np.asarray(values)[..., : end - before]


@dataclass(frozen=True)
class Applied:
    """What holds for a layer after that step: its alignments (None on the embedding) and c, its rate being n^-c."""

    step: int
    layer: str
    alpha: float | None
    omega: float | None
    u: float | None
    c: float


def trajectory(
    conditions: Conditions, setting: Setting, width: int, base_rate: float, seed: int, corpus: Corpus
) -> list[Applied]:
    """Train that run of a measured-online setting again, and give what it measured and applied, layer by layer.

    Step 0 is full alignment, which holds until the first measurement; what was not finite stays as it was before.
    DeriveError for a setting of another alignment.
    """
    loop, batch = Loop(Structure.of(conditions, setting, width)), Batch(setting.name, width, (base_rate,), (seed,))
    if loop.online is None:
        raise DeriveError(f"{setting.name} measures nothing while training; give a setting of alignment {ONLINE}")
    marks, layers = loop.online.steps.tolist(), [layer.label for layer in setting.layers]
    found = [(0, loop.online.solver.full, loop.online.full_c)]
    ends = _ends(loop.conditions.steps, *marks)
    with jax.default_matmul_precision("highest"):
        for end, (_, (_, followed), _) in zip(ends, _advances(loop, setting, batch, corpus, ends), strict=True):
            if end in marks:
                found.append((end, np.asarray(followed.ratios[0, 0]), np.asarray(followed.c[0, 0])))
    rows = []
    for step, ratios, c in found:
        aligned = [(None, None, None), *ratios.T.tolist()]
        rows += [Applied(step, *each) for each in zip(layers, *zip(*aligned, strict=True), c.tolist(), strict=True)]
    return rows


def train(loop: Loop, setting: Setting, batch: Batch, corpus: Corpus) -> list[Record]:
    """Train the batch from its seeds to the end; one Record per run.

    A run that diverges goes on as NaN beside the others; when all have diverged the batch ends.
    """
    conditions, started = loop.conditions, time.perf_counter()
    losses, params = [], None
    with jax.default_matmul_precision("highest"):
        for params, _, values in _advances(loop, setting, batch, corpus, _ends(conditions.steps)):  # noqa: B007
            losses.append(values)
            if not np.isfinite(values[..., -1]).any():
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
    setting: str, width: int, steps: int, seconds: float, device: str, rate: float, seed: int, curve: Leaf, final: float
) -> Record:
    broken = np.flatnonzero(~np.isfinite(curve))
    diverged = int(broken[0]) + 1 if broken.size else None if math.isfinite(final) else steps
    kept = tuple((step, float(curve[step - 1])) for step in log_spaced(steps) if step <= len(curve))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    loss = math.nan if broken.size else final
    return Record(setting, width, rate, seed, loss, diverged, kept, seconds, device, now)
