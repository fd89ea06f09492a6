"""The exact program: its optimum is sympy's, its certificate refuses what is wrong, ties and conflicts are handled."""

import json
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
from sympy import Rational, Symbol
from sympy.solvers.simplex import lpmin

import verify
from derive import certificate_file
from derive.certify import Refused, check
from tests.derive.test_certify import corrupted
from tests.helpers.zoo import ZOO
from verify.model import linear_program as linear_program
from verify.model.linear_program import ProgramError, Row, minimise


def random_program(seed: int, size: int = 3) -> tuple[list[int], list[Row]]:
    """Rates c and residuals r as in a graph: r <= c + k, r_v <= r_w + k, r_v <= c + r_w + k, r >= 0."""
    random = Random(seed)

    def number() -> Fraction:
        return Fraction(random.randint(-14, 14), random.choice([1, 2, 3, 7, 10]))

    rows = []
    for v in range(size):
        rows.append(Row({size + v: 1, v: -1}, number(), f"update {v}"))
        rows.append(Row({size + v: -1}, Fraction(0), f"stable {v}"))
        for w in range(v):
            if random.random() < 0.7:
                rows.append(Row({size + v: 1, size + w: -1}, number(), f"sum {v} {w}"))
            if random.random() < 0.7:
                rows.append(Row({size + v: 1, v: -1, size + w: -1}, number(), f"both {v} {w}"))
    return [1] * size + [0] * size, rows


def optimum_of_sympy(objective: list[int], rows: list[Row]) -> Fraction:
    x = [Symbol(f"x_{j}") for j in range(len(objective))]
    total = sum(c * v for c, v in zip(objective, x, strict=True))
    kept = [
        sum(a * x[j] for j, a in row.coefficients.items()) <= Rational(*row.bound.as_integer_ratio()) for row in rows
    ]
    value, _ = lpmin(total, kept)
    return Fraction(int(value.p), int(value.q))


@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_is_that_of_an_exact_simplex(seed: int):
    objective, rows = random_program(seed)
    found = minimise(objective, rows, [1 - c for c in objective])
    assert found.optimum == optimum_of_sympy(objective, rows)
    assert found.tight == tuple(
        i for i, row in enumerate(rows) if sum(a * found.values[j] for j, a in row.coefficients.items()) == row.bound
    )


def test_decimals_stay_exact():
    rows = [
        Row({0: -1}, Fraction("-0.1234567")),
        Row({0: 1, 1: -1}, Fraction("0.7654321")),
        Row({0: -1, 1: -2}, Fraction("-1.0000001")),
    ]
    found = minimise([1, 1], rows)
    assert found.values == (Fraction("0.1234567"), Fraction(10000001 - 1234567, 20000000))


def test_among_ties_the_second_objective_decides():
    rows = [Row({0: -1, 1: -1}, Fraction(-1)), Row({0: -1}, Fraction(0)), Row({1: -1}, Fraction(0))]
    assert minimise([1, 1], rows, [0, 1]).values == (1, 0)
    assert minimise([1, 1], rows, [1, 0]).values == (0, 1)


def test_a_conflict_is_named_and_so_is_a_missing_bound():
    with pytest.raises(ProgramError, match=r"among them (low, high|high, low)"):
        minimise([1], [Row({0: -1}, Fraction(-2), "low"), Row({0: 1}, Fraction(1), "high")])
    with pytest.raises(ProgramError, match="no minimum"):
        minimise([1, 1], [Row({0: -1, 1: 1}, Fraction(0))])


