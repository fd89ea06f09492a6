"""What a network takes to train, counted before it is made: parameters, floating-point operations, activations.

D width, L blocks, T context, H heads, V vocabulary; P = sequences x T positions a step; c bytes per computed number.

    parameters      N = 12 L D^2 + (2 V + T) D
    FLOPs           (6 (12 L D^2 + V D) + 12 L T D) P          a step of training
    activations     L (c (34 D + 3 H T + 2 H + 4) + H T) P      bytes kept from the forward to the backward pass
                    + (c (3 D + 2) + 4 V + 4) P                 and for the loss

A product of a weight costs 2 FLOPs per entry and position forward and 4 backward, one of two activations (q k^T, and
its softmax times v) 4 T D forward per position, masked entries included; a lookup costs none, and sums, norms and the
optimizer's entrywise work are left out. Activations are what JAX's derivative of the model keeps, to the byte; XLA
makes some of them again instead. With rematerialisation a block keeps c D and is computed again in the backward pass
but for its last product: 88 D^2 stands for 72 D^2 and 16 T D for 12 T D in every block. The multilayer perceptron,
which has no rematerialisation, is counted in `mlp`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from derive.errors import DeriveError
from derive.words import Kind
from verify.training.mesh import layout

FLOAT32 = 4
PRODUCTS_MEASURED = 3
"""Products per dense op in a measurement, DW z_0, W_0 Dz and DW Dz, beside the forward pass."""


class Weights(NamedTuple):
    """`times` matrices of one shape, (fan in, fan out); `looked_up` rows a position of an embedding, 0 of a product."""

    kind: Kind
    shape: tuple[int, int]
    times: int = 1
    looked_up: int = 0

    @property
    def size(self) -> int:
        """Entries of all of them."""
        return self.times * prod(self.shape)


class Kept(NamedTuple):
    """Numbers kept per position for the backward pass.

    `whole` ones are on every device of the model axis, the others lie split over it; masks take a byte each.
    """

    whole: int
    split: int
    masks: int

    def bytes(self, itemsize: int, model: int) -> float:
        """Bytes per position on one device."""
        return self.whole * itemsize + (self.split * itemsize + self.masks) / model


@dataclass(frozen=True)
class Network:
    """One model at one width, as far as counting goes.

    `length` is the positions of a sequence; per position and block, `pairs` are the multiply-adds between activations,
    `again` those that remat makes twice (0: there is none), `probed` the inputs of dense ops; `outside` is what the
    parts before and after the blocks keep; `parts` is what the model axis divides, heads or units.
    """

    width: int
    length: int
    vocabulary: int
    blocks: int
    parts: int
    weights: tuple[Weights, ...]
    pairs: int
    again: int
    block: Kept
    outside: Kept
    probed: int

    @property
    def parameters(self) -> int:
        """N, the number of parameters."""
        return sum(each.size for each in self.weights)

    def multiplied(self, kind: Kind | None = None) -> int:
        """Multiply-adds per position in products with weights, of one kind or all."""
        return sum(each.size for each in self.weights if not each.looked_up and kind in (None, each.kind))

    @property
    def block_size(self) -> int:
        """Parameters of one block: what is gathered at a time when weights are sharded."""
        return sum(each.size for each in self.weights if each.kind == "hidden") // max(1, self.blocks)


def transformer(width: int, blocks: int, context: int, vocabulary: int, head_dimension: int) -> Network:
    """The counts of `models.transformer`; DeriveError for a width without whole heads."""
    if width % head_dimension:
        raise DeriveError(
            f"width {width} is not a multiple of the head dimension {head_dimension}; give widths that are, or another "
            "--head-dimension"
        )
    heads = width // head_dimension
    return Network(
        width=width,
        length=context,
        vocabulary=vocabulary,
        blocks=blocks,
        parts=heads,
        weights=(
            Weights("embedding", (vocabulary, width), looked_up=1),
            Weights("embedding", (context, width), looked_up=1),
            Weights("hidden", (width, width), 4 * blocks),
            Weights("hidden", (width, 4 * width), blocks),
            Weights("hidden", (4 * width, width), blocks),
            Weights("readout", (width, vocabulary)),
        ),
        pairs=2 * context * width,
        again=8 * width**2 + 2 * context * width,
        # Two norms keep 3 D each; q, k, v and what attention gives D each; the GELU layer and its derivative 6 x 4 D.
        # Of the scores three arrays, their mask and the two sums of the softmax.
        block=Kept(6 * width + 4, 28 * width + heads * (3 * context + 2), heads * context),
        outside=Kept(3 * width + 2, 0, 0),
        probed=9 * width,
    )


def mlp(width: int, hidden_layers: int, context: int, vocabulary: int) -> Network:
    """The counts of `models.mlp`, whose sequence is one position: 2 D kept per layer and a mask, the embedding too."""
    layer = Kept(0, 2 * width, width)
    return Network(
        width=width,
        length=1,
        vocabulary=vocabulary,
        blocks=hidden_layers,
        parts=width,
        weights=(
            Weights("embedding", (context * vocabulary, width), looked_up=context),
            Weights("hidden", (width, width), hidden_layers),
            Weights("readout", (width, vocabulary)),
        ),
        pairs=0,
        again=0,
        block=layer,
        outside=layer,
        probed=width,
    )


def training_flops(network: Network, sequences: int, remat: bool) -> float:
    """Floating-point operations of one step's products, without the optimizer's."""
    products = network.multiplied() + network.blocks * network.pairs
    again = network.blocks * network.again if remat else 0
    return (6 * products + 2 * again) * sequences * network.length


def measuring_flops(network: Network, probe: int) -> float:
    """Floating-point operations of one measurement: the probe batch forward to the readout, three products per op."""
    forward = 2 * (network.multiplied("hidden") + network.blocks * network.pairs)
    return (forward + 2 * PRODUCTS_MEASURED * network.multiplied()) * probe * network.length


def activation_bytes(network: Network, sequences: float, itemsize: int, remat: bool, model: int = 1) -> float:
    """Bytes kept on one device from the forward to the backward pass.

    `sequences` is the device's share of the batch, `model` the devices that split every layer.
    """
    block = network.width * itemsize if remat and network.again else network.block.bytes(itemsize, model)
    outside = network.outside.bytes(itemsize, model) + FLOAT32 * (network.vocabulary + 1)
    return sequences * network.length * (network.blocks * block + outside)


def working_bytes(
    network: Network, sequences: float, itemsize: int, remat: bool, model: int = 1, gathered: bool = False
) -> float:
    """Bytes that come and go on one device: the logits' cotangent in the making, and one block at a time.

    Of the block the activations that are made again, and where weights are sharded over the data axis, its weights
    together with their gradient. Rows looked up are there before anything is kept, and their cotangent after it: only
    where they are more than all of that do they count, as the multilayer perceptron's of a long context.
    """
    logits = 2 * FLOAT32 * network.vocabulary
    block = network.block.bytes(itemsize, model) if remat and network.again else 0
    weights = 2 * itemsize * network.block_size / model if gathered else 0
    looked_up = sum(each.looked_up for each in network.weights) * network.width * itemsize / model
    rows = sequences * network.length * looked_up - activation_bytes(network, sequences, itemsize, remat, model)
    return max(sequences * network.length * (logits + block) + weights, rows)


def part(size: int, axis: int) -> int:
    """What one device has of a dimension: all of it where the axis does not divide it."""
    return size if size % axis else size // axis


def shard(shape: tuple[int, int], data: int, model: int) -> tuple[int, int]:
    """What one device has of a matrix, as `verify.training.mesh` lays it."""
    counts = {"data": data, "model": model}
    cut = layout(*shape, data, model)
    fan_in, fan_out = (size // prod(counts[axis] for axis in axes) for size, axes in zip(shape, cut, strict=True))
    return fan_in, fan_out


def op_bytes(network: Network, probe: int, data: int, model: int) -> int:
    """Bytes of the dense op that takes most while it is measured, in float32: its W_0, W and DW, inputs and products.

    Three inputs, z_0, z and Dz; three products and their sum, or two rows looked up and their difference. A weight
    stays where it lies, so a device multiplies its part of it with every position: over a data axis each product is
    there as the device's own and as the sum over devices.
    """
    positions = network.length * probe

    def taken(each: Weights) -> int:
        fan_in, fan_out = shard(each.shape, data, model)
        if each.looked_up:
            passing = 3 * each.looked_up * fan_out * network.length * part(probe, data)
        else:
            products = PRODUCTS_MEASURED + 1 if data == 1 else 2 * PRODUCTS_MEASURED
            passing = (3 * fan_in + products * fan_out) * positions
        return 3 * fan_in * fan_out + passing

    return FLOAT32 * max(taken(each) for each in network.weights)


def probe_bytes(network: Network, probe: float) -> float:
    """Bytes of z_0 of every dense op on a device's share of the probe batch, in float32."""
    return probe * network.length * (network.blocks * network.probed + network.width) * FLOAT32


