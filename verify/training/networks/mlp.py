"""A multilayer perceptron: the bytes before -> the next byte. Its three kinds of layer are the theory's own."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from verify.training.networks import ModelError, Parameter, Params, Place, Scaling, anywhere, check_sizes, draw, label


@dataclass(frozen=True)
class MLP:
    """Embedding, `hidden_layers` square layers and a readout, with relu between and without biases.

        z_1 = relu(m_1 W_1 x),  z_l = relu(m_l W_l z_{l-1}),  logits = m_{L+1} W_{L+1} z_L      m_l = n^-a_l

    x is the one-hot code of (position, token), so `context` of its context * vocabulary entries are 1. Params:
    embedding [context * vocabulary, width], hidden.0, hidden.1, ... [width, width], readout [width, vocabulary];
    their base stds keep every pre-activation at RMS 1. `place` is applied to every z. ModelError for sizes out of
    range.
    """

    scaling: Scaling
    context: int = 16
    vocabulary: int = 256
    hidden_layers: int = 2
    place: Place = field(default=anywhere, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_sizes(1, context=self.context, vocabulary=self.vocabulary)
        check_sizes(0, hidden_layers=self.hidden_layers)

    def parameters(self) -> Params:
        """The tree of Parameter; indices 0 embedding, 1 readout, 2, 3, ... hidden, whatever the depth."""
        width, base, std = self.scaling.width, self.scaling.base_width, self.scaling.init_std
        # relu halves the mean square of a symmetric pre-activation; the factor 2 restores it (He et al., 1502.01852).
        hidden = std("hidden", (2 / base) ** 0.5)
        return {
            "embedding": Parameter(
                0, "embedding", (self.context * self.vocabulary, width), std("embedding", self.context**-0.5)
            ),
            "hidden": {
                str(layer): Parameter(2 + layer, "hidden", (width, width), hidden)
                for layer in range(self.hidden_layers)
            },
            "readout": Parameter(1, "readout", (width, self.vocabulary), std("readout", base**-0.5)),
        }

    def init(self, key: Key[Array, ""]) -> Params:
        """Draw all parameters, the same bits for the same key."""
        return draw(self.parameters(), key)

    def labels(self, params: Params) -> Params:
        """The tree of "embedding" | "hidden" | "readout"."""
        return label(self.parameters(), params)

    def apply(self, params: Params, tokens: Int[Array, "batch context"]) -> Float[Array, "batch vocabulary"]:
        """The logits of the token after the context; ModelError where tokens are not `context` long."""
        if tokens.shape[-1] != self.context:
            raise ModelError(f"the MLP reads exactly {self.context} tokens and was given {tokens.shape[-1]}")
        multiplier = self.scaling.multiplier
        # The product of W_1 with a one-hot code is a sum of rows.
        rows = params["embedding"][jnp.arange(self.context) * self.vocabulary + tokens]
        z = self.place(jax.nn.relu(multiplier("embedding") * rows.sum(axis=-2)))
        for layer in range(self.hidden_layers):
            z = self.place(jax.nn.relu(multiplier("hidden") * (z @ params["hidden"][str(layer)])))
        return multiplier("readout") * (z @ params["readout"])
