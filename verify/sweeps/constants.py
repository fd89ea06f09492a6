"""Constants of embedding, hidden and readout rates: a search at the base width, as the paper tuned its own.

    rate_l = base rate g constant_l (n / n_0)^-c_l      g constant_l = the factors found, constants of geometric mean 1

Three factors in [0.01, 100] on the best untuned base rate, by scipy: a quarter of the trials are Sobol points over the
whole range (`qmc`), the others follow Nelder and Mead from the best of them (`minimize`), then from the best one in
another part of the range, then look around the best. Where the best lies at an edge, the range moves there. The common
factor g belongs to the base rate. All is decided by losses alone, so that an interrupted search, begun again, asks for
the same trials, and those stored are not trained again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from derive.errors import UserError
from verify.sweeps.driver import Cell, Driver, Grid
from verify.sweeps.records import Setting
from verify.sweeps.search import Search
from verify.sweeps.settings.named import UNTUNED
from verify.values import Document

Triple = tuple[float, float, float]
PerSeed = Float[np.ndarray, " seeds"]
Point = Float[np.ndarray, "3"]
LossesOf = Callable[[Sequence[Triple]], Mapping[Triple, PerSeed]]
"""Losses by seed of some triples of factors; not finite where training diverges."""

RANGE = 2.0  # decades on both sides of 1
EDGE, MOVE, FARTHEST = 0.1, 1.0, 6.0  # decades: what counts as at the edge, by how much the range moves, and how far
APART = 1.0  # decades from a minimum where another part of the range begins
SIMPLEX, AROUND = 0.5, 0.25  # decades: the first simplex, and how far is looked around the best
SMALLEST_STEP, SMALLEST_GAIN = 0.01, 1e-5  # decades and nats at which Nelder and Mead are done


@dataclass(frozen=True)
class Tuned:
    """What a search found; `constants` have geometric mean 1, `factor` is g.

    `low` and `high` span the trials within one standard error of the best, paired over seeds, NaN with one seed;
    `ranges` are the factors' ranges in the end; `untuned` is the loss of the factors 1, 1, 1.
    """

    constants: Triple
    factor: float
    low: Triple
    high: Triple
    loss: float
    untuned: float
    trials: int
    ranges: tuple[tuple[float, float], ...]

    def json(self) -> Document:
        """As constants.json has it; what is not known is null."""
        known = {name: [each if math.isfinite(each) else None for each in getattr(self, name)] for name in BOUNDS}
        kept = {name: getattr(self, name) for name in ("factor", "loss", "untuned", "trials")}
        return {"constants": [*self.constants], **known, **kept, "ranges": [[*each] for each in self.ranges]}


BOUNDS = ("low", "high")


class _SpentError(Exception):
    """All trials are made."""


class _Trials:
    """The trials made so far, in their order, and the objective over log10 of the factors."""

    def __init__(self, losses_of: LossesOf, most: int) -> None:
        self.losses_of, self.most = losses_of, most
        self.known: dict[Triple, PerSeed] = {}

    def make(self, points: Sequence[Point]) -> None:
        """Those of the points that are new, side by side; _SpentError where not all of them may be made."""
        wanted = [each for each in dict.fromkeys(map(rounded, points)) if each not in self.known]
        allowed = wanted[: self.most - len(self.known)]
        self.known |= {each: np.asarray(losses) for each, losses in self.losses_of(allowed).items()} if allowed else {}
        if len(allowed) < len(wanted):
            raise _SpentError

    def __call__(self, point: Point) -> float:
        """The mean loss over seeds, inf where one diverges."""
        self.make([point])
        return self.mean(rounded(point))

    def mean(self, triple: Triple) -> float:
        """The mean loss of a trial that was made."""
        loss = float(np.mean(self.known[triple]))
        return loss if math.isfinite(loss) else math.inf

    def best(self, away_from: Sequence[Point] = ()) -> Triple | None:
        """The trial with the lowest loss, the first of equals, of those APART from all of the points; None if none."""
        left = [
            triple
            for triple in self.known
            if math.isfinite(self.mean(triple))
            and all(np.abs(np.log10(triple) - point).max() >= APART for point in away_from)
        ]
        return min(left, key=self.mean, default=None)


def rounded(point: Point) -> Triple:
    """10^point to three digits: what is trained, and what the setting's name shows."""
    return tuple(float(f"{10.0**each:.3g}") for each in point)  # type: ignore[return-value]


def search(losses_of: LossesOf, trials: int) -> Tuned:
    """The factors with the lowest mean loss in so many trials; UserError where all of them diverge."""
    made = _Trials(losses_of, trials)
    box = np.array([[-RANGE, RANGE]] * 3)
    with suppress(_SpentError):
        _run(made, box)
    best = made.best()
    if best is None:
        raise UserError(f"all {trials} trials of constants diverge; give a smaller --base-rate")
    factor = float(np.prod(best)) ** (1 / 3)
    low, high = _interval(made, best)
    untuned = made.mean(UNTUNED) if UNTUNED in made.known else math.nan
    ranges = tuple((float(10**first), float(10**last)) for first, last in box)
    return Tuned(_normal(best), factor, low, high, made.mean(best), untuned, len(made.known), ranges)


