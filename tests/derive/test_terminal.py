"""Every line of every command fits the terminal; help, versions and what is missing are said as elsewhere."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer import Typer
from typer.main import get_command

from derive import __version__, terminal
from derive.cli import app
from derive.help_text import panels
from derive.running import run
from tests.helpers.paths import ROOT
from verify.commands.main import app as verify_app

DERIVE = (
    "",
    "--base-width 256 --width 4096 --base-rate 3e-3",
    "--alignment full --explain",
    "--optimizer adam,hidden=muon --parameterization mup --layers 3",
    "--alignment alpha=x,readout.omega=y",
    "--base-width 256 --width 4096 --residual completep --base-depth 4 --depth 32 --base-batch 8 --batch 64",
    "--residual completep --base-batch 8 --batch 64 --base-tokens 100 --tokens 1000",
    "table",
    "table --axis depth",
    "table --axis batch",
    "constraints",
    "constraints --optimizer adafactor",
    "equivalent sp mup",
    "equivalent mup mup-package",
    "check --c=0,1/2,1",
    "epsilon --value 1e-8 --base-width 256 --gradient-rms 1e-4",
    "list",
    "list parameterizations",
    "list alignments",
    "list rules",
)
VERIFY = ("plan --widths 1024,4096 --devices 8,64", "")
COMMANDS = [(app, "derive", each) for each in DERIVE] + [(verify_app, "verify", each) for each in VERIFY]
SUBCOMMANDS = [
    (each, name, command.name or getattr(command.callback, "__name__", ""))
    for each, name in ((app, "derive"), (verify_app, "verify"))
    for command in each.registered_commands
]


def printed(chosen: object, name: str, arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    def command() -> object:
        return chosen(shlex.split(arguments), prog_name=name, standalone_mode=False)  # type: ignore[operator]

    assert run(command, name) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("chosen", "name", "arguments"), COMMANDS)
def test_no_line_is_longer_than_the_terminal(
    chosen: object,
    name: str,
    arguments: str,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = printed(chosen, name, arguments, capsys)
    assert out.strip()
    assert [line for line in out.splitlines() if len(line) > width] == []


@pytest.mark.parametrize(("chosen", "name", "command"), SUBCOMMANDS)
def test_every_help_has_an_example_on_a_line_of_its_own(
    chosen: object, name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = printed(chosen, name, f"{command} -h", capsys)
    shown = short.partition("\n  Example")[2].splitlines()
    assert any(line.strip().startswith(f"{name} {command}") for line in shown)
    assert short == printed(chosen, name, f"{command} --help", capsys)


@pytest.mark.parametrize("command", [command for of, _, command in SUBCOMMANDS if of is app] + [""])
def test_an_example_runs_as_it_is_copied(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = printed(app, "derive", f"{command} -h", capsys).partition("\n  Example")[2].splitlines()[1:]
    monkeypatch.chdir(tmp_path)
    copied = [line.strip().removeprefix("derive ") for line in shown if line.strip()]
    assert copied and all(printed(app, "derive", each, capsys).strip() for each in copied)


@pytest.mark.parametrize(("chosen", "name"), [(app, "derive"), (verify_app, "verify")])
def test_every_option_is_in_a_panel(chosen: Typer, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = get_command(chosen)
    for command, each in {name: group, **{f"{name} {sub}": each for sub, each in group.commands.items()}}.items():  # type: ignore[attr-defined]
        options = {option.name for option in each.params if option.param_type_name == "option"}
        assert options - panels(command).keys() <= {"version", "install_completion", "show_completion"}, command
    shown = printed(verify_app, "verify", "transfer -h", capsys)
    places = [shown.index(f"\n{panel}:\n") for panel in ("Model", "Training", "Sizes", "Devices", "Output")]
    assert places == sorted(places)
    assert places[0] < shown.index("--parameterization <") < places[1] < shown.index("--steps <") < places[2]


@pytest.mark.parametrize(("chosen", "name"), [(app, "derive"), (verify_app, "verify")])
def test_version_and_whole_summaries(chosen: object, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(chosen, name, "--version", capsys) == f"{__version__}\n"
    shown = printed(chosen, name, "-h", capsys)
    assert "..." not in shown.split("Commands:")[1]
    assert "--show-completion" in shown


def test_verify_alone_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(verify_app, "verify", "", capsys)
    assert all(f"\n  {command}" in shown for _, name, command in SUBCOMMANDS if name == "verify")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered_to_the_shell(shell: str) -> None:
    environment = {**os.environ, "_DERIVE_COMPLETE": f"source_{shell}"}
    code = "import sys; sys.argv = ['derive']; from derive.cli import main; main()"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert "_DERIVE_COMPLETE" in found.stdout


def test_without_jax_one_line_says_what_to_install(tmp_path: Path) -> None:
    start = "import verify.commands.main as c; c.main()"
    code = f"import sys; sys.modules['jax'] = None; sys.argv = ['verify', 'exponents']; {start}"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr == "verify: jax is not installed; run: pip install '.[verify]' where its source is\n"


def test_a_table_keeps_every_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["layer", *(f"column{place}" for place in range(12)), "why"]
    rows = [[f"layer{row}", *(f"{row}/{place}" for place in range(12)), f"as {row} is so " * 9] for row in range(3)]
    for width in (40, 80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = terminal.table(columns, rows)
        assert max(map(len, shown.splitlines())) <= width
        assert set(shown.split()) >= {word for cells in (columns, *rows) for cell in cells for word in cell.split()}
    monkeypatch.delenv("COLUMNS")
    assert "column0   column1" in terminal.table(columns, rows)


def test_output_to_a_file_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert terminal.columns() is None
    assert terminal.wrapped("word " * 100) == "word " * 100
