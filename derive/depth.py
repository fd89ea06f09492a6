"""Exponents along depth: N residual blocks h + N^-delta f(h), N to infinity at a fixed width.

docs/theory.md, section 9:

    g' = delta in a branch, s' = k g' from the update rule itself,   r' = delta + c' + s' >= max(kappa, delta)

kappa says how changes of N blocks add up, to N^kappa times one: 1 where they move together, 1/2 where they do not.
The second bound is the branch's own: what is inside it may not diverge, although the stream could bear it. Yang et
al. 2023, 2310.02244 (delta = 1/2); Dey et al. 2025, 2505.01618 (delta = 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sympy import Expr, S, Symbol

from derive.axes import Axis, AxisRow
from derive.decays import DECAYS, Decay, decay_exponent
from derive.errors import DeriveError, canonical, shorten
from derive.extrema import largest
from derive.optimizers import Optimizer
from derive.parameterizations import HALF
from derive.parsing import parse_expression
from derive.words import Kind, text

NAMED: Mapping[str, Expr] = {"depthmup": HALF, "completep": S.One}
FIXED = (S.Zero, S.Zero)
"""Fans along depth: no dimension of a weight grows with it."""
KAPPAS: Mapping[str, Expr] = {"full": S.One, "none": HALF}


@dataclass(frozen=True)
class Residual:
    """How branches enter the stream: N^-delta, as a multiplier, or of the standard deviation of what writes into it.

    `at_start` is the second; `normed` says that a norm stands before every branch and after the last, which divides by
    whatever the stream has grown to. DeriveError for a delta whose sum diverges at the start with no norm to hide it.
    """

    delta: Expr
    at_start: bool = False
    normed: bool = False

    @property
    def growth(self) -> Expr:
        """x of the stream's size N^x at the start, which norms divide by: 1/2 - delta, or 0 where that is negative."""
        return largest(S.Zero, HALF - self.delta) if self.normed else S.Zero

    def __post_init__(self) -> None:
        """Refuse what is unstable at initialisation."""
        if not self.normed and (self.delta - HALF).is_negative:
            raise DeriveError(
                f"--residual {text(self.delta)}: the sum of N independent branches at the start grows as "
                f"N^{text(HALF - self.delta)}; give 1/2 or more (a norm before each branch hides that growth from the "
                "branches, and the first of them then outweigh the last: there is no one exponent)"
            )


def read_residual(given: str, normed: bool = False) -> Residual:
    """delta, depth-mup (1/2), completep (1), init (1/2 at initialisation), or init:DELTA."""
    word, colon, rest = given.partition(":")
    at_start = canonical(word) == "init"
    if not at_start and colon:
        raise DeriveError(f"--residual {shorten(given)} is not known; give depth-mup, completep, delta, or init:delta")
    wanted = (rest if colon else "1/2") if at_start else given
    named = NAMED.get(canonical(wanted))
    return Residual(parse_expression(wanted, "--residual") if named is None else named, at_start, normed)


def read_kappa(given: str) -> Expr:
    """kappa by name (full, none), number or symbol; DeriveError outside of 1/2 to 1."""
    named = KAPPAS.get(canonical(given))
    kappa = parse_expression(given, "--depth-alignment") if named is None else named
    if (kappa - HALF).is_negative or (kappa - 1).is_positive:
        raise DeriveError(f"--depth-alignment {shorten(given)} is not allowed; give full, none, or 1/2 to 1")
    return kappa


def depth_axis(
    optimizers: Mapping[Kind, Optimizer],
    residual: Residual,
    kappa: Expr,
    decay: Decay = "independent",
    sizes: tuple[int, int] | None = None,
) -> Axis:
    """The rows of every layer kind along depth: hidden layers stand in branches, the others outside of them.

    Raises DeriveError where the rule has no size at these gradients, as at other widths.
    """
    hidden = optimizers["hidden"]
    drawn = S.Zero if residual.at_start else None
    outside = AxisRow(a=S.Zero, b=drawn, c=S.Zero, g=S.Zero, s=S.Zero, decay=S.Zero, r=S.Zero)
    rows: dict[Kind, AxisRow] = {
        kind: replace(outside, **dict.fromkeys(_epsilons(optimizers[kind]), S.Zero))
        for kind in ("embedding", "readout")
    }
    inside, out = (_branch_row(hidden, residual, kappa, decay, writes) for writes in (False, True))
    rows["hidden"] = inside
    return Axis(
        "depth",
        "N",
        rows,
        _lines(residual, kappa, inside, out),
        out if residual.at_start else None,
        sizes,
        _notes(residual, kappa),
    )


