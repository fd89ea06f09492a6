"""The constraints of a chain with its exponents filled in, and the general ones with symbols, by hand."""

from dataclasses import replace
from typing import Any

import pytest
from sympy import Rational, S, Symbol

from derive.errors import DeriveError
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization
from derive.propagation import constraints, general_constraints
from derive.solve import prescribe, residuals_at, solve_kinds

HALF = Rational(1, 2)
ENDS: tuple[Any, Any] = (S.Zero, S.One)  # rank one, full rank
# SGD + muP: a = (-1/2, 0, 1/2), b = 1/2 and s = g = (1/2, 1, 1/2), so that d = c + (0, 1, 1).
CHAIN = [
    (1, "update", "r_1 <= c_1", "r_1 <= d_1"),
    (1, "stable", "r_1 >= 0", "r_1 >= 0"),
    (2, "alpha", "r_2 <= c_2 + 1/4", "r_2 <= d_2 - alpha_2"),
    (2, "u", "r_2 <= c_2 + r_1 + 3/4", "r_2 <= d_2 + r_1 - u_2"),
    (2, "omega", "r_2 <= r_1 - 1/8", "r_2 <= a_2 + b_2 + r_1 - omega_2"),
    (2, "stable", "r_2 >= 0", "r_2 >= 0"),
    (3, "alpha", "r_3 <= c_3 + 1/4", "r_3 <= d_3 - alpha_3"),
    (3, "u", "r_3 <= c_3 + r_2 + 3/4", "r_3 <= d_3 + r_2 - u_3"),
    (3, "omega", "r_3 <= r_2 + 3/8", "r_3 <= a_3 + b_3 + r_2 - omega_3"),
    (3, "stable", "r_3 >= 0", "r_3 >= 0"),
    (3, "bounded", "c_3 >= 0", "d_3 >= a_3 + b_3"),
]


def test_constraints_by_hand() -> None:
    problem = prescribe("sgd", "mup", "alpha=3/4,omega=5/8,u=1/4").problem
    found = constraints(problem.chain())
    assert [(each.layer, each.term, str(each.relation), each.text) for each in found] == CHAIN
    assert [each.number for each in found] == list(range(1, 12))
    assert found[0].meaning == "embedding: the update itself" and found[8].meaning == "readout: W dz"
    free = constraints(replace(problem, loss="ce").chain())
    expected = [row for row in CHAIN if row[:2] not in ((3, "omega"), (3, "stable"))]
    assert [(each.layer, each.term) for each in free] == [row[:2] for row in expected]
    assert [str(each.relation) for each in free[6:]] == ["0 <= c_3 + 1/4", "0 <= c_3 + r_2 + 3/4", "c_3 >= 0"]
    assert [each.text for each in free[6:8]] == ["0 <= d_3 - alpha_3", "0 <= d_3 + r_2 - u_3"]


def test_the_general_constraints_of_a_mixture() -> None:
    """SGD with Muon on hidden layers: U of size n^-1/2 there, whose alignment is at most 1/2."""
    found = general_constraints(prescribe("sgd,hidden=muon").problem.optimizers)
    assert [(meaning, str(relation)) for meaning, relation in found] == [
        ("embedding: gradient", "Eq(g_1, a_1 + Min(a_{L+1} + b_{L+1}, 2*a_{L+1} + c_{L+1}))"),
        ("hidden: gradient", "Eq(g_l, a_l + Min(a_{L+1} + b_{L+1}, 2*a_{L+1} + c_{L+1}))"),
        ("readout: gradient", "Eq(g_{L+1}, a_{L+1})"),
        ("embedding: change", "Eq(r_1, a_1 + c_1 + g_1)"),
        (
            "hidden: change",
            "Eq(r_l, Min(a_l + b_l - omega_l + r_{l-1}, a_l + c_l - Min(1/2, alpha_l) + 1/2, "
            "a_l + c_l + r_{l-1} - Min(1/2, u_l) + 1/2))",
        ),
        (
            "readout: change",
            "Eq(r_{L+1}, Min(a_{L+1} - alpha_{L+1} + c_{L+1} + g_{L+1}, a_{L+1} + b_{L+1} - omega_{L+1} + r_L, "
            "a_{L+1} + c_{L+1} + g_{L+1} + r_L - u_{L+1}))",
        ),
        ("embedding: stable", "r_1 >= 0"),
        ("hidden: stable", "r_l >= 0"),
        ("readout: stable", "r_{L+1} >= 0"),
        ("readout: bounded update", "-b_{L+1} + c_{L+1} + g_{L+1} >= 0"),
    ]
    assert all(symbol.is_real for _, relation in found for symbol in relation.free_symbols)
    scaled = general_constraints(prescribe("adam-ps").problem.optimizers)
    assert [meaning for meaning, _ in scaled if "bounded" in meaning] == [
        f"{kind}: bounded update" for kind in ("embedding", "hidden", "readout")
    ]
    assert not any("bounded" in meaning for meaning, _ in general_constraints(prescribe("adam").problem.optimizers))


