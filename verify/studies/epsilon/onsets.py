"""What a study of epsilon shows: onsets predicted by the theory, seen in the updates, and paid for in the loss.

Observed widths are 0 where what is looked for is so at the smallest width already, and inf where it is so at none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from sympy import Expr

from derive.epsilon import onsets
from derive.words import Kind
from verify.fit.optimum import Estimate, over_seeds
from verify.sweeps.records import Setting, Study

if TYPE_CHECKING:
    from verify.studies.epsilon.results import Backward

THRESHOLD = 0.01
"""Nats above which a cost counts, where its 95 % interval excludes 0."""

PER_LAYER = "per layer"

PerSeed = Float[np.ndarray, "widths seeds"]


@dataclass(frozen=True)
class LayerOnset:
    """Where a constant epsilon meets one layer's updates; widths are 0 below the smallest and inf above the largest.

    `predicted` goes by the RMS at the base width, `by_half` by the epsilon that halves the update there, and `observed`
    is the width at which the update is halved. None where the gradient does not shrink, so that nothing is predicted.
    """

    parameterization: str
    layer: str
    kind: Kind
    step: int
    epsilon: float
    exponent: Expr
    size: float
    half: float
    share: float
    predicted: float | None
    by_half: float | None
    observed: float


def layer_onsets(found: "Backward", epsilons: Sequence[float]) -> list[LayerOnset]:
    """Of every layer, step and epsilon; sizes are geometric means over the seeds."""
    widths, problem = found.gradients.widths, found.prescription.problem
    listed = []
    for step, table in found.sizes.items():
        for layer, sizes in table.items():
            kind = found.gradients.kinds[layer]
            place = [layer.kind for layer in found.prescription.layers].index(kind)
            size, share = float(mean_over_seeds(sizes["rms"])[0]), float(sizes["share"][0].mean())
            halves = mean_over_seeds(sizes["half"])
            for epsilon in epsilons:
                by_rms, by_half = (
                    onsets(problem, epsilon, widths[0], (each, each, each), None)[place]
                    for each in (size, float(halves[0]))
                )
                listed.append(
                    LayerOnset(
                        found.name,
                        layer,
                        kind,
                        step,
                        epsilon,
                        by_rms.exponent,
                        size,
                        float(halves[0]),
                        share,
                        by_rms.width,
                        by_half.width,
                        falling_below(widths, halves, epsilon),
                    )
                )
    return listed


def mean_over_seeds(values: PerSeed) -> Float[np.ndarray, " widths"]:
    """Geometric means."""
    return np.exp(np.log(values).mean(axis=1))


def falling_below(widths: Sequence[int], sizes: Float[np.ndarray, " widths"], epsilon: float) -> float:
    """The first width at which a size is no more than epsilon, by its powers of the width in between.

    0 where it is so at the smallest width, inf where it is so nowhere, NaN where a size before it is unknown.
    """
    for place, size in enumerate(sizes):
        if np.isnan(size):
            return float("nan")
        if size <= epsilon:
            if place == 0:
                return 0.0
            part = np.log(sizes[place - 1] / epsilon) / np.log(sizes[place - 1] / size)
            return float(widths[place - 1] * (widths[place] / widths[place - 1]) ** part)
    return float("inf")


@dataclass(frozen=True)
class Cost:
    """What a setting's loss is above that of Adam with a negligible epsilon, of the same seed and at every width.

    Where epsilon follows the gradients the cost is `flat`: whatever it is at the smallest width, it does not change.
    """

    setting: Setting
    trained_as: str | None
    widths: tuple[int, ...]
    costs: PerSeed

    @property
    def estimates(self) -> list[Estimate]:
        """Mean and interval at every width."""
        return [over_seeds(row) for row in self.costs]

    @property
    def changes(self) -> list[Estimate]:
        """How much the cost has grown from the smallest width to every one."""
        return [over_seeds(row - self.costs[0]) for row in self.costs]

    @property
    def onset(self) -> float:
        """The width at which it starts to cost, as `first_cost` finds it."""
        return first_cost(self.widths, self.costs)

    @property
    def flat(self) -> bool | None:
        """Whether the cost is at no width further than the threshold from that at the smallest one, beyond chance."""
        known = [each for each in self.changes[1:] if not np.isnan(each.value)]
        if not known:
            return None
        return not any(abs(each.value) > THRESHOLD and not each.low <= 0 <= each.high for each in known)


def costs(study: Study, widths: Sequence[int], base_rates: Mapping[str, float]) -> list[Cost]:
    """Of every setting trained at these widths, but those that the others are compared with: the usual epsilon's."""
    usual = {
        setting.parameterization: name
        for name, setting in study.settings.items()
        if setting.optimizer == "adam" and setting.epsilon is None
    }
    seeds = sorted({record.seed for record in study.records})

    def losses(name: str) -> PerSeed:
        """[width, seed]: inf where a run diverged, NaN where it is missing."""
        table, rate = np.full((len(widths), len(seeds)), np.nan), base_rates[study.settings[name].optimizer]
        for row, width in enumerate(widths):
            for seed, record in study.runs(name, width).get(rate, {}).items():
                table[row, seeds.index(seed)] = np.inf if record.diverged is not None else record.loss
        return table

    listed = []
    for name, setting in study.settings.items():
        against = usual[setting.parameterization]
        if name != against and set(widths) <= set(study.widths(name)):
            with np.errstate(invalid="ignore"):
                found = losses(name) - losses(against)
            source = study.source(name)
            listed.append(Cost(setting, None if source == name else source, tuple(widths), found))
    return listed


