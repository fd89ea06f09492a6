"""A study killed at random moments and started again ends as if it had never been interrupted."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from verify.sweeps.storage.database import StoreError
from verify.sweeps.storage.store import read

COMMAND = [
    *(sys.executable, "-m", "verify", "transfer", "--parameterization", "sp,ntk", "--alignment", "global,full"),
    *("--widths", "16,32", "--rates", "5", "--seeds", "2", "--steps", "200", "--batch", "16", "--context", "4"),
    *("--depth", "1", "--evaluation", "64"),
]


def start(folder: Path, cache: Path, processes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, "--processes", str(processes), "--out", str(folder)],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(driver: subprocess.Popen[bytes]) -> None:
    """kill -9 the driver alone; its workers must end by themselves."""
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(driver.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived the driver that was killed")


def runs(folder: Path) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What the store holds; losses as text, so that NaN equals itself."""
    try:
        records = read(folder / "study.sqlite").records
    except StoreError:
        return {}
    found = {(r.setting, r.width, r.base_rate, r.seed): (repr(r.loss), r.diverged, r.curve) for r in records}
    assert len(found) == len(records), "a run is there twice"
    return found


def crash(tmp_path: Path, kills: int) -> None:
    assert start(tmp_path / "whole", tmp_path / "cache", 2).wait(300) == 0
    expected = runs(tmp_path / "whole")
    assert len(expected) > 60
    chance = random.Random(kills)
    seen: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    folder, interrupted = tmp_path / "killed", 0
    for count in range(kills):
        before, began = len(seen), time.monotonic()
        share = (len(expected) - before) // (kills - count + 1)  # so that something is left for every kill
        goal = before + chance.randint(1, max(1, share))
        patience = chance.uniform(0, 5) if count % 3 == 0 else 120  # some die while they start
        driver = start(folder, tmp_path / "cache", 1 + count % 2)
        while driver.poll() is None and len(runs(folder)) < goal and time.monotonic() - began < patience:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.03))
        interrupted += driver.poll() is None
        kill(driver)
        now = runs(folder)
        assert seen.items() <= now.items(), "a finished run was lost or changed"
        seen = now
    assert interrupted >= kills // 2
    assert start(folder, tmp_path / "cache", 1).wait(300) == 0
    assert runs(folder) == expected


@pytest.mark.slow
def test_four_kills_leave_the_study_as_it_would_have_been(tmp_path: Path) -> None:
    crash(tmp_path, 4)


@pytest.mark.slow
def test_thirty_kills_leave_the_study_as_it_would_have_been(tmp_path: Path) -> None:
    crash(tmp_path, 30)
