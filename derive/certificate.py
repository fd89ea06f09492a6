"""The certificate of a chain's rates: which constraints fix every c_l, the duals that prove it, and ties.

It is found here and checked by `certify`, which believes nothing of it. Binding constraints are followed from c_l back
to the r >= 0 that they rest on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import inf
from operator import eq
from typing import Any, TypeAlias, cast

from sympy import Expr, Rational, S

from derive.certify import Certificate, Refused
from derive.duals import ALL, NOTHING, POSITIVE, Interval, NoPointError, chain_duals, inside, nearest, other_rates
from derive.known import Known
from derive.programs import (
    ChainLayer,
    ChainProblem,
    Number,
    Row,
    Values,
    common_denominator,
    plain,
    total,
)
from derive.propagation import Chain, Problem, Term, constraint_text, residuals

Same: TypeAlias = Callable[[Expr, Expr], bool]
TERMS: tuple[Term, ...] = ("alpha", "u", "omega", "stable", "bounded")


def certificate(
    problem: Problem, chain: Chain, c: Sequence[Expr], r: Sequence[Expr], targets: Sequence[Expr]
) -> Certificate:
    """The certificate of the rates n^-c with residuals r, not yet checked; Refused where no duals prove them."""
    stated = chain_problem(problem, chain)
    rates, changes = [_number(value) for value in c], [_number(value) for value in r]
    unit = common_denominator([*stated.numbers(), *rates, *changes]) or 1
    whole = stated.scaled(unit)
    program = whole.program()
    values = _least_residuals(whole, program.rows, [plain(rate * unit) for rate in rates])
    slacks = {row.name: row.slack(values) for row in program.rows}
    if violated := next((name for name, slack in slacks.items() if slack < 0), None):
        raise Refused(f"the rates violate {violated}")
    other = None
    try:
        if problem.global_rate:
            duals, second = _global_duals(whole, program.rows, slacks)
            fixed_by = {"c": tuple(duals)}
        else:
            duals, second = _duals(chain, slacks)
            fixed_by = _fixed_by(whole, chain, c, targets)
            other = _other(whole, chain, values, duals, slacks)
    except NoPointError:
        raise Refused("no duals prove these rates the largest, with the least r among ties") from None

    def measured(numbers: Values) -> dict[str, Number]:
        return {name: plain(Fraction(value) / unit) for name, value in numbers.items()}

    return Certificate(
        problem=stated,
        values=measured(values),
        optimum=plain(Fraction(total(program.objective, values)) / unit),
        least=plain(Fraction(total(program.then, values)) / unit),
        duals=duals,
        second=second,
        binding=fixed_by,
        residuals={f"r_{index + 1}": change for index, change in enumerate(changes) if not stated.free(index)},
        unique=other is None,
        other=None if other is None else measured(other),
    )


def _fixed_by(
    stated: ChainProblem, chain: Chain, c: Sequence[Expr], targets: Sequence[Expr]
) -> dict[str, tuple[str, ...]]:
    changes = [a + rate + s for a, rate, s in zip(chain.a, c, chain.s, strict=True)]
    r = residuals(chain.a, chain.b, changes, chain.alpha, chain.omega, chain.u)
    return {
        stated.rate(index): tuple(dict.fromkeys(binding(chain, c, r, targets, index))) for index in range(chain.depth)
    }


def chain_problem(problem: Problem, chain: Chain) -> ChainProblem:
    """The numbers of the problem, without what was derived from them."""
    layers = [
        ChainLayer(
            *(_number(values[index]) for values in (chain.a, chain.b, chain.s)),
            *(None if index == 0 else _number(values[index]) for values in (chain.alpha, chain.omega, chain.u)),
            growth=_number(chain.growth[index]),
            weight_degree=_number(problem.optimizers[kind].weight_degree),
        )
        for index, kind in enumerate(chain.kinds)
    ]
    return ChainProblem(tuple(layers), problem.loss, problem.global_rate)


def _number(value: Expr) -> Number:
    number = cast("Rational", value)
    return plain(Fraction(int(number.p), int(number.q)))


def _least_residuals(stated: ChainProblem, rows: Sequence[Row], rates: Sequence[Number]) -> dict[str, Number]:
    """The rates with the least r that they need, r_l >= 0 and what the rows of later layers ask of it, backward."""
    values = {stated.rate(index): rate for index, rate in enumerate(rates)}
    values |= {f"r_{index + 1}": 0 for index in range(len(rates)) if not stated.free(index)}
    for row in reversed(rows):
        low = next((name for name, a in row.coefficients.items() if a < 0 and name.startswith("r")), None)
        if low is not None:
            values[low] = max(values[low], values[low] - row.slack(values))
    return values


def _duals(chain: Chain, slacks: Values) -> tuple[dict[str, Number], dict[str, Number]]:
    """Duals of as many tight rows as can have one, and those of the least r."""
    names = [_names(chain, index) for index in range(chain.depth)]
    first = _by_name(names, chain, [_allowed(each, slacks, {}) for each in names], 1, 0)
    second = _by_name(names, chain, [_allowed(each, slacks, first) for each in names], 0, 1)
    return first, second


def _by_name(
    names: Sequence[Mapping[Term, str]],
    chain: Chain,
    allowed: list[dict[str, Interval]],
    rate: int,
    residual: int,
) -> dict[str, Number]:
    if chain.loss == "ce":
        allowed[-1]["stable"] = ALL  # no r of its own, which nothing has to balance
    found = chain_duals(allowed, rate, residual, inside if rate else nearest)
    return {
        name: plain(getattr(duals, term))
        for duals, own in zip(found, names, strict=True)
        for term, name in own.items()
        if getattr(duals, term)
    }


def _names(chain: Chain, index: int) -> dict[Term, str]:
    """The rows of one layer; on the first, r_1 <= d_1 stands for the alpha term."""
    left = "0" if chain.loss == "ce" and index == chain.depth - 1 else None
    terms: dict[Term, Term] = {"alpha": "alpha" if index else "update"}
    if index:
        terms["u"] = "u"
    if index and left is None:
        terms["omega"] = "omega"
    if left is None:
        terms["stable"] = "stable"
    if chain.bounded[index]:
        terms["bounded"] = "bounded"
    return {term: constraint_text(printed, index + 1, left) for term, printed in terms.items()}


def _allowed(names: Mapping[Term, str], slacks: Values, free: Values) -> dict[str, Interval]:
    """Where each term's dual may lie: 0 on a slack row, any number on those in `free`, else not below 0."""
    allowed: dict[str, Interval] = dict.fromkeys(TERMS, NOTHING)
    for term, name in names.items():
        if name not in slacks:
            raise Refused(f"the checker has no row {name}")
        if not slacks[name]:
            allowed[term] = ALL if name in free else POSITIVE
    return allowed


