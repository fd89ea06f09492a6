"""The process of one step, with the accelerator; `benchmarks.accelerator` starts it and outlives it."""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

from benchmarks.accelerator.ledger import AnotherRunError, tell
from benchmarks.accelerator.steps import STEPS, work

ANOTHER_RUN = 2
"""The exit code where the folder is another run's: no other step could use it either."""


def end_with_parent() -> None:
    """End this process within a second of the one that started it: two workers must never write one folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """The step, until a time, into the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", choices=[step.name for step in STEPS])
    parser.add_argument("--began", type=float, required=True)
    parser.add_argument("--limit", type=float, required=True)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    import jax

    from benchmarks.results import device
    from verify.sweeps.engines import use_compilation_cache

    use_compilation_cache()
    heading = {**device(), "jax": jax.__version__, "check": options.check}
    step = next(step for step in STEPS if step.name == options.name)
    try:
        work(step, options.folder, heading, options.check, options.began, options.limit)
    except AnotherRunError as error:
        tell(str(error))
        sys.exit(ANOTHER_RUN)


if __name__ == "__main__":
    main()
