"""The three terms of a layer's change, D(W z) = DW z + W Dz + DW Dz: their alignments and their shares.

See docs/theory.md, section 2.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from verify.fit.slopes import Sizes, Slope, slope

Ratio = Literal["alpha", "omega", "u"]
Table = Mapping[str, Mapping[str, Sizes]]
"""Measured sizes at one step: table[layer][quantity]."""


def alignment_ratios(sizes: Mapping[str, Sizes]) -> dict[Ratio, Sizes]:
    """What is n^alpha, n^omega and n^u of one layer (section 2 there); NaN where Dz is 0, and nothing for a lookup.

    RMS(DW z) / (RMS(DW) RMS(z)),   RMS(W Dz) / (RMS(W) RMS(Dz)),   RMS(DW Dz) / (RMS(DW) RMS(Dz))
    """
    if "input" not in sizes:
        return {}
    update, weight = sizes["delta_w"], sizes["weight"]
    shift = np.where(sizes["delta_input"] > 0, sizes["delta_input"], np.nan)
    return {
        "alpha": sizes["term_alpha"] / (update * sizes["input"]),
        "omega": sizes["term_omega"] / (weight * shift),
        "u": sizes["term_u"] / (update * shift),
    }


def total_ratio(sizes: Mapping[str, Sizes]) -> Sizes:
    """RMS(Dh) over the root sum of squares of its terms' bounds without alignment; its power of n is the total.

    RMS(DW z + W Dz + DW Dz) / sqrt((RMS(DW) RMS(z))^2 + (RMS(W) RMS(Dz))^2 + (RMS(DW) RMS(Dz))^2)

    The total lies near the alignment of the largest of the three.
    """
    update, weight, z, shift = (sizes[name] for name in ("delta_w", "weight", "input", "delta_input"))
    return sizes["delta_output"] / np.sqrt((update * z) ** 2 + (weight * shift) ** 2 + (update * shift) ** 2)


def alignment_slopes(widths: Sequence[int], sizes: Mapping[str, Sizes]) -> dict[Ratio, Slope]:
    """alpha, omega, u as powers of the width; those that do not exist for the layer (a lookup) are absent."""
    return {name: slope(widths, ratio) for name, ratio in alignment_ratios(sizes).items()}


def single_width_ratio(ratio: Float[np.ndarray, "..."], fan_in: int) -> float:
    """log(ratio) / log(fan_in) at one width, the usual log-alignment ratio, with its constant offset."""
    return float(np.log(ratio).mean() / np.log(fan_in)) if fan_in > 1 else float("nan")


def shares(sizes: Mapping[str, Sizes]) -> dict[str, float]:
    """The part of |Dh|^2 that each of the three terms has, averaged over widths and seeds.

    At finite width the largest term rules the slope of a sum, not the one that grows fastest.
    """
    terms = {name: sizes[f"term_{name}"] ** 2 for name in ("alpha", "omega", "u") if f"term_{name}" in sizes}
    total = sum(terms.values())
    return {name: float(np.mean(square / total)) for name, square in terms.items()}


def rss(sizes: Mapping[str, Sizes]) -> Sizes:
    """Root of the sum of squares of the terms of Dh."""
    return np.sqrt(sum(sizes[name] ** 2 for name in sizes if name.startswith("term_")))
