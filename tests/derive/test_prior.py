"""Under `prior` the engine gives the exponents of earlier work, which assumed omega = 1 on the readout.

Sources: the single-rate exponents of SGD are Yang & Hu 2021 (2011.14522), table 1 and section 3; muP for Adam in
the gauge a = 0 is Yang et al. 2022 (2203.03466), table 3 (input rate constant, hidden and output rates 1/fan_in).
"""

import pytest

from derive.solve import prescribe
from derive.words import text


@pytest.mark.parametrize(
    ("scheme", "rate", "features"),
    [("sp", "1", False), ("ntk", "0", False), ("mup", "0", True), ("mfp", "-1", True)],
)
def test_one_global_sgd_rate_as_in_tensor_programs_iv(scheme: str, rate: str, features: bool) -> None:
    answer = prescribe("sgd", scheme, "prior", global_rate=True, hidden_layers=3)
    assert {text(c) for c in answer.c} == {rate}
    assert answer.feature_learning is features


def test_mup_adam_as_in_tensor_programs_v() -> None:
    from dataclasses import replace

    from derive.parameterizations import MUP
    from derive.solve import solve

    problem = prescribe("adam", "mup", "prior", hidden_layers=3).problem
    answer = solve(replace(problem, parameterization=MUP.gauge()))
    assert [text(c) for c in answer.c] == ["0", "1", "1", "1", "1"]
    assert [text(layer.b) for layer in answer.layers] == ["0", "1/2", "1/2", "1/2", "1"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("scheme", "features"), [("sp", False), ("ntk", False), ("mup", True), ("mfp", True)])
def test_earlier_assumptions_exclude_sp_and_ntk_from_feature_learning(
    optimizer: str, scheme: str, features: bool
) -> None:
    """Yang & Hu 2021, section 4, the dynamical dichotomy: kernel regime at r = 1/2, feature learning at r = 0."""
    answer = prescribe(optimizer, scheme, "prior", hidden_layers=2)
    assert answer.feature_learning is features
    assert text(answer.layers[-2].r) == ("0" if features else "1/2")


@pytest.mark.parametrize(
    ("optimizer", "scheme", "rates"),
    [
        ("sgd", "mup", ["0", "0", "0"]),
        ("sgd", "mfp", ["-1", "-1", "-1"]),
        ("sgd", "ntk", ["0", "0", "0"]),
        ("sgd", "sp", ["0", "1", "1"]),
        ("adam", "mup", ["1/2", "1", "1/2"]),
        ("adam", "mfp", ["0", "1/2", "0"]),
        ("adam", "ntk", ["1/2", "1", "1/2"]),
        ("adam", "sp", ["1/2", "3/2", "1"]),
    ],
)
def test_per_layer_rates_under_prior(optimizer: str, scheme: str, rates: list[str]) -> None:
    """By hand from Yang & Hu's r >= 1/2 for a + b = 1/2 readouts: d = (1/2, 3/2, 1), and (0, 1, 1) for a + b = 1.

    c = d - a - s with s = g for SGD and 0 for Adam; all NTK rates zero for SGD is the neural tangent limit of
    Jacot et al. 2018 (1806.07572).
    """
    assert [text(c) for c in prescribe(optimizer, scheme, "prior").c] == rates
