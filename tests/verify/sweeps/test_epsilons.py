"""Several epsilons in one transfer study: what each setting trains, which train alike, how they are asked for."""

from itertools import product
from pathlib import Path

import pytest

from derive.errors import UserError
from derive.running import run
from derive.words import KINDS
from tests.verify.sweeps.test_axis_runs import BLOCKS as CONDITIONS
from verify.commands.main import app
from verify.commands.studies.transfer.rates import read_epsilons
from verify.studies.transfer.horizons import family
from verify.sweeps.records import Study
from verify.sweeps.settings.along import along_depth, at_widths
from verify.sweeps.settings.named import at_epsilons, at_horizons, prescribed, representatives
from verify.sweeps.storage.store import read

SMALL = [
    *("--widths", "16,32", "--rates", "1", "--halvings", "0", "--seeds", "1", "--steps", "3", "--batch", "8"),
    *("--context", "4", "--depth", "1", "--evaluation", "32", "--processes", "1", "--parameterization", "sp"),
]


def test_every_value_comes_with_every_rule_and_an_optimizer_without_epsilon_once() -> None:
    settings = [prescribed(name, "sp", "full") for name in ("adam", "adam-atan2")]
    names = [each.setting.name for each in at_epsilons(settings, [1e-3, 1e-8], ["scaled", "constant"])]
    rules = product(("per layer", "constant"), ("0.001", "1e-08"))
    assert names == [*(f"adam SP full, epsilon {value} {rule}" for rule, value in rules), "adam-atan2 SP full"]


def test_a_constant_epsilon_keeps_rates_and_loses_the_twins_that_gauges_have() -> None:
    usual = [prescribed("adam", scheme, "full") for scheme in ("sp", "ntk")]
    assert representatives(at_epsilons(usual, [1e-3], ["scaled"]), decays=False, clips=False)
    constant = at_epsilons(usual, [1e-3], ["constant"])
    assert not representatives(constant, decays=False, clips=False)
    for before, after in zip(usual, constant, strict=True):
        assert [row.c for row in before.setting.layers] == [row.c for row in after.setting.layers]
        assert {row.epsilon for row in after.setting.layers} == {"0"} != {row.epsilon for row in before.setting.layers}


def test_a_constant_epsilon_stays_along_both_axes_of_a_grid() -> None:
    wide = at_widths([along_depth("adam", "1", "full")], [16, 32], 16, "mup")
    for each in at_epsilons(wide, [1e-3], ["constant"]):
        across = each.setting.across
        assert across is not None and {across.factor(kind, "epsilon") for kind in KINDS} == {1.0}
    across = wide[-1].setting.across
    assert across is not None and across.factor("hidden", "epsilon") != 1.0, "muP scales it with the width"


def test_horizons_of_one_epsilon_are_a_family_and_others_are_not() -> None:
    settings = at_horizons(
        at_epsilons([prescribed("adam", "sp", "full")], [1e-3, 1e-8], ["scaled", "constant"]), [3, 9]
    )
    study = Study(CONDITIONS, {each.setting.name: each.setting for each in settings}, {}, ())
    for each in settings:
        assert {study.settings[name].steps for name in family(study, each.setting)} == {3, 9}
        assert len(family(study, each.setting)) == 2


def test_rules_differ_above_the_base_width_alone(tmp_path: Path) -> None:
    asked = ["--alignment", "full", "--epsilon", "1e-2", "--epsilon-rule", "scaled,constant"]
    assert run(lambda: app(["transfer", *SMALL, *asked, "--out", str(tmp_path)], standalone_mode=False), "verify") == 0
    study = read(tmp_path / "study.sqlite")
    losses = {(study.settings[each.setting].epsilon_rule, each.width): each.loss for each in study.records}
    assert losses["per layer", 16] == losses["constant", 16]
    assert abs(losses["per layer", 32] - losses["constant", 32]) > 1e-3


def test_one_value_by_the_usual_rule_is_a_condition_of_the_study_as_it_was() -> None:
    one = read_epsilons("1e-6", None)
    settings = [prescribed("adam", "sp", "full")]
    assert one.shared == 1e-6 and one.of(settings) is settings
    assert read_epsilons(None, None).of(settings) is settings
    (constant,) = read_epsilons(None, ["constant"]).of(settings)
    assert constant.setting.name == "adam SP full, epsilon constant"


@pytest.mark.parametrize(
    ("text", "rules", "message"),
    [
        ("0", None, "numbers above 0"),
        ("1e-3,nan", None, "numbers above 0"),
        ("1e-3,x", None, "write 1e-3,1e-5"),
        ("1e-3", ["layer"], "allowed: scaled, constant"),
    ],
)
def test_what_is_no_epsilon_is_said(text: str, rules: list[str] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_epsilons(text, rules)
