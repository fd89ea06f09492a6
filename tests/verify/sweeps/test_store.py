"""Stores of studies: nothing finished is lost, doubled or changed, whatever happens to the process."""

import hashlib
import json
import math
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO

import pytest

from tests.helpers.paths import ROOT
from verify.sweeps.records import Batch, Conditions, LayerScaling, Record, Setting, run_key
from verify.sweeps.storage.database import StoreError, snapshot
from verify.sweeps.storage.export import export, load_export
from verify.sweeps.storage.store import Store, as_row, read

CONDITIONS = Conditions("mlp", {"vocabulary": 256, "context": 16}, 64, 100, 32, 512, "corpus-1", "code-1", epsilon=1e-8)


def setting(optimizer: str, c: str, alignment: str = "full") -> Setting:
    return Setting(optimizer, "muP", alignment, (LayerScaling("hidden", optimizer, "0", "1/2", c, "1/2", "0"),))


ADAM, SGD = setting("adam", "1"), setting("sgd", "0")
BATCHES = [
    Batch(each.name, width, rates, (0, 1, 2, 3))
    for each in (ADAM, SGD)
    for width in (64, 128)
    for rates in ((0.1, 0.2, 0.3), (0.1 + 0.2, 1e-3))
]


def record(setting: str, width: int, rate: float, seed: int, loss: float | None = None) -> Record:
    """A run as any process would find it again: all but its date follows from its four numbers."""
    drawn = random.Random(f"{setting} {width} {rate!r} {seed}")
    loss = drawn.choice([drawn.gauss(4, 1)] * 4 + [math.nan, math.inf]) if loss is None else loss
    curve = tuple((step, drawn.gauss(5, 1)) for step in (1, 2, 5, 10, 20, 50, 100))
    return Record(setting, width, rate, seed, loss, None if math.isfinite(loss) else 7, curve, drawn.random(), "cpu")


def planned() -> list[Record]:
    return [record(batch.setting, batch.width, *run) for batch in BATCHES for run in batch.runs()]


def drive(path: Path, pause: float = 0) -> None:
    """A driver without training: unfinished batches whole, then the rest of the plan; says what is finished."""

    def train(number: int, batch: Batch) -> None:
        for run in batch.runs():
            made = record(batch.setting, batch.width, *run)
            new = store.finish(number, made)
            print(json.dumps(["finished", new, *as_row(made)[:4]]), flush=True)
            time.sleep(pause)

    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM, SGD], {})
        for number, batch in store.unfinished():
            train(number, batch)
        for batch in BATCHES:
            if batch not in store.batches().values():
                train(store.add_batch(batch), batch)


def child(call: str, path: Path, stdin: int | None = None) -> subprocess.Popen[str]:
    """Another Python process, which makes the call with `path` and what this module has."""
    names = "from tests.verify.sweeps.test_store import *"
    code = f"import sys; from pathlib import Path; {names}; path = Path(sys.argv[1]); {call}"
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def kill(process: subprocess.Popen[str]) -> str:
    """SIGKILL; what the process had written and nobody had read."""
    process.send_signal(signal.SIGKILL)
    return process.communicate()[0]


