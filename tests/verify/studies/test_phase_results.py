"""What a made-up plane of rate exponents shows: alignments, regions, agreement, and what is stored of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sympy import Rational

from derive.alignments import Ratios
from derive.solve import prescribe, residuals_at
from verify.fit.forward import Slope
from verify.provenance import Made
from verify.studies.phase.kept import PHASE
from verify.studies.phase.plane import Conditions, Network
from verify.studies.phase.result import (
    TOLERANCE,
    PhaseResult,
    Row,
    agreements,
    alignment_measured,
    as_json,
    finite_width,
    region,
)
from verify.studies.study import Part, StudyError

MADE = Made("code", "cpu", "2025-01-01", "0.10")


def test_terms_of_like_size_add_up_as_squares() -> None:
    """SP with one hidden layer, full alignment, c = (0, 1/2, 3/2), by hand; all terms start at 1 but u's, at 2."""
    problem = prescribe("adam", "sp", hidden_layers=1).problem
    n = np.array([1.0, 2.0, 4.0])
    terms = {"term_alpha": np.ones((3, 1)), "term_omega": np.ones((3, 1)), "term_u": 2 * np.ones((3, 1))}
    c = [Rational(0), Rational(1, 2), Rational(3, 2)]
    found = finite_width(problem, c, [16, 32, 64], {"embedding": terms, "hidden.0": terms, "readout": terms})
    # The embedding changes by n^0; hidden: n^(1 - 1/2) from dW z and dW dz, n^0 from W dz.
    hidden = np.sqrt((n + 1 + 4 * n) / 6)
    logits = np.sqrt((n**-1 + hidden**2 + 4 * hidden**2 * n**-1) / 6)
    expected = [-np.polyfit(np.log(n), np.log(size), 1)[0] for size in (np.ones(3), hidden, logits)]
    assert found == pytest.approx(expected, abs=1e-9)


def test_each_term_has_its_own_exponent() -> None:
    """muP with alpha = 3/4, omega = 5/8, u = 1/2 and one term alone: 1 - 3/4, 1 - 5/8 and 1 - 1/2 of the logits.

    The embedding's change is n^(1/2 - c), so that at c = 3/4 the last two have n^-1/4 more on the hidden layer.
    """
    alignment = "alpha=3/4,omega=5/8,u=1/2"
    problem = prescribe("adam", "mup", alignment, hidden_layers=1).problem
    c = [Rational(3, 4), Rational(1), Rational(1, 2)]
    widths = [16, 32, 64]
    for name, hidden, readout in (
        ("alpha", 1 - 0.75, 1 - 0.75),
        ("omega", 0.5 - 0.625 + 0.25, 1 - 0.625 + 0.5 - 0.625 + 0.25),
        ("u", 1 - 0.5 + 0.25, 1 - 0.5 + 1 - 0.5 + 0.25),
    ):
        terms = {f"term_{each}": np.full((3, 2), float(each == name)) for each in ("alpha", "omega", "u")}
        table = {"embedding": terms, "hidden.0": terms, "readout": terms}
        assert finite_width(problem, c, widths, table) == pytest.approx([0.25, hidden, readout]), name


