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
from verify.training.rules.usual import BASE_EPSILON as BASE_EPSILON
from verify.training.rules.usual import BASE_RATES as BASE_RATES
from verify.training.rules.usual import base_epsilon as base_epsilon
from verify.training.rules.usual import base_rate as base_rate

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

SCALED = ("c", "epsilon", "decay")
"""What of a layer, and of a row along another axis, is a power of the size."""


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
