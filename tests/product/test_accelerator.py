"""The accelerator's run keeps what is finished, begins nothing that cannot end, and every step works at toy size."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import benchmarks.accelerator.__main__ as command
from benchmarks.accelerator.adopt import FOLDER, adopt
from benchmarks.accelerator.ledger import AnotherRunError, Cost, Job, Ledger, read
from benchmarks.accelerator.steps import DEFAULT_MINUTES, STEPS, Step, ceilings, ends, work
from benchmarks.results import tables
from paper_figures.figure_10_accelerators import item_of
from tests.helpers.paths import ROOT

HEADING = {"step": "toy", "device": "A Chip"}
SLOW = """
import sys, time
from pathlib import Path
from benchmarks.accelerator.adopt import FOLDER, adopt
from benchmarks.accelerator.ledger import Cost, Ledger
ledger = Ledger(Path(sys.argv[1]), {"step": "toy", "device": "A Chip"}, time.time() + 60, time.time())
for number in range(40):
    ledger.part(f"part {number}", Cost(0.01), lambda: time.sleep(0.01) or {"number": number})
"""


@pytest.fixture(autouse=True)
def nothing_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every part, as where one held a device's memory: of all that a test run holds that takes a second each."""
    monkeypatch.setattr("benchmarks.accelerator.ledger.gc", SimpleNamespace(collect=lambda: 0))


class Clock:
    """A clock that stands still but for the work that is done."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> Callable[[], dict[str, float]]:
        def act() -> dict[str, float]:
            self.now += seconds
            return {"seconds": seconds}

        return act


@pytest.mark.parametrize("slower", [1.0, 2.5])
@pytest.mark.parametrize("budget", [0.5, 3.0, 10.0, 31.0, 54.9, 55.0, 200.0])
def test_no_part_begins_that_cannot_end(budget: float, slower: float, tmp_path: Path) -> None:
    """On a device that is slower than foreseen, from the second part on: the first one shows it."""
    clock, path = Clock(), tmp_path / "toy.json"
    ledger = Ledger(path, HEADING, budget, 0.0, clock=clock)
    for seconds in range(1, 11):
        ledger.part(f"part {seconds}", Cost(seconds), clock.work(slower * seconds))
        assert read(path)["parts"].keys() == ledger.kept["parts"].keys()
    assert clock.now <= max(budget, slower if budget >= 1 else 0)
    kept = read(path)
    assert len(kept["parts"]) + len(kept["left"]) == 10
    if budget >= slower * 55:
        assert not kept["left"]


def test_what_was_left_is_made_by_a_second_call(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "toy.json"
    Ledger(path, HEADING, 1.5, 0.0, clock=clock).part("a", Cost(1), clock.work(1))
    Ledger(path, HEADING, 1.5, 0.0, clock=clock).part("b", Cost(1), clock.work(1))
    assert (read(path)["parts"].keys(), read(path)["left"].keys()) == ({"a"}, {"b"})
    again = Ledger(path, HEADING, 9.0, 2.0, clock=clock)
    assert again.part("a", Cost(1), lambda: pytest.fail("made twice")) == {"seconds": 1}
    assert again.part("b", Cost(1), clock.work(1)) == {"seconds": 1}
    assert not read(path)["left"]


def test_what_fails_is_noted_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    ledger = Ledger(path, HEADING, time.time() + 60, 1.0)

    def fails() -> None:
        raise ValueError("out of\nluck")

    jobs = [Job("a", Cost(1), lambda: {"x": float("nan")}), Job("b", Cost(1), fails), Job("c", Cost(1), dict)]
    ledger.parts(jobs, 2)
    kept = read(path)
    assert kept["parts"].keys() == {"a", "c"}
    assert kept["parts"]["a"]["result"] == {"x": None}
    assert kept["errors"]["b"]["error"] == "ValueError: out of luck"
    assert not ledger.begins("b", Cost(1))
    assert Ledger(path, HEADING, time.time() + 60, 2.0).begins("b", Cost(1))


def test_results_of_another_device_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "toy.json"
    Ledger(path, HEADING, 9.0, 0.0).save()
    with pytest.raises(AnotherRunError, match="give another folder"):
        Ledger(path, {**HEADING, "device": "Another"}, 9.0, 0.0)


def test_killed_at_random_it_goes_on(tmp_path: Path) -> None:
    path, seconds = tmp_path / "toy.json", random.Random(0)
    for _ in range(4):
        child = subprocess.Popen([sys.executable, "-c", SLOW, str(path)], cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(0.3 + seconds.uniform(0, 0.3))
        before = len(read(path)["parts"]) if path.exists() else 0
        child.kill()
        child.wait()
        assert not path.exists() or before <= len(read(path)["parts"])
    subprocess.run([sys.executable, "-c", SLOW, str(path)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert [part["result"]["number"] for part in read(path)["parts"].values()] == list(range(40))


def test_the_shares_are_all_of_the_time() -> None:
    limits = list(ends(100.0, 540.0).values())
    assert limits == sorted(limits)
    assert limits[-1] == pytest.approx(640.0)
    assert limits[0] <= 160.0


H100 = {"bfloat16": 1.1, "float32": 27.7, "tensorfloat32": 4.7, "bandwidth": 0.2, "machine": 0.1}
H100 |= {"one at a time": 3.9, "one process": 10.9, "together": 0.0}
"""Seconds of the parts whose cost is no FLOPs, as an H100 took them."""
PROCESS = 8.0
"""Seconds until a step's process has the device."""