def test_layers_that_are_not_there_are_counted() -> None:
    with pytest.raises(DeriveError, match=r"names hidden\.5 but there are 2 .* give --layers 6 or more"):
        prescribe("adam", "sp", "hidden.3.u=1/2,hidden.5.u=1/2", hidden_layers=2)


def test_a_readout_that_has_moved_raises_the_updates_before_it() -> None:
    """SGD in SP at c = 0: the readout's own update is n^0, so that gradients of n^-1/2 become n^0."""
    problem = prescribe("sgd", "sp").problem
    assert problem.changes([S.Zero] * 3) == [0, 0, 0]
    assert problem.changes([S.Zero, S.Zero, S.One]) == [HALF, HALF, 1]


@pytest.mark.parametrize(("rule", "rate"), [("sgd", HALF), (Optimizer("g |g|", "g*abs(g)"), Rational(1, 3))])
def test_one_rate_is_held_back_by_the_gradients_that_the_readouts_update_leaves(rule: Any, rate: Any) -> None:
    """Initial readout weights of 1/n, which update by n^-c: gradients before it grow from 1/n to n^-c.

    Hidden updates of degree k, of size n^-c n^-k, become n^-c n^-kc; r = c + k c - 1 >= 0 where alpha = 1.
    """
    small = Parameterization("small readout", (S.Zero, S.Zero, S.Zero), (S.Zero, HALF, S.One))
    for layers in (1, 2):
        found = prescribe(
            rule, small, "readout.alpha=0,readout.u=0,readout.omega=0", hidden_layers=layers, global_rate=True
        )
        assert {*found.c} == {rate}


def test_depth_is_pointed_out_where_it_changes_the_rates() -> None:
    plain = solve_kinds(prescribe("adam", "sp").problem)
    assert (plain.notes, plain.per_layer, [str(c) for c in plain.c]) == ((), False, ["0", "1", "1"])
    deep = solve_kinds(prescribe("adam", "sp", "hidden.omega=3/4").problem)
    assert "give --layers N" in deep.notes[-1]
    assert solve_kinds(prescribe("adam", "mup").problem).notes == ()
    assert prescribe("sgd", "sp").notes == (), "its readout outgrows its initial weights, and g says so itself"


def test_symbols_are_known_to_be_at_most_one() -> None:
    """alpha - u = 1 - x >= 0 leaves no tie, on whichever layer; and a cap of 1 leaves a symbol as it is."""
    for where in ("u", "hidden.u", "readout.u"):
        assert prescribe("adam", "sp", f"{where}=x").unique is True
    assert prescribe("adam", "sp", "alpha=x").layers[1].alpha == Symbol("x", real=True)
    c = [Symbol(f"c_{layer}", real=True) for layer in (1, 2, 3)]
    residuals = residuals_at(prescribe("adam", "sp").problem, c)
    assert residuals[0] == c[0] and residuals[2].free_symbols == set(c)
    problem = prescribe("adam", "sp", "alpha=x,u=y").problem
    assert residuals_at(problem, prescribe("adam", "sp", "alpha=x,u=y").c) == [0, 0, 0], "in their shortest form"


def test_logits_may_diverge_under_cross_entropy_and_their_r_says_how() -> None:
    free = prescribe("adam", "sp", "readout.omega=1", loss="ce")
    assert [layer.r for layer in free.layers] == [0, 0, -HALF]
    assert [layer.r for layer in prescribe("adam", "sp", "readout.omega=1").layers] == [HALF, HALF, 0]


def test_arguments_by_name_and_by_place() -> None:
    assert prescribe(optimizer="adam", parameterization="sp", alignment="full").c == (0, 1, 1)
    with pytest.raises(TypeError):
        prescribe("adam", "sp", "full", 3)  # type: ignore[misc]


def test_where_the_rank_decides_the_other_end_is_named() -> None:
    """NorMuon's alignment is capped at full rank: the note says which option gives the other rate."""
    notes = prescribe("normuon", "sp").notes
    (said,) = [note for note in notes if note.startswith("hidden: c = ")]
    rates = {rank: prescribe("normuon", "sp").problem.optimizers["hidden"].at_rank(rank) for rank in ENDS}
    c = {rank: prescribe({"embedding": "adam", "readout": "adam", "hidden": each}).c[1] for rank, each in rates.items()}
    taken, option = (S.Zero, "full") if "rank one, as" in said.partition(";")[0] else (S.One, "one")
    assert f"hidden: c = {c[taken]} is" in said and f"c = {c[1 - taken]} (--rank {option})" in said
