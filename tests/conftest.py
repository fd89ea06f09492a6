"""Programs compiled by a test run are kept for its own processes, in a folder that goes with it, and not in memory.

They are compiled with few optimizations: most run once, and compiling is what takes the time. Where two programs are
to agree bit for bit they are compiled as users compile them (`optimized`).

A program that XLA compiled for a CPU takes several memory maps, of which Linux gives a process 65,530: a worker that
keeps the programs of some thousand tests comes near to that, and where it is passed, loading the next one crashes.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

import tests.helpers.checked  # noqa: F401  (the hook names it)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The emitters of fused loops take a third of the time of all compiling; without them loops are emitted one by one.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.pop("COLUMNS", None)  # whoever runs them has set: output is as to a file unless a test says so

# A test that says nothing else draws so many examples.
settings.register_profile("some", max_examples=40, deadline=None)
settings.load_profile("some")

# Shapes and types are checked at every call in the rooms that have arrays.
ROOMS = ("fit", "measuring", "studies", "sweeps", "training")
install_import_hook([f"verify.{room}" for room in ROOMS], "tests.helpers.checked.checked")


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs are compiled as outside of the tests."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def no_line_every_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of progress, on a busy machine, where a test wants nothing on standard error."""
    if "verify.commands.progress" in sys.modules:
        monkeypatch.setattr(sys.modules["verify.commands.progress"], "EVERY_SECONDS", 3600.0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What the annotations forbid and users may do all the same."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are empty files, where a test asks for what stands beside them: drawing takes longer than all else."""
    from matplotlib.figure import Figure

    draw = Figure.savefig

    def save(figure: Figure, to: Any, **options: Any) -> None:
        if isinstance(to, Path):
            to.write_bytes(b"")
        else:
            draw(figure, to, **options)

    monkeypatch.setattr(Figure, "savefig", save)


LONGEST = (
    *("studies/test_going_on", "studies/test_theory", "sweeps/test_sweep", "studies/test_epsilon"),
    *("paper/test_paper_gallery", "planning/test_plan", "model/test_prescription", "model/test_check_verdicts"),
    *("commands/test_transfer_command", "model/test_coordinate_check", "training/test_checkpoint"),
)
"""Files that begin first: a long one that came last would leave the other processes without work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, and nothing within them."""
    first = {name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        return first.get("/".join(item.path.with_suffix("").parts[-2:]), len(first))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not go through it, nor as often as by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


MOST_MAPS = 8_000
"""From which on the programs of the files before are left: not sooner, since files have many in common."""


def maps() -> int:
    """Memory maps of this process; as many as are too many where they cannot be counted."""
    try:
        with Path("/proc/self/maps").open(encoding="utf-8") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return MOST_MAPS


@pytest.fixture(scope="module", autouse=True)
def compiled_programs() -> Iterator[None]:
    """Every file leaves the memory that its programs took, where they have come to take much."""
    yield
    if "jax" in sys.modules and maps() >= MOST_MAPS:
        sys.modules["jax"].clear_caches()
