"""Slopes of log size against log width, their intervals, and the four-step verdict on a prediction.

A slope across widths has no constant offset, which a ratio at one width has; so verdicts go by slopes. The four
steps (THEORY 8) say which part of a prediction failed:

1. the optimizer: RMS(DW_l) ~ n^-(c_l + s_l); for matrix rules ||DW_l||_op ~ n^-(c_l - p_l), and the gain
   RMS(DW_l z_0) / RMS(z_0) ~ n^-(c_l + s_l - alpha_l), since s_l and alpha_l each depend on the gradient's rank
2. the propagation: the terms of Dh do not cancel, and the nonlinearity preserves size
3. the assumption: alpha, omega, u
4. the result: RMS(Dz_l) ~ n^-r_l, from the assumed and from the measured alignments
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit
from sympy import Expr

from derive.emit import layer_names
from derive.exponents import Kind
from derive.optimizers import Optimizer
from derive.solve import Layer, Prescription

Sizes = Float[np.ndarray, "widths seeds"]
Quantity = Literal[
    "delta_w",
    "operator_norm",
    "gain",
    "cancellation",
    "nonlinearity",
    "alpha",
    "omega",
    "u",
    "delta_z",
    "gradient",
    "size",
]
Verdict = Literal["holds", "fails", "open", "not measured"]

TOLERANCES: Mapping[Quantity, float] = {
    "delta_w": 0.05,
    "operator_norm": 0.1,
    "gain": 0.1,
    "cancellation": 0.1,
    "nonlinearity": 0.1,
    "alpha": 0.1,
    "omega": 0.1,
    "u": 0.1,
    "delta_z": 0.15,
    "gradient": 0.1,
    "size": 0.1,
}
"""How far a slope may be from its prediction at widths of hundreds; all tell 1/2 from 0."""
WIDEST_INTERVAL = 0.25  # half-width beyond which 0 and 1/2 cannot be told apart
CURVED = 0.15
RANK = "depends on the gradient's rank; operator_norm and gain do not"


@dataclass(frozen=True)
class Slope:
    """A power of the width: size ~ n^value, with a 95 % interval over seeds.

    `local` are the slopes between neighbouring widths; `curved` says that they drift by more than 0.15 from one end
    to the other, and by more than the seeds scatter, so that the widths are too small for one power to describe.
    """

    value: float
    low: float
    high: float
    local: tuple[float, ...]
    curved: bool = False

    def negated(self) -> "Slope":
        """The exponent x of size n^-x."""
        return Slope(-self.value, -self.high, -self.low, tuple(-each for each in self.local), self.curved)

    def plus(self, exponent: float) -> "Slope":
        """The slope of the size times n^exponent."""
        local = tuple(each + exponent for each in self.local)
        return Slope(self.value + exponent, self.low + exponent, self.high + exponent, local, self.curved)


def student_half_width(spread: float, freedom: int) -> float:
    """Half of the 95 % interval for a standard error `spread` with that many degrees of freedom."""
    return float(stdtrit(freedom, 0.975)) * spread if freedom > 0 else float("nan")


def slope(widths: Sequence[int], sizes: Sizes) -> Slope:
    """Least-squares slope of log size on log width, per seed; its mean, and Student's 95 % interval over seeds.

    With one seed the interval comes from the residuals of the fit. NaN in, NaN out.
    """
    x = np.log(np.asarray(widths, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(np.asarray(sizes, dtype=float))
    y = np.where(np.isfinite(y), y, np.nan)
    centred = x - x.mean()
    per_seed = centred @ y / (centred @ centred)
    value = float(per_seed.mean())
    seeds = y.shape[1]
    if seeds > 1:
        half = student_half_width(float(per_seed.std(ddof=1)) / seeds**0.5, seeds - 1)
    else:
        residual = y[:, 0] - y[:, 0].mean() - value * centred
        freedom = len(x) - 2
        variance = float(residual @ residual) / max(freedom, 1)
        half = student_half_width((variance / float(centred @ centred)) ** 0.5, freedom)
    local = np.diff(y, axis=0) / np.diff(x)[:, None]
    drift = local[-1] - local[0]
    scatter = student_half_width(float(drift.std(ddof=1)) / seeds**0.5, seeds - 1) if seeds > 1 else 0.0
    curved = bool(abs(drift.mean()) > max(CURVED, scatter))
    return Slope(value, value - half, value + half, tuple(map(float, local.mean(axis=1))), curved)


@dataclass(frozen=True)
class Row:
    """One prediction beside its measurement, in the sign convention of the JSON contract."""

    layer: str
    kind: Kind
    step: int
    quantity: Quantity
    predicted: str | None
    measured: Slope
    reference: float | None
    verdict: Verdict
    reason: str | None = None


def judge(measured: Slope, reference: float | None, tolerance: float) -> tuple[Verdict, str | None]:
    """Hold where the interval, widened by the tolerance, contains the prediction; open where it could not fail."""
    if not np.isfinite(measured.value):
        return "not measured", "not finite: zero, diverged or absent"
    if reference is None:
        return "open", "nothing is predicted"
    half = measured.high - measured.value
    if np.isfinite(half) and half > WIDEST_INTERVAL:
        return "open", f"the interval, +-{half:.2f}, cannot tell 0 from 1/2; give more seeds or widths"
    margin = tolerance + (half if np.isfinite(half) else 0.0)
    holds = abs(measured.value - reference) <= margin
    reason = "slopes drift with width; give larger widths" if measured.curved else None
    return ("holds" if holds else "fails"), reason


Table = Mapping[str, Mapping[str, Sizes]]
"""Measured sizes at one step: table[layer][quantity]."""


def alignment_ratios(sizes: Mapping[str, Sizes]) -> dict[Quantity, Sizes]:
    """What is n^alpha, n^omega and n^u of one layer (THEORY 2); NaN where Dz is 0, and nothing for a lookup.

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


