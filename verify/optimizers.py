"""Optimizers of `derive`'s registry as optax transforms, with per-layer rates, epsilons and decays.

    rate_l = base rate x^-c_l      epsilon_l = base epsilon x^-e_l      lambda_l = lambda x^-decay_l      x = n / n_0

What `derive --format optax` emits takes the same steps.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
import optax.contrib
from jaxtyping import Array, Float
from sympy import Expr, Rational

from derive.emit import layer_names
from derive.errors import DeriveError, unknown_name
from derive.exponents import KINDS
from derive.solve import Prescription
from verify.atan2 import scale_by_adam_atan2
from verify.preconditioners import normalise_by_norm, scale_by_shampoo, scale_by_soap

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
}
"""epsilon -> the transform of gradients into U, by the optimizer's name in `derive list`: DW = -rate (U + decay W)."""

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
}
"""Rates at the base width at which the two models here move but do not diverge; a start, not a tuned value."""

BASE_EPSILON: Mapping[str, float] = {
    "adafactor": 1e-30,
    "lars": 0.0,
    "shampoo": 1e-5,
    "soap": 3e-4,
    "soap-left": 3e-4,
    "soap-right": 3e-4,
}


def base_epsilon(name: str) -> float:
    """The usual epsilon of that optimizer at the base width; 1e-8 for most."""
    return BASE_EPSILON.get(name, 1e-8)


def check_trainable(names: Mapping[Any, str]) -> None:
    """Raise DeriveError for an optimizer that has no transform here."""
    for name in names.values():
        if name not in DIRECTIONS:
            raise unknown_name("trainable optimizer", name, DIRECTIONS)


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

    Labels are embedding, hidden and readout, or embedding, hidden.0, ... where the prescription lists its layers; those
    in `stacked` are of parameters stacked on a leading axis. `base_rate` may be a traced value. DeriveError for
    optimizers without a transform and exponents with symbols.
    """
    scaled = []
    for label, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        rule = prescription.problem.optimizers[layer.kind].name
        rate, eps, decay = (width_ratio ** -float(each) for each in exact(label, layer.c, layer.epsilon, layer.decay))
        start = base_epsilon(rule) if epsilon is None else epsilon
        scaled.append(ScaledRule(label, rule, base_rate * rate, start * eps, weight_decay * decay, label in stacked))
    return per_layer(scaled, labels)


@dataclass(frozen=True)
class ScaledRule:
    """One layer's update rule with its numbers at one width; each may be a traced value, the rate a schedule.

    Where its parameters are `stacked` on a leading axis, each along that axis is a parameter of its own to the rule.
    """

    label: str
    rule: str
    rate: Rate | optax.Schedule
    epsilon: Rate
    decay: Rate
    stacked: bool = False

    def transform(self) -> optax.GradientTransformation:
        """W <- W - rate (U + decay W): decay is decoupled from the rule, whichever it is."""
        direction = DIRECTIONS[self.rule](self.epsilon)
        return optax.chain(
            along_stack(direction) if self.stacked else direction,
            *([] if isinstance(self.decay, float) and self.decay == 0 else [optax.add_decayed_weights(self.decay)]),  # type: ignore[arg-type]
            optax.scale_by_learning_rate(self.rate),
        )


def along_stack(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transform applied to each along the leading axis: norms, means and matrices are those of one layer."""
    return optax.GradientTransformation(jax.vmap(transform.init), jax.vmap(transform.update))  # type: ignore[arg-type]


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