class Pretended(Ledger):
    """On an H100 that takes `slower` times what is foreseen of whatever was never measured there."""

    slower = 1.0

    def _takes(self, name: str, cost: Cost) -> float:
        if "seeds" in name or name.startswith("width"):  # a part of step 2 or 5
            return 21.0
        return H100.get(name, self.slower * cost.seconds(self.ceilings))

    def part(self, name: str, cost: Cost, work: Callable[[], Any]) -> Any:
        del work
        seconds = self._takes(name, cost)
        return super().part(name, cost, self.clock.work(seconds) if seconds else dict)  # type: ignore[attr-defined]

    def parts(self, jobs: Any, at_once: int, room: float = math.inf) -> None:
        """Side by side: each group that begins together takes as long as its longest."""
        waiting = list(jobs)
        while waiting:
            group, free = list[Job](), room
            for job in [each for each in waiting if each.room <= free][:at_once] or waiting[:1]:
                if job.room <= free or not group:
                    group.append(job)
                    free -= job.room
            waiting = [job for job in waiting if job not in group]
            begun = [job for job in group if self.begins(job.name, job.cost)]
            longest = max((self._takes(job.name, job.cost) for job in begun), default=0.0)
            self.clock.now += longest  # type: ignore[attr-defined]
            for job in begun:
                self.ended(job.name, job.cost, longest, {}, None)


