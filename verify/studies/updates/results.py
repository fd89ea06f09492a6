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
from typing import Literal

import numpy as np
from sympy import Expr

from derive.emit import layer_names
from derive.errors import shorten
from derive.words import Kind
from verify.checksums import UNREADABLE
from verify.files import file_stem
from verify.fit.forward import TOLERANCES, Slope, Verdict, judge, update_laws
from verify.studies.study import Answer, Part, Progress, Study, StudyError, Unit, head
from verify.studies.updates.conditions import Conditions, Updates
from verify.studies.updates.text import table
from verify.training.data import Corpus
from verify.values import Document, Entries

Exponent = Literal["s", "p", "alpha - s"]
NAMES: Mapping[str, Exponent] = {"delta_w": "s", "operator_norm": "p", "gain": "alpha - s"}
REASONS = "reasons.csv"

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
    for step, layers_of in updates.sizes.items():
        for name, sizes in layers_of.items():
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


def as_json(studies: Sequence[Trained], found: Sequence[Row]) -> Document:
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


def _row_json(row: Row) -> Document:
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


def file_name(unit: Unit) -> str:
    """Where an optimizer is kept in the study's folder."""
    return f"{file_stem(str(unit[0]))}.json"


@dataclass(frozen=True)
class UpdatesResult:
    """A finished study: every optimizer's conditions and part, and its exponents judged."""

    studies: tuple[Trained, ...]
    rows: tuple[Row, ...]


def _units(content: Entries) -> list[Unit]:
    return [(each["optimizer"],) for each in content["optimizers"]]


def _result(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Updates]], folder: Path) -> UpdatesResult:
    studies = tuple((wanted[unit], part) for unit, part in parts.items())
    found = [row for each, part in studies for row in rows(each, part.found)]
    return UpdatesResult(studies, tuple(explained(found, folder)))


def _train(conditions: Conditions, _: Unit, corpus: Corpus, progress: Progress) -> Updates:
    from verify.studies.updates.study import train

    return train(conditions, corpus, progress)


ANSWER = Answer(
    Conditions,
    "updates.json",
    _units,
    _result,
    lambda result: as_json(result.studies, result.rows),
    lambda result: table(result.studies, result.rows),
)
UPDATES = Study("updates", "verify.studies.updates.study", Updates, file_name, _train, 7, answer=ANSWER)
