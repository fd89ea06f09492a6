"""Every study trained unit by unit: what it goes on with, what it refuses, its shares, its folder read again."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from derive.running import run
from tests.helpers.paths import ROOT
from tests.helpers.tiny_studies import COMMANDS, INSIDE
from verify.checksums import read_document, write_document
from verify.commands.main import app
from verify.studies.catalogue import STUDIES, read, study_in
from verify.studies.folder import state
from verify.studies.plan import FILE
from verify.studies.study import Unit

Capture = pytest.CaptureFixture[str]
DATA = ROOT / "paper_figures" / "data"


SLOW = ("exponents --axis depth", "updates", "epsilon")
"""Studies that take longest to train: the code that goes on is one for all, and their own tests train them."""
EVERY = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in COMMANDS]


def verify(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
    captured = capsys.readouterr()
    return code, captured.out, captured.err


Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A finished study of a command, trained once."""

    @cache
    def made(name: str) -> Path:
        out = tmp_path_factory.mktemp("study") / "out"
        assert silently([*COMMANDS[name], "--out", str(out)]) == 0
        return out

    return made


def silently(arguments: list[str]) -> int:
    """The command's exit code; what it prints is no test's."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run(lambda: app(arguments, standalone_mode=False), "verify")


def held(name: str, folder: Path) -> Path:
    """Where the study lies in its command's folder."""
    return folder / INSIDE.get(name, "")


def parts(name: str, folder: Path) -> list[Path]:
    """The files of its units, in their order."""
    study = STUDIES[name]
    return [folder / study.file_name(unit) for unit in state(study, folder).wanted]


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed(path: Path, **entries: Any) -> None:
    write_document(path, {**read_document(path), **entries})


def other_conditions(path: Path) -> str:
    changed(path, conditions={**read_document(path)["conditions"], "seeds": 7})
    return "was made with seeds: 7, not 2; give another --out, or those"


def other_code(path: Path) -> str:
    changed(path, code="0.0.1+abc")
    return "was made by code 0.0.1+abc, and this is "


def other_jax(path: Path) -> str:
    changed(path, jax="0.4.1")
    return "was made by JAX 0.4.1, and this is "


def truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-40])
    return f"is damaged or not of verify {path.parent.name if path.parent.name in COMMANDS else ''}"


def of_another_study(path: Path) -> str:
    """A whole part, of a study of the plane, and of weight decay where that is what is refused."""
    plane, decay = DATA / "phase_adam_sp" / "width_64.json.gz", DATA / "decay" / "sp_sqrt_64.json"
    source = read_document(decay if path.name == "width_8.json.gz" else plane)
    write_document(path, source)
    return "is damaged or not of verify "