def test_predictions_stand_beside_their_layer_and_point() -> None:
    """SP by hand at c = (0, 3/4, 5/4): r = min(c - 1, ...) of the hidden layer -1/4, of the readout -1/4 by W Dz too.

    Measured: alpha = 3/4 (prescribed), omega = u = 1/2 - 1/2 = 0 on sizes that do not grow.
    """
    study = PhaseResult.of(*made_up((("1", "1"), ("3/4", "5/4")), (0.75, 0.75)))
    rows = {(row.layer, row.point): row for row in study.rows if row.step == 2}
    hidden, readout = rows["hidden.0", ("3/4", "5/4")], rows["readout", ("3/4", "5/4")]
    assert (hidden.full, readout.full) == (Rational(-1, 4), Rational(-1, 4))
    alignment = alignment_measured(study.alignments[2])
    assert alignment is not None
    problem = replace(study.conditions.prescription().problem, alignment=alignment)
    expected = residuals_at(problem, [Rational(0), Rational(3, 4), Rational(5, 4)])
    assert (hidden.measured_alignment, readout.measured_alignment) == (expected[1], expected[2]) != (None, None)
    assert expected[1] != expected[2]
    document = as_json(study)
    said = {(row["layer"], row["c_hidden"], row["step"]): row for row in document["rows"]}
    assert said["readout", "3/4", 2]["predicted"] == "-1/4"
    assert said["readout", "3/4", 2]["predicted_measured"] == str(expected[2])
    assert said["hidden.0", "3/4", 1]["predicted_finite"] == pytest.approx(hidden.finite, rel=1e-5)
    assert said["hidden.0", "1", 2]["measured"] == pytest.approx(0.0) and said["hidden.0", "1", 2]["low"] is not None
    ratios = {(row["step"], row["layer"], row["quantity"]): row for row in document["alignments"]}
    assert ratios[2, "readout", "alpha"]["measured"] == pytest.approx(0.75)
    assert len(document["rows"]) == 8 and len(document["agreement"]) == 2 * 2 * 3 and "points" not in document
    # Where alignments were not measured their predictions are missing, and null.
    made, trained = made_up((("1", "1"),), (0.75,))
    for each in trained:
        each.found.sizes[2]["readout"]["term_u"][:] = np.nan
    lost = PhaseResult.of(made, trained)
    assert {row.measured_alignment for row in lost.rows} == {row.finite for row in lost.rows} == {None}
    assert {row["predicted_measured"] for row in as_json(lost)["rows"]} == {None}


def test_regions_are_by_the_sign_of_r_beyond_the_tolerance() -> None:
    assert [region(r) for r in (-0.5, 0.0, 0.5, float("nan"))] == ["unstable", "stable", "frozen", None]
    beyond, within = TOLERANCE + 0.01, TOLERANCE - 0.01
    assert [region(r) for r in (-beyond, -within, within, beyond)] == ["unstable", "stable", "stable", "frozen"]


def made_up(points: tuple[Any, ...], alphas: tuple[float, ...]) -> tuple[Conditions, list[Part[Network]]]:
    """Widths 16, 32, 64 whose term_alpha grows as n^alpha, update falls as n^-1/2 and logits as n^-1/4."""
    shared: dict[str, Any] = {"optimizer": "adam", "parameterization": "SP", "c_embedding": "0", "seeds": 2, "steps": 2}
    shared |= {"base_width": 16, "base_rate": 0.004, "batch": 8, "context": 2, "hidden_layers": 1, "corpus": "text"}
    made = Conditions(points=points, **shared)
    ones = np.ones((len(points), made.seeds))

    def network(width: int) -> Network:
        n = width / 16
        sizes = dict.fromkeys(["weight", "input", "delta_input", "term_omega", "term_u"], ones)
        sizes |= {"delta_w": n**-0.5 * ones, "delta_output": n**-0.25 * ones}
        sizes["term_alpha"] = n ** (np.array(alphas)[:, None] - 0.5) * ones
        table: dict[str, Any] = dict.fromkeys(("embedding", "hidden.0", "readout"), sizes)
        return Network(width, dict.fromkeys(made.marks, table), np.ones((len(points), made.seeds, made.steps)))

    return made, [Part(network(width), MADE) for width in (16, 32, 64)]


def test_the_measured_alignments_of_the_plane_are_those_at_the_prescribed_point() -> None:
    """Three points whose alpha is 1/2, 3/4 and 1: in the middle is the prescribed one, each row has its own beside."""
    points, alphas = (("0", "1"), ("1", "1"), ("2", "1")), (0.5, 0.75, 1.0)
    study = PhaseResult.of(*made_up(points, alphas))
    for layers in study.alignments.values():
        assert [layers[name]["alpha"].value for name in ("hidden.0", "readout")] == pytest.approx([0.75] * 2)
    assert len(study.rows) == 2 * 2 * 3
    for row in study.rows:
        assert row.alpha == pytest.approx(alphas[points.index(row.point)])
        assert row.update == pytest.approx(0.5)
        # Features are hidden.0's output, which the readout reads; SP has no multiplier.
        assert row.measured.value == pytest.approx({"hidden.0": 0.0, "readout": 0.25}[row.layer])


