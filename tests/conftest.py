"""Programs are compiled with little optimisation, and kept for the run's own processes in a folder of its own."""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

FASTER = "--xla_backend_optimization_level=1"
"""Compiling is a third of the suite's time, and nothing tested runs long enough to earn it back; at level 0 two
programs round one product differently, and what has not moved seems to have."""
if FASTER not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FASTER}".strip()

os.environ.pop("COLUMNS", None)  # whoever runs them has set: output is as to a file unless a test says so
