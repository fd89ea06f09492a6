"""Norms and means of one parameter's entries, and what is divided by them.

|w|, the root of a sum of n^f squares, is n^-(b - f/2) where w is n^-b; w / |w| is n^-f/2 whatever w is
d(w / |w|) relative to w / |w| is at most dw relative to w; w less its mean changes as w does
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from verify.measuring.primitives import COMPARISONS, POWERS, PRODUCTS
from verify.model.graph.rules.constants import uniform
from verify.model.graph.value import Constant, Form, Term, Value, Weight, growth

GUARD = 1e-3
"""Numbers up to here, added to a norm or below it, keep it from 0 and leave it as it is."""


def of_norms(
    name: str, exponent: Fraction | None, inputs: Sequence[Value], plain: Weight, ratio: Fraction
) -> Weight | None:
    """What an operation makes of one parameter's powers, norms and means; None where there are none."""
    weights = [value for value in inputs if isinstance(value, Weight)]
    if all(each is weights[0] for each in weights) and len(weights[0].terms) == 1:
        degree = Fraction(2) if len(weights) == 2 and name == "mul" else POWERS.get(name, exponent)
        found = _power(name, degree, plain, weights[0]) or _sum(name, plain, weights[0], ratio)
        if found is not None:
            return found
    return _guarded(name, inputs, plain, weights) or _scaled(name, inputs, plain, weights)


def _power(name: str, degree: Fraction | None, plain: Weight, value: Weight) -> Weight | None:
    """A power of a norm, a square or an absolute value of entries."""
    if not degree or not (value.form == "norm" or (value.form in ("entries", "powers") and degree in (1, 2))):
        return None
    ((path, term),) = value.terms.items()
    form: Form = "norm" if value.form == "norm" else "powers"
    raised = replace(term, scale=term.scale * degree, degree=term.degree * degree)
    return replace(plain, terms={path: raised}, obstacle=value.obstacle or name, form=form)


def _sum(name: str, plain: Weight, value: Weight, ratio: Fraction) -> Weight | None:
    """A sum of squares, or of entries, which as they are drawn have random signs."""
    if name not in ("reduce_sum", "psum") or value.form == "function":
        return None
    ((path, term),) = value.terms.items()
    over = growth(value.shapes, ratio) - growth(plain.shapes, ratio)
    signed = value.form in ("entries", "mean")
    total = replace(term, scale=term.scale - (over / 2 if signed else over))
    form: Form = "mean" if signed else "norm"
    return replace(plain, terms={path: total}, obstacle=name, mixed=value.mixed or over != 0, form=form)


def _guarded(name: str, inputs: Sequence[Value], plain: Weight, weights: Sequence[Weight]) -> Weight | None:
    """A norm that a small number keeps from 0, or that is chosen where a comparison says so."""
    norms = [each for each in weights if each.form in ("norm", "powers")]
    if len(norms) != 1:
        return None
    (norm,) = norms
    rest = [each for each in inputs if each is not norm]
    kept = replace(norm, shapes=plain.shapes, compute=plain.compute)
    if name in ("add", "add_any", "max") and len(rest) == 1 and isinstance(rest[0], Constant):
        number = uniform(rest[0])
        return kept if number is not None and abs(number) <= GUARD else None
    return kept if name == "select_n" and norm is not inputs[0] and all(map(_compares, rest)) else None


def _compares(value: Value) -> bool:
    return isinstance(value, Constant) or (isinstance(value, Weight) and value.obstacle in COMPARISONS)


def _scaled(name: str, inputs: Sequence[Value], plain: Weight, weights: Sequence[Weight]) -> Weight | None:
    """A parameter's entries times a power of its own norm, or less its own mean."""
    if len(weights) != 2 or len(inputs) != 2 or len(weights[0].terms) != 1:
        return None
    if weights[0].terms.keys() != weights[1].terms.keys():
        return None
    (path,) = weights[0].terms
    host, other = sorted(weights, key=lambda each: each.form in ("norm", "mean"))
    kinds, one, two = {host.form, other.form}, host.terms[path], other.terms[path]
    if name in PRODUCTS and other.form == "norm" and host.form != "function" and (name == "mul" or inputs[0] is host):
        sign = 1 if name == "mul" else -1
        term = Term(one.scale + sign * two.scale, one.degree + sign * two.degree, one.stopped)
    elif name in ("sub", "add") and kinds == {"entries", "mean"} and one.degree == two.degree:
        term = replace(one, scale=min(one.scale, two.scale))
    else:
        return None
    return replace(plain, terms={path: term}, form=host.form, obstacle=host.obstacle, mixed=host.mixed)
