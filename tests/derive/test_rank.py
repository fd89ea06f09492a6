"""Rates that depend on the gradient's rank, on thresholds and on functions of the weights: by hand, and in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sympy import Rational, S

from derive.cli import app
from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.running import run
from derive.solve import prescribe
from derive.words import KINDS

HALF: Any = Rational(1, 2)
WIDTHS = (64, 256)
Matrix = np.ndarray[Any, Any]


def polar(matrix: Matrix) -> Matrix:
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    kept = sigma > sigma[0] * 1e-9
    return left[:, kept] @ right[kept]


def rms(matrix: Matrix) -> float:
    return float(np.sqrt(np.mean(matrix**2)))


RULES: dict[str, tuple[Callable[[Matrix, Matrix], Matrix], Any, Any]] = {
    # rule: (the same with matrices, c of a hidden layer of SP at rank one, and at full rank), by hand: the update of an
    # example in the batch is n^c at rate 1
    "polar(m)/rms(polar(m))": (lambda g, _w: polar(g) / rms(polar(g)), 1, HALF),
    "polar(m)/norm(polar(m))": (lambda g, _w: polar(g) / np.linalg.norm(polar(g)), 0, -HALF),
    "norm(w)*polar(m)/norm(polar(m))": (
        lambda g, w: np.linalg.norm(w) * polar(g) / np.linalg.norm(polar(g)),
        HALF,
        0,
    ),
    "norm(sign(m))*polar(m)/norm(polar(m))": (
        lambda g, _w: np.linalg.norm(np.sign(g)) * polar(g) / np.linalg.norm(polar(g)),
        1,
        HALF,
    ),
    "opnorm(w)*polar(m)": (lambda g, w: np.linalg.norm(w, 2) * polar(g), 0, 0),
    "polar(m)*sqrt(fan_in)": (lambda g, _w: polar(g) * np.sqrt(g.shape[1]), HALF, HALF),
    "rms(w)*polar(m)": (lambda g, w: rms(w) * polar(g), -HALF, -HALF),
}


@pytest.mark.parametrize("rank", ["one", "full"])
@pytest.mark.parametrize("rule", RULES)
def test_rates_at_a_fixed_batch_and_at_one_as_large_as_the_width(rule: str, rank: str) -> None:
    """c with RMS(U x) = n^c for an x of the batch: in numpy, by hand, and derived."""
    transform, at_one, at_full = RULES[rule]
    by_hand = at_one if rank == "one" else at_full
    sizes = []
    for n in WIDTHS:
        generator = np.random.default_rng(n)
        batch = 1 if rank == "one" else n
        x = generator.normal(size=(batch, n))
        gradient = generator.normal(size=(n, batch)) @ x / n
        update = transform(gradient, generator.normal(size=(n, n)) / np.sqrt(n))
        sizes.append(rms(update @ x[0]))
    measured = np.log(sizes[1] / sizes[0]) / np.log(WIDTHS[1] / WIDTHS[0])
    assert measured == pytest.approx(float(by_hand), abs=0.06)
    row = Optimizer("mine", rule, rank=S.Zero if rank == "one" else S.One)
    assert prescribe(row, "sp", "full").c[1] == by_hand


def test_by_default_the_smaller_rate_is_taken_and_the_other_said() -> None:
    answer = prescribe(Optimizer("mine", "polar(m)/rms(polar(m))"), "sp", "full")
    assert answer.c[1] == 1
    (note,) = answer.notes
    assert note.startswith("hidden: c = 1 is for a gradient of rank one") and "c = 1/2 (--rank full)" in note
    growing = prescribe(Optimizer("mine", "norm(m)/opnorm(m)*polar(m)"), "sp", "full")
    assert growing.c[1] == HALF and "c = 0 (--rank one)" in growing.notes[0]
    between = prescribe(Optimizer("mine", "polar(m)/rms(polar(m))", rank=HALF), "sp", "full")
    assert between.c[1] == Rational(3, 4) and not between.notes


@pytest.mark.parametrize("rule", ["muon", "shampoo", "soap", "kfac"])
def test_ranks_drop_out_of_the_usual_rules(rule: str) -> None:
    answer = prescribe(rule, "sp", "full")
    row = answer.problem.optimizers["hidden"]
    assert [row.rank_at(layer.kind, layer.g, layer.b) for layer in answer.layers] == [None] * 3
    assert not answer.notes


def test_random_weights_cap_the_alignment_of_what_is_odd_in_them() -> None:
    """w * sign(g) = D_1 W D_2 with signs D: its operator norm is that of W_0; abs(w) * sign(g) has a mean."""
    norms = {"w*sign(g)": [], "abs(w)*sign(g)": []}
    for n in WIDTHS:
        generator = np.random.default_rng(n)
        signs = np.sign(np.outer(generator.normal(size=n), generator.normal(size=n)))
        w = generator.normal(size=(n, n))
        norms["w*sign(g)"].append(np.linalg.norm(w * signs, 2))
        norms["abs(w)*sign(g)"].append(np.linalg.norm(abs(w) * signs, 2))
    for rule, found in norms.items():
        slope = np.log(found[1] / found[0]) / np.log(WIDTHS[1] / WIDTHS[0])
        row = Optimizer("mine", rule)
        assert slope == pytest.approx(float(row.operator_norm("hidden", S.Zero, S.Zero)), abs=0.05)
        assert row.alignment_cap("hidden", S.Zero, S.Zero) == (HALF if rule == "w*sign(g)" else 1)


def test_a_threshold_takes_the_branch_that_rules_layer_by_layer() -> None:
    """SP's gradients are n^-1/2, n^-1/2 and 1: where clip(g) does not bind it is SGD, and so are its rates."""
    clipped, sgd = (prescribe(rule, "sp", "full") for rule in (Optimizer("mine", "clip(g)"), "sgd"))
    assert clipped.c == sgd.c and clipped.chain.growth == (1, 1, 0)
    sophia, adam = (prescribe(rule, "mup", "full") for rule in ("sophia", "adam"))
    assert sophia.c == adam.c and sophia.chain.growth == (0, 0, 0)
    # ||g|| is n^0 on the embedding, where the threshold is met, n^1/2 on hidden layers, and n^1/2 on the readout.
    own = Optimizer("mine", "g*min(1,1/norm(g))")
    normalised = Optimizer("mine", "g/norm(g)")
    answer = prescribe(own, "sp", "full")
    for kind, layer in zip(KINDS[1:], answer.layers[1:], strict=True):
        assert layer.s == normalised.size(kind, layer.g, layer.b)
    assert answer.layers[0].s == answer.layers[0].g == HALF
    with pytest.raises(DeriveError, match="not homogeneous"):
        prescribe(Optimizer("mine", "g+sign(g)"), "sp", "full")


