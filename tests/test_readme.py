"""The README's commands run, and print what the README shows."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from derive.cli import app
from derive.running import run
from tests.test_command import write_measurement
from verify.commands.main import app as verify_app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"(?:^|`)(derive(?: [^`\n#|>]*)?)", README, flags=re.MULTILINE)))


def output(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    code = run(lambda: app(shlex.split(command)[1:], standalone_mode=False), "derive")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("derive ")])
def test_the_command_runs(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    write_measurement(tmp_path / "study", alpha=("0.9", "0.8", "1.0"))  # what `verify exponents --out study` leaves
    if "certify" in command:
        output("derive --certificate FILE", capsys)
    assert output(command, capsys)


@pytest.mark.parametrize(
    ("command", "first_line"),
    [
        ("derive table", " parameterization "),
        (
            "derive --optimizer adam --parameterization sp --alignment full --base-width 256 --width 4096 "
            "--base-rate 0.003",
            " layer            rate",
        ),
    ],
)
def test_the_shown_table_is_the_printed_one(command: str, first_line: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = next(block for block in README.split("```") if block.strip("\n").startswith(first_line))
    printed = output(command, capsys)
    assert shown.strip("\n") in printed


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = README.split("```python\n")[1].split("```")[0]
    exec(compile(code, "README", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out


def test_the_python_that_prescribes_runs() -> None:
    """At 4 times the width, by hand: a quarter of the rate for a hidden matrix; the optimizer takes the parameters."""
    names: dict[str, Any] = {}
    exec(compile(README.split("```python\n")[2].split("```")[0], "README", "exec"), names)  # noqa: S102
    assert names["prescription"].factor(names["prescription"].row("layers.0.up").c) == 0.25
    assert names["params"]["layers"][0]["up"].shape == (1024, 2048)
    assert names["transform"].init(names["params"]) is not None
    assert not names["prescription"].needs_wrapping


def test_the_prescription_shown_is_the_printed_one(capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(r"^verify (prescribe .*)$", README, flags=re.MULTILINE)
    assert command
    assert run(lambda: verify_app(shlex.split(command[1]), standalone_mode=False), "verify") == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    shown = README.split(command[0])[1].split("```")[2]
    assert shown.strip("\n") == printed.strip("\n")