def _run(made: _Trials, box: Float[np.ndarray, "3 2"]) -> None:
    """Make trials until they are spent; `box` moves where the best lies at its edge."""
    from scipy.stats import qmc

    sobol = qmc.Sobol(3, scramble=False).fast_forward(1)  # no randomness, and no point in the corner

    def points(count: int, low: Point, high: Point) -> list[Point]:
        return [low + (high - low) * unit for unit in sobol.random(count)]

    made.make([np.zeros(3), *points(max(1, made.most // 4), box[:, 0], box[:, 1])])
    ends: list[Point] = []
    shift = np.zeros(3)
    while True:
        before = len(made.known)
        start = made.best(ends[:1]) if len(ends) == 1 else made.best()
        if start is not None:
            ends.append(_descend(made, np.log10(start), box, shift))
        best = made.best()
        shift = np.zeros(3) if best is None else _move(box, np.log10(best))
        if shift.any():
            ends.clear()
        elif best is None:
            made.make(points(max(1, made.most // 16), box[:, 0], box[:, 1]))
        elif len(ends) > 1:
            centre = np.log10(best)
            made.make(points(max(1, made.most // 16), centre - AROUND, centre + AROUND))
        if len(made.known) == before:  # all that it came to was known: somewhere else, lest it never end
            made.make(points(1, box[:, 0], box[:, 1]))


def _descend(made: _Trials, start: Point, box: Float[np.ndarray, "3 2"], shift: Point) -> Point:
    """Where Nelder and Mead end within the box, from a simplex that leads inwards from `start`, or as the box moved."""
    from scipy.optimize import minimize

    inwards = np.where(start > box.mean(axis=1), -SIMPLEX, SIMPLEX)
    edges = np.where(shift, np.sign(shift) * SIMPLEX, inwards)
    simplex = np.vstack([start, *(start + edges[axis] * np.eye(3)[axis] for axis in range(3))])
    options = {"initial_simplex": simplex, "xatol": SMALLEST_STEP, "fatol": SMALLEST_GAIN, "maxfev": made.most // 4 + 4}
    return np.asarray(minimize(made, start, method="Nelder-Mead", bounds=box, options=options).x)


def _move(box: Float[np.ndarray, "3 2"], best: Point) -> Point:
    """Move the ranges at whose edge the best lies, in place; by how much each was."""
    below, above = best - box[:, 0] <= EDGE, box[:, 1] - best <= EDGE
    shift = np.where(above & (box[:, 1] < FARTHEST), MOVE, 0.0) - np.where(below & (box[:, 0] > -FARTHEST), MOVE, 0.0)
    box += shift[:, None]
    return shift


def _normal(triple: Triple) -> Triple:
    """The constants without their common factor."""
    return rounded(np.log10(triple) - np.log10(triple).mean())


def _interval(made: _Trials, best: Triple) -> tuple[Triple, Triple]:
    lowest, alike = made.known[best], []
    if lowest.size < 2:
        nothing = (math.nan, math.nan, math.nan)
        return nothing, nothing
    for triple, losses in made.known.items():
        difference = losses - lowest
        error = difference.std(ddof=1) / lowest.size**0.5 if np.isfinite(difference).all() else math.nan
        if triple == best or difference.mean() <= error:
            alike.append(_normal(triple))
    span = np.array(alike)
    return tuple(span.min(axis=0).tolist()), tuple(span.max(axis=0).tolist())  # type: ignore[return-value]


def tune_constants(
    driver: Driver, setting: Setting, rates: Search, trials: int, report: Callable[[str], None]
) -> Tuned:
    """Tune the constants of that setting at the base width, its best base rate first; every trial is in the store.

    At the base width all settings of an optimizer and horizon are one network, so that one speaks for all.
    """
    base = driver.conditions.base_width
    driver.store.add_settings([setting], {})
    plain = Cell(setting, base, rates)
    driver.run([plain])
    rate, _ = plain.best(driver.seeds)
    alone = Search(rate, count=1, halvings=0, extension=0)

    def losses_of(triples: Sequence[Triple]) -> dict[Triple, PerSeed]:
        cells = [Cell(replace(setting, constants=triple), base, alone) for triple in triples]
        driver.store.add_settings([cell.setting for cell in cells], {})
        driver.run(cells)
        known = [cell.known[alone.rate(alone.start[0])] for cell in cells]
        return {
            triple: np.array([losses[seed] for seed in driver.seeds])
            for triple, losses in zip(triples, known, strict=True)
        }

    found = search(losses_of, trials)
    spans = (
        f"{value:g} [{low:g}, {high:g}]"
        for value, low, high in zip(found.constants, found.low, found.high, strict=True)
    )
    report(
        f"{setting.name}: constants {', '.join(spans)} (embedding, hidden, readout) at {found.factor:.3g} times the "
        f"base rate {rate:g}, loss {found.loss:.4f} at "
        f"{driver.conditions.axis} {base} ({found.untuned:.4f} untuned, {found.trials} tried)"
    )
    return found


def tuned(
    grid: Grid, driver: Driver, trials: int, report: Callable[[str], None]
) -> tuple[Grid, dict[tuple[str, int | None], Tuned]]:
    """The grid with the constants of every optimizer and horizon tuned, and what was found of each."""
    found: dict[tuple[str, int | None], Tuned] = {}
    for each in grid.settings:
        kind = (each.setting.optimizer, each.setting.steps)
        if kind not in found:
            found[kind] = tune_constants(driver, each.setting, grid.searches[kind[0]], trials, report)
    settings = tuple(
        replace(
            each, setting=replace(each.setting, constants=found[each.setting.optimizer, each.setting.steps].constants)
        )
        for each in grid.settings
    )
    factors = {kind: each.factor for kind, each in found.items()}
    return replace(grid, settings=settings, factors=factors), found
