"""A study as text reads back bit for bit, and is not trusted when changed."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.verify.sweeps.test_store import ADAM, contents, filled, planned, refused, texts, unchanged
from verify.sweeps.records import Study
from verify.sweeps.storage.export import export, load, load_export
from verify.sweeps.storage.store import read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def exported(study: Study, folder: Path, compress: bool = False) -> Path:
    export(study, folder, compress)
    return folder


@pytest.mark.parametrize("compress", [False, True])
def test_an_export_reads_back_equal_and_is_the_same_twice(path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch):
    study = read(filled(path))
    awkward = replace(study.records[0], device='NVIDIA "H200",\r\nμ', finished="2026-01-01T00:00:00+00:00", curve=())
    study = replace(study, records=(awkward, *study.records[1:]), trained_as={"alias": ADAM.name})
    one = exported(study, path.parent / "a" / "export", compress)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    two = exported(study, path.parent / "b" / "export", compress)
    back = load_export(one)
    assert texts(back.records) == texts(study.records)
    assert replace(back, records=()) == replace(study, records=())
    assert contents(one) == contents(two)
    assert {file.name for file in one.iterdir()} == {"study.json", "runs.csv.gz" if compress else "runs.csv"}


def test_a_table_has_a_row_per_run_that_any_program_reads(path: Path):
    folder = exported(read(filled(path)), path.parent)
    header, *lines = (folder / "runs.csv").read_text().splitlines()
    assert header == "setting,width,base_rate,seed,loss,diverged,curve,seconds,device,finished,checksum"
    assert len(lines) == 80
    first = lines[0].split(",")
    made = planned()[0]
    assert first[:5] == ["adam muP full", "64", "0.1", "0", repr(made.loss)]
    assert first[6].split()[1] == f"2:{made.curve[1][1]!r}"
    assert {line.split(",")[4] for line in lines} > {"nan", "inf"}


def test_an_export_is_neither_overwritten_nor_trusted_when_changed(path: Path):
    study = read(filled(path))
    folder = exported(study, path.parent / "export")
    with unchanged(folder), refused("already holds study.json"):
        export(study, folder)
    table = (folder / "runs.csv").read_bytes()
    (folder / "runs.csv").write_bytes(table[: table.rindex(b"\n", 0, -1) + 1])
    with refused("changed or cut short"):
        load(folder)
    (folder / "runs.csv").unlink()
    with refused("is no export", "runs.csv"):
        load(folder)
    description = (folder / "study.json").read_text()
    (folder / "runs.csv").write_bytes(table)
    for wrong, said in (
        ('{"schema": 2}', "damaged or not the description"),
        ('{"schema": 3}', "has schema 3"),
        (description.replace('"steps": 100', '"steps": 101'), "does not fit its checksum"),
        ("[" * 100_000, "damaged or not the description"),
        ("{", "damaged or not the description"),
    ):
        (folder / "study.json").write_text(wrong)
        with refused(said):
            load(folder)
    (path.parent / "file").touch()
    with refused("cannot write to"):
        export(study, path.parent / "file")


def test_a_study_is_found_in_a_store_a_folder_and_an_export(path: Path):
    study = read(filled(path))
    folder = exported(study, path.parent / "export", compress=True)
    for form in (path, path.parent, folder):
        assert texts(load(form).records) == texts(study.records)
    (path.parent / "nothing").mkdir()
    with refused("neither study.sqlite nor an export"):
        load(path.parent / "nothing")
    with refused("no store at"):
        load(path.parent / "absent")
