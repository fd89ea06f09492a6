"""Table 6: fourteen sizes of the transformer, from width 128 to 16,384.

    N = 12 L D^2 + (2 V + T) D      FLOPs per token = 6 (N - (V + T) D) + 12 L T D      memory = 16 N bytes

D width, L blocks, V vocabulary, T context; a block has 4 D^2 attention and 8 D^2 feed-forward weights. A training step
costs 6 FLOPs per token and weight that multiplies, twice forward and four times backward (a lookup does not
multiply), and 12 T D per block for q k^T and its product with v, masked entries computed too. Memory is that of
parameters, gradients and Adam's two moments in float32, without activations.
"""

from pathlib import Path

from paper_figures.items import Cell, Item, Table
from verify.planning.counts import Network, training_flops, transformer

HEAD_DIMENSION = 128
HEADS = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64, 96, 128)
WIDTHS = tuple(HEAD_DIMENSION * heads for heads in HEADS)
BLOCKS = 8
CONTEXT = 512
VOCABULARY = 32_101
ADAM_BYTES = 16


def parameters(width: int) -> int:
    """N, the number of parameters of `verify`'s transformer at that width."""
    return _counted(width).parameters


def flops_per_token(width: int) -> float:
    """Floating-point operations of matrix products in a training step, per token."""
    return training_flops(_counted(width), sequences=1, remat=False) / CONTEXT


def _counted(width: int) -> Network:
    return transformer(width, BLOCKS, CONTEXT, VOCABULARY, HEAD_DIMENSION)


def item(data: Path) -> Item:  # noqa: ARG001
    """Width, heads, parameters, GFLOP per token and GiB of training state. Needs no study."""
    rows: list[list[Cell]] = [
        [
            f"{width:,}",
            str(width // HEAD_DIMENSION),
            f"{parameters(width):,}",
            f"{flops_per_token(width) / 1e9:#.4g}",
            f"{ADAM_BYTES * parameters(width) / 2**30:#.4g}",
        ]
        for width in WIDTHS
    ]
    notes = [
        f"{BLOCKS} blocks, head dimension {HEAD_DIMENSION}, feed-forward width 4 D, context {CONTEXT}, vocabulary "
        f"{VOCABULARY:,}, learned positions, no biases, untied readout. FLOPs of a training step: 6 per token and "
        "weight that multiplies, and attention over the whole context. Memory: parameters, gradients and Adam's "
        "moments in float32.",
        "Heads, and with them widths, are the paper's fourteen; so are blocks, context and vocabulary.",
    ]
    columns = ["width D", "heads", "parameters", "GFLOP per token", "training memory (GiB)"]
    smallest, largest = parameters(WIDTHS[0]), parameters(WIDTHS[-1])
    return Item(
        title="Fourteen model sizes",
        claim="The sweep goes over fourteen widths up to tens of billions of parameters, at a fixed depth and head "
        "dimension, so that only the width grows.",
        measured=f"Our transformer at these widths has {smallest / 1e6:.1f} million to {largest / 1e9:.1f} billion "
        f"parameters; the largest needs {ADAM_BYTES * largest / 2**30:.0f} GiB for Adam in float32 alone.",
        scale="Counted; these sizes are not trained here.",
        verdict="derived",
        tables={"table_6_model_sizes": Table(columns, rows, (), notes)},
    )
