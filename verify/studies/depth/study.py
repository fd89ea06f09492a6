"""The study behind `verify exponents --axis depth`: transformers of growing depth, one unit for each of their sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from derive.depth import depth_axis, read_kappa, read_residual
from derive.exponents import Kind
from derive.registry import spelled
from derive.solve import Prescription, prescribe, solve_kinds
from verify.fit.depth import DepthClaim
from verify.measuring.forward import gradient_sizes
from verify.measuring.stream import measure_stream
from verify.studies.study import Study, Unit
from verify.training.data import Corpus
from verify.training.rules.transforms import check_trainable
from verify.training.runs import for_each
from verify.training.trainer import Config, Trainer, log_spaced

PerSeed = Float[np.ndarray, " seeds"]
WRITERS = ("blocks.o", "blocks.down")
PARAMETERS: Mapping[str, Kind] = {
    **dict.fromkeys(("embedding.tokens", "embedding.positions"), "embedding"),
    **dict.fromkeys((f"blocks.{name}" for name in ("q", "k", "v", "o", "up", "down")), "hidden"),
    "readout": "readout",
}


@dataclass(frozen=True)
class Conditions:
    """What is trained at every depth; `residual` and `depth_alignment` as on the command line."""

    optimizer: str
    residual: str
    depth_alignment: str
    normed: bool
    base_depth: int
    base_rate: float
    seeds: int
    steps: int
    batch: int
    probe: int
    context: int
    head_dimension: int
    corpus: str

    def claim(self, depth: int | None = None) -> DepthClaim:
        """The theory, with its factors at that depth; DeriveError for a delta whose sum diverges."""
        optimizers = self.prescription.problem.optimizers
        residual, kappa = read_residual(self.residual, self.normed), read_kappa(self.depth_alignment)
        sizes = None if depth is None else (self.base_depth, depth)
        return DepthClaim(optimizers, residual, kappa, depth_axis(optimizers, residual, kappa, sizes=sizes))

    @property
    def prescription(self) -> Prescription:
        """That of the width, where every factor is 1; DeriveError for what cannot be trained."""
        solved = solve_kinds(prescribe(self.optimizer, "sp").problem)
        check_trainable({kind: spelled(rule) for kind, rule in solved.problem.optimizers.items()})
        return solved

    def config(self, width: int, depth: int, vocabulary: int) -> Config:
        """The network of that size, with the prescribed rates."""
        return Config(
            replace(self.prescription, axes=(self.claim(depth).axis,)),
            width,
            self.base_rate,
            model="transformer",
            batch=self.batch,
            probe=self.probe,
            sizes={
                "vocabulary": vocabulary,
                "context": self.context,
                "blocks": depth,
                "head_dimension": self.head_dimension,
                "scan": True,  # one block is compiled, whatever the depth
                "normed": self.normed,
            },
        )


@dataclass(frozen=True)
class Network:
    """What one size showed: sizes[step][layer][quantity], where seeds diverged, and the loss of every step."""

    sizes: Mapping[int, Mapping[str, Mapping[str, PerSeed]]]
    losses: Float[np.ndarray, "steps seeds"]
    diverged: Mapping[int, int]


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
    found: dict[int, dict[str, dict[str, Any]]] = {}
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


def _look(trainer: Trainer, initial: Any, params: Any, probe: Any) -> Any:
    """Sizes of changes along the stream, and of every parameter and its change."""
    changes = jax.tree.map(lambda now, then: now - then, params, initial)
    weights = {"delta_w": changes, "weight": initial}
    sizes = {quantity: gradient_sizes(tree, trainer.stacked) for quantity, tree in weights.items()}
    return measure_stream(trainer.model, initial, params, probe), sizes  # type: ignore[arg-type]


def _over_blocks(named: tuple[str, Any]) -> tuple[str, PerSeed]:
    """Root mean square over blocks of what every block has, [seeds, blocks]."""
    name, values = named
    values = np.asarray(values, dtype=float)
    return name, values if values.ndim == 1 else np.sqrt(np.mean(values**2, axis=1))


def unit(width: int, depth: int) -> Unit:
    """What is kept of one size."""
    return ("transformer", width, depth)


def file_name(unit: Unit) -> str:
    """Where a size is kept in the study's folder."""
    return f"width_{unit[1]}_depth_{unit[2]}.json"


def _train_unit(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Callable[[int], None]) -> Network:
    return train(conditions, int(unit[1]), int(unit[2]), corpus, progress)


DEPTH = Study("exponents --axis depth", __name__, Network, file_name, _train_unit, digits=7)
