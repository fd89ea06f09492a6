"""The study behind `verify epsilon`: the width at which a constant epsilon starts to matter.

    U = m / (sqrt(v) + epsilon)      RMS(sqrt(v)) = n^-g      onset: n = n_0 (size at n_0 / epsilon)^(1/g)

Predicted by `derive.epsilon` from the gradient's RMS at the base width, and observed twice: where the update is half
of what it is without epsilon, and where the loss is worse than with an epsilon that follows the gradients.

Only entries that have had a gradient count: an embedding's rows that were never looked up are not updated at all, and
would make its gradients look smaller than those that meet epsilon. Entries of one size halve at an epsilon of that
size, normally distributed ones at 0.703 of their RMS, and a few large ones among many small ones far below it; so the
epsilon that halves the update is measured at every width, and its ratio to the RMS is reported, not assumed.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from derive.solve import prescribe, solve_kinds
from verify.measuring.forward import Scalar
from verify.studies.epsilon.conditions import Conditions, Found
from verify.studies.epsilon.gradients import gradients_at
from verify.studies.study import Progress, StudyError, Unit
from verify.sweeps.driver import Cell
from verify.sweeps.engines import Task, perform
from verify.sweeps.records import Batch, Record, Setting
from verify.sweeps.search import Search
from verify.sweeps.settings.named import EpsilonRule, at_epsilons, prescribed
from verify.training.config import Config
from verify.training.data import Corpus
from verify.training.rules.usual import BASE_RATES
from verify.training.runs import for_each
from verify.training.trainer import Trainer
from verify.values import Leaf, Tree

RATES = 7
"""Base rates to begin with, an octave apart."""
BISECTIONS = 30
OCTAVES = 30  # below and above the RMS of sqrt(v), between which the halving epsilon is sought


def halving_epsilon(moment: Array, root: Array) -> Scalar:
    """The epsilon at which RMS(m / (sqrt(v) + epsilon)) is half of what it is without; `root` is sqrt(v).

    Entries with v = 0 are never updated and have no part in it. NaN where nothing is.
    """
    seen = root > 0
    safe = jnp.where(seen, root, 1.0)

    def square(epsilon: Scalar) -> Scalar:
        return jnp.sum(jnp.where(seen, moment / (safe + epsilon), 0.0) ** 2)

    target, size = square(jnp.zeros(())) / 4, _root_mean_square(root)

    def bisect(_: Leaf, bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bounds
        middle = (low + high) / 2
        too_small = square(size * 2.0**middle) > target
        return jnp.where(too_small, middle, low), jnp.where(too_small, high, middle)

    start = (jnp.array(-float(OCTAVES)), jnp.array(float(OCTAVES)))
    low, high = jax.lax.fori_loop(0, BISECTIONS, bisect, start)
    return size * 2.0 ** ((low + high) / 2)


def _root_mean_square(root: Array) -> Scalar:
    """RMS over the entries with a gradient."""
    return jnp.sqrt(jnp.sum(root**2) / jnp.sum(root > 0))


def _measure(state: Tree, step: Scalar) -> dict[str, dict[str, Scalar]]:
    """rms, share and half of every parameter, from the state of Adam after that step."""
    first, second = (
        {
            jax.tree_util.keystr(path, simple=True, separator="."): moment
            for _, tree in optax.tree_utils.tree_get_all_with_path(state, name)
            for path, moment in jax.tree_util.tree_leaves_with_path(tree)
        }
        for name in ("mu", "nu")
    )
    found = {}
    for name, moment in second.items():
        root = jnp.sqrt(moment / (1 - 0.999**step))
        sizes = {"rms": _root_mean_square(root), "share": jnp.mean(root > 0)}
        found[name] = sizes | {"half": halving_epsilon(first[name], root)}
    return found


def update_sizes(
    config: Config,
    widths: Sequence[int],
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
) -> dict[int, Tree]:
    """Sizes of what meets epsilon after the first step and after `steps`, by step, of Adam with its usual epsilon.

    After the first step sqrt(v) is the gradient; later its RMS is that of all gradients until then.
    """
    found = [update_sizes_at(config, width, seeds, steps, corpus, progress) for width in widths]
    return {step: jax.tree.map(lambda *sizes: np.stack(sizes), *(each[step] for each in found)) for step in found[0]}


def update_sizes_at(
    config: Config,
    width: int,
    seeds: Sequence[int],
    steps: int,
    corpus: Corpus,
    progress: Callable[[], None] = lambda: None,
) -> dict[int, Tree]:
    """The same of one width, [seeds] each."""
    found: dict[int, Tree] = {}
    with jax.default_matmul_precision("highest"):
        trainer = Trainer(config, width, seeds)
        measure = jax.jit(for_each(_measure, [True, False]))
        params = trainer.initial()
        state = trainer.init_state(params)
        for step in range(1, steps + 1):
            params, state, *_ = trainer.step(params, state, *trainer.batches(corpus, step))
            progress()
            if step in (1, steps):
                found[step] = jax.device_get(measure(state, jnp.float32(step)))
    return found


def train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress = lambda _: None) -> Found:
    """Train a unit."""
    if unit[0] == "rate":
        return Found(try_rates(conditions, str(unit[1]), corpus, progress))
    if unit[0] == "run":
        _, optimizer, scheme, epsilon, width = map(str, unit)
        value, _, rule = epsilon.partition(" ")
        usual = prescribed(optimizer, scheme, "full", hidden_layers=conditions.hidden_layers)
        (own,) = at_epsilons([usual], [float(value)], [_rule(rule)]) if value else (usual,)
        found = _runs(conditions, own.setting, int(width), conditions.rates[optimizer], corpus)
        progress(conditions.steps)
        return Found(found)
    return measure_backward(conditions, str(unit[1]), int(unit[2]), corpus, progress)


def _rule(text: str) -> EpsilonRule:
    return "constant" if text == "constant" else "scaled"


def _runs(conditions: Conditions, setting: Setting, width: int, rate: float, corpus: Corpus) -> tuple[Record, ...]:
    batch = Batch(setting.name, width, (rate,), tuple(range(conditions.seeds)))
    return tuple(perform(Task(0, conditions.of_runs(""), setting, batch), corpus))


def try_rates(conditions: Conditions, optimizer: str, corpus: Corpus, progress: Progress) -> tuple[Record, ...]:
    """Runs at the base width with the optimizer's usual epsilon, until the best base rate is found.

    At the base width all parameterizations are one network, so that SP speaks for all.
    """
    setting = prescribed(optimizer, "sp", "full", hidden_layers=conditions.hidden_layers).setting
    cell, seeds = _cell(conditions, setting), range(conditions.seeds)
    records: list[Record] = []
    while wanted := cell.wanted(seeds):
        for rate, _ in wanted:
            records += _learned(cell, _runs(conditions, setting, conditions.base_width, rate, corpus))
            progress(conditions.steps)
    return tuple(records)


def best_rate(conditions: Conditions, optimizer: str, records: Sequence[Record]) -> float:
    """The base rate with the lowest mean loss; StudyError where all diverge."""
    setting = prescribed(optimizer, "sp", "full", hidden_layers=conditions.hidden_layers).setting
    cell = _cell(conditions, setting)
    _learned(cell, records)
    rate, loss = cell.best(range(conditions.seeds))
    if not np.isfinite(loss):
        raise StudyError(f"{optimizer} diverges at every base rate around {rate:g}; give a smaller --base-rate")
    return rate


def _cell(conditions: Conditions, setting: Setting) -> Cell:
    # BASE_RATES are safe; the best ones are somewhat above them.
    return Cell(setting, conditions.base_width, Search(4 * BASE_RATES[setting.optimizer], count=RATES))


def _learned(cell: Cell, records: Sequence[Record]) -> Sequence[Record]:
    for record in records:
        loss = record.loss if record.diverged is None else np.nan
        cell.known.setdefault(record.base_rate, {})[record.seed] = loss
    return records


def measure_backward(
    conditions: Conditions, scheme: str, width: int, corpus: Corpus, progress: Progress = lambda _: None
) -> Found:
    """Train Adam in that parameterization and measure its backward pass and what meets epsilon."""
    sizes = conditions.of_runs("").sizes
    config = Config(
        solve_kinds(prescribe("adam", scheme).problem),
        conditions.base_width,
        conditions.rates["adam"],
        batch=conditions.batch,
        dtype=conditions.dtype,
        sizes=dict(sizes),
    )
    given = (config, width, range(conditions.seeds), conditions.steps, corpus, lambda: progress(1))
    tables, kinds = gradients_at(*given)
    met = update_sizes_at(*given)
    return Found(kinds=kinds, gradients=_rounded(tables), sizes=_rounded(met))


def _rounded(tables: Tree) -> Tree:
    """To seven digits, as the sizes of all studies are kept."""
    return jax.tree.map(lambda size: np.array([float(f"{each:.7g}") for each in size]), tables)
