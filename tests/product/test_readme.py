"""The commands of the README and of the guide run, and print what their page shows."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from derive.cli import app
from derive.registry import REGISTRY
from derive.running import run
from tests.derive.test_command import write_measurement
from tests.helpers.paths import ROOT
from tests.helpers.published_rules import RULES
from tests.helpers.zoo import ZOO
from verify.commands.main import app as verify_app

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = {
    name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("derive", "own_model", "measuring", "transfer", "scale", "findings")
}
PAGES = "\n".join([README, *GUIDE.values()])
COMMANDS = sorted(set(re.findall(r"(?:^|`)(derive(?: [^`\n#|>]*)?)", PAGES, flags=re.MULTILINE)))
LARGEST = 6000
"""Bytes of the README."""


def output(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    code = run(lambda: app(shlex.split(command)[1:], standalone_mode=False), "derive")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) > 12


def test_the_readme_counts_what_there_is() -> None:
    assert f"the {len(REGISTRY)} optimizers" in README
    assert f"| {len(ZOO)} shapes of public models" in README
    assert f"| {len(RULES)} published update rules" in README
    assert "4,410 networks" in README and "4,410 networks" in GUIDE["transfer"]  # counted in tests/paper/test_claims.py


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= LARGEST


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert not missing


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
    shown = [block for page in (README, GUIDE["derive"]) for block in page.split("```")]
    tables = [block.strip("\n") for block in shown if block.strip("\n").startswith(first_line)]
    printed = output(command, capsys)
    assert tables and all(table in printed for table in tables)


def test_the_python_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = GUIDE["derive"].split("```python\n")[1].split("```")[0]
    exec(compile(code, "docs/derive.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out


def test_the_python_that_prescribes_runs() -> None:
    """At 4 times the width, by hand: a quarter of the rate for a hidden matrix; the optimizer takes the parameters."""
    names: dict[str, Any] = {}
    exec(compile(GUIDE["own_model"].split("```python\n")[1].split("```")[0], "docs/own_model.md", "exec"), names)  # noqa: S102
    assert names["prescription"].factor(names["prescription"].row("layers.0.up").c) == 0.25
    assert names["params"]["layers"][0]["up"].shape == (1024, 2048)
    assert names["transform"].init(names["params"]) is not None
    assert not names["prescription"].needs_wrapping


def test_the_prescription_shown_is_the_printed_one(capsys: pytest.CaptureFixture[str]) -> None:
    page = GUIDE["own_model"]
    command = re.search(r"^verify (prescribe .*)$", page, flags=re.MULTILINE)
    assert command
    assert run(lambda: verify_app(shlex.split(command[1]), standalone_mode=False), "verify") == 0
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    shown = page.split(command[0])[1].split("```")[2]
    assert shown.strip("\n") == printed.strip("\n")
