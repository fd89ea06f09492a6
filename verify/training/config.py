"""What a training is given and what it leaves: plain data, which is read back without JAX."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Shaped

from derive.axes import OUT
from derive.solve import Prescription
from derive.words import Kind
from verify.training.data import next_token, sequence
from verify.values import Document, Leaf, Tree

if TYPE_CHECKING:
    from verify.training.networks import Model, Scaling

ModelName = Literal["mlp", "transformer"]
TARGETS: Mapping[str, Callable[..., Tree]] = {"mlp": next_token, "transformer": sequence}
"""How windows of text become inputs and targets, by model."""


def build(model: str, scaling: "Scaling", sizes: Mapping[str, Leaf]) -> "Model":
    """The named model at one width; ModelError for sizes that do not fit."""
    from verify.training.networks.mlp import MLP
    from verify.training.networks.transformer import Transformer

    return {"mlp": MLP, "transformer": Transformer}[model](scaling, **sizes)


@dataclass(frozen=True)
class Config:
    """What is trained: model, prescription, sizes of batches and the rate at the base width."""

    prescription: Prescription
    base_width: int
    base_rate: float
    model: ModelName = "mlp"
    batch: int = 256
    probe: int = 64
    epsilon: float | None = None
    weight_decay: float = 0.0
    dtype: str = "float32"
    sizes: Document = field(default_factory=dict)

    def at(self, width: int, **placed: Any) -> "Model":
        """The model at that width, with the prescription's multipliers and initialisation; ModelError for bad sizes."""
        from verify.training.networks import Scaling

        scheme = self.prescription.problem.parameterization
        scaling = Scaling(width, self.base_width, scheme.a, scheme.b)  # type: ignore[arg-type]
        return build(self.model, scaling, {**self.sizes, **self._branches(), **placed})

    def _branches(self) -> dict[str, float]:
        """The factors that the prescription's depth has on branches, by the names that the transformer has for them."""
        axis = next((each for each in self.prescription.axes if each.name == "depth"), None)
        if axis is None:
            return {}
        out = axis.row("hidden", OUT)
        return {"branch_multiplier": axis.factor(out.a), "out_factor": axis.factor(out.b)}

    @property
    def targets(self) -> Callable[..., Tree]:
        """How windows of text become inputs and targets."""
        return TARGETS[self.model]


@dataclass
class Measurement:
    """What one step of one width showed: values[op][quantity] has one number per seed."""

    width: int
    step: int
    values: dict[str, dict[str, Shaped[np.ndarray, "..."]]]


@dataclass
class Run:
    """A finished width: its measurements, the loss of every step and seed, and where seeds diverged."""

    width: int
    kinds: dict[str, Kind]
    fan_in: dict[str, int]
    measurements: list[Measurement]
    losses: Shaped[np.ndarray, "..."]
    diverged: dict[int, int]
