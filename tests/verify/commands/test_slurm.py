"""The Slurm example of docs/slurm.md: its own lines, run as an array would run them, give the whole study."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from derive.running import run
from tests.helpers.paths import ROOT
from verify.commands.main import app
from verify.sweeps.records import Study
from verify.sweeps.storage.store import read

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "slurm.md").read_text(), re.DOTALL)
SCRIPT, AFTERWARDS, RAY = BLOCKS
SMALL = [
    *("--widths", "16,32", "--rates", "2", "--halvings", "0", "--seeds", "1", "--steps", "2", "--batch", "8"),
    *("--context", "4", "--depth", "1", "--evaluation", "32"),
]
BASH = shutil.which("bash") or ""
pytestmark = pytest.mark.skipif(not BASH, reason="there is no bash")


def commands_of(script: str, folder: Path, **variables: str) -> list[list[str]]:
    """The `verify` commands that a script runs, by a `verify` that writes down what it is given."""
    stub = folder / "bin" / "verify"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(f"#!{BASH}\nprintf '%q ' \"$@\"\necho\n")
    stub.chmod(0o755)
    environment = {**os.environ, **variables, "PATH": f"{stub.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([BASH], input=script, cwd=folder, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [shlex.split(line) for line in done.stdout.splitlines()]


def verify(*arguments: str) -> int:
    return run(lambda: app(list(arguments), standalone_mode=False), "verify")


def losses(study: Study) -> set[tuple[str, int, float, int, float]]:
    return {(each.setting, each.width, each.base_rate, each.seed, each.loss) for each in study.records}


@pytest.mark.parametrize("block", BLOCKS)
def test_the_examples_are_valid_shell(block: str) -> None:
    done = subprocess.run([BASH, "-n"], input=block, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_the_array_and_the_merge_give_the_whole_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", SCRIPT).groups())  # type: ignore[union-attr]
    command: list[str] = []
    parts = []
    for task in range(first, last + 1):
        variables = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": str(last), "SLURM_CPUS_PER_TASK": "1"}
        (command,) = commands_of(SCRIPT, tmp_path, **variables)
        assert command[command.index("--part") :] == ["--part", f"{task}/{last}", "--out", f"part-{task}"]
        assert verify(*command, *SMALL) == 0, capsys.readouterr().err
        parts.append(read(Path(f"part-{task}/study.sqlite")))
    merge, report = commands_of(AFTERWARDS, tmp_path)
    assert verify(*merge) == 0, capsys.readouterr().err
    study = read(Path("study/study.sqlite"))
    assert last == len({study.source(name) for name in study.settings})  # every task has something to do
    assert len(study.records) == sum(len(part.records) for part in parts)
    whole = [*command[: command.index("--part")], *SMALL, "--out", "whole"]
    assert verify(*whole) == 0, capsys.readouterr().err
    assert losses(study) == losses(read(Path("whole/study.sqlite")))
    assert report == ["report", "study", "--out", "report"]