def test_a_stored_width_comes_back_and_says_what_it_was_made_with(tmp_path: Path) -> None:
    made, (first, *wider) = made_up((("1", "1"),), (1.0,))
    first.found.losses[0, 1, 1] = np.nan
    path = tmp_path / "one.json.gz"
    PHASE.write(path, made, first)
    again = PHASE.read(path, made)
    assert (again.made, again.found.width) == (MADE, 16)
    assert np.array_equal(again.found.losses, first.found.losses, equal_nan=True)
    for step, table in first.found.sizes.items():
        for layer, sizes in table.items():
            for name, values in sizes.items():
                assert np.allclose(again.found.sizes[step][layer][name], values, rtol=1e-5)
    assert [each.name for each in tmp_path.iterdir()] == ["one.json.gz"]
    with pytest.raises(StudyError, match=r"one.json.gz. in --out was made with seeds: 2, not 3; steps: 2, not 5; give"):
        PHASE.read(path, replace(made, seeds=3, steps=5))
    study = PhaseResult.of(made, [again, *wider])
    lost = f"width 16, c_hidden 1, c_readout 1, seed 1: the loss was not finite at step {made.steps}"
    assert study.divergences == [lost]
    assert {row.reason for row in study.rows if row.step == 1} == {None}
    assert {row.reason for row in study.rows if row.step == 2} == {"the loss was not finite at width 16"}


def test_agreement_counts_points_within_the_tolerance_and_in_the_right_region() -> None:
    """Errors 0, 0.1, 0.2 and 0.5 of a prediction, one more without a measurement, and alignments not measured."""

    def row(predicted: Any, measured: float, finite: float | None) -> Row:
        slope = Slope(measured, measured, measured, ())
        return Row(1, "readout", ("1", "1"), Rational(predicted), None, finite, slope, 0.0, 0.0)

    rows = [row(0, 0.0, 0.0), row(0, 0.1, 0.5), row("1/2", 0.3, None), row(0, -0.5, -0.5), row(0, float("nan"), 0.0)]
    assert [each.holds("full") for each in rows] == [True, True, False, False, None]
    assert [each.holds("measured") for each in rows] == [None] * 5
    full, measured, finite = agreements(rows)
    assert (full.points, full.within, full.same_region) == (4, 2, 3)
    assert full.median_error == pytest.approx(0.15)
    assert (measured.points, measured.within, measured.same_region) == (0, 0, 0) and np.isnan(measured.median_error)
    assert (finite.points, finite.within, finite.same_region, finite.median_error) == (3, 2, 2, 0.0)
    assert {(each.step, each.layer) for each in (full, measured, finite)} == {(1, "readout")}
    assert [each.prediction for each in (full, measured, finite)] == ["full", "measured", "finite"]


def test_measured_alignments_are_capped_and_absent_where_one_is_not_finite() -> None:
    def slopes(**values: float) -> dict[str, Slope]:
        return {name: Slope(value, value, value, ()) for name, value in values.items()}

    hidden, readout = slopes(alpha=0.87654321, omega=0.5, u=1.2), slopes(alpha=0.25, omega=-0.1, u=0.75)
    found = alignment_measured({"embedding": {}, "hidden.0": hidden, "readout": readout})
    assert found is not None
    assert found.layers[0] == found.hidden == Ratios(Rational("0.8765"), Rational(1, 2), Rational(1))
    assert found.readout == Ratios(Rational(1, 4), Rational(-1, 10), Rational(3, 4))
    broken = {"embedding": {}, "hidden.0": hidden, "readout": slopes(alpha=0.5, omega=float("nan"), u=1.0)}
    assert alignment_measured(broken) is None
