"""The closed form against an exact linear program that sees only the printed constraints."""

import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sympy import Expr, Rational
from sympy.solvers.simplex import InfeasibleLPError, UnboundedLPError, linprog

from derive.alignments import Alignment, Ratios
from derive.parameterizations import SCHEMES
from derive.propagation import Chain, Constraint, Problem, constraints, residuals
from derive.registry import REGISTRY, optimizer
from derive.solve import Prescription, solve

FAMILIES = [row.name for row in REGISTRY]
TERM = re.compile(r"(?P<name>alpha|omega|[abcdru])_(?P<layer>\d+)|(?P<number>\d+)")
Row = tuple[dict[str, Any], Any]


def rationals(low: int = 0) -> st.SearchStrategy[Expr]:
    return st.integers(low * 12, 12).map(lambda twelfths: Rational(twelfths, 12))


@st.composite
def problems(draw: Any, most_layers: int = 8, low: int = 0, families: Sequence[str] = tuple(FAMILIES)) -> Problem:
    layers = draw(st.integers(0, most_layers))
    ratios = st.builds(Ratios, rationals(low), rationals(low), rationals(low))
    mixture = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(families), min_size=3, max_size=3))
    rows = [optimizer(name if mixture else names[0]) for name in names]
    per_layer = {index: draw(ratios) for index in range(layers)}
    return Problem(
        optimizers={"embedding": rows[0], "hidden": rows[1], "readout": rows[2]},
        parameterization=draw(st.sampled_from(SCHEMES)),
        alignment=Alignment("random", Ratios(*[Rational(1, 2)] * 3), draw(ratios), per_layer),
        hidden_layers=layers,
        loss=draw(st.sampled_from(["mse", "ce"])),
        clip_global_norm=draw(st.booleans()),
    )


def rows_from_text(chain: Chain, printed: Sequence[str]) -> list[Row]:
    """Every printed constraint as (coefficients of c and r) <= right-hand side, read from its text alone.

    The text uses d_l = a_l + c_l + s_l; a, b, s and the alignments are the chain's numbers.
    """
    return [_row(chain, *re.split(r" (<=|>=) ", line)) for line in printed]


def _row(chain: Chain, left: str, relation: str, right: str) -> Row:
    sign = 1 if relation == "<=" else -1
    coefficients: dict[str, Any] = {}
    constant: Any = Rational(0)
    for side, direction in ((left, 1), (right, -1)):
        for match in TERM.finditer(side):
            negative = side[: match.start()].rstrip().endswith("-")
            weight = Rational(sign * direction * (-1 if negative else 1))
            name, layer = match["name"], match["layer"]
            if name is None:
                constant += weight * Rational(match["number"])
            elif name in "cr":
                coefficients[f"{name}_{layer}"] = coefficients.get(f"{name}_{layer}", Rational(0)) + weight
            elif name == "d":
                coefficients[f"c_{layer}"] = coefficients.get(f"c_{layer}", Rational(0)) + weight
                constant += weight * (chain.a[int(layer) - 1] + chain.s[int(layer) - 1])
            else:
                constant += weight * getattr(chain, name)[int(layer) - 1]
    return coefficients, -constant


def linear_program(chain: Chain, rows: Sequence[Row], objective: dict[str, Any] | None = None) -> Rational:
    """Least sum of c (or of `objective`) over the rows, exactly.

    Written in y >= 0, the way down from a point where everything is frozen: that point is feasible, so the solver
    needs no first phase (sympy 1.14's returns infeasible points where rows are degenerate). No y may end at 0,
    which would mean that the frozen point bounds the answer.
    """
    names = [f"{name}_{layer}" for name in "cr" for layer in range(1, chain.depth + 1)]
    weights = objective or {name: 1 for name in names if name.startswith("c")}
    high = 3 * chain.depth + 10
    start = {f"r_{layer}": Rational(high - layer) for layer in range(1, chain.depth + 1)}
    start |= {f"c_{layer}": high + 2 - chain.a[layer - 1] - chain.s[layer - 1] for layer in range(1, chain.depth + 1)}
    matrix = [[-row.get(name, 0) for name in names] for row, _ in rows]
    slacks = [slack(row, start) for row in rows]
    if min(slacks) < 0:
        raise InfeasibleLPError
    most, down = linprog([-weights.get(name, 0) for name in names], matrix, slacks)
    if any(y == 0 for name, y in zip(names, down, strict=True) if weights.get(name)):
        raise UnboundedLPError
    return sum(weight * start[name] for name, weight in weights.items()) + most


