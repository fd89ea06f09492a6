"""One function for many runs: side by side on an accelerator, one after the other on a CPU.

A CPU has its hands full with one network, whose arrays then stay in its cache, and a branch that one run does not
take costs it nothing.
"""

from collections.abc import Callable, Sequence

import jax

from verify.values import Tree


def for_each(function: Callable[..., Tree], axes: Sequence[bool]) -> Callable[..., Tree]:
    """The function of one run as one of many; `axes` says of every argument whether it has a leading axis of runs."""
    if jax.default_backend() != "cpu":
        return jax.vmap(function, in_axes=tuple(0 if axis else None for axis in axes))

    def mapped(*arguments: Tree) -> Tree:
        def call(taken: Tree) -> Tree:
            rest = iter(taken)
            pairs = zip(arguments, axes, strict=True)
            return function(*(next(rest) if axis else argument for argument, axis in pairs))

        return jax.lax.map(call, [each for each, axis in zip(arguments, axes, strict=True) if axis])

    return mapped
