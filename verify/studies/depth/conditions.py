"""Under which conditions transformers of growing depth are trained, and what one size of them shows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from derive.depth import depth_axis, read_kappa, read_residual
from derive.solve import Prescription, prescribe, solve_kinds
from derive.words import Kind
from verify.fit.depth import DepthClaim
from verify.training.config import Config

PerSeed = Float[np.ndarray, " seeds"]
WRITERS = ("blocks.o", "blocks.down")
PARAMETERS: Mapping[str, Kind] = {
    **dict.fromkeys(("embedding.tokens", "embedding.positions"), "embedding"),
    **dict.fromkeys((f"blocks.{name}" for name in ("q", "k", "v", "o", "up", "down")), "hidden"),
    "readout": "readout",
}


@dataclass(frozen=True)
class Conditions:
    """What is trained at every depth; `residual` and `depth_alignment` as on the command line."""

    optimizer: str
    residual: str
    depth_alignment: str
    normed: bool
    base_depth: int
    base_rate: float
    seeds: int
    steps: int
    batch: int
    probe: int
    context: int
    head_dimension: int
    corpus: str

    def claim(self, depth: int | None = None) -> DepthClaim:
        """The theory, with its factors at that depth; DeriveError for a delta whose sum diverges."""
        optimizers = self.prescription.problem.optimizers
        residual, kappa = read_residual(self.residual, self.normed), read_kappa(self.depth_alignment)
        sizes = None if depth is None else (self.base_depth, depth)
        return DepthClaim(optimizers, residual, kappa, depth_axis(optimizers, residual, kappa, sizes=sizes))

    @property
    def prescription(self) -> Prescription:
        """That of the width, where every factor is 1."""
        return solve_kinds(prescribe(self.optimizer, "sp").problem)

    def config(self, width: int, depth: int, vocabulary: int) -> Config:
        """The network of that size, with the prescribed rates."""
        return Config(
            replace(self.prescription, axes=(self.claim(depth).axis,)),
            width,
            self.base_rate,
            model="transformer",
            batch=self.batch,
            probe=self.probe,
            sizes={
                "vocabulary": vocabulary,
                "context": self.context,
                "blocks": depth,
                "head_dimension": self.head_dimension,
                "scan": True,  # one block is compiled, whatever the depth
                "normed": self.normed,
            },
        )


@dataclass(frozen=True)
class Network:
    """What one size showed: sizes[step][layer][quantity], where seeds diverged, and the loss of every step."""

    sizes: Mapping[int, Mapping[str, Mapping[str, PerSeed]]]
    losses: Float[np.ndarray, "steps seeds"]
    diverged: Mapping[int, int]
