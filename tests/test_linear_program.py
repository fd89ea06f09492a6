"""The exact program: its optimum is sympy's, its certificate refuses what is wrong, ties and conflicts are handled."""

from dataclasses import replace
from fractions import Fraction
from random import Random

import pytest
from sympy import Rational, Symbol
from sympy.solvers.simplex import lpmin

from verify.linear_program import ProgramError, Row, certify, minimise


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
    certify([1, 1], rows, found.values, found.duals)
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


def test_the_certificate_refuses_what_is_wrong():
    objective, rows = random_program(3)
    found = minimise(objective, rows)
    used = next(i for i, y in enumerate(found.duals) if y)
    worse = [*found.values[:-1], found.values[-1] + 1]
    lower = [found.values[0] - Fraction(1, 10**9), *found.values[1:]]
    other = list(found.duals)
    other[used] += Fraction(1, 1000)
    negative = [-y for y in found.duals]
    for values, duals in ((lower, found.duals), (found.values, other), (found.values, negative)):
        with pytest.raises(ProgramError, match="no certificate"):
            certify(objective, rows, values, duals)
    shifted = [replace(row, bound=row.bound - Fraction(1, 3)) for row in rows]
    with pytest.raises(ProgramError, match="no certificate"):
        certify(objective, shifted, found.values, found.duals)
    certify(objective, rows, found.values, found.duals)
    if any(sum(a * worse[j] for j, a in row.coefficients.items()) > row.bound for row in rows):
        with pytest.raises(ProgramError, match="violates"):
            certify(objective, rows, worse, found.duals)


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
