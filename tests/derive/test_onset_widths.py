"""`derive epsilon` by hand: n = n_0 (size / epsilon)^(1/exponent), with the size of whatever epsilon is added to."""

import pytest
from sympy import Rational, S

from derive.epsilon import Onset, onsets
from derive.errors import DeriveError
from derive.solve import prescribe

HALF = Rational(1, 2)
RMS = (0.25, 0.125, 0.5)  # of the gradients at the base width: embedding, hidden, readout


def found(
    optimizer: str, scheme: str = "sp", value: float = 1e-3, fixed_fan: int | None = None, width: int = 64
) -> list[Onset]:
    return onsets(prescribe(optimizer, scheme).problem, value, width, RMS, fixed_fan)


def test_adams_epsilon_meets_the_rms_of_the_gradient() -> None:
    """SP: n^-1/2 on embedding and hidden, so that (250)^2 and (125)^2 base widths away; the readout never shrinks."""
    embedding, hidden, readout = found("adam")
    assert (embedding.kind, embedding.exponent, embedding.size) == ("embedding", HALF, 0.25)
    assert embedding.width == pytest.approx(64 * 250**2)
    assert (hidden.kind, hidden.exponent, hidden.size) == ("hidden", HALF, 0.125)
    assert hidden.width == pytest.approx(64 * 125**2)
    assert readout == Onset("readout", S.Zero, 0.5, None)
    assert [each.width for each in found("adam", "mup", 1.0)] == pytest.approx([64 / 4**2, 64 / 8, 64 / 2**2])


def test_a_square_under_a_root_and_a_norm_of_the_whole_gradient() -> None:
    """Adafactor adds epsilon to v = RMS^2; normalised SGD to ||G||_F, RMS by the root of the number of entries."""
    assert [each.size for each in found("adafactor", fixed_fan=10)] == pytest.approx([0.25**2, 0.125**2, 0.5**2])
    sizes = [each.size for each in found("normalised-sgd", fixed_fan=9)]
    assert sizes == pytest.approx([0.25 * (9 * 64) ** 0.5, 0.125 * 64, 0.5 * (9 * 64) ** 0.5])
    with pytest.raises(DeriveError, match="fixed-fan"):
        found("normalised-sgd")
    # Both dimensions of a hidden layer grow.
    mixed = found("adam,hidden=normalised-sgd")
    assert [each.size for each in mixed] == [0.25, pytest.approx(0.125 * 64), 0.5]


def test_what_has_no_onset_is_said() -> None:
    with pytest.raises(DeriveError, match="sgd has no epsilon"):
        found("sgd")
    with pytest.raises(DeriveError, match="floating point"):
        onsets(prescribe("adafactor").problem, 1e-3, 64, (1e-200, 1.0, 1.0), 8)
    with pytest.raises(DeriveError, match="floating point"):
        onsets(prescribe("adafactor").problem, 1e-3, 64, (1e200, 1.0, 1.0), 8)


def test_a_width_beyond_every_number_is_refused_and_one_before_it_is_not() -> None:
    """(1e-1 / epsilon)^2 at n_0 = 10: 1e299 for epsilon = 1e-150, and 1e301 for 1e-151; as far down for large ones."""
    problem = prescribe("adam", "sp").problem
    for value, width in ((1e-150, 1e299), (1e148, 1e-297)):
        assert onsets(problem, value, 10, (0.1, 0.1, 0.1), None)[0].width == pytest.approx(width)
    for value in (1e-151, 1e151):
        with pytest.raises(DeriveError, match=r"at a width of 1e-?30[0-9]"):
            onsets(problem, value, 10, (0.1, 0.1, 0.1), None)
