"""Wrong theories are rejected by the step that is wrong, in networks trained with them; right ones are not."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sympy import Expr, Rational

import derive.solve
from benchmarks.plants import training, verdicts
from benchmarks.plants.__main__ import STORED
from benchmarks.plants.report import report, row
from benchmarks.plants.sizes import LAYERS, QUANTITIES, STEPS, WIDTHS, Sizes, decode, encode
from benchmarks.plants.theories import DEFAULT_SEEDS, OPTIMIZERS, SCHEMES, plants, right, trained_as
from benchmarks.plants.training import Piece, measured, missing, train
from derive.certify import Refused
from derive.running import run
from tests.helpers.paths import ROOT
from verify.commands.main import app
from verify.fit.forward import Table
from verify.fit.four_steps import rejected_by

PAGE = (ROOT / "docs" / "plants.md").read_text(encoding="utf-8")
SHOWN = PAGE.split("<!-- plants -->\n")[1].split("<!-- end of plants -->")[0]


@pytest.fixture(scope="module")
def stored() -> dict[str, Sizes]:
    return {optimizer: Sizes(STORED, optimizer) for optimizer in OPTIMIZERS}


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
def test_every_plant_is_rejected_by_its_step_as_the_page_shows(optimizer: str, stored: dict[str, Sizes]) -> None:
    listed = plants(optimizer)
    assert len({plant.name for plant in listed}) == len(listed) >= 24
    for plant in listed:
        verdict = verdicts.said_of(optimizer, plant, stored[optimizer], by_default=False)
        assert not verdict.missed, verdict
        assert row(verdict).rpartition(" - |")[0] in SHOWN
    assert not verdicts.of_certificate(optimizer).missed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_right_theories_are_not_rejected(optimizer: str, scheme: str, stored: dict[str, Sizes]) -> None:
    """Every sixth group of three seeds; the slow test takes all of them."""
    found = verdicts.alarms(optimizer, scheme, stored[optimizer], every=6)
    assert found.groups >= 7
    assert not found.rejected


def test_a_right_theory_taken_for_a_plant_is_missed(stored: dict[str, Sizes]) -> None:
    """So is one that is rejected, but not by what is wrong with it."""
    plant = next(each for each in plants("adam") if each.name == "c hidden +1/2")
    assert verdicts.said_of("adam", replace(plant, theory=right("adam")), stored["adam"]).missed
    elsewhere = verdicts.said_of("adam", replace(plant, step="2 propagation"), stored["adam"])
    assert elsewhere.named and elsewhere.missed


def test_what_a_plant_changes_is_what_was_trained(stored: dict[str, Sizes]) -> None:
    """Plants of c, a and b have networks of their own, those of claims alone the right ones."""
    for optimizer in OPTIMIZERS:
        own = {plant.name: trained_as(plant.theory) != trained_as(right(optimizer)) for plant in plants(optimizer)}
        for name, is_own in own.items():
            kind = name.split()[0]
            if kind in ("a", "b", "c", "r", "s", "g", "alpha"):
                assert is_own == (kind in ("a", "b", "c")), name
        for plant in plants(optimizer):
            assert stored[optimizer].seeds(trained_as(plant.theory)) >= plant.seeds


def made_up(seeds: int) -> dict[int, Table]:
    generator = np.random.default_rng(0)
    shape = (len(WIDTHS), seeds)
    return {
        step: {
            layer: {
                name: 10 ** generator.uniform(-9, 3, shape) * (name != "delta_input" or layer != "hidden.0")
                for name in QUANTITIES
                if layer != "embedding" or "input" not in name
            }
            for layer in LAYERS
        }
        for step in STEPS
    }


def test_sizes_are_kept_to_a_thousandth() -> None:
    tables = made_up(2)
    tables[10]["readout"]["gradient"][0, 1] = np.nan  # type: ignore[index]
    read = decode(encode(tables))
    assert "input" not in read[1]["embedding"]
    for step, layer in ((step, layer) for step in STEPS for layer in LAYERS):
        assert read[step][layer].keys() == tables[step][layer].keys()
        for name, sizes in tables[step][layer].items():
            np.testing.assert_allclose(read[step][layer][name], sizes, rtol=1e-3)
    tables[1]["readout"]["weight"][0, 0] = 1e-30  # type: ignore[index]
    with pytest.raises(ValueError, match="below 2\\^-64"):
        encode(tables)


def test_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[range] = []

    def measure(piece: Piece) -> dict[int, Table]:
        trained.append(piece.seeds)
        return made_up(len(piece.seeds))

    monkeypatch.setattr(training, "measured", measure)
    theory = right("adam")
    # Two plants that train alike are trained once.
    wanted = [("adam", theory, 3), ("adam", theory, 3), ("sgd", right("sgd"), 2), ("adam", theory, 8)]
    assert not train(missing(wanted, tmp_path, 3), tmp_path, -1)
    assert train(missing(wanted[:1], tmp_path, 3), tmp_path, 1)
    assert train(missing(wanted, tmp_path, 3), tmp_path, 1)
    assert trained == [range(3), range(2), range(3, 6), range(6, 8)]
    assert not missing(wanted, tmp_path, 3)
    assert Sizes(tmp_path, "adam").seeds(trained_as(theory)) == 8


@pytest.mark.slow
def test_small_networks_trained_with_a_plant_reject_it() -> None:
    """Widths 32 and 128 after one step: rejected by the result alone, and in hidden layers alone."""
    plant = next(each for each in plants("adam") if each.name == "c hidden -1/2")
    widths = (32, 128)
    tables = measured(Piece("adam", plant.theory, range(DEFAULT_SEEDS), widths, 1))
    rejected = rejected_by(verdicts.rows_of(plant.theory, tables, widths))
    assert list(rejected) == ["4 result"]
    assert {each.layer for each in rejected["4 result"]} == {"hidden.0", "hidden.1"}


def test_the_interval_of_a_rate_is_clopper_and_pearsons() -> None:
    """No event among n: the upper end solves (1 - p)^n = 0.025."""
    assert verdicts.interval(0, 100) == pytest.approx((0, 1 - 0.025**0.01))
    assert verdicts.interval(100, 100) == pytest.approx((0.025**0.01, 1))
    assert verdicts.interval(1, 100) == pytest.approx((0.000253, 0.05446), rel=1e-3)


def mistaken(monkeypatch: pytest.MonkeyPatch, by: Expr) -> None:
    """The solver gives hidden layers another c, and claims the r of the right one."""
    solved = derive.solve.largest_rates

    def wrong(*chain: Any, **options: Any) -> tuple[list[Any], list[Any]]:
        c, r = solved(*chain, **options)
        return [*c[:1], *(each + by for each in c[1:-1]), *c[-1:]], r

    monkeypatch.setattr(derive.solve, "largest_rates", wrong)


def unproved(monkeypatch: pytest.MonkeyPatch, by: Expr) -> None:
    """The certificate is that of the right rates."""
    proof = derive.solve.certificate

    def of_right(problem: Any, chain: Any, c: list[Any], *rest: Any) -> Any:
        return proof(problem, chain, [*c[:1], *(each - by for each in c[1:-1]), *c[-1:]], *rest)

    monkeypatch.setattr(derive.solve, "certificate", of_right)


MISTAKES = [Rational(1, 2), Rational(-1, 2)]


@pytest.mark.parametrize("by", MISTAKES)
def test_a_mistaken_solver_has_no_certificate(by: Expr, monkeypatch: pytest.MonkeyPatch) -> None:
    mistaken(monkeypatch, by)
    with pytest.raises(Refused):
        right("adam")


@pytest.mark.slow
@pytest.mark.parametrize("by", MISTAKES)
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_command_rejects_what_a_mistaken_solver_trains(
    by: Expr, steps: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At all defaults, with a certificate that was not looked at."""
    mistaken(monkeypatch, by)
    unproved(monkeypatch, by)
    arguments = ["exponents", "--steps", str(steps)]
    assert run(lambda: app(arguments, standalone_mode=False), "verify") == 0
    assert "rejected by step 4 result: after 1 step hidden.0 delta_z" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_shows_every_verdict(stored: Mapping[str, Sizes]) -> None:
    right_ones = verdicts.of_right(stored)
    assert report(verdicts.of_plants(stored), right_ones) == SHOWN
    by_default = [each for each in right_ones if each.seeds == DEFAULT_SEEDS]
    assert sum(len(each.rejected) for each in by_default) <= 0.01 * sum(each.groups for each in by_default)
    assert sum(each.groups for each in by_default) >= 200


@pytest.mark.slow
def test_what_is_stored_is_what_training_gives(stored: Mapping[str, Sizes]) -> None:
    """The first network of two plants, trained again; sums differ in order between machines."""
    for optimizer, name in (("adam", "c hidden -1/2"), ("sgd", "a readout +1/2")):
        plant = next(each for each in plants(optimizer) if each.name == name)
        again = measured(Piece(optimizer, plant.theory, range(1)))
        kept = stored[optimizer].tables(trained_as(plant.theory), slice(1))
        for step, layer in ((step, layer) for step in STEPS for layer in LAYERS):
            for quantity, sizes in again[step][layer].items():
                np.testing.assert_allclose(kept[step][layer][quantity], sizes, rtol=0.01, err_msg=quantity)
