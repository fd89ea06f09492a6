"""Two prescriptions against each other as training goes on: the difference of their best losses, step by step.

At a constant rate a run of T steps has on its way been every shorter one, and its curve holds the training loss before
steps 1, 2, 5, 10, ... on the batch of that step, which is text not used before. Best rates are found for every such
step alone, and differences are paired over seeds, which see the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from verify.fit.equivalence import Relation, relation
from verify.fit.optimum import UNKNOWN, Estimate, Losses, Optimum, Rates, optimum, over_seeds
from verify.sweeps.records import Conditions, Record, Setting, Study

FIRST_MARK = 10
"""Steps before which nothing is compared: the loss has hardly moved."""


@dataclass(frozen=True)
class Gap:
    """The best loss of one prescription less another's at a width and step, in nats; unknown where a rate is missing.

    `edge` says that the best rate of one of them is the lowest or the highest tried.
    """

    width: int
    step: int
    difference: Estimate
    edge: bool

    @property
    def relation(self) -> Relation:
        """Told apart, equal within the margin, or not decided."""
        return relation(self.difference)


def family(study: Study, like: Setting) -> list[str]:
    """The settings of that prescription at every horizon."""
    wanted = replace(like, steps=None)
    return [name for name, each in study.settings.items() if replace(each, steps=None) == wanted]


def marks(study: Study, names: Sequence[str], width: int) -> list[int]:
    """The steps from FIRST_MARK on at which curves of those settings have a loss."""
    kept = {step for record in _runs(study, names, width) for step, _ in record.curve}
    if study.conditions.schedule != Conditions.schedule:  # a shorter run would have had another schedule
        kept &= set(study.horizons)
    return sorted(step for step in kept if step >= FIRST_MARK)


def gaps(study: Study, one: Sequence[str], other: Sequence[str]) -> list[Gap]:
    """The first prescription less the second at every width and mark that both have; names are `family`s."""
    found: list[Gap] = []
    widths = [set().union(*(study.widths(name) for name in names)) for names in (one, other)]
    for width in sorted(widths[0] & widths[1]):
        for step in sorted({*marks(study, one, width)} & {*marks(study, other, width)}):
            first, second = (optimum(*losses_at(study, names, width, step)) for names in (one, other))
            edge = first.at_edge or second.at_edge
            found.append(Gap(width, step, UNKNOWN if edge else _paired(first, second), edge))
    return found


def losses_at(study: Study, names: Sequence[str], width: int, step: int) -> tuple[Rates, Losses]:
    """(base rates, losses [rates, seeds]) of the runs that reached that step; inf where a run had diverged by then.

    Runs too short for the step are left out; runs of two horizons at one rate and seed are one run.
    """
    steps = study.conditions.steps
    reach = {name: study.conditions.steps_at(width, study.settings[name].steps or steps) for name in names}
    runs = [record for name in names if reach[name] >= step for record in _runs(study, [name], width)]
    rates, seeds = sorted({each.base_rate for each in runs}), sorted({each.seed for each in runs})
    table = np.full((len(rates), len(seeds)), np.nan)
    for record in runs:
        loss = dict(record.curve).get(step, np.inf)
        table[rates.index(record.base_rate), seeds.index(record.seed)] = loss if np.isfinite(loss) else np.inf
    return np.array(rates), table


def crossing(found: Sequence[Gap]) -> tuple[int, int] | None:
    """The marks of one width between which the sign changes: told apart from 0 on one side, then on the other.

    None where it does not: a difference that is not told apart from 0 has no sign.
    """
    signed = [each for each in found if each.relation is Relation.APART]
    for before, after in pairwise(signed):
        if before.difference.value * after.difference.value < 0:
            return before.step, after.step
    return None


def _runs(study: Study, names: Sequence[str], width: int) -> list[Record]:
    return [record for name in names for by_seed in study.runs(name, width).values() for record in by_seed.values()]


def _paired(first: Optimum, second: Optimum) -> Estimate:
    if first.best_losses.shape != second.best_losses.shape:
        return UNKNOWN
    return over_seeds(first.best_losses - second.best_losses)
