"""The transform of gradients into updates U of every optimizer that can be trained, before decay and rate."""

from collections.abc import Callable, Collection, Mapping
from functools import cache
from inspect import signature
from typing import Any

import jax
import optax
import optax.contrib
from jaxtyping import Array, Float

from derive.errors import DeriveError, unknown_name
from derive.registry import REGISTRY
from derive.registry import optimizer as read_optimizer
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
from verify.values import Leaf, Tree

Rate = float | Float[Array, ""]
Direction = Callable[..., optax.GradientTransformation]
"""epsilon -> the transform of gradients into U; of its keywords those in AVERAGES are a user's to give."""
AVERAGES = ("b1", "b2", "momentum")


def _times_weight_size(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """Steps proportional to RMS(W); optax's floor under it is 0 here, since the theory has none."""
    return optax.chain(direction, optax.scale_by_param_block_rms(min_scale=0.0))


def _adafactor(epsilon: Rate) -> optax.GradientTransformation:
    # optax keeps second moments whole below 128 units and factors them above: another rule, in the midst of the widths.
    factored = optax.scale_by_factored_rms(epsilon=epsilon, min_dim_size_to_factor=2)  # type: ignore[arg-type]
    return _times_weight_size(optax.chain(factored, optax.clip_by_block_rms(1.0)))


def _adam(epsilon: Rate, b1: Rate = 0.9, b2: Rate = 0.999) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=b1, b2=b2, eps=epsilon)  # type: ignore[arg-type]


def _muon(
    epsilon: Rate, momentum: Rate = 0.95, scale: Callable[[int, int], float] = lambda _fan_in, _fan_out: 1.0
) -> Tree:
    """The polar factor by Newton and Schulz, times a number made of a matrix's fan_in and fan_out."""

    def all_matrices(updates: Tree) -> Tree:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

    polar = optax.contrib.scale_by_muon(beta=momentum, eps=epsilon, weight_dimension_numbers=all_matrices)  # type: ignore[arg-type]

    def scaled(update: Tree, _: Leaf) -> Tree:
        return update * scale(*update.shape)

    return optax.chain(polar, optax.stateless_with_tree_map(scaled))


def _scion(epsilon: Rate) -> optax.GradientTransformation:
    """The polar factor times sqrt(fan_out / fan_in)."""

    def scaled(update: Tree, _: Leaf) -> Tree:
        return update * (update.shape[1] / update.shape[0]) ** 0.5

    return optax.chain(scale_by_polar(epsilon), optax.stateless_with_tree_map(scaled))


DIRECTIONS: Mapping[str, Direction] = {
    "sgd": lambda _: optax.identity(),
    "momentum": lambda _, momentum=0.9: optax.trace(momentum),
    "nesterov": lambda _, momentum=0.9: optax.trace(momentum, nesterov=True),
    "adam": _adam,
    "adamw": _adam,
    "rmsprop": lambda epsilon, b2=0.9: optax.scale_by_rms(decay=b2, eps=epsilon, eps_in_sqrt=False),  # type: ignore[arg-type]
    "adafactor": _adafactor,
    "adam-ps": lambda epsilon, b1=0.9, b2=0.999: _times_weight_size(_adam(epsilon, b1, b2)),
    "lion": lambda _, b1=0.9, b2=0.99: optax.scale_by_lion(b1=b1, b2=b2),
    "sign-sgd": lambda _: optax.scale_by_sign(),
    "lamb": lambda epsilon, b1=0.9, b2=0.999: optax.chain(_adam(epsilon, b1, b2), optax.scale_by_trust_ratio()),
    "lars": lambda epsilon, momentum=0.9: optax.chain(
        optax.scale_by_trust_ratio(eps=epsilon),  # type: ignore[arg-type]
        optax.trace(momentum),
    ),
    "adam-atan2": lambda _, b1=0.9, b2=0.999: scale_by_adam_atan2(b1, b2),
    "normalised-sgd": normalise_by_norm,
    "muon": _muon,
    "muon-keller": lambda epsilon, momentum=0.95: _muon(epsilon, momentum, lambda i, o: max(1, o / i) ** 0.5),
    "muon-rms": lambda epsilon, momentum=0.95: _muon(epsilon, momentum, lambda i, o: 0.2 * max(i, o) ** 0.5),
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
    "cautious": lambda epsilon, b1=0.9, b2=0.999: cautious(_adam(epsilon, b1, b2)),
    "schedule-free": lambda epsilon: optax.scale_by_adam(b1=0.0, eps=epsilon),  # type: ignore[arg-type]
}
"""epsilon -> the transform of gradients into U, by the optimizer's name in `derive list`: DW = -rate (U + decay W).

A second epsilon (eps2 of the rule) is taken to 0 here, with 0/0 = 0.
"""

FINISHES: Mapping[str, Callable[[], optax.GradientTransformation]] = {"muon-hyperball": back_on_sphere}
"""What comes after rate and decay, of optimizers that say where a step may end."""


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


def check_averages(names: Collection[str], given: Mapping[str, Rate | None]) -> dict[str, Rate]:
    """Those that are given; DeriveError for one that none of the rules has, naming those that they have."""
    known = {each for name in names for each in averages_of(name)}
    wanted = {name: value for name, value in given.items() if value is not None}
    for each in wanted.keys() - known:
        raise DeriveError(
            f"{' and '.join(sorted(names))} take{'s' * (len(names) == 1)} no {each} here; "
            + (f"given may be {', '.join(sorted(known))}" if known else "their averages are fixed; leave it out")
        )
    return wanted


@cache
def averages_of(name: str) -> tuple[str, ...]:
    """Which of b1, b2 and momentum the rule's transform takes."""
    return tuple(each for each in signature(direction(name)).parameters if each in AVERAGES)
