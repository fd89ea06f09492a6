"""Which base rates to train next: a grid of octaves, extended where the best is at its edge, halved around the best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Search:
    """Rates centre * 2^offset at offsets `start`, one octave apart, refined by what they gave.

    Where the best rate is the smallest or the largest tried, `extension` more octaves are tried beyond it, up to
    `reach` octaves beyond the start; otherwise the spacing on both sides of it is halved, `halvings` times.
    """

    centre: float
    count: int = 9
    halvings: int = 1
    extension: int = 2
    reach: int = 8

    @property
    def start(self) -> list[Fraction]:
        """The first offsets, in octaves, around 0."""
        return [Fraction(index - self.count // 2) for index in range(self.count)]

    def rate(self, offset: Fraction) -> float:
        """The base rate at that offset: centre * 2^offset."""
        return self.centre * 2.0 ** float(offset)

    def next(self, losses: Mapping[Fraction, float]) -> list[Fraction]:
        """Offsets to try next, none when the search is done; `losses` are means over seeds, not finite where diverged.

        A round is decided by all of the rounds before it and by nothing else, so that the same rates are tried
        whatever the order in which losses arrive, interrupted or not.
        """
        known: dict[Fraction, float] = {}
        offsets = self.start
        while offsets:
            missing = [offset for offset in offsets if offset not in losses]
            if missing:
                return missing
            known |= {offset: losses[offset] for offset in offsets}
            offsets = self._refine(known)
        return []

    def _refine(self, losses: Mapping[Fraction, float]) -> list[Fraction]:
        """The round after those of `losses`."""
        finite = {offset: loss for offset, loss in losses.items() if math.isfinite(loss)}
        tried = sorted(losses)
        if not finite:  # everything diverged: only smaller rates can help
            return self._beyond(tried[0], -1)
        best = min(sorted(finite), key=finite.__getitem__)
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
