"""The study behind `verify updates`: the size of every optimizer's updates against width, predicted and measured.

    RMS(U_l) = n^-s_l      ||U_l||_op = n^p_l      RMS(U_l z) / RMS(z) = n^(alpha_l - s_l)      DW_l = -n^-c_l U_l

At the first step DW is one update, so that these are laws of the rule alone; later it is the sum of several. Entrywise
rules have s, matrix rules p and alpha - s, since their s and alpha each depend on the gradient's rank
(docs/theory.md, section 3).
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sympy import Expr, Rational, S

from derive.emit import layer_names
from derive.errors import shorten
from derive.exponents import KINDS, Kind
from derive.registry import spelled
from derive.solve import Prescription, prescribe, solve_kinds
from verify.checksums import UNREADABLE
from verify.files import file_stem
from verify.fit.forward import TOLERANCES, Sizes, Slope, Verdict, judge, update_laws
from verify.studies.exponents.study import Result, exponents
from verify.studies.study import Part, Progress, Study, StudyError, Unit, head
from verify.training.data import Corpus
from verify.training.rules.transforms import base_epsilon, base_rate, check_trainable
from verify.training.trainer import Config

Exponent = Literal["s", "p", "alpha - s"]
NAMES: Mapping[str, Exponent] = {"delta_w": "s", "operator_norm": "p", "gain": "alpha - s"}
KEPT = ("delta_w", "operator_norm", "term_alpha", "input")
REASONS = "reasons.csv"
FEW = 8
"""Units per example from which a gradient's rank is as good as fixed. A batch of B changes the norm of sign(polar(m)),
the slowest to converge, by a factor 1 + O(B/n): its slope by 0.07 where widths start at 8 B, by 0.27 from B on."""


@dataclass(frozen=True)
class Conditions:
    """What was trained for one optimizer, under the prescription for full alignment.

    `base_rate` is that of every layer at the base width; `epsilon` is by layer kind, None where the rule has none.
    """

    optimizer: str
    parameterization: str
    widths: tuple[int, ...]
    seeds: int
    steps: int
    base_width: int
    base_rate: float
    epsilon: tuple[float | None, ...]
    batch: int
    context: int
    hidden_layers: int
    corpus: str

    @classmethod
    def of(cls, optimizer: str, parameterization: str, **shared: Any) -> "Conditions":
        """Those of that optimizer at its usual rate and epsilon; DeriveError where it cannot be trained."""
        prescription = prescribe(optimizer, parameterization)
        rules = prescription.problem.optimizers
        names = {kind: spelled(rules[kind]) for kind in KINDS}
        check_trainable(names)
        epsilon = tuple(base_epsilon(names[kind]) if rules[kind].has_epsilon else None for kind in KINDS)
        scheme, rate = prescription.problem.parameterization.name, base_rate(*names.values())
        return cls(prescription.optimizer_name, scheme, base_rate=rate, epsilon=epsilon, **shared)

    @property
    def rank(self) -> Rational | None:
        """beta of a gradient of rank n^beta: 0 where the smallest network has FEW units per example, else unknown.

        It is never known to be 1: what five steps of Newton and Schulz lift of the first gradient of 2048 examples of
        text is of rank 47, 84, 116 and 136 at widths 64 to 512, no more than of 256 examples.
        """
        return S.Zero if FEW * self.batch <= self.widths[0] else None

    def prescription(self) -> Prescription:
        """The largest stable rates under full alignment at the rank of the gradient, per layer kind."""
        problem = prescribe(self.optimizer, self.parameterization, "full").problem
        rank = self.rank
        if rank is not None:
            rows = {kind: row.at_rank(rank) for kind, row in problem.optimizers.items()}
            problem = replace(problem, optimizers=rows)
        return solve_kinds(problem)


@dataclass(frozen=True)
class Updates:
    """What one optimizer showed: sizes[step][layer][quantity] is [width, seed], after the first and the last step."""

    kinds: Mapping[str, Kind]
    diverged: tuple[str, ...]
    sizes: Mapping[int, Mapping[str, Mapping[str, Sizes]]]

    @classmethod
    def of(cls, result: Result) -> "Updates":
        """What is kept of a trained study."""
        sizes = {
            step: {name: {each: of[each] for each in KEPT if each in of} for name, of in result.tables[step].items()}
            for step in (min(result.tables), max(result.tables))
        }
        return cls(result.runs[0].kinds, tuple(result.divergences), sizes)


def train(conditions: Conditions, corpus: Corpus, progress: Progress = lambda _: None) -> Updates:
    """Train every width and seed; StudyError where all of them diverge in their first step."""
    sizes = {"context": conditions.context, "hidden_layers": conditions.hidden_layers, "vocabulary": corpus.vocabulary}
    config = Config(
        conditions.prescription(), conditions.base_width, conditions.base_rate, batch=conditions.batch, sizes=sizes
    )
    seeds = range(conditions.seeds)
    result = exponents(config, conditions.widths, seeds, conditions.steps, corpus, lambda: progress(1))
    return Updates.of(result)


def file_name(unit: Unit) -> str:
    """Where an optimizer is kept in the study's folder."""
    return f"{file_stem(str(unit[0]))}.json"