def alignment_slopes(widths: Sequence[int], sizes: Mapping[str, Sizes]) -> dict[Quantity, Slope]:
    """alpha, omega, u as powers of the width; those that do not exist for the layer (a lookup) are absent."""
    return {name: slope(widths, ratio) for name, ratio in alignment_ratios(sizes).items()}


def update_laws(
    widths: Sequence[int], sizes: Mapping[str, Sizes], layer: Layer, rule: Optimizer
) -> Iterator[tuple[Quantity, Slope, Expr, str | None]]:
    """(quantity, exponent x of size n^-x, predicted x, why it cannot fail) of one layer's updates (THEORY 3).

    RMS(DW) ~ n^-(c + s), and for matrix rules, where measured, ||DW||_op ~ n^-(c - p) and
    RMS(DW z_0) / RMS(z_0) ~ n^-(c + s - alpha) with alpha as capped. Where the rule acts on singular values s is that
    of full rank, and open; but for a lookup, whose rank is at most its fixed number of rows, and which has no z_0.
    """
    looked_up = "input" not in sizes
    opened = RANK if rule.is_spectral and not looked_up else None
    yield "delta_w", slope(widths, sizes["delta_w"]).negated(), layer.c + layer.s, opened
    if "operator_norm" in sizes:
        largest = rule.operator_norm(layer.kind, layer.g, layer.b)
        yield "operator_norm", slope(widths, sizes["operator_norm"]).negated(), layer.c - largest, None
        if not looked_up:
            gain = slope(widths, sizes["term_alpha"] / sizes["input"]).negated()
            yield "gain", gain, layer.c + layer.s - layer.alpha, None  # type: ignore[operator]


def single_width_ratio(ratio: Sizes, fan_in: int) -> float:
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


def implied_change(
    layer: Layer,
    measured: Mapping[Quantity, Slope],
    weights: Mapping[str, float],
    before: float,
    update: float | None = None,
) -> float:
    """r of a layer from theory's d = a + c + s and a + b, the measured alignments and the measured sizes of terms.

    Each term's exponent is that of section 4; they are averaged by the terms' shares of |Dh|^2. `update` is c + s as
    measured, where s depends on the gradient's rank as the alignments do.
    """
    d = float(layer.a) + (float(layer.c + layer.s) if update is None else update)
    total = float(layer.a + layer.b)
    if not measured:
        return d
    exponents = {
        "alpha": d - measured["alpha"].value,
        "omega": total + before - measured["omega"].value,
        "u": d + before - measured["u"].value,
    }
    return sum(weights[name] * exponents[name] for name in weights if weights[name] > 0)


def verdicts(
    prescription: Prescription,
    widths: Sequence[int],
    step: int,
    table: Table,
    kinds: Mapping[str, Kind],
    tolerances: Mapping[Quantity, float] = TOLERANCES,
    chain: bool = True,
) -> list[Row]:
    """All four steps for every dense op of one training step.

    In a `chain` every op's input is the output of the one before, so that the nonlinearity can be judged and r
    followed from layer to layer; elsewhere Dz is the change of the op's own output.
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
    predicted = dict(zip(layer_names(prescription), prescription.layers, strict=True))
    rows: list[Row] = []
    names = list(table)
    before = 0.0
    for index, name in enumerate(names):
        sizes = table[name]
        kind: Kind = kinds[name]
        layer = predicted[name if prescription.per_layer else kind]
        rule = prescription.problem.optimizers[layer.kind]

        def add(
            quantity: Quantity, measured: Slope, value: Any, reference: float | None = None, opened: str | None = None
        ) -> None:
            exact = None if value is None else str(value)
            target = reference if reference is not None else None if value is None else float(value)
            verdict, reason = judge(measured, target, tolerances[quantity])
            if opened is not None and verdict != "not measured":
                verdict, reason = "open", opened
            rows.append(Row(name, layer.kind, step, quantity, exact, measured, target, verdict, reason))  # noqa: B023

        laws = list(update_laws(widths, sizes, layer, rule))
        for quantity, measured, value, opened in laws:
            add(quantity, measured, value, opened=opened)
        _, update, _, by_rank = laws[0]
        add("cancellation", slope(widths, sizes["delta_output"] / rss(sizes)), 0)
        follower = table[names[index + 1]] if chain and index + 1 < len(names) else None
        if follower is not None:
            add("nonlinearity", slope(widths, follower["delta_input"] / _scaled(widths, sizes, layer)), 0)
        alignments = alignment_slopes(widths, sizes)
        for quantity, measured in alignments.items():
            assumed = {"alpha": layer.alpha, "omega": layer.omega, "u": layer.u}[quantity]
            add(quantity, measured, assumed, opened=None if quantity == "omega" else by_rank)
        arriving = before if chain or "delta_input" not in sizes else -slope(widths, sizes["delta_input"]).value
        before = implied_change(layer, alignments, shares(sizes), arriving, update.value if by_rank else None)
        change = follower["delta_input"] if follower is not None else _scaled(widths, sizes, layer)
        add("delta_z", slope(widths, change).negated(), layer.r, before)
        if "gradient" in sizes:
            add("gradient", slope(widths, sizes["gradient"]).negated(), layer.g)
    return rows


def _scaled(widths: Sequence[int], sizes: Mapping[str, Sizes], layer: Layer) -> Sizes:
    """Dh, the change of W z with its multiplier n^-a (n relative to the smallest width)."""
    ratio = np.asarray(widths, dtype=float) / widths[0]
    return sizes["delta_output"] * (ratio ** -float(layer.a))[:, None]
