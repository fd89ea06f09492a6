"""Where decoupled weight decay takes a layer, and whether it has come there: predictions, settling, verdicts.

    W <- (1 - eta lambda) W - eta U      RMS(U) = n^-s      eta = n^-c      eta lambda = n^-x

W is the sum of the last 1/(eta lambda) updates. Updates that are uncorrelated add up as a random walk does, updates
that all point one way add up in full:

    RMS(W) = eta RMS(U) / sqrt(2 eta lambda / tau)  ~  n^-(c + s - x/2)      uncorrelated
    RMS(W) = eta RMS(U) / (eta lambda)              ~  n^-(c + s - x)        coherent

tau, `persistence` below, is the number of successive updates that act as one: (1 + b) / (1 - b) for a momentum of b
and gradients that are noise, whatever the width; up to 2/(eta lambda) where updates are coherent. x is 0, c/2 and c for
the conventions independent, sqrt and constant, so that independent makes both predictions one. (With a momentum of b
the random walk is exactly eta^2 RMS(U)^2 (1 + b k) / (1 - b k) / (1 - k^2), k = 1 - eta lambda: while 1/(eta lambda) is
only some times 1/(1 - b), RMS(W) is below its power.)

What is fed into the layer stays of size one after it if the alignment of W itself, RMS(W z) = n^a RMS(W) RMS(z),
makes up for its size: a = (exponent of RMS(W)) + (exponent of the multiplier). For hidden layers under Adam in SP that
is a = 1, 3/4 and 1/2 at uncorrelated updates, for independent, sqrt and constant. Fan et al. 2025, 2510.15262, see
||W||_op = n^(3/4) sqrt(eta / lambda) in transformers, and conclude sqrt; Kosson et al. 2025, 2510.19093, find that
rates transfer with independent. Only under independent is eta lambda unchanged by a gauge shift (`derive equivalent`):
under the two others SP and NTK, or muP and MFP, come to different equilibria.

A sum of uncorrelated updates is noise with a = 1/2, and what was learnt is a small part of it with a = 1; so the a of
their sum lies between, the higher the stronger the decay, and rises with the width where the part stays the same.

At equilibrium nothing is left of W_0, and DW = W - W_0 holds the loss of W_0 as well as what was learnt. alpha of
DW z_0 is then a mixture of the two; the alignment of what was learnt is that of W itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from sympy import Expr, S

from derive.emit import layer_names
from derive.solve import Layer, Prescription
from derive.words import Kind
from verify.fit.forward import RANK, TOLERANCES, Sizes, Slope, Verdict, alignment_slopes, judge, slope

MARKS = 20
"""At how many evenly spaced steps weights are measured; the last half of them makes the equilibrium."""
SETTLED = 0.05
"""d log RMS(W) per time constant within which decay and updates are in balance."""
FORGOTTEN = 0.1
"""What may be left of W_0, as a part of RMS(W); its square enters RMS(W)^2."""
TOLERANCE = 0.05
"""How far an exponent of RMS(W) may be from its prediction, beyond its interval; features have twice that."""

PerSeed = Float[np.ndarray, " seeds"]
Balance = Literal["uncorrelated", "coherent", "both", "not told apart", "between", "neither", "not measured"]


def balance(layer: Layer) -> tuple[Expr, Expr]:
    """x of RMS(W) ~ n^-x at equilibrium: (updates uncorrelated, updates coherent)."""
    pace = layer.c + layer.decay
    return layer.c + layer.s - pace / 2, layer.c + layer.s - pace


@dataclass(frozen=True, eq=False)
class Network:
    """What decay made of the networks of one width, one per seed.

    `marks` are the steps of `weights`, RMS(W) by layer as [marks, seeds]. `sizes` are geometric means over the last
    half of the marks: what `verify.measuring.forward` measures, and of the present network update RMS(U), now_weight
    RMS(W), now_input RMS(z), now_product RMS(W z) and now_operator_norm. `rates` and `paces` are eta and eta
    lambda by layer.
    """

    parameterization: str
    decay: str
    width: int
    kinds: Mapping[str, Kind]
    rates: Mapping[str, float]
    paces: Mapping[str, float]
    marks: tuple[int, ...]
    weights: Mapping[str, Float[np.ndarray, "marks seeds"]]
    sizes: Mapping[str, Mapping[str, PerSeed]]
    held_out: PerSeed
    training: PerSeed
    diverged: Mapping[int, int]

    def drift(self, layer: str) -> float:
        """d log RMS(W) / d(eta lambda t) over the last half of training: the part by which balance is missed."""
        late = len(self.marks) // 2
        time = self.paces[layer] * np.array(self.marks[late:], dtype=float)
        centred = time - time.mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(self.weights[layer][late:])
        return float((centred @ logs / (centred @ centred)).mean())

    def remaining(self, layer: str) -> float:
        """(1 - eta lambda)^t RMS(W_0) / RMS(W): what is left of the initial weights."""
        left = (1 - self.paces[layer]) ** self.marks[-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(left * (self.sizes[layer]["weight"] / self.weights[layer][-1]).mean())

    def at_equilibrium(self, layer: str) -> bool:
        """Whether the initial weights are forgotten, and decay and updates in balance."""
        return abs(self.drift(layer)) <= SETTLED and self.remaining(layer) <= FORGOTTEN

    def persistence(self, layer: str) -> float:
        """tau = 2 eta lambda (RMS(W) / (eta RMS(U)))^2: how many successive updates act as one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = self.sizes[layer]["now_weight"] / (self.rates[layer] * self.sizes[layer]["update"])
        return float((2 * self.paces[layer] * ratio**2).mean())