def test_check_says_neither_stable_nor_unstable_where_a_symbol_decides(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert run(lambda: app(["check", *arguments], standalone_mode=False), "derive") == 0
        return capsys.readouterr().out

    assert '"stable": null' in said("--c=0,x,1", "--format", "json")
    assert '"stable": true' in said("--c=0,1,1", "--format", "json")
    assert '"stable": false' in said("--c=0,x,-1", "--format", "json")
    # With rates per layer cross-entropy bounds the readout's own update, as in the largest rates.
    assert "lower the rate of readout" in said("--loss", "ce", "--c=0,1,1/2")
    assert "stable; learns features" in said("--loss", "ce", "--c=0,1,1")


def test_an_update_that_outgrows_its_weights_is_said() -> None:
    notes = prescribe("sgd", "sp", "alpha=1/4,u=1/4").notes
    assert any("outgrows its weights (d = 1/4)" in note for note in notes)
    assert not prescribe("adam", "sp", "alpha=1/4,u=1/4").notes
    assert not prescribe("sgd", "sp", "none").notes


@pytest.mark.parametrize("given", ["2", "-1", "x", "half"])
def test_a_rank_that_is_none_is_one_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--update", "polar(m)/rms(polar(m))", f"--rank={given}"]
    assert run(lambda: app(arguments, standalone_mode=False), "derive") == 2
    assert capsys.readouterr().err.count("\n") == 1