MISTAKES: dict[str, tuple[str, Any]] = {
    "the vertex moved": ("_exact_vertex", lambda found: [found[0] + Fraction(1, 10**9), *found[1:]]),
    "the vertex moved down": ("_exact_vertex", lambda found: [*found[:-1], found[-1] - 1]),
    "a dual moved": ("_exact_duals", lambda found: tuple(y and y + Fraction(1, 1000) for y in found)),
    "duals of the other sign": ("_exact_duals", lambda found: tuple(-y for y in found)),
    "no duals": ("_exact_duals", lambda found: tuple(Fraction(0) for _ in found)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_answer_that_exact_numbers_do_not_confirm_is_refused(mistake: str, monkeypatch: pytest.MonkeyPatch):
    name, change = MISTAKES[mistake]
    right = getattr(linear_program, name)
    monkeypatch.setattr(linear_program, name, lambda *args: change(right(*args)))
    for seed in range(10):
        objective, rows = random_program(seed)
        with pytest.raises(Refused):
            minimise(objective, rows, [1 - c for c in objective])


def test_a_vertex_that_is_not_the_least_of_its_ties_is_refused(monkeypatch: pytest.MonkeyPatch):
    """The first objective is the same at both ends: only the second certificate can tell."""
    rows = [Row({0: -1, 1: -1}, Fraction(-1)), Row({0: -1}, Fraction(0)), Row({1: -1}, Fraction(0))]
    for then, wrong in (([0, 1], [0, 1]), ([1, 0], [1, 0])):
        with monkeypatch.context() as patched:
            patched.setattr(linear_program, "_exact_vertex", lambda *_, wrong=wrong: list(map(Fraction, wrong)))
            with pytest.raises(Refused, match="second duals prove 0 only"):
                minimise([1, 1], rows, then)


def test_the_second_duals_are_those_of_the_second_objective():
    """Left out, or those of the first, they prove nothing."""
    for seed in range(10):
        objective, rows = random_program(seed)
        proof = minimise(objective, rows, [1 - c for c in objective]).certificate
        assert check(proof)
        for second in ({}, proof.duals):
            with pytest.raises(Refused, match="second dual"):
                check(replace(proof, second=second))


def test_what_binds_has_a_dual_and_the_variable():
    objective, rows = random_program(3)
    found = minimise(objective, rows, [1 - c for c in objective])
    for j, weight in enumerate(objective):
        names = found.certificate.binding.get(f"x_{j}")
        assert bool(names) == bool(weight)
        for name in names or ():
            index = int(name.partition(":")[0])
            assert found.duals[index] > 0 and index in found.tight and j in rows[index].coefficients


def test_a_long_program_is_solved_exactly():
    """300 layers with a residual stream: the closed form is known, c = 1/3 each and r = 0."""
    size = 300
    rows = [Row({size + v: 1, v: -1}, Fraction(-1, 3)) for v in range(size)]
    rows += [Row({size + v: 1, size + v - 1: -1}, Fraction(0)) for v in range(1, size)]
    rows += [Row({size + v: 1, v: -1, size + v - 1: -1}, Fraction(-1, 3)) for v in range(1, size)]
    rows += [Row({2 * size - 1: -1}, Fraction(0))]
    found = minimise([1] * size + [0] * size, rows, [0] * size + [1] * size)
    assert set(found.values[:size]) == {Fraction(1, 3)}
    assert set(found.values[size:]) == {0}


def test_equations_are_solved_exactly_and_what_they_leave_free_is_the_nearest_fraction():
    """2x + 3y + z = 9 and 4x + 5y + 3z = 19 at z = 1/3: x = 16/3 and y = -2/3; the third is their sum."""
    equations = [({0: 2, 1: 3, 2: 1}, 9), ({0: 4, 1: 5, 2: 3}, 19), ({0: 6, 1: 8, 2: 4}, 28), ({2: 0}, 0)]
    floats = np.array([5.3333333, -0.6666666, 0.33333333333])
    for some in (equations, equations[:2]):
        assert linear_program._solve(3, [(each, Fraction(right)) for each, right in some], floats) == [
            Fraction(16, 3),
            Fraction(-2, 3),
            Fraction(1, 3),
        ]


def test_duals_that_are_no_simple_fractions_are_found_exactly():
    """minimise x + y + z under 1000003 x >= 1, 11 y >= x and 2 z >= y + 1: duals over 1000003."""
    rows = [Row({0: -1000003}, Fraction(-1)), Row({1: -11, 0: 1}, Fraction(0)), Row({2: -2, 1: 1}, Fraction(-1))]
    found = minimise([1, 1, 1], rows)
    z = Fraction(1, 2)
    y = (1 + z) / 11
    assert found.duals == ((1 + y) / 1000003, y, z)
    x = Fraction(1, 1000003)
    assert found.values == (x, x / 11, (1 + x / 11) / 2)


GRAPHS = ("two inputs", "experts", "recurrent")


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graphs_certificate_is_read_back_and_a_changed_one_refused(name: str):
    """60 changes of one number or name of each model's proof: refused, or in a row on which the proof does not rest."""
    model, random = ZOO[name], Random(name)
    proof = verify.prescribe(model.make, base_width=model.base_width, width=model.width, alignment="full").proof
    assert proof is not None
    text = certificate_file.as_text(proof)
    assert check(certificate_file.read(text)).startswith("the certificate holds")
    before, refused = json.loads(text), 0
    for _ in range(60):
        changed, place = corrupted(before, random)
        try:
            check(certificate_file.read(json.dumps(changed)))
        except Refused:
            refused += 1
            continue
        if place[0] == "problem":
            # Only a row that no dual rests on, and that still holds: the optimum is proved from the others.
            assert place[1] == "rows", (place, changed)
            index: int = place[2]  # type: ignore[misc]
            row = (changed if len(place) > 3 else before)["problem"]["rows"][index]
            rests = {
                *changed["duals"],
                *changed["second"],
                *(n for names in changed["binding"].values() for n in names),
            }
            assert row["name"] not in rests
            left = sum(Fraction(a) * Fraction(changed["values"][x]) for x, a in row["coefficients"].items())
            assert left <= Fraction(row["bound"])
        else:
            assert place[0] == "binding", (place, changed)
    assert refused >= 30
