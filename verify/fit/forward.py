"""The four-step verdict on a prediction, from slopes of log size against log width.

A slope across widths has no constant offset, which a ratio at one width has; so verdicts go by slopes. The four
steps (docs/theory.md, section 8) say which part of a prediction failed:

1. the optimizer: RMS(DW_l) ~ n^-(c_l + s_l); for matrix rules ||DW_l||_op ~ n^-(c_l - p_l), and the gain
   RMS(DW_l z_0) / RMS(z_0) ~ n^-(c_l + s_l - alpha_l), since s_l and alpha_l each depend on the gradient's rank;
   epsilon follows what it is added to
2. the propagation: W_0 and what it makes have the sizes of section 1, the terms of Dh do not cancel, the nonlinearity
   preserves size, gradients are n^-g_l
3. the assumption: alpha, omega, u
4. the result: RMS(Dz_l) ~ n^-r_l, and the layer's own update changes it as much as the largest stable rate would;
   consistent: RMS(Dz_l) is what the measured alignments and terms imply

Only `consistent` makes use of what was measured for its prediction, so that the result can fail.
`verify.fit.four_steps` says which rows reject a theory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sympy import Expr, Max, Rational, S

from derive.emit import layer_names
from derive.optimizers import Optimizer
from derive.recursion import least_residuals
from derive.solve import Layer, Prescription, trained_gradients
from derive.words import Kind
from verify.fit.judging import TOLERANCES as TOLERANCES
from verify.fit.judging import WIDEST_INTERVAL as WIDEST_INTERVAL
from verify.fit.judging import Quantity as Quantity
from verify.fit.judging import Row as Row
from verify.fit.judging import Verdict as Verdict
from verify.fit.judging import judge as judge
from verify.fit.judging import tolerance as tolerance
from verify.fit.slopes import Sizes as Sizes
from verify.fit.slopes import Slope as Slope
from verify.fit.slopes import slope as slope
from verify.fit.slopes import student_half_width as student_half_width
from verify.fit.terms import Ratio
from verify.fit.terms import Table as Table
from verify.fit.terms import alignment_ratios as alignment_ratios
from verify.fit.terms import alignment_slopes as alignment_slopes
from verify.fit.terms import rss as rss
from verify.fit.terms import shares as shares
from verify.fit.terms import single_width_ratio as single_width_ratio
from verify.fit.terms import total_ratio as total_ratio

RANK = "depends on the gradient's rank; operator_norm and gain do not"
ANY_RANK = "depends on the gradient's rank, which grows with the steps, or with the width up to the batch"
ANSWER = "says how far the loss has fallen at each width"
BLAMED = "the assumed alignments, or the prescription"


def update_laws(
    widths: Sequence[int], sizes: Mapping[str, Sizes], layer: Layer, rule: Optimizer, rank_known: bool = True
) -> Iterator[tuple[Quantity, Slope, Expr, str | None]]:
    """(quantity, exponent x of size n^-x, predicted x, why it cannot fail) of one layer's updates (theory 3).

    RMS(DW) ~ n^-(c + s), and for matrix rules, where measured, ||DW||_op ~ n^-(c - p) and
    RMS(DW z_0) / RMS(z_0) ~ n^-(c + s - alpha) with alpha as capped. Where the rule acts on singular values s is that
    of full rank, and open; but for a lookup, whose rank is at most its fixed number of rows, and which has no z_0.
    A rule whose p is another at another rank is judged where the rank is that of `rule` and known to be so.
    """
    looked_up = "input" not in sizes
    by_rank = {"s": rule.is_spectral, "p": False}
    if rule.needs_rank:
        known = rank_known and rule.rank is not None
        by_rank = {name: not known and _differs_by_rank(rule, layer, name) for name in by_rank}
    opened = RANK if by_rank["s"] and not looked_up else None
    yield "delta_w", slope(widths, sizes["delta_w"]).negated(), layer.c + layer.s, opened
    opened = ANY_RANK if by_rank["p"] and not looked_up else None
    if "operator_norm" in sizes:
        largest = rule.operator_norm(layer.kind, layer.g, layer.b)
        yield "operator_norm", slope(widths, sizes["operator_norm"]).negated(), layer.c - largest, opened
        if not looked_up:
            gain = slope(widths, sizes["term_alpha"] / sizes["input"]).negated()
            yield "gain", gain, layer.c + layer.s - layer.alpha, opened  # type: ignore[operator]


def _differs_by_rank(rule: Optimizer, layer: Layer, exponent: str) -> bool:
    """Whether s or p of the layer's updates is another for a gradient of full rank than for one of rank one."""
    one, full = (rule.at_rank(beta) for beta in (S.Zero, S.One))
    at = (layer.kind, layer.g, layer.b)
    return one.size(*at) != full.size(*at) if exponent == "s" else one.operator_norm(*at) != full.operator_norm(*at)


