"""The table of the zoo: every model's roles and rates as answered now, beside what networks show.

python -m benchmarks.zoo                           prints docs/zoo.md, from stored measurements; half a minute
python -m benchmarks.zoo --measure                 measures first what is not stored, or is of another setting or answer
python -m benchmarks.zoo --measure --models gpt    measures those again
"""

import argparse
import sys
from time import perf_counter

from benchmarks.zoo.measuring import is_current, measured, store, stored
from benchmarks.zoo.page import page, reason
from tests.helpers.zoo import ZOO


def main() -> None:
    """Read the options; measure where that is asked for; print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="draw and train the networks again")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", choices=tuple(ZOO), help="those alone; by default all that changed"
    )
    given = parser.parse_args()
    for name in (given.models or ZOO) if given.measure else ():
        model = ZOO[name]
        if model.refused or model.not_measured or (not given.models and is_current(model, stored().get(name))):
            continue
        began = perf_counter()
        found = measured(model)
        store(stored() | {name: found})
        unknown = [f"{row.quantity} {row.name}" for row in found.rows if reason(name, row) == "?"]
        print(f"{name}: {perf_counter() - began:.0f} s; off, no reason: {unknown or 'nothing'}", file=sys.stderr)
    print(page(), end="")


if __name__ == "__main__":
    main()
