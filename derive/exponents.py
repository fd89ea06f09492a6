"""The width exponent of a sympy expression: products add, sums take the largest, powers multiply.

Sign convention everywhere: exponent x means size n^-x, so the *smallest* exponent is the largest quantity.
An update rule is written in the symbols below; g, m, v, w stand for matrices of fan_out x fan_in entries,
whose size is the RMS of a typical entry.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, cast, get_args

import sympy
from sympy import Abs, Add, Expr, Function, Integer, Max, Min, Mul, Pow, Rational, S, Symbol, atan, atan2, sign

from derive.errors import DeriveError, shorten

Kind = Literal["embedding", "hidden", "readout"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FAN_EXPONENTS: dict[Kind, tuple[int, int]] = {"embedding": (0, 1), "hidden": (1, 1), "readout": (1, 0)}
"""Powers of the width in (fan_in, fan_out) of each layer kind."""

GRADIENT, FIRST_MOMENT, WEIGHT = (Symbol(name, real=True, nonzero=True) for name in ("g", "m", "w"))
PREVIOUS_GRADIENT, CHANGE = (Symbol(name, real=True) for name in ("g_prev", "dw"))
"""The gradient of the step before, and w - w_0, which is zero at the first step."""
SECOND_MOMENT, EPSILON, SECOND_EPSILON, SIGMA = (Symbol(name, positive=True) for name in ("v", "eps", "eps2", "sigma"))
EPSILONS = (EPSILON, SECOND_EPSILON)
FAN_IN, FAN_OUT = (Symbol(name, positive=True) for name in ("fan_in", "fan_out"))
RANK, SPREAD = (Symbol(name, positive=True) for name in ("rank", "spread"))
"""Singular values of a matrix function of the gradient, and those over which the gradient's own norm spreads."""
OF_GRADIENT = (GRADIENT, FIRST_MOMENT, SECOND_MOMENT, PREVIOUS_GRADIENT)
MATRICES = (*OF_GRADIENT, WEIGHT, CHANGE)

Sizes = Mapping[Symbol, Expr]


class MatrixFunction(Function):
    """A function of `derive.matrix_functions`, which says of itself what the functions below ask of any other."""

    is_real = True
    takes_numbers = False

    def sized(self, sizes: Sizes) -> Expr:
        """x with RMS(self) = n^-x."""
        raise NotImplementedError

    def operator_norm(self, sizes: Sizes) -> Expr:
        """x with ||self||_op = n^-x: by default that of entries, see `entrywise_operator_norm`."""
        return entrywise_operator_norm(self, sizes)

    def assembled(self, one: Expr, sizes: Sizes) -> Expr:
        """x with ||spectral(self, f)||_op = n^-x, where f(||self||_op) = n^-one."""
        del sizes
        return one

    def rank(self, sizes: Sizes, given: Expr) -> Expr:
        """x with n^-x singular values of the size of the largest, where the gradient has n^-given of them."""
        del sizes
        return given

    def homogeneity(self, degrees: Mapping[Symbol, Expr]) -> Expr:
        """The degree of homogeneity; by default that of the first argument."""
        return degree(_arguments(self)[0], degrees)


class Norm(Function):
    """A positive number computed from a whole matrix."""

    is_real = True
    is_positive = True
    nargs = 1


class MatrixNorm(Norm):
    """A number, or one per row or column, of `derive.matrix_functions`, which says its own size."""

    def sized(self, sizes: Sizes) -> Expr:
        """x with self = n^-x."""
        raise NotImplementedError


class rms(Norm):
    """Root mean square over the entries."""


class norm(Norm):
    """Frobenius norm: RMS x sqrt(fan_in fan_out)."""


class opnorm(Norm):
    """Operator norm: RMS x sqrt(fan_in fan_out) of the gradient, RMS x sqrt(max(fan_in, fan_out)) of weights."""


class clip(Function):
    """Entries clipped to [-1, 1]."""

    is_real = True
    nargs = 1

    @classmethod
    def eval(cls, argument: Expr) -> Expr | None:  # type: ignore[override]
        """Numbers at once: sympy compares only numbers that it can evaluate."""
        return Max(-1, Min(1, argument)) if argument.is_number and argument.is_comparable else None