def _train(conditions: Conditions, _: Unit, corpus: Corpus, progress: Progress) -> Updates:
    return train(conditions, corpus, progress)


UPDATES = Study("updates", __name__, Updates, file_name, _train, digits=7)


Trained = tuple[Conditions, Part[Updates]]


@dataclass(frozen=True)
class Row:
    """One exponent of one layer's updates: RMS(U) = n^-s, ||U||_op = n^p, gain n^(alpha - s)."""

    optimizer: str
    layer: str
    kind: Kind
    step: int
    quantity: Exponent
    predicted: Expr
    measured: Slope
    verdict: Verdict
    reason: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What the rows of two steps have in common."""
        return self.optimizer, self.layer, self.quantity


def rows(conditions: Conditions, updates: Updates) -> list[Row]:
    """Every exponent that holds at any rank of the gradient, judged; the rate's c is taken out of sizes of DW.

    Of rules for which the rank matters every exponent is shown, and open where the rank is not known.
    """
    prescription = conditions.prescription()
    layers = dict(zip(layer_names(prescription), prescription.layers, strict=True))
    found = []
    for step, table in updates.sizes.items():
        for name, sizes in table.items():
            kind = updates.kinds[name]
            layer, rule = layers[kind], prescription.problem.optimizers[kind]
            with np.errstate(divide="ignore", invalid="ignore"):
                laws = list(update_laws(conditions.widths, sizes, layer, rule, rank_known=step == 1))
            for quantity, exponent, value, opened in laws:
                if opened is None or rule.needs_rank:
                    verdict, reason = _judged(exponent, float(value), TOLERANCES[quantity])
                    verdict, reason = (verdict, reason) if opened is None else ("open", opened)
                    # n^-x of DW is n^-(x - c) of U.
                    measured, predicted = exponent.plus(-float(layer.c)), value - layer.c
                    if quantity != "delta_w":
                        measured, predicted = measured.negated(), -predicted
                    shown = NAMES[quantity]
                    found.append(
                        Row(conditions.optimizer, name, kind, step, shown, predicted, measured, verdict, reason)
                    )
    return found


def _judged(measured: Slope, reference: float, tolerance: float) -> tuple[Verdict, str | None]:
    """Stricter than `judge`: the slope itself has to be within the tolerance, however wide its interval."""
    verdict, reason = judge(measured, reference, tolerance)
    outside = verdict == "holds" and abs(measured.value - reference) > tolerance
    return ("fails" if outside else verdict), reason


def explained(found: Sequence[Row], folder: Path) -> list[Row]:
    """The rows, those that fail with the reason that a person noted in the folder's reasons.csv.

    Its columns are optimizer, layer, quantity, step and reason; the first four may hold * for anything, and the first
    line that fits a row counts. StudyError for a file without these columns.
    """
    path = folder / REASONS
    if not path.exists():
        return list(found)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            noted = [
                ((line["optimizer"], line["layer"], line["quantity"], line["step"]), line["reason"])
                for line in csv.DictReader(file)
            ]
        if any(None in (*patterns, reason) for patterns, reason in noted):
            raise ValueError
    except UNREADABLE:
        raise StudyError(
            f"{shorten(str(path), 200)} cannot be read; write columns optimizer,layer,quantity,step,reason, or move it"
        ) from None

    def reason(row: Row) -> str | None:
        own = (*row.key, str(row.step))
        fitting = (text for patterns, text in noted if all(map(fnmatchcase, own, patterns)))
        return next(fitting, row.reason) if row.verdict == "fails" else row.reason

    return [replace(row, reason=reason(row)) for row in found]


def paired(found: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """(after the first step, after the last) of every exponent; the same row twice where there is one step."""
    steps = {row.step for row in found}
    last = {row.key: row for row in found if row.step == max(steps)}
    return ((row, last[row.key]) for row in found if row.step == min(steps))


def as_json(studies: Sequence[Trained], found: Sequence[Row]) -> dict[str, Any]:
    """The JSON contract of every verify command, with what is needed to repeat the study."""
    shared = asdict(studies[0][0])
    own = {name: shared.pop(name) for name in ("optimizer", "base_rate", "epsilon")}
    together = head("updates", [part for _, part in studies])
    del together["code"]  # it is said of every optimizer
    return {
        **together,
        "alignment": "full",
        "model": "mlp",
        **shared,
        "optimizers": [
            {name: getattr(conditions, name) for name in own}
            | {name: value for name, value in asdict(part.made).items() if name != "jax"}
            | {"diverged": list(part.found.diverged)}
            for conditions, part in studies
        ],
        "rows": [_row_json(row) for row in found],
    }


def _row_json(row: Row) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        "optimizer": row.optimizer,
        "layer": row.layer,
        "kind": row.kind,
        "step": row.step,
        "quantity": row.quantity,
        "predicted": str(row.predicted),
        "measured": finite(row.measured.value),
        "low": finite(row.measured.low),
        "high": finite(row.measured.high),
        "holds": {"holds": True, "fails": False}.get(row.verdict),
        "reason": row.reason,
    }
