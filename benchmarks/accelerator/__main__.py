"""What an accelerator can show in ten minutes, in one command that goes on where it was cut.

    python -m benchmarks.accelerator --minutes 9 --out FOLDER      run, or go on: seven files, each part as it ends
    python -m benchmarks.accelerator --check [--out FOLDER]        every step at toy size, on any device
    python -m benchmarks.accelerator --adopt FOLDER                put results where tables and pages read them

Exit code 0: nothing failed; 1: a part failed, and its file says how; 2: the command was wrong.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.accelerator.ledger import read, tell, write
from benchmarks.accelerator.steps import DEFAULT_MINUTES, STEPS, Step

TRIES = 4
"""Workers for a group of steps: one that dies is followed by another, which leaves out what it died of."""
GRACE = 10.0
"""Seconds after the end of all time in which a worker may write its last part."""
CHECK_MINUTES = 20.0


def blame(steps: Sequence[Step], folder: Path, start: float, code: int) -> None:
    """Note of the part that was running that the process died of it."""
    for step in steps:
        path = step.path(folder)
        kept = read(path) if path.exists() else {}
        if name := kept.pop("running", None):
            kept["errors"][name] = {"error": f"the process ended with {code}", "began": start}
            write(path, kept)
            tell(f"{step.name}: {name}: the process ended with {code}")


def worked(steps: Sequence[Step], folder: Path, start: float, seconds: float, check: bool) -> int:
    """Have workers go through the steps; the exit code of the last."""
    command = [sys.executable, "-u", "-m", "benchmarks.accelerator.worker", str(folder)]
    command += [*(step.name for step in steps), "--start", repr(start), "--seconds", repr(seconds)]
    code = 0
    for _ in range(TRIES):
        left = start + seconds + GRACE - time.time()
        if left <= GRACE:
            tell(f"no time is left for {', '.join(step.name for step in steps)}")
            return code
        try:
            code = subprocess.run([*command, *(["--check"] if check else [])], timeout=left).returncode
        except subprocess.TimeoutExpired:
            tell("time is over; what was under way is given up")
            return 0
        if code in (0, 2):
            return code
        blame(steps, folder, start, code)
    return code


def run(folder: Path, minutes: float, check: bool) -> int:
    """All steps; the command's exit code."""
    start, seconds = time.time(), 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    for _, group in groupby(STEPS, key=lambda step: step.fresh):
        if code := worked(list(group), folder, start, seconds, check):
            tell(f"a worker ended with {code}")
            if code == 2:
                return 2
    return 1 if report(folder, start, complete=check) else 0


def report(folder: Path, start: float, complete: bool) -> bool:
    """Say what every step has; whether anything failed, or where it has to be complete, is missing."""
    failed = False
    for step in STEPS:
        path = step.path(folder)
        kept = read(path) if path.exists() else {"parts": {}, "left": {}, "errors": {}}
        failed |= bool(kept["errors"]) or (complete and bool(kept["left"] or not kept["parts"]))
        tell(f"{step.name}: {len(kept['parts'])} parts, {len(kept['left'])} left, {len(kept['errors'])} failed")
        for name, error in kept["errors"].items():
            tell(f"  FAILED {name}: {error['error']}")
    tell(f"{time.time() - start:.0f} s, in {folder}")
    return failed


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.accelerator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help=f"time for everything  [default: {DEFAULT_MINUTES:g}]")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results go, and go on")
    parser.add_argument("--check", action="store_true", help="every step at toy size")
    parser.add_argument("--adopt", type=Path, metavar="FOLDER", help="take over results from there")
    options = parser.parse_args()
    if options.adopt:
        from benchmarks.accelerator.adopt import adopt

        return adopt(options.adopt)
    minutes = options.minutes or (CHECK_MINUTES if options.check else DEFAULT_MINUTES)
    if not 0 < minutes <= 24 * 60:
        parser.error(f"--minutes {options.minutes} is not allowed; give a number above 0, up to 1440")
    if options.out:
        return run(options.out, minutes, options.check)
    if not options.check:
        parser.error("give --out FOLDER, where results are kept")
    with tempfile.TemporaryDirectory() as folder:
        return run(Path(folder), minutes, True)


if __name__ == "__main__":
    sys.exit(main())