class spectral(Function):
    """spectral(X, f(sigma)): X with each of its singular values sigma replaced by f(sigma)."""

    is_real = True
    nargs = 2


def largest(*values: Expr) -> Expr:
    """The maximum, without the arguments that are provably smaller than another.

    sympy's own Max also tries to order nested maxima, which takes minutes on a chain of a few layers.
    """
    return extremum(Max, values, _is_at_least)


def smallest(*values: Expr) -> Expr:
    """The minimum, as `largest`."""
    return extremum(Min, values, _is_at_least)


def extremum(
    function: type[Max] | type[Min], values: Sequence[Expr], is_at_least: Callable[[Expr, Expr], bool]
) -> Expr:
    """The maximum or minimum of the values, without those that another is known to be beyond."""
    if all(isinstance(value, Rational) for value in values):
        return max(values) if function is Max else min(values)

    def is_beyond(first: Expr, second: Expr) -> bool:
        return is_at_least(first, second) if function is Max else is_at_least(second, first)

    flat: list[Expr] = []
    for value in values:
        flat += _arguments(value) if isinstance(value, function) else (value,)
    kept: list[Expr] = []
    for value in dict.fromkeys(flat):
        if any(is_beyond(other, value) for other in kept):
            continue
        kept = [*(other for other in kept if not is_beyond(value, other)), value]
    return kept[0] if len(kept) == 1 else cast("Expr", function(*kept, evaluate=False))


def _is_at_least(first: Expr, second: Expr) -> bool:
    """Whether first >= second for certain; nested extrema are not opened."""
    if S.Infinity in (first, second):  # the size of zero
        return first is S.Infinity
    if first.has(Max, Min) or second.has(Max, Min):
        return first == second
    return bool((first - second).is_nonnegative)


def text(expression: Expr) -> str:
    """The expression as it could be typed back in."""
    return str(expression).replace("Max(", "max(").replace("Min(", "min(")


def polar(matrix: Expr) -> Expr:
    """The orthogonal polar factor: every singular value becomes 1."""
    return cast("Expr", spectral(matrix, S.One))


def _arguments(expression: Expr) -> tuple[Expr, ...]:
    return cast("tuple[Expr, ...]", expression.args)


def is_matrix(expression: Expr) -> bool:
    """Whether the expression has fan_out x fan_in entries, rather than being one number."""
    if isinstance(expression, Norm):
        return False
    if isinstance(expression, spectral):
        return True
    return expression in MATRICES or any(is_matrix(part) for part in _arguments(expression))


def unsized(expression: object, problem: str) -> DeriveError:
    """What is raised for an expression without a size."""
    return DeriveError(f"cannot size {shorten(str(expression))}: {problem}")


def matrix_argument(expression: Expr) -> Expr:
    """The first argument; DeriveError where it is one number."""
    matrix = _arguments(expression)[0]
    if not is_matrix(matrix):
        raise unsized(expression, "its argument is one number; give it a matrix made of g, m, v or w")
    return matrix


def check_arguments(expression: Expr) -> None:
    """Raise DeriveError for a norm or matrix function of a number, and for singular values mapped to matrices."""
    for part in expression.atoms(Norm, spectral, MatrixFunction):
        if isinstance(part, MatrixFunction) and part.takes_numbers:
            continue
        matrix_argument(cast("Expr", part))
        if isinstance(part, spectral) and is_matrix(_arguments(part)[1]):
            raise unsized(part, "singular values become numbers; write the second argument in sigma, numbers and norms")


def _half_log_numel(sizes: Sizes) -> Expr:
    return -(sizes[FAN_IN] + sizes[FAN_OUT]) / 2


