"""Optimizers of `derive`'s registry and rules of one's own as optax transforms, with rates, epsilons, decays by layer.

    rate_l = base rate x^-c_l      epsilon_l = base epsilon x^-e_l      lambda_l = lambda x^-decay_l      x = n / n_0

What `derive --format optax` emits takes the same steps.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import optax
import optax.contrib
from jaxtyping import Array, Float
from sympy import Expr, Rational

from derive.emit import parts
from derive.errors import DeriveError, unknown_name
from derive.exponents import KINDS
from derive.matrix_functions import by_side
from derive.registry import REGISTRY, spelled
from derive.registry import optimizer as read_optimizer
from derive.solve import Prescription
from verify.measuring.axes import Axes
from verify.training.rules.adaptive import cautious, scale_by_adopt, scale_by_mars, scion_outer
from verify.training.rules.atan2 import scale_by_adam_atan2
from verify.training.rules.orthogonal import (
    back_on_sphere,
    grafted_shampoo,
    hyperball,
    scale_by_dion,
    scale_by_normuon,
    scale_by_polar,
    scale_by_polargrad,
)
from verify.training.rules.own import check_runnable, rule_transform
from verify.training.rules.preconditioners import normalise_by_norm, scale_by_shampoo, scale_by_soap

Rate = float | Float[Array, ""]
Direction = Callable[[Rate], optax.GradientTransformation]


def _times_weight_size(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """Steps proportional to RMS(W); optax's floor under it is 0 here, since the theory has none."""
    return optax.chain(direction, optax.scale_by_param_block_rms(min_scale=0.0))


def _adafactor(epsilon: Rate) -> optax.GradientTransformation:
    # optax keeps second moments whole below 128 units and factors them above: another rule, in the midst of the widths.
    factored = optax.scale_by_factored_rms(epsilon=epsilon, min_dim_size_to_factor=2)  # type: ignore[arg-type]
    return _times_weight_size(optax.chain(factored, optax.clip_by_block_rms(1.0)))


def _adam(epsilon: Rate) -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=epsilon)  # type: ignore[arg-type]


def _muon(epsilon: Rate, scale: Callable[[int, int], float] = lambda _fan_in, _fan_out: 1.0) -> Any:
    """The polar factor by Newton and Schulz, times a number made of a matrix's fan_in and fan_out."""

    def all_matrices(updates: Any) -> Any:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

    polar = optax.contrib.scale_by_muon(eps=epsilon, weight_dimension_numbers=all_matrices)  # type: ignore[arg-type]

    def scaled(update: Any, _: Any) -> Any:
        return update * scale(*update.shape)

    return optax.chain(polar, optax.stateless_with_tree_map(scaled))


def _scion(epsilon: Rate) -> optax.GradientTransformation:
    """The polar factor times sqrt(fan_out / fan_in)."""

    def scaled(update: Any, _: Any) -> Any:
        return update * (update.shape[1] / update.shape[0]) ** 0.5

    return optax.chain(scale_by_polar(epsilon), optax.stateless_with_tree_map(scaled))