def _global_duals(
    stated: ChainProblem, rows: Sequence[Row], slacks: Values
) -> tuple[dict[str, Number], dict[str, Number]]:
    """Duals of one global rate: the path of tight rows from an r >= 0 back to rates alone, each with 1 / its slope."""
    tight = [row for row in rows if not slacks[row.name]]
    path = _path(tight)
    slope = -sum(row.coefficients.get("c", 0) for row in path)
    first: dict[str, Number] = {row.name: plain(1 / Fraction(slope)) for row in path}
    asks = {name: row for row in reversed(tight) for name, a in row.coefficients.items() if a < 0}
    flow, slopes = 0, 0
    second: dict[str, Number] = dict.fromkeys(first, 0)
    for index in range(len(stated.layers)):
        if not stated.free(index):
            row = asks[f"r_{index + 1}"]
            flow += 1
            second[row.name] = second.get(row.name, 0) + flow
            slopes -= flow * row.coefficients.get("c", 0)
            flow = flow if len(row.coefficients) > 1 else 0
    for name, y in first.items():
        second[name] -= slopes * y
    return first, {name: y for name, y in second.items() if y}


def _path(tight: Sequence[Row]) -> list[Row]:
    """Tight rows from one that asks for r >= 0, or for the rate itself, back to the rate; NoPointError for none."""
    held: dict[str, tuple[Row, str | None]] = {}
    for row in tight:
        own = next((name for name, a in row.coefficients.items() if a > 0), None)
        before = next((name for name, a in row.coefficients.items() if a < 0 and name != "c"), None)
        if before is not None and before not in held:
            continue
        if own is not None:
            held.setdefault(own, (row, before))
            continue
        path = [row]
        while before is not None:
            link, before = held[before]
            path.insert(-1, link)
        return path
    raise NoPointError


def _other(
    stated: ChainProblem, chain: Chain, values: Values, duals: Values, slacks: Values
) -> dict[str, Number] | None:
    """Other rates with the same sum, or None: within the optimal face, or past the rule that keeps the gradients.

    The duals are strictly complementary, so that the rows with one are tight in every optimum, and in the midst of the
    optimal face no others are.
    """
    limits: list[dict[str, Interval]] = []
    for index, layer in enumerate(stated.layers):
        names = _names(chain, index)
        bounds = {
            "alpha": layer.a + layer.s - (layer.alpha or 0),
            "u": layer.a + layer.s - (layer.u or 0),
            "omega": layer.a + layer.b - (layer.omega or 0),
            "stable": 0,
            "bounded": layer.b - layer.s,
        }
        limit: dict[str, Interval] = dict.fromkeys(TERMS, ALL)
        for term, name in names.items():
            below = term in ("alpha", "u", "omega")
            exact = name in duals
            limit[term] = (bounds[term] if exact or not below else -inf, bounds[term] if exact or below else inf)
        if stated.free(index):
            limit["stable"] = NOTHING
        limits.append(limit)
    found: dict[str, Any] = {}
    for index, (c, r) in enumerate(other_rates(limits, inside)):
        found[f"c_{index + 1}"] = plain(c)
        if not stated.free(index):
            found[f"r_{index + 1}"] = plain(r)
    if any(found[rate] != values[rate] for rate in map(stated.rate, range(chain.depth))):
        return found
    return _past_the_rule(stated, chain, values, slacks)


