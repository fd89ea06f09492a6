"""What training did to a residual stream, branch by branch: a pure function of the initial and the present parameters.

Of what a branch f adds to the stream h, with 0 at initialisation and D the change since,

    D f(W, h) = [f(W, h_0) - f(W_0, h_0)] + [f(W_0, h) - f(W_0, h_0)] + rest

The first is the branch's own: that of its weights, on the stream as it was. The second is passed on: that of the
stream, through the weights as they were. Own changes of N blocks add up as N^kappa; what is passed on goes through
independent weights, as N^1/2 (docs/theory.md, section 9).
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from verify.measuring.forward import root_mean_square
from verify.values import Tree

Stream = Float[Array, "batch time width"]
STREAM, LOGITS = "stream", "logits"


@runtime_checkable
class Residual(Protocol):
    """A network of a stream into which blocks write; those of `params["blocks"]` are stacked on a leading axis."""

    @property
    def branches(self) -> Mapping[str, Callable[[Tree, Stream], Stream]]:
        """What a block adds, one after the other, as functions of its weights and of the stream."""
        ...

    def enter(self, params: Tree, tokens: Array) -> Stream:
        """The stream as it begins."""
        ...

    def leave(self, params: Tree, z: Stream) -> Array:
        """The logits, of the stream as it ends."""
        ...


def measure_stream(network: Residual, initial: Tree, params: Tree, tokens: Array) -> dict[str, dict[str, Array]]:
    """RMS on the probe batch, by what it is of and by quantity; those of a branch are one for each block.

    Of a branch: size at initialisation, own, passed and delta, its whole change. Of the stream as it ends: size, delta,
    embedding (what changed where it began) and the sums over all branches of own, passed and rest. Of the logits: size
    and delta.
    """
    start, now = network.enter(initial, tokens), network.enter(params, tokens)
    zero = jnp.zeros_like(start)

    def block(carry: Tree, weights: Tree) -> Tree:
        (then, now, sums), (old, new) = carry, weights
        found = {}
        for name, branch in network.branches.items():
            added = branch(old, then)
            after = branch(new, now)
            own, passed, change = branch(new, then) - added, branch(old, now) - added, after - added
            found[name] = {
                quantity: root_mean_square(each)
                for quantity, each in (("size", added), ("own", own), ("passed", passed), ("delta", change))
            }
            terms = (own, passed, change - own - passed)
            sums = tuple(total + each for total, each in zip(sums, terms, strict=True))
            then, now = then + added, now + after
        return (then, now, sums), found

    (end, moved, sums), found = jax.lax.scan(
        block, (start, now, (zero, zero, zero)), (initial["blocks"], params["blocks"])
    )
    rms = root_mean_square
    stream = {"size": rms(end), "delta": rms(moved - end), "embedding": rms(now - start)}
    stream |= {name: rms(each) for name, each in zip(("own", "passed", "rest"), sums, strict=True)}
    logits = network.leave(initial, end)
    answer = {"size": rms(logits), "delta": rms(network.leave(params, moved) - logits)}
    return {**found, STREAM: stream, LOGITS: answer}
