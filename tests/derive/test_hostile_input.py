"""Numbers without end, streams of any encoding, and questions too long to answer: a line, or the answer; in seconds."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from derive.cli import app
from derive.running import run

BINARY = Path(sys.executable).parent / "derive"
Capture = pytest.CaptureFixture[str]
HUGE = "((99**16)**16)**16"


def said(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = run(lambda: app(list(arguments), standalone_mode=False), "derive")
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gauge", HUGE],
        ["--alignment", f"alpha=1/({HUGE})"],
        ["check", "--c", f"0,{HUGE},1"],
        ["--update", f"g*{HUGE}*({HUGE}+fan_in)"],
        ["--update", "g**16**16"],
        ["epsilon", "--value", "1e-308", "--base-width", "256", "--gradient-rms", "10"],
        ["--layers", "61", "--optimizer", "adam-ps", "--alignment", "omega=y"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_numbers_and_answers_without_end_are_one_line(arguments: list[str], capsys: Capture) -> None:
    start = time.process_time()
    code, out, err = said(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and len(err) < 600
    assert time.process_time() - start < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--layers", "10000", "--format", "json"],
        ["table", "--layers", "1000"],
        ["--update", f"max({','.join(f'g*{n}' for n in range(1, 120))})"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40],
)
def test_long_questions_are_answered_or_refused_in_seconds(arguments: list[str], capsys: Capture) -> None:
    start = time.process_time()
    code, out, err = said(capsys, *arguments)
    assert (code == 0 and out) or (code == 2 and err.count("\n") == 1)
    assert time.process_time() - start < 30  # 10 on a machine that nothing else is using


@pytest.mark.parametrize("exponent", ["1e-5000", "1e-1000000000", "1e1000000000"])
def test_measured_exponents_out_of_reach_are_one_line(exponent: str, tmp_path: Path, capsys: Capture) -> None:
    rows = [
        {"layer": layer, "step": 1, "quantity": name, "measured": 0.98, "low": 0.95, "high": 1.0}
        for layer in ("hidden.0", "readout")
        for name in ("alpha", "omega", "u")
    ]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps({"schema": 1, "rows": rows}).replace("0.98", exponent))
    code, out, err = said(capsys, "--alignment", f"measured:{path}")
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_epsilon_added_to_a_norm_of_no_perfect_square_has_a_width(capsys: Capture) -> None:
    """sigma = RMS sqrt(fan_in fan_out) = 1e-5 sqrt(256 x 1000) on the embedding."""
    options = ("--base-width", "256", "--gradient-rms", "1e-5", "--fixed-fan", "1000", "--format", "json")
    code, out, _ = said(capsys, "epsilon", "--optimizer", "muon", "--value", "1e-8", *options)
    assert code == 0
    assert json.loads(out)["rows"][0]["size_at_base"] == pytest.approx(1e-5 * (256 * 1000) ** 0.5)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_answer_is_readable_in_any_encoding(encoding: str) -> None:
    """cp1252 is what Windows gives a redirected output."""
    found = subprocess.run([BINARY], capture_output=True, env={"PYTHONIOENCODING": encoding}, check=False)
    assert (found.returncode, found.stderr) == (0, b"")
    assert "multiplier a" in found.stdout.decode(encoding) and b"\\u" not in found.stdout


def test_a_closed_output_is_one_line() -> None:
    found = subprocess.run(f"'{BINARY}' >&-", shell=True, capture_output=True, text=True, check=False)  # noqa: S602
    assert found.returncode == 2 and found.stderr.count("\n") == 1
