"""What is read off networks with decay, on made-up sizes whose exponents are known: every row by hand."""

from dataclasses import replace

import numpy as np
import pytest

from derive.words import Kind
from tests.verify.studies.test_decay import WIDTHS, two_layers
from verify.fit.forward import RANK, Slope
from verify.studies.decay.conditions import prescription
from verify.studies.decay.theory import Network, rows, tell

POWERS = {  # of every size, and none like another
    "embedding": {"weight": 0.05, "delta_w": -0.1, "now_weight": 0.15, "update": -0.2},
    "hidden.0": {
        "weight": 0.25,
        "delta_w": -0.3,
        "input": 0.35,
        "delta_input": -0.4,
        "now_weight": -0.95,
        "update": 0.02,
        "now_input": 0.55,
        "now_product": 0.6,
        "now_operator_norm": 0.65,
        "term_alpha": 0.71,
        "term_omega": 0.77,
        "term_u": 0.83,
    },
    "readout": {
        "weight": -0.25,
        "delta_w": 0.3,
        "input": -0.35,
        "delta_input": 0.4,
        "now_weight": 0.45,
        "update": 0.5,
        "now_input": 0.06,
        "now_product": -0.6,
        "term_alpha": -0.71,
        "term_omega": -0.77,
        "term_u": -0.83,
    },
}
EXPECTED = {
    ("embedding", "weight"): -0.15,
    ("embedding", "update"): 0.2,
    ("embedding", "feature"): -0.55,  # what the next layer takes in
    ("hidden.0", "weight"): 0.95,
    ("hidden.0", "update"): -0.02,
    ("hidden.0", "operator_norm"): 0.65 + 0.95,
    ("hidden.0", "alignment"): 0.6 + 0.95 - 0.55,
    ("hidden.0", "feature"): -0.06,
    ("hidden.0", "alpha"): 0.71 + 0.3 - 0.35,
    ("hidden.0", "omega"): 0.77 - 0.25 + 0.4,
    ("hidden.0", "u"): 0.83 + 0.3 + 0.4,
    ("readout", "weight"): -0.45,
    ("readout", "update"): -0.5,
    ("readout", "alignment"): -0.6 - 0.45 - 0.06,
    ("readout", "feature"): 0.6 + 0.5,  # with its multiplier n^-1/2
    ("readout", "alpha"): -0.71 - 0.3 + 0.35,
    ("readout", "omega"): -0.77 + 0.25 - 0.4,
    ("readout", "u"): -0.83 - 0.3 - 0.4,
}


def at_rest(width: int, seeds: int = 2) -> Network:
    """An embedding, a hidden layer and a readout that have settled, of those powers of the width."""
    kinds: dict[str, Kind] = {"embedding": "embedding", "hidden.0": "hidden", "readout": "readout"}
    ratio, ones, marks = width / WIDTHS[0], np.ones(seeds), tuple(range(100, 2100, 100))
    sizes = {name: {each: ratio**power * ones for each, power in of.items()} for name, of in POWERS.items()}
    weights = {name: np.outer(np.ones(len(marks)), sizes[name]["now_weight"]) for name in kinds}
    rates = (dict.fromkeys(kinds, 0.1), dict.fromkeys(kinds, 0.05))
    return Network("muP", "sqrt", width, kinds, *rates, marks, weights, sizes, ones, ones, {})


def test_every_exponent_is_of_its_own_sizes_beside_its_own_prediction() -> None:
    """Adam and muP, c = (1/2, 1, 1/2) with a = (-1/2, 0, 1/2); decay by sqrt: RMS(W) ~ n^-(3/4 c), or n^-(c/2)."""
    answer = prescription("adamw", "mup", "sqrt")
    assert [float(layer.c) for layer in answer.layers] == [0.5, 1.0, 0.5]
    found = {(row.layer, row.quantity): row for row in rows(answer, [at_rest(width) for width in WIDTHS])}
    assert found.keys() == EXPECTED.keys()
    for place, row in found.items():
        assert row.measured.value == pytest.approx(EXPECTED[place]), place
        assert (row.widths, row.left_out) == (WIDTHS, ())
    predicted = {place: (str(row.predicted), str(row.coherent)) for place, row in found.items()}
    assert predicted["embedding", "weight"] == predicted["readout", "weight"] == ("3/8", "1/4")
    assert predicted["hidden.0", "weight"] == predicted["hidden.0", "alignment"] == ("3/4", "1/2")
    assert predicted["readout", "alignment"] == ("7/8", "3/4")
    assert predicted["hidden.0", "omega"] == ("1/2", "None") and predicted["hidden.0", "u"] == ("1", "None")
    assert predicted["hidden.0", "operator_norm"] == ("None", "None")
    verdicts = {place: (row.verdict, row.reason) for place, row in found.items()}
    assert verdicts["hidden.0", "update"] == ("holds", None) and verdicts["readout", "update"] == ("fails", None)
    assert verdicts["hidden.0", "feature"] == ("holds", None) and verdicts["embedding", "feature"] == ("fails", None)
    assert verdicts["hidden.0", "weight"] == ("neither", None)
    assert verdicts["hidden.0", "operator_norm"] == ("open", "nothing is predicted")


