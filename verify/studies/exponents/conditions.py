"""Under which conditions networks of growing width are trained, and what is kept of one width."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from derive.solve import Prescription, prescribe, solve_kinds
from derive.words import Kind
from verify.studies.study import StudyError
from verify.sweeps.records import GLOBAL
from verify.sweeps.settings.one_rate import at_one_rate
from verify.training.config import Config, Measurement, Run

MODULE = "verify.training.trainer"
"""What trains a width."""

PerSeed = Float[np.ndarray, " seeds"]


@dataclass(frozen=True)
class Conditions:
    """What all widths share; `c` are the rates' exponents, since an alignment may be named by a file that changes.

    `sizes` are those that were given, and `listed` is the number of hidden layers where each has rates of its own.
    """

    optimizer: str
    parameterization: str
    alignment: str
    c: tuple[str, ...]
    listed: int | None
    model: Literal["mlp", "transformer"]
    sizes: Mapping[str, int | bool]
    base_width: int
    base_rate: float
    batch: int
    probe: int
    dtype: str
    seeds: int
    steps: int
    corpus: str

    def prescription(self) -> Prescription:
        """What is trained by, solved from its names; StudyError where they no longer give the rates that were."""
        found = prescription(self.optimizer, self.parameterization, self.alignment, self.listed)
        if tuple(map(str, found.c)) != self.c:
            raise StudyError(f"alignment {self.alignment} now gives other rates than those trained by; put it back")
        return found

    def config(self) -> Config:
        """The network at the base width, and how it is trained."""
        return Config(
            self.prescription(),
            self.base_width,
            self.base_rate,
            model=self.model,
            batch=self.batch,
            probe=self.probe,
            dtype=self.dtype,
            sizes=dict(self.sizes),
        )


def prescription(optimizer: str, parameterization: str, alignment: str, listed: int | None) -> Prescription:
    """The largest stable rates, or one rate for all layers; by kind of layer where they are not listed."""
    raw = alignment == GLOBAL
    found = prescribe(optimizer, parameterization, "full" if raw else alignment, hidden_layers=listed)
    if found.problem.alignment.hidden_layers is None and listed is None:
        found = solve_kinds(found.problem)
    return at_one_rate(found) if raw else found


@dataclass(frozen=True)
class Network:
    """A finished width: sizes[step][layer][quantity], the loss of every step, and on what it was trained."""

    kinds: Mapping[str, Kind]
    fan_in: Mapping[str, int]
    sizes: Mapping[int, Mapping[str, Mapping[str, PerSeed]]]
    losses: Float[np.ndarray, "steps seeds"]
    diverged: Mapping[int, int]
    mesh: str | None
    processes: int

    @classmethod
    def of(cls, run: Run, mesh: str | None, processes: int) -> "Network":
        """What is kept of a run."""
        sizes = {each.step: each.values for each in run.measurements}
        return cls(run.kinds, run.fan_in, sizes, run.losses, run.diverged, mesh, processes)

    def run(self, width: int) -> Run:
        """The run that it was."""
        measurements = [
            Measurement(width, step, {name: dict(of) for name, of in sizes.items()})
            for step, sizes in self.sizes.items()
        ]
        return Run(width, dict(self.kinds), dict(self.fan_in), measurements, self.losses, dict(self.diverged))
