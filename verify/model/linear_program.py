"""A linear program in exact numbers: solved in floats, made exact at its vertex, and certified by its dual.

    minimise objective . x   where every row has  sum_j coefficients_j x_j <= bound,   x free

The float solver is not believed: its answer is made exact, and `derive.certify` has to accept it with its duals.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack

from derive.certify import Certificate, check
from derive.errors import UserError
from derive.programs import Program, plain
from derive.programs import Row as NamedRow

TIGHT = 1e-7
"""A row this near to equality in floats is taken to hold with it, until exact numbers say otherwise."""


class ProgramError(UserError):
    """What was given and what to do, in one line."""


@dataclass(frozen=True)
class Row:
    """sum_j coefficients[j] x_j <= bound; the name is for certificates and errors."""

    coefficients: Mapping[int, int]
    bound: Fraction
    name: str = ""


@dataclass(frozen=True)
class Solution:
    """Exact optimal x, the dual y of every row, the optimum, and the indices of the rows that hold with equality.

    `certificate` is what `derive.certify.check` accepted: the program, the duals of both objectives, what fixes which
    variable.
    """

    values: tuple[Fraction, ...]
    duals: tuple[Fraction, ...]
    optimum: Fraction
    tight: tuple[int, ...]
    certificate: Certificate = field(repr=False)


def minimise(
    objective: Sequence[int], rows: Sequence[Row], then: Sequence[int] | None = None, names: Sequence[str] | None = None
) -> Solution:
    """The x that minimises objective . x, and among those one that minimises then . x; certified.

    `names` are those of the variables in the certificate. ProgramError where no x keeps the rows and where the
    objective has no minimum; `derive.certify.Refused` where exact numbers do not confirm the solver's vertex.
    """
    x, y = floats(objective, rows)
    duals = _exact_duals(objective, rows, y)
    second = [Fraction(0)] * len(rows)
    if then is not None:
        # Optimal are exactly the x that keep the rows of positive dual with equality.
        used = [index for index, dual in enumerate(duals) if dual]
        kept = [*rows, *(_turned(rows[index]) for index in used)]
        x, last = floats(then, kept)
        found = _exact_duals(then, kept, last)
        second = list(found[: len(rows)])
        for index, turned in zip(used, found[len(rows) :], strict=True):
            second[index] -= turned
    values = _exact_vertex(len(objective), rows, x)
    proof = certificate(objective, rows, then, values, duals, second, names)
    check(proof)
    tight = tuple(i for i, row in enumerate(rows) if _left(row, values) == row.bound)
    return Solution(tuple(values), duals, Fraction(proof.optimum), tight, proof)


def _turned(row: Row) -> Row:
    return replace(row, coefficients={j: -a for j, a in row.coefficients.items()}, bound=-row.bound)


def certificate(
    objective: Sequence[int],
    rows: Sequence[Row],
    then: Sequence[int] | None,
    values: Sequence[Fraction],
    duals: Sequence[Fraction],
    second: Sequence[Fraction],
    names: Sequence[str] | None = None,
) -> Certificate:
    """The answer with its duals for the checker, rows and variables by name; nothing is checked here."""
    names = names or [f"x_{j}" for j in range(len(objective))]
    named = [f"{index}: {row.name}" for index, row in enumerate(rows)]
    program = Program(
        {name: weight for name, weight in zip(names, objective, strict=True) if weight},
        {name: weight for name, weight in zip(names, then or [0] * len(names), strict=True) if weight},
        tuple(
            NamedRow(name, {names[j]: a for j, a in row.coefficients.items()}, plain(row.bound))
            for name, row in zip(named, rows, strict=True)
        ),
    )
    fixed_by: dict[str, list[str]] = {name: [] for name in program.objective}
    for row, dual in zip(program.rows, duals, strict=True):
        for name in row.coefficients:
            if dual and name in fixed_by:
                fixed_by[name].append(row.name)
    reached = (
        sum((Fraction(c) * v for c, v in zip(weights, values, strict=True)), Fraction(0))
        for weights in (objective, then or [0] * len(names))
    )
    return Certificate(
        program,
        {name: plain(value) for name, value in zip(names, values, strict=True)},
        *map(plain, reached),
        duals={name: plain(y) for name, y in zip(named, duals, strict=True) if y},
        second={name: plain(y) for name, y in zip(named, second, strict=True) if y},
        binding={name: tuple(rows) for name, rows in fixed_by.items()},
        residuals={},
    )


def _left(row: Row, values: Sequence[Fraction]) -> Fraction:
    return sum((a * values[j] for j, a in row.coefficients.items()), Fraction(0))


def floats(objective: Sequence[int], rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The x that minimises objective . x and the dual y of every row, in floats and without proof: HiGHS.

    x has an entry per variable, y one per row. ProgramError naming rows in conflict, and where there is no minimum.
    """
    entries = [(i, j, a) for i, row in enumerate(rows) for j, a in row.coefficients.items()]
    at = np.array([entry[:2] for entry in entries], dtype=int).reshape(-1, 2).T
    matrix = csr_matrix(([entry[2] for entry in entries], at), shape=(len(rows), len(objective)))
    bound = np.array([float(row.bound) for row in rows])
    answer = linprog(np.array(objective, dtype=float), A_ub=matrix, b_ub=bound, bounds=(None, None), method="highs-ds")
    if answer.status == 2:
        raise ProgramError(
            f"no solution keeps every constraint, among them {_conflict(matrix, bound, rows)}; relax one of them"
        )
    if answer.status != 0:
        raise ProgramError(
            f"the program has no minimum ({' '.join(str(answer.message).split())[:80]}); bound its variables"
        )
    return answer.x, -answer.ineqlin.marginals