@dataclass(frozen=True)
class Row:
    """One exponent of one layer across the widths at equilibrium: sizes n^-x, alignments n^+x.

    `predicted` is that of uncorrelated updates, `coherent` that of the others; `left_out` are widths not at rest.
    """

    parameterization: str
    decay: str
    layer: str
    kind: Kind
    quantity: str
    predicted: Expr | None
    coherent: Expr | None
    measured: Slope
    verdict: Verdict | Balance
    reason: str | None
    widths: tuple[int, ...]
    left_out: tuple[int, ...]


NOT_THERE = "not at equilibrium"
UNKNOWN = Slope(float("nan"), float("nan"), float("nan"), ())


def tell(measured: Slope, uncorrelated: float, coherent: float) -> Balance:
    """Which prediction the interval, widened by the tolerance, contains."""
    if not np.isfinite(measured.value):
        return "not measured"
    half = measured.high - measured.value
    margin = TOLERANCE + (half if np.isfinite(half) else 0.0)
    near = [abs(measured.value - each) <= margin for each in (uncorrelated, coherent)]
    if all(near):
        return "both" if uncorrelated == coherent else "not told apart"
    if any(near):
        return "uncorrelated" if near[0] else "coherent"
    low, high = sorted((uncorrelated, coherent))
    return "between" if low < measured.value < high else "neither"


Judged = tuple[str, Slope, Expr | None, Expr | None, Verdict | Balance, str | None]


def rows(prescription: Prescription, networks: Sequence[Network]) -> list[Row]:
    """Every exponent of one parameterization and convention, from its networks of growing width."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what is not finite is said in its row
        return _rows(prescription, networks)


def _rows(prescription: Prescription, networks: Sequence[Network]) -> list[Row]:
    layers = dict(zip(layer_names(prescription), prescription.layers, strict=True))
    names = list(networks[0].kinds)
    found = []
    for index, name in enumerate(names):
        kind = networks[0].kinds[name]
        layer, rule = layers[kind], prescription.problem.optimizers[kind]
        own = [each for each in networks if each.at_equilibrium(name)]
        # What is fed into the layer is at rest only where the layers before are.
        reached = [each for each in own if all(each.at_equilibrium(before) for before in names[:index])]
        for used, judged in (
            (own, _of_weights(layer, name, RANK if rule.is_spectral else None, _enough(own, networks))),
            (reached, _of_activations(layer, names, index, _enough(reached, networks))),
        ):
            widths, left_out = (
                tuple(each.width for each in networks if (each in used) is kept) for kept in (True, False)
            )
            for quantity, measured, predicted, coherent, verdict, reason in judged:
                if len(used) < 2:
                    measured, verdict, reason = UNKNOWN, "not measured", f"{NOT_THERE}; give more --steps"
                elif left_out:
                    there = f"{NOT_THERE} at {', '.join(map(str, left_out))}"
                    reason = f"{there}; {reason}" if reason else there
                place = (networks[0].parameterization, networks[0].decay, name, kind, quantity)
                found.append(Row(*place, predicted, coherent, measured, verdict, reason, widths, left_out))
    return found


def _enough(used: list[Network], networks: Sequence[Network]) -> Sequence[Network]:
    return used if len(used) > 1 else networks


def _of_weights(layer: Layer, name: str, by_rank: str | None, used: Sequence[Network]) -> Iterator[Judged]:
    """weight: RMS(W); update: RMS(U); operator_norm: ||W||_op / RMS(W) of a square layer, n^1/2 to n^1."""
    widths, sizes = [each.width for each in used], _stacked(used, name)
    uncorrelated, coherent = balance(layer)
    weight, update = (slope(widths, sizes[each]).negated() for each in ("now_weight", "update"))
    yield "weight", weight, uncorrelated, coherent, tell(weight, float(uncorrelated), float(coherent)), by_rank
    verdict, reason = judge(update, float(layer.s), TOLERANCE)
    yield "update", update, layer.s, None, "open" if by_rank else verdict, by_rank or reason
    if layer.kind == "hidden":
        norm = slope(widths, sizes["now_operator_norm"] / sizes["now_weight"])
        yield "operator_norm", norm, None, None, *judge(norm, None, TOLERANCE)


def _of_activations(layer: Layer, names: Sequence[str], index: int, used: Sequence[Network]) -> Iterator[Judged]:
    """alignment: of W itself, predicted is what keeps features; feature: RMS(z); alpha, omega and u of the change."""
    widths, sizes = [each.width for each in used], _stacked(used, names[index])
    if "now_input" in sizes:
        own = slope(widths, sizes["now_product"] / (sizes["now_weight"] * sizes["now_input"]))
        needed, at_coherent = (each + layer.a for each in balance(layer))
        yield "alignment", own, needed, at_coherent, *judge(own, float(needed), 2 * TOLERANCE)
    if index + 1 < len(names):
        feature = _stacked(used, names[index + 1])["now_input"]
    else:
        ratio = np.array(widths, dtype=float) / widths[0]
        feature = sizes["now_product"] * (ratio ** -float(layer.a))[:, None]
    size = slope(widths, feature).negated()
    yield "feature", size, S.Zero, None, *judge(size, 0.0, 2 * TOLERANCE)
    for quantity, measured in alignment_slopes(widths, sizes).items():
        assumed = {"alpha": layer.alpha, "omega": layer.omega, "u": layer.u}[quantity]
        verdict, reason = judge(measured, float(assumed), TOLERANCES[quantity])  # type: ignore[arg-type]
        yield quantity, measured, assumed, None, verdict, reason


def _stacked(networks: Sequence[Network], layer: str) -> dict[str, Sizes]:
    return {
        quantity: np.stack([each.sizes[layer][quantity] for each in networks]) for quantity in networks[0].sizes[layer]
    }