DIRECTIONS: Mapping[str, Direction] = {
    "sgd": lambda _: optax.identity(),
    "momentum": lambda _: optax.trace(0.9),
    "nesterov": lambda _: optax.trace(0.9, nesterov=True),
    "adam": _adam,
    "adamw": _adam,
    "rmsprop": lambda epsilon: optax.scale_by_rms(eps=epsilon, eps_in_sqrt=False),  # type: ignore[arg-type]
    "adafactor": _adafactor,
    "adam-ps": lambda epsilon: _times_weight_size(_adam(epsilon)),
    "lion": lambda _: optax.scale_by_lion(),
    "sign-sgd": lambda _: optax.scale_by_sign(),
    "lamb": lambda epsilon: optax.chain(_adam(epsilon), optax.scale_by_trust_ratio()),
    "lars": lambda epsilon: optax.chain(optax.scale_by_trust_ratio(eps=epsilon), optax.trace(0.9)),  # type: ignore[arg-type]
    "adam-atan2": lambda _: scale_by_adam_atan2(),
    "normalised-sgd": normalise_by_norm,
    "muon": _muon,
    "muon-keller": lambda epsilon: _muon(epsilon, lambda fan_in, fan_out: max(1, fan_out / fan_in) ** 0.5),
    "muon-rms": lambda epsilon: _muon(epsilon, lambda fan_in, fan_out: 0.2 * max(fan_in, fan_out) ** 0.5),
    "shampoo": scale_by_shampoo,
    "soap": scale_by_soap,
    "soap-left": lambda epsilon: scale_by_soap(epsilon, rotate_in=False),
    "soap-right": lambda epsilon: scale_by_soap(epsilon, rotate_out=False),
    "scion": _scion,
    "scion-sign": lambda _: scion_outer(None),
    "scion-row": scion_outer,
    "normuon": scale_by_normuon,
    "adamuon": lambda epsilon: scale_by_normuon(epsilon, per_entry=True),
    "dion": scale_by_dion,
    "polargrad": scale_by_polargrad,
    "grafted-shampoo": grafted_shampoo,
    "muon-hyperball": hyperball,
    "adopt": scale_by_adopt,
    "ademamix": lambda epsilon: optax.contrib.scale_by_ademamix(eps=epsilon),  # type: ignore[arg-type]
    "mars": scale_by_mars,
    "cautious": lambda epsilon: cautious(_adam(epsilon)),
    "schedule-free": lambda epsilon: optax.scale_by_adam(b1=0.0, eps=epsilon),  # type: ignore[arg-type]
}
"""epsilon -> the transform of gradients into U, by the optimizer's name in `derive list`: DW = -rate (U + decay W).

A second epsilon (eps2 of the rule) is taken to 0 here, with 0/0 = 0.
"""

FINISHES: Mapping[str, Callable[[], optax.GradientTransformation]] = {"muon-hyperball": back_on_sphere}
"""What comes after rate and decay, of optimizers that say where a step may end."""

BASE_RATES: Mapping[str, float] = {
    "sgd": 0.1,
    "momentum": 0.02,
    "nesterov": 0.02,
    "adam": 1e-3,
    "adamw": 1e-3,
    "rmsprop": 3e-4,
    "adafactor": 0.02,
    "adam-ps": 0.02,
    "lion": 1e-3,
    "sign-sgd": 1e-3,
    "lamb": 0.02,
    "lars": 5e-3,
    "adam-atan2": 1e-3,
    "normalised-sgd": 0.05,
    "muon": 0.05,
    "muon-keller": 0.05,
    "muon-rms": 5e-3,
    "shampoo": 0.05,
    "soap": 1e-3,
    "soap-left": 1e-3,
    "soap-right": 1e-3,
    "scion": 0.05,
    "scion-sign": 0.1,
    "scion-row": 0.1,
    "normuon": 5e-3,
    "adamuon": 5e-3,
    "dion": 0.05,
    "polargrad": 4e-3,
    "grafted-shampoo": 1e-3,
    "muon-hyperball": 0.02,
    "adopt": 1e-3,
    "ademamix": 1e-3,
    "mars": 1e-3,
    "cautious": 1e-3,
    "schedule-free": 1e-3,
}
"""Rates at the base width at which the two models here move but do not diverge; a start, not a tuned value."""

BASE_EPSILON: Mapping[str, float] = {
    "adafactor": 1e-30,
    "lars": 0.0,
    "shampoo": 1e-5,
    "soap": 3e-4,
    "soap-left": 3e-4,
    "soap-right": 3e-4,
    "dion": 3e-4,
    "adopt": 1e-6,
}