def _parity_in_weights(expression: Expr) -> int:
    """1 where w -> -w leaves every entry as it is, -1 where it turns its sign, 0 where neither is certain."""
    parts = [_parity_in_weights(part) for part in _arguments(expression)]
    if expression == WEIGHT:
        return -1
    if isinstance(expression, Norm) or not expression.has(WEIGHT):
        return 1
    if isinstance(expression, Mul):
        return math.prod(parts)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        known = _parity_in_weights(base)
        return 1 if known == 1 else known ** (power.p % 2) if isinstance(power, Integer) else 0
    if isinstance(expression, Abs):
        return abs(parts[0])
    if isinstance(expression, sign | clip | atan | spectral):
        return parts[0]
    if isinstance(expression, atan2):
        return parts[0] if parts[1] == 1 else 0
    alike = parts[0] if len(set(parts)) == 1 else 0
    return alike if isinstance(expression, Add) else max(alike, 0)


def _is_of_weights(matrix: Expr) -> bool:
    """Whether entries of w, and not just numbers made of it, enter the matrix: it then has full rank."""
    if isinstance(matrix, Norm):
        return False
    return matrix == WEIGHT or any(_is_of_weights(part) for part in _arguments(matrix))


def rank_exponent(matrix: Expr, sizes: Sizes) -> Expr:
    """x with n^-x singular values of the size of the largest.

    Matrix functions of the gradient have its `rank`, entries of it its `spread`; functions of weights have full rank.
    """
    full = largest(sizes[FAN_IN], sizes[FAN_OUT])
    if _is_of_weights(matrix):
        return full
    inner = _arguments(matrix)[0] if isinstance(matrix, spectral) else matrix
    given = sizes.get(RANK, full) if matrix.has(spectral) else sizes.get(SPREAD, S.Zero)
    return inner.rank(sizes, given) if isinstance(inner, MatrixFunction) else given


def operator_norm_exponent(matrix: Expr, sizes: Sizes) -> Expr:
    """x with ||matrix||_op = n^-x.

    spectral(X, f) has f(||X||_op) (docs/theory.md, section 3), entries have `entrywise_operator_norm`.
    """
    if isinstance(matrix, spectral):
        inner, singular_map = matrix_argument(matrix), _arguments(matrix)[1]
        found = exponent(singular_map, {**sizes, SIGMA: operator_norm_exponent(inner, sizes)})
        return inner.assembled(found, sizes) if isinstance(inner, MatrixFunction) else found
    if isinstance(matrix, MatrixFunction):
        return matrix.operator_norm(sizes)
    if isinstance(matrix, Add):
        return smallest(*(operator_norm_exponent(term, sizes) for term in _arguments(matrix)))
    if isinstance(matrix, Mul):
        scalars, matrices = [], []
        for factor in _arguments(matrix):
            (matrices if is_matrix(factor) else scalars).append(factor)
        if len(matrices) == 1 and isinstance(matrices[0], spectral | Add | MatrixFunction):
            return sum((exponent(scalar, sizes) for scalar in scalars), operator_norm_exponent(matrices[0], sizes))
    return entrywise_operator_norm(matrix, sizes)


def entrywise_operator_norm(matrix: Expr, sizes: Sizes) -> Expr:
    """x with ||matrix||_op = n^-x, for a function of entries.

    One of the gradient has ||X||_op = RMS(X) sqrt(fan_in fan_out / spread), spread 1 where the gradient is of rank
    one; one that is odd in the weights has the independent signs of W_0 and so
    ||X||_op = RMS(X) sqrt(max(fan_in, fan_out)).
    """
    if not _is_of_weights(matrix):
        return exponent(matrix, sizes) - _half_log_numel(sizes) - sizes.get(SPREAD, S.Zero) / 2
    if _parity_in_weights(matrix) == -1:
        return exponent(matrix, sizes) + smallest(sizes[FAN_IN], sizes[FAN_OUT]) / 2
    return exponent(matrix, sizes) - _half_log_numel(sizes)