def test_where_updates_depend_on_the_gradients_rank_their_size_is_open() -> None:
    networks = [at_rest(width) for width in WIDTHS]
    found = {(row.layer, row.quantity): row for row in rows(prescription("muon", "mup", "sqrt"), networks)}
    for quantity in ("weight", "update"):
        assert found["hidden.0", quantity].reason == RANK
    # RMS(U) ~ n^-1/2 at a rate n^0, and as many of them as at any width.
    assert [str(found["hidden.0", "weight"].predicted), str(found["hidden.0", "weight"].coherent)] == ["1/2", "1/2"]
    assert found["hidden.0", "update"].verdict == "open" and found["hidden.0", "feature"].reason is None


def test_one_width_at_rest_is_no_measurement() -> None:
    one = [two_layers(width, *[0.0 if width == WIDTHS[0] else 0.1] * 2) for width in WIDTHS]
    for row in rows(prescription("adamw", "sp", "independent"), one):
        assert (row.verdict, row.widths) == ("not measured", WIDTHS[:1]) and np.isnan(row.measured.value)
    two = [two_layers(width, 0.0 if width in WIDTHS[:2] else 0.1) for width in WIDTHS]
    (row, *_) = rows(prescription("adamw", "sp", "independent"), two)
    assert (row.verdict, row.widths) == ("both", WIDTHS[:2])


def test_settled_is_within_its_bounds_on_either_side() -> None:
    """A twentieth per time constant either way, and a tenth of W_0 after t steps of (1 - eta lambda)."""
    for drift, settled in ((0.049, True), (-0.049, True), (0.051, False), (-0.051, False)):
        network = two_layers(16, drift)
        assert network.drift("hidden.0") == pytest.approx(drift)
        assert network.at_equilibrium("hidden.0") == settled
    left = 0.95**2000
    for part, settled in ((0.09, True), (0.11, False)):
        network = two_layers(16)
        sizes = {**network.sizes["hidden.0"], "weight": part / left * network.weights["hidden.0"][-1]}
        network = replace(network, sizes={**network.sizes, "hidden.0": sizes})
        assert network.remaining("hidden.0") == pytest.approx(part)
        assert network.at_equilibrium("hidden.0") == settled


TOLD = [
    (0.52, 0.0, 0.5, 1.0, "uncorrelated"),
    (0.98, 0.0, 0.5, 1.0, "coherent"),
    (0.7, 0.0, 0.5, 1.0, "between"),
    (0.7, 0.0, 1.0, 0.5, "between"),
    (0.44, 0.0, 0.5, 1.0, "neither"),
    (1.06, 0.0, 0.5, 1.0, "neither"),
    (0.62, 0.1, 0.5, 1.0, "uncorrelated"),  # within the tolerance and the interval together
    (0.62, 0.06, 0.5, 1.0, "between"),
    (0.75, 0.3, 0.5, 1.0, "not told apart"),
    (0.75, 0.3, 1.0, 0.5, "not told apart"),
    (0.52, 0.0, 0.5, 0.5, "both"),
    (0.52, float("nan"), 0.5, 1.0, "uncorrelated"),  # no interval: the tolerance alone
    (0.6, float("nan"), 0.5, 1.0, "between"),
    (float("nan"), 0.0, 0.5, 1.0, "not measured"),
]


@pytest.mark.parametrize(("value", "half", "uncorrelated", "coherent", "expected"), TOLD)
def test_which_balance_is_told(value: float, half: float, uncorrelated: float, coherent: float, expected: str) -> None:
    assert tell(Slope(value, value - half, value + half, ()), uncorrelated, coherent) == expected
