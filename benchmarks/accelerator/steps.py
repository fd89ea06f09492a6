"""The seven steps, in order, their shares of the time, and how a worker goes through them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.accelerator.job import untuned
from benchmarks.accelerator.ledger import Ledger, read

DEFAULT_MINUTES = 9.0


@dataclass(frozen=True)
class Step:
    """A step: its module here, which has `run(ledger, toy)` and `summary(parts, toy)`, and its share of the time.

    `tuned`: XLA times the kernels it chooses among, as it does by itself. Where compiling takes longer than all that is
    compiled, or where no speed is looked at, it does not. `shared`: several processes use the device, and none takes
    most of its memory at once.
    """

    name: str
    share: float
    tuned: bool = True
    shared: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """What its process is told, beside what it finds."""
        compiling = {} if self.tuned else untuned()
        return compiling | ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if self.shared else {})

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{STEPS.index(self) + 1}_{self.name}.json"

    def module(self) -> ModuleType:
        """Its code, loaded when needed: the command itself never starts the accelerator."""
        return import_module(f"benchmarks.accelerator.{self.name}")


STEPS = (
    Step("device", 55),
    Step("widths", 100, tuned=False, shared=True),
    Step("speed", 165, shared=True),
    Step("alignments", 75, tuned=False, shared=True),
    Step("networks", 55, tuned=False),
    Step("study", 30, tuned=False),
    Step("memory", 60, tuned=False),
)


def ends(start: float, seconds: float) -> dict[str, float]:
    """When each step's time is over: shares add up, so that what a step leaves goes to those behind it."""
    total, taken, found = sum(step.share for step in STEPS), 0.0, {}
    for step in STEPS:
        taken += step.share
        found[step.name] = start + seconds * taken / total
    return found


def ceilings(folder: Path) -> dict[str, float]:
    """FLOP/s by dtype, as measured by the first step, or else by one that began without them."""
    kept = [read(step.path(folder)) for step in STEPS if step.path(folder).exists()]
    found = {dtype: flops for each in kept for dtype, flops in each.get("ceilings", {}).items()}
    for name, part in (item for each in kept if each["step"] == STEPS[0].name for item in each["parts"].items()):
        if "flops" in part["result"]:
            found[name] = part["result"]["flops"]
    return found


def work(
    step: Step,
    folder: Path,
    heading: Mapping[str, Any],
    toy: bool,
    began: float,
    limit: float,
    clock: Callable[[], float] = time.time,
) -> None:
    """Make what is missing of a step until its time is over; `began` names the call."""
    known = ceilings(folder)
    ledger = Ledger(step.path(folder), {"step": step.name, **heading}, limit, began, known, clock)
    try:
        for dtype in ("bfloat16", "float32") if step is not STEPS[0] else ():
            if dtype not in known:  # its FLOPs would have no seconds; kept, so that it is measured once
                known[dtype] = import_module("benchmarks.accelerator.device").quick(dtype, toy)
                ledger.kept["ceilings"] = {**ledger.kept.get("ceilings", {}), dtype: known[dtype]}
                ledger.save()
        module = step.module()
        module.run(ledger, toy)
    except Exception as error:  # noqa: BLE001 - a step that fails must not stop the others
        ledger.fail("step", f"{type(error).__name__}: {error}")
        ledger.save()
        return
    ledger.kept["errors"].pop("step", None)
    ledger.finish(lambda parts: module.summary(parts, toy))