def _branch_row(optimizer: Optimizer, residual: Residual, kappa: Expr, decay: Decay, writes: bool) -> AxisRow:
    """The largest stable rate of a matrix in a branch; `writes` where it is the one that writes into the stream."""
    drawn_small = residual.at_start and writes
    row = branch_row(
        optimizer, residual.delta, residual.delta if drawn_small else S.Zero, kappa, decay, residual.growth
    )
    weight = residual.delta if drawn_small else S.Zero if residual.at_start else None
    return replace(row, a=S.Zero if residual.at_start else residual.delta, b=weight)


def branch_row(
    optimizer: Optimizer, delta: Expr, weight: Expr, kappa: Expr, decay: Decay, growth: Expr = S.Zero
) -> AxisRow:
    """The largest stable rate of a parameter of a branch N^-delta, of which N^-weight is its own start.

    What else a change of it is multiplied by on its way into the stream, N^-(delta - weight), it meets in its gradient
    too; where all of that factor is its own start, a change of it meets nothing. A gradient meets also the norm that
    divides by a stream of size N^growth, and the stream's changes may be larger by as much.
    """
    passed = delta - weight
    met = passed + growth
    s = optimizer.size(FIXED, met, weight)
    r = largest(kappa, delta + growth) - growth
    c = (r - passed - s).expand()
    epsilons = {
        name: optimizer.epsilon(FIXED, met, weight, symbol) if optimizer.scaled_epsilon else S.Zero
        for name, symbol in _epsilons(optimizer).items()
    }
    return AxisRow(
        a=passed,
        b=weight,
        g=met,
        s=s,
        c=c,
        decay=decay_exponent(decay if decay in DECAYS else "independent", c),
        r=r,
        **epsilons,
    )


def _epsilons(optimizer: Optimizer) -> dict[str, Symbol]:
    """The rule's epsilons, by the names that they have in a row."""
    return {symbol.name.replace("eps", "epsilon"): symbol for symbol in optimizer.epsilon_companions}


def _lines(residual: Residual, kappa: Expr, inside: AxisRow, out: AxisRow) -> tuple[tuple[str, str], ...]:
    """The derivation, as formula and remark."""
    delta, needed = text(residual.delta), text(inside.r or S.Zero)
    bound = "max(kappa, 1/2) - (1/2 - delta)" if residual.growth.is_positive else "max(kappa, delta)"
    where = (
        "what writes into the stream is drawn `N^-delta` smaller"
        if residual.at_start
        else "branch multiplier `N^-delta`"
    )
    found = [
        (
            f"delta = {delta}",
            f"`h + N^-delta f(h)` over N blocks; {where}; N independent terms at the start add as `N^1/2`",
        ),
        (f"kappa = {text(kappa)}", "changes of N blocks add up to `N^kappa` times one"),
        (f"g' = {text(inside.g or S.Zero)}, s' = {text(inside.s or S.Zero)}", "gradient and update inside a branch"),
        (
            f"r' = delta + c' + s' >= {bound} = {needed}",
            "the sum of the changes, and each branch by itself, stay finite",
        ),
        (f"c' = {needed} - {delta} - {_in_sum(inside.s or S.Zero)} = {text(inside.c)}", "hidden"),
    ]
    if residual.at_start:
        found.append((f"c' = {needed} - {_in_sum(out.s or S.Zero)} = {text(out.c)}", "what writes into the stream"))
    return (*found, ("c' = 0", "embedding, readout and final norm stand outside of the branches"))


def _in_sum(value: Expr) -> str:
    shown = text(value)
    return f"({shown})" if value.is_Add or value.could_extract_minus_sign() else shown


def _notes(residual: Residual, kappa: Expr) -> tuple[str, ...]:
    """What a reader should know of this delta and kappa."""
    if residual.growth.is_positive:
        return (
            f"the stream grows as N^{text(residual.growth)} at the start and norms divide it out: rates are those of "
            "delta = 1/2 and right for the last blocks, and the first outweigh them",
        )
    lazy = (kappa - residual.delta).is_positive
    faint = (residual.delta - kappa).is_positive
    if lazy:
        return (
            f"each branch changes by N^-{_in_sum(kappa - residual.delta)} of its size, so that deep networks learn in "
            "the linearised branches; delta = kappa lets every branch learn",
        )
    if faint:
        return (f"the stream changes by N^-{_in_sum(residual.delta - kappa)} only: the blocks add up too little",)
    return ()
