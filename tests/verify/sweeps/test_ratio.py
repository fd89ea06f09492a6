"""Steps in proportion to parameters: a wider network is trained as if its steps had been asked for alone."""

from pathlib import Path

import pytest

from derive.running import run
from tests.verify.sweeps.test_epsilons import SMALL
from verify.commands.main import app
from verify.sweeps.storage.store import read


def trained(folder: Path, *asked: str) -> dict[int, tuple[float, int]]:
    """By width, the loss and the last step of the curve."""
    command = ["transfer", *SMALL, "--alignment", "full", *asked, "--out", str(folder)]
    assert run(lambda: app(command, standalone_mode=False), "verify") == 0
    records = read(folder / "study.sqlite").records
    return {each.width: (each.loss, each.curve[-1][0]) for each in records if each.base_rate == records[0].base_rate}


def test_steps_grow_as_parameters_of_hidden_layers_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grown = trained(tmp_path / "ratio", "--steps", "2", "--hold", "ratio")
    assert "tokens grow as parameters of hidden layers: steps are those at width 16" in capsys.readouterr().out
    alone = {steps: trained(tmp_path / str(steps), "--steps", str(steps)) for steps in (2, 8)}
    assert (grown[16], grown[32]) == (alone[2][16], alone[8][32])
    assert grown[32][1] == 8 != alone[2][32][1]


def test_what_goes_on_with_a_study_of_equal_steps_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path, "--steps", "2")
    command = ["transfer", *SMALL, "--alignment", "full", "--steps", "2", "--hold", "ratio", "--out", str(tmp_path)]
    assert run(lambda: app(command, standalone_mode=False), "verify") == 2
    assert "held" in capsys.readouterr().err
    wrong = [*command[:-4], "--hold", "tokens", "--out", str(tmp_path)]
    assert run(lambda: app(wrong, standalone_mode=False), "verify") == 2
    assert "allowed: steps, ratio" in capsys.readouterr().err
