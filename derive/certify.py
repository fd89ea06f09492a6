"""Check a certificate: a page of exact arithmetic that shares nothing with what found the answer.

    x keeps every row      y >= 0      A^T y = -f      f . x = -y . bound

Then f . x >= -y . bound for whatever keeps the rows, so that x is optimal (Dantzig 1963, duality). The optima are the
x that keep the rows of positive y with equality; a second y, of either sign on those, proves in the same way that among
them x has the least f' . x. Rows said to fix a rate have to be tight and to hold that rate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from derive.programs import ChainProblem, Number, Program, Values, common_denominator, determined, plain, total


class Refused(Exception):  # noqa: N818
    """What the certificate gets wrong, in one line. Of an answer just found it is a mistake of the solver."""


@dataclass(frozen=True)
class Certificate:
    """An answer and its proof; variables and rows by name, rows without a dual have 0.

    `least` is the second objective's value; `binding` names for every rate the rows that fix it; `residuals` are
    section 4's r_l at these rates (chains only). `unique` says whether other rates reach the optimum (None: not said),
    and `other` are such rates, of the program in which the readout may raise the gradients.
    """

    problem: ChainProblem | Program
    values: Values
    optimum: Number
    least: Number
    duals: Values
    second: Values
    binding: Mapping[str, tuple[str, ...]]
    residuals: Values
    unique: bool | None = None
    other: Values | None = None

    def fixing(self, index: int) -> tuple[str, ...]:
        """The rows that fix the rate of a chain's layer, counted from 0."""
        problem = self.problem
        return self.binding[problem.rate(index)] if isinstance(problem, ChainProblem) else ()


def check(certificate: Certificate) -> str:
    """Prove the certificate; one line that says what holds. Refused, naming what fails, otherwise."""
    said_optimum = certificate.optimum
    certificate = in_whole_numbers(certificate)
    problem = certificate.problem
    program = problem.program() if isinstance(problem, ChainProblem) else problem
    names = {row.name for row in program.rows}
    if len(names) < len(program.rows):
        raise Refused("two rows of the program have one name")
    if certificate.values.keys() != program.variables():
        odd = min(certificate.values.keys() ^ program.variables())
        raise Refused(f"the values are not those of the program's variables: {odd}")
    feasible(program, certificate.values)
    optimal(program.objective, program, certificate.values, certificate.duals, certificate.optimum)
    optimal(program.then, program, certificate.values, certificate.second, certificate.least, certificate.duals)
    _tight(program, certificate)
    rates = sorted(program.objective)
    if isinstance(problem, ChainProblem):
        _residuals(program, certificate)
        if certificate.unique is None:
            raise Refused("it does not say whether the optimum is unique")
    if certificate.unique:
        fixed = [row for row in program.rows if certificate.duals.get(row.name, 0) > 0]
        if left := determined(fixed, rates):
            raise Refused(
                f"the optimum is said to be unique, and the rows that every optimum keeps leave {left[0]} free"
            )
        if certificate.other is not None:
            raise Refused("the optimum is said to be unique, and other rates are given")
    elif certificate.unique is False:
        _tied(certificate, rates)
    elif certificate.other is not None:
        raise Refused("other rates are given, and it is not said that they reach the optimum")
    said = {True: ", and no other rates reach it", False: ", and other rates reach it too", None: ""}
    optimum = f"{said_optimum} is the least sum of {len(rates)} exponents under {len(names)} constraints"
    return f"the certificate holds: {optimum}{said[certificate.unique]}"


def in_whole_numbers(certificate: Certificate) -> Certificate:
    """The same certificate with every c and r as many times as large as makes them whole, for speed."""
    mappings = [certificate.values, certificate.residuals, certificate.other or {}]
    numbers = [certificate.optimum, certificate.least, *certificate.problem.numbers()]
    factor = common_denominator([*numbers, *(value for mapping in mappings for value in mapping.values())]) or 1
    values, residuals, other = ({name: plain(x * factor) for name, x in each.items()} for each in mappings)
    return replace(
        certificate,
        problem=certificate.problem.scaled(factor),
        values=values,
        optimum=plain(certificate.optimum * factor),
        least=plain(certificate.least * factor),
        residuals=residuals,
        other=None if certificate.other is None else other,
    )


