"""Under which conditions networks of a study of weight decay are trained, and by which prescription."""

from dataclasses import dataclass

from derive.decays import Decay
from derive.solve import Prescription, prescribe, solve_kinds


@dataclass(frozen=True)
class Conditions:
    """What all networks of a study share; rate and decay are those of every layer at the base width."""

    optimizer: str
    base_width: int
    base_rate: float
    weight_decay: float
    seeds: int
    steps: int
    batch: int
    context: int
    hidden_layers: int
    evaluation: int
    corpus: str


def prescription(optimizer: str, parameterization: str, decay: Decay) -> Prescription:
    """The largest stable rates under full alignment, with the decay of that convention."""
    return solve_kinds(prescribe(optimizer, parameterization).problem, decay)