SCALED = ("c", "epsilon", "decay")
"""What of a layer, and of a row along another axis, is a power of the size."""
TYPICAL_WIDTH, TYPICAL_GRADIENT, TYPICAL_STEP = 128, 0.01, 1e-3


def base_rate(*names: str) -> float:
    """The smallest of the rules' rates to start with at the base width: BASE_RATES, or an estimate.

    For a rule of one's own it is that of a step of RMS 1e-3 on a hidden layer 128 wide with a gradient of RMS 1e-2,
    where U has the size that `derive` gives it, n^-s, times the number before the rule.
    """

    def one(name: str) -> float:
        if name in BASE_RATES:
            return BASE_RATES[name]
        row = read_optimizer(name)
        gradient = Rational(round(-math.log(TYPICAL_GRADIENT, TYPICAL_WIDTH), 2))
        size = TYPICAL_WIDTH ** -float(row.size("hidden", gradient, Rational(1, 2)))
        return float(f"{TYPICAL_STEP / (abs(float(row.rule.as_content_primitive()[0])) * size):.1g}")

    return min(map(one, names))


def base_epsilon(name: str) -> float:
    """The usual epsilon of that optimizer at the base width; 1e-8 for most."""
    return BASE_EPSILON.get(name, 1e-8)


def check_trainable(names: Mapping[Any, str]) -> None:
    """Raise DeriveError for an optimizer of the registry, or a rule, that has no transform here."""
    for name in names.values():
        direction(name)


@cache
def direction(name: str) -> Direction:
    """epsilon -> the transform of gradients into U, by the optimizer's name or from the rule that `name` spells.

    DeriveError for an optimizer of the registry without a transform, and a rule that cannot be computed.
    """
    if name in DIRECTIONS:
        return DIRECTIONS[name]
    if any(row.name == name for row in REGISTRY):
        raise unknown_name("trainable optimizer", name, DIRECTIONS)
    rule = read_optimizer(name).rule
    check_runnable(rule)
    return lambda epsilon: rule_transform(rule, epsilon)


def is_oriented(name: str) -> bool:
    """Whether the rule is another one for the transpose of a matrix."""
    return by_side(read_optimizer(name).rule)


def exact(label: str, *exponents: Expr | None) -> list[Rational]:
    """The exponents as numbers, 0 for none; DeriveError where they have symbols."""
    numbers = [Rational(0) if each is None else each for each in exponents]
    if not all(isinstance(each, Rational) for each in numbers):
        raise DeriveError(f"the exponents of {label} have symbols in them; give them numbers to train")
    return numbers  # type: ignore[return-value]


def optimizer(
    prescription: Prescription,
    labels: Any,
    base_rate: Rate,
    width_ratio: float,
    *,
    epsilon: float | None = None,
    weight_decay: Rate = 0.0,
    stacked: Collection[str] = (),
) -> optax.GradientTransformation:
    """The transform with the prescribed rates; `labels` is a tree like the parameters, of layer names.

    Labels are embedding, hidden and readout, or embedding, hidden.0, ... where the prescription lists its layers, and
    hidden.out where what writes into the stream has a row of its own along depth. Axes beside the width come with their
    sizes, and what they scale is multiplied. Those in `stacked` are of parameters stacked on a leading axis.
    `base_rate` may be a traced value. DeriveError for optimizers without a transform and exponents with symbols.
    """
    scaled = []
    for label, layer, part in parts(prescription):
        rule = spelled(prescription.problem.optimizers[layer.kind])
        along = [(axis, axis.row(layer.kind, part)) for axis in prescription.axes]
        rate, eps, decay = (
            math.prod([width_ratio ** -float(each), *(axis.factor(getattr(row, name)) for axis, row in along)])
            for name, each in zip(SCALED, exact(label, layer.c, layer.epsilon, layer.decay), strict=True)
        )
        start = base_epsilon(rule) if epsilon is None else epsilon
        scaled.append(ScaledRule(label, rule, base_rate * rate, start * eps, weight_decay * decay, label in stacked))
    return per_layer(scaled, labels)


