"""The page of JAX's primitives, docs/primitives.md: `python -m verify.model.graph.rules.page` prints it.

Its rows are `verify.model.graph.rules.groups`, its names those and whatever else this release of JAX has.
"""

import importlib
import pkgutil
import sys
from types import ModuleType

import jax
from jax.extend.core import Primitive

from verify.measuring.primitives import POWERS
from verify.model.graph.rules.groups import GROUPS, group_of

HEAD = """# JAX's primitives

What `verify prescribe` and `verify check` make of every primitive of JAX. Sizes are n^-e and changes since
initialisation n^-r, of the result from those of what enters. A primitive whose results are integers, whatever it is,
passes no change, and one that only numbers or data enter, nothing trained, is worked out or counts as data. What is
refused is named with what to change, and never guessed.

Made by `python -m verify.model.graph.rules.page`, for JAX {version}; a test fails where it lacks a primitive or a rule
is another.

| rule | what it does to sizes and changes | primitives |
|---|---|---|
"""
NONE = "none"
WITHOUT = "refused: there is no rule for it"


def installed() -> set[str]:
    """The names of all primitives of this release of JAX: those in the modules of JAX and of jax._src."""
    importlib.import_module("jax.experimental.multihost_utils")  # others may have loaded it, and its primitives count
    source = importlib.import_module("jax._src")
    for info in pkgutil.iter_modules(source.__path__, "jax._src."):
        try:
            importlib.import_module(info.name)
        except ImportError:  # what an optional package is needed for
            continue
    modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "jax"]
    return {each.name for module in modules for each in _values(module) if isinstance(each, Primitive)}


def _values(module: ModuleType) -> list[object]:
    return list(vars(module).values())


def rows(names: set[str]) -> dict[str, tuple[str, list[str]]]:
    """By rule: what it says, and the primitives that it is for, of those names and of all that have one."""
    found = {}
    for rule, group in GROUPS.items():
        what = f"refused: {group.what}" if group.refused else group.what
        found[rule] = (what, sorted(each for each in group.members if group_of(each) == rule))
    return {**found, NONE: (WITHOUT, sorted(name for name in names if group_of(name) is None))}


def page(names: set[str]) -> str:
    """The page in Markdown."""
    lines = [
        f"| {rule} | {what} | {', '.join(map(_named, members))} |\n" for rule, (what, members) in rows(names).items()
    ]
    return HEAD.format(version=jax.__version__) + "".join(lines)


def _named(name: str) -> str:
    return f"`{name}`" + (f" (p = {POWERS[name]})" if name in POWERS else "")


if __name__ == "__main__":
    sys.stdout.write(page(installed()))
