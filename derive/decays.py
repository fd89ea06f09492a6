"""How decoupled weight decay, W <- (1 - eta lambda) W, goes with the width: named conventions, or any power of it.

    eta lambda ~ n^((x - 1) c)   independent: x = 1, sqrt: 1/2, constant: 0      eta lambda ~ n^y   n^y, such as n^-1

What the literature disagrees on is this exponent: independent is n^0, with which a layer's memory in steps,
1/(eta lambda), is the same at every width (docs/theory.md, section 7).
"""

import re

from sympy import Expr, Rational, S

from derive.errors import DeriveError, canonical, shorten
from derive.parsing import parse_number

Decay = str
"""A name of DECAYS, or n^y as `read_decay` writes it."""
DECAYS: dict[Decay, Expr] = {"independent": S.One, "sqrt": Rational(1, 2), "constant": S.Zero}
"""How much of c_l decoupled decay follows: lambda_l = n^(x c_l), so rate x lambda = n^-((1 - x) c_l)."""
ALLOWED = (*DECAYS, "n^y for a rate x lambda of that power of the width, such as n^-1 or n^(-1/2)")


def read_decay(given: str) -> Decay:
    """The convention by its one name: n^(-1/2) for n**-0.5, and independent for n^0; DeriveError for anything else."""
    for name in DECAYS:
        if canonical(name) == canonical(given):
            return name
    power = _power(given)
    if power == 0:
        return "independent"
    return f"n^{power}" if power.is_Integer else f"n^({power})"


def decay_exponent(decay: Decay, c: Expr) -> Expr:
    """x with lambda = n^-x, of a layer whose rate is n^-c."""
    return -DECAYS[decay] * c if decay in DECAYS else -_power(decay) - c


def followed_share(decay: Decay) -> Expr:
    """d(log_n lambda) / dc: how much of a change of the rate lambda makes up for."""
    return DECAYS.get(decay, S.One)


def _power(given: str) -> Rational:
    matched = re.fullmatch(r"\s*n\s*((\^|\*\*)(?P<power>.+))?", given)
    if matched is None:
        raise DeriveError(f"--decay {shorten(given)} is not known; allowed: {', '.join(ALLOWED)}")
    return parse_number(matched["power"] or "1", "--decay n^")
