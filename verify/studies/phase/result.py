"""What a study of the (c_hidden, c_readout) plane shows: r predicted three ways beside r_hat measured.

    RMS(Dz_l) = n^-r_l      r_hat = -(slope of log RMS(Dz_l) against log n)

- full: section 4's recursion with full alignment, exact.
- measured: the same with alpha, omega, u measured at the prescribed point, as slopes across the same networks. One set
  of alignments for the whole plane is what a user has who measures once and asks where else training would be stable,
  and at that point every term is of order 1, so that each alignment is measured where its term counts.
- finite: the three terms of every layer, as large as measured at the smallest width and each growing with the exponent
  that the recursion gives it, added as squares; then the slope of the sum over the widths trained. The recursion takes
  the fastest of the three, which rules only once the width is large enough (docs/theory.md, section 8).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Literal, get_args

import numpy as np
from sympy import Expr, Rational, S

from derive.alignments import QUANTITIES, Alignment, Ratios
from derive.propagation import Problem
from derive.solve import residuals_at
from verify.fit.forward import TOLERANCES, Slope, Table, alignment_slopes, slope
from verify.studies.content import plain
from verify.studies.phase.plane import Conditions, Network, Point
from verify.studies.study import Part, head
from verify.values import Document

Prediction = Literal["full", "measured", "finite"]
Region = Literal["unstable", "stable", "frozen"]
PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
TOLERANCE = TOLERANCES["delta_z"]
DIGITS = 4
KEPT_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """r of one layer at one point after one step: predicted three ways, None where alignments were not measured.

    Beside r_hat what may be behind it: `update`, the exponent of RMS(DW_l) = n^-update, in theory c_l + s_l, and the
    layer's `alpha` at this point.
    """

    step: int
    layer: str
    point: Point
    full: Expr
    measured_alignment: Expr | None
    finite: float | None
    measured: Slope
    update: float
    alpha: float
    reason: str | None = None

    def predicted(self, prediction: Prediction) -> Expr | float | None:
        """r by that prediction."""
        return {"full": self.full, "measured": self.measured_alignment, "finite": self.finite}[prediction]

    def holds(self, prediction: Prediction) -> bool | None:
        """Whether |r_hat - r| is within the tolerance; None where one of them is missing."""
        value = self.predicted(prediction)
        if value is None or not np.isfinite(self.measured.value):
            return None
        return abs(self.measured.value - float(value)) <= TOLERANCE


def region(r: float) -> Region | None:
    """What becomes of the layer's change as the width grows, r within the tolerance of 0 counting as 0."""
    if not np.isfinite(r):
        return None
    return "unstable" if r < -TOLERANCE else "frozen" if r > TOLERANCE else "stable"


@dataclass(frozen=True)
class PhaseResult:
    """All widths of a study; alignments[step][layer][quantity] are those at the prescribed point."""

    conditions: Conditions
    parts: tuple[Part[Network], ...]
    alignments: Mapping[int, Mapping[str, Mapping[str, Slope]]]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, conditions: Conditions, parts: Sequence[Part[Network]]) -> "PhaseResult":
        """What these networks of growing width show."""
        networks = [each.found for each in parts]
        widths = [network.width for network in networks]
        alignments, rows = {}, []
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # what is not finite is said in its row
            for step in conditions.marks:
                tables = [_at(networks, step, index) for index in range(len(conditions.points))]
                reference = tables[conditions.points.index(conditions.prescribed)]
                alignments[step] = {layer: alignment_slopes(widths, sizes) for layer, sizes in reference.items()}
                rows += _rows(conditions, widths, step, tables, alignments[step])
        diverged = _divergences(conditions, networks)
        rows = [replace(row, reason=diverged.get((row.step, row.point), row.reason)) for row in rows]
        return cls(conditions, tuple(parts), alignments, tuple(rows))

    @property
    def widths(self) -> list[int]:
        """Growing."""
        return [each.found.width for each in self.parts]

    @property
    def divergences(self) -> list[str]:
        """One line per network that diverged."""
        return [
            f"width {each.found.width}, c_hidden {hidden}, c_readout {readout}, seed {seed}: the loss was not finite "
            f"at step {int(np.argmin(np.isfinite(curve))) + 1}"
            for each in self.parts
            for (hidden, readout), curves in zip(self.conditions.points, each.found.losses, strict=True)
            for seed, curve in enumerate(curves)
            if not np.isfinite(curve).all()
        ]


