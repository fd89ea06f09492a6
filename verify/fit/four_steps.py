"""What the rows of the four steps say together: counts, whether the theory is rejected, and what could be told apart.

A theory is rejected where a row of step 1, of step 2 or of the result fails. A failing step 3 alone is a finding about
the assumption, and a failing `consistent` says that even what was measured before does not explain the change.

Tens of rows reject together, so each has to fail by chance far less than once in twenty times. The interval alone does
not see to that: a theory for n -> infinity is off by a little at every finite width. Hence the tolerances of
`verify.fit.judging`, meant to reject right theories in fewer than one of a hundred studies of three seeds
(docs/plants.md has the counts, with the interval that their number leaves).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verify.fit.judging import Quantity, Row

STEPS: Mapping[str, tuple[Quantity, ...]] = {
    "1 optimizer": ("delta_w", "operator_norm", "gain", "epsilon"),
    "2 propagation": ("weight", "size", "cancellation", "nonlinearity", "gradient"),
    "3 assumption": ("alpha", "omega", "u", "kappa", "scatter"),
    "4 result": ("delta_z", "largest"),
    "4 consistent": ("consistent",),
}
"""Which quantities make which step, the two sides of the fourth apart."""
BLAMED = ("alpha", "kappa")
"""What of the assumption fixes a rate: c = t + alpha - a - s, and along depth c' = kappa - delta - s'."""
ASSUMPTION, RESULT = "3 assumption", "4 result"
REJECTING = ("1 optimizer", "2 propagation", RESULT)

HALF = 0.5  # the step between the exponents of usual theories


@dataclass(frozen=True)
class Count:
    """How many rows of one step held, failed, and could not be told; what was not measured is among the last."""

    holds: int
    fails: int
    open: int


def of_step(rows: Sequence[Row], name: str) -> list[Row]:
    """The rows of one of `STEPS`."""
    return [row for row in rows if row.quantity in STEPS[name]]


def counts(rows: Sequence[Row]) -> dict[str, Count]:
    """By step."""
    found = {}
    for name in STEPS:
        verdicts = [row.verdict for row in of_step(rows, name)]
        holds, fails = verdicts.count("holds"), verdicts.count("fails")
        found[name] = Count(holds, fails, len(verdicts) - holds - fails)
    return found


def rejected_by(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The failing rows of the steps that reject a theory, by step; empty where it is not rejected.

    Where the result fails and alpha or kappa does too, step 3 is named with it: they fix the rate, so that the
    assumption is what is wrong. The step that fails after the fewest training steps comes first: what fails
    later may follow from it.
    """
    failing = {name: [row for row in of_step(rows, name) if row.verdict == "fails"] for name in REJECTING}
    if failing[RESULT]:
        assumed = [row for row in of_step(rows, ASSUMPTION) if row.verdict == "fails" and row.quantity in BLAMED]
        failing = {ASSUMPTION: assumed, **failing}
    found = {name: sorted(each, key=lambda row: row.step) for name, each in failing.items() if each}
    return dict(sorted(found.items(), key=lambda item: item[1][0].step))


def resolution(rows: Sequence[Row]) -> float:
    """How far a result may be from what was measured before it fails: tolerance + half the 95 % interval.

    Of every layer that of the row of step 4 in which it shows first; and of the layers the largest. NaN where a layer
    has no interval.
    """
    sharpest: dict[str, float] = {}
    for row in of_step(rows, RESULT):
        reach = row.measured.high - row.measured.value + (row.tolerance or 0.0)
        sharpest[row.layer] = min(reach if np.isfinite(reach) else np.inf, sharpest.get(row.layer, np.inf))
    found = max(sharpest.values(), default=np.inf)
    return found if np.isfinite(found) else float("nan")


def summary(rows: Sequence[Row]) -> list[str]:
    """The counts of every step, the verdict with the rows it rests on, and what could be told apart; a line each."""
    counted = "; ".join(
        f"{name} {count.holds} hold, {count.fails} fail, {count.open} open" for name, count in counts(rows).items()
    )
    return [counted, _verdict(rows), _told_apart(rows)]


def _verdict(rows: Sequence[Row]) -> str:
    rejected = rejected_by(rows)
    if not rejected:
        count = sum(row.verdict not in ("holds", "fails") for name in REJECTING for row in of_step(rows, name))
        left = f"; {count} of their rows are open" if count else ""
        if not resolution(rows) < HALF:
            return f"undecided: nothing fails, but an error of 1/2 would not be seen{left}; give more seeds or widths"
        return f"not rejected: steps 1, 2 and the result of step 4 fail nowhere{left}"
    parts = []
    for name, failing in rejected.items():
        first = failing[0]
        seen = f"{first.layer} {first.quantity} {first.measured.value:+.2f}, not {first.reference:+.2f}"
        others = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        blamed = f" ({first.reason})" if first.reason else ""
        parts.append(f"step {name}: after {first.step} step{'s' * (first.step > 1)} {seen}{others}{blamed}")
    return "rejected by " + "; ".join(parts)


def _told_apart(rows: Sequence[Row]) -> str:
    apart = resolution(rows)
    if np.isnan(apart):
        return "what step 4 could tell apart is not known: a layer has no interval"
    return (
        f"step 4 can tell exponents apart that differ by {apart:.2f}: a prediction further from the measured one fails"
    )
