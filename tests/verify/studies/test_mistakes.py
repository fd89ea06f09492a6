"""A mistake of the program within a study ends with its traceback and 1, what the user can mend with one line and 2."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from derive.running import run
from tests.helpers.failing import mistake, refusal
from tests.helpers.paths import ROOT
from tests.helpers.tiny_studies import COMMANDS
from verify.commands.main import app
from verify.studies.phase.kept import PHASE

Capture = pytest.CaptureFixture[str]
TRAINS = {
    "exponents": "verify.studies.exponents.study.train",
    "exponents --axis depth": "verify.studies.depth.study.train",
    "updates": "verify.studies.updates.study.train",
    "decay": "verify.studies.decay.study.train",
    "phase": "verify.studies.phase.study.train",
    "epsilon": "verify.studies.epsilon.study.train",
    "transfer": "verify.sweeps.loop.train",
}
"""What each study trains with."""
TRANSFER = [
    *("transfer", "--widths", "8,16", "--parameterization", "sp", "--alignment", "global", "--steps", "2"),
    *("--rates", "1", "--halvings", "0", "--seeds", "1", "--batch", "4", "--context", "2", "--evaluation", "4"),
]
COMMAND = {**COMMANDS, "transfer": [*TRANSFER, "--processes", "1"]}
SAID = "verify: every network diverged; give a smaller --base-rate"
TWO = ["--processes", "2"]
START = """
from tests.helpers import failing
from verify.commands import main
from verify.studies.phase import kept
from dataclasses import replace
kept.PHASE = replace(kept.PHASE, train=failing.mistake)
main.main()
"""


def verify(arguments: list[str], out: Path) -> int:
    return run(lambda: app([*arguments, "--out", str(out)], standalone_mode=False), "verify")


def is_one_line(capsys: Capture, code: int) -> bool:
    """Whether the command ended with 2 and with what it said, on one line, as its last."""
    captured = capsys.readouterr()
    *before, last = captured.err.splitlines()
    return code == 2 and last == SAID and not captured.out and not any(line.startswith("verify: ") for line in before)


def test_every_study_is_here() -> None:
    assert TRAINS.keys() == COMMAND.keys()


@pytest.mark.parametrize("name", TRAINS)
def test_a_mistake_within_a_study_goes_through(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(TRAINS[name], mistake)
    with pytest.raises(ValueError, match="could not be broadcast") as raised:
        verify(COMMAND[name], tmp_path / "out")
    assert raised.traceback[-1].name == "mistake"


@pytest.mark.parametrize("name", TRAINS)
def test_what_the_user_can_mend_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setattr(TRAINS[name], refusal)
    assert is_one_line(capsys, verify(COMMAND[name], tmp_path / "out"))


def in_workers(monkeypatch: pytest.MonkeyPatch, name: str, fails: Callable[..., object]) -> list[str]:
    """The command by two worker processes, where it fails so."""
    if name == "phase":
        monkeypatch.setattr("verify.studies.phase.kept.PHASE", replace(PHASE, train=fails))
        return [*COMMANDS["phase"], *TWO]
    monkeypatch.setattr("verify.sweeps.engines._work", fails)
    return [*TRANSFER, *TWO]


@pytest.mark.parametrize("name", ["phase", "transfer"])
def test_both_come_back_from_workers(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    """Studies trained unit by unit have one kind of worker, and sweeps another."""
    assert is_one_line(capsys, verify(in_workers(monkeypatch, name, refusal), tmp_path / "out"))
    with pytest.raises(ValueError, match="could not be broadcast") as raised:
        verify(in_workers(monkeypatch, name, mistake), tmp_path / "out")
    assert "in mistake" in str(raised.value.__cause__)  # the worker's own traceback


def test_a_traceback_is_seen_and_the_interpreter_ends_with_1(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, *COMMANDS["phase"], "--out", str(tmp_path / "out")]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 1 and not child.stdout
    assert "Traceback" in child.stderr and child.stderr.endswith(
        "ValueError: operands could not be broadcast together\n"
    )
