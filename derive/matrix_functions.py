"""Functions of the language of rules beside those of `derive.exponents`: norms of rows, averages, low rank, blocks.

Each says its own size; matrices have fan_out rows of fan_in entries, and rows are taken to be alike, as columns are.
"""

from collections.abc import Mapping
from typing import cast

from sympy import Add, Expr, Mul, S, Symbol

from derive.errors import DeriveError, shorten
from derive.exponents import (
    MatrixFunction,
    MatrixNorm,
    degree,
    exponent,
    matrix_argument,
    operator_norm_exponent,
    rank_exponent,
    unsized,
)
from derive.extrema import largest
from derive.words import FAN_IN, FAN_OUT, OF_GRADIENT, SPREAD, Norm, Sizes, clip, is_matrix, opnorm, spectral


class rownorm(MatrixNorm):
    """Of every row, the fan_in weights of one output, its norm: RMS x sqrt(fan_in)."""

    def sized(self, sizes: Sizes) -> Expr:
        """RMS sqrt(fan_in)."""
        return exponent(matrix_argument(self), sizes) + sizes[FAN_IN] / 2


class colnorm(MatrixNorm):
    """Of every column, the fan_out weights of one input, its norm: RMS x sqrt(fan_out)."""

    def sized(self, sizes: Sizes) -> Expr:
        """RMS sqrt(fan_out)."""
        return exponent(matrix_argument(self), sizes) + sizes[FAN_OUT] / 2


class nucnorm(MatrixNorm):
    """Nuclear norm, the sum of the singular values: the operator norm x the rank."""

    def sized(self, sizes: Sizes) -> Expr:
        """||X||_op x the singular values of its size."""
        matrix = matrix_argument(self)
        return operator_norm_exponent(matrix, sizes) + rank_exponent(matrix, sizes)


class first(MatrixFunction):
    """Moving average of X over steps, as m is of g."""

    nargs = 1
    takes_numbers = True

    def sized(self, sizes: Sizes) -> Expr:
        """As X."""
        return exponent(_inner(self), sizes)

    def operator_norm(self, sizes: Sizes) -> Expr:
        """As X."""
        return operator_norm_exponent(_inner(self), sizes)

    def rank(self, sizes: Sizes, given: Expr) -> Expr:
        """As X."""
        inner = _inner(self)
        return inner.rank(sizes, given) if isinstance(inner, MatrixFunction) else given


class second(MatrixFunction):
    """Moving average of X**2 over steps, entry by entry, as v is of g."""

    nargs = 1
    is_positive = True
    takes_numbers = True

    def sized(self, sizes: Sizes) -> Expr:
        """RMS squared."""
        return 2 * exponent(_inner(self), sizes)

    def homogeneity(self, degrees: Mapping[Symbol, Expr]) -> Expr:
        """Twice that of X."""
        return 2 * degree(_inner(self), degrees)


class lowrank(MatrixFunction):
    """lowrank(X, r): X with none but its r largest singular values; r is a number such as 128 or fan_in/4."""

    nargs = 2

    def sized(self, sizes: Sizes) -> Expr:
        """||X||_op sqrt(rank / (fan_in fan_out))."""
        numel = sizes[FAN_IN] + sizes[FAN_OUT]
        return self.operator_norm(sizes) + (rank_exponent(self, sizes) - numel) / 2

    def operator_norm(self, sizes: Sizes) -> Expr:
        """As X."""
        return operator_norm_exponent(matrix_argument(self), sizes)

    def rank(self, sizes: Sizes, given: Expr) -> Expr:
        """The smaller of r and what X has."""
        return largest(given, _number(self, 1, sizes))


