"""Every command of `verify` fits 80 columns and 120: its answer, its notes and its help, as those of `derive`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from derive.cli import app as derive_app
from derive.running import run
from tests.verify.model.test_base_shapes import BASE
from tests.verify.studies.test_report import FULL, parabola, study_of
from tests.verify.sweeps.test_store import filled
from verify.commands.main import app
from verify.sweeps.storage.export import export

Capture = pytest.CaptureFixture[str]
SMALL = ("--seeds", "2", "--batch", "8", "--context", "2")
TINY = ("--widths", "8,16", *SMALL, "--depth", "1")
SWEPT = ("--steps", "3", "--rates", "3", "--halvings", "0", "--evaluation", "16", "--processes", "1")
READ: dict[str, tuple[str, ...]] = {
    "prescribe": ("examples.equinox_mlp:make", "--base-width", "8", "--width", "16", "--optimizer", "adamw"),
    "plan": ("--widths", "1024,4096", "--devices", "8,64"),
    "shapes": ("{folder}/base.bsh",),
    "fit": ("examples/torch_nanogpt.csv", "--group", "setup", "--predict", "adam/sp/full"),
    "status": ("{folder}",),
    "report": ("{folder}", "--out", "report"),
    "explore": ("--out", "page.html"),
    "merge": ("all.sqlite", "{folder}/one.sqlite"),
}
WRITES = {"report", "merge", "explore"}
TRAINED: dict[str, tuple[str, ...]] = {
    "exponents": (*TINY, "--steps", "2"),
    "transfer": (*TINY, *SWEPT),
    "updates": (*TINY, "--steps", "2", "--optimizer", "adam,muon"),
    "decay": (*TINY, "--steps", "60", "--evaluation", "16", "--weight-decay", "10", "--base-rate", "0.01"),
    "epsilon": (*TINY, "--steps", "3", "--evaluation", "16", "--base-rate", "0.01", "--processes", "1"),
    "phase": (*TINY, "--steps", "3", "--c-hidden", "1/2,3/2", "--c-readout", "1/2,1"),
    "check": ("examples.equinox_mlp:make", "--widths", "8,16", "--seeds", "2", "--steps", "2"),
    "exponents --axis depth": (*SMALL, "--widths", "8", "--depths", "1,2", "--steps", "1"),
    "transfer --axis depth": (*SMALL, *SWEPT, "--widths", "8", "--depths", "1,2", "--residual", "1"),
    "transfer --axis batch": (*SMALL, *SWEPT, "--widths", "8", "--depth", "1", "--batches", "4,8"),
    "check --depths 2,4": ("examples.equinox_residual:make", "--widths", "8", "--seeds", "2", "--steps", "2"),
}
"""By the command and the options that make it another one."""
GOES_ON = {"transfer", "updates", "decay", "epsilon", "phase", "exponents --axis depth"}
"""They answer again from what is stored."""
STUDIES = GOES_ON | {"exponents", "transfer --axis depth", "transfer --axis batch"}
"""They have units and a folder: status, report and merge read it."""
INSIDE = {"epsilon": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given")
    filled(path / "one.sqlite")
    export(study_of({FULL: parabola(0.0, 2.3)}, widths=(64, 128), seeds=2), path)
    (path / "base.bsh").write_text(json.dumps(BASE))
    return path


def too_long(capsys: Capture, width: int, arguments: Sequence[str]) -> list[str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.out.strip()
    return [line for line in (captured.out + captured.err).splitlines() if len(line) > width]


def test_no_command_is_left_out() -> None:
    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    assert names == READ.keys() | {command.split()[0] for command in TRAINED}


@pytest.mark.parametrize("width", [80, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", READ)
def test_what_reads_fits(
    command: str, width: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    if command in WRITES:
        monkeypatch.chdir(tmp_path)  # a path is never broken
    given = [each.format(folder=folder) for each in READ[command]]
    assert too_long(capsys, width, [command, *given]) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAINED)
def test_what_trains_fits(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)  # a path is never broken
    for width in (80, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        out = Path("study" if command in GOES_ON else str(width))
        assert too_long(capsys, width, [*command.split(), *TRAINED[command], "--out", str(out)]) == []
        if command in STUDIES:
            found, into = str(out / INSIDE.get(command, "")), f"merged{width}"
            assert too_long(capsys, width, ["status", found]) == []
            assert too_long(capsys, width, ["report", found, "--out", f"report{width}"]) == []
            parts = [f"{into}.sqlite", f"{found}/study.sqlite"] if "transfer" in command else [into, found]
            assert too_long(capsys, width, ["merge", *parts]) == []


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(("of", "name"), [(derive_app, "derive"), (app, "verify")])
def test_help_fits(of: object, name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in ("", *(each.name or getattr(each.callback, "__name__", "") for each in of.registered_commands)):  # type: ignore[attr-defined]
        run(lambda: of([*command.split(), "-h"], prog_name=name, standalone_mode=False), name)  # type: ignore[operator]  # noqa: B023
        out, _, examples = capsys.readouterr().out.partition("\n  Example")
        assert [line for line in out.splitlines() if len(line) > width] == []
        assert [line for line in examples.splitlines() if len(line) > max(width, 100)] == []