def first_cost(widths: Sequence[float], found: PerSeed, threshold: float = THRESHOLD) -> float:
    """The width at which the cost passes the threshold, on a line against log width from the width before.

    It has passed at the first width whose mean is above it with an interval that excludes 0, or where a run diverges.
    0 where that is the smallest width, inf where there is none.
    """
    means = [over_seeds(row) for row in found]
    for place, here in enumerate(means):
        if np.isinf(here.value) or (here.value > threshold and here.low > 0):
            if place == 0:
                return 0.0
            before = means[place - 1].value
            if not (before < threshold and np.isfinite(here.value)):
                return float(widths[place])
            part = (threshold - before) / (here.value - before)
            return float(widths[place - 1] * (widths[place] / widths[place - 1]) ** part)
    return float("inf")


@dataclass(frozen=True)
class Onset:
    """One constant epsilon in one parameterization: where it is predicted to bite, halves updates, and costs loss.

    `first` and `late` are the layers that are predicted to be bitten first, from the gradients at initialisation and
    from those of the whole training; `halved` is the one whose update of the first step is halved at the least width.
    `expected` goes by the loss instead: the widths at which the first and the last of the layers whose gradients shrink
    has the epsilon that costs loss where it is per layer. `beyond` is where it costs more than the same one per layer.
    """

    cost: Cost
    first: LayerOnset | None
    late: LayerOnset | None
    halved: LayerOnset | None
    expected: tuple[float, float] | None
    beyond: float


@dataclass(frozen=True)
class Result:
    """A finished study of one dtype."""

    study: Study
    base_rates: Mapping[str, float]
    backward: "tuple[Backward, ...]"

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths, growing; the first is the base width."""
        return self.backward[0].gradients.widths

    @cached_property
    def costs(self) -> list[Cost]:
        """Of all settings in the parameterizations that were measured."""
        schemes = [each.name for each in self.backward]
        found = costs(self.study, self.widths, self.base_rates)
        return [each for each in found if each.setting.parameterization in schemes]

    @cached_property
    def layers(self) -> list[LayerOnset]:
        """Of every parameterization, layer, step and epsilon."""
        values = sorted({each.setting.epsilon for each in self.costs if each.setting.epsilon}, reverse=True)
        return [onset for each in self.backward for onset in layer_onsets(each, values)]

    @cached_property
    def onsets(self) -> list[Onset]:
        """Of every constant epsilon."""
        return [self._onset(each) for each in self.costs if each.setting.epsilon_rule == "constant"]

    @property
    def unscaled(self) -> list[Cost]:
        """Of the settings whose epsilon follows the gradients, and of those that have none; of equivalents one."""
        scaled = [each for each in self.costs if each.setting.epsilon_rule == PER_LAYER]
        return list({each.trained_as or each.setting.name: each for each in reversed(scaled)}.values())[::-1]

    def costly(self, scheme: str) -> float:
        """The per-layer epsilon, by its value at the base width, from which the mean cost over all widths counts.

        0 where the smallest one does already, inf where none does.
        """
        scaled = self._per_layer(scheme)
        values = sorted(scaled)
        return (
            first_cost(values, np.array([scaled[value].costs.mean(axis=0) for value in values])) if values else np.inf
        )

    def _per_layer(self, scheme: str) -> dict[float, Cost]:
        return {
            each.setting.epsilon: each
            for each in self.costs
            if each.setting.epsilon
            and (each.setting.parameterization, each.setting.epsilon_rule) == (scheme, PER_LAYER)
        }

    def _onset(self, cost: Cost) -> Onset:
        scheme, epsilon = cost.setting.parameterization, cost.setting.epsilon or 0.0
        own = [each for each in self.layers if (each.parameterization, each.epsilon) == (scheme, epsilon)]
        steps = sorted({each.step for each in own})
        growing = [each for each in own if each.predicted is not None]
        first, late = (
            min((each for each in growing if each.step == step), key=lambda each: each.predicted or 0.0, default=None)
            for step in (steps[0], steps[-1])
        )
        halved = min((each for each in own if each.step == steps[0]), key=lambda each: each.observed, default=None)
        costly, expected = self.costly(scheme), None
        if growing and 0 < costly < np.inf:
            widths = [self.widths[0] * (costly / epsilon) ** (1 / float(each.exponent)) for each in growing]
            expected = (min(widths), max(widths))
        with np.errstate(invalid="ignore"):
            beyond = cost.costs - self._per_layer(scheme)[epsilon].costs
        return Onset(cost, first, late, halved, expected, first_cost(cost.widths, beyond))
