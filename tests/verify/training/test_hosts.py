"""Several processes as one mesh: the same numbers, and what happens when one of them dies."""

import csv
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from derive.errors import DeriveError
from verify.training.hosts import Hosts, read_hosts

TRAINED = ["exponents", "--widths", "16,32", "--seeds", "1", "--steps", "30", "--batch", "8", "--context", "4"]
SAME = 1e-5


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(process: int, port: int, *options: str) -> subprocess.Popen[str]:
    """One of two processes with two devices each, in a group of its own."""
    hosts = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process", str(process)]
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "verify", *TRAINED, "--mesh", "2x2", *hosts, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def both(*options: str) -> tuple[str, str]:
    """What the first process printed when both went to their end, and what it said."""
    port = free_port()
    with start(0, port, *options) as first, start(1, port, *options) as second:
        (out, said), (silent, complaint) = (each.communicate(timeout=300) for each in (first, second))
    assert (first.returncode, second.returncode) == (0, 0), said + complaint
    assert silent == complaint == ""
    return out, said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sizes of a run of two processes that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    out, said = both("--out", str(folder))
    assert "Gloo" not in out
    assert all(line.startswith(("verify exponents", "training and measuring")) for line in said.splitlines()), said
    return folder / "sizes.csv"


def rows(path: Path) -> Iterator[tuple[list[str], float]]:
    with path.open(encoding="utf-8") as file:
        for *name, value in list(csv.reader(file))[1:]:
            yield name, float(value)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(whole: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verify", *TRAINED, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    alone = list(rows(tmp_path / "sizes.csv"))
    assert len(alone) > 100
    for (name, value), (other, expected) in zip(rows(whole), alone, strict=True):
        assert name == other
        assert value == pytest.approx(expected, rel=SAME), name


@pytest.mark.slow
@pytest.mark.parametrize("which", [1, 0], ids=["a process", "the process that others join"])
def test_one_that_dies_ends_the_other_with_a_line_and_both_go_on(which: int, whole: Path, tmp_path: Path) -> None:
    kept = ("--checkpoint", str(tmp_path / "kept"), "--checkpoint-every", "2")
    port = free_port()
    with start(0, port, *kept) as first, start(1, port, *kept) as second:
        killed, left = (second, first) if which == 1 else (first, second)
        for line in first.stderr or ():
            if line.startswith("width 32: step 4 "):
                break
        killed.kill()
        code = left.wait(120)
        last = list(left.stderr or [])[-1]
    assert code == 2
    assert re.fullmatch(
        rf"verify: process {1 - which} of 2 (lost another process, or failed itself|was ended with another process)"
        r".*; start all of them again, and they go on from --checkpoint '.*\n",
        last,
    )
    _, went_on = both(*kept, "--out", str(tmp_path / "out"))
    assert went_on.startswith("width 16: goes on after step 30\nwidth 32: goes on after step ")
    assert (tmp_path / "out" / "sizes.csv").read_bytes() == whole.read_bytes()


def test_processes_are_named_by_three_options_or_by_the_cluster() -> None:
    assert read_hosts(None, None, None) is None
    assert read_hosts("10.0.0.1:1234", 2, 1) == Hosts("10.0.0.1:1234", 2, 1)
    assert read_hosts("[::1]:1234", 1, 0) == Hosts("[::1]:1234", 1, 0)
    assert read_hosts("auto", None, None) == Hosts("auto", None, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("10.0.0.1:1234", None, None), "several processes need --coordinator HOST:PORT --processes N --process I"),
        ((None, 2, 0), "several processes need --coordinator HOST:PORT --processes N --process I"),
        (("auto", 2, 0), "'auto' is not an address"),
        (("10.0.0.1", 2, 0), "'10.0.0.1' is not an address; write host and port of process 0"),
        ((":80", 2, 0), "is not an address"),
        (("a:0", 2, 0), "is not an address"),
        (("a:65536", 2, 0), "is not an address"),
        (("a:80x", 2, 0), "is not an address"),
        (("a:80", 2, 2), "--process 2 of --processes 2: they count from 0 to 1"),
        (("a:80", 2, -1), "--process -1 of --processes 2: they count from 0 to 1"),
        (("a:80", 0, 0), "--processes 0 is not allowed"),
    ],
)
def test_what_names_no_processes_is_said(given: tuple[str | None, int | None, int | None], said: str) -> None:
    with pytest.raises(DeriveError, match=re.escape(said)):
        read_hosts(*given)