@dataclass(frozen=True)
class ScaledRule:
    """One layer's update rule with its numbers at one width; each may be a traced value, the rate a schedule.

    `rule` is a name of the registry or the rule itself. Where its parameters are `stacked` on a leading axis, each
    along that axis is a parameter of its own to the rule. `axes` are those of the matrices that the rule takes, by
    default [fan_in, fan_out].
    """

    label: str
    rule: str
    rate: Rate | optax.Schedule
    epsilon: Rate
    decay: Rate
    stacked: bool = False
    axes: Axes | None = None

    def transform(self) -> optax.GradientTransformation:
        """W <- W - rate (U + decay W): decay is decoupled from the rule, whichever it is."""
        own = self._placed(direction(self.rule)(self.epsilon))
        finish = [self._placed(FINISHES[self.rule]())] if self.rule in FINISHES else []
        return optax.chain(
            own,
            *([] if isinstance(self.decay, float) and self.decay == 0 else [optax.add_decayed_weights(self.decay)]),  # type: ignore[arg-type]
            optax.scale_by_learning_rate(self.rate),
            *finish,
        )

    def _placed(self, transform: optax.GradientTransformation) -> optax.GradientTransformation:
        """The transform on the matrices that the parameters hold."""
        placed = transform if self.axes is None else of_matrices(transform, self.axes)
        return along_stack(placed) if self.stacked else placed


def along_stack(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transform applied to each along the leading axis: norms, means and matrices are those of one layer."""
    return optax.GradientTransformation(jax.vmap(transform.init), jax.vmap(transform.update))  # type: ignore[arg-type]


def of_matrices(transform: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
    """The transform as it is on the matrices [fan_in, fan_out] of those axes, one at every index of the other axes."""

    def order(array: Array) -> list[int]:
        counting = [axis for axis in range(array.ndim) if axis not in (*axes.inputs, *axes.outputs)]
        return [*counting, *axes.inputs, *axes.outputs]

    def taken(array: Array) -> Array:
        sides = (math.prod(array.shape[axis] for axis in side) for side in axes)
        return array.transpose(order(array)).reshape(-1, *sides)

    def put_back(matrices: Array, like: Array) -> Array:
        into = order(like)
        return matrices.reshape([like.shape[axis] for axis in into]).transpose(
            [into.index(a) for a in range(like.ndim)]
        )

    each = along_stack(transform)

    def init(params: Any) -> Any:
        return each.init(jax.tree.map(taken, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        weights = None if params is None else jax.tree.map(taken, params)
        steps, state = each.update(jax.tree.map(taken, updates), state, weights)
        return jax.tree.map(put_back, steps, updates), state

    return optax.GradientTransformation(init, update)


def per_layer(rules: Sequence[ScaledRule], labels: Any, still: str | None = None) -> optax.GradientTransformation:
    """The transform that applies to every parameter the rule of its label; DeriveError for a rule without one.

    Parameters of the label `still` stay as they are.
    """
    check_trainable({each.label: each.rule for each in rules})
    transforms: dict[Hashable, optax.GradientTransformation] = {each.label: each.transform() for each in rules}
    if still is not None:
        transforms[still] = optax.set_to_zero()
    return optax.multi_transform(transforms, labels)


def label_layers(names: Iterable[str], kinds: Any) -> Any:
    """Labels for the transforms, from the tree of layer kinds: paths hidden.0, ... where `names` lists layers singly.

    DeriveError where a listed layer has no parameter of that path.
    """
    names = set(names)
    if names == set(KINDS):
        return kinds

    def label(path: Any, kind: str) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name not in names:
            raise DeriveError(
                f"the prescription lists layers one by one and has none for {name} ({kind}); derive it without --layers"
            )
        return name

    return jax.tree_util.tree_map_with_path(label, kinds)
