"""The width exponent of a sympy expression: products add, sums take the largest, powers multiply.

Sign convention everywhere: exponent x means size n^-x, so the *smallest* exponent is the largest quantity.
An update rule is written in the symbols below; g, m, v, w stand for matrices of fan_out x fan_in entries,
whose size is the RMS of a typical entry.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import sympy
from sympy import Abs, Add, Expr, Function, Max, Min, Mul, Pow, Rational, S, Symbol, atan, atan2, sign

from derive.errors import DeriveError, shorten
from derive.extrema import largest, smallest
from derive.words import (
    FAN_IN,
    FAN_OUT,
    RANK,
    SIGMA,
    SPREAD,
    Norm,
    Sizes,
    arguments,
    clip,
    is_matrix,
    is_of_weights,
    norm,
    opnorm,
    rms,
    spectral,
)
from derive.words import parity_in_weights as _parity_in_weights


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
        return degree(arguments(self)[0], degrees)


class MatrixNorm(Norm):
    """A number, or one per row or column, of `derive.matrix_functions`, which says its own size."""

    def sized(self, sizes: Sizes) -> Expr:
        """x with self = n^-x."""
        raise NotImplementedError


def unsized(expression: object, problem: str) -> DeriveError:
    """What is raised for an expression without a size."""
    return DeriveError(f"cannot size {shorten(str(expression))}: {problem}")


def matrix_argument(expression: Expr) -> Expr:
    """The first argument; DeriveError where it is one number."""
    matrix = arguments(expression)[0]
    if not is_matrix(matrix):
        raise unsized(expression, "its argument is one number; give it a matrix made of g, m, v or w")
    return matrix


def check_arguments(expression: Expr) -> None:
    """Raise DeriveError for a norm or matrix function of a number, and for singular values mapped to matrices."""
    for part in expression.atoms(Norm, spectral, MatrixFunction):
        if isinstance(part, MatrixFunction) and part.takes_numbers:
            continue
        matrix_argument(cast("Expr", part))
        if isinstance(part, spectral) and is_matrix(arguments(part)[1]):
            raise unsized(part, "singular values become numbers; write the second argument in sigma, numbers and norms")


def _half_log_numel(sizes: Sizes) -> Expr:
    return -(sizes[FAN_IN] + sizes[FAN_OUT]) / 2


def rank_exponent(matrix: Expr, sizes: Sizes) -> Expr:
    """x with n^-x singular values of the size of the largest.

    Matrix functions of the gradient have its `rank`, entries of it its `spread`; functions of weights have full rank.
    """
    full = largest(sizes[FAN_IN], sizes[FAN_OUT])
    if is_of_weights(matrix):
        return full
    inner = arguments(matrix)[0] if isinstance(matrix, spectral) else matrix
    given = sizes.get(RANK, full) if matrix.has(spectral) else sizes.get(SPREAD, S.Zero)
    return inner.rank(sizes, given) if isinstance(inner, MatrixFunction) else given


def operator_norm_exponent(matrix: Expr, sizes: Sizes) -> Expr:
    """x with ||matrix||_op = n^-x.

    spectral(X, f) has f(||X||_op) (docs/theory.md, section 3), entries have `entrywise_operator_norm`.
    """
    if isinstance(matrix, spectral):
        inner, singular_map = matrix_argument(matrix), arguments(matrix)[1]
        found = exponent(singular_map, {**sizes, SIGMA: operator_norm_exponent(inner, sizes)})
        return inner.assembled(found, sizes) if isinstance(inner, MatrixFunction) else found
    if isinstance(matrix, MatrixFunction):
        return matrix.operator_norm(sizes)
    if isinstance(matrix, Add):
        return smallest(*(operator_norm_exponent(term, sizes) for term in arguments(matrix)))
    if isinstance(matrix, Mul):
        scalars, matrices = [], []
        for factor in arguments(matrix):
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
    if not is_of_weights(matrix):
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
        return sum((size(factor) for factor in arguments(expression)), S.Zero)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        if not isinstance(power, Rational):
            raise unsized(expression, "the power is not a rational number")
        return power * size(base)
    if isinstance(expression, Add):
        return smallest(*map(size, arguments(expression)))
    if isinstance(expression, Abs):
        return size(arguments(expression)[0])
    if isinstance(expression, sign):
        return S.Zero
    if isinstance(expression, Max):
        return smallest(*map(size, arguments(expression)))
    if isinstance(expression, Min):
        signed = not all(part.is_nonnegative for part in arguments(expression))
        return (smallest if signed else largest)(*map(size, arguments(expression)))
    if isinstance(expression, atan):
        return largest(S.Zero, size(arguments(expression)[0]))
    if isinstance(expression, atan2):
        if not arguments(expression)[1].is_nonnegative:
            raise unsized(expression, "its second argument may be negative; use one such as sqrt(v) or abs(g)")
        return largest(S.Zero, size(arguments(expression)[0]) - size(arguments(expression)[1]))
    if isinstance(expression, clip):
        return largest(S.Zero, size(arguments(expression)[0]))
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
        return sum((part_degree(factor) for factor in arguments(expression)), S.Zero)
    if isinstance(expression, Pow):
        base, power = expression.as_base_exp()
        return power * part_degree(base)
    if isinstance(expression, Add | Max | Min):
        parts = {part_degree(part) for part in arguments(expression) if not part.is_zero}
        if len(parts) != 1:
            raise DeriveError(
                f"{shorten(str(expression))} is not homogeneous: its terms have degrees "
                f"{', '.join(sorted(map(str, parts)))}"
            )
        return parts.pop()
    if isinstance(expression, sign):
        return S.Zero
    if isinstance(expression, atan | clip):
        if part_degree(arguments(expression)[0]) != 0:
            raise DeriveError(f"{shorten(str(expression))} is not homogeneous: its argument has a degree")
        return S.Zero
    if isinstance(expression, atan2):
        if part_degree(arguments(expression)[0]) != part_degree(arguments(expression)[1]):
            raise DeriveError(f"{shorten(str(expression))} is not homogeneous: its arguments differ in degree")
        return S.Zero
    if isinstance(expression, Abs | Norm):
        return part_degree(arguments(expression)[0])
    if isinstance(expression, spectral):
        return degree(arguments(expression)[1], {**degrees, SIGMA: part_degree(arguments(expression)[0])})
    if isinstance(expression, MatrixFunction):
        return expression.homogeneity(degrees)
    raise unsized(expression, "no rule for this function")


def companions(expression: Expr, symbol: Symbol) -> Iterator[Expr]:
    """What `symbol` stands beside in every sum or maximum of the expression, solved for the symbol.

    In sqrt(v) + eps it is sqrt(v); in (v + eps)**(1/2) it is v. Its size is the one at which the symbol
    starts to matter. Inside spectral(X, f(sigma)), sigma is written as opnorm(X).
    """
    if isinstance(expression, spectral):
        matrix, singular_map = arguments(expression)
        for companion in companions(singular_map, symbol):
            yield companion.subs({SIGMA: cast("Expr", opnorm(matrix))})
        yield from companions(matrix, symbol)
        return
    if isinstance(expression, Add | Max | Min):
        bare = [term for term in arguments(expression) if term.as_independent(symbol)[1].as_base_exp()[0] == symbol]
        others = [term for term in arguments(expression) if not term.has(symbol)]
        if bare and others:
            coefficient, power = bare[0].as_independent(symbol)
            rest = sympy.Add(*others) if isinstance(expression, Add) else expression.func(*others)
            yield (rest / coefficient) ** (1 / power.as_base_exp()[1])
    for part in arguments(expression):
        yield from companions(part, symbol)


def ruling_branch(expression: Expr, sizes: Sizes) -> Expr:
    """The expression with every clip, maximum and minimum replaced by the argument that rules at large width.

    clip(x) is x where x shrinks with the width and sign(x) where it does not; several arguments of one size stay.
    Raises DeriveError where symbols leave open which one rules.
    """
    if isinstance(expression, spectral):
        matrix, singular_map = arguments(expression)
        inner = {**sizes, SIGMA: operator_norm_exponent(matrix, sizes)}
        return cast("Expr", spectral(ruling_branch(matrix, sizes), ruling_branch(singular_map, inner)))
    if not expression.args or not expression.free_symbols:
        return expression
    parts = arguments(expression)
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
        matrix, singular_map = arguments(expression)
        inner = {**sizes, SIGMA: operator_norm_exponent(matrix, sizes)}
        return cast("Expr", spectral(dominant(matrix, sizes), dominant(singular_map, inner)))
    if not expression.args or not expression.free_symbols:
        return expression
    parts = arguments(expression)
    if isinstance(expression, clip | atan):
        saturated = not exponent(parts[0], sizes).is_positive
        return sign(parts[0]) if saturated else dominant(parts[0], sizes)
    if isinstance(expression, Add | Max | Min):
        leading = exponent(expression, sizes)
        parts = tuple(part for part in parts if exponent(part, sizes) == leading)
    return cast("Expr", expression.func(*(dominant(part, sizes) for part in parts)))