def exponent(expression: Expr, sizes: Sizes) -> Expr:
    """x with RMS(expression) = n^-x, from the exponents `sizes` of its symbols.

    Products add, powers multiply, sums and maxima take the smallest exponent (terms are taken not to
    cancel), sign is of size one, atan2(y, x) is y/x until it saturates. A matrix function of the gradient has
    its `rank`: RMS = ||X||_op sqrt(rank / (fan_in fan_out)); one of weights is of full rank. Zero has exponent oo.
    Raises DeriveError naming the sub-expression that has no size.
    """

    def size(part: Expr) -> Expr:
        return exponent(part, sizes)

    if expression.is_number:
        if expression.is_zero:
            return S.Infinity
        if expression.has(S.ComplexInfinity, S.NaN, S.Infinity, S.NegativeInfinity):
            raise unsized(expression, "it is not finite")
        return S.Zero
    if isinstance(expression, Symbol):
        if expression not in sizes:
            raise unsized(expression, f"its exponent is not known; known: {', '.join(map(str, sizes))}")
        return sizes[expression]
    if isinstance(expression, Mul):
        return sum((size(factor) for factor in _arguments(expression)), S.Zero)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        if not isinstance(power, Rational):
            raise unsized(expression, "the power is not a rational number")
        return power * size(base)
    if isinstance(expression, Add):
        return smallest(*map(size, _arguments(expression)))
    if isinstance(expression, Abs):
        return size(_arguments(expression)[0])
    if isinstance(expression, sign):
        return S.Zero
    if isinstance(expression, Max):
        return smallest(*map(size, _arguments(expression)))
    if isinstance(expression, Min):
        signed = not all(part.is_nonnegative for part in _arguments(expression))
        return (smallest if signed else largest)(*map(size, _arguments(expression)))
    if isinstance(expression, atan):
        return largest(S.Zero, size(_arguments(expression)[0]))
    if isinstance(expression, atan2):
        if not _arguments(expression)[1].is_nonnegative:
            raise unsized(expression, "its second argument may be negative; use one such as sqrt(v) or abs(g)")
        return largest(S.Zero, size(_arguments(expression)[0]) - size(_arguments(expression)[1]))
    if isinstance(expression, clip):
        return largest(S.Zero, size(_arguments(expression)[0]))
    if isinstance(expression, rms):
        return size(matrix_argument(expression))
    if isinstance(expression, norm):
        return size(matrix_argument(expression)) - _half_log_numel(sizes)
    if isinstance(expression, opnorm):
        return operator_norm_exponent(matrix_argument(expression), sizes)
    if isinstance(expression, spectral):
        rank = rank_exponent(expression, sizes)
        return operator_norm_exponent(expression, sizes) + _half_log_numel(sizes) + rank / 2
    if isinstance(expression, MatrixFunction | MatrixNorm):
        return expression.sized(sizes)
    raise unsized(expression, "no rule for this function")


def degree(expression: Expr, degrees: Mapping[Symbol, Expr]) -> Expr:
    """k with expression(t^d_1 x_1, t^d_2 x_2, ...) = t^k expression(x_1, x_2, ...), the degree of homogeneity.

    Symbols absent from `degrees` have degree 0. Raises DeriveError naming the sub-expression that is not
    homogeneous.
    """

    def part_degree(part: Expr) -> Expr:
        return degree(part, degrees)

    if expression.is_number:
        return S.Zero
    if isinstance(expression, Symbol):
        return degrees.get(expression, S.Zero)
    if isinstance(expression, Mul):
        return sum((part_degree(factor) for factor in _arguments(expression)), S.Zero)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        return power * part_degree(base)
    if isinstance(expression, Add | Max | Min):
        parts = {part_degree(part) for part in _arguments(expression) if not part.is_zero}
        if len(parts) != 1:
            raise DeriveError(
                f"{shorten(str(expression))} is not homogeneous: its terms have degrees "
                f"{', '.join(sorted(map(str, parts)))}"
            )
        return parts.pop()
    if isinstance(expression, sign):
        return S.Zero
    if isinstance(expression, atan | clip):
        if part_degree(_arguments(expression)[0]) != 0:
            raise DeriveError(f"{shorten(str(expression))} is not homogeneous: its argument has a degree")
        return S.Zero
    if isinstance(expression, atan2):
        if part_degree(_arguments(expression)[0]) != part_degree(_arguments(expression)[1]):
            raise DeriveError(f"{shorten(str(expression))} is not homogeneous: its arguments differ in degree")
        return S.Zero
    if isinstance(expression, Abs | Norm):
        return part_degree(_arguments(expression)[0])
    if isinstance(expression, spectral):
        return degree(_arguments(expression)[1], {**degrees, SIGMA: part_degree(_arguments(expression)[0])})
    if isinstance(expression, MatrixFunction):
        return expression.homogeneity(degrees)
    raise unsized(expression, "no rule for this function")


