"""The rows of a coordinate check: every prediction of `verify.model.check.check` beside its measurement."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import cast

import numpy as np

from derive.words import Kind
from verify.fit.forward import TOLERANCES, Quantity, Row, Slope, Table, Verdict, alignment_slopes, judge, shares, slope
from verify.model.prescription import ModelPrescription
from verify.model.rows import OpRow, ParameterRow
from verify.values import Leaf

DECIDING = ("size", "delta_z", "own change", "vector", "product size", "product change", "decay")
"""The quantities by which a set-up passes or fails; the others say why."""
WIDTH_OF = {"vector": 0.15, "product size": 0.15, "product change": 0.15, "decay": 0.1}
"""Tolerances of what only this check measures, as `fit.TOLERANCES`."""
PARTIAL = "shrinks, since its update aligns less than assumed, by n^{:.2f}"
STILL = "has not moved yet; give more --steps"
ZERO = "0 at every width"
ONE_SEED = "one seed has no interval; give --seeds 4"


def judged(
    answer: ModelPrescription,
    widths: Sequence[int],
    tables: Mapping[int, Table],
    after: Mapping[str, Fraction],
    entries: Mapping[str, Sequence[int]],
) -> list[Row]:
    """Every row of one set-up. `after` are the multipliers behind products of activations, and `entries` counts the
    numbers that a parameter's start was read from.

    What has not moved at a step is left to the later ones, and is open where it never moves.
    """
    rows: list[Row] = []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for step, table in tables.items():
            for op in answer.ops:
                rows += _op_rows(answer, op, widths, step, table[op.name])
            rows += _parameter_rows(answer, widths, step, table, entries)
            for name, exponent in after.items():
                rows += _product_rows(name, exponent, widths, step, table[name])
    return settled(rows, max(tables))


def settled(rows: Sequence[Row], last: int) -> list[Row]:
    """The rows, what has not moved at a step left to the later ones, and kept at the last where it moves at none."""
    moves = {(row.layer, row.quantity) for row in rows if row.reason != STILL}
    return [row for row in rows if row.reason != STILL or (row.step == last and (row.layer, row.quantity) not in moves)]


def _op_rows(
    answer: ModelPrescription, op: OpRow, widths: Sequence[int], step: int, sizes: Mapping[str, Leaf]
) -> Iterator[Row]:
    def row(quantity: Quantity, measured: Slope, value: Leaf, target: float, said: tuple[Verdict, str | None]) -> Row:
        return Row(op.name, op.kind, step, quantity, str(value), measured, target, *said)

    if step == 1 and op.size is not None:
        measured, said = measured_slope(widths, sizes["output"], float(op.after), ZERO)
        target = float(op.size)
        yield row("size", measured, op.size, target, said or said_of(measured, target, TOLERANCES["size"]))
    weight = next(row for row in answer.parameters if row.path == op.path)
    if weight.is_trained:
        update = weight.c + weight.s
        measured, still = measured_slope(widths, sizes["delta_w"], 0.0, STILL)
        said = still or judge(measured, float(update), TOLERANCES["delta_w"])
        yield row("delta_w", measured, update, float(update), said)
    if not op.terms:
        return  # nothing that is trained enters
    moves = bool((np.asarray(sizes["delta_w"]) > 0).any()) or not weight.is_trained
    aligned = alignment_slopes(widths, sizes) if op.kind != "embedding" and moves else {}
    for quantity, exponent in aligned.items():
        assumed = getattr(op, quantity)
        yield row(quantity, exponent, assumed, float(assumed), judge(exponent, float(assumed), TOLERANCES[quantity]))
    measured, said = measured_slope(widths, sizes["delta_output"], float(op.after), ZERO if moves else STILL)
    # A sum may go as its smallest term, or still as a mixture of all three.
    target = float(np.clip(measured.value, float(op.r), _expected(op, sizes))) if moves else float(op.r)
    if said is None:
        alpha = aligned.get("alpha")
        partial = alpha.plus(-float(op.alpha)).value if alpha is not None else 0.0
        said = said_of(measured, target, TOLERANCES["delta_z"], partial)
        free = answer.loss == "ce" and op.kind == "readout"
        if not free and _beyond(-measured.value, measured, TOLERANCES["delta_z"]):
            said = "fails", "grows with the width, which no activation may"
    yield row("delta_z", measured, op.r, target, said)


def _parameter_rows(
    answer: ModelPrescription,
    widths: Sequence[int],
    step: int,
    table: Table,
    entries: Mapping[str, Sequence[int]],
) -> Iterator[Row]:
    """Starts and changes of the parameters in no dense op, and how every parameter decays."""
    dense = {op.path for op in answer.ops}
    for each in answer.parameters:
        if not each.is_trained:
            continue
        sizes = table[f"parameter {each.path}"]

        def row(quantity: str, measured: Slope, value: Leaf, said: tuple[Verdict, str | None]) -> Row:
            name, kind = f"parameter {each.path}", each.role  # noqa: B023
            return Row(
                name, cast("Kind", kind), step, cast("Quantity", quantity), str(value), measured, float(value), *said
            )

        if step == 1 and np.isfinite(decay := sizes["decay"]).all() and (decay > 0).any():
            wanted = each.c + each.decay
            measured, said = measured_slope(widths, decay, 0.0, ZERO)
            yield row("decay", measured, wanted, said or said_of(measured, float(wanted), WIDTH_OF["decay"]))
        if each.path in dense:
            continue
        if step == 1:
            measured, said = measured_slope(widths, sizes["weight"], 0.0, ZERO)
            measured = widened(measured, widths, entries.get(each.path, ()))
            yield row("size", measured, each.b, said or said_of(measured, float(each.b), TOLERANCES["size"]))
        measured, said = measured_slope(widths, sizes["delta_w"], 0.0, STILL)
        yield row("vector", measured, each.c + each.s, said or _of_vector(measured, each))


def _of_vector(measured: Slope, row: ParameterRow) -> tuple[Verdict, str | None]:
    """Its change by the theory's c + s, and whatever that is no larger than n^-b, the size that it starts as."""
    if _beyond(float(row.b) - measured.value, measured, WIDTH_OF["vector"]):
        return "fails", f"outgrows what it starts as, n^-{row.b}"
    return said_of(measured, float(row.c + row.s), WIDTH_OF["vector"])


