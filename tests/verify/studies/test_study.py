"""Studies trained unit by unit: what is kept comes back, what cannot be gone on with is refused and left alone."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from tests.helpers.paths import ROOT
from verify import provenance
from verify.checksums import read_document, write_document
from verify.provenance import Made, code_version, import_closure
from verify.studies.content import build, plain
from verify.studies.phase.kept import PHASE
from verify.studies.plan import read_plan
from verify.studies.study import Part, Study, StudyError, Unit, differences, head
from verify.studies.training import Training
from verify.studies.updates.results import UPDATES

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("unchecked")  # studies of no corpus at all
DATA = ROOT / "paper_figures" / "data"


@dataclass(frozen=True)
class Settings:
    seeds: int
    points: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Sizes:
    name: str
    steps: tuple[int, ...]
    by_step: dict[int, dict[str, Float[np.ndarray, "width seed"]]]
    loss: float
    left: str | None = None


FOUND = Sizes("one", (1, 2), {1: {"hidden": np.array([[1.25, np.nan]])}, 10: {}}, float("inf"))


def trained(settings: Settings, unit: Unit, *_: Any) -> Sizes:
    if unit == ("fails",):
        raise ValueError("operands could not be broadcast together")
    return replace(FOUND, name=f"{unit[0]} of {settings.seeds}")


STUDY = Study("sizes", "verify.fit.slopes", Sizes, lambda unit: f"{unit[0]}.json", trained, digits=4)


def test_any_dataclass_comes_back_from_json() -> None:
    again = build(Sizes, json.loads(json.dumps(plain(FOUND))))
    assert (again.name, again.steps, again.left) == ("one", (1, 2), None)
    assert np.array_equal(again.by_step[1]["hidden"], FOUND.by_step[1]["hidden"], equal_nan=True)
    assert again.by_step[10] == {} and np.isnan(again.loss)  # infinite as well as not a number is null


@pytest.mark.parametrize(
    "change",
    [{"steps": 3}, {"steps": ["1"]}, {"by_step": {"x": {}}}, {"name": None}, {"by_step": {"1": {"h": "text"}}}],
)
def test_json_of_another_type_is_not_taken(change: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        build(Sizes, {**plain(FOUND), **change})
    with pytest.raises(KeyError):
        build(Sizes, {name: value for name, value in plain(FOUND).items() if name not in change})


@pytest.mark.parametrize("study", [PHASE, UPDATES], ids=lambda study: study.name)
def test_committed_parts_are_read_and_written_back_equal(study: Any, tmp_path: Path) -> None:
    kept = [path for path in sorted(DATA.glob("*/*.json*")) if _command(path) == study.name]
    for path in kept:
        content = read_document(path)
        found = build(study.found, content[study.within] if study.within else content)
        again = plain(found, study.digits)
        for name, value in again.items():
            assert value == (content[study.within] if study.within else content)[name], (path.name, name)
    assert kept


def _command(path: Path) -> str:
    if path.name.startswith("width_") and path.parent.name.startswith("phase"):
        return "phase"
    return "updates" if "update" in path.parent.name and path.name != "updates.json" else ""


def training(folder: Path, *units: str, **conditions: Any) -> Training[Settings, Sizes]:
    settings = Settings(**{"seeds": 2, **conditions})
    return Training(STUDY, {(unit,): settings for unit in units}, folder)


def finished(folder: Path, *units: str) -> dict[Unit, Part[Sizes]]:
    one: Any = training(folder, *units)
    return one.run(one.take_stock(), None, lambda _: None)


def test_units_are_kept_and_trained_once(tmp_path: Path) -> None:
    parts = finished(tmp_path, "a", "b")
    assert [part.found.name for part in parts.values()] == ["a of 2", "b of 2"]
    more = training(tmp_path, "c", "a")
    assert more.take_stock() == [("c",)]
    assert more.parts["a",].made == parts["a",].made
    first = training(tmp_path, "a")
    first.run(first.take_stock(), None, lambda _: None)  # type: ignore[arg-type]
    plan = read_plan(tmp_path)
    assert plan is not None and list(plan.units) == [("a",)], "what is answered is what is wanted"
    said = head(
        "sizes", [Part(FOUND, Made("x", "cpu", "2025-01-01")), Part(FOUND, Made("y", "cpu", "2025-01-02", "1"))]
    )
    assert (said["code"], said["device"], said["jax"], said["date"]) == ("x; y", "cpu", "1", "2025-01-02")


def other_conditions(path: Path) -> None:
    write_document(path, {**_stored(path), "conditions": {"seeds": 3, "points": []}})


def other_code(path: Path) -> None:
    write_document(path, {**_stored(path), "code": "0.0.1+abc"})


def other_jax(path: Path) -> None:
    write_document(path, {**_stored(path), "jax": "0.4.1"})


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flipped(path: Path) -> None:
    path.write_text(path.read_text().replace("1.25", "1.35"))


def of_another_study(path: Path) -> None:
    shutil.copy(next(DATA.glob("phase_adam_sp/width_64.json.gz")), path)


def _stored(path: Path) -> dict[str, Any]:
    return dict(read_document(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_conditions, "was made with seeds: 3, not 2; give another --out, or those"),
        (other_code, "was made by code 0.0.1\\+abc, and this is .*; give another --out, or go on with what began it"),
        (other_jax, "was made by JAX 0.4.1, and this is "),
        (truncated, "is damaged or not of verify sizes; move it away, or give another --out"),
        (flipped, "was damaged or changed after it was written"),
        (of_another_study, "is damaged or not of verify sizes"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused_and_left(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    finished(tmp_path, "a")
    damage(tmp_path / "a.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StudyError, match=message) as refusal:
        training(tmp_path, "a", "b").take_stock()
    assert "\n" not in str(refusal.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_finished_study_of_other_code_is_read(tmp_path: Path) -> None:
    """Where nothing is left to train, nothing can be mixed."""
    finished(tmp_path, "a")
    other_code(tmp_path / "a.json")
    done = training(tmp_path, "a")
    assert done.take_stock() == [] and done.parts["a",].made.code == "0.0.1+abc"


def test_long_conditions_are_told_by_their_length() -> None:
    points = tuple((str(k), str(k)) for k in range(20))
    assert differences(Settings(2), plain(Settings(2, points))) == ["points: 20 points, not []"]


def test_the_version_of_the_code_is_of_everything_that_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {path.name for path in import_closure(provenance.TRAINS)}
    assert {"atan2.py", "preconditioners.py", "runs.py", "trace.py", "checkpoint.py", "transformer.py"} <= names
    assert "emit_torch.py" not in names and "plots.py" not in names
    for package in provenance.PACKAGES:
        shutil.copytree(provenance.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = code_version()
    with (tmp_path / "verify" / "training" / "rules" / "atan2.py").open("a") as file:
        file.write("# changed\n")
    changed = code_version()
    assert changed != before
    (tmp_path / "verify" / "studies" / "transfer" / "plots.py").write_text("")
    assert code_version() == changed


def test_provenance_is_complete() -> None:
    now = asdict(provenance.made())
    assert list(now) == ["code", "device", "date", "jax"] and all(now.values())


def test_the_page_on_adding_a_study_runs(capsys: Capture) -> None:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    exec(compile(page.split("```python\n")[1].split("```")[0], "docs/studies.md", "exec"), {"__name__": "walks"})  # noqa: S102
    power, _, names = capsys.readouterr().out.partition(" ")
    assert abs(float(power.removeprefix("n^")) - 0.5) < 0.1
    assert names.strip() == "['length_1024.json', 'length_256.json', 'length_64.json', 'wanted.json']"
