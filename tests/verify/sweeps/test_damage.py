"""Damage of what is stored is noticed or harmless, never taken for data nor a traceback; the rest can be salvaged."""

import random
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from derive.running import run
from tests.verify.sweeps.test_store import BATCHES, filled
from verify.checksums import DamagedError, read_document, sealed, unsealed, write_document
from verify.commands.main import app
from verify.sweeps.storage.database import StoreError
from verify.sweeps.storage.export import export, load_export
from verify.sweeps.storage.store import read

FLIPS = [60, pytest.param(2000, marks=pytest.mark.slow)]


def damaged(data: bytes, number: int, draw: random.Random) -> bytes:
    """One bit turned, or 512 bytes of zeros, in turn."""
    changed, at = bytearray(data), draw.randrange(len(data))
    if number % 2:
        changed[at : at + 512] = bytes(len(changed[at : at + 512]))
    else:
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def tally(path: Path, count: int, look: Callable[[], Any], errors: type[Exception]) -> Counter[str]:
    """What becomes of that many damages of the file: refused, the same, or CHANGED."""
    data, right, found = path.read_bytes(), repr(look()), Counter[str]()
    draw = random.Random(path.name)
    for number in range(count):
        path.write_bytes(damaged(data, number, draw))
        try:
            seen = repr(look())
        except errors as error:
            assert str(error).count("\n") == 0 and path.parent.name in str(error), error
            found["refused"] += 1
        else:
            found["same" if seen == right else "CHANGED"] += 1
    path.write_bytes(data)
    return found


@pytest.mark.parametrize("count", FLIPS)
def test_a_damaged_store_is_refused_or_the_same(count: int, tmp_path: Path) -> None:
    path = filled(tmp_path / "study.sqlite")
    found = tally(path, count, lambda: read(path), StoreError)
    assert found["CHANGED"] == 0 and found["refused"] > count / 4, found


@pytest.mark.parametrize("count", FLIPS)
@pytest.mark.parametrize("name", ["study.json", "runs.csv"])
def test_a_damaged_export_is_refused_or_the_same(name: str, count: int, tmp_path: Path) -> None:
    export(read(filled(tmp_path / "study.sqlite")), tmp_path / "kept")
    (path,) = (tmp_path / "kept").glob(f"{name}*")
    found = tally(path, count, lambda: load_export(tmp_path / "kept"), StoreError)
    assert found["CHANGED"] == 0 and found["refused"] > count / 2, found


@pytest.mark.parametrize("count", FLIPS)
@pytest.mark.parametrize("name", ["part.json", "part.json.gz"])
def test_a_damaged_part_is_refused_or_the_same(name: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / name
    write_document(path, {"losses": [3.25, 2.5], "text": "ω", "deep": {"a": [None, True, 1e-300]}})

    def look() -> Any:
        try:
            return read_document(path)
        except Exception as error:
            raise StoreError(f"{tmp_path.name} {' '.join(str(error).split())}") from error

    found = tally(path, count, look, StoreError)
    assert found["CHANGED"] == 0 and found["refused"] > count / 2, found


def test_a_part_without_a_checksum_is_of_an_earlier_version_and_is_read() -> None:
    assert unsealed({"a": 1}) == {"a": 1}
    kept = sealed({"a": 1})
    assert unsealed(kept) == {"a": 1}
    with pytest.raises(DamagedError):
        unsealed(kept | {"a": 2})


def test_what_is_sound_of_a_damaged_store_is_salvaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss changed by hand is refused by its row; with --salvage all other runs are there, and the loss is said."""
    path = filled(tmp_path / "study.sqlite")
    whole = read(path)
    loss = next(each.loss for each in whole.records if each.diverged is None)
    data = path.read_bytes()
    assert data.count(struct.pack(">d", loss)) == 1
    path.write_bytes(data.replace(struct.pack(">d", loss), struct.pack(">d", 1.25)))

    def said(*arguments: str) -> tuple[int, str, str]:
        code = run(lambda: app(list(arguments), standalone_mode=False), "verify")
        out, err = capsys.readouterr()
        return code, out, err

    code, _, error = said("status", str(path))
    assert code == 2 and error.count("\n") == 1 and "row" in error and path.name in error
    target = tmp_path / "sound.sqlite"
    assert said("merge", str(target), str(path))[0] == 2
    code, _, error = said("merge", str(target), str(path), "--salvage")
    assert code == 0 and "row 1 of runs" in error and "of which 90 are there" in error
    kept = read(target).records
    assert len(kept) == len(whole.records) - 1 == sum(len(batch.runs()) for batch in BATCHES) - 1
    assert {replace(each, finished="") for each in kept} < {replace(each, finished="") for each in whole.records}


def test_links_that_go_round_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for arguments in (["status", "loop"], ["merge", "x.sqlite", "loop"], ["report", "loop"]):
        named = [str(tmp_path / each) if each == "loop" else each for each in arguments]
        assert run(lambda: app(named, standalone_mode=False), "verify") == 2  # noqa: B023
        assert capsys.readouterr().err.count("\n") == 1


def test_a_description_that_nests_without_end_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(read(filled(tmp_path / "study.sqlite")), tmp_path / "kept")
    (tmp_path / "kept" / "study.json").write_text("[" * 100_000)
    assert run(lambda: app(["status", str(tmp_path / "kept")], standalone_mode=False), "verify") == 2
    assert capsys.readouterr().err.count("\n") == 1
    shutil.rmtree(tmp_path / "kept")
