"""What every parameter's rate does along depth, from the sums of the user's own model (docs/theory.md, section 9)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from sympy import Expr, Rational, S

from derive.axes import AxisRow
from derive.decays import Decay
from derive.depth import branch_row
from derive.errors import DeriveError, shorten
from derive.extrema import largest
from derive.parameterizations import HALF
from derive.registry import optimizer as read_optimizer
from derive.words import text
from verify.model.depth.multiply import named
from verify.model.depth.program import Program, Value
from verify.model.depth.sums import Signature, Sum, Terms, chain, constants, is_normed, paths
from verify.model.graph.graph import scalar_power
from verify.model.make import Drawn
from verify.model.rows import without_numbers

Starts = Mapping[str, Drawn | None]
EXACT, NOISE = 0.01, 4
"""How far the size of a start may be off its power of the depth: of a constant, and in standard errors of its draw."""


@dataclass(frozen=True)
class Branch:
    """One kind of term of a growing sum: its exponent N^-delta, and of it what single parameters start with.

    `last` are the parameters that multiply all of it, from its end back; `within` all that it is made of. Paths are
    those without numbers. `starts` says whether it is there before anything is trained.
    """

    within: Signature
    delta: Rational
    last: Mapping[str, Rational]
    starts: bool


@dataclass(frozen=True)
class Stream:
    """A sum whose number of terms grows with depth: its branches, and whether norms divide by its size."""

    branches: tuple[Branch, ...]
    normed: bool

    @property
    def growth(self) -> Rational:
        """x of the size N^x that it has at the start; DeriveError naming the sum where no norm divides by it."""
        independent = [branch for branch in self.branches if branch.starts]
        least = min((branch.delta for branch in independent), default=HALF)
        growth = max(S.Zero, HALF - least)
        if growth and not self.normed:
            named = next(branch for branch in independent if branch.delta == least)
            raise DeriveError(
                f"the sum of the branches with {_named(named.within)} grows as N^{text(growth)} at the start, and no "
                "norm divides by it: multiply each by N^-1/2 or less, or put a norm before every branch and the readout"
            )
        return growth  # type: ignore[return-value]

    def entered(self, delta: Rational) -> "Stream":
        """The same with every branch times N^-delta, whatever it has in the code."""
        return replace(self, branches=tuple(replace(each, delta=delta) for each in self.branches))


def read_streams(
    small: Program, large: Program, depths: tuple[int, int], starts: tuple[Starts, Starts]
) -> list[Stream]:
    """The sums whose number of terms grows with depth; DeriveError where none does, or what they do cannot be told."""
    ratio = Fraction(depths[1], depths[0])
    before, after = (_by_kinds(Terms(program).largest()) for program in (small, large))
    found = []
    for kinds, sums in after.items():
        few, many = (
            max(each, key=lambda x: sum(x.counted().values()), default=None) for each in (before.get(kinds, []), sums)
        )
        if few is None or many is None:
            continue
        counts, more = few.counted(), many.counted()
        growing = [kind for kind in more if more[kind] > counts[kind]]
        if growing:
            branches = tuple(_branch(kind, few, many, ratio, starts) for kind in growing if kind)
            found.append(Stream(branches, is_normed(many)))
    if not found:
        raise DeriveError(
            f"no sum has more terms at depth {depths[1]} than at {depths[0]}: there is no residual stream h + f(h), "
            "and what depth does to a chain of layers is not a power of it; leave --depth out"
        )
    return found


def _by_kinds(sums: Sequence[Sum]) -> dict[frozenset[Signature], list[Sum]]:
    found: dict[frozenset[Signature], list[Sum]] = {}
    for each in sums:
        found.setdefault(frozenset(each.counted()), []).append(each)
    return found


def _branch(kind: Signature, few: Sum, many: Sum, ratio: Fraction, starts: tuple[Starts, Starts]) -> Branch:
    """What is said of one kind of term, by the last of its kind at either depth."""
    terms = [next(term for term in reversed(each.parts) if each.signature(term) == kind) for each in (few, many)]
    branches = [each.branch(term) for each, term in zip((few, many), terms, strict=True)]
    _refuse_shared(kind, few, many)
    factors, last, drawn_now = [term.factor for term in terms], dict[str, Rational](), True
    ends = [list(chain(branch, term)) for branch, term in zip(branches, terms, strict=True)]
    for (value, factor), (other, larger) in zip(*ends, strict=True):
        factors = [factors[0] * factor, factors[1] * larger]
        if value.path is not None and other.path is not None:
            name = without_numbers(value.path)
            last[name] = _start_power(value, other, ratio, starts)
            drawn_now &= _size(starts[0], value.path) != 0
    told = [sorted(float(factor) for _, factor in end if factor != 1.0) for end in ends]
    inner = [_without(constants(branch), own) for branch, own in zip(branches, told, strict=True)]
    if inner[0] != inner[1]:
        raise DeriveError(
            f"constants in the branch with {_named(kind)} go with depth, and not at its end, where the multiplier of a "
            "branch stands; multiply what it adds to the stream"
        )
    multiplier = Rational(scalar_power(abs(factors[0]), abs(factors[1]), ratio))
    _refuse_inner_starts(kind, branches, last, ratio, starts)
    return Branch(kind, multiplier + sum(last.values(), S.Zero), last, drawn_now)  # type: ignore[arg-type]


def _without(numbers: list[float], left_out: Sequence[float]) -> list[float]:
    """The numbers less those of the branch's own multiplier, or what those were the inverse of."""
    kept = list(numbers)
    for each in left_out:
        for number in (each, 1 / each if each else each):
            if number in kept:
                kept.remove(number)
                break
    return kept