def _past_the_rule(stated: ChainProblem, chain: Chain, values: Values, slacks: Values) -> dict[str, Number] | None:
    """Rates at which the readout raises the gradients by n^t and the layers that follow pay t together; or None.

    A layer whose own terms leave it room does not follow until that is used up.
    """
    last = chain.depth - 1
    names = [_names(chain, index) for index in range(chain.depth)]
    readout = stated.layers[-1]
    if not stated.keeps_gradients or readout.weight_degree > 0 or readout.growth > 0 or slacks[names[-1]["bounded"]]:
        return None
    names[-1].pop("bounded")
    room = [min(slacks[own[term]] for term in ("alpha", "u", "bounded") if term in own) for own in names]
    growth = [max(layer.growth, 0) for layer in stated.layers[:-1]]
    if not room[last] or sum(k for k, left in zip(growth, room[:-1], strict=True) if not left) != 1:
        return None
    t = min(room[last], *(Fraction(left) / k for k, left in zip(growth, room[:-1], strict=True) if k and left), 1)
    other = dict(values)
    other[f"c_{last + 1}"] -= t
    for index, (k, left) in enumerate(zip(growth, room[:-1], strict=True)):
        other[f"c_{index + 1}"] += 0 if left else k * t
    return other


def is_unique(problem: Problem, chain: Chain, r: Sequence[Expr], known: Known) -> bool | None:
    """Whether no other rates reach the same sum of c, where symbols are left in them; numbers have a certificate.

    A tie needs a layer whose c is fixed by the u term alone, or a readout bounded to keep the gradients small.
    """
    if problem.global_rate:
        return True
    safe = all(known.is_nonnegative(chain.alpha[i] - chain.u[i] + r[i - 1]) for i in range(1, chain.depth))
    return True if safe and not any(chain.bounded) else None


def _residual_terms(chain: Chain, c: Sequence[Expr], r: Sequence[Expr], index: int) -> dict[Term, Expr]:
    """The terms whose minimum is r of that layer, at the rates c."""
    d = chain.a[index] + c[index] + chain.s[index]
    if index == 0:
        return {"update": d}
    before = r[index - 1]
    terms: dict[Term, Expr] = {"alpha": d - chain.alpha[index], "u": d + before - chain.u[index]}
    if not (chain.loss == "ce" and index == chain.depth - 1):
        terms["omega"] = chain.a[index] + chain.b[index] + before - chain.omega[index]
    return terms


def binding(
    chain: Chain, c: Sequence[Expr], r: Sequence[Expr], targets: Sequence[Expr], index: int, same: Same = eq
) -> Iterator[str]:
    """The constraints that fix c of that layer, followed back to the r >= 0 that they rest on; `same` compares."""
    free_logits = chain.loss == "ce" and index == chain.depth - 1
    target = S.Zero if free_logits else targets[index]
    terms = _residual_terms(chain, c, r, index)
    tight: list[Term] = [term for term, value in terms.items() if term != "omega" and same(value, target)]
    if not tight:
        yield constraint_text("bounded", index + 1)
        return
    for term in tight:
        yield constraint_text(term, index + 1, "0" if free_logits else None)
    if not free_logits:
        yield from _why_target(r, index, same)
    if tight == ["u"]:
        yield from _why_not_larger(chain, c, r, index - 1, same)


def _why_target(r: Sequence[Expr], index: int, same: Same) -> Iterator[str]:
    """What asks r of that layer to be at least as large as it is."""
    while not same(r[index], S.Zero):
        index += 1
        yield constraint_text("omega", index + 1)
    yield constraint_text("stable", index + 1)


def _why_not_larger(chain: Chain, c: Sequence[Expr], r: Sequence[Expr], index: int, same: Same) -> Iterator[str]:
    """What keeps r of that layer from being larger."""
    for term, value in _residual_terms(chain, c, r, index).items():
        if same(value, r[index]):
            yield constraint_text(term, index + 1)
            if term in ("u", "omega"):
                yield from _why_not_larger(chain, c, r, index - 1, same)
            return
