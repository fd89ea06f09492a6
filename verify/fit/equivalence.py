"""Whether two losses are told apart, equal within a margin, or neither: an equivalence test on a paired difference.

    equal        the whole 95 % interval lies within +-margin: two one-sided t tests, each at 2.5 %
    told apart   it does not, and leaves out 0
    not decided  anything else: an interval that contains 0 may be wide enough for any difference

Two one-sided tests: Schuirmann 1987, J. Pharmacokin. Biopharm. 15, 657.
"""

from enum import Enum

from verify.fit.optimum import Estimate

MARGIN = 0.01
"""Nats: less than seeds scatter by, and about what a tenth more of training brings."""


class Relation(Enum):
    """What a difference with its interval says."""

    EQUAL = "equal"
    APART = "told apart"
    OPEN = "not decided"


def relation(difference: Estimate, margin: float = MARGIN) -> Relation:
    """The relation of two losses from their difference, paired over seeds; ValueError for a margin that is none.

    Where no interval is known, as with one seed, nothing is decided.
    """
    if not 0 < margin < float("inf"):
        raise ValueError(f"margin = {margin} is not allowed; give nats above 0")
    if -margin < difference.low and difference.high < margin:
        return Relation.EQUAL
    if difference.low > 0 or difference.high < 0:
        return Relation.APART
    return Relation.OPEN
