"""One prediction beside its measurement: how far a slope may be from it, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from derive.words import Kind
from verify.fit.slopes import Slope
from verify.values import Document

Quantity = Literal[
    "delta_w",
    "operator_norm",
    "gain",
    "epsilon",
    "weight",
    "size",
    "cancellation",
    "nonlinearity",
    "alpha",
    "omega",
    "u",
    "delta_z",
    "largest",
    "consistent",
    "gradient",
    "kappa",
    "scatter",
    "own change",
    "vector",
    "product size",
    "product change",
    "decay",
]
"""What is judged; the last five are those of the check of a user's own model."""
Verdict = Literal["holds", "fails", "open", "not measured"]

TOLERANCES: Mapping[Quantity, float] = {
    "delta_w": 0.05,
    "operator_norm": 0.1,
    "gain": 0.1,
    "epsilon": 0.1,
    "weight": 0.05,
    "size": 0.1,
    "cancellation": 0.1,
    "nonlinearity": 0.1,
    "gradient": 0.1,
    "alpha": 0.1,
    "omega": 0.1,
    "u": 0.1,
    "delta_z": 0.15,
    "largest": 0.1,
    "consistent": 0.15,
    "kappa": 0.1,
    "scatter": 0.15,
}
"""How far a slope may be from its prediction after the first step, at widths of hundreds; all tell 1/2 from 0."""
LATER_TOLERANCES: Mapping[Quantity, float] = {
    **TOLERANCES,
    "delta_w": 0.2,
    "cancellation": 0.15,
    "gradient": 0.3,
    "delta_z": 0.2,
    "largest": 0.2,
    "consistent": 0.2,
}
"""The same after more steps, when networks of different widths have learnt unequally much."""
LOGITS_TOLERANCE = 0.25
"""That of the logits' change: under full alignment omega of the readout is taken for 1/2 and measured up to 3/4."""
FOLLOWING: tuple[Quantity, ...] = ("delta_w", "delta_z", "largest", "consistent")
"""What moves with the size of the update."""
WIDEST_INTERVAL = 0.25  # half-width beyond which 0 and 1/2 cannot be told apart
DRIFTS = "slopes drift with width; give larger widths"


def tolerance(quantity: Quantity, kind: Kind, step: int, follows_gradient: bool = False) -> float:
    """How far a slope may be from its prediction, beyond its interval: by what is measured, where and when.

    Where the size of the update follows the gradient's (k > 0, as in SGD), what the update does is predicted no better
    than the gradient is.
    """
    listed = TOLERANCES if step == 1 else LATER_TOLERANCES
    allowed = listed[quantity]
    if follows_gradient and quantity in FOLLOWING:
        allowed = max(allowed, listed["gradient"])
    return max(allowed, LOGITS_TOLERANCE) if (quantity, kind) == ("delta_z", "readout") else allowed


@dataclass(frozen=True)
class Row:
    """One prediction beside its measurement, in the sign convention of the JSON contract.

    `reference` is the number that `measured` is judged against, with `tolerance`. `implied` stands beside a result and
    is not judged: what the measured alignments and terms give at these widths, where a term may still be small.
    """

    layer: str
    kind: Kind
    step: int
    quantity: Quantity
    predicted: str | None
    measured: Slope
    reference: float | None
    verdict: Verdict
    reason: str | None = None
    tolerance: float | None = None
    implied: float | None = None


def judge(measured: Slope, reference: float | None, tolerance: float) -> tuple[Verdict, str | None]:
    """Fail where the interval, widened by the tolerance, excludes the prediction; open where it could not fail.

    An interval too wide to tell 0 from 1/2 may still refute, but never confirms; without an interval nothing is told.
    """
    if not np.isfinite(measured.value):
        return "not measured", "not finite: zero, diverged or absent"
    if reference is None or not np.isfinite(reference):
        return "open", "nothing is predicted"
    half = measured.high - measured.value
    if not np.isfinite(half):
        return "open", "one seed at two widths has no interval; give more seeds or widths"
    if abs(measured.value - reference) > tolerance + half:
        return "fails", DRIFTS if measured.curved else None
    if half > WIDEST_INTERVAL:
        return "open", f"the interval, +-{half:.2f}, cannot tell 0 from 1/2; give more seeds or widths"
    return "holds", DRIFTS if measured.curved else None


def finite(value: float | None) -> float | None:
    """The number, or None where JSON has none for it."""
    return value if value is not None and np.isfinite(value) else None


def row_json(row: Row) -> Document:
    """One row of the JSON contract; what is not finite is null, with its reason.

    `measured` is judged against `reference`; `implied` is that too, but beside a result what measured terms imply.
    """
    measured = row.measured
    return {
        "layer": row.layer,
        "kind": row.kind,
        "step": row.step,
        "quantity": row.quantity,
        "predicted": row.predicted,
        "reference": finite(row.reference),
        "tolerance": row.tolerance,
        "implied": finite(row.reference if row.implied is None else row.implied),
        "measured": finite(measured.value),
        "low": finite(measured.low),
        "high": finite(measured.high),
        "holds": {"holds": True, "fails": False}.get(row.verdict),
        "reason": row.reason,
    }