def _muon(rows: int, columns: int) -> float:
    short, long = sorted((rows, columns))
    return 5 * (4 * short**2 * long + 2 * short**3)


def _both(rows: int, columns: int) -> float:
    return 2 * rows * columns * (rows + columns)


def _shampoo(rows: int, columns: int) -> float:
    return 2 * _both(rows, columns) + 2 * (rows**3 + columns**3) + 9 * (rows**3 + columns**3)


def _dion(rows: int, columns: int) -> float:
    rank = -(-min(rows, columns) // 4)
    return 8 * rows * columns * rank + 4 * columns * rank**2


MATRIX_FLOPS: Mapping[str, Callable[[int, int], float]] = {
    "muon": _muon,
    "muon-keller": _muon,
    "muon-rms": _muon,
    "shampoo": _shampoo,
    "soap": lambda rows, columns: 4 * _both(rows, columns) + 0.9 * (rows**3 + columns**3),
    "soap-left": lambda rows, columns: 8 * rows * columns**2 + 0.9 * columns**3,
    "soap-right": lambda rows, columns: 8 * rows**2 * columns + 0.9 * rows**3,
    **dict.fromkeys(("scion", "normuon", "adamuon", "muon-hyperball"), _muon),
    "polargrad": lambda rows, columns: 12 / 5 * _muon(rows, columns),
    "dion": _dion,
    "grafted-shampoo": _shampoo,
}
"""FLOPs of one step of a matrix rule on [rows, columns]; the other rules are entrywise, or sums, and count as none.

Muon: five steps of Newton and Schulz, x x^T, its square and a product with x each. Shampoo and SOAP: Gram matrices and
rotations, and 9 n^3 for an eigendecomposition (Golub & Van Loan, Matrix Computations, 8.3), which SOAP does every
tenth step. Dion: four products with its basis, and 4 n r^2 for a QR decomposition (5.2). PolarGrad: twelve steps.
"""


def optimizer_flops(network: Network, rules: Mapping[Kind, str]) -> float:
    """Floating-point operations of the update in one step; `rules` names the optimizer of every kind of layer."""
    return sum(
        each.times * MATRIX_FLOPS[rules[each.kind]](*each.shape)
        for each in network.weights
        if rules[each.kind] in MATRIX_FLOPS
    )
