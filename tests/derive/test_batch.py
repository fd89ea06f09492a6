"""Exponents along batch and tokens: published rules, and a simulated walk in noise that shares no code."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from sympy import Rational, S

from derive import registry
from derive.batch import HALF, Betas, batch_axis, batch_rate, batch_row, tokens_axis
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.words import KINDS
from tests.helpers.numpy_rules import update
from tests.helpers.published import BATCH_RATES, HORIZON

WIDTH, DRAWS, NOISE = 8, 400, 100
SIGNAL = 1e-6
"""Small, because thresholds compare gradients with constants, and those of large batches are small."""
BATCHES = (1, 16, 256)
EVERY_DAY = ("sgd", "momentum", "adam", "lion", "muon", "shampoo")


@pytest.mark.parametrize("name", BATCH_RATES)
def test_published_rules(name: str) -> None:
    row, _ = batch_row(registry.optimizer(name), "published", "independent")
    assert row.json() == BATCH_RATES[name]


def test_adam_along_a_longer_run() -> None:
    batch = batch_axis(registry.optimizers("adam"))
    assert tokens_axis(batch, "sde").rows["hidden"].json() == HORIZON
    assert set(tokens_axis(batch, "none").rows["hidden"].json().values()) == {"0"}


@pytest.mark.parametrize("row", registry.REGISTRY, ids=lambda row: row.name)
def test_held_betas_give_the_degree(row: Optimizer) -> None:
    """(1 + k)/2, of the branch of the rule that noise which shrinks with the batch leaves."""
    k = row.gradient_degree((S.Zero, S.Zero), HALF)
    if k < 0:
        with pytest.raises(DeriveError, match="turns a gradient's size round"):
            batch_rate(row, HALF)
        return
    assert batch_rate(row, HALF)[0] == -(1 + k) / 2


@cache
def noise(samples: int) -> NDArray[np.float64]:
    return np.random.default_rng(3).normal(size=(samples, DRAWS, WIDTH, WIDTH))


def path(rule: object, batch: int, beta: float | None, samples: int = 24) -> float:
    """Along the signal in one step; what is odd in the noise goes out against the same noise turned round.

    beta is None for a first moment of one gradient alone.
    """
    random = np.random.default_rng(7)
    signal, w = random.normal(size=(2, WIDTH, WIDTH))
    signal *= SIGNAL
    drawn = noise(samples) * SIGNAL * NOISE * batch**-0.5
    weights = [1.0] if beta is None else [(1 - beta) * beta**i for i in range(samples)]
    v = (drawn**2).mean(0) + signal**2
    moved = []
    for turn in (1, -1):
        gradients = signal + turn * drawn
        m = np.einsum("t,tdij->dij", np.array(weights) / sum(weights), gradients[: len(weights)])
        moved.append(update(rule, gradients[0], np.broadcast_to(w, gradients[0].shape), m, v))
    return float(np.mean((moved[0] + moved[1]) / 2 * signal) / SIGNAL)


NAMES = [
    pytest.param(row.name, marks=() if row.name in EVERY_DAY else pytest.mark.slow)
    for row in registry.REGISTRY
    if row.name != "kfac"
]


@pytest.mark.parametrize("name", NAMES)
def test_the_path_per_example_is_the_same_at_every_batch(name: str) -> None:
    optimizer = registry.optimizer(name)
    rate = -float(batch_rate(optimizer, HALF)[0])
    steps = [path(optimizer.first_rule, batch, None) * batch ** (rate - 1) for batch in BATCHES]
    assert min(steps) > 0
    assert np.polyfit(np.log(BATCHES), np.log(steps), 1)[0] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("name", "goes"), [("adam", 0.5), ("momentum", 1), ("lion", 1), ("muon", 1)])
def test_with_a_memory_in_examples_what_is_normalised_by_its_own_moment_goes_linearly(name: str, goes: float) -> None:
    """1 - beta as B: Lion and Muon then move along the signal as far at every batch, so that their rate is linear."""
    optimizer = registry.optimizer(name)
    assert batch_rate(optimizer, S.Zero)[0] == -Rational(goes)
    batches = (1, 2, 4, 8)
    steps = [path(optimizer.first_rule, batch, 1 - batch / 32, 160) * batch ** (goes - 1) for batch in batches]
    slope = np.polyfit(np.log(batches), np.log(steps), 1)[0]
    assert slope == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("betas", ["constant", "scaled"])
def test_betas_are_said_where_they_count(betas: Betas) -> None:
    row, note = batch_row(registry.optimizer("lion"), betas, "independent")
    assert (row.json()["c"], row.json()["beta"]) == {"constant": ("-1/2", "0"), "scaled": ("-1", "-1")}[betas]
    assert note is not None and "the rate goes as B^" in note
    assert batch_row(registry.optimizer("adam"), betas, "independent")[1] is None


def test_what_inverts_one_noisy_gradient_does_not_go_along_the_signal() -> None:
    """Why there is no answer for it: the inverse of signal and noise goes against the signal, if anywhere."""
    assert path(registry.optimizer("kfac").first_rule, 1, None) <= 0


def test_an_average_of_a_function_of_the_gradient_is_not_guessed() -> None:
    with pytest.raises(DeriveError, match="use --betas constant"):
        batch_row(registry.optimizer("mars"), "scaled", "independent")


@pytest.mark.parametrize(("decay", "goes"), [("independent", "-1/2"), ("sqrt", "-1/4"), ("constant", "0")])
def test_decay_follows_as_it_is_asked_to(decay: str, goes: str) -> None:
    """rate x lambda goes as B where the memory in examples stays, all of it, half or none of it made up by lambda."""
    assert batch_row(registry.optimizer("adam"), "published", decay)[0].json()["decay"] == goes


def test_kinds_have_the_batch_rules_of_their_optimizers() -> None:
    axis = batch_axis(registry.optimizers("adam,readout=sgd"))
    assert [str(axis.rows[kind].c) for kind in KINDS] == ["-1/2", "-1/2", "-1"]