def stream(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout
    return process.stdout


@cache
def filled_bytes(count: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.sqlite")
        with Store(path, CONDITIONS) as store:
            store.add_settings([ADAM, SGD], {})
            for batch in BATCHES:
                number = store.add_batch(batch)
                for run in batch.runs()[:count]:
                    assert store.finish(number, record(batch.setting, batch.width, *run))
                count = max(0, count - len(batch.runs()))
        return path.read_bytes()


def filled(path: Path, count: int = len(planned())) -> Path:
    """A closed store of the plan's first runs, by default of all."""
    path.write_bytes(filled_bytes(count))
    return path


def rows(path: Path, query: str = "SELECT * FROM runs") -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def texts(records: object) -> list[str]:
    """Records as text, where NaN equals NaN and every bit of a real shows."""
    return [repr(as_row(each)) for each in records]  # type: ignore[attr-defined]


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file, but for locks, which are empty, and the index to a log, in which readers leave marks."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.suffix not in (".lock", ".sqlite-shm")
    }


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = contents(folder)
    yield
    assert contents(folder) == before


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """One line that names all parts."""
    with pytest.raises(StoreError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.sqlite"


def test_a_study_comes_back_as_it_went_in(path: Path):
    filled(path)
    study = read(path)
    assert texts(study.records) == texts(planned())
    assert (study.conditions, study.settings) == (CONDITIONS, {ADAM.name: ADAM, SGD.name: SGD})
    assert study.planned == len(planned()) == 80
    with Store(path, CONDITIONS) as store:
        assert texts(store.study().records) == texts(planned())
        assert list(store.batches().values()) == BATCHES
        assert store.unfinished() == []
    assert len(rows(path)) == 80
    keys = {run_key(CONDITIONS, ADAM if "adam" in each.setting else SGD, *as_row(each)[1:4]) for each in planned()}
    assert {key for key, *_ in rows(path)} == keys


@pytest.mark.parametrize(
    "loss", [0.1 + 0.2, 5e-324, -0.0, 3.0, 2.0**53 + 2, math.pi, math.nan, math.inf, -math.inf, 1.7976931348623157e308]
)
@pytest.mark.parametrize("form", ["store", "csv", "gz"])
def test_every_bit_of_a_real_is_kept(path: Path, loss: float, form: str):
    made = replace(record(ADAM.name, 64, 0.1, 0, loss), curve=((1, loss),), seconds=loss)
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        store.finish(store.add_batch(BATCHES[0]), made)
    study = read(path)
    if form != "store":
        export(study, path.parent / "export", compress=form == "gz")
        study = load_export(path.parent / "export")
    found = study.records[0]
    for real in (found.loss, found.curve[0][1], found.seconds):
        assert math.isnan(real) if math.isnan(loss) else struct.pack("<d", real) == struct.pack("<d", loss)


@pytest.mark.usefixtures("unchecked")
def test_what_numpy_hands_over_is_kept_too(path: Path):
    import numpy as np

    made = record(ADAM.name, 64, 0.1, 1)
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        number = store.add_batch(
            Batch(ADAM.name, np.int64(64), tuple(np.array([0.1])), tuple(np.arange(2)))  # type: ignore[arg-type]
        )
        store.finish(number, replace(made, loss=np.float32(0.1), seed=np.int32(1)))  # type: ignore[arg-type]
    assert read(path).records[0].loss == float(np.float32(0.1)) != 0.1


def test_a_run_that_is_there_is_left_as_it_is(path: Path):
    filled(path)
    before = rows(path)
    with Store(path, CONDITIONS) as store:
        for number, batch in store.batches().items():
            for run in batch.runs():
                assert not store.finish(number, record(batch.setting, batch.width, *run, loss=-1.0))
    assert rows(path) == before


def test_nothing_finished_can_be_deleted_or_changed(path: Path):
    filled(path, 3)
    for statement in ("DELETE FROM runs", "UPDATE runs SET loss = 0"):
        with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.IntegrityError, match="runs stay"):
            connection.execute(statement)
    assert len(rows(path)) == 3


def test_a_batch_is_known_before_its_runs_and_keeps_its_shape(path: Path):
    odd = Batch(ADAM.name, 256, (0.3, 0.1, 0.2), (5, 3))
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        number = store.add_batch(odd)
        store.finish(number, record(ADAM.name, 256, 0.1, 3))
    with Store(path, CONDITIONS) as store:
        assert store.unfinished() == [(number, odd)]
        assert store.add_batch(odd) == number
        other = store.add_batch(replace(odd, rates=(0.1, 0.4)))
        assert store.study().planned == 8  # 3 x 2 and 2 x 2, of which 1 x 2 are in both
        for run in odd.runs():
            store.finish(number, record(ADAM.name, 256, *run))
        assert [each for each, _ in store.unfinished()] == [other]


def test_what_is_not_part_of_a_batch_is_a_mistake_of_the_program(path: Path):
    with Store(path, CONDITIONS) as store:
        with pytest.raises(LookupError):
            store.add_batch(BATCHES[0])
        store.add_settings([ADAM, SGD], {})
        number = store.add_batch(BATCHES[0])
        for wrong in (
            (SGD.name, 64, 0.1, 0),
            (ADAM.name, 65, 0.1, 0),
            (ADAM.name, 64, 0.15, 0),
            (ADAM.name, 64, 0.1, 9),
        ):
            with pytest.raises(LookupError):
                store.finish(number, record(*wrong))
        assert store.study().records == ()


def test_settings_may_come_again_but_not_with_other_exponents(path: Path):
    with Store(path, CONDITIONS) as store:
        for _ in range(2):
            assert store.add_settings([ADAM, SGD], {}) == {ADAM.name: ADAM.name, SGD.name: SGD.name}
        with unchanged(path.parent), refused("adam muP full", "other exponents"):
            store.add_settings([setting("lion", "1"), setting("adam", "1/2")], {})
        assert list(store.study().settings) == [ADAM.name, SGD.name]


def test_equal_settings_are_trained_once_as_the_one_that_was_there_first(path: Path):
    none, prior = setting("adam", "3/4", "none"), setting("adam", "1", "prior")
    with Store(path, CONDITIONS) as store:
        assert store.add_settings([ADAM, none], {ADAM.name: none.name}) == {ADAM.name: none.name, none.name: none.name}
        number = store.add_batch(replace(BATCHES[0], setting=none.name))
        with pytest.raises(LookupError):
            store.add_batch(BATCHES[0])
        store.finish(number, record(none.name, 64, 0.1, 0))
        # A later call would rather train `full`; and `prior` has its exponents without being said to equal it.
        assert store.add_settings([ADAM, none], {none.name: ADAM.name})[none.name] == none.name
        assert store.add_settings([prior], {}) == {prior.name: none.name}
        alias, stands = setting("lion", "1/4"), setting("adam", "1", "global")
        assert set(store.add_settings([alias, stands], {alias.name: stands.name}).values()) == {none.name}
        with pytest.raises(LookupError):
            store.add_settings([SGD], {SGD.name: "absent"})
    study = read(path)
    assert study.trained_as == dict.fromkeys([ADAM.name, prior.name, alias.name, stands.name], none.name)
    for each in (ADAM, none, prior, alias, stands):
        assert study.widths(each.name) == [64]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (replace(CONDITIONS, code="code-2"), ["made by code code-1, this is code-2"]),
        (replace(CONDITIONS, steps=200, corpus="x"), ["steps: 100, not 200", "corpus: corpus-1, not x"]),
        (replace(CONDITIONS, sizes={"vocabulary": 255, "context": 16}), ["'vocabulary': 255"]),
        (replace(CONDITIONS, epsilon=None), ["epsilon: 1e-08, not None"]),
    ],
)
def test_other_conditions_are_refused_by_name(path: Path, other: Conditions, said: list[str]):
    filled(path, 5)
    with unchanged(path.parent), refused(*said, "study.sqlite", "another folder"):
        Store(path, other)


