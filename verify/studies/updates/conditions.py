"""Under which conditions the networks of one optimizer are trained, and what is kept of its updates."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sympy import Rational, S

from derive.registry import spelled
from derive.solve import Prescription, prescribe, solve_kinds
from derive.words import KINDS, Kind
from verify.fit.slopes import Sizes

FEW = 8
"""Units per example from which a gradient's rank is as good as fixed. A batch of B changes the norm of sign(polar(m)),
the slowest to converge, by a factor 1 + O(B/n): its slope by 0.07 where widths start at 8 B, by 0.27 from B on."""


@dataclass(frozen=True)
class Conditions:
    """What was trained for one optimizer, under the prescription for full alignment.

    `base_rate` is that of every layer at the base width; `epsilon` is by layer kind, None where the rule has none.
    """

    optimizer: str
    parameterization: str
    widths: tuple[int, ...]
    seeds: int
    steps: int
    base_width: int
    base_rate: float
    epsilon: tuple[float | None, ...]
    batch: int
    context: int
    hidden_layers: int
    corpus: str

    @classmethod
    def of(cls, optimizer: str, parameterization: str, **shared: Any) -> "Conditions":
        """Those of that optimizer at its usual rate and epsilon; DeriveError where it cannot be trained."""
        from verify.training.rules.directions import check_trainable
        from verify.training.rules.usual import base_epsilon, base_rate

        prescription = prescribe(optimizer, parameterization)
        rules = prescription.problem.optimizers
        names = {kind: spelled(rules[kind]) for kind in KINDS}
        check_trainable(names)
        epsilon = tuple(base_epsilon(names[kind]) if rules[kind].has_epsilon else None for kind in KINDS)
        scheme, rate = prescription.problem.parameterization.name, base_rate(*names.values())
        return cls(prescription.optimizer_name, scheme, base_rate=rate, epsilon=epsilon, **shared)

    @property
    def rank(self) -> Rational | None:
        """beta of a gradient of rank n^beta: 0 where the smallest network has FEW units per example, else unknown.

        It is never known to be 1: what five steps of Newton and Schulz lift of the first gradient of 2048 examples of
        text is of rank 47, 84, 116 and 136 at widths 64 to 512, no more than of 256 examples.
        """
        return S.Zero if FEW * self.batch <= self.widths[0] else None

    def prescription(self) -> Prescription:
        """The largest stable rates under full alignment at the rank of the gradient, per layer kind."""
        problem = prescribe(self.optimizer, self.parameterization, "full").problem
        rank = self.rank
        if rank is not None:
            rows = {kind: row.at_rank(rank) for kind, row in problem.optimizers.items()}
            problem = replace(problem, optimizers=rows)
        return solve_kinds(problem)


@dataclass(frozen=True)
class Updates:
    """What one optimizer showed: sizes[step][layer][quantity] is [width, seed], after the first and the last step."""

    kinds: Mapping[str, Kind]
    diverged: tuple[str, ...]
    sizes: Mapping[int, Mapping[str, Mapping[str, Sizes]]]
