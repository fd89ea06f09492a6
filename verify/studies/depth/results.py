"""What networks of growing depth showed, judged; read without training anything."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from verify.fit.depth import DepthClaim, verdicts
from verify.fit.four_steps import counts, rejected_by, resolution
from verify.fit.judging import Row, finite, row_json
from verify.fit.terms import Table
from verify.studies.depth.conditions import PARAMETERS, WRITERS, Conditions, Network
from verify.studies.depth.text import table
from verify.studies.study import Answer, Part, Progress, Study, StudyError, Unit, head, shared
from verify.training.data import Corpus
from verify.values import Document, Entries, Leaf


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

        def row(network: Network, step: int, layer: str, quantity: str) -> Leaf:
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


def unit(width: int, depth: int) -> Unit:
    """What is kept of one size."""
    return ("transformer", width, depth)


def file_name(unit: Unit) -> str:
    """Where a size is kept in the study's folder."""
    return f"width_{unit[1]}_depth_{unit[2]}.json"


@dataclass(frozen=True)
class DepthStudy:
    """The study of every width, and with what its parts were made."""

    results: tuple[DepthResult, ...]
    parts: tuple[Part[Network], ...]


def judge(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Network]], _: Path) -> DepthStudy:
    """What the networks of growing depth show, width by width."""
    conditions, by_width = shared(wanted), dict[int, dict[int, Network]]()
    for each in wanted:
        by_width.setdefault(int(each[1]), {})[int(each[2])] = parts[each].found
    found = (DepthResult(conditions, width, networks) for width, networks in by_width.items())
    return DepthStudy(tuple(found), tuple(parts.values()))


def as_json(study: DepthStudy) -> Document:
    """The JSON contract of every verify command; a study for every width."""
    studies = []
    for result in study.results:
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
        **head("exponents", study.parts),
        "axis": "depth",
        "model": "transformer",
        **asdict(study.results[0].conditions),
        "depths": list(study.results[0].depths),
        "studies": studies,
    }


def _units(content: Entries) -> list[Unit]:
    if content.get("axis") != "depth":
        raise StudyError("it is no study along depth; give the folder of one")
    return [unit(each["width"], depth) for each in content["studies"] for depth in content["depths"]]


def _train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress) -> Network:
    from verify.studies.depth.study import train

    return train(conditions, int(unit[1]), int(unit[2]), corpus, progress)


ANSWER = Answer(Conditions, "exponents.json", _units, judge, as_json, lambda study: table(study.results))
DEPTH = Study("exponents --axis depth", "verify.studies.depth.study", Network, file_name, _train, 7, answer=ANSWER)
