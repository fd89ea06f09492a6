"""What a run on a rented machine keeps: one file per step, in which every finished part is on disk at once.

    {"step": "widths", "device": ..., "parts": {"adam sp 512": {"seconds": 9.1, "result": ...}, ...},
     "left": parts for which there was no time, "errors": what failed, in a line each, "result": their summary}

A part is not begun where it cannot end in time. What it takes is foreseen from its cost, at the ceilings that were
measured on the device, and by how the part before it came out.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REACHED = 0.3
"""The share of the ceiling that a part's FLOPs are foreseen at."""
UNKNOWN_CEILING = 1e12
"""FLOP/s of a device whose ceiling was not measured."""
FASTEST = 0.5
"""At most this much less than foreseen is believed of the next part: its size is another."""
LONG = 5.0
"""Seconds from which a part is announced."""


class AnotherRunError(Exception):
    """The folder has results of another device, JAX or size, which are not mixed with this run's."""


@dataclass(frozen=True)
class Cost:
    """What a part takes: seconds on any device (start, compilation, the host's work), and FLOPs in that dtype.

    Parts of one `kind` come out alike, measured by what was foreseen.
    """

    fixed: float
    flops: float = 0.0
    dtype: str = "float32"
    kind: str = ""

    def seconds(self, ceilings: Mapping[str, float]) -> float:
        """Foreseen seconds at those ceilings, in FLOP/s."""
        return self.fixed + self.flops / (REACHED * ceilings.get(self.dtype, UNKNOWN_CEILING))


@dataclass(frozen=True)
class Job:
    """A part that is made beside others: its work, and the bytes of the device that it needs meanwhile."""

    name: str
    cost: Cost
    work: Callable[[], Any]
    room: float = 0.0


def tell(line: str) -> None:
    """A line of progress with the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def plain(value: Any) -> Any:
    """The value as strict JSON has it: arrays as lists, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file all at once: whoever reads it sees the old or the new one."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A step's file; SystemExit in one line where it is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or "parts" not in found:
        raise SystemExit(f"{path} is no step of this benchmark; move it away, or give another folder to --out")
    return found


@dataclass
class Ledger:
    """One step under way: `ends` is when its time is over by `clock`, `began` names the call that it belongs to."""

    path: Path
    heading: Mapping[str, Any]
    ends: float
    began: float
    ceilings: Mapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    paces: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what is there; AnotherRunError where it was made under another heading."""
        self.kept: dict[str, Any] = {**self.heading, "parts": {}, "left": {}, "errors": {}, "running": []}
        if self.path.exists():
            self.kept = read(self.path)
            other = [name for name in self.heading if self.kept.get(name) != self.heading[name]]
            if other:
                raise AnotherRunError(
                    f"{self.path} was made with {other[0]} {self.kept.get(other[0])!r}, this run has "
                    f"{self.heading[other[0]]!r}; give another folder to --out"
                )
            self.kept["running"] = []  # of a call that was cut

    def foreseen(self, cost: Cost) -> float:
        """Seconds that such a part is going to take."""
        return self.paces.get(cost.kind, 1.0) * cost.seconds(self.ceilings)

    def part(self, name: str, cost: Cost, work: Callable[[], Any]) -> Any:
        """The part's result, kept from before or made now; None where there is no time for it or where it fails."""
        if self.begins(name, cost):
            start = self.clock()
            try:
                result, error = work(), None
            except Exception as raised:  # noqa: BLE001 - whatever fails, the other parts go on
                result, error = None, raised
            self.ended(name, cost, self.clock() - start, result, error)
        return self.kept["parts"].get(name, {}).get("result")

    def parts(self, jobs: Iterable[Job], at_once: int, room: float = math.inf) -> None:
        """Make parts side by side, in threads, as many as fit into `room` bytes; small ones may overtake."""
        waiting, running = list(jobs), dict[Future[Any], tuple[Job, float]]()
        with ThreadPoolExecutor(at_once) as pool:
            while waiting or running:
                free = room - sum(job.room for job, _ in running.values())
                fitting = [job for job in waiting if job.room <= free or not running]
                if fitting and len(running) < at_once:
                    job = fitting[0]
                    waiting.remove(job)
                    if self.begins(job.name, job.cost):
                        running[pool.submit(job.work)] = (job, self.clock())
                    continue
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job, start = running.pop(future)
                    error = future.exception()
                    result = None if error else future.result()
                    self.ended(job.name, job.cost, self.clock() - start, result, error)

    def begins(self, name: str, cost: Cost) -> bool:
        """Whether the part is to be made now: not kept, not failed in this call, and in time; notes that it is."""
        if name in self.kept["parts"] or self.kept["errors"].get(name, {}).get("began") == self.began:
            return False
        foreseen, now = self.foreseen(cost), self.clock()
        if now + foreseen > self.ends:
            self.kept["left"][name] = round(foreseen, 1)
            self.save()
            tell(f"{self.kept['step']}: {name} is left, {foreseen:.0f} s where {self.ends - now:.0f} s are left")
            return False
        self.kept["running"].append(name)
        self.save()
        if foreseen > LONG:
            tell(f"{self.kept['step']}: {name}, about {foreseen:.0f} s")
        return True

    def ended(self, name: str, cost: Cost, seconds: float, result: Any, error: BaseException | None) -> None:
        """Keep the result of a part that began, or why there is none."""
        for record in ("left", "errors"):
            self.kept[record].pop(name, None)
        self.kept["running"].remove(name)
        if error is None:
            self.kept["parts"][name] = {"seconds": round(seconds, 3), "result": plain(result)}
            self.paces[cost.kind] = max(FASTEST, seconds / cost.seconds(self.ceilings))
            tell(f"{self.kept['step']}: {name} took {seconds:.1f} s")
        else:
            self.fail(name, f"{type(error).__name__}: {error}")
        self.save()
        del result, error
        gc.collect()  # what a failed part held on its device

    def fail(self, name: str, error: str) -> None:
        """Note what failed, in one line."""
        line = " ".join(error.split())[:600]
        self.kept["errors"][name] = {"error": line, "began": self.began}
        tell(f"{self.kept['step']}: FAILED {name}: {line}")

    def finish(self, summary: Callable[[Mapping[str, Any]], Any]) -> None:
        """Write what follows from the parts that there are."""
        self.kept["errors"].pop("summary", None)
        try:
            self.kept["result"] = plain(summary(results(self.kept)))
        except Exception as error:  # noqa: BLE001 - the parts are kept all the same
            self.fail("summary", f"{type(error).__name__}: {error}")
        self.save()

    def save(self) -> None:
        """Put everything on the disk."""
        write(self.path, self.kept)


def results(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The results of the parts, by name."""
    return {name: part["result"] for name, part in kept["parts"].items()}
