"""What optimizers are usually given at the base width: a rate and an epsilon; without JAX."""

import math
from collections.abc import Mapping

from sympy import Rational

from derive.registry import optimizer as read_optimizer

BASE_RATES: Mapping[str, float] = {
    "sgd": 0.1,
    "momentum": 0.02,
    "nesterov": 0.02,
    "adam": 1e-3,
    "adamw": 1e-3,
    "rmsprop": 3e-4,
    "adafactor": 0.02,
    "adam-ps": 0.02,
    "lion": 1e-3,
    "sign-sgd": 1e-3,
    "lamb": 0.02,
    "lars": 5e-3,
    "adam-atan2": 1e-3,
    "normalised-sgd": 0.05,
    "muon": 0.05,
    "muon-keller": 0.05,
    "muon-rms": 5e-3,
    "shampoo": 0.05,
    "soap": 1e-3,
    "soap-left": 1e-3,
    "soap-right": 1e-3,
    "scion": 0.05,
    "scion-sign": 0.1,
    "scion-row": 0.1,
    "normuon": 5e-3,
    "adamuon": 5e-3,
    "dion": 0.05,
    "polargrad": 4e-3,
    "grafted-shampoo": 1e-3,
    "muon-hyperball": 0.02,
    "adopt": 1e-3,
    "ademamix": 1e-3,
    "mars": 1e-3,
    "cautious": 1e-3,
    "schedule-free": 1e-3,
}
"""Rates at the base width at which the two models here move but do not diverge; a start, not a tuned value."""

BASE_EPSILON: Mapping[str, float] = {
    "adafactor": 1e-30,
    "lars": 0.0,
    "shampoo": 1e-5,
    "soap": 3e-4,
    "soap-left": 3e-4,
    "soap-right": 3e-4,
    "dion": 3e-4,
    "adopt": 1e-6,
}

TYPICAL_WIDTH, TYPICAL_GRADIENT, TYPICAL_STEP = 128, 0.01, 1e-3


def base_rate(*names: str) -> float:
    """The smallest of the rules' rates to start with at the base width: BASE_RATES, or an estimate.

    For a rule of one's own it is that of a step of RMS 1e-3 on a hidden layer 128 wide with a gradient of RMS 1e-2,
    where U has the size that `derive` gives it, n^-s, times the number before the rule.
    """

    def one(name: str) -> float:
        if name in BASE_RATES:
            return BASE_RATES[name]
        row = read_optimizer(name)
        gradient = Rational(round(-math.log(TYPICAL_GRADIENT, TYPICAL_WIDTH), 2))
        size = TYPICAL_WIDTH ** -float(row.size("hidden", gradient, Rational(1, 2)))
        return float(f"{TYPICAL_STEP / (abs(float(row.rule.as_content_primitive()[0])) * size):.1g}")

    return min(map(one, names))


def base_epsilon(name: str) -> float:
    """The usual epsilon of that optimizer at the base width; 1e-8 for most."""
    return BASE_EPSILON.get(name, 1e-8)
