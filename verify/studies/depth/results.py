"""What networks of growing depth showed, judged; read without training anything."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from verify.fit.depth import DepthClaim, verdicts
from verify.fit.four_steps import counts, rejected_by, resolution
from verify.fit.judging import Row, finite, row_json
from verify.fit.terms import Table
from verify.studies.depth.study import PARAMETERS, WRITERS, Conditions, Network, unit
from verify.studies.study import Part, StudyError, Unit, head


@dataclass(frozen=True)
class DepthResult:
    """A finished study of one width: networks by depth, and every prediction judged."""

    conditions: Conditions
    width: int
    networks: Mapping[int, Network]

    @property
    def depths(self) -> tuple[int, ...]:
        """Growing."""
        return tuple(self.networks)

    def tables(self) -> dict[int, Table]:
        """By step, as table[layer][quantity][depth, seed]; NaN for what has diverged by then."""
        seeds = self.conditions.seeds
        steps = sorted({step for network in self.networks.values() for step in network.sizes})
        first = next((network.sizes[steps[0]] for network in self.networks.values() if steps and network.sizes), None)
        if first is None:
            raise StudyError("every run diverged in its first step; give a smaller --base-rate")

        def row(network: Network, step: int, layer: str, quantity: str) -> Any:
            values = network.sizes.get(step, {}).get(layer, {}).get(quantity, np.full(seeds, np.nan))
            alive = [network.diverged.get(seed, step + 1) > step for seed in range(seeds)]
            return np.where(alive, values, np.nan)

        return {
            step: {
                layer: {each: np.array([row(n, step, layer, each) for n in self.networks.values()]) for each in sizes}
                for layer, sizes in first.items()
            }
            for step in steps
        }

    def rows(self, claim: DepthClaim | None = None) -> list[Row]:
        """Every prediction of the theory that was trained by, or of another one."""
        judged_by = claim or self.conditions.claim()
        return [
            row
            for step, table in self.tables().items()
            for row in verdicts(judged_by, self.depths, step, table, PARAMETERS, WRITERS)
        ]

    @property
    def divergences(self) -> list[str]:
        """One line per run that diverged."""
        return [
            f"width {self.width}, depth {depth}, seed {seed}: the loss was not finite at step {step}"
            for depth, network in self.networks.items()
            for seed, step in sorted(network.diverged.items())
        ]


def results(
    conditions: Conditions, widths: Sequence[int], depths: Sequence[int], parts: Mapping[Unit, Part[Network]]
) -> list[DepthResult]:
    """The study of every width."""
    return [
        DepthResult(conditions, width, {depth: parts[unit(width, depth)].found for depth in depths}) for width in widths
    ]


def as_json(found: Sequence[DepthResult], parts: Mapping[Unit, Part[Network]]) -> dict[str, Any]:
    """The JSON contract of every verify command; a study for every width."""
    studies = []
    for result in found:
        rows = result.rows()
        studies.append(
            {
                "width": result.width,
                "diverged": result.divergences,
                "steps": {name: asdict(count) for name, count in counts(rows).items()},
                "rejected_by": list(rejected_by(rows)),
                "told_apart": finite(resolution(rows)),
                "rows": [row_json(row) for row in rows],
            }
        )
    return {
        **head("exponents", parts.values()),
        "axis": "depth",
        "model": "transformer",
        **asdict(found[0].conditions),
        "depths": list(found[0].depths),
        "studies": studies,
    }
