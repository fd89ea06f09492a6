"""Wrong theories of depth meet made-up networks of known exponents: each is rejected by the step that is wrong."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sympy import Expr, Rational, S

from derive import registry
from derive.depth import Residual, depth_axis, read_kappa, read_residual
from derive.errors import DeriveError
from derive.words import Kind
from verify.fit.depth import LOGITS, STREAM, TERMS, DepthClaim, verdicts
from verify.fit.four_steps import rejected_by, resolution
from verify.fit.judging import Row

DEPTHS = (2, 4, 8, 16, 32)
KINDS: dict[str, Kind] = {"tokens": "embedding", "up": "hidden", "down": "hidden", "readout": "readout"}
HALF = Rational(1, 2)
SHARES = {"embedding": 0.5, "own": 1.0, "passed": 0.1, "rest": 0.01}


def theory(optimizer: str, delta: str, kappa: str = "full") -> DepthClaim:
    rules, residual, aligned = registry.optimizers(optimizer), read_residual(delta, normed=True), read_kappa(kappa)
    return DepthClaim(rules, residual, aligned, depth_axis(rules, residual, aligned))


def at_rate(right: DepthClaim, by: Expr) -> DepthClaim:
    """The same theory with a rate in the branches that is off by N^-by, of which it claims the same changes."""
    rows = {**right.axis.rows, "hidden": replace(right.inside, c=right.inside.c + by)}
    return replace(right, axis=replace(right.axis, rows=rows))


def networks(truth: DepthClaim, kappa: Expr = S.One) -> dict[str, dict[str, Any]]:
    """Sizes of three seeds at the multiplier and the rates of `truth`, whatever it says of changes."""
    generator, ratio = np.random.default_rng(0), (np.array(DEPTHS, dtype=float) / DEPTHS[0])[:, None]

    def size(exponent: Any) -> Any:
        return ratio ** -float(exponent) * np.exp(0.01 * generator.standard_normal((len(DEPTHS), 3)))

    table: dict[str, dict[str, Any]] = {}
    for name, kind in KINDS.items():
        row = truth.axis.row(kind, "out" if name == "down" else "")
        assert row.s is not None and row.g is not None
        table[name] = {"delta_w": size(row.c + row.s), "gradient": size(row.g), "weight": size(row.b or 0)}
    residual, inside = truth.residual, truth.inside
    own = residual.delta + inside.c + (inside.s or 0)
    summed = own - kappa
    moved = min(S.Zero, summed)
    passed = residual.delta + residual.growth + moved
    for name in ("attention", "dense"):
        table[name] = {"size": size(residual.delta), "own": 0.1 * size(own), "passed": size(passed)}
        table[name]["delta"] = np.hypot(table[name]["own"], table[name]["passed"])
    sums = {"embedding": size(0), "own": size(summed), "passed": size(passed - HALF), "rest": size(moved)}
    stream = {name: SHARES[name] * each for name, each in sums.items()}
    table[STREAM] = {**stream, "size": size(-residual.growth), "delta": np.sqrt(sum(stream[n] ** 2 for n in TERMS))}
    table[LOGITS] = {"size": size(0), "delta": size(moved + residual.growth)}
    return table


def judged(claim: DepthClaim, table: dict[str, dict[str, Any]], step: int = 1) -> list[Row]:
    return verdicts(claim, DEPTHS, step, table, KINDS, ["down"])


def failing(rows: list[Row]) -> set[tuple[str, str]]:
    return {(row.layer, row.quantity) for row in rows if row.verdict == "fails"}


SETTINGS = [(name, delta) for name in ("adam", "sgd", "muon") for delta in ("0", "1/2", "3/4", "1")]


@pytest.mark.parametrize(("optimizer", "delta"), SETTINGS)
@pytest.mark.parametrize("step", [1, 10])
def test_the_right_theory_fails_nowhere(optimizer: str, delta: str, step: int) -> None:
    right = theory(optimizer, delta)
    rows = judged(right, networks(right), step)
    assert not failing(rows)
    assert resolution(rows) < 0.5
    assert {"kappa", "scatter", "largest", "delta_z", "consistent"} <= {row.quantity for row in rows}


@pytest.mark.parametrize(("optimizer", "delta"), SETTINGS)
@pytest.mark.parametrize("by", [HALF, -HALF])
def test_a_rate_off_by_half_a_power_is_rejected_by_the_result(optimizer: str, delta: str, by: Expr) -> None:
    """The networks are trained at the wrong rate, and the theory claims the right changes of it."""
    wrong = at_rate(theory(optimizer, delta), by)
    rows = judged(wrong, networks(wrong))
    assert list(rejected_by(rows)) == ["4 result"]
    assert {("attention", "largest"), (STREAM, "largest")} <= failing(rows)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "muon"])
@pytest.mark.parametrize(("thought", "is_there"), [("1", "1/2"), ("1/2", "1"), ("1/2", "0")])
def test_a_multiplier_that_is_miscounted_is_rejected(optimizer: str, thought: str, is_there: str) -> None:
    """The code's branches have another power than the theory takes them to have, at the theory's own rates."""
    claim, real = theory(optimizer, thought), theory(optimizer, is_there)
    truth = replace(
        real, axis=replace(real.axis, rows={**real.axis.rows, "hidden": replace(real.inside, c=claim.inside.c)})
    )
    rows = judged(claim, networks(truth))
    assert "2 propagation" in rejected_by(rows)
    assert {("attention", "size"), ("dense", "size")} <= failing(rows)


def test_blocks_that_move_together_where_they_were_taken_not_to() -> None:
    """kappa = 1/2 assumed and 1 measured: the sum grows as N^1/2, and the assumption is named first."""
    claim = theory("adam", "1/2", "none")
    rows = judged(claim, networks(claim))
    assert list(rejected_by(rows)) == ["3 assumption", "4 result"]
    assert (STREAM, "kappa") in failing(rows)


def test_what_is_drawn_smaller_has_its_own_weights_judged() -> None:
    claim = theory("sgd", "init")
    rows = {(row.layer, row.quantity): row for row in judged(claim, networks(claim))}
    assert (rows["down", "weight"].predicted, rows["up", "weight"].predicted) == ("1/2", "0")
    assert (rows["down", "delta_w"].predicted, rows["up", "delta_w"].predicted) == ("1", "1/2")
    assert {row.verdict for row in rows.values()} == {"holds"}


def test_without_a_norm_the_sum_that_diverges_is_named() -> None:
    with pytest.raises(DeriveError, match="the sum of N independent branches at the start grows as N\\^1/2"):
        read_residual("0")
    assert Residual(S.Zero, normed=True).growth == HALF
    row = theory("adam", "0").inside
    assert (row.c, row.g, row.r) == (HALF, HALF, HALF)
