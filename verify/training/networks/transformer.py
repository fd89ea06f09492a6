"""A decoder transformer: every matrix of its blocks is a hidden layer of the theory, at a fixed head dimension."""

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from verify.training.networks import (
    ModelError,
    Parameter,
    Params,
    Place,
    Scaling,
    Stack,
    anywhere,
    check_sizes,
    draw,
    label,
)

# The matrices of a block, (fan in, fan out) in widths.
MATRICES = {"q": (1, 1), "k": (1, 1), "v": (1, 1), "o": (1, 1), "up": (1, 4), "down": (4, 1)}
WRITERS = tuple(order for order, name in enumerate(MATRICES) if name in ("o", "down"))
"""Those that write into the stream."""


def rms_norm(z: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """z / RMS(z) over the features, without gain and bias."""
    return z * jax.lax.rsqrt(jnp.mean(z**2, axis=-1, keepdims=True) + 1e-6)


def causal_attention(
    q: Float[Array, "batch time heads features"],
    k: Float[Array, "batch time heads features"],
    v: Float[Array, "batch time heads features"],
) -> Float[Array, "batch time heads features"]:
    """softmax(q k^T / sqrt(features)) v over the positions up to one's own; the features stay fixed with width."""
    time, features = q.shape[1], q.shape[-1]
    scores = jnp.einsum("bthf,bshf->bhts", q, k) * features**-0.5
    visible = jnp.tril(jnp.ones((time, time), dtype=bool))
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf))
    return jnp.einsum("bhts,bshf->bthf", weights, v)


Branch = Callable[[Params, Float[Array, "batch time width"]], Float[Array, "batch time width"]]


@jax.custom_vjp
def product(z: Float[Array, "... fan_in"], weight: Float[Array, "fan_in fan_out"]) -> Float[Array, "... fan_out"]:
    """z W, with the derivative by W as z^T dy; for JAX's (dy^T z)^T XLA on CPUs copies dy, slowly."""
    return z @ weight


