"""Rebuild tables and figures from stored results; with --rerun, run the studies again first."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import matplotlib as mpl

from paper_figures.items import Item
from paper_figures.paths import DATA, OUT, ROOT, STYLE, MissingResultError
from paper_figures.studies import STUDIES, arguments

ITEMS: tuple[str, ...] = (
    "table_1_stable_rates",
    "table_2_stability_constraints",
    "table_3_prior_excludes",
    "table_4_equivalences",
    "table_5_epsilon_and_decay",
    "table_6_model_sizes",
    "table_7_measured_exponents",
    "table_8_other_optimizers",
    "figure_2_loss_by_rate",
    "figure_3_loss_by_width",
    "figure_4_rate_by_width",
    "figure_8_equivalence",
)
"""The scripts in the order of the gallery; each has `item(data)`, which gives its Item from the results in `data`."""


def build(name: str, data: Path = DATA) -> Item:
    """One table or figure; MissingResultError where a study is missing."""
    with mpl.rc_context(fname=STYLE):
        return import_module(f"paper_figures.{name}").item(data)


def rerun(scale: str, folder: Path) -> None:
    """Run every study again under `folder`; what is there already is gone on with."""
    for study in STUDIES:
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "verify", *arguments(study, scale, folder / study)],  # type: ignore[arg-type]
            check=True,
        )


def main(given: Sequence[str] | None = None) -> None:
    """The command; exit code 2 and one line where a result is missing."""
    parser = argparse.ArgumentParser(prog="python -m paper_figures", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ITEMS, []], help="only these  [default: all]")
    parser.add_argument("--out", type=Path, default=OUT, help="where tables and figures go")
    parser.add_argument("--rerun", choices=("cpu", "gpu"), help="run the studies again first, at this scale")
    options = parser.parse_args(given)
    data = DATA
    if options.rerun:
        data = ROOT / "rerun" / options.rerun
        rerun(options.rerun, data)
    for name in options.names or ITEMS:
        started = time.perf_counter()
        try:
            found = build(name, data)
        except MissingResultError as error:
            sys.stderr.write(f"paper_figures: {error}\n")
            raise SystemExit(2) from None
        with mpl.rc_context(fname=STYLE):
            found.write(options.out)
        print(f"{name:<28} {time.perf_counter() - started:5.1f} s  {found.verdict:<13} {found.title}")
