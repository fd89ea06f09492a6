"""Optimizers as rows of data: an update rule, from which everything the theory needs is derived.

A rule is written in g (gradient), m (first moment, degree 1), v (second moment, degree 2), w (weights) and
eps; matrix functions of the gradient say how they map its singular values sigma. `Optimizer.size`,
`operator_norm`, `alignment_cap`, `epsilon` and the two degrees follow (THEORY 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from sympy import Abs, Expr, Max, Min, Rational, S, Symbol, atan2, sign, sqrt, sympify

from derive.errors import DeriveError, shorten
from derive.exponents import (
    EPSILON,
    FAN_EXPONENTS,
    FAN_IN,
    FAN_OUT,
    FIRST_MOMENT,
    GRADIENT,
    RANK,
    SECOND_MOMENT,
    SIGMA,
    SPREAD,
    WEIGHT,
    Kind,
    check_arguments,
    clip,
    companions,
    degree,
    dominant,
    exponent,
    is_matrix,
    norm,
    operator_norm_exponent,
    opnorm,
    polar,
    rms,
    ruling_branch,
    spectral,
)
from derive.parsing import parse_expression

RULE_NAMES: Mapping[str, Expr] = {
    "g": GRADIENT,
    "m": FIRST_MOMENT,
    "v": SECOND_MOMENT,
    "w": WEIGHT,
    "eps": EPSILON,
    "sigma": SIGMA,
    "fan_in": FAN_IN,
    "fan_out": FAN_OUT,
}
RULE_FUNCTIONS = {
    "sqrt": lambda radicand: sqrt(radicand),  # sympy's own takes a second argument
    "abs": Abs,
    "sign": sign,
    "max": Max,
    "min": Min,
    "atan2": atan2,
    "clip": clip,
    "rms": rms,
    "norm": norm,
    "opnorm": opnorm,
    "polar": polar,
    "spectral": spectral,
}
GRADIENT_DEGREES: Mapping[Symbol, Expr] = {GRADIENT: S.One, FIRST_MOMENT: S.One, SECOND_MOMENT: S(2)}
WEIGHT_DEGREES: Mapping[Symbol, Expr] = {WEIGHT: S.One}
NEXT = Rational(1, 10**40)
"""Less than any difference of exponents: a gradient larger by n^NEXT is one that has just begun to grow."""


Fans = Kind | tuple[Rational, Rational]
"""Powers of the width in (fan_in, fan_out), or the layer kind that has them."""


def fan_exponents(fans: Fans) -> tuple[Expr, Expr]:
    """Powers of the width in (fan_in, fan_out)."""
    fan_in, fan_out = FAN_EXPONENTS[fans] if isinstance(fans, str) else fans
    return sympify(fan_in), sympify(fan_out)


@dataclass(frozen=True)
class Optimizer:
    """An update rule U(g, m, v, w, eps), with Delta W = rate x U, and the exponents that follow from it.

    `update` is the rule in the language of `derive list rules`; `source` says where it comes from;
    `scaled_epsilon` is False where eps is held constant instead of following what it is added to; `trainable` is
    False where `verify` has no transform of it, so that its exponents are derived and not measured. `rank` is beta
    of a gradient of rank n^beta on hidden layers, from 0 (a fixed batch) to 1 (one that exceeds the width); None is
    the one at which the rate is smallest, which is stable at any. Only rules of `needs_rank` ask for it.
    """

    name: str
    update: str
    source: str = "given by the user"
    scaled_epsilon: bool = True
    trainable: bool = True
    rank: Rational | None = None

    @cached_property
    def rule(self) -> Expr:
        """The update rule as a sympy expression; DeriveError where it cannot be read or is not a matrix."""
        rule = parse_expression(self.update, "update rule", names=RULE_NAMES, functions=RULE_FUNCTIONS)
        check_arguments(rule)
        if not is_matrix(rule):
            raise DeriveError(
                f"update rule {shorten(self.update)} is not a matrix of updates; use at least one of g, m, v, w"
            )
        if not rule.has(GRADIENT, FIRST_MOMENT, SECOND_MOMENT):
            raise DeriveError(f"update rule {shorten(self.update)} has no gradient in it; use at least one of g, m, v")
        if SIGMA in rule.replace(spectral, lambda matrix, _singular_map: matrix).free_symbols:
            raise DeriveError(
                f"update rule {shorten(self.update)} uses sigma outside spectral(X, f(sigma)); write it inside"
            )
        return rule

    @property
    def has_epsilon(self) -> bool:
        """Whether the rule has an eps at all."""
        return self.rule.has(EPSILON)

    @property
    def is_spectral(self) -> bool:
        """Whether U is made of the gradient's singular values, so that RMS(U) depends on the gradient's rank."""
        return self.rule.has(spectral)

    @property
    def is_matrix_rule(self) -> bool:
        """Whether ||U||_op is set by the gradient as a whole, not entry by entry nor by the weights (THEORY 3)."""
        return self.is_spectral or (self.rule.has(norm, opnorm) and not self.rule.has(WEIGHT))

    @cached_property
    def needs_rank(self) -> bool:
        """Whether a matrix function is set beside a norm of the gradient or of itself, so that its rank may count."""
        return self.is_spectral and any(
            size.has(GRADIENT, FIRST_MOMENT, SECOND_MOMENT) for size in self.rule.atoms(rms, norm, opnorm)
        )

    def rank_at(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr | None:
        """beta at which the layer is sized: `rank`, or where ||U||_op is largest; None where it changes nothing."""
        if not self.needs_rank:
            return None
        one, full = (
            operator_norm_exponent(self.rule, self._with_epsilon_at(self._sizes_at(kind, gradient, weight, beta)))
            for beta in (S.Zero, S.One)
        )
        if one == full:
            return None
        if self.rank is not None:
            return self.rank
        larger = (full - one).is_positive
        if larger is None:
            raise DeriveError(
                f"update rule {shorten(self.update)} is larger at rank one or at full rank, by the value of its "
                "symbols; say which with --rank one or --rank full"
            )
        return S.Zero if larger else S.One

    @cached_property
    def epsilon_companion(self) -> Expr | None:
        """What eps is added to, solved for eps: sqrt(v) in m/(sqrt(v)+eps), v in m/sqrt(v+eps)."""
        if not self.has_epsilon:
            return None
        found = set(companions(self.rule, EPSILON))
        if len(found) > 1:
            raise DeriveError(
                f"update rule {shorten(self.update)} adds eps to different things "
                f"({', '.join(sorted(map(str, found)))}); one exponent cannot serve both, keep one eps"
            )
        if not found:
            raise DeriveError(
                f"update rule {shorten(self.update)} adds eps to nothing, so its exponent is free; "
                "add it to something, or leave it out"
            )
        return found.pop()

    def epsilon(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr | None:
        """e_l with eps_l = n^-e_l, the exponent of what eps is added to; None where the rule has no eps."""
        if self.epsilon_companion is None:
            return None
        return exponent(self.epsilon_companion, self._sizes(kind, gradient, weight))

    def size(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """s_l with RMS(U_l) = n^-s_l, from RMS(gradient) = n^-gradient and RMS(W_l) = n^-weight."""
        size = exponent(self.rule, self._sizes_with_epsilon(kind, gradient, weight))
        if size is S.Infinity:
            raise DeriveError(f"update rule {shorten(self.update)} is zero; nothing would be trained")
        return size

    def operator_norm(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """p_l with ||U_l||_op = n^p_l on a rank-one, fully aligned gradient (THEORY 3; here n^+p)."""
        return -operator_norm_exponent(self.rule, self._sizes_with_epsilon(kind, gradient, weight))

    def alignment_cap(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """alpha_max = p + s + (log_n fan_in - log_n fan_out)/2: what RMS(Uz) <= ||U||_op RMS(z) allows."""
        fan_in, fan_out = fan_exponents(kind)
        norm_exponent = self.operator_norm(kind, gradient, weight)
        return norm_exponent + self.size(kind, gradient, weight) + (fan_in - fan_out) / 2

    def gradient_degree(self, kind: Fans = "hidden", gradient: Expr = S.Zero, weight: Expr = S.Zero) -> Expr:
        """k, the degree of U in the gradient; a constant eps counts only where it outgrows its companion.

        A rule with a threshold has the degree of the branch that rules at these sizes, and where two meet, of the one
        that rules once gradients grow. Raises DeriveError where the rule is not homogeneous in the gradient.
        """
        if self.scaled_epsilon or self.epsilon_companion is None:
            grown = gradient - NEXT if self.has_threshold else gradient
            return self._degree(GRADIENT_DEGREES, "gradient", self._branch(kind, grown, weight))
        sizes = self._sizes(kind, gradient, weight)
        outgrown = exponent(self.epsilon_companion, sizes).is_positive
        leading = dominant(self.rule, {**sizes, EPSILON: S.Zero if outgrown else S.Infinity})
        return degree(leading, GRADIENT_DEGREES)

    @cached_property
    def weight_degree(self) -> Expr:
        """m, the degree of U in the weights."""
        return self._degree(WEIGHT_DEGREES, "weights", self.rule)

    @cached_property
    def has_threshold(self) -> bool:
        """Whether a clip, maximum or minimum compares what scales differently with the gradient, as in clip(g)."""
        try:
            degree(self.rule, self._with_epsilon_degree(GRADIENT_DEGREES))
        except DeriveError:
            return self.rule.has(clip, Max, Min)
        return False

    def gauge_degree(self, kind: Fans = "hidden", gradient: Expr = S.Zero, weight: Expr = S.Zero) -> Expr | None:
        """1 + k - m: under (a, b) -> (a + theta, b - theta) the rate moves by c -> c - (1 + k - m) theta.

        None where a threshold meets a quantity of its own size: there is then no such shift.
        """
        if not self.has_threshold:
            return 1 + self._degree(GRADIENT_DEGREES, "gradient", self.rule) - self.weight_degree
        degrees = {
            self._degree(GRADIENT_DEGREES, "gradient", self._branch(kind, moved, weight))
            for moved in (gradient - NEXT, gradient + NEXT)
        }
        return 1 + degrees.pop() - self.weight_degree if len(degrees) == 1 else None

    def epsilon_gauge_degree(self) -> Expr | None:
        """What multiplies theta in the shift of eps's exponent, as gauge_degree does for the rate's."""
        if self.epsilon_companion is None:
            return None
        return degree(self.epsilon_companion, GRADIENT_DEGREES) - degree(self.epsilon_companion, WEIGHT_DEGREES)

    def _branch(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """The rule, with thresholds decided at these sizes."""
        return (
            ruling_branch(self.rule, self._sizes_with_epsilon(kind, gradient, weight))
            if self.has_threshold
            else self.rule
        )

    def _degree(self, degrees: Mapping[Symbol, Expr], what: str, rule: Expr) -> Expr:
        try:
            return degree(rule, self._with_epsilon_degree(degrees))
        except DeriveError as error:
            raise DeriveError(
                f"update rule {shorten(self.update)} has no degree in the {what}: {error}; every term must scale "
                "alike (decoupled decay is apart: --decay)"
            ) from None

    def _sizes(self, kind: Fans, gradient: Expr, weight: Expr) -> dict[Symbol, Expr]:
        return self._sizes_at(kind, gradient, weight, self.rank_at(kind, gradient, weight))

    def _sizes_at(self, kind: Fans, gradient: Expr, weight: Expr, beta: Expr | None) -> dict[Symbol, Expr]:
        """With the gradient's rank n^beta; None counts singular values at full rank and sizes them at rank one."""
        fan_in, fan_out = fan_exponents(kind)
        smaller = Min(fan_in, fan_out)
        return {
            RANK: -smaller if beta is None else -beta * smaller,
            SPREAD: S.Zero if beta is None else -beta * smaller,
            GRADIENT: gradient,
            FIRST_MOMENT: gradient,
            SECOND_MOMENT: 2 * gradient,
            WEIGHT: weight,
            FAN_IN: -fan_in,
            FAN_OUT: -fan_out,
        }

    def _sizes_with_epsilon(self, kind: Fans, gradient: Expr, weight: Expr) -> dict[Symbol, Expr]:
        return self._with_epsilon_at(self._sizes(kind, gradient, weight))

    def _with_epsilon_at(self, sizes: dict[Symbol, Expr]) -> dict[Symbol, Expr]:
        """The sizes with that of eps, which is what it is added to where it is scaled."""
        scaled = self.scaled_epsilon and self.epsilon_companion is not None
        return {**sizes, EPSILON: exponent(self.epsilon_companion, sizes) if scaled else S.Zero}  # type: ignore[arg-type]

    def _with_epsilon_degree(self, degrees: Mapping[Symbol, Expr]) -> Mapping[Symbol, Expr]:
        if self.epsilon_companion is None:
            return degrees
        return {**degrees, EPSILON: degree(self.epsilon_companion, degrees)}
