"""The words of rules beside entries and singular values: by hand, and refused in one line where they make no sense."""

from typing import Any

import pytest
from sympy import Rational, S

from derive.cli import app
from derive.optimizers import Optimizer
from derive.parameterizations import NTK, SP, equivalent
from derive.running import run
from derive.solve import prescribe

HALF: Any = Rational(1, 2)
POLAR = "spectral(m,sigma/(sigma+eps))"
Capture = pytest.CaptureFixture[str]


def rates(rule: str, rank: Any = None, scheme: str = "sp") -> tuple[Any, ...]:
    return prescribe(Optimizer("mine", rule, rank=rank), scheme, "full").c


def test_norms_of_rows_and_columns_by_hand() -> None:
    """m/rownorm(m) has entries 1/sqrt(fan_in), m/colnorm(m) 1/sqrt(fan_out); c = alpha - s with alpha = 0, 1, 1."""
    assert rates("m/rownorm(m)") == (0, HALF, HALF)
    assert rates("m/colnorm(m)") == (-HALF, HALF, 1)


def test_the_nuclear_norm_counts_singular_values() -> None:
    """G / ||G||_*: ||U||_op is 1 at rank one, and 1/n where n singular values are alike."""
    assert rates("m/nucnorm(m)", S.Zero) == (-HALF, 0, HALF)
    assert rates("m/nucnorm(m)", S.One) == (-HALF, -1, HALF)


@pytest.mark.parametrize(
    ("blocks", "one", "full"),
    [("2, 4", 0, 0), ("fan_out/128, fan_in/128", 1, HALF), ("sqrt(fan_out), sqrt(fan_in)", HALF, Rational(1, 4))],
)
def test_blocks_by_hand(blocks: str, one: Any, full: Any) -> None:
    """pq blocks of one direction each have ||U||_op = sqrt(pq); full blocks of n^x rows have RMS n^-x/2."""
    rule = f"polar(m, blocks=({blocks}))"
    assert rates(rule, S.Zero)[1] == one and rates(rule, S.One)[1] == full


def test_low_rank_leaves_the_largest_singular_value() -> None:
    rows = {rank: Optimizer("mine", f"polar(lowrank(m, {rank}))") for rank in ("128", "fan_in/4")}
    for kind in ("hidden", "readout"):
        assert {row.operator_norm(kind, S.Zero, S.Zero) for row in rows.values()} == {0}  # type: ignore[arg-type]
    assert rows["128"].size("hidden", S.Zero, S.Zero) == 1
    assert rows["fan_in/4"].size("hidden", S.Zero, S.Zero) == HALF


def test_two_epsilons_have_an_exponent_each(capsys: Capture) -> None:
    """AdaMuon: eps beside ||m||_op, n^(1-g) on hidden layers, eps2 beside entries of the polar factor, 1/n."""
    answer = prescribe("adamuon", "sp", "full")
    assert [layer.epsilon for layer in answer.layers] == [0, -HALF, -HALF]
    assert [layer.epsilon2 for layer in answer.layers] == [HALF, 1, HALF]
    grafted = prescribe("grafted-shampoo", "sp", "full")
    assert [layer.epsilon for layer in grafted.layers] == [HALF, HALF, 0]
    assert [layer.epsilon2 for layer in grafted.layers] == [0, -1, -1]
    shift = equivalent(SP, NTK, grafted.problem.optimizers["hidden"])
    assert (shift.epsilon_shift, shift.epsilon2_shift) == ((0, HALF, HALF), (0, 1, 1))
    assert run(lambda: app(["--optimizer", "grafted-shampoo"], standalone_mode=False), "derive") == 0
    assert "epsilon2 e" in capsys.readouterr().out


def test_a_constant_epsilon_counts_where_it_outgrows_what_it_is_added_to() -> None:
    for rule, degree in (("m/(sqrt(v)+eps)/(rms(m)+eps2)*rms(m)", 2), ("m/(sqrt(v)+eps2)", 1)):
        row = Optimizer("mine", rule, scaled_epsilon=False)
        assert row.gradient_degree("hidden", S.One, S.Zero) == degree
        assert row.gradient_degree("hidden", -S.One, S.Zero) == 0


def test_the_step_before_and_the_way_from_the_start() -> None:
    assert rates("g + 1/2*(g - g_prev)") == rates("g")
    assert rates("max(1, rms(dw))*sign(m)") == rates("sign(m)") == rates("max(1, rms(w - w0))*sign(m)")
    assert rates("max(norm(w), norm(w - w0))*g/norm(g)") == rates("norm(w)*g/norm(g)")
    assert Optimizer("mine", "rms(w0)*sign(m)").weight_degree == 1
    notes = prescribe("prodigy", "ntk", "none").notes + prescribe("prodigy", "mfp", "none").notes
    assert any("w - w0 grows by more than a constant at every step (c = -1/2)" in note for note in notes)
    assert not prescribe("prodigy", "sp", "full").notes


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("rms(dw)*sign(g)", "is zero at the first step"),
        ("g/norm(w-w0)", "divides by zero at the first step"),
        ("max(1,fan_in*rms(dw))*sign(g)", "of another size once it has moved"),
        ("polar(m,blocks=(2,4,8))", "give two numbers"),
        ("polar(m,blocks=(norm(g),4))", "give two numbers"),
        ("polar(m,blocks=(-2,4))", "give two numbers"),
        ("polar(m,blocks=4)", "is not a pair"),
        ("polar(m,block=(2,4))", "or blocks=(2, 4)"),
        ("polar(m,blocks=(fan_out**2,4))", "more blocks than rows"),
        ("lowrank(m,w)", "no number of singular values"),
        ("m/(sqrt(v)+eps)+g/(norm(g)+eps)", "write eps for one and eps2"),
        ("m*eps2", "adds eps2 to nothing"),
        ("m/(sqrt(v)+eps*(rms(m)+eps2))/(norm(g)+eps2*(rms(g)+eps))", "eps"),
        ("rownorm(2)*m", "its argument is one number"),
    ],
)
def test_what_makes_no_sense_is_one_line(rule: str, problem: str, capsys: Capture) -> None:
    assert run(lambda: app(["--update", rule], standalone_mode=False), "derive") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert problem in err


def test_a_rank_between_is_between() -> None:
    rule = f"{POLAR}/rms({POLAR})"
    assert rates(rule, HALF)[1] == Rational(3, 4)
