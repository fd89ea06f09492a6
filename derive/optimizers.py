"""Optimizers as rows of data: an update rule, from which everything the theory needs is derived.

A rule is written in g (gradient), m (first moment, degree 1), v (second moment, degree 2), w (weights) and
eps; matrix functions of the gradient say how they map its singular values sigma. `Optimizer.size`,
`operator_norm`, `alignment_cap`, `epsilon` and the two degrees follow (docs/theory.md, section 3).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from sympy import Expr, Max, Min, Rational, S, Symbol

from derive.errors import DeriveError, shorten
from derive.exponents import (
    check_arguments,
    companions,
    degree,
    dominant,
    exponent,
    operator_norm_exponent,
    ruling_branch,
)
from derive.matrix_functions import depends_on_rank, nucnorm, without
from derive.rule_language import read_rule
from derive.words import (
    CHANGE,
    EPSILON,
    EPSILONS,
    FAN_IN,
    FAN_OUT,
    FIRST_MOMENT,
    GRADIENT,
    OF_GRADIENT,
    PREVIOUS_GRADIENT,
    RANK,
    SECOND_EPSILON,
    SECOND_MOMENT,
    SIGMA,
    SPREAD,
    WEIGHT,
    Fans,
    Sizes,
    clip,
    fan_exponents,
    is_matrix,
    norm,
    opnorm,
    spectral,
)

GRADIENT_DEGREES: Mapping[Symbol, Expr] = {
    GRADIENT: S.One,
    PREVIOUS_GRADIENT: S.One,
    FIRST_MOMENT: S.One,
    SECOND_MOMENT: S(2),
}
WEIGHT_DEGREES: Mapping[Symbol, Expr] = {WEIGHT: S.One}
NEXT = Rational(1, 10**40)
"""Less than any difference of exponents: a gradient larger by n^NEXT is one that has just begun to grow."""


@dataclass(frozen=True)
class Optimizer:
    """An update rule U(g, m, v, w, eps), with Delta W = rate x U, and the exponents that follow from it.

    `update` is the rule in the language of `derive list rules`; `source` says where it comes from;
    `scaled_epsilon` is False where eps is held constant instead of following what it is added to; `trainable` is
    False where `verify` has no transform of it, so that its exponents are derived and not measured. `rank` is beta
    of a gradient of rank n^beta on hidden layers, from 0 (a fixed batch) to 1 (full, which no batch of text
    has made it); None is the one at which the rate is smallest, which is stable at any. Only rules of `needs_rank` ask
    for it.
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
        rule = read_rule(self.update)
        check_arguments(rule)
        if not is_matrix(rule):
            raise DeriveError(
                f"update rule {shorten(self.update)} is not a matrix of updates; use at least one of g, m, v, w"
            )
        if not rule.has(*OF_GRADIENT):
            raise DeriveError(f"update rule {shorten(self.update)} has no gradient in it; use at least one of g, m, v")
        if SIGMA in rule.replace(spectral, lambda matrix, _singular_map: matrix).free_symbols:
            raise DeriveError(
                f"update rule {shorten(self.update)} uses sigma outside spectral(X, f(sigma)); write it inside"
            )
        return rule

    @cached_property
    def first_rule(self) -> Expr:
        """The rule at the first step, w - w_0 being zero; DeriveError where that leaves nothing or no finite step."""
        rule = without(self.rule, CHANGE)
        if rule.is_zero or rule.has(S.ComplexInfinity, S.NaN):
            what = "is zero" if rule.is_zero else "divides by zero"
            raise DeriveError(
                f"the rule {shorten(self.update)} {what} at the first step, where dw = w - w0 is zero; set a start "
                "beside it, as in max(1, rms(dw))"
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
        """Whether ||U||_op is set by the gradient as a whole, not entry by entry nor by the weights (theory 3)."""
        return self.is_spectral or (self.rule.has(norm, opnorm, nucnorm) and not self.rule.has(WEIGHT))

    @cached_property
    def needs_rank(self) -> bool:
        """Whether the rank of the gradient may count."""
        return depends_on_rank(self.rule)

    @cached_property
    def _at_ranks(self) -> dict[Expr, "Optimizer"]:
        return {}

    def at_rank(self, beta: Rational) -> "Optimizer":
        """The same rule, for gradients of rank n^beta."""
        if beta not in self._at_ranks:
            self._at_ranks[beta] = replace(self, rank=beta)
        return self._at_ranks[beta]

    def rank_at(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr | None:
        """beta at which the layer is sized: `rank`, or where ||U||_op is largest; None where it changes nothing."""
        if not self.needs_rank:
            return None
        one, full, mixed = (
            operator_norm_exponent(
                self.first_rule,
                self._with_epsilon_at(self._sizes_at(kind, gradient, weight, beta), self.scaled_epsilon),
            )
            for beta in (S.Zero, S.One, None)
        )
        if one == full:
            return None if one == mixed else S.Zero
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
    def epsilon_companions(self) -> Mapping[Symbol, Expr]:
        """What eps and eps2 are added to, solved for them; the one that the other's may have in it comes first."""
        found = {symbol: self._companion(symbol) for symbol in EPSILONS if self.rule.has(symbol)}
        if len(found) == 2 and found[EPSILON].has(SECOND_EPSILON):
            if found[SECOND_EPSILON].has(EPSILON):
                raise DeriveError(
                    f"update rule {shorten(self.update)} adds eps to what has eps2 in it, and eps2 to what has eps; "
                    "one of them needs an exponent of its own first"
                )
            return dict(reversed(found.items()))
        return found

    @property
    def epsilon_companion(self) -> Expr | None:
        """What eps is added to: sqrt(v) in m/(sqrt(v)+eps), v in m/sqrt(v+eps)."""
        return self.epsilon_companions.get(EPSILON)

    def _companion(self, symbol: Symbol) -> Expr:
        found = set(companions(self.first_rule, symbol))
        if len(found) > 1:
            raise DeriveError(
                f"update rule {shorten(self.update)} adds {symbol} to different things "
                f"({', '.join(sorted(map(str, found)))}); one exponent cannot serve both, write eps for one and eps2 "
                "for the other, or keep one"
            )
        if not found:
            raise DeriveError(
                f"update rule {shorten(self.update)} adds {symbol} to nothing, so its exponent is free; "
                "add it to something, or leave it out"
            )
        return found.pop()

    def epsilon(self, kind: Fans, gradient: Expr, weight: Expr, symbol: Symbol = EPSILON) -> Expr | None:
        """e_l with eps_l = n^-e_l, the exponent of what eps (or eps2) is added to; None where the rule has none."""
        if symbol not in self.epsilon_companions:
            return None
        return self._sizes_with_epsilon(kind, gradient, weight, scaled=True)[symbol]

    def size(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """s_l with RMS(U_l) = n^-s_l, from RMS(gradient) = n^-gradient and RMS(W_l) = n^-weight."""
        sizes = self._sizes_with_epsilon(kind, gradient, weight)
        size = self.size_at(sizes)
        if self.rule.has(CHANGE) and exponent(self.rule, {**sizes, CHANGE: size}) != size:
            raise DeriveError(
                f"update rule {shorten(self.update)} is of another size once it has moved: dw = w - w0 is then as "
                f"large as an update, n^-({size}); compare it with what starts it, as in max(1, rms(dw))"
            )
        return size

    def size_at(self, sizes: Sizes) -> Expr:
        """s at the first step, from the sizes of all that the rule is written in, `with_epsilons`."""
        size = exponent(self.first_rule, sizes)
        if size is S.Infinity:
            raise DeriveError(f"update rule {shorten(self.update)} is zero; nothing would be trained")
        return size

    def operator_norm(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """p_l with ||U_l||_op = n^p_l on a rank-one, fully aligned gradient (theory 3; here n^+p)."""
        return -operator_norm_exponent(self.first_rule, self._sizes_with_epsilon(kind, gradient, weight))

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
        if self.scaled_epsilon or not self.epsilon_companions:
            grown = gradient - NEXT if self.has_threshold else gradient
            return self._degree(GRADIENT_DEGREES, "gradient", self._branch(kind, grown, weight))
        sizes = dict(self._sizes_with_epsilon(kind, gradient, weight))
        for symbol, companion in self.epsilon_companions.items():
            outgrown = exponent(companion, sizes).is_positive
            sizes[symbol] = S.Zero if outgrown else S.Infinity
        return degree(dominant(self.first_rule, sizes), GRADIENT_DEGREES)

    @cached_property
    def weight_degree(self) -> Expr:
        """m, the degree of U in the weights."""
        return self._degree(WEIGHT_DEGREES, "weights", self.first_rule)

    @cached_property
    def has_threshold(self) -> bool:
        """Whether a clip, maximum or minimum compares what scales differently with the gradient, as in clip(g)."""
        try:
            degree(self.first_rule, self._with_epsilon_degree(GRADIENT_DEGREES, self.first_rule))
        except DeriveError:
            return self.first_rule.has(clip, Max, Min)
        return False

    def gauge_degree(self, kind: Fans = "hidden", gradient: Expr = S.Zero, weight: Expr = S.Zero) -> Expr | None:
        """1 + k - m: under (a, b) -> (a + theta, b - theta) the rate moves by c -> c - (1 + k - m) theta.

        None where a threshold meets a quantity of its own size: there is then no such shift.
        """
        if not self.has_threshold:
            return 1 + self._degree(GRADIENT_DEGREES, "gradient", self.first_rule) - self.weight_degree
        degrees = {
            self._degree(GRADIENT_DEGREES, "gradient", self._branch(kind, moved, weight))
            for moved in (gradient - NEXT, gradient + NEXT)
        }
        return 1 + degrees.pop() - self.weight_degree if len(degrees) == 1 else None

    def epsilon_gauge_degree(self, symbol: Symbol = EPSILON) -> Expr | None:
        """What multiplies theta in the shift of eps's (or eps2's) exponent, as gauge_degree does for the rate's.

        None also where a threshold decides what eps is added to.
        """
        if symbol not in self.epsilon_companions:
            return None
        try:
            gradient, weight = (
                self._with_epsilon_degree(each, self.first_rule)[symbol] for each in (GRADIENT_DEGREES, WEIGHT_DEGREES)
            )
        except DeriveError:
            return None
        return gradient - weight

    def _branch(self, kind: Fans, gradient: Expr, weight: Expr) -> Expr:
        """The rule, with thresholds decided at these sizes."""
        return (
            ruling_branch(self.first_rule, self._sizes_with_epsilon(kind, gradient, weight))
            if self.has_threshold
            else self.first_rule
        )

    def _degree(self, degrees: Mapping[Symbol, Expr], what: str, rule: Expr) -> Expr:
        try:
            return degree(rule, self._with_epsilon_degree(degrees, rule))
        except DeriveError as error:
            raise DeriveError(
                f"update rule {shorten(self.update)} has no degree in the {what}: {error}; every term must scale "
                "alike (decoupled decay is apart: --decay)"
            ) from None

    def _sizes_at(self, kind: Fans, gradient: Expr, weight: Expr, beta: Expr | None) -> Sizes:
        """With the gradient's rank n^beta; None counts singular values at full rank and sizes them at rank one."""
        fan_in, fan_out = fan_exponents(kind)
        smaller = Min(fan_in, fan_out)
        return {
            RANK: -smaller if beta is None else -beta * smaller,
            SPREAD: S.Zero if beta is None else -beta * smaller,
            GRADIENT: gradient,
            PREVIOUS_GRADIENT: gradient,
            FIRST_MOMENT: gradient,
            SECOND_MOMENT: 2 * gradient,
            WEIGHT: weight,
            FAN_IN: -fan_in,
            FAN_OUT: -fan_out,
        }

    @cached_property
    def _known_sizes(self) -> dict[tuple[Fans, Expr, Expr, bool], Sizes]:
        return {}

    def _sizes_with_epsilon(self, kind: Fans, gradient: Expr, weight: Expr, scaled: bool | None = None) -> Sizes:
        key = (kind, gradient, weight, self.scaled_epsilon if scaled is None else scaled)
        if key not in self._known_sizes:
            beta = self.rank_at(kind, gradient, weight)
            self._known_sizes[key] = self._with_epsilon_at(self._sizes_at(kind, gradient, weight, beta), key[-1])
        return self._known_sizes[key]

    def with_epsilons(self, sizes: Sizes) -> Sizes:
        """The sizes with those of eps and eps2, by `scaled_epsilon`."""
        return self._with_epsilon_at(sizes, self.scaled_epsilon)

    def _with_epsilon_at(self, sizes: Sizes, scaled: bool) -> Sizes:
        """The sizes with that of eps, which is what it is added to where it is scaled, and of eps2."""
        for symbol, companion in self.epsilon_companions.items():
            sizes = {**sizes, symbol: exponent(companion, sizes) if scaled else S.Zero}
        return sizes

    def _with_epsilon_degree(self, degrees: Mapping[Symbol, Expr], rule: Expr) -> Mapping[Symbol, Expr]:
        """With the degrees of what eps and eps2 are added to in the rule, or in the branch of it that rules."""
        for symbol in self.epsilon_companions:
            found = next(companions(rule, symbol), None)
            degrees = degrees if found is None else {**degrees, symbol: degree(found, degrees)}
        return degrees
