"""The four-step verdict along depth, from slopes of log size against log N at one width (docs/theory.md, section 9).

h <- h + N^-delta f(h), whose norms divide by N^gamma where delta is below 1/2. Of a branch's change, what its own
weights do adds up over N blocks as N^kappa, and what the stream brings goes through independent weights, as N^1/2:

1. the optimizer: RMS(DW) ~ N^-(c' + s'), and epsilon follows the gradient
2. the propagation: weights, branches N^-delta, the stream N^gamma and gradients N^-g' at the start; terms do not cancel
3. the assumption: kappa of the own changes, and scatter, 1/2, of those that are passed on
4. the result: own changes are the largest that keep the stream finite, N^-r' in every branch and N^-(r' - kappa) in
   sum; stream, branches and logits change as N^-r; consistent: the stream's change is what was measured before

As along the width, only `consistent` makes use of what was measured for its prediction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sympy import Expr, Rational, S

from derive.axes import OUT, Axis, AxisRow
from derive.depth import FIXED, Residual
from derive.extrema import smallest
from derive.optimizers import Optimizer
from derive.propagation import Optimizers
from derive.words import Kind
from verify.fit.forward import Law, judged
from verify.fit.judging import Row, tolerance
from verify.fit.slopes import Sizes, Slope, slope
from verify.fit.terms import Table

HALF = Rational(1, 2)
STREAM, LOGITS = "stream", "logits"
TERMS = ("embedding", "own", "passed", "rest")
"""What the stream's change is made of: where it began, and the sums over all branches."""
FIRST_OUTWEIGH = "the first branches outweigh the last: there is no one exponent"


@dataclass(frozen=True)
class DepthClaim:
    """A theory along depth: how branches enter the stream, how their changes add up, and the rates that follow."""

    optimizers: Optimizers
    residual: Residual
    kappa: Expr
    axis: Axis

    @property
    def inside(self) -> AxisRow:
        """What a matrix of a branch does."""
        return self.axis.rows["hidden"]

    @property
    def own(self) -> Expr:
        """r' at the largest stable rate: RMS of a branch's own change is N^-r'. It is not that of c'."""
        return self.inside.r or S.Zero

    @property
    def stream(self) -> Expr:
        """r of the stream: what the branches add up to, beside an embedding that changes as N^0."""
        return smallest(S.Zero, self.own - self.kappa)

    @property
    def passed(self) -> Expr:
        """r of what a branch passes on: N^-delta of the stream's relative change."""
        return self.residual.delta + self.stream + self.residual.growth


def verdicts(
    claim: DepthClaim, depths: Sequence[int], step: int, table: Table, kinds: Mapping[str, Kind], writers: Sequence[str]
) -> list[Row]:
    """Every prediction along depth at one step.

    table[layer][quantity] is [depth, seed]; layers are the parameters, those of `kinds`, branches, stream and logits.
    Sizes of what every block has are root mean squares over blocks. `writers` are the parameters that write into the
    stream.
    """
    rows: list[Row] = []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        answer = next((sizes["gradient"] for name, sizes in table.items() if kinds.get(name) == "readout"), None)
        for name, sizes in table.items():
            kind = kinds.get(name, "readout" if name == LOGITS else "hidden")
            rule = claim.optimizers[kind]
            if name in kinds:
                row = claim.axis.row(kind, OUT if name in writers else "")
                laws = list(_parameter_laws(claim, depths, step, sizes, kind, row, answer))
                follows = rule.gradient_degree(FIXED, row.g or S.Zero) != 0
            else:
                laws, follows = list(_change_laws(claim, depths, step, name, table)), False
            rows += [judged(name, kind, step, law, tolerance(law.quantity, kind, step, follows)) for law in laws]
    return rows


