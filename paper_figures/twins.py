"""Runs of two parameterizations that are proved equal, side by side."""

import math
from dataclasses import dataclass
from itertools import product

from paper_figures.transfer_results import Transfer
from verify.sweeps.records import Record

PAIRS = (("SP", "NTK"), ("muP", "MFP"))


@dataclass(frozen=True)
class Twins:
    """Two runs that differ in the parameterization alone; `ratio` is the width over the base width."""

    optimizer: str
    pair: tuple[str, str]
    ratio: float
    first: Record
    second: Record

    @property
    def exact(self) -> bool:
        """Whether multipliers are powers of two: the ratio is a power of 4."""
        return math.log2(self.ratio) % 2 == 0

    @property
    def equal(self) -> bool:
        """Whether all that is stored of the two runs is the same, bit for bit."""
        return repr((self.first.loss, self.first.curve)) == repr((self.second.loss, self.second.curve))

    @property
    def steps(self) -> list[int]:
        """Where losses were kept of both."""
        return [step for (step, _), _ in zip(self.first.curve, self.second.curve, strict=False)]

    @property
    def differences(self) -> list[float]:
        """|L_2 / L_1 - 1| of the training losses, at those steps."""
        both = zip(self.first.curve, self.second.curve, strict=False)
        return [abs(other / one - 1) for (_, one), (_, other) in both]


def twins(found: Transfer) -> list[Twins]:
    """Every two runs of a pair with the same optimizer, width, rate and seed."""
    study, runs = found.study, []
    names = {(each.optimizer, each.parameterization): each.name for each in study.settings.values()}
    for optimizer, pair in product(found.by_optimizer(), PAIRS):
        one, other = (names[optimizer, scheme] for scheme in pair)
        for width in study.widths(one):
            ratio, seconds = width / study.conditions.base_width, study.runs(other, width)
            runs += [
                Twins(optimizer, pair, ratio, first, seconds[rate][seed])
                for rate, by_seed in study.runs(one, width).items()
                for seed, first in by_seed.items()
                if seed in seconds.get(rate, {})
            ]
    return runs
