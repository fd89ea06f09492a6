"""Optimizers of `derive`'s registry as optax transforms, with per-layer rates, epsilons and decays.

    rate_l = base rate x^-c_l      epsilon_l = base epsilon x^-e_l      lambda_l = lambda x^-decay_l      x = n / n_0

What `derive --format optax` emits takes the same steps.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jaxtyping import Array, Float
from sympy import Expr, Rational

from derive.emit import layer_names
from derive.errors import DeriveError, unknown_name
from derive.exponents import KINDS
from derive.solve import Prescription

Rate = float | Float[Array, ""]
Rule = Callable[[Rate, Rate, Rate], optax.GradientTransformation]


def _with_parameter_scale(direction: optax.GradientTransformation, rate: Rate) -> optax.GradientTransformation:
    """Steps proportional to RMS(W); optax's floor under it is 0 here, since the theory has none."""
    return optax.chain(direction, optax.scale_by_param_block_rms(min_scale=0.0), optax.scale_by_learning_rate(rate))


def _adafactor(rate: Rate, epsilon: Rate, decay: Rate) -> optax.GradientTransformation:  # noqa: ARG001
    # optax keeps second moments whole below 128 units and factors them above: another rule, in the midst of the widths.
    factored = optax.scale_by_factored_rms(epsilon=epsilon, min_dim_size_to_factor=2)  # type: ignore[arg-type]
    direction = optax.chain(factored, optax.clip_by_block_rms(1.0))
    return _with_parameter_scale(direction, rate)


RULES: Mapping[str, Rule] = {
    "sgd": lambda rate, _epsilon, _decay: optax.sgd(rate),
    "momentum": lambda rate, _epsilon, _decay: optax.sgd(rate, momentum=0.9),
    "adam": lambda rate, epsilon, _decay: optax.adam(rate, eps=epsilon),  # type: ignore[arg-type]
    "adamw": lambda rate, epsilon, decay: optax.adamw(rate, eps=epsilon, weight_decay=decay),  # type: ignore[arg-type]
    "adafactor": _adafactor,
    "adam-ps": lambda rate, epsilon, _decay: _with_parameter_scale(optax.scale_by_adam(eps=epsilon), rate),  # type: ignore[arg-type]
    "lion": lambda rate, _epsilon, decay: optax.lion(rate, weight_decay=decay),  # type: ignore[arg-type]
    "sign-sgd": lambda rate, _epsilon, _decay: optax.sign_sgd(rate),
}
"""(rate, epsilon, decay) -> transform, by the optimizer's name in `derive list`."""

BASE_RATES: Mapping[str, float] = {
    "sgd": 0.1,
    "momentum": 0.02,
    "adam": 1e-3,
    "adamw": 1e-3,
    "adafactor": 0.02,
    "adam-ps": 0.02,
    "lion": 1e-3,
    "sign-sgd": 1e-3,
}
"""Rates at the base width at which the two models here move but do not diverge; a start, not a tuned value."""

BASE_EPSILON: Mapping[str, float] = {"adafactor": 1e-30}


def base_epsilon(name: str) -> float:
    """The usual epsilon of that optimizer at the base width: 1e-8, or 1e-30 where it is added to a square."""
    return BASE_EPSILON.get(name, 1e-8)


def check_trainable(names: Mapping[Any, str]) -> None:
    """Raise DeriveError for an optimizer that has no transform here."""
    for name in names.values():
        if name not in RULES:
            raise unknown_name("trainable optimizer", name, RULES)


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
) -> optax.GradientTransformation:
    """The transform with the prescribed rates; `labels` is a tree like the parameters, of layer names.

    Labels are embedding, hidden and readout, or embedding, hidden.0, ... where the prescription lists its layers.
    `base_rate` may be a traced value. DeriveError for optimizers without a transform and exponents with symbols.
    """
    scaled = []
    for label, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        rule = prescription.problem.optimizers[layer.kind].name
        rate, eps, decay = (width_ratio ** -float(each) for each in exact(label, layer.c, layer.epsilon, layer.decay))
        start = base_epsilon(rule) if epsilon is None else epsilon
        scaled.append(ScaledRule(label, rule, base_rate * rate, start * eps, weight_decay * decay))
    return per_layer(scaled, labels)


@dataclass(frozen=True)
class ScaledRule:
    """One layer's update rule with its numbers at one width; each may be a traced value."""

    label: str
    rule: str
    rate: Rate
    epsilon: Rate
    decay: Rate


def per_layer(rules: Sequence[ScaledRule], labels: Any) -> optax.GradientTransformation:
    """The transform that applies to every parameter the rule of its label; DeriveError for a rule without one."""
    check_trainable({each.label: each.rule for each in rules})
    transforms: dict[Hashable, optax.GradientTransformation] = {
        each.label: RULES[each.rule](each.rate, each.epsilon, each.decay) for each in rules
    }
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