def _parameter_laws(
    claim: DepthClaim,
    depths: Sequence[int],
    step: int,
    sizes: Mapping[str, Sizes],
    kind: Kind,
    row: AxisRow,
    answer: Sizes | None,
) -> Iterator[Law]:
    """Steps 1 and 2 of one parameter, or of its like in all blocks."""
    rule = claim.optimizers[kind]
    s, g = row.s or S.Zero, row.g or S.Zero
    # What the first blocks see of a growing stream is more than what the last ones see.
    early = FIRST_OUTWEIGH if kind == "embedding" and claim.residual.growth.is_positive else None
    yield Law("delta_w", _exponent(depths, sizes["delta_w"]), row.c + s, opened=early if _follows(rule, g) else None)
    if "gradient" not in sizes:
        return
    gradient = _exponent(depths, sizes["gradient"])
    if step == 1:
        yield Law("weight", _exponent(depths, sizes["weight"]), row.b or S.Zero)
        if row.epsilon is not None and rule.scaled_epsilon:
            at_zero, at_one = (float(rule.epsilon(FIXED, each, row.b or S.Zero)) for each in (S.Zero, S.One))  # type: ignore[arg-type]
            yield Law("epsilon", gradient.times(at_one - at_zero).plus(at_zero), row.epsilon, opened=early)
        yield Law("gradient", gradient, g, opened=early)
    elif kind != "readout" and answer is not None:  # how far the loss has fallen at each depth is taken out
        yield Law("gradient", _exponent(depths, sizes["gradient"] / answer), g, opened=early)


def _follows(rule: Optimizer, g: Expr) -> bool:
    return rule.gradient_degree(FIXED, g) != 0


def _change_laws(claim: DepthClaim, depths: Sequence[int], step: int, name: str, table: Table) -> Iterator[Law]:
    """Steps 2 to 4 of a branch, of the stream and of the logits."""
    sizes, residual = table[name], claim.residual
    change = _exponent(depths, sizes["delta"])
    start = {STREAM: -residual.growth, LOGITS: S.Zero}.get(name, residual.delta)
    if step == 1:
        yield Law("size", _exponent(depths, sizes["size"]), start)
    if name == LOGITS:
        yield Law("delta_z", change, claim.stream + residual.growth)
        return
    if name != STREAM:
        yield Law("largest", _exponent(depths, sizes["own"]), claim.own)
        yield Law("delta_z", change, smallest(claim.own, claim.passed))
        return
    kappa, scatter = (slope(depths, sizes[each] / over_branches(table, each)) for each in ("own", "passed"))
    yield Law("cancellation", slope(depths, sizes["delta"] / _rss(sizes)), S.Zero)
    yield Law("kappa", kappa, claim.kappa)
    yield Law("scatter", scatter, HALF)
    yield Law("largest", _exponent(depths, sizes["own"]), claim.own - claim.kappa)
    implied = _implied(claim, depths, sizes, kappa, scatter)
    yield Law("delta_z", change, claim.stream, implied=implied)
    yield Law("consistent", change, None, implied, implied)


def over_branches(table: Table, quantity: str) -> Sizes:
    """Root mean square over all branches of all blocks, of the sizes of that quantity."""
    each = [sizes[quantity] for name, sizes in table.items() if name != STREAM and quantity in sizes]
    return np.sqrt(np.mean(np.square(each), axis=0))


def _implied(
    claim: DepthClaim, depths: Sequence[int], sizes: Mapping[str, Sizes], kappa: Slope, scatter: Slope
) -> float:
    """r of the stream from theory's sizes of changes and from how they were measured to add up, by their shares."""
    row, moved = claim.axis.row("hidden", OUT), -slope(depths, sizes["delta"]).value
    factor = S.Zero if claim.residual.at_start else claim.residual.delta
    exponents = {
        "embedding": 0.0,
        "own": float(factor + row.c + (row.s or S.Zero)) - kappa.value,
        "passed": float(claim.residual.delta + claim.residual.growth) + moved - scatter.value,
        "rest": moved,
    }
    squares = {name: float(np.mean((sizes[name] / _rss(sizes)) ** 2)) for name in TERMS}
    return sum(exponents[name] * square for name, square in squares.items())


def _rss(sizes: Mapping[str, Sizes]) -> Sizes:
    return np.sqrt(sum(sizes[name] ** 2 for name in TERMS))


def _exponent(depths: Sequence[int], sizes: Sizes) -> Slope:
    """x of a size that goes as N^-x."""
    return slope(depths, sizes).negated()
