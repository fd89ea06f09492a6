"""Which base rates to train next: a grid of octaves, extended where the best is at its edge, halved around the best.

A sweep may end on the right as the paper's did (Everett et al. 2024): at the first rate that diverges or ends above
1.2 times the best loss. What lies beyond is not trained, and the fit of the best rate never sees it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Search:
    """Rates centre * 2^offset at offsets `start`, one octave apart, refined by what they gave.

    Where the best rate is the smallest or the largest tried, `extension` more octaves are tried beyond it, up to
    `reach` octaves beyond the start; otherwise the spacing on both sides of it is halved, `halvings` times.
    With `stop`, rates above one that diverges or has more than `stop` times the best loss are not tried: the lower half
    of the start is one round, and every rate above it a round of its own.
    """

    centre: float
    count: int = 9
    halvings: int = 1
    extension: int = 2
    reach: int = 8
    stop: float | None = None

    @property
    def start(self) -> list[Fraction]:
        """The first offsets, in octaves, around 0."""
        return [Fraction(index - self.count // 2) for index in range(self.count)]

    def rate(self, offset: Fraction) -> float:
        """The base rate at that offset: centre * 2^offset."""
        return self.centre * 2.0 ** float(offset)

    def next(self, losses: Mapping[Fraction, float], also: Fraction | None = None) -> list[Fraction]:
        """Offsets to try next, none when the search is done; `losses` are means over seeds, not finite where diverged.

        In the end rates are tried, an octave apart, until those tried lie on both sides of `also`, the best of another
        width: what that costs here is measured, not extrapolated. A round is decided by all of the rounds before it
        and by nothing else, so that the same rates are tried whatever the order in which losses arrive, interrupted
        or not.
        """
        known: dict[Fraction, float] = {}
        rounds = self._first_rounds()
        while rounds:
            offsets = self._within(rounds.pop(0), known)
            missing = [offset for offset in offsets if offset not in losses]
            if missing:
                return missing
            known |= {offset: losses[offset] for offset in offsets}
            if not rounds and (refined := self._refine(known)):
                rounds.append(refined)
        covering = [] if also is None else self._within(self._around(known, also), known)
        return [offset for offset in covering if offset not in losses]

    def best(self, losses: Mapping[Fraction, float]) -> Fraction | None:
        """The offset with the lowest loss, the smaller of equals; None where everything diverged."""
        finite = {offset: loss for offset, loss in losses.items() if math.isfinite(loss)}
        return min(sorted(finite), key=finite.__getitem__) if finite else None

    def _first_rounds(self) -> list[list[Fraction]]:
        if self.stop is None:
            return [self.start]
        return [[offset for offset in self.start if offset <= 0], *([offset] for offset in self.start if offset > 0)]

    def _within(self, offsets: list[Fraction], known: Mapping[Fraction, float]) -> list[Fraction]:
        """Those of the offsets that no rate already known to be too high lies below."""
        if self.stop is None or not known:
            return offsets
        best = self.best(known)
        limit = math.inf if best is None else self.stop * known[best]
        high = [
            offset
            for offset, loss in known.items()
            if (best is None or offset > best) and not (math.isfinite(loss) and loss <= limit)
        ]
        return [offset for offset in offsets if not high or offset < min(high)]

    def _around(self, known: Mapping[Fraction, float], also: Fraction) -> list[Fraction]:
        lowest, highest = min(known), max(known)
        below = [lowest - step for step in range(1, math.floor(lowest - also) + 2)]
        above = [highest + step for step in range(1, math.floor(also - highest) + 2)]
        return sorted([*below, *above])

    def _refine(self, losses: Mapping[Fraction, float]) -> list[Fraction]:
        """The round after those of `losses`."""
        tried = sorted(losses)
        best = self.best(losses)
        if best is None:  # everything diverged: only smaller rates can help
            return self._beyond(tried[0], -1)
        if best in (tried[0], tried[-1]):
            beyond = self._beyond(best, -1 if best == tried[0] else 1)
            if beyond:
                return beyond
        place = tried.index(best)
        neighbours = tried[max(0, place - 1) : place] + tried[place + 1 : place + 2]
        widest = max((abs(each - best) for each in neighbours), default=Fraction(0))
        if widest <= Fraction(1, 2**self.halvings):
            return []
        return sorted((each + best) / 2 for each in neighbours if abs(each - best) == widest)

    def _beyond(self, edge: Fraction, side: int) -> list[Fraction]:
        limit = self.reach + self.count // 2
        offsets = [edge + side * step for step in range(1, self.extension + 1)]
        return sorted(offset for offset in offsets if abs(offset) <= limit)