def _conflict(matrix: csr_matrix, bound: np.ndarray, rows: Sequence[Row]) -> str:
    """Rows that cannot hold together: those with a share in the least total violation."""
    count, size = len(rows), matrix.shape[1]  # type: ignore[index]
    slack = csr_matrix((-np.ones(count), (np.arange(count), np.arange(count))), shape=(count, count))
    limits = [(None, None)] * size + [(0, None)] * count
    answer = linprog(
        np.r_[np.zeros(size), np.ones(count)],
        A_ub=hstack([matrix, slack]).tocsr(),
        b_ub=bound,
        bounds=limits,
        method="highs-ds",
    )
    shares = -answer.ineqlin.marginals
    return ", ".join(rows[i].name for i in np.argsort(-shares)[:3] if shares[i] > TIGHT)


def _exact_vertex(size: int, rows: Sequence[Row], x: np.ndarray) -> list[Fraction]:
    """The point where the rows that are tight in floats all hold with equality."""
    near = [row for row in rows if abs(sum(a * x[j] for j, a in row.coefficients.items()) - float(row.bound)) < TIGHT]
    return _solve(size, [(dict(row.coefficients), row.bound) for row in near], x)


def _exact_duals(objective: Sequence[int], rows: Sequence[Row], y: np.ndarray) -> tuple[Fraction, ...]:
    """The y of the rows with a positive dual that balance the objective: they are few, and mostly whole numbers."""
    simple = [Fraction(round(float(each) * 5040), 5040) if each > TIGHT else Fraction(0) for each in y]
    if _balance(objective, rows, simple):
        return tuple(simple)
    used = [i for i, each in enumerate(y) if each > TIGHT]
    equations: dict[int, dict[int, int]] = {}
    for place, i in enumerate(used):
        for variable, coefficient in rows[i].coefficients.items():
            equations.setdefault(variable, {})[place] = coefficient
    balanced = [(equation, Fraction(-objective[variable])) for variable, equation in equations.items()]
    solved = _solve(len(used), balanced, y[used])
    found = [Fraction(0)] * len(rows)
    for i, value in zip(used, solved, strict=True):
        found[i] = value
    return tuple(found)


def _balance(objective: Sequence[int], rows: Sequence[Row], duals: Sequence[Fraction]) -> bool:
    gradient = [Fraction(c) for c in objective]
    for row, y in zip(rows, duals, strict=True):
        if y:
            for variable, coefficient in row.coefficients.items():
                gradient[variable] += y * coefficient
    return not any(gradient)


def _solve(size: int, equations: Iterable[tuple[Mapping[int, int], Fraction]], near: np.ndarray) -> list[Fraction]:
    """The exact solution of sparse equations: Gauss and Jordan, fewest unknowns first; dependent equations drop out.

    What the equations leave free is the fraction nearest to the float.
    """
    pivots: dict[int, tuple[dict[int, Fraction], Fraction]] = {}
    waiting = sorted(
        ((len(equation), index, equation, bound) for index, (equation, bound) in enumerate(equations)),
        key=lambda e: e[:2],
    )
    for _, _, equation, bound in waiting:
        left = {variable: Fraction(a) for variable, a in equation.items() if a}
        right = bound
        while (known := next((variable for variable in left if variable in pivots), None)) is not None:
            right = _eliminate(left, right, known, pivots)
        if left:
            variable = min(left)
            scale = left.pop(variable)
            pivots[variable] = ({v: a / scale for v, a in left.items()}, right / scale)
    values: dict[int, Fraction] = {}

    def value(start: int) -> Fraction:
        stack = [start]
        while stack:
            top = stack[-1]
            if top in values:
                stack.pop()
            elif top not in pivots:
                values[top] = Fraction(float(near[top])).limit_denominator(10**6)
            else:
                left, right = pivots[top]
                missing = [v for v in left if v not in values]
                if missing:
                    stack += missing
                else:
                    values[top] = right - sum((a * values[v] for v, a in left.items()), Fraction(0))
        return values[start]

    return [value(variable) for variable in range(size)]


def _eliminate(
    left: dict[int, Fraction],
    right: Fraction,
    variable: int,
    pivots: Mapping[int, tuple[dict[int, Fraction], Fraction]],
) -> Fraction:
    """Put in what the pivot equation says of the variable."""
    factor = left.pop(variable)
    others, bound = pivots[variable]
    for v, a in others.items():
        new = left.get(v, Fraction(0)) - factor * a
        if new:
            left[v] = new
        else:
            left.pop(v, None)
    return right - factor * bound
