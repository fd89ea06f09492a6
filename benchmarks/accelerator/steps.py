"""The seven steps, in order, their shares of the time, and how a worker goes through them."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.accelerator.ledger import Ledger, read, tell

DEFAULT_MINUTES = 9.0


@dataclass(frozen=True)
class Step:
    """A step: its module here, which has `run(ledger, toy)` and `summary(parts, toy)`, and its share of the time.

    `fresh` ones get a process of their own, whose device has held nothing before.
    """

    name: str
    share: float
    fresh: bool = False

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{STEPS.index(self) + 1}_{self.name}.json"

    def module(self) -> ModuleType:
        """Its code, loaded when needed: the command itself never starts the accelerator."""
        return import_module(f"benchmarks.accelerator.{self.name}")


STEPS = (
    Step("device", 45),
    Step("widths", 160),
    Step("speed", 110),
    Step("alignments", 75),
    Step("networks", 70),
    Step("study", 35),
    Step("memory", 45, fresh=True),
)


def ends(start: float, seconds: float) -> dict[str, float]:
    """When each step's time is over: shares add up, so that what a step leaves goes to those behind it."""
    total, taken, found = sum(step.share for step in STEPS), 0.0, {}
    for step in STEPS:
        taken += step.share
        found[step.name] = start + seconds * taken / total
    return found


def ceilings(folder: Path) -> Mapping[str, float]:
    """FLOP/s by dtype, as measured by the first step; none where it is missing."""
    path = STEPS[0].path(folder)
    if not path.exists():
        return {}
    parts = read(path)["parts"]
    return {name: part["result"]["flops"] for name, part in parts.items() if "flops" in part["result"]}


def work(
    names: Iterable[str],
    folder: Path,
    heading: Mapping[str, Any],
    toy: bool,
    start: float,
    seconds: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Go through the steps in order, each until its time is over; then once more with what time is left to all."""
    chosen, limits = [step for step in STEPS if step.name in names], ends(start, seconds)
    for step in chosen:
        _go(step, folder, heading, toy, limits[step.name], start, clock)
    latest = max(limits[step.name] for step in chosen)
    for step in chosen:
        if step.path(folder).exists() and read(step.path(folder))["left"] and clock() < latest:
            tell(f"{step.name}: once more, for what was left")
            _go(step, folder, heading, toy, latest, start, clock)


def _go(
    step: Step, folder: Path, heading: Mapping[str, Any], toy: bool, limit: float, start: float, clock: Any
) -> None:
    ledger = Ledger(step.path(folder), {"step": step.name, **heading}, limit, start, ceilings(folder), clock)
    try:
        module = step.module()
        module.run(ledger, toy)
    except Exception as error:  # noqa: BLE001 - a step that fails must not stop the others
        ledger.fail("step", f"{type(error).__name__}: {error}")
        ledger.save()
        return
    ledger.kept["errors"].pop("step", None)
    ledger.finish(lambda parts: module.summary(parts, toy))
