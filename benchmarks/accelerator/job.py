"""A part in a process of its own: what it compiles and what it holds is apart from that of others, and goes with it."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LONGEST = 240.0
"""Seconds after which a process is ended."""


def untuned() -> dict[str, str]:
    """What tells a process not to have XLA time the kernels that it chooses among."""
    return {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()}


def separate(module: str, *arguments: Any, environment: Mapping[str, str] | None = None) -> Any:
    """The result of that module's `job` in a new process; RuntimeError with the end of what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.accelerator.job", module, json.dumps(arguments), str(path)]
        variables = {**os.environ, **(environment or {})}
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, env=variables)
        if done.returncode:
            raise RuntimeError(f"its process ended with {done.returncode}: {done.stderr[-400:]}")
        return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Module, arguments as JSON, and the file for the result."""
    from benchmarks.accelerator.ledger import write
    from benchmarks.accelerator.worker import end_with_parent
    from verify.sweeps.engines import use_compilation_cache

    end_with_parent()
    use_compilation_cache()
    module, arguments, path = sys.argv[1:]
    job = importlib.import_module(f"benchmarks.accelerator.{module}").job
    write(Path(path), job(*json.loads(arguments)))


if __name__ == "__main__":
    main()