class blocked(MatrixFunction):
    """blocked(X, p, q): X cut p times along its rows and q times along its columns; spectral takes blocks singly."""

    nargs = 3

    def sized(self, sizes: Sizes) -> Expr:
        """As X."""
        return exponent(matrix_argument(self), sizes)

    def _block(self, sizes: Sizes) -> tuple[Expr, Expr]:
        """Powers of the width in a block's number of (columns, rows), negated."""
        block = sizes[FAN_IN] - _number(self, 2, sizes), sizes[FAN_OUT] - _number(self, 1, sizes)
        if any(side.is_positive for side in block):
            raise unsized(self, "there are more blocks than rows or columns")
        return block

    def operator_norm(self, sizes: Sizes) -> Expr:
        """That of one block: RMS sqrt(entries of the block / spread), where no more spread is seen than it has rows."""
        columns, rows = self._block(sizes)
        inner = matrix_argument(self)
        seen = largest(rank_exponent(inner, sizes), columns, rows)
        return exponent(inner, sizes) + (columns + rows - seen) / 2

    def assembled(self, one: Expr, sizes: Sizes) -> Expr:
        """Blocks whose RMS is ||block||_op sqrt(rank / entries) align as entries do: the signs of one are alike."""
        columns, rows = self._block(sizes)
        inner = matrix_argument(self)
        rank = largest(rank_exponent(cast("Expr", spectral(inner, S.One)), sizes), columns, rows)
        rms = one + (rank - columns - rows) / 2
        return rms + (sizes[FAN_IN] + sizes[FAN_OUT] - self.rank(sizes, S.Zero)) / 2

    def rank(self, sizes: Sizes, given: Expr) -> Expr:
        """What entries of the gradient have."""
        del given
        return sizes.get(SPREAD, S.Zero)


def in_blocks(matrix: Expr, blocks: tuple[Expr, ...] | None) -> Expr:
    """The matrix, or cut into blocks = (p, q); DeriveError where these are not two numbers."""
    if blocks is None:
        return matrix
    if len(blocks) != 2 or any(map(_is_no_count, blocks)):
        given = ", ".join(map(str, blocks))
        raise DeriveError(
            f"blocks=({shorten(given)}) does not cut a matrix; give two numbers, rows and columns of blocks, such as "
            "blocks=(2, 4) or blocks=(fan_out/128, fan_in/128)"
        )
    return cast("Expr", blocked(matrix, *blocks))


def of_low_rank(matrix: Expr, rank: Expr) -> Expr:
    """lowrank(matrix, rank); DeriveError where the rank is no number."""
    if _is_no_count(rank):
        raise DeriveError(
            f"rank {shorten(str(rank))} is no number of singular values; give one such as 128 or fan_in/4"
        )
    return cast("Expr", lowrank(matrix, rank))


def _is_no_count(number: Expr) -> bool:
    return bool(number.free_symbols - {FAN_IN, FAN_OUT}) or number.is_positive is not True


def without(expression: Expr, symbol: Symbol) -> Expr:
    """The expression where the symbol, a matrix, is zero."""
    if expression == symbol:
        return S.Zero
    if not expression.has(symbol):
        return expression
    parts = [without(part, symbol) for part in cast("tuple[Expr, ...]", expression.args)]
    if parts[0].is_zero and isinstance(expression, Norm | MatrixFunction | spectral | clip):
        return S.Zero
    return cast("Expr", expression.func(*parts))


def is_mixed(expression: Expr) -> bool:
    """Whether a matrix function enters entry by entry, as in sign(polar(m)), and not just in sums and times numbers."""
    if isinstance(expression, spectral) or not expression.has(spectral):
        return False
    matrices = [part for part in cast("tuple[Expr, ...]", expression.args) if is_matrix(part)]
    if isinstance(expression, MatrixNorm) or not matrices:
        return False
    linear = isinstance(expression, Add | first) or (isinstance(expression, Mul) and len(matrices) == 1)
    return not linear or any(map(is_mixed, matrices))


def depends_on_rank(rule: Expr) -> bool:
    """Whether the gradient's rank may count in ||rule||_op.

    A norm of the gradient beside a matrix function, its operator or nuclear norm, entries of a matrix function, blocks.
    """
    if rule.has(nucnorm, blocked) or is_mixed(rule):
        return True
    norms = [size for size in rule.atoms(Norm) if size.has(*OF_GRADIENT)]
    return bool(norms) and (rule.has(spectral) or any(isinstance(size, opnorm) for size in norms))


OF_MATRICES = (spectral, opnorm, nucnorm, lowrank)
"""What only a matrix has: a parameter of another shape is refused."""

FANS = (FAN_IN, FAN_OUT)
"""What a matrix has and its transpose has the other way round."""


def by_side(rule: Expr) -> bool:
    """Whether the rule is another one for the transpose of a matrix."""
    return rule.has(*FANS, rownorm, colnorm)


def takes_matrices(rule: Expr) -> bool:
    """Whether what the rule makes of an entry depends on the matrix that it is in."""
    return rule.has(*OF_MATRICES) or by_side(rule)


def _inner(function: MatrixFunction) -> Expr:
    return cast("Expr", function.args[0])


def _number(function: MatrixFunction, which: int, sizes: Sizes) -> Expr:
    return exponent(cast("Expr", function.args[which]), sizes)
