"""A process that goes through steps, with the accelerator; `benchmarks.accelerator` starts it and outlives it."""

import argparse
import os
import threading
import time
from pathlib import Path

from benchmarks.accelerator.ledger import tell
from benchmarks.accelerator.steps import work


def end_with_parent() -> None:
    """End this process within a second of the one that started it: two workers must never write one folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """The steps named, into the folder, by a start and a number of seconds that all workers of a call share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    end_with_parent()
    import jax

    from benchmarks.results import device
    from verify.engines import use_compilation_cache

    use_compilation_cache()
    where = device()
    tell(f"{where['device']}, {where['cores']} cores, JAX {jax.__version__}")
    heading = {**where, "jax": jax.__version__, "check": options.check}
    work(options.names, options.folder, heading, options.check, options.start, options.seconds)


if __name__ == "__main__":
    main()
