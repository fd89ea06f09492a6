"""What a measurement was made with: the code that trained, the device, JAX's version and the day.

The version of the code is a digest of every file that the training module imports, directly or through others, as the
files themselves say: whoever changes what trains changes the version, without a list that could be forgotten.
"""

import hashlib
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CodeType

import derive

ROOT = Path(__file__).parent.parent
PACKAGES = ("derive", "verify")
TRAINS = "verify.sweeps.loop"
"""Trains the runs of sweeps and, through the trainer it imports, the networks of `verify exponents`."""


@cache
def loaded_code(module: str = TRAINS) -> str:
    """`code_version` as it was when first asked for: a long study outlives changes of files."""
    return code_version(module)


def code_version(module: str = TRAINS) -> str:
    """The package's version, and a digest of the module with everything of this project that it imports."""
    digest = hashlib.sha256()
    for file in sorted(import_closure(module)):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + file.read_bytes())
    return f"{derive.__version__}+{digest.hexdigest()[:12]}"


def import_closure(module: str) -> set[Path]:
    """The files of a module and of all modules of this project that it imports, inside functions too."""
    files: set[Path] = set()
    waiting = [module]
    while waiting:
        file = _file(waiting.pop())
        if file is not None and file not in files:
            files.add(file)
            waiting += _imported(compile(file.read_bytes(), str(file), "exec", dont_inherit=True))
    return files


def _file(module: str) -> Path | None:
    """The file of a module of this project; None for any other, and for a name within a module."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imported(code: CodeType) -> set[str]:
    """The modules that are imported, with those that are imported from a package by a name of their own.

    Read off the names in the compiled code: Python 3.11 cannot make syntax trees in several threads at once.
    """
    modules = {name for name in code.co_names if name.partition(".")[0] in PACKAGES}
    packages = [name for name in modules if (file := _file(name)) and file.name == "__init__.py"]
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    named = {f"{package}.{name}" for package in packages for name in code.co_names}
    return modules.union(named, *map(_imported, inner))


def device_name() -> str:
    """What was trained on: the accelerator's name, or the processor's architecture and cores."""
    import jax

    device = jax.devices()[0]
    return device.device_kind if device.platform != "cpu" else f"cpu, {platform.machine()}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class Made:
    """With what something was trained; `jax` is None where it was kept before that was noted."""

    code: str
    device: str
    date: str
    jax: str | None = None


def made(module: str = TRAINS) -> Made:
    """With what is trained now, by that module."""
    return Made(loaded_code(module), device_name(), today(), version("jax"))


def today() -> str:
    """The day, as YYYY-MM-DD in UTC."""
    return datetime.now(UTC).date().isoformat()
