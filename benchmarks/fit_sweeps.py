"""What `verify fit` makes of published sweeps' designs whose optimum is known.

    python -m benchmarks.fit_sweeps [--simulations 500] > benchmarks/fit_sweeps.md

Sizes, rates and seeds are those of six public sweeps; their losses are not public as numbers, or not known exactly, so
that they are drawn here: a parabola in log2(rate) around a best rate that goes as a power of the size, a cubic term,
noise, an offset per seed, rates that diverge, and runs that are missing.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from verify.studies.table.fit import Fit, fit
from verify.studies.table.runs import Runs

FOLDER = "EleutherAI/nanoGPT-mup, mup_examples"
OCTAVES_APART = 2.0


@dataclass(frozen=True)
class Design:
    """A sweep: `rates` are powers of 2, lowest first; at the first size the best rate is 2^best, then as size^drift.

    `curvature` and `skew` are nats per octave^2 and octave^3; a run diverges `diverging` octaves above the best rate;
    `missing` is the share of runs that were lost.
    """

    source: str
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    seeds: int
    best: float
    drift: float
    noise: float = 0.004
    curvature: float = 0.05
    skew: float = 0.0
    diverging: float = 4.0
    missing: float = 0.0
    axis: str = "width"

    @property
    def coarse(self) -> bool:
        """Whether rates are too far apart for a parabola: two octaves or more."""
        return self.rates[1] - self.rates[0] >= OCTAVES_APART


WIDTHS = (256, 512, 1024, 2048)
DESIGNS = {
    "nanoGPT, characters": Design(
        f"{FOLDER}/mutransfer_lr_shakespeare_char/mup", WIDTHS, tuple(range(-14, -2)), 3, -7.3, 0.0, skew=0.002
    ),
    "nanoGPT, web text": Design(
        f"{FOLDER}/mutransfer_lr_owt/mup", WIDTHS, tuple(range(-14, -9)), 3, -11.6, -0.1, noise=0.003
    ),
    "nanoGPT, Scion": Design(
        "EIFY/scion, mutransfer_lr_shakespeare_char/scion", WIDTHS, tuple(range(-12, 0)), 3, -4.4, -0.25, missing=0.03
    ),
    "transformer, one seed": Design(
        "MikhailTerekhov/mup, run_grid_train_v5.sh", WIDTHS, tuple(range(-13, -5)), 1, -8.2, -0.5, noise=0.008
    ),
    "nanoGPT, depth": Design(
        f"{FOLDER}, depth_alpha1", (2, 8, 32, 128), tuple(range(-13, -2, 2)), 3, -7.8, -0.25, axis="depth"
    ),
    "transformer, five rates": Design(
        "Lingle 2024, arXiv 2404.05728", (128, 512, 2048), tuple(range(-10, 0, 2)), 1, -6.2, 0.0, diverging=9.0
    ),
}


def simulated(design: Design, generator: np.random.Generator) -> Runs:
    """One sweep as `verify fit` reads a table."""
    parts = np.meshgrid(np.log2(design.sizes), design.rates, np.arange(design.seeds), indexing="ij")
    size, rate, seed = (part.ravel() for part in parts)
    x = rate - design.best - design.drift * (size - size[0])
    offsets = 0.01 * generator.normal(size=design.seeds)
    losses = 3 + 5 / 2 ** (size / 2) + design.curvature * x**2 + design.skew * x**3
    losses += offsets[seed.astype(int)] + design.noise * generator.normal(size=len(x))
    losses = np.where(x > design.diverging, np.inf, losses)
    made = generator.random(len(x)) >= design.missing
    groups = np.full(int(made.sum()), "sweep")
    sizes = np.array(design.sizes, float)[np.searchsorted(np.log2(design.sizes), size[made])]
    return Runs(groups, 2.0 ** rate[made], losses[made], seed[made].astype(int), {design.axis: sizes})


def sweeps(design: Design, count: int, seed: int = 11) -> Iterator[Fit]:
    """The fits of that many sweeps."""
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield fit(simulated(design, generator))[0]


@dataclass(frozen=True)
class Outcome:
    """Shares of fitted sizes and of intervals that have the drift in them; best rates' geometric mean over the true."""

    fitted: float
    covered: float
    off: float


def outcome(design: Design, count: int) -> Outcome:
    """Over `count` sweeps; `off` is of the size at which the mean best rate is farthest from the true one."""
    fitted, covered, logs = [], [], []
    for found in sweeps(design, count):
        widths = found.result.widths
        truth = [design.best + design.drift * np.log2(size / design.sizes[0]) for size in design.sizes]
        fitted.append([each.fitted for each in widths])
        logs.append([np.log2(each.best_rate) - own for each, own in zip(widths, truth, strict=True)])
        covered.append(found.drift.low <= design.drift <= found.drift.high)
    means = np.mean(logs, axis=0)
    return Outcome(float(np.mean(fitted)), float(np.mean(covered)), float(2 ** means[np.argmax(abs(means))] - 1))


HEADINGS = ("sweep", "from", "sizes", "rates", "seeds", "fitted", "best rate off by", "interval covers")


def table(count: int) -> str:
    """The page."""
    rows = [HEADINGS, ["---"] * len(HEADINGS)]
    for name, design in DESIGNS.items():
        found = outcome(design, count)
        sizes = f"{design.axis} {', '.join(map(str, design.sizes))}"
        rates = f"{len(design.rates)}, 2^{design.rates[0]} to 2^{design.rates[-1]}"
        numbers = (f"{found.fitted:.0%}", f"{found.off:+.1%}", f"{found.covered:.1%}")
        rows.append([name, design.source, sizes, rates, str(design.seeds), *numbers])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


PAGE = """# Sweeps whose optimum is known

`python -m benchmarks.fit_sweeps --simulations {count} > benchmarks/fit_sweeps.md` wrote this page.

{count} sweeps each, with the sizes, rates and seeds of six public ones. Their losses are drawn, not theirs: a parabola
in log2(rate) with a known best rate that goes as a known power of the size, noise, an offset per seed, diverging runs.
The first has a cubic term as well, which moves a parabola's bottom; the third lacks runs at random. *Fitted*: sizes
with a parabola's bottom. *Off*: the mean best rate at its worst size, over the true one. *Covers*: drifts' 95 %
intervals with the true drift in them. The last two have rates four times apart, to which no parabola is fitted: best
rates are those of the grid, and the interval reaches as far as half a step of it can move the drift, so that it
covers more.

{table}
"""


def main() -> None:
    """Print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    count = parser.parse_args().simulations
    print(PAGE.format(count=count, table=table(count)), end="")


if __name__ == "__main__":
    main()
