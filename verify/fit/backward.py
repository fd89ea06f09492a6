"""Gradient sizes and backward alignments across widths, judged: does the exponent g hold, and on what does it rest.

Activations stay of size 1, so that the cotangent of a layer's product W z has the gradient's own exponent:

    RMS(d_l) = n^-g_l      RMS(G_l) = RMS(d_l) RMS(z_{l-1}) x what the examples of a batch leave of each other

The last factor lies between 1 / sqrt(batch) and 1 of its largest value and is no power of the width; but after
training, networks of different widths have learnt unequally much and differ in it. So d and G have rows of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from sympy import Expr, Rational, S

from derive.emit import layer_names
from derive.solve import Layer, Prescription, trained_gradients
from derive.words import Kind
from verify.fit.forward import Sizes, Slope, Table, Verdict, judge, slope

Quantity = Literal["cotangent", "gradient", "input", "batch", "nonlinearity", "beta", "delta_w", "gamma", "coherence"]
TOLERANCES: Mapping[Quantity, float] = {**dict.fromkeys(get_args(Quantity), 0.05), "gamma": 0.1}
"""How far a slope may be from its prediction at widths of hundreds."""


class Row(NamedTuple):
    """One prediction beside its measurement, with the fields of `fit.forward.Row`: sizes n^-x, alignments n^+x."""

    layer: str
    kind: Kind
    step: int
    quantity: Quantity
    predicted: str
    measured: Slope
    reference: float
    verdict: Verdict
    reason: str | None


@dataclass(frozen=True)
class Gradients:
    """A finished study: tables[step][layer][quantity] is [width, seed], and the role of every layer."""

    widths: tuple[int, ...]
    kinds: Mapping[str, Kind]
    tables: Mapping[int, Table]


def verdicts(
    prescription: Prescription,
    widths: Sequence[int],
    step: int,
    table: Table,
    kinds: Mapping[str, Kind],
    tolerances: Mapping[Quantity, float] = TOLERANCES,
    chain: bool = True,
) -> list[Row]:
    """Every prediction for the backward pass at one step, per dense op in the order of execution.

    cotangent, gradient   g, at step 0 that of initialisation and later that of `trained_gradients`
    input, batch          0, the two other factors of the gradient
    nonlinearity          0, its derivative preserves size
    delta_w               c + s, the optimizer's part
    beta, gamma           the backward alignments; gamma up to d = a + c + s on hidden layers, which amplify above it
    coherence             0, W_0^T d and DW^T d neither cancel nor add up ever more

    After training, cotangents and gradients are judged by what `implied_cotangents` finds. In a `chain` every op's
    input is the output of the one before; elsewhere no nonlinearity is judged, and hidden layers are taken to preserve
    the signal.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what is not finite is said in its row
        return _verdicts(prescription, widths, step, table, kinds, tolerances, chain)


def _verdicts(
    prescription: Prescription,
    widths: Sequence[int],
    step: int,
    table: Table,
    kinds: Mapping[str, Kind],
    tolerances: Mapping[Quantity, float],
    chain: bool,
) -> list[Row]:
    trained = trained_gradients(prescription)
    pairs = dict(zip(layer_names(prescription), zip(prescription.layers, trained, strict=True), strict=True))
    labelled = {name: pairs[name if prescription.per_layer else kinds[name]] for name in table}
    implied = implied_cotangents(widths, table, {name: layer for name, (layer, _) in labelled.items()}, chain)
    ratio = (np.asarray(widths, dtype=float) / widths[0])[:, None]
    names, rows = list(table), list[Row]()
    for index, (name, (layer, later)) in enumerate(labelled.items()):
        sizes, readout = table[name], layer.kind == "readout"

        def add(quantity: Quantity, measured: Slope, value: Expr, reference: float | None = None) -> None:
            target = float(value) if reference is None else reference
            verdict, reason = judge(measured, target, tolerances[quantity])
            if quantity == "gamma" and layer.kind == "hidden" and verdict == "fails" and measured.value < target:  # noqa: B023
                verdict, reason = "holds", "an upper bound"
            rows.append(Row(name, layer.kind, step, quantity, str(value), measured, target, verdict, reason))  # noqa: B023

        g, reference = (later, implied[name]) if step else (layer.g, None)
        add("cotangent", slope(widths, sizes["delta"]).negated(), g, None if readout else reference)
        add("gradient", slope(widths, sizes["gradient"]).negated(), g, reference)
        factors = sizes["delta"] * sizes.get("input", 1.0)
        if "input" in sizes:
            add("input", slope(widths, sizes["input"]), S.Zero)
        add("batch", slope(widths, sizes["gradient"] / factors), S.Zero)
        if chain and index + 1 < len(names):
            passed = sizes["delta"] * ratio ** float(layer.a)
            add("nonlinearity", slope(widths, passed / table[names[index + 1]]["back"]), S.Zero)
        if step:
            add("delta_w", slope(widths, sizes["delta_w"]).negated(), layer.c + layer.s)
        if layer.kind == "embedding":
            continue
        beta, gamma = backward_alignments(widths, sizes)
        add("beta", beta, S.Zero if readout else Rational(1, 2))
        if step:
            add("gamma", gamma, S.Zero if readout else layer.a + layer.c + layer.s)
            terms = np.hypot(sizes["back_initial"], sizes["back_change"])
            add("coherence", slope(widths, sizes["back"] / terms), S.Zero)
    return rows


def backward_alignments(widths: Sequence[int], sizes: Mapping[str, Sizes]) -> tuple[Slope, Slope]:
    """beta and gamma as powers of the width."""
    delta = sizes["delta"]
    beta = slope(widths, sizes["back_initial"] / (sizes["weight"] * delta))
    return beta, slope(widths, sizes["back_change"] / (sizes["delta_w"] * delta))


def implied_cotangents(
    widths: Sequence[int], table: Table, layers: Mapping[str, Layer], chain: bool = True
) -> dict[str, float]:
    """x of RMS(d) = n^-x for every op, from the slope at the logits and what each layer sends back.

    Sent back are n^-(a + b - beta) and n^-(a + c + s - gamma), with theory's sizes and the measured alignments, each by
    its share of the measured squares: at finite width the larger one rules, not the one that grows fastest. How the
    loss answers to the logits is not the network's: the slope there enters as it was measured.
    """
    found: dict[str, float] = {}
    arriving = 0.0  # the exponent of the cotangent of n^-a W z
    for name in reversed(list(table)):
        layer, sizes = layers[name], table[name]
        if layer.kind == "readout":
            arriving = -slope(widths, sizes["delta"]).value - float(layer.a)
        found[name] = arriving + float(layer.a)
        if layer.kind == "readout" or (chain and layer.kind == "hidden"):
            initial, change = sizes["back_initial"] ** 2, sizes["back_change"] ** 2
            share = float(np.mean(change / (initial + change)))
            beta, gamma = backward_alignments(widths, sizes)
            arriving += (1 - share) * (float(layer.a + layer.b) - beta.value)
            if share > 0:
                arriving += share * (float(layer.a + layer.c + layer.s) - gamma.value)
    return found