def _product_rows(
    name: str, after: Fraction, widths: Sequence[int], step: int, sizes: Mapping[str, Leaf]
) -> Iterator[Row]:
    """A product of activations whose sum grows, with the multipliers behind it, may not grow."""
    for quantity, size in (("product size", "output"), ("product change", "delta_output")):
        if quantity == "product size" and step > 1:
            continue
        measured, said = measured_slope(widths, sizes[size], float(after), ZERO if size == "output" else STILL)
        if said is None:
            said = said_of(measured, max(0.0, measured.value), WIDTH_OF[quantity])
        kind: Kind = "hidden"
        yield Row(name, kind, step, cast("Quantity", quantity), "0", measured, 0.0, *said)


def _expected(op: OpRow, sizes: Mapping[str, Leaf]) -> float:
    """r from the predicted exponents of the three terms, averaged by their measured shares of |Dh|^2.

    See docs/theory.md, section 8.
    """
    return sum(share * float(op.terms[term]) for term, share in shares(sizes).items() if term in op.terms and share > 0)


def measured_slope(
    widths: Sequence[int], sizes: Leaf, after: float, zero: str, axis: str = "width"
) -> tuple[Slope, tuple[Verdict, str | None] | None]:
    """The exponent x of size n^-x, and a verdict where no slope decides: zeros, what has diverged, one seed."""
    sizes = np.asarray(sizes, float)
    measured = slope(widths, sizes).negated().plus(after)
    if (sizes == 0).all():
        return measured, (("open", STILL) if zero == STILL else ("holds", ZERO))
    if not np.isfinite(sizes).all():
        return measured, ("fails", "not finite: diverged")
    if (sizes == 0).any():
        moving = (sizes > 0).all(axis=0)
        if moving.sum() < 2:
            none = [width for width, each in zip(widths, sizes, strict=True) if (each == 0).all()]
            if none and len(none) < len(widths) and sizes.shape[1] > 1:
                return measured, ("fails", f"0 at {axis} {none[0]} and not at every {axis}")
            return measured, ("open", "0 in some seeds; give more seeds")
        measured = slope(widths, sizes[:, moving]).negated().plus(after)
    return measured, (("open", ONE_SEED) if sizes.shape[1] == 1 else None)


def widened(measured: Slope, widths: Sequence[int], entries: Sequence[int]) -> Slope:
    """The interval with the chance in a size that was read from so few entries: 2 sqrt(sum (x - mean)^2 / 2N) / Sxx."""
    if not entries or not all(entries):
        return measured
    x = np.log(np.asarray(widths, float))
    centred = x - x.mean()
    half = 2 * float(np.sqrt(np.sum(centred**2 / (2 * np.asarray(entries))))) / float(centred @ centred)
    return replace(
        measured, low=min(measured.low, measured.value - half), high=max(measured.high, measured.value + half)
    )


def _half(measured: Slope) -> float:
    half = measured.high - measured.value
    return half if np.isfinite(half) else 0.0


def _beyond(distance: float, measured: Slope, tolerance: float) -> bool:
    """Whether that lies beyond the tolerance and the interval."""
    return distance > tolerance + _half(measured)


def said_of(measured: Slope, value: float, tolerance: float, partial: float = 0.0) -> tuple[Verdict, str | None]:
    """As `fit.judge`, but an interval too wide to confirm may still refute.

    A change that shrinks is open where its update aligns that much less than was assumed (`partial`, the measured less
    the assumed alpha): then the assumption fails, in its own row, and nothing grows.
    """
    verdict, reason = judge(measured, value, tolerance)
    away = _beyond(abs(measured.value - value), measured, tolerance)
    if away and measured.value > value and partial < -tolerance:
        return "open", PARTIAL.format(partial)
    return ("fails", reason) if away else (verdict, reason)