def values(answer: Prescription) -> dict[str, Expr]:
    r = residuals_at_initial_gradients(answer, answer.c)
    return {
        **{f"c_{index}": c for index, c in enumerate(answer.c, 1)},
        **{f"r_{index}": value for index, value in enumerate(r, 1)},
    }


def residuals_at_initial_gradients(answer: Prescription, c: Sequence[Expr]) -> list[Expr]:
    chain = answer.chain
    d = [a + rate + s for a, rate, s in zip(chain.a, c, chain.s, strict=True)]
    return residuals(chain.a, chain.b, d, chain.alpha, chain.omega, chain.u)


def slack(row: Row, at: dict[str, Expr]) -> Expr:
    coefficients, bound = row
    return bound - sum((weight * at[name] for name, weight in coefficients.items()), Rational(0))


def printed(chain: Chain) -> list[str]:
    return [each.text for each in constraints(chain)]


@pytest.mark.parametrize(("examples", "layers"), [(40, 6), pytest.param(150, 18, marks=pytest.mark.slow)])
def test_objective_equals_the_exact_linear_program(examples: int, layers: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(problems(layers, low=-1))
    def holds(problem: Problem) -> None:
        answer = solve(problem)
        assert sum(answer.c) == linear_program(answer.chain, rows_from_text(answer.chain, printed(answer.chain)))

    holds()


@settings(max_examples=60, deadline=None)
@given(problems())
def test_binding_constraints_are_printed_and_tight_and_the_solution_is_feasible(problem: Problem) -> None:
    answer = solve(problem)
    lines = printed(answer.chain)
    at = values(answer)
    assert all(slack(row, at) >= 0 for row in rows_from_text(answer.chain, lines))
    for layer in answer.layers:
        assert layer.binding
        assert set(layer.binding) <= set(lines)
        assert all(slack(row, at) == 0 for row in rows_from_text(answer.chain, layer.binding))


@settings(max_examples=40, deadline=None)
@given(problems(), st.data())
def test_lowering_any_single_c_breaks_a_constraint(problem: Problem, data: Any) -> None:
    answer = solve(problem)
    index = data.draw(st.integers(0, answer.chain.depth - 1))
    lowered = list(answer.c)
    lowered[index] -= Rational(1, 1000)
    at = {f"c_{layer}": c for layer, c in enumerate(lowered, 1)}
    at |= {f"r_{layer}": r for layer, r in enumerate(residuals_at_initial_gradients(answer, lowered), 1)}
    assert any(slack(row, at) < 0 for row in rows_from_text(answer.chain, printed(answer.chain)))


@pytest.mark.parametrize(("examples", "layers"), [(25, 2), pytest.param(60, 5, marks=pytest.mark.slow)])
def test_uniqueness_is_what_the_linear_program_says(examples: int, layers: int) -> None:
    """Unique means that tilting the objective towards any single c leaves the optimum where it is."""
    settings(max_examples=examples, deadline=None)(given(problems(layers))(check_uniqueness))()


def check_uniqueness(problem: Problem) -> None:
    answer = solve(problem)
    chain = answer.chain
    rows = rows_from_text(chain, printed(chain))
    moves = False
    for layer, c in enumerate(answer.c, 1):
        for tilt in (Rational(1, 10**6), Rational(-1, 10**6)):
            weights = {f"c_{other}": 1 + tilt if other == layer else 1 for other in range(1, chain.depth + 1)}
            moves = moves or linear_program(chain, rows, weights) != sum(answer.c) + tilt * c
    # Past the rule that keeps the gradients small the linear program does not see.
    paid = sum(growth for growth in chain.growth[:-1] if growth > 0)
    gradient_tie = chain.bounded[-1] and not moves and paid >= 1 and answer.unique is False
    if not gradient_tie:
        assert answer.unique is not moves


def test_sgd_mup_none_without_hidden_layers_ties() -> None:
    """By hand: lowering the readout's c by t raises the embedding's gradient, and its c, by t.

    See docs/theory.md, section 5.
    """
    from derive.solve import prescribe

    assert prescribe("sgd", "mup", "none", hidden_layers=0).unique is False
    assert prescribe("sgd", "mup", "none", hidden_layers=1).unique is True


MUTATIONS = {
    "alpha enters with the other sign": ("- alpha_", "+ alpha_"),
    "u enters with the other sign": ("- u_", "+ u_"),
    "omega enters with the other sign": ("- omega_", "+ omega_"),
    "r of the layer before is subtracted": ("+ r_", "- r_"),
    "b is subtracted": ("+ b_", "- b_"),
    "alpha and omega are swapped": ("alpha", "omega"),
    "u and alpha are swapped": ("- u_", "- alpha_"),
    "the residual may be negative": ("0", "1"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_oracle_notices_a_wrong_constraint(mutation: str) -> None:
    """Each mutated program disagrees with the closed form on at least one of a fixed set of random chains."""
    old, new = MUTATIONS[mutation]
    assert any(_differs(chain, [line.replace(old, new) for line in printed(chain)]) for chain in _sample_chains())


@pytest.mark.parametrize("coefficient", [Rational(1, 2), Rational(2)])
@pytest.mark.parametrize("variable", ["c", "r"])
def test_the_oracle_notices_a_wrong_coefficient(variable: str, coefficient: Rational) -> None:
    def mutated(chain: Chain) -> list[Row]:
        rows = []
        for coefficients, bound in rows_from_text(chain, printed(chain)):
            last = max(coefficients, key=lambda name: (name.startswith(variable), -coefficients[name]))
            changed = {
                n: w * coefficient if n == last and len(coefficients) > 1 else w for n, w in coefficients.items()
            }
            rows.append((changed, bound))
        return rows

    assert any(_objective(chain, mutated(chain)) != sum(_solved(chain)) for chain in _sample_chains())


def test_the_oracle_accepts_the_right_constraints() -> None:
    assert not any(_differs(chain, printed(chain)) for chain in _sample_chains())


def _sample_chains() -> list[Chain]:
    import random

    generator = random.Random(0)
    chains = []
    for index in range(12):
        ratio = lambda: Ratios(*(Rational(generator.randint(0, 12), 12) for _ in range(3)))  # noqa: E731
        problem = Problem(
            optimizers=dict.fromkeys(("embedding", "hidden", "readout"), REGISTRY[index % len(REGISTRY)]),  # type: ignore[arg-type]
            parameterization=SCHEMES[index % 4],
            alignment=Alignment("random", ratio(), ratio(), {i: ratio() for i in range(3)}),
            hidden_layers=3,
        )
        chains.append(problem.chain())
    return chains


def _solved(chain: Chain) -> list[Expr]:
    from derive.recursion import largest_rates

    return largest_rates(chain.a, chain.b, chain.s, chain.alpha, chain.omega, chain.u, chain.bounded)[0]


def _objective(chain: Chain, rows: list[Row]) -> Rational | None:
    try:
        return linear_program(chain, rows)
    except (InfeasibleLPError, UnboundedLPError):
        return None


def _differs(chain: Chain, lines: list[str]) -> bool:
    return _objective(chain, rows_from_text(chain, lines)) != sum(_solved(chain))


@settings(max_examples=60, deadline=None)
@given(problems(most_layers=6))
def test_relations_say_what_the_text_says(problem: Problem) -> None:
    """The sympy relations and the printed text of every constraint agree at random points."""
    chain = problem.chain()
    for each, row in zip(constraints(chain), rows_from_text(chain, printed(chain)), strict=True):
        assert _relation_row(each) == ({n: w for n, w in row[0].items() if w != 0}, row[1])


def _relation_row(each: Constraint) -> Row:
    sign = 1 if type(each.relation).__name__ == "LessThan" else -1
    difference = (sign * (each.relation.lhs - each.relation.rhs)).expand()
    coefficients = {symbol.name: difference.coeff(symbol) for symbol in difference.free_symbols}
    return coefficients, -difference.subs(dict.fromkeys(difference.free_symbols, 0))


@settings(max_examples=60, deadline=None)
@given(problems(most_layers=6))
def test_fractions_and_floats_follow_the_same_recursion(problem: Problem) -> None:
    from derive.recursion import largest_rates

    chain = replace(problem, loss="mse").chain()
    ratios = [(0, *values[1:]) for values in (chain.alpha, chain.omega, chain.u)]
    sequences = [chain.a, chain.b, chain.s, *ratios]
    a, b, sizes, alpha, omega, u = [[Fraction(str(x)) for x in values] for values in sequences]
    exact = largest_rates(a, b, sizes, alpha, omega, u, chain.bounded)
    a, b, sizes, alpha, omega, u = [[float(x) for x in values] for values in sequences]
    floats = largest_rates(a, b, sizes, alpha, omega, u, chain.bounded)
    assert [str(c) for c in exact[0]] == [str(c) for c in _solved(chain)]
    assert all(abs(float(c) - f) < 1e-12 for c, f in zip(exact[0], floats[0], strict=True))
