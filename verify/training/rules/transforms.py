"""Optimizers of `derive`'s registry and rules of one's own as optax transforms, with rates, epsilons, decays by layer.

    rate_l = base rate x^-c_l      epsilon_l = base epsilon x^-e_l      lambda_l = lambda x^-decay_l      x = n / n_0

What `derive --format optax` emits takes the same steps.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
import optax
import optax.contrib
from jax.tree_util import KeyPath
from jaxtyping import Array
from sympy import Expr, Rational

from derive.emit import parts
from derive.errors import DeriveError, shorten
from derive.matrix_functions import by_side
from derive.registry import optimizer as read_optimizer
from derive.registry import spelled
from derive.solve import Prescription
from derive.words import KINDS
from verify.measuring.axes import Axes
from verify.training.rules.directions import FINISHES, Rate, averages_of, check_trainable, direction
from verify.training.rules.usual import base_epsilon
from verify.values import Tree

SCALED = ("c", "epsilon", "decay")
"""What of a layer, and of a row along another axis, is a power of the size."""


def decayed_of(params: Tree, mask: Tree = None) -> Tree:
    """Whether each parameter is decayed, by a mask as optax has it (a tree of bools or of its beginning, or a function
    of the parameters that gives one), or all but vectors; DeriveError for a mask of another tree.
    """
    if mask is None:
        return jax.tree.map(lambda leaf: np.ndim(leaf) > 1, params)
    found = mask(params) if callable(mask) else mask
    try:
        return jax.tree.map(lambda decayed, below: jax.tree.map(lambda _: bool(decayed), below), found, params)
    except (ValueError, TypeError) as error:
        raise DeriveError(
            f"the mask of decay is no tree of bools like the parameters ({shorten(str(error), 80)}); give one, or a "
            "function of the parameters that returns one"
        ) from None


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
    labels: Tree,
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
    default [fan_in, fan_out]. `averages` are b1, b2 and momentum, of which the rule takes those that it has.
    """

    label: str
    rule: str
    rate: Rate | optax.Schedule
    epsilon: Rate
    decay: Rate
    stacked: bool = False
    axes: Axes | None = None
    averages: Mapping[str, Rate] = field(default_factory=dict)

    def transform(self) -> optax.GradientTransformation:
        """W <- W - rate (U + decay W): decay is decoupled from the rule, whichever it is."""
        averages = {name: self.averages[name] for name in averages_of(self.rule) if name in self.averages}
        own = self._placed(direction(self.rule)(self.epsilon, **averages))
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

    def init(params: Tree) -> Tree:
        return (jax.vmap(transform.init) if jax.tree.leaves(params) else transform.init)(params)

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        if not jax.tree.leaves(updates):  # a group that a mask of decay leaves empty
            return updates, state
        return jax.vmap(transform.update)(updates, state, params)

    return optax.GradientTransformation(init, update)


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

    def init(params: Tree) -> Tree:
        return each.init(jax.tree.map(taken, params))

    def update(updates: Tree, state: Tree, params: Tree = None) -> tuple[Tree, Tree]:
        weights = None if params is None else jax.tree.map(taken, params)
        steps, state = each.update(jax.tree.map(taken, updates), state, weights)
        return jax.tree.map(put_back, steps, updates), state

    return optax.GradientTransformation(init, update)


def per_layer(rules: Sequence[ScaledRule], labels: Tree, still: str | None = None) -> optax.GradientTransformation:
    """The transform that applies to every parameter the rule of its label; DeriveError for a rule without one.

    Parameters of the label `still` stay as they are.
    """
    check_trainable({each.label: each.rule for each in rules})
    transforms: dict[Hashable, optax.GradientTransformation] = {each.label: each.transform() for each in rules}
    if still is not None:
        transforms[still] = optax.set_to_zero()
    return optax.multi_transform(transforms, labels)


def label_layers(names: Iterable[str], kinds: Tree) -> Tree:
    """Labels for the transforms, from the tree of layer kinds: paths hidden.0, ... where `names` lists layers singly.

    DeriveError where a listed layer has no parameter of that path.
    """
    names = set(names)
    if names == set(KINDS):
        return kinds

    def label(path: KeyPath, kind: str) -> str:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name not in names:
            raise DeriveError(
                f"the prescription lists layers one by one and has none for {name} ({kind}); derive it without --layers"
            )
        return name

    return jax.tree_util.tree_map_with_path(label, kinds)