@pytest.mark.parametrize("slower", [1.0, pytest.param(1.2, marks=pytest.mark.slow)])
def test_at_the_ceilings_of_a_known_device_every_step_has_its_time(
    slower: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command by a fake clock, at the ceilings and with the memory of an H100, in its default time.

    At most measuring, which was never timed, waits for a second call. The transfer study, which takes what time there
    is, is left out.
    """
    clock, flops = Clock(), {"bfloat16": 754e12, "float32": 51e12, "tensorfloat32": 350e12}
    chip = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 63_763_906_560})
    monkeypatch.setattr("jax.devices", lambda: [chip])
    monkeypatch.setattr(Pretended, "slower", slower)
    times = SimpleNamespace(time=clock, strftime=time.strftime, localtime=time.localtime)
    monkeypatch.setattr(command, "time", times)

    def worked(step: Step, folder: Path, began: float, limit: float, check: bool) -> int:
        assert not check
        clock.now += PROCESS
        ledger = Pretended(step.path(folder), {"step": step.name}, limit, began, flops, clock)
        if step.name != "study":
            step.module().run(ledger, False)
        ledger.save()
        return 0

    monkeypatch.setattr(command, "worked", worked)
    assert command.run(tmp_path, DEFAULT_MINUTES, check=False) == 0
    kept = {step.name: read(step.path(tmp_path)) for step in STEPS}
    left = [name for each in kept.values() for name in each["left"]]
    assert all(name.startswith("measuring, ") for name in left) and len(left) < 3, left
    assert len(kept["alignments"]["parts"]) == 3 and len(kept["memory"]["parts"]) == 2
    assert clock.now <= 60 * DEFAULT_MINUTES + command.GRACE
    assert command.run(tmp_path, DEFAULT_MINUTES, check=False) == 0
    assert not any(read(step.path(tmp_path))["left"] for step in STEPS)


def test_ceilings_that_the_first_step_left_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs without a ceiling have no seconds: everything large would be refused, as once on a rented device."""
    measured: list[str] = []

    def quick(dtype: str, toy: bool) -> float:
        assert toy
        measured.append(dtype)
        return 5e13

    monkeypatch.setattr("benchmarks.accelerator.device.quick", quick)
    foreseen: list[float] = []

    def run(ledger: Ledger, toy: bool) -> None:
        del toy
        foreseen.append(ledger.foreseen(Cost(1, 1.5e14)))

    for index in (2, 3, 6):
        module = SimpleNamespace(run=run, summary=lambda _parts, _toy: {})
        monkeypatch.setattr(Step, "module", lambda _step, made=module: made)
        work(STEPS[index], tmp_path, {}, True, 0.0, 60.0, Clock())
    assert measured == ["bfloat16", "float32"]
    assert foreseen == [pytest.approx(1 + 1.5e14 / (0.3 * 5e13))] * 3
    device = {"bfloat16": {"seconds": 1.0, "result": {"flops": 7e14}}}
    STEPS[0].path(tmp_path).write_text(json.dumps({"step": "device", "parts": device}))
    assert ceilings(tmp_path) == {"bfloat16": 7e14, "float32": 5e13}, "the first step's own come first"


def test_what_was_stopped_is_tried_once_more_and_another_runs_folder_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that takes far longer than foreseen is stopped with its step, whose other parts have not begun yet."""
    calls, codes = list[str](), {"speed": [command.STOPPED, 0]}

    def worked(step: Step, folder: Path, *_: Any) -> int:
        calls.append(step.name)
        step.path(folder).write_text(json.dumps({"step": step.name, "parts": {"a": {}}, "left": {}, "errors": {}}))
        return codes.get(step.name, [0]).pop(0) if step.name in codes else 0

    monkeypatch.setattr(command, "worked", worked)
    assert command.run(tmp_path, 9.0, check=False) == 0
    assert calls == [*(step.name for step in STEPS), "speed"]
    calls.clear()
    codes["device"] = [command.ANOTHER_RUN]
    assert command.run(tmp_path, 9.0, check=False) == 2
    assert calls == ["device"], "no minute of a rented device goes to steps that cannot keep anything"


def test_the_folder_of_another_device_is_said_at_once(tmp_path: Path) -> None:
    STEPS[0].path(tmp_path).write_text(json.dumps({"step": "device", "parts": {}, "device": "Another"}))
    arguments = [sys.executable, "-m", "benchmarks.accelerator", "--minutes", "9", "--out", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "made with device 'Another'" in done.stdout and "widths" not in done.stdout
    assert [each.name for each in tmp_path.iterdir()] == [STEPS[0].path(tmp_path).name]


def test_the_first_step_is_worked_at_toy_size_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "STEPS", STEPS[:1])
    assert command.run(tmp_path, 5.0, check=True) == 0
    (path,) = tmp_path.iterdir()
    assert read(path)["result"] and "bfloat16" in read(path)["parts"] and ceilings(tmp_path)["bfloat16"] > 0


@pytest.mark.parametrize("step", [step for step in STEPS[1:] if step.name != "study"], ids=lambda step: step.name)
def test_every_step_is_planned_at_toy_size(step: Step, tmp_path: Path) -> None:
    """All its parts, none of which is made: what they do is seen in the slow run."""
    clock = Clock()
    ledger = Pretended(step.path(tmp_path), {"step": step.name}, 1e9, 0.0, {"bfloat16": 1e12, "float32": 1e12}, clock)
    step.module().run(ledger, True)
    assert ledger.kept["parts"] and not ledger.kept["left"] and not ledger.kept["errors"]


@pytest.mark.slow
def test_every_step_works_at_toy_size(tmp_path: Path) -> None:
    """From the project's folder, by a Python that need not have it installed; in under two minutes on two cores."""
    arguments = [sys.executable, "-m", "benchmarks.accelerator", "--check", "--out", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(step.path(tmp_path).name for step in STEPS)
    assert all(json.loads(each.read_text())["result"] for each in tmp_path.iterdir())


def pretended(folder: Path, parts: int = 2, **heading: object) -> Path:
    """Files of a device that is none: the ceilings, and the transfer study."""
    named = {"device": "Pretended Chip 9", "cores": 3, "jax": "0.0", "check": False, **heading}
    ceilings = {name: {"seconds": 1.0, "result": {"flops": 7e12}} for name in ("float32", "bfloat16")[:parts]}
    folder.mkdir(exist_ok=True)
    for step, kept in ((STEPS[0], ceilings), (STEPS[5], {"one": {"seconds": 1.0, "result": []}})):
        content = {"step": step.name, **named, "parts": kept, "left": {}, "errors": {}, "running": []}
        step.path(folder).write_text(json.dumps(content))
    return folder


def test_adopted_results_are_shown_by_their_device_and_go_with_their_folder(tmp_path: Path) -> None:
    stored = tmp_path / "results"
    assert adopt(pretended(tmp_path / "run"), stored) == 0
    (shown,) = tables(stored)
    assert shown.startswith("Pretended Chip 9, 3 cores, JAX 0.0")
    assert "| matmul ceiling, bfloat16 | 7 TFLOP/s |" in shown and "| the transfer study | 1 parts, 0 left |" in shown
    assert adopt(pretended(tmp_path / "run", parts=1), stored) == 0  # of fewer parts: what is stored stays
    assert "bfloat16" in tables(stored)[0]
    shutil.rmtree(stored / "pretended-chip-9")
    assert tables(stored) == []


def test_adopted_studies_are_a_figure_by_device_and_go_with_their_folder(tmp_path: Path) -> None:
    """A copy of the stored run under another name, one of its sizes grown with the width: judged again, it fails."""
    source = next(FOLDER.glob("*/2_widths.json")).parent
    pretended_chip = tmp_path / "pretended-chip-9"
    pretended_chip.mkdir()
    for name in ("2_widths.json", "6_study.json"):
        kept: dict[str, Any] = read(source / name) | {"device": "Pretended Chip 9"}
        if name.startswith("2"):
            kept["result"] = {"adam mup": kept["result"]["adam mup"]}
            for part in kept["parts"].values():
                readout = part["result"]["steps"]["1"]["readout"]
                readout["delta_output"] = [size * part["result"]["width"] ** 0.5 for size in readout["delta_output"]]
        (pretended_chip / name).write_text(json.dumps(kept))
    item = item_of(tmp_path)
    table = item.tables["figure_10_exponents"]
    assert {row[0] for row in [*table.rows, *item.tables["figure_10_best_rates"].rows]} == {"Pretended Chip 9"}
    assert (
        "Adam muP readout -0.47" in item.measured
        and "rejected for Adam muP by step 2 propagation and 4 result" in item.measured
    )
    shutil.rmtree(pretended_chip)
    assert item_of(tmp_path).scale == "No run was adopted." and not item_of(tmp_path).figures


def test_toys_other_devices_and_nothing_are_not_adopted(tmp_path: Path) -> None:
    stored = tmp_path / "results"
    assert adopt(tmp_path, stored) == 2
    assert adopt(pretended(tmp_path / "toy", check=True), stored) == 2
    mixed = pretended(tmp_path / "mixed")
    other = json.loads(STEPS[5].path(mixed).read_text()) | {"device": "Another"}
    STEPS[5].path(mixed).write_text(json.dumps(other))
    assert adopt(mixed, stored) == 2
    assert not stored.exists()