def implied_change(
    layer: Layer,
    measured: Mapping[Ratio, Slope],
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


@dataclass(frozen=True)
class Law:
    """What one quantity is predicted to be; `reference` is the number, where that is not the prediction itself."""

    quantity: Quantity
    measured: Slope
    predicted: Expr | float | None
    reference: float | None = None
    implied: float | None = None
    opened: str | None = None


def verdicts(
    prescription: Prescription,
    widths: Sequence[int],
    step: int,
    table: Table,
    kinds: Mapping[str, Kind],
    tolerances: Mapping[Quantity, float] | None = None,
    chain: bool = True,
) -> list[Row]:
    """All four steps for every dense op of one training step.

    In a `chain` every op's input is the output of the one before, so that the nonlinearity can be judged and r
    followed from layer to layer; elsewhere Dz is the change of the op's own output.
    """
    entries = zip(prescription.layers, trained_gradients(prescription), largest_updates(prescription), strict=True)
    predicted = dict(zip(layer_names(prescription), entries, strict=True))
    rows: list[Row] = []
    names = list(table)
    before = 0.0
    answer = _answer(widths, table, kinds, prescription.layers[-1].g)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what is not finite is said in its row
        for name, following in zip(names, [*names[1:], None], strict=True):
            layer, trained, own = predicted[name if prescription.per_layer else kinds[name]]
            rule = prescription.problem.optimizers[layer.kind]
            sizes, follower = table[name], table[following] if chain and following else None
            laws = list(_optimizer_laws(widths, step, sizes, layer, rule))
            laws += _propagation_laws(widths, step, sizes, follower, layer, chain)
            laws += _gradient_laws(widths, step, sizes, layer, trained, answer)
            laws += _alignment_laws(widths, sizes, layer, laws[0].opened)
            arriving = before if chain or "delta_input" not in sizes else -slope(widths, sizes["delta_input"]).value
            update = -slope(widths, sizes["delta_w"]).value if laws[0].opened else None
            before = implied_change(layer, alignment_slopes(widths, sizes), shares(sizes), arriving, update)
            laws += _result_laws(widths, sizes, follower, layer, own, before)
            follows = rule.gradient_degree(layer.kind, layer.g, layer.b) != 0
            for law in laws:
                allowed = tolerances[law.quantity] if tolerances else tolerance(law.quantity, layer.kind, step, follows)
                rows.append(judged(name, layer.kind, step, law, allowed))
    return rows


def judged(name: str, kind: Kind, step: int, law: Law, allowed: float) -> Row:
    """What is measured beside what is predicted, with the verdict; open where the law says so."""
    target = law.reference
    if target is None and law.predicted is not None:
        target = float(law.predicted)
    verdict, reason = judge(law.measured, target, allowed)
    if law.opened is not None and verdict != "not measured":
        verdict, reason = "open", law.opened
    if law.quantity in ("delta_z", "largest") and verdict == "fails":
        reason = f"{BLAMED}; {reason}" if reason else BLAMED
    exact = None if law.predicted is None else str(law.predicted)
    return Row(name, kind, step, law.quantity, exact, law.measured, target, verdict, reason, allowed, law.implied)


def _optimizer_laws(
    widths: Sequence[int], step: int, sizes: Mapping[str, Sizes], layer: Layer, rule: Optimizer
) -> Iterator[Law]:
    """Step 1: the sizes of updates, and that epsilon shrinks as what it is added to does at initialisation."""
    for quantity, measured, value, opened in update_laws(widths, sizes, layer, rule):
        yield Law(quantity, measured, value, opened=opened)
    if step > 1 or layer.epsilon is None or not rule.scaled_epsilon or "gradient" not in sizes:
        return
    at_zero, at_one = (float(rule.epsilon(layer.kind, g, layer.b)) for g in (S.Zero, S.One))  # type: ignore[arg-type]
    gradient = slope(widths, sizes["gradient"]).negated()
    yield Law("epsilon", gradient.times(at_one - at_zero).plus(at_zero), layer.epsilon)


def _propagation_laws(
    widths: Sequence[int],
    step: int,
    sizes: Mapping[str, Sizes],
    follower: Mapping[str, Sizes] | None,
    layer: Layer,
    chain: bool,
) -> Iterator[Law]:
    """Step 2: what the layer makes at initialisation, and of a change."""
    if step == 1 and "weight" in sizes:
        yield Law("weight", slope(widths, sizes["weight"]).negated(), layer.b)
    if step == 1 and follower is not None and "input" in follower:
        yield Law("size", slope(widths, follower["input"]).negated(), S.Zero)
    elif step == 1 and chain and follower is None:  # W_0 z_0 adds up with random signs, and may shrink but not grow
        made = slope(widths, sizes["weight"] * sizes["input"]).negated().plus(float(layer.a - Rational(1, 2)))
        yield Law("size", made, Max(S.Zero, layer.a + layer.b - Rational(1, 2)))
    yield Law("cancellation", slope(widths, sizes["delta_output"] / rss(sizes)), S.Zero)
    if follower is not None:
        yield Law("nonlinearity", slope(widths, follower["delta_input"] / _scaled(widths, sizes, layer)), S.Zero)


def _gradient_laws(
    widths: Sequence[int], step: int, sizes: Mapping[str, Sizes], layer: Layer, trained: Expr, answer: Sizes | None
) -> Iterator[Law]:
    """Step 2, backward: g at initialisation, and once the readout has moved that of its update, where it is larger.

    All gradients shrink as the loss falls, which it does unequally at different widths. So later ones are taken
    relative to `answer`, the readout's in units of its n^-g, which shows how much is left.
    """
    if "gradient" not in sizes:
        return
    first = slope(widths, sizes["gradient"]).negated()
    if step == 1 or answer is None:
        yield Law("gradient", first, layer.g)
    elif layer.kind == "readout":
        yield Law("gradient", first, layer.g, opened=ANSWER)
    else:
        start, end = sorted((float(layer.g), float(trained)))  # at finite width in between
        gradient = slope(widths, sizes["gradient"] / answer).negated()
        yield Law("gradient", gradient, trained, float(np.clip(gradient.value, start, end)))


def _answer(widths: Sequence[int], table: Table, kinds: Mapping[str, Kind], g: Expr) -> Sizes | None:
    """The readout's gradient in units of n^-g, n relative to the smallest width; None where it was not measured."""
    for name, sizes in table.items():
        if kinds[name] == "readout" and "gradient" in sizes:
            return sizes["gradient"] * (np.asarray(widths, dtype=float) / widths[0])[:, None] ** float(g)
    return None


def _alignment_laws(
    widths: Sequence[int], sizes: Mapping[str, Sizes], layer: Layer, by_rank: str | None
) -> Iterator[Law]:
    """Step 3: alpha, omega and u as assumed."""
    assumed = {"alpha": layer.alpha, "omega": layer.omega, "u": layer.u}
    for quantity, measured in alignment_slopes(widths, sizes).items():
        yield Law(quantity, measured, assumed[quantity], opened=None if quantity == "omega" else by_rank)


def _result_laws(
    widths: Sequence[int],
    sizes: Mapping[str, Sizes],
    follower: Mapping[str, Sizes] | None,
    layer: Layer,
    own: Expr | None,
    implied: float,
) -> Iterator[Law]:
    """Step 4: the change as the theory has it, and as what was measured before implies."""
    change = follower["delta_input"] if follower is not None else _scaled(widths, sizes, layer)
    measured = slope(widths, change).negated()
    yield Law("delta_z", measured, layer.r, implied=implied)
    if own is not None:
        update = np.hypot(sizes["term_alpha"], sizes.get("term_u", 0.0))
        yield Law("largest", slope(widths, update).negated().plus(float(layer.a)), own)
    yield Law("consistent", measured, None, implied, implied)


def largest_updates(prescription: Prescription) -> list[Expr | None]:
    """t_l of every layer, RMS(n^-a (DW z + DW Dz)) = n^-t_l at the largest stable rate; c is not read (theory 5).

    t_l = max(0, t_{l+1} + omega_{l+1} - a_{l+1} - b_{l+1}), and where DW may not outgrow W no less than
    a + b - max(alpha, u - r_{l-1}). A larger rate makes l or a layer after it unstable; a smaller one wastes it.
    None where no rate was claimed to be the largest of its layer, as with one rate for all.
    """
    layers, chain = prescription.layers, prescription.chain
    if prescription.problem.global_rate or not any(layer.binding for layer in layers):
        return [None] * len(layers)
    least = least_residuals(
        [layer.a for layer in layers],
        [layer.b for layer in layers],
        [S.Zero, *(layer.omega for layer in layers[1:])],
        cross_entropy=chain.loss == "ce",
    )
    found: list[Expr | None] = [least[0]]
    for index in range(1, len(layers)):
        layer, target = layers[index], least[index]
        if chain.bounded[index]:
            target = max(target, layer.a + layer.b - max(layer.alpha, layer.u - layers[index - 1].r))  # type: ignore
        found.append(target)
    return found


def _scaled(widths: Sequence[int], sizes: Mapping[str, Sizes], layer: Layer) -> Sizes:
    """Dh, the change of W z with its multiplier n^-a (n relative to the smallest width)."""
    ratio = np.asarray(widths, dtype=float) / widths[0]
    return sizes["delta_output"] * (ratio ** -float(layer.a))[:, None]