def _product_back(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    z, weight = kept
    return change @ weight.T, jnp.einsum("...i,...o->io", z, change)


product.defvjp(lambda z, weight: (z @ weight, (z, weight)), _product_back)


@dataclass(frozen=True)
class Transformer:
    """Pre-norm blocks of causal attention and a GELU layer four widths wide, without biases and tied weights.

        z = m_1 (W_token + W_position),  z += m o(attention(m q(y), m k(y), m v(y))),  z += m down(gelu(m up(y)))
        logits = m_{L+1} W_{L+1} y      y = z / RMS(z): RMS norm without gain and bias      m_l = n^-a_l

    with every branch times `branch_multiplier`, N^-delta, and o and down drawn `out_factor` times their size, relative
    to a base depth (docs/theory.md, section 9). `normed` leaves the RMS norms out where it is False.

    Width / head_dimension heads; `qk_norm` puts an RMS norm on every head's q and k. Params: embedding.tokens
    [vocabulary, width], embedding.positions [context, width], blocks.0.q, k, v, o, up, down, ..., each [fan in,
    fan out], readout [width, vocabulary]. ModelError for sizes out of range and a width without whole heads.

    With `scan` the blocks are one loop, compiled once whatever the depth, over blocks.q, k, v, o, up, down, each
    [blocks, fan in, fan out]: the same network from the same bits. With `remat` a block keeps its input alone and is
    computed again on the way back: a third more work, and the memory of one block's activations instead of all.
    `place` is applied to z between blocks. With `zero_init` queries and readout start at 0: all keys then weigh alike
    and all tokens are as likely, whatever the width.
    """

    scaling: Scaling
    vocabulary: int = 256
    context: int = 64
    blocks: int = 2
    head_dimension: int = 32
    qk_norm: bool = False
    scan: bool = False
    remat: bool = False
    branch_multiplier: float = 1.0
    out_factor: float = 1.0
    normed: bool = True
    zero_init: bool = False
    place: Place = field(default=anywhere, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_sizes(1, vocabulary=self.vocabulary, context=self.context, head_dimension=self.head_dimension)
        check_sizes(0, blocks=self.blocks)
        if self.scaling.width % self.head_dimension:
            raise ModelError(
                f"width {self.scaling.width} is not a multiple of the head dimension {self.head_dimension}; "
                "give a width that is, or another head dimension"
            )

    def parameters(self) -> Params:
        """The tree of Parameter; indices 0 tokens, 1 readout, 2 positions, then six a block, whatever the depth."""
        width, base, std = self.scaling.width, self.scaling.base_width, self.scaling.init_std
        # Two rows are added, one of the token and one of the position, so z starts at RMS 1.
        embedding = std("embedding", 2**-0.5)

        def index(block: int, order: int) -> int:
            return 3 + len(MATRICES) * block + order

        def matrix(block: int, order: int, fan_in: int, fan_out: int) -> Parameter:
            shape = (fan_in * width, fan_out * width)
            zero = self.zero_init and order == list(MATRICES).index("q")
            factor = self.out_factor if order in WRITERS else 1.0
            scale = 0.0 if zero else std("hidden", factor * (fan_in * base) ** -0.5)
            return Parameter(index(block, order), "hidden", shape, scale, order in WRITERS)

        def blocks() -> Params:
            if not self.scan:
                return {
                    str(block): {
                        name: matrix(block, order, *fans) for order, (name, fans) in enumerate(MATRICES.items())
                    }
                    for block in range(self.blocks)
                }
            return {
                name: Stack(matrix(0, order, *fans), tuple(index(block, order) for block in range(self.blocks)))
                for order, (name, fans) in enumerate(MATRICES.items())
            }

        return {
            "embedding": {
                "tokens": Parameter(0, "embedding", (self.vocabulary, width), embedding),
                "positions": Parameter(2, "embedding", (self.context, width), embedding),
            },
            "blocks": blocks(),
            "readout": Parameter(
                1, "readout", (width, self.vocabulary), 0.0 if self.zero_init else std("readout", base**-0.5)
            ),
        }

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw all parameters, the same bits for the same key."""
        return draw(self.parameters(), key)

    def labels(self, params: Params) -> Params:
        """The tree of "embedding" | "hidden" | "readout"."""
        return label(self.parameters(), params)

    def apply(self, params: Params, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time vocabulary"]:
        """The logits of the token after every position."""
        z = self.enter(params, tokens)
        block = jax.checkpoint(self._block) if self.remat else self._block
        if self.scan:
            z, _ = jax.lax.scan(lambda z, weights: (block(weights, z), None), z, params["blocks"])
        else:
            for each in range(self.blocks):
                z = block(params["blocks"][str(each)], z)
        return self.leave(params, z)

    def enter(self, params: Params, tokens: Int[Array, "batch time"]) -> Float[Array, "batch time width"]:
        """The stream as it begins; ModelError for more than `context` tokens."""
        time = tokens.shape[-1]
        if time > self.context:
            raise ModelError(f"the transformer reads up to {self.context} tokens and was given {time}")
        multiplier = self.scaling.multiplier("embedding")
        embedding = params["embedding"]
        return self.place(multiplier * embedding["tokens"][tokens] + multiplier * embedding["positions"][:time])

    def leave(self, params: Params, z: Float[Array, "batch time width"]) -> Float[Array, "batch time vocabulary"]:
        """The logits, of the stream as it ends."""
        return self.scaling.multiplier("readout") * (self._norm(z) @ params["readout"])

    @property
    def branches(self) -> dict[str, Branch]:
        """What a block adds to the stream, one after the other: (its weights, the stream) -> what is added."""
        multiplier = self.branch_multiplier
        return {
            "attention": lambda weights, z: multiplier * self._attention(weights, self._norm(z)),
            "dense": lambda weights, z: (
                multiplier * self._dense(weights["down"], jax.nn.gelu(self._dense(weights["up"], self._norm(z))))
            ),
        }

    def _norm(self, z: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        return rms_norm(z) if self.normed else z

    def _block(self, weights: Params, z: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        for branch in self.branches.values():
            z = self.place(z + branch(weights, z))
        return z

    def _dense(
        self, weight: Float[Array, "fan_in fan_out"], z: Float[Array, "... fan_in"]
    ) -> Float[Array, "... fan_out"]:
        return self.scaling.multiplier("hidden") * product(z, weight)

    def _attention(self, weights: Params, z: Float[Array, "batch time width"]) -> Float[Array, "batch time width"]:
        heads = (*z.shape[:-1], -1, self.head_dimension)
        q, k, v = (self._dense(weights[name], z).reshape(heads) for name in "qkv")
        if self.qk_norm:
            q, k = rms_norm(q), rms_norm(k)
        return self._dense(weights["o"], causal_attention(q, k, v).reshape(z.shape))