def test_conditions_equal_in_value_have_the_same_runs(path: Path):
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        store.finish(store.add_batch(BATCHES[0]), record(ADAM.name, 64, 0.1, 0))
    with Store(path, replace(CONDITIONS, weight_decay=0)) as store:  # written "0", and "0.0" before
        assert not store.finish(1, record(ADAM.name, 64, 0.1, 0))


def truncated(length: Callable[[int], int]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        filled(path)
        os.truncate(path, length(path.stat().st_size))

    return make


def with_schema(number: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(filled(path))) as connection:
            connection.execute(f"PRAGMA user_version = {number}")

    return make


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE runs (loss REAL)")


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "is a folder"),
    "empty": (Path.touch, "is empty"),
    "text": (lambda path: path.write_text("step,loss\n" * 1000), "not a database"),
    "short text": (lambda path: path.write_text("x"), "no store"),
    "another program's": (of_another_program, "another program"),
    "older": (with_schema(0), "has schema 0"),
    "newer": (with_schema(3), "has schema 3"),
    "short of a page": (truncated(lambda size: size - 4096), "damaged or cut short"),
    "short of a byte": (truncated(lambda size: size - 1), "cut short"),
    "half": (truncated(lambda size: size // 2), "cut short"),
    "headless": (truncated(lambda size: size // 1000), "no store"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_is_no_sound_store_is_refused_and_left_as_it_is(path: Path, case: str):
    make, said = UNUSABLE[case]
    make(path)
    with unchanged(path.parent):
        with refused(said, "study.sqlite"):
            Store(path, CONDITIONS)
        with refused(said, "study.sqlite"):
            read(path)


def test_a_driver_sees_damage_inside(path: Path):
    filled(path)
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    with unchanged(path.parent), refused("damaged"):
        Store(path, CONDITIONS)


def test_a_missing_store_is_not_made_by_reading(path: Path):
    with unchanged(path.parent), refused("no store at", "study.sqlite"):
        read(path)
    with unchanged(path.parent), refused("folder", "does not exist"):
        Store(path.parent / "absent" / "study.sqlite", CONDITIONS)
    assert list(path.parent.iterdir()) == []


def test_a_refused_driver_leaves_no_lock_behind(path: Path):
    filled(path, 1)
    with refused("steps"):
        Store(path, replace(CONDITIONS, steps=1))
    store = Store(path, CONDITIONS)
    store.close()
    store.close()


def test_reading_leaves_no_trace_and_never_writes(path: Path):
    filled(path)
    before = {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    assert set(before) == {"study.sqlite"}
    assert len(read(path).records) == 80
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == before
    link = path.with_name("link.sqlite")
    link.symlink_to(path)
    with Store(path, CONDITIONS), refused("another driver"):
        Store(link, CONDITIONS)


def test_a_driver_that_comes_and_goes_while_a_store_is_read_is_noticed(path: Path):
    filled(path, 2)
    seen = []

    def take(connection: sqlite3.Connection) -> int:
        first = len(connection.execute("SELECT * FROM runs").fetchall())
        if not seen:
            filled_further = BATCHES[1]
            with Store(path, CONDITIONS) as store:
                store.finish(2, record(filled_further.setting, filled_further.width, *filled_further.runs()[0]))
        seen.append(first)
        return first

    assert snapshot(path, take) == 3
    assert seen == [2, 3]


def test_a_reader_stays_at_one_moment(path: Path):
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        number = store.add_batch(BATCHES[0])

        def take(connection: sqlite3.Connection) -> list[int]:
            counts = []
            for run in BATCHES[0].runs()[:3]:
                store.finish(number, record(ADAM.name, 64, *run))
                counts.append(len(connection.execute("SELECT * FROM runs").fetchall()))
            return counts

        assert snapshot(path, take) == [0, 0, 0]
        assert len(read(path).records) == 3


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_written_does_not_hold_up_what_follows(path: Path):
    with Store(path, CONDITIONS) as store:
        store.add_settings([ADAM], {})
        number = store.add_batch(BATCHES[0])
        with refused("NOT NULL"):
            store.finish(number, replace(record(ADAM.name, 64, 0.1, 0), device=None))  # type: ignore[arg-type]
        store.finish(number, record(ADAM.name, 64, 0.1, 1))
        assert [each.seed for each in read(path).records] == [1]


UNPRIVILEGED = """os.geteuid() or (os.setgid(65534), os.setuid(65534))
try: print(len({}.records))
except StoreError as error: print(error)"""


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that all users reach."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def unprivileged(expression: str, path: Path) -> str:
    """What a process prints that has no more than a user's rights; root's reach everything."""
    process = child(f"exec({UNPRIVILEGED.format(expression)!r})", path)
    output, errors = process.communicate()
    if "PermissionError" in errors:
        pytest.skip("the interpreter cannot be used without root's rights")
    assert errors == ""
    return output.strip()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights of files are those of POSIX")
@pytest.mark.parametrize(
    "left", ["log", *(pytest.param(left, marks=pytest.mark.slow) for left in ("closed", "log alone"))]
)
def test_a_read_only_store_can_be_read_and_not_driven(shelf: Path, left: str):
    path = filled(shelf / "study.sqlite", 0)
    if left != "closed":
        process = child("drive(path); sys.stdin.read()", path, stdin=subprocess.PIPE)
        for _ in zip(range(80), stream(process), strict=False):
            pass
        kill(process)
        assert (shelf / "study.sqlite-wal").exists()
    if left == "log alone":
        (shelf / "study.sqlite-shm").unlink()
    for file in shelf.iterdir():
        file.chmod(0o444)
    shelf.chmod(0o555)
    with unchanged(shelf):
        assert unprivileged("read(path)", path) == ("0" if left == "closed" else "80")
        assert "read-only" in unprivileged("Store(path, CONDITIONS).study()", path)
    shelf.chmod(0o777)
    with unchanged(shelf):
        assert "read-only" in unprivileged("Store(path, CONDITIONS).study()", path)


def test_a_full_disk_is_said_and_costs_only_the_run_at_hand(path: Path):
    filled(path, 10)
    with Store(path, CONDITIONS) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        done: list[tuple] = []
        with refused("full", "are kept", "free some space"):
            for number, batch in store.unfinished():
                for run in batch.runs():
                    store.finish(number, record(batch.setting, batch.width, *run))
                    done.append((batch.setting, batch.width, *run))
        there = read(path).records
        assert {as_row(each)[:4] for each in there} >= set(done)
        assert len(there) < 80
        store._connection.execute("PRAGMA max_page_count = 100000")
        for number, batch in store.unfinished():
            for run in batch.runs():
                store.finish(number, record(batch.setting, batch.width, *run))
    assert sorted(texts(read(path).records)) == sorted(texts(planned()))


LIMITED = """import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))
try: drive(path)
except StoreError as error: print(json.dumps(["error", str(error)]))"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes are those of POSIX")
@pytest.mark.parametrize("limit", [2_000, 40_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_disk_that_fails_while_writing_keeps_what_was_reported(path: Path, limit: int):
    process = child(f"exec({LIMITED.format(limit)!r})", path)
    output, errors = process.communicate()
    assert errors == ""
    *reported, (kind, message) = map(json.loads, output.splitlines())
    assert kind == "error"
    assert "disk" in message
    assert "are kept" in message
    assert path.exists() == (limit > 10_000)
    if path.exists():
        assert {as_row(each)[:4] for each in read(path).records} == {tuple(run) for _, _, *run in reported}
    assert not list(path.parent.glob(".*"))
    drive(path)
    assert sorted(texts(read(path).records)) == sorted(texts(planned()))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_kill_9_loses_nothing_that_was_finished_and_doubles_nothing(path: Path, seed: int):
    drawn = random.Random(seed)
    reported: list[list] = []
    for lines_before in [0, *(drawn.randrange(1, 24) for _ in range(2)), None]:
        process = child("drive(path, 0.001)", path)
        if lines_before is None:
            output, errors = process.communicate()
            assert (errors, process.returncode) == ("", 0)
        else:
            output = "".join(stream(process).readline() for _ in range(lines_before))
            time.sleep(drawn.random() * (0.003 if lines_before else 0.3))
            output += kill(process)
            assert process.returncode == -signal.SIGKILL
        complete = output[: output.rfind("\n") + 1]
        reported += map(json.loads, complete.splitlines())
        if path.exists():
            found = {as_row(each)[:4] for each in read(path).records}
            assert {tuple(run) for _, _, *run in reported} <= found
    assert sorted(texts(read(path).records)) == sorted(texts(planned()))
    assert rows(path, "SELECT count(*), count(DISTINCT key) FROM runs") == [(80, 80)]
    assert rows(path, "SELECT count(*) FROM (SELECT DISTINCT setting, width, base_rate, seed FROM runs)") == [(80,)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    added = [tuple(run) for _, new, *run in reported if new]
    assert len(added) == len(set(added)) > 70  # fewer by those that were killed before they could be reported
    assert len(reported) > len(added)  # batches were taken up again whole
    with Store(path, CONDITIONS) as store:
        assert list(store.batches().values()) == BATCHES


def test_a_store_that_is_killed_while_it_is_made_does_not_stand_in_the_way(path: Path):
    process = child("Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL); Store(path, CONDITIONS)", path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not path.exists()
    drive(path)
    assert texts(read(path).records) == texts(planned())


def test_a_reader_sees_a_growing_and_consistent_study(path: Path):
    process = child("drive(path, 0.005)", path)
    stream(process).readline()
    expected = texts(planned())
    sizes = []
    while process.poll() is None:
        study = read(path)
        assert texts(study.records) == expected[: len(study.records)]
        assert study.planned >= len(study.records) > 0
        sizes.append(len(study.records))
    assert process.communicate()[1] == ""
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 10
    assert len(read(path).records) == 80


def test_a_second_driver_is_refused_until_the_first_is_dead(path: Path):
    process = child(
        "store = Store(path, CONDITIONS); print('open', flush=True); sys.stdin.read()", path, subprocess.PIPE
    )
    assert stream(process).readline() == "open\n"
    for other in (CONDITIONS, replace(CONDITIONS, steps=1)):
        begun = time.monotonic()
        with refused("another driver is at work", "study.sqlite"):
            Store(path, other)
        assert time.monotonic() - begun < 1
    assert read(path).planned == 0
    kill(process)
    with Store(path, CONDITIONS) as store:
        assert store.add_settings([ADAM], {})
        with refused("another driver"):
            Store(path, CONDITIONS)
