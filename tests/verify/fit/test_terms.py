"""The three terms of a change, their ratios and shares, worked out by hand: every size another prime."""

import numpy as np
import pytest

from verify.fit.terms import alignment_ratios, alignment_slopes, rss, shares, single_width_ratio, total_ratio

SIZES = {
    "delta_w": np.full((2, 1), 2.0),
    "weight": np.full((2, 1), 3.0),
    "input": np.full((2, 1), 5.0),
    "delta_input": np.full((2, 1), 0.7),
    "term_alpha": np.full((2, 1), 11.0),
    "term_omega": np.full((2, 1), 13.0),
    "term_u": np.full((2, 1), 17.0),
    "delta_output": np.full((2, 1), 19.0),
}


def test_each_ratio_is_a_terms_size_over_its_two_factors() -> None:
    found = alignment_ratios(SIZES)
    assert found.keys() == {"alpha", "omega", "u"}
    assert found["alpha"] == pytest.approx(np.full((2, 1), 11 / (2 * 5)))
    assert found["omega"] == pytest.approx(np.full((2, 1), 13 / (3 * 0.7)))
    assert found["u"] == pytest.approx(np.full((2, 1), 17 / (2 * 0.7)))


def test_what_does_not_change_has_no_omega_and_no_u() -> None:
    found = alignment_ratios({**SIZES, "delta_input": np.array([[0.7], [0.0]])})
    assert np.isfinite(found["alpha"]).all()
    assert [list(np.isnan(found[name][:, 0])) for name in ("omega", "u")] == [[False, True]] * 2


def test_a_lookup_has_no_alignment() -> None:
    looked_up = {name: size for name, size in SIZES.items() if name != "input"}
    assert alignment_ratios(looked_up) == alignment_slopes((64, 128), looked_up) == {}


def test_the_total_is_over_the_root_of_the_sum_of_squares() -> None:
    expected = 19 / ((2 * 5) ** 2 + (3 * 0.7) ** 2 + (2 * 0.7) ** 2) ** 0.5
    assert total_ratio(SIZES) == pytest.approx(np.full((2, 1), expected))


def test_terms_add_up_by_squares() -> None:
    squares = {"alpha": 11**2, "omega": 13**2, "u": 17**2}
    assert rss(SIZES) == pytest.approx(np.full((2, 1), sum(squares.values()) ** 0.5))
    assert shares(SIZES) == {name: pytest.approx(each / sum(squares.values())) for name, each in squares.items()}


def test_alignments_are_powers_of_the_width() -> None:
    """Sizes that are powers of the width: alpha = 1 - 1/4, omega = 1/2 - 1/8, u = -1/4 - 1/8."""
    widths = np.array([[64.0], [128.0], [256.0]])
    powers = {
        "delta_w": 0.25,
        "input": 0.0,
        "weight": 0.0,
        "delta_input": 0.125,
        "term_alpha": 1.0,
        "term_omega": 0.5,
        "term_u": 0.0,
    }
    found = alignment_slopes((64, 128, 256), {name: widths**power for name, power in powers.items()})
    assert [found[name].value for name in ("alpha", "omega", "u")] == pytest.approx([0.75, 0.375, -0.375])


def test_a_ratio_at_one_width_is_in_units_of_the_fan_in() -> None:
    """The mean of the logarithms: 2 and 8 are 4 = 16^(1/2); a fan of two still has one, a fan of one has none."""
    assert single_width_ratio(np.array([2.0, 8.0]), 16) == pytest.approx(0.5)
    assert single_width_ratio(np.array([2.0]), 2) == pytest.approx(1.0)
    assert np.isnan(single_width_ratio(np.array([2.0]), 1))