def _refuse_shared(kind: Signature, few: Sum, many: Sum) -> None:
    """DeriveError where one parameter is used in every block: its gradient would add up over them."""

    def used(each: Sum) -> int:
        own = [paths(each.branch(term)) for term in each.parts if each.signature(term) == kind]
        turns = max(term.count for term in each.parts if each.signature(term) == kind)
        return 0 if turns > 1 else len({path for found in own for path in found})

    if used(few) and used(few) == used(many):
        raise DeriveError(
            f"all blocks share {_named(kind)}, whose gradient adds up over them: how it goes with depth is not known "
            "here; give every block parameters of its own"
        )


def _refuse_inner_starts(
    kind: Signature,
    branches: Sequence[Sequence[Value]],
    last: Mapping[str, Rational],
    ratio: Fraction,
    starts: tuple[Starts, Starts],
) -> None:
    """DeriveError where what a branch begins with is drawn by depth: only its end may be."""
    of = [{without_numbers(value.path): value for value in branch if value.path} for branch in branches]
    for name in sorted(of[0].keys() - last.keys()):
        if _start_power(of[0][name], of[1][name], ratio, starts) != 0:
            raise DeriveError(
                f"{name} of the branch with {_named(kind)} is drawn by depth, and is not what writes into the stream; "
                "scale the last matrix of a branch alone"
            )


def _start_power(value: Value, other: Value, ratio: Fraction, starts: tuple[Starts, Starts]) -> Rational:
    """x of an initial size N^-x: a simple fraction within what is left to chance, or DeriveError."""
    pair = [each[str(name)] for each, name in zip(starts, (value.path, other.path), strict=True)]
    if pair[0] is None or pair[1] is None or 0 in (pair[0].size, pair[1].size):
        return S.Zero
    found = -math.log(pair[1].size / pair[0].size) / math.log(ratio)
    chance = max(each.std / each.size for each in pair if each)  # of entries that are all alike nothing is
    drawn = math.sqrt(sum(1 / (2 * max(math.prod(each.shape), 1)) for each in (value, other)))
    allowed = EXACT + NOISE * chance * drawn / math.log(ratio)
    for simple in (Fraction(round(2 * found), 2), Fraction(found).limit_denominator(4)):
        if abs(float(simple) - found) <= allowed:
            return Rational(simple)  # type: ignore[return-value]
    raise DeriveError(
        f"{value.path} starts at {pair[0].size:.3g} and, deeper, at {pair[1].size:.3g}, no simple power of the depth; "
        "draw it by one"
    )


def _size(starts: Starts, path: str) -> float | None:
    start = starts[path]
    return None if start is None else start.size


def _named(kind: Signature) -> str:
    return shorten(", ".join(sorted(kind)), 80)


def missing(streams: Sequence[Stream], delta: Rational) -> dict[str, Fraction]:
    """x of the N^-x by which each branch has to be multiplied for N^-delta in all, by its name; those of 0 left out."""
    found = {named(branch.within): delta - branch.delta for stream in streams for branch in stream.branches}
    return {name: Fraction(str(x)) for name, x in found.items() if x != 0}


def depth_rows(
    streams: Sequence[Stream], parameters: Mapping[str, str], kappa: Expr, decay: Decay
) -> dict[str, AxisRow]:
    """The row of every parameter of a branch, by its path without numbers; `parameters` are their rules.

    One of several branches has the smallest of their rates.
    """
    found: dict[str, AxisRow] = {}
    for stream in streams:
        growth = stream.growth
        for branch in stream.branches:
            for name in branch.within:
                if name not in parameters:
                    continue
                rule, own = read_optimizer(parameters[name]), branch.last.get(name, S.Zero)
                row = branch_row(rule, branch.delta, own, kappa, decay, growth)
                known = found.get(name)
                found[name] = row if known is None or largest(known.c, row.c) == row.c else known
    return found


def stream_notes(streams: Sequence[Stream], kappa: Expr) -> list[str]:
    """What a reader should know of every branch's multiplier."""
    notes = []
    for stream in streams:
        for branch in stream.branches:
            if not branch.starts:
                continue
            what = f"the branch with {_named(branch.within)}"
            if branch.delta == 0:
                notes.append(
                    f"{what} has no multiplier that goes with depth (delta = 0): the stream grows as N^1/2 at the "
                    "start, norms hide that, and later branches show less and less; rates are those of delta = 1/2. "
                    "With N^-1 every branch learns at any depth: --residual 1 has wrap(apply) put it in"
                )
            elif (kappa - branch.delta).is_positive:
                left = text(kappa - branch.delta)
                notes.append(
                    f"{what} goes as N^-{text(branch.delta)} and changes by N^-{left} of its size: it is linearised"
                )
    return notes