def _at(networks: Sequence[Network], step: int, index: int) -> Table:
    """Sizes [width, seed] of one point after one step."""
    return {
        layer: {name: np.stack([network.sizes[step][layer][name][index] for network in networks]) for name in sizes}
        for layer, sizes in networks[0].sizes[step].items()
    }


def _divergences(conditions: Conditions, networks: Sequence[Network]) -> dict[tuple[int, Point], str]:
    """Why a point has no measured r, by (step, point): its first width at which a loss was not finite by then."""
    found: dict[tuple[int, Point], str] = {}
    for step in conditions.marks:
        for index, point in enumerate(conditions.points):
            for network in networks:
                if not np.isfinite(network.losses[index, :, :step]).all():
                    found.setdefault((step, point), f"the loss was not finite at width {network.width}")
    return found


def _rows(
    conditions: Conditions,
    widths: Sequence[int],
    step: int,
    tables: Sequence[Table],
    alignments: Mapping[str, Mapping[str, Slope]],
) -> Iterator[Row]:
    problem = conditions.prescription().problem
    aligned = alignment_measured(alignments)
    own = None if aligned is None else replace(problem, alignment=aligned)
    for point, table in zip(conditions.points, tables, strict=True):
        names, c = list(table), conditions.exponents(point)
        full = residuals_at(problem, c)
        measured = None if own is None else residuals_at(own, c)
        finite = None if own is None else finite_width(own, c, widths, table)
        # n^-a of the logits, whose change is measured before the multiplier.
        multiplier = (np.asarray(widths, dtype=float) / widths[0]) ** -float(problem.parameterization.a[-1])
        changes = {names[-2]: table[names[-1]]["delta_input"], names[-1]: table[names[-1]]["delta_output"]}
        changes[names[-1]] = changes[names[-1]] * multiplier[:, None]
        for index, (layer, sizes) in zip((-2, -1), changes.items(), strict=True):
            r_hat = slope(widths, sizes).negated()
            missing = None if np.isfinite(r_hat.value) else "not finite: zero or overflown"
            yield Row(
                *(step, layer, point, full[index], None if measured is None else measured[index]),
                *(None if finite is None else finite[index], r_hat),
                update=-slope(widths, table[layer]["delta_w"]).value,
                alpha=alignment_slopes(widths, table[layer])["alpha"].value,
                reason=missing,
            )


def alignment_measured(slopes: Mapping[str, Mapping[str, Slope]]) -> Alignment | None:
    """The alignments as `derive` takes them, to four digits and at most 1; None where one is not finite."""
    ratios: list[Ratios] = []
    for found in list(slopes.values())[1:]:
        values = [found[quantity].value for quantity in QUANTITIES]  # type: ignore[index]
        if not np.isfinite(values).all():
            return None
        ratios.append(Ratios(*(min(Rational(f"{value:.{DIGITS}f}"), S.One) for value in values)))
    layers = dict(enumerate(ratios[:-1]))
    return Alignment("measured", layers[0], ratios[-1], layers, len(layers))