def companions(expression: Expr, symbol: Symbol) -> Iterator[Expr]:
    """What `symbol` stands beside in every sum or maximum of the expression, solved for the symbol.

    In sqrt(v) + eps it is sqrt(v); in (v + eps)**(1/2) it is v. Its size is the one at which the symbol
    starts to matter. Inside spectral(X, f(sigma)), sigma is written as opnorm(X).
    """
    if isinstance(expression, spectral):
        matrix, singular_map = _arguments(expression)
        for companion in companions(singular_map, symbol):
            yield companion.subs({SIGMA: cast("Expr", opnorm(matrix))})
        yield from companions(matrix, symbol)
        return
    if isinstance(expression, Add | Max | Min):
        bare = [term for term in _arguments(expression) if term.as_independent(symbol)[1].as_base_exp()[0] == symbol]
        others = [term for term in _arguments(expression) if not term.has(symbol)]
        if bare and others:
            coefficient, power = bare[0].as_independent(symbol)
            rest = sympy.Add(*others) if isinstance(expression, Add) else expression.func(*others)
            yield (rest / coefficient) ** (1 / power.as_base_exp()[1])
    for part in _arguments(expression):
        yield from companions(part, symbol)


def ruling_branch(expression: Expr, sizes: Sizes) -> Expr:
    """The expression with every clip, maximum and minimum replaced by the argument that rules at large width.

    clip(x) is x where x shrinks with the width and sign(x) where it does not; several arguments of one size stay.
    Raises DeriveError where symbols leave open which one rules.
    """
    if isinstance(expression, spectral):
        matrix, singular_map = _arguments(expression)
        inner = {**sizes, SIGMA: operator_norm_exponent(matrix, sizes)}
        return cast("Expr", spectral(ruling_branch(matrix, sizes), ruling_branch(singular_map, inner)))
    if not expression.args or not expression.free_symbols:
        return expression
    parts = _arguments(expression)
    if isinstance(expression, clip):
        shrinks = exponent(parts[0], sizes).is_positive
        if shrinks is None:
            raise unsized(expression, "symbols leave open whether it binds; give numbers")
        return ruling_branch(parts[0], sizes) if shrinks else cast("Expr", sign(ruling_branch(parts[0], sizes)))
    if isinstance(expression, Max | Min):
        leading = exponent(expression, sizes)
        if leading.free_symbols and len({exponent(part, sizes) for part in parts}) > 1:
            raise unsized(expression, "symbols leave open which argument rules; give numbers")
        parts = tuple(part for part in parts if exponent(part, sizes) == leading)
    return cast("Expr", expression.func(*(ruling_branch(part, sizes) for part in parts)))


def dominant(expression: Expr, sizes: Sizes) -> Expr:
    """The expression with only the terms that rule its size, and saturated functions replaced by signs."""
    if isinstance(expression, spectral):
        matrix, singular_map = _arguments(expression)
        inner = {**sizes, SIGMA: operator_norm_exponent(matrix, sizes)}
        return cast("Expr", spectral(dominant(matrix, sizes), dominant(singular_map, inner)))
    if not expression.args or not expression.free_symbols:
        return expression
    parts = _arguments(expression)
    if isinstance(expression, clip | atan):
        saturated = not exponent(parts[0], sizes).is_positive
        return sign(parts[0]) if saturated else dominant(parts[0], sizes)
    if isinstance(expression, Add | Max | Min):
        leading = exponent(expression, sizes)
        parts = tuple(part for part in parts if exponent(part, sizes) == leading)
    return cast("Expr", expression.func(*(dominant(part, sizes) for part in parts)))