def feasible(program: Program, values: Values) -> None:
    """Refused, naming the row, where the values violate one."""
    for row in program.rows:
        if row.slack(values) < 0:
            raise Refused(f"the values violate {row.name}")


def optimal(
    objective: Values, program: Program, values: Values, duals: Values, claimed: Number, kept: Values | None = None
) -> None:
    """Refused unless the duals prove that feasible values minimise the objective, at the claimed minimum.

    With `kept`, among the values that keep its rows of positive dual with equality.
    """
    which = "dual" if kept is None else "second dual"
    rows = {row.name: row for row in program.rows}
    gradient = dict(objective)
    bound: Number = 0
    for name, y in duals.items():
        row = rows.get(name)
        if row is None:
            raise Refused(f"there is no constraint {name}, which has a {which}")
        if y < 0 and not (kept and kept.get(name, 0) > 0):
            raise Refused(f"the {which} of {name} is negative")
        bound -= y * row.bound
        for variable, coefficient in row.coefficients.items():
            gradient[variable] = gradient.get(variable, 0) + y * coefficient
    for variable, left in gradient.items():
        if left:
            raise Refused(f"the {which}s do not balance the objective at {variable}")
    reached = total(objective, values)
    if reached != claimed:
        raise Refused(f"the objective is {reached}, and {claimed} is claimed")
    if reached != bound:
        raise Refused(f"the objective is {reached}, and its {which}s prove {bound} only")


def _tight(program: Program, certificate: Certificate) -> None:
    rows = {row.name: row for row in program.rows}
    if certificate.binding.keys() != program.objective.keys():
        odd = min(certificate.binding.keys() ^ program.objective.keys())
        raise Refused(f"what fixes the rates is not said of each: {odd}")
    for rate, names in certificate.binding.items():
        for name in names:
            if name not in rows:
                raise Refused(f"there is no constraint {name}, which is said to fix {rate}")
            if rows[name].slack(certificate.values):
                raise Refused(f"{name} is said to fix {rate}, and is not tight")
        if not any(rate in rows[name].coefficients for name in names):
            raise Refused(f"no constraint that is said to fix {rate} has it")


def _residuals(program: Program, certificate: Certificate) -> None:
    """The r_l claimed have to be the smallest of their terms, at the rates and the r claimed before."""
    if certificate.residuals.keys() != program.then.keys():
        raise Refused("the residuals are not those of the layers whose change has to stay finite")
    rates = {name: value for name, value in certificate.values.items() if name in program.objective}
    at = {**rates, **certificate.residuals}
    terms: dict[str, list[Number]] = {name: [] for name in at}
    for row in program.rows:
        for variable, coefficient in row.coefficients.items():
            if coefficient > 0:
                terms[variable].append(row.slack(at))
    for name in certificate.residuals:
        if min(terms[name], default=None) != 0:
            raise Refused(f"{name} = {at[name]} is not the smallest of its terms")


def _tied(certificate: Certificate, rates: list[str]) -> None:
    other, problem = certificate.other, certificate.problem
    program = problem.program(ruled=False) if isinstance(problem, ChainProblem) else problem
    if other is None or other.keys() != certificate.values.keys():
        raise Refused("the optimum is said not to be unique, and no other values are given")
    try:
        feasible(program, other)
    except Refused as error:
        raise Refused(f"other rates are said to reach the optimum: {error}") from None
    reached = total(program.objective, other)
    if reached != certificate.optimum:
        raise Refused(f"other rates are said to reach {certificate.optimum}, and reach {reached}")
    if all(other[rate] == certificate.values[rate] for rate in rates):
        raise Refused("other rates are said to reach the optimum, and are the same rates")
