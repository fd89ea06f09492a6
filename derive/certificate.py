"""The certificate of a solution: which constraints fix every c_l, and whether other rates do as well."""

from collections.abc import Iterator, Sequence

from sympy import Expr, S

from derive.propagation import Chain, Problem, Term, constraint_text


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
    problem: Problem, chain: Chain, c: Sequence[Expr], r: Sequence[Expr], targets: Sequence[Expr]
) -> list[tuple[str, ...]]:
    """For every layer the tight constraints that fix its c, followed back to the r >= 0 they rest on.

    Undecided, and so left out, where symbols are involved.
    """
    if not chain.is_numeric:
        return [()] * chain.depth
    if problem.global_rate:
        counted = chain.depth - 1 if chain.loss == "ce" else chain.depth
        tight = tuple(constraint_text("stable", index + 1) for index in range(counted) if r[index] == 0)
        return [tight] * chain.depth
    return [tuple(dict.fromkeys(_certificate(chain, c, r, targets, index))) for index in range(chain.depth)]


def _certificate(
    chain: Chain, c: Sequence[Expr], r: Sequence[Expr], targets: Sequence[Expr], index: int
) -> Iterator[str]:
    free_logits = chain.loss == "ce" and index == chain.depth - 1
    target = S.Zero if free_logits else targets[index]
    terms = _residual_terms(chain, c, r, index)
    tight: list[Term] = [term for term, value in terms.items() if term != "omega" and value == target]
    if not tight:
        yield constraint_text("bounded", index + 1)
        return
    for term in tight:
        yield constraint_text(term, index + 1, "0" if free_logits else None)
    if not free_logits:
        yield from _why_target(r, index)
    if tight == ["u"]:
        yield from _why_not_larger(chain, c, r, index - 1)


def _why_target(r: Sequence[Expr], index: int) -> Iterator[str]:
    """What asks r of that layer to be at least as large as it is."""
    while r[index] != 0:
        index += 1
        yield constraint_text("omega", index + 1)
    yield constraint_text("stable", index + 1)


def _why_not_larger(chain: Chain, c: Sequence[Expr], r: Sequence[Expr], index: int) -> Iterator[str]:
    """What keeps r of that layer from being larger."""
    for term, value in _residual_terms(chain, c, r, index).items():
        if value == r[index]:
            yield constraint_text(term, index + 1)
            if term in ("u", "omega"):
                yield from _why_not_larger(chain, c, r, index - 1)
            return


def is_unique(problem: Problem, chain: Chain, c: Sequence[Expr], r: Sequence[Expr]) -> bool | None:
    """Whether no other rates reach the same sum of c.

    A tie needs a layer whose c is fixed by the u term alone, so that raising r of the layer before by t lowers
    it by t, while that raise costs no more than t; or a readout bounded only to keep the gradients small, where
    letting them grow by t costs the earlier layers t together.
    """
    if problem.global_rate:
        return True
    if not chain.is_numeric:
        safe = all((chain.alpha[i] - chain.u[i] + r[i - 1]).is_nonnegative for i in range(1, chain.depth))
        return True if safe and not any(chain.bounded) else None
    d = [a + rate + s for a, rate, s in zip(chain.a, c, chain.s, strict=True)]
    cost = S.One
    for index in range(1, chain.depth):
        can_fall = not chain.bounded[index] or d[index] > chain.a[index] + chain.b[index]
        if can_fall and chain.u[index] - r[index - 1] > chain.alpha[index] and cost == 1:
            return False
        terms = _residual_terms(chain, c, r, index)
        tight = {term for term, value in terms.items() if value == r[index]}
        raise_before = cost if tight & {"omega"} or tight == {"u"} else S.Zero
        raise_own = S.One if "alpha" in tight else S.Zero
        cost = min(S.One, raise_before) if tight == {"u"} else raise_before + raise_own
    readout = problem.optimizers["readout"]
    if chain.bounded[-1] and not readout.weight_degree > 0 and sum(chain.growth[:-1], S.Zero) == 1:
        own = max(chain.alpha[-1], chain.u[-1] - r[-2])
        return not d[-1] > own
    return True
