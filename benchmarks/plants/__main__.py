"""Plants wrong theories and judges them as `verify exponents` does; judges right ones too, and counts what it rejects.

python -m benchmarks.plants                              judges what is stored; seconds
python -m benchmarks.plants --out FOLDER --minutes 30    trains, and goes on where it was: --only plants, or right
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.plants import verdicts
from benchmarks.plants.report import report
from benchmarks.plants.sizes import WIDTHS, Sizes
from benchmarks.plants.theories import OPTIMIZERS
from benchmarks.plants.training import missing, of_plants, of_right, train

STORED = Path(__file__).parent / "sizes"


def main() -> None:
    """Read the options; train where a folder is given, then judge what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="train into that folder, then judge what is there")
    parser.add_argument("--minutes", type=float, default=60.0, help="no training starts after that")
    parser.add_argument("--only", choices=("plants", "right"), help="train the plants, or the right theories, alone")
    parser.add_argument("--groups", type=int, default=100, help="groups of three seeds of every right theory")
    parser.add_argument("--chunk", type=int, default=6, help="seeds trained at once; 60 on an accelerator")
    parser.add_argument("--processes", type=int, default=1, help="pieces trained side by side, on cores of their own")
    parser.add_argument("--check", action="store_true", help="try it on the first four pieces, at widths of 16 to 128")
    given = parser.parse_args()
    if given.out:
        wanted = [
            *(of_plants() if given.only != "right" else ()),
            *(of_right(given.groups) if given.only != "plants" else ()),
        ]
        with tempfile.TemporaryDirectory() as compiled:
            os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
            pieces = missing(wanted, given.out, given.chunk, (16, 32, 64, 128) if given.check else WIDTHS)
            pieces = pieces[:4] if given.check else pieces
            done = train(pieces, given.out, given.minutes, given.processes)
        print("all trained" if done else "time is up; the same command goes on", file=sys.stderr)
    stored = {optimizer: Sizes(given.out or STORED, optimizer) for optimizer in OPTIMIZERS}
    print(report(verdicts.of_plants(stored), verdicts.of_right(stored)), end="")


if __name__ == "__main__":
    main()
