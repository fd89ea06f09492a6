"""The study behind `verify epsilon`: the width at which a constant epsilon starts to matter.

    U = m / (sqrt(v) + epsilon)      RMS(sqrt(v)) = n^-g      onset: n = n_0 (size at n_0 / epsilon)^(1/g)

Predicted by `derive.epsilon` from the gradient's RMS at the base width, and observed twice: where the update is half
of what it is without epsilon, and where the loss is worse than with an epsilon that follows the gradients.

Only entries that have had a gradient count: an embedding's rows that were never looked up are not updated at all, and
would make its gradients look smaller than those that meet epsilon. Entries of one size halve at an epsilon of that
size, normally distributed ones at 0.703 of their RMS, and a few large ones among many small ones far below it; so the
epsilon that halves the update is measured at every width, and its ratio to the RMS is reported, not assumed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from derive.errors import DeriveError
from derive.solve import prescribe, solve_kinds
from verify.measuring.forward import Scalar
from verify.studies.epsilon.gradients import gradients
from verify.studies.epsilon.results import Backward, Sizes, backward_path, read_backward
from verify.studies.study import StudyError
from verify.sweeps.driver import Cell, Driver
from verify.sweeps.records import Conditions
from verify.sweeps.search import Search
from verify.sweeps.settings import Prescribed, prescribed, representatives
from verify.training.data import Corpus
from verify.training.runs import for_each
from verify.training.trainer import Config, Trainer

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

    def bisect(_: Any, bounds: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
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


def _measure(state: Any, step: Scalar) -> dict[str, dict[str, Scalar]]:
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
) -> dict[int, Sizes]:
    """Sizes of what meets epsilon after the first step and after `steps`, by step, of Adam with its usual epsilon.

    After the first step sqrt(v) is the gradient; later its RMS is that of all gradients until then.
    """
    found: dict[int, list[Any]] = {step: [] for step in (1, steps)}
    for width in widths:
        with jax.default_matmul_precision("highest"):
            trainer = Trainer(config, width, seeds)
            measure = jax.jit(for_each(_measure, [True, False]))
            params = trainer.initial()
            state = trainer.init_state(params)
            for step in range(1, steps + 1):
                params, state, *_ = trainer.step(params, state, *trainer.batches(corpus, step))
                if step in found:
                    found[step].append(jax.device_get(measure(state, jnp.float32(step))))
                progress()
    return {step: jax.tree.map(lambda *sizes: np.stack(sizes), *columns) for step, columns in found.items()}


def measure_backward(
    scheme: str,
    conditions: Conditions,
    base_rate: float,
    widths: Sequence[int],
    seeds: Sequence[int],
    corpus: Corpus,
    folder: Path,
    progress: Callable[[], None] = lambda: None,
) -> Backward:
    """Train Adam in that parameterization and measure it, or read what was measured under these conditions before.

    StudyError where the file was made under others, StoreError where it holds something else.
    """
    prescription = solve_kinds(prescribe("adam", scheme).problem)
    made_with = json.loads(json.dumps([scheme, conditions.content(), base_rate, [*widths], [*seeds]]))
    path = backward_path(folder, prescription.problem.parameterization.name)
    if not path.exists():
        config = Config(
            prescription,
            conditions.base_width,
            base_rate,
            batch=conditions.batch,
            dtype=conditions.dtype,
            sizes=dict(conditions.sizes),
        )
        found = gradients(config, widths, seeds, conditions.steps, corpus, progress)
        sizes = update_sizes(config, widths, seeds, conditions.steps, corpus, progress)
        Backward(prescription, found, sizes).write(folder, made_with)
    backward, stored = read_backward(path)
    if stored != made_with:
        raise StudyError(
            f"{path.name} in --out was measured under other conditions; give another --out, or move that file"
        )
    return backward


def study_settings(schemes: Sequence[str], epsilons: Sequence[float], hidden_layers: int) -> tuple[Prescribed, ...]:
    """All that is trained: Adam with its usual epsilon, with each of the others per layer and constant, and atan2."""
    shared: Any = {"alignment": "full", "hidden_layers": hidden_layers}
    listed = []
    for scheme in schemes:
        listed.append(prescribed("adam", scheme, **shared))
        listed += [
            prescribed("adam", scheme, epsilon=epsilon, constant_epsilon=constant, **shared)
            for constant in (False, True)
            for epsilon in epsilons
        ]
        listed.append(prescribed("adam-atan2", scheme, **shared))
    return tuple(listed)


def best_rates(driver: Driver, settings: Sequence[Prescribed], searches: Mapping[str, Search]) -> dict[str, float]:
    """The best base rate at the base width by optimizer, with its usual epsilon; DeriveError where all diverge.

    At the base width all parameterizations are one network, so that the first setting speaks for all.
    """
    first = {each.setting.optimizer: each.setting for each in reversed(settings) if each.setting.epsilon is None}
    width = driver.conditions.base_width
    cells = {name: Cell(setting, width, searches[name]) for name, setting in first.items()}
    driver.store.add_settings(first.values(), {})
    driver.run(cells.values())
    found = {name: cell.best(driver.seeds) for name, cell in cells.items()}
    for name, (rate, loss) in found.items():
        if not np.isfinite(loss):
            raise DeriveError(f"{name} diverges at every base rate around {rate:g}; give a smaller --base-rate")
    return {name: rate for name, (rate, _) in found.items()}


def train(driver: Driver, settings: Sequence[Prescribed], widths: Sequence[int], rates: Mapping[str, float]) -> None:
    """Every setting at every width, at the base width's best rate alone: what a user does who transfers it.

    Settings that train alike are trained once, under the first one's name.
    """
    alike = representatives(settings, decays=False, clips=False)
    sources = driver.store.add_settings([each.setting for each in settings], alike)
    known = driver.store.study().settings
    searches = {name: Search(rate, count=1, halvings=0, extension=0) for name, rate in rates.items()}
    trained = dict.fromkeys(sources.values())
    driver.run(Cell(known[name], width, searches[known[name].optimizer]) for width in widths for name in trained)
