"""Rebuild tables and figures from stored results; with --rerun, run the studies again first."""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import matplotlib as mpl

from derive.errors import DeriveError, unknown_name
from derive.running import INTERRUPTED
from paper_figures import gallery
from paper_figures.items import Item
from paper_figures.paths import DATA, OUT, ROOT, STYLE, MissingResultError
from paper_figures.studies import STUDIES, Scale, arguments

ITEMS: tuple[str, ...] = (
    "table_1_stable_rates",
    "table_2_stability_constraints",
    "table_3_prior_excludes",
    "table_4_equivalences",
    "table_5_epsilon_and_decay",
    "table_6_model_sizes",
    "table_7_measured_exponents",
    "table_8_other_optimizers",
    "table_9_constants",
    "table_10_settings",
    "figure_1_alignments",
    "figure_2_loss_by_rate",
    "figure_3_loss_by_width",
    "figure_4_rate_by_width",
    "figure_5_gradients",
    "figure_6_epsilon",
    "figure_7_coordinate_check",
    "figure_8_equivalence",
    "figure_9_phase",
    "figure_10_accelerators",
    "figure_11_horizons",
    "figure_12_other_axes",
    "figure_13_epsilon_rates",
)
"""The scripts in the order of the gallery; each has `item(data)`, which gives its Item from the results in `data`."""


def build(name: str, data: Path = DATA) -> Item:
    """One table or figure; MissingResultError where a study is missing."""
    with mpl.rc_context(fname=STYLE):
        return import_module(f"paper_figures.{name}").item(data)


def rerun(scale: Scale, folder: Path) -> None:
    """Run every study again under `folder`; what is finished stays, and what was interrupted is gone on with."""
    for study in STUDIES:
        # `verify check` never goes on with a folder, nor `verify exponents` with one of an earlier version.
        if not (folder / study / "measured.json").exists():
            run_verify(arguments(study, scale, folder / study))


def run_verify(given: Sequence[str]) -> None:
    """One command of verify, which says itself what was wrong and handles Ctrl-C; SystemExit with its code."""
    child = subprocess.Popen([sys.executable, "-m", "verify", *given])  # noqa: S603
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise SystemExit(INTERRUPTED) from None
    if code:
        raise SystemExit(code)


def main(given: Sequence[str] | None = None) -> None:
    """The command; exit code 2 and one line where a result is missing."""
    parser = argparse.ArgumentParser(prog="python -m paper_figures", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these, such as table_1 or figure_2  [default: all]")
    parser.add_argument("--out", type=Path, default=OUT, help="where tables and figures go")
    parser.add_argument("--rerun", choices=("cpu", "gpu"), help="run the studies again first, at this scale")
    parser.add_argument("--gallery", action="store_true", help="write the gallery's page and pictures too")
    options = parser.parse_args(given)
    if options.gallery and (options.names or options.rerun):
        parser.error("--gallery shows all items and the committed results; leave out names and --rerun")
    data = DATA
    try:
        if options.rerun:
            data = ROOT / "rerun" / options.rerun
            rerun(options.rerun, data)
        names = [name for given in options.names for name in _named(given)] or ITEMS
        found = dict(written(names, data, options.out))
    except (MissingResultError, DeriveError) as error:
        sys.stderr.write(f"paper_figures: {error}\n")
        raise SystemExit(2) from None
    if options.gallery:
        gallery.write(found)


def _named(given: str) -> list[str]:
    """The items of that name, or of that kind and number; DeriveError where there is none."""
    found = [name for name in ITEMS if name == given or name.startswith(f"{given}_")]
    if not found:
        raise unknown_name("item", given, ITEMS)
    return found


def written(names: Sequence[str], data: Path, out: Path) -> Iterator[tuple[str, Item]]:
    """(name, item) of everything that is written into `out`; MissingResultError for results that cannot be read."""
    for name in names:
        started = time.perf_counter()
        try:
            found = build(name, data)
        except MissingResultError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
            raise MissingResultError(
                f"{name} cannot be made from {data}: {error}; its studies are damaged or of another version, make them "
                "again by the commands in paper_figures/studies.py"
            ) from error
        with mpl.rc_context(fname=STYLE):
            found.write(out)
        print(f"{name:<30} {time.perf_counter() - started:5.1f} s  {found.verdict:<13} {found.title}", flush=True)
        yield name, found