@pytest.mark.parametrize("damage", [other_conditions, other_code, other_jax, truncated, of_another_study])
@pytest.mark.parametrize("name", EVERY)
def test_what_cannot_be_gone_on_with_is_refused_in_a_line_and_left(
    name: str, damage: Callable[[Path], str], finished: Made, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "kept"
    shutil.copytree(finished(name), out)
    first, *_, last = parts(name, held(name, out))
    last.unlink()
    message = damage(first)
    before = contents(out)
    code, printed, err = verify(capsys, *COMMANDS[name], "--out", str(out))
    assert (code, printed) == (2, "") and err.splitlines()[-1].startswith("verify: ") and message in err, err
    assert len([line for line in err.splitlines() if not line.startswith("note: ")]) == 1
    assert contents(out) == before


def test_a_folder_of_another_study_is_refused_and_left(finished: Made, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(finished("decay"), tmp_path / "kept")
    before = contents(tmp_path / "kept")
    code, _, err = verify(capsys, *COMMANDS["phase"], "--out", str(tmp_path / "kept"))
    assert code == 2 and "holds a study of verify decay; give another --out" in err
    assert contents(tmp_path / "kept") == before


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.usefixtures("undrawn")
def test_what_is_left_is_trained_and_gives_the_same(name: str, finished: Made, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "kept"
    shutil.copytree(finished(name), out)
    where, study = held(name, out), STUDIES[name]
    whole = read_document(where / study.answers.file)
    *rest, last = parts(name, where)
    last.unlink()
    before = {path: path.stat().st_mtime_ns for path in rest}
    code, printed, err = verify(capsys, "status", str(where))
    assert code == 0 and f"{len(rest)} of {len(rest) + 1} units are done" in printed and "left: " in printed, err
    code, printed, err = verify(capsys, "report", str(where))
    assert code == 2 and "is not finished" in err and err.count("\n") == 1
    assert verify(capsys, *COMMANDS[name], "--out", str(out))[0] == 0
    again = read_document(where / study.answers.file)
    assert {path: path.stat().st_mtime_ns for path in rest} == before
    assert _without_days(again) == _without_days(whole)


def _without_days(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "date"}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.usefixtures("undrawn")
def test_a_finished_folder_answers_again_without_training(
    name: str, finished: Made, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished(name)
    where = held(name, out)
    code, table, _ = verify(capsys, *COMMANDS[name], "--out", str(out))
    assert code == 0
    monkeypatch.setattr("verify.studies.training.Training.run", None)
    assert table.startswith(verify(capsys, "report", str(where))[1])
    code, _, err = verify(capsys, "report", str(where), "--out", str(tmp_path / "again"))
    file = STUDIES[name].answers.file
    assert code == 0 and (tmp_path / "again" / file).read_bytes() == (where / file).read_bytes(), err
    code, _, err = verify(capsys, "report", str(where), "--out", str(tmp_path / "again"))
    assert code == 2 and "already holds a report" in err
    code, printed, _ = verify(capsys, "status", str(where))
    units = len(parts(name, where))
    assert code == 0 and f"{units} of {units} units are done" in printed and "left" not in printed
    made = read_document(parts(name, where)[0])
    assert made["code"] in printed and made["date"] in printed


Shares = Callable[[str], list[Path]]


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> Shares:
    """A study in two shares, each in a folder of its own."""

    @cache
    def made(name: str) -> list[Path]:
        out = tmp_path_factory.mktemp("shares")
        for share in ("1/2", "2/2"):
            assert silently([*COMMANDS[name], "--part", share, "--out", str(out / share[0])]) == 0
        return [held(name, out / which) for which in "12"]

    return made


@pytest.mark.parametrize("name", list(COMMANDS))
@pytest.mark.slow
def test_shares_are_merged_into_the_whole(
    name: str, shares: Shares, finished: Made, tmp_path: Path, capsys: Capture
) -> None:
    whole, study = held(name, finished(name)), STUDIES[name]
    assert not any((folder / study.answers.file).exists() for folder in shares(name))
    counts = [len(state(study, folder).parts) for folder in shares(name)]
    assert sum(counts) == len(parts(name, whole)) and max(counts) - min(counts) <= 1
    before = [contents(folder) for folder in shares(name)]
    target = tmp_path / "merged"
    code, printed, err = verify(capsys, "merge", str(target), *map(str, shares(name)))
    assert code == 0 and f"written to {target}" in printed and "left" not in printed, err
    assert [contents(folder) for folder in shares(name)] == before
    assert verify(capsys, "report", str(target))[1] == verify(capsys, "report", str(whole))[1]
    code, _, err = verify(capsys, "merge", str(target), *map(str, shares(name)))
    assert code == 2 and "is there already" in err


@pytest.mark.parametrize("damage", [other_conditions, other_code, other_jax, truncated, of_another_study])
@pytest.mark.slow
def test_parts_that_differ_are_not_merged(
    damage: Callable[[Path], str], shares: Shares, tmp_path: Path, capsys: Capture
) -> None:
    for which, folder in enumerate(shares("decay")):
        shutil.copytree(folder, tmp_path / str(which))
    damage(next(path for path in parts("decay", tmp_path / "1") if path.exists()))
    target = tmp_path / "merged"
    code, printed, err = verify(capsys, "merge", str(target), str(tmp_path / "0"), str(tmp_path / "1"))
    assert (code, printed) == (2, "") and err.count("\n") == 1 and not target.exists(), err


def test_folders_of_other_conditions_or_of_two_studies_are_not_merged(
    shares: Shares, tmp_path: Path, capsys: Capture
) -> None:
    first, second = shares("phase")
    shutil.copytree(second, tmp_path / "other")
    plan = read_document(tmp_path / "other" / FILE)
    changed(tmp_path / "other" / FILE, conditions=[{**each, "steps": 9} for each in plan["conditions"]])
    for path in parts("phase", second):
        if path.exists():
            changed(tmp_path / "other" / path.name, conditions={**read_document(path)["conditions"], "steps": 9})
    target = tmp_path / "merged"
    for folders, said in (
        ((first, tmp_path / "other"), "was made with steps: 9, not 1 in the first"),
        ((first, shares("decay")[0]), "holds a study of verify decay; merge folders of verify phase alone"),
        ((first, tmp_path), "holds no study that is kept by units"),
    ):
        code, _, err = verify(capsys, "merge", str(target), *map(str, folders))
        assert code == 2 and said in err and err.count("\n") == 1 and not target.exists(), err


@pytest.mark.parametrize("share", ["0/2", "3/2", "2", "a/b", "1/0"])
def test_what_is_no_share_is_refused(share: str, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = verify(capsys, *COMMANDS["phase"], "--part", share, "--out", str(tmp_path / "new"))
    assert code == 2 and "is not a share; write 3/16" in err and not (tmp_path / "new").exists()


def test_a_share_of_what_is_not_kept_is_refused(capsys: Capture) -> None:
    code, _, err = verify(capsys, *COMMANDS["exponents"], "--part", "1/2")
    assert code == 2 and "--part '1/2' needs --out" in err


@pytest.mark.parametrize("name", ["decay", "exponents"])
@pytest.mark.slow
def test_workers_train_what_this_process_does(name: str, finished: Made, tmp_path: Path, capsys: Capture) -> None:
    code, _, err = verify(capsys, *COMMANDS[name], "--processes", "2", "--out", str(tmp_path))
    assert code == 0, err
    file = STUDIES[name].answers.file
    found, expected = (read_document(folder / file) for folder in (tmp_path, finished(name)))
    assert [row["predicted"] for row in found["rows"]] == [row["predicted"] for row in expected["rows"]]
    for row, other in zip(found["rows"], expected["rows"], strict=True):
        assert (row["measured"] is None) == (other["measured"] is None)
        assert row["measured"] is None or row["measured"] == pytest.approx(other["measured"], abs=1e-3)


LARGE = ("phase_adam_sp", "phase_adam_mup", "phase_adam_sp_frozen", "update_exponents")
"""They take seconds; tests of `verify phase` read what it stored as well."""
FINISHED = sorted(
    path.parent.name
    for file in ("decay.json", "phase.json", "updates.json", "exponents.json")
    for path in DATA.glob(f"*/{file}")
)


@pytest.mark.parametrize(
    "folder", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in FINISHED]
)
def test_every_committed_study_is_answered_again_as_it_was(folder: str) -> None:
    """Every number and text, but for what its version did not note: the checksum, and JAX, whose name is then empty."""
    study = study_in(DATA / folder)
    assert study is not None
    stored = json.loads((DATA / folder / study.answers.file).read_text(encoding="utf-8"))
    found = json.loads(json.dumps(study.answers.as_json(read(DATA / folder))))
    later = {name: found.pop(name) for name in ("version", "jax") if name not in stored or name == "version"}
    assert later.get("jax", "") == ""
    assert found == {name: value for name, value in stored.items() if name not in ("version", "checksum")}


def test_no_study_is_left_out() -> None:
    assert list(STUDIES) == list(COMMANDS) and all(STUDIES[name].name == name for name in STUDIES)
    assert all(isinstance(STUDIES[name].file_name(_some_unit(name)), str) for name in STUDIES)


def _some_unit(name: str) -> Unit:
    return {"exponents --axis depth": ("transformer", 8, 1), "decay": ("SP", "sqrt", 8)}.get(name, (8,))
