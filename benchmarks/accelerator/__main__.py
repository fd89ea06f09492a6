"""What an accelerator can show in ten minutes, in one command that goes on where it was cut.

    python -m benchmarks.accelerator --minutes 9 --out FOLDER      run, or go on: seven files, each part as it ends
    python -m benchmarks.accelerator --check [--out FOLDER]        every step at toy size, on any device
    python -m benchmarks.accelerator --adopt FOLDER                put results where the tables read them

Exit code 0: nothing failed; 1: a part failed, and its file says how; 2: the command was wrong.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.accelerator.ledger import read, tell, write
from benchmarks.accelerator.steps import DEFAULT_MINUTES, STEPS, Step, ends
from benchmarks.accelerator.worker import ANOTHER_RUN

TRIES = 3
"""Processes for a step: one that dies is followed by another, which leaves out what it died of."""
GRACE = 20.0
"""Seconds after the end of a step's time in which a part that takes longer than foreseen may still end."""
LEAST = 12.0
"""Seconds under which no process is started."""
CHECK_MINUTES = 20.0
STOPPED = 124
"""The exit code of a process that was stopped: what it had not begun is tried once more at the end."""


def blame(step: Step, folder: Path, began: float, reason: str) -> None:
    """Note of the parts that were running what became of the process."""
    path = step.path(folder)
    kept = read(path) if path.exists() else {}
    for name in kept.pop("running", []):
        kept["errors"][name] = {"error": reason, "began": began}
        tell(f"{step.name}: FAILED {name}: {reason}")
    if kept:
        write(path, {**kept, "running": []})


def worked(step: Step, folder: Path, began: float, limit: float, check: bool) -> int:
    """Have processes go on with the step until its time is over; the exit code of the last."""
    command = [sys.executable, "-u", "-m", "benchmarks.accelerator.worker", str(folder), step.name]
    command += ["--began", repr(began), "--limit", repr(limit), *(["--check"] if check else [])]
    code = 0
    for _ in range(TRIES):
        left = limit - time.time()
        if left < LEAST:
            tell(f"{step.name}: {left:.0f} s are left, too few to start")
            break
        try:
            code = subprocess.run(command, timeout=left + GRACE, env={**os.environ, **step.environment}).returncode
        except subprocess.TimeoutExpired:
            blame(step, folder, began, "took far longer than foreseen, and was stopped with its step")
            return STOPPED
        if code in (0, ANOTHER_RUN):
            break
        blame(step, folder, began, f"the process ended with {code}")
    return code


def run(folder: Path, minutes: float, check: bool) -> int:
    """All steps, each until its time is over, then once more what was left; the command's exit code."""
    began, seconds = time.time(), 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    limits, codes = ends(began, seconds), dict[str, int]()
    for step in STEPS:
        tell(f"{step.name}: until {time.strftime('%H:%M:%S', time.localtime(limits[step.name]))}")
        codes[step.name] = worked(step, folder, began, limits[step.name], check)
        if codes[step.name] == ANOTHER_RUN:
            return 2
    for step in STEPS:
        undone = codes[step.name] or not step.path(folder).exists() or read(step.path(folder))["left"]
        if undone and time.time() < began + seconds - LEAST:
            tell(f"{step.name}: once more, for what was left")
            codes[step.name] = worked(step, folder, began, began + seconds, check)
    for name in (name for name, code in codes.items() if code):
        tell(f"{name}: FAILED, its process ended with {codes[name]}")
    return 1 if report(folder, began, complete=check) or any(codes.values()) else 0


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
    parser.add_argument("--adopt", type=Path, metavar="FOLDER", help="take over what --out had")
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
