"""Under which conditions a study of epsilon is trained, what its units are, and what is kept of one.

("rate", optimizer)                             base rates tried at the base width, where none is given
("run", optimizer, scheme, epsilon, width)      a setting at one width, with the best of them
("gradients", scheme, width)                    Adam's backward pass, and what meets epsilon in its updates
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from derive.words import Kind
from verify.studies.study import Unit
from verify.sweeps import records
from verify.sweeps.records import Record, Setting

PerSeed = Float[np.ndarray, " seeds"]
ByLayer = Mapping[str, Mapping[str, PerSeed]]


@dataclass(frozen=True)
class Conditions:
    """What all units share; `rates` are the base rates by optimizer, none where they are looked for."""

    rates: Mapping[str, float]
    dtype: str
    base_width: int
    seeds: int
    steps: int
    batch: int
    vocabulary: int
    context: int
    hidden_layers: int
    evaluation: int
    corpus: str

    def of_runs(self, code: str) -> records.Conditions:
        """The same as a sweep has it."""
        return records.Conditions(
            model="mlp",
            sizes={"vocabulary": self.vocabulary, "context": self.context, "hidden_layers": self.hidden_layers},
            base_width=self.base_width,
            steps=self.steps,
            batch=self.batch,
            evaluation=self.evaluation,
            corpus=self.corpus,
            code=code,
            dtype=self.dtype,
        )


@dataclass(frozen=True)
class Found:
    """What one unit showed: runs, or the sizes of one width by step, layer and quantity."""

    runs: tuple[Record, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    gradients: Mapping[int, ByLayer] = field(default_factory=dict)
    sizes: Mapping[int, ByLayer] = field(default_factory=dict)


def run_unit(setting: Setting, width: int) -> Unit:
    """The unit of a setting at one width."""
    epsilon = "" if setting.epsilon is None else f"{setting.epsilon!r} {setting.epsilon_rule}"
    return ("run", setting.optimizer, setting.parameterization, epsilon, width)


def file_name(unit: Unit) -> str:
    """Where a unit is kept in the study's folder."""
    return f"{'_'.join(str(each).replace(' ', '_') or 'usual' for each in unit)}.json"


def epsilon_values(units: Sequence[Unit]) -> list[float]:
    """The values at the base width that are trained, from large to small."""
    return sorted({float(str(unit[3]).split()[0]) for unit in units if unit[0] == "run" and unit[3]}, reverse=True)