def finite_width(problem: Problem, c: Sequence[Expr], widths: Sequence[int], table: Table) -> list[float]:
    """r of every layer over these widths: the slope of the sum of its terms, not the exponent of the fastest.

        Dh_l(n)^2 = sum over alpha, omega, u of (term(n_1) (n / n_1)^-e)^2
        e = d_l - alpha_l,   a_l + b_l - omega_l and d_l - u_l, the last two times the growth of Dz_{l-1}

    with the terms measured at the smallest width n_1, which at the base width are the same for every point.
    """
    chain = problem.chain()
    ratio = np.asarray(widths, dtype=float) / widths[0]
    growth, found = np.ones(len(widths)), []
    for index, (sizes, d) in enumerate(zip(table.values(), problem.changes(c), strict=True)):
        if index == 0:
            growth = ratio ** -float(d)
        else:
            total = chain.a[index] + chain.b[index]
            terms = {
                "term_alpha": ratio ** -float(d - chain.alpha[index]),
                "term_omega": growth * ratio ** -float(total - chain.omega[index]),
                "term_u": growth * ratio ** -float(d - chain.u[index]),
            }
            squares = sum(np.mean(sizes[name][0] ** 2) * term**2 for name, term in terms.items())
            growth = np.sqrt(squares / squares[0])  # type: ignore[index]
        found.append(-slope(widths, growth[:, None]).value)
    return found


@dataclass(frozen=True)
class Agreement:
    """How one prediction did over the plane: points within the tolerance, in the right region, and the median error."""

    step: int
    layer: str
    prediction: Prediction
    points: int
    within: int
    same_region: int
    median_error: float


def agreements(rows: Sequence[Row]) -> list[Agreement]:
    """One per step, layer and prediction, over the points where both r and r_hat are known."""
    found = []
    for step, layer in dict.fromkeys((row.step, row.layer) for row in rows):
        for prediction in PREDICTIONS:
            own = [row for row in rows if (row.step, row.layer) == (step, layer) and row.holds(prediction) is not None]
            pairs: list[tuple[float, float]] = [(float(row.predicted(prediction)), row.measured.value) for row in own]  # type: ignore[arg-type]
            found.append(
                Agreement(
                    *(step, layer, prediction, len(own)),
                    within=sum(bool(row.holds(prediction)) for row in own),
                    same_region=sum(region(r) == region(r_hat) for r, r_hat in pairs),
                    median_error=median(abs(r - r_hat) for r, r_hat in pairs) if pairs else float("nan"),
                )
            )
    return found


def as_json(study: PhaseResult) -> Document:
    """The JSON contract of every verify command, with what is needed to repeat the study."""
    conditions = asdict(study.conditions)
    del conditions["points"]
    return {
        **head("phase", study.parts),
        "model": "mlp",
        **conditions,
        "widths": study.widths,
        "prescribed": [str(c) for c in study.conditions.prescription().c],
        "tolerance": TOLERANCE,
        "alignments": [
            {"step": step, "layer": layer, "quantity": name}
            | plain({"measured": each.value, "low": each.low, "high": each.high}, KEPT_DIGITS)
            for step, layers in study.alignments.items()
            for layer, found in layers.items()
            for name, each in found.items()
        ],
        "agreement": [plain(each, KEPT_DIGITS) for each in agreements(study.rows)],
        "diverged": study.divergences,
        "rows": [_row_json(row) for row in study.rows],
    }


def _row_json(row: Row) -> Document:
    def exact(value: Expr | None) -> str | None:
        return None if value is None else str(value)

    return plain(
        {
            "step": row.step,
            "layer": row.layer,
            "quantity": "delta_z",
            "c_hidden": row.point[0],
            "c_readout": row.point[1],
            "predicted": exact(row.full),
            "predicted_measured": exact(row.measured_alignment),
            "predicted_finite": row.finite,
            "measured": row.measured.value,
            "low": row.measured.low,
            "high": row.measured.high,
            "holds": row.holds("full"),
            "holds_measured": row.holds("measured"),
            "holds_finite": row.holds("finite"),
            "region": region(row.measured.value),
            "update": row.update,
            "alpha": row.alpha,
            "reason": row.reason,
        },
        KEPT_DIGITS,
    )
