"""How the best base rate of the user's own model drifts with the width, as it is and as prescribed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
import optax

from verify.fit.forward import Slope, slope
from verify.fit.optimum import Optimum, optimum
from verify.model.check.check import SETUPS, Setup, starts_at
from verify.model.check.coordinates import Coordinates
from verify.model.make import Drawn, Make, UserModel, build
from verify.model.prescription import ModelPrescription
from verify.values import Leaf, Tree

OCTAVES = 3
"""Rates are tried at powers of 2 this far on either side of the base rate, and further while the best is at an edge."""
FARTHEST = 9
HELD_OUT = 16
"""Batches in the final loss. Near its best a loss is flat, so that one batch's chance would place the best rate."""


@dataclass(frozen=True)
class Drift:
    """Best rate ~ n^slope: 0 is perfect transfer. `optima` by width; `transfer_loss` is what the rate of the smallest
    width costs at the largest, in the loss's units.
    """

    setup: Setup
    drift: Slope
    optima: Mapping[int, Optimum]
    transfer_loss: float


class Runner:
    """One width of one set-up: everything compiled, for any seed and base rate."""

    def __init__(self, model: UserModel, prescription: ModelPrescription, at: int, starts: Sequence[Drawn]) -> None:
        self.model, network = model, Coordinates(model, prescription)
        how = replace(
            prescription.at(at),
            parameters=tuple(
                replace(row, mean=start.mean, std=start.std)
                for row, start in zip(prescription.parameters, starts, strict=True)
            ),
        )
        apply = how.wrap(model.apply)

        def loss(params: Tree, batch: Tree) -> Leaf:
            return network.loss(apply(params, batch), batch)

        def step(params: Tree, state: Tree, rate: Leaf, batch: Tree) -> Tree:
            gradients = jax.grad(loss)(params, batch)
            updates, state = how.optimizer(rate).update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        self.init = jax.jit(lambda key: how.init(key, model.params))
        self.start = jax.jit(lambda params, rate: how.optimizer(rate).init(params))
        self.step, self.evaluate = jax.jit(step), jax.jit(loss)


def rate_drift(
    make: Make,
    prescription: ModelPrescription,
    widths: Sequence[int],
    *,
    base_rate: float,
    seeds: int,
    steps: int,
    progress: Callable[..., None] = lambda *_: None,
) -> dict[Setup, Drift]:
    """Train every set-up at every width over a grid of base rates, on batches 1, 2, ..., and fit the best rate.

    The loss is the mean over the HELD_OUT batches after the last that was trained on.
    """
    found: dict[Setup, Drift] = {}
    total = 2 * len(widths) * seeds * (2 * OCTAVES + 1)
    progress(0, total)
    with jax.default_matmul_precision("highest"):
        for setup in SETUPS:
            optima = {}
            for width in widths:
                model = build(make, width)
                starts = starts_at(prescription, setup, model, width)
                at = width if setup == "prescribed" else prescription.base_width
                runner = Runner(model, prescription, at, starts)
                # Also about the first width's best rate, for what it costs to go on with it.
                first = [] if not optima else _about(optima[widths[0]].best_rate / base_rate)
                optima[width] = _optimum(runner, base_rate, seeds, steps, first, progress)
            rates = np.array([optima[width].best_rates for width in widths])
            small, large = optima[widths[0]], optima[widths[-1]]
            loss = float(np.mean(large.at(small.best_rate) - large.best_losses))
            found[setup] = Drift(setup, slope(widths, rates), optima, loss)
    return found


def _about(ratio: float) -> list[int]:
    """The octaves on both sides of a rate; none for one that is not known."""
    return [math.floor(math.log2(ratio)), math.floor(math.log2(ratio)) + 1] if math.isfinite(ratio) else []


def _optimum(
    runner: Runner, base_rate: float, seeds: int, steps: int, also: list[int], progress: Callable[..., None]
) -> Optimum:
    """The best rate of one width, on a grid that goes on where its best is at an edge."""
    batches = [runner.model.batch(step) for step in range(1, steps + 1)]
    held_out = [
        runner.model.batch(steps + 1 + index) for index in range(HELD_OUT if callable(runner.model.inputs) else 1)
    ]
    losses: dict[int, list[float]] = {}

    def trained(octave: int, seed: int) -> float:
        rate = np.float32(base_rate * 2.0**octave)
        params: Tree = runner.init(jax.random.key(seed))
        state = runner.start(params, rate)
        for batch in batches:
            params, state = runner.step(params, state, rate, batch)
        value = float(np.mean([runner.evaluate(params, batch) for batch in held_out]))
        progress()
        return value if np.isfinite(value) else float("inf")

    wanted = sorted({*range(-OCTAVES, OCTAVES + 1), *also})
    while True:
        for octave in wanted:
            if octave not in losses:
                losses[octave] = [trained(octave, seed) for seed in range(seeds)]
        octaves = sorted(losses)
        best = optimum(base_rate * 2.0 ** np.array(octaves), np.array([losses[octave] for octave in octaves]))
        centre = round(float(np.log2(best.best_rate / base_rate))) if np.isfinite(best.best_rate) else octaves[0]
        wanted = [each for each in range(centre - 2, centre + 3) if abs(each) <= FARTHEST and each not in losses]
        if not wanted:
            return best
