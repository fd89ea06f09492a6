"""The gallery and the folders of data: what is shown is what is stored, and says where it comes from."""

import csv
import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from paper_figures import build as builder
from paper_figures import gallery
from paper_figures.build import ITEMS, main
from paper_figures.items import Item, verdict
from paper_figures.paths import DATA, GALLERY, ROOT, MissingResultError
from paper_figures.sentences import SENTENCES
from paper_figures.studies import PLANS, STUDIES, arguments
from paper_figures.table_7_measured_exponents import UPDATES
from tests.helpers.built import build
from verify.commands.main import app

# What is counted is the same at any time; tests/verify/planning/test_plan.py holds it against its command.
COUNTED = {Path(file).parent.name for file in PLANS}
FOLDERS = sorted(path.name for path in DATA.iterdir() if path.is_dir() and path.name not in COUNTED)


@pytest.fixture(scope="module")
def items() -> dict[str, Item]:
    return {name: build(name) for name in ITEMS}


def test_every_number_on_the_page_is_that_of_the_data(items: dict[str, Item]) -> None:
    assert gallery.page(items) == gallery.PAGE.read_text(encoding="utf-8"), "run python -m paper_figures --gallery"


def test_every_picture_is_on_the_page_and_no_other(items: dict[str, Item]) -> None:
    shown = set(re.findall(r"\(gallery/(\w+\.png)\)", gallery.PAGE.read_text(encoding="utf-8")))
    assert shown == {path.name for path in GALLERY.iterdir()}
    assert shown == {f"{name}.png" for item in items.values() for name in item.figures}
    assert shown == {f"{name}.png" for name in SENTENCES}, "look at it, and write what it says"


def test_the_paper_is_whole(items: dict[str, Item]) -> None:
    """Ten tables and thirteen figures, each a script with a file of its own name."""
    numbers = [tuple(name.split("_")[:2]) for name in ITEMS]
    assert numbers == [*(("table", str(n)) for n in range(1, 11)), *(("figure", str(n)) for n in range(1, 14))]
    for name, item in items.items():
        assert (ROOT / f"{name}.py").exists() and (item.tables or item.figures)
        kind, number, *_ = name.split("_")
        assert all(key.startswith(f"{kind}_{number}") for key in [*item.tables, *item.figures])


def test_data_and_studies_are_the_same_folders() -> None:
    assert sorted(STUDIES) == FOLDERS


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("study", STUDIES)
def test_every_command_is_one_that_verify_takes(study: str, scale: Any) -> None:
    name, *options = arguments(study, scale, Path("unused"))
    parser = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert str(parser.make_context(name, options).params["out"]) == "unused"


def documents(folder: Path) -> list[Any]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.json"))]


def named(content: Any, key: str) -> set[str]:
    """Every text under that key, at any depth."""
    if isinstance(content, dict):
        own = {content[key]} if isinstance(content.get(key), str) else set()
        return own.union(*(named(value, key) for value in content.values()))
    return set().union(*(named(each, key) for each in content)) if isinstance(content, list) else set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_result_says_where_it_comes_from(folder: str) -> None:
    """Configuration, code version, corpus with its fingerprint, device and date."""
    content = documents(DATA / folder)
    found = {key: named(content, key) for key in ("code", "corpus", "device", "date")}
    for path in (DATA / folder).rglob("runs.csv.gz"):
        for row in csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()):
            found["device"].add(row["device"])
            found["date"].add(row["finished"])
    assert all(re.fullmatch(r"\d+\.\d+\.\d+\+[0-9a-f]{12}", each) for each in found["code"]) and found["code"]
    assert all(re.search(r" [0-9a-f]{16}$", each) for each in found["corpus"]) and found["corpus"]
    assert all(re.match(r"20\d\d-\d\d-\d\d", each) for each in found["date"]) and found["date"]
    assert found["device"]


def test_a_command_that_fails_ends_the_rerun_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        builder.run_verify(["transfer", "--widths", "many"])
    assert stopped.value.code == 2 and capfd.readouterr().err.count("\n") == 1


def test_all_data_together_are_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 20e6


def test_names_by_kind_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["table_1", "--out", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".tex", ".csv"}
    assert capsys.readouterr().out.startswith("table_1_stable_rates ")
    with pytest.raises(SystemExit) as stopped:
        main(["figure_99"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and "unknown item 'figure_99'" in error


def test_a_rerun_goes_through_every_study_that_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    monkeypatch.setattr(builder, "run_verify", lambda given: ran.append(shlex.join(given)))
    done = "alignments_adam_sp"
    (tmp_path / done).mkdir()
    (tmp_path / done / "measured.json").write_text("{}")
    builder.rerun("gpu", tmp_path)
    assert ran == [shlex.join(arguments(study, "gpu", tmp_path / study)) for study in STUDIES if study != done]


def test_a_damaged_study_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ('{"rows": []}', "[]", "{", '{"rows": 3}'):
        measured = [(f"exponents_adam_{scheme}_full_4096", "measured.json") for scheme in ("sp", "mup")]
        updates = [(study, "updates.json") for study in UPDATES]
        for study, file in (*updates, *measured):
            (tmp_path / study).mkdir(exist_ok=True)
            (tmp_path / study / file).write_text(content)
        with pytest.raises(MissingResultError, match="table_7_measured_exponents cannot be made from"):
            list(builder.written(["table_7_measured_exponents"], tmp_path, tmp_path / "out"))
    assert capsys.readouterr().out == ""


def test_verdicts_are_all_some_none_or_unknown() -> None:
    cases = {(True, True): "held", (True, False): "held in part", (False, None): "did not hold", (None,): "not decided"}
    assert {outcomes: verdict(outcomes) for outcomes in cases} == cases and verdict([]) == "not decided"
