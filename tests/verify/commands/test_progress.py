"""What a command says while it works: which step, how much, for how long; and nothing of it in its answer."""

import io
import logging
import time

import pytest

from verify.commands import progress
from verify.commands.main import app
from verify.commands.options import write_error, write_out
from verify.commands.progress import Progress, duration

Capture = pytest.CaptureFixture[str]


def lines_within(seconds: float, capsys: Capture) -> list[str]:
    time.sleep(seconds)
    return capsys.readouterr().err.splitlines()


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)


def test_compiling_is_said_until_something_is_done_and_then_how_much(often: None, capsys: Capture) -> None:
    with Progress("training", 8) as bar:
        compiling = lines_within(0.3, capsys)
        bar.advance(2)
        assert bar.line().startswith("training, 2 of 8, ") and bar.line().endswith(" left")
        training = lines_within(0.3, capsys)
    assert compiling and all(line.startswith("training: compiling, ") for line in compiling)
    assert training[-1].startswith("training, 2 of 8, ")
    assert lines_within(0.2, capsys) == []


def test_the_innermost_speaks_and_the_outer_goes_on(often: None, capsys: Capture) -> None:
    with Progress("verify transfer") as outer:
        outer.at("loading")
        with Progress("training", 4):
            inner = lines_within(0.3, capsys)
        after = lines_within(0.3, capsys)
    assert inner and all(line.startswith("training") for line in inner)
    assert after[-1].startswith("verify transfer, ")
    assert Progress.shown == []


def test_what_is_logged_is_the_step_and_only_meanwhile() -> None:
    with Progress("verify prescribe") as bar:
        logging.getLogger("verify.model").info("tracing the model at width %s", 64)
        assert bar.line().startswith("verify prescribe: tracing the model at width 64, ")
    assert not logging.getLogger("verify").isEnabledFor(logging.INFO)


def test_answers_stay_on_standard_output_where_only_errors_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("training", 4) as bar:
        assert bar.watched
        bar.advance()
        write_out("the answer\n")
        write_error("note: of something")
        bar.advance()
    assert out.getvalue() == "the answer\n"
    assert "note: of something\n" in err.getvalue() and "training" in err.getvalue()


def test_prescribing_says_what_it_does(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    steps: list[str] = []
    monkeypatch.setattr(Progress, "at", lambda _, step: steps.append(step))
    app(
        ["prescribe", "examples.equinox_mlp:make", "--base-width", "8", "--width", "16"],
        standalone_mode=False,
    )
    assert steps[:3] == ["loading", "tracing the model at width 8", "tracing the model at width 16"]
    assert any(step.startswith("solving for ") for step in steps)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
