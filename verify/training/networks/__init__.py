"""What the models share: sizes and multipliers relative to a base width, parameters from keys, the loss.

At the base width every parameterization is the same model, bit for bit; only the way up differs:

    multiplier_l = (width / base_width)^-a_l        init std_l = base std_l (width / base_width)^-b_l
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, SupportsFloat, get_args, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from derive.axes import OUT
from derive.errors import UserError
from derive.words import Kind
from verify.values import Leaf, Tree

# Nested dictionaries of arrays, and trees of the same shape.
Params = dict[str, Tree]
# (embedding, hidden, readout): float, Fraction, sympy Rational.
Exponents = tuple[SupportsFloat, SupportsFloat, SupportsFloat]
KINDS: tuple[Kind, ...] = get_args(Kind)


Place = Callable[[Array], Array]
"""Says where activations lie on a mesh of devices; their values stay."""


def anywhere(z: Array) -> Array:
    """Without a mesh: the array as it is."""
    return z


class ModelError(UserError):
    """A network's sizes that do not fit, or a model of the user's that cannot be built."""


def check_sizes(least: int, **sizes: int) -> None:
    """Raise ModelError for the first of the named sizes below `least`."""
    for name, size in sizes.items():
        if size < least:
            raise ModelError(f"{name} {size} is too small; it starts at {least}")


@dataclass(frozen=True)
class Scaling:
    """Multipliers n^-a and init stds n^-b with n = width / base_width; a, b as (embedding, hidden, readout).

    Powers are Python floats, so those of 2 are exact; at the base width all are 1.0. ModelError for widths below 1.
    """

    width: int
    base_width: int
    a: Exponents
    b: Exponents

    def __post_init__(self) -> None:
        check_sizes(1, width=self.width, base_width=self.base_width)

    def _power(self, exponent: SupportsFloat) -> float:
        return (self.width / self.base_width) ** -float(exponent)

    def multiplier(self, kind: Kind) -> float:
        """What a layer's product W z is multiplied by: n^-a."""
        return self._power(self.a[KINDS.index(kind)])

    def init_std(self, kind: Kind, base_std: float) -> float:
        """The standard deviation of a layer's entries at initialisation: base_std n^-b."""
        return base_std * self._power(self.b[KINDS.index(kind)])


def standard_normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """N(0, 1) to 16 bits: each entry is one of 65,536 equally likely quantiles, the outermost at +-4.3.

    Two entries share a random word. W_0 is drawn again for every measurement, and drawing words is most of that.
    """
    *rows, columns = shape
    words = jax.random.bits(key, (*rows, -(-columns // 2)))
    halves = jnp.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(*rows, -1)[..., :columns]
    uniform = (halves.astype(jnp.float32) + 0.5) / 2**15 - 1
    return 2**0.5 * jax.lax.erf_inv(uniform)


@dataclass(frozen=True)
class Parameter:
    """How one parameter is drawn: W = std N(0, 1), from a key of its own; `writes` says that into a residual stream."""

    index: int | Int[Array, ""]
    kind: Kind
    shape: tuple[int, ...]
    std: float
    writes: bool = False

    def draw(self, key: Key[Array, ""]) -> Float[Array, "..."]:
        """Draw the parameter, the same bits alone and inside any compiled function; `key` is the whole model's."""
        normal = standard_normal(jax.random.fold_in(key, self.index), self.shape)
        # Compilers round a product differently once it is merged with its neighbours: std with the constants inside
        # `normal` (hence the barrier), or the product with a later sum, as in W - W_0 (hence the clip, ten standard
        # deviations out, where nothing is ever clipped).
        return jnp.clip(jax.lax.optimization_barrier(normal) * self.std, -10 * self.std, 10 * self.std)


@dataclass(frozen=True)
class Stack:
    """Parameters alike in all but their index, as one array with a leading axis; each has the bits it has alone."""

    each: Parameter
    indices: tuple[int, ...]

    @property
    def kind(self) -> Kind:
        """The kind that all of them have."""
        return self.each.kind

    @property
    def writes(self) -> bool:
        """Whether all of them write into a residual stream."""
        return self.each.writes

    @property
    def shape(self) -> tuple[int, ...]:
        """(how many, *shape of each)."""
        return (len(self.indices), *self.each.shape)

    @property
    def std(self) -> float:
        """The standard deviation of every entry."""
        return self.each.std

    def draw(self, key: Key[Array, ""]) -> Float[Array, "layers ..."]:
        """Draw them one after the other, so that what is needed on the way is one parameter large."""
        indices = jnp.array(self.indices, dtype=jnp.int32)
        return jax.lax.map(lambda index: replace(self.each, index=index).draw(key), indices)


@runtime_checkable
class Model(Protocol):
    """A function of parameters and tokens at one width, without state of its own."""

    @property
    def scaling(self) -> Scaling:
        """Its width and exponents."""
        ...

    def parameters(self) -> Params:
        """The tree of Parameter and Stack."""
        ...

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw all parameters, the same bits for the same key."""
        ...

    def apply(self, params: Params, tokens: Int[Array, "batch context"]) -> Float[Array, "batch ... vocabulary"]:
        """The logits."""
        ...

    def labels(self, params: Params) -> Params:
        """The tree of "embedding" | "hidden" | "readout"."""
        ...


def draw(parameters: Params, key: Key[Array, ""]) -> Params:
    """Draw a tree of Parameter and Stack."""
    return jax.tree.map(lambda parameter: parameter.draw(key), parameters)


def label(parameters: Params, params: Params) -> Params:
    """The kinds of a tree of Parameter and Stack, checked to have the structure of `params`."""
    return jax.tree.map(lambda parameter, _: parameter.kind, parameters, params)


def label_writers(parameters: Params, labels: Params) -> Params:
    """The labels, with that of hidden.out for what writes into the stream: it has a rate of its own there."""
    return jax.tree.map(
        lambda parameter, name: f"{name}.{OUT}" if parameter.writes else name,
        parameters,
        labels,
    )


def stacks(parameters: Params, labels: Params) -> dict[str, str]:
    """Path -> label of every Stack in a tree of Parameter and Stack; `labels` is a tree of the same structure."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(labels), strict=True)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): name
        for (path, parameter), name in pairs
        if isinstance(parameter, Stack)
    }


def computed_in(dtype: str, apply: Callable[[Params, Leaf], Array]) -> Callable[[Params, Leaf], Array]:
    """The model's `apply` with every weight rounded to that dtype, and thereby every activation and gradient.

    Parameters stay as they are, and what is added to them too: rounding is part of the function and its derivative.
    """
    return lambda params, tokens: apply(jax.tree.map(lambda weight: weight.astype(dtype), params), tokens)


def loss(logits: Float[Array, "*batch vocabulary"], targets: Int[Array, "*batch"]) -> Float[Array, ""]:
    """Mean cross-entropy in nats, in float32: -mean log softmax(logits)[target]."""
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1))
