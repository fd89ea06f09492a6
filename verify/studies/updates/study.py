"""The study behind `verify updates`: the size of every optimizer's updates against width, predicted and measured.

    RMS(U_l) = n^-s_l      ||U_l||_op = n^p_l      RMS(U_l z) / RMS(z) = n^(alpha_l - s_l)      DW_l = -n^-c_l U_l

At the first step DW is one update, so that these are laws of the rule alone; later it is the sum of several. Entrywise
rules have s, matrix rules p and alpha - s, since their s and alpha each depend on the gradient's rank (THEORY 3).
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sympy import Expr, Rational, S

from derive import __version__
from derive.emit import layer_names
from derive.errors import shorten
from derive.exponents import KINDS, Kind
from derive.registry import spelled
from derive.solve import Prescription, prescribe, solve_kinds
from verify.checksums import UNREADABLE, read_document, refused, write_document
from verify.fit.forward import TOLERANCES, Sizes, Slope, Verdict, judge, update_laws
from verify.provenance import device_name, loaded_code, today
from verify.studies.exponents.study import Result, StudyError, exponents
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

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """One "name: that, not this" for every entry in which a stored study differs."""
        ours = json.loads(json.dumps(asdict(self)))
        return [f"{name}: {stored.get(name)}, not {value}" for name, value in ours.items() if stored.get(name) != value]


@dataclass(frozen=True)
class Updates:
    """One optimizer's finished study: sizes[step][layer][quantity] is [width, seed], after the first and last step."""

    conditions: Conditions
    kinds: Mapping[str, Kind]
    sizes: Mapping[int, Mapping[str, Mapping[str, Sizes]]]
    diverged: tuple[str, ...]
    code: str
    device: str
    date: str

    @classmethod
    def of(cls, conditions: Conditions, result: Result) -> "Updates":
        """What is kept of a study that was trained under these conditions."""
        sizes = {
            step: {name: {each: of[each] for each in KEPT if each in of} for name, of in result.tables[step].items()}
            for step in (min(result.tables), max(result.tables))
        }
        kinds, diverged = result.runs[0].kinds, tuple(result.divergences)
        return cls(conditions, kinds, sizes, diverged, loaded_code(), device_name(), today())

    def write(self, path: Path) -> None:
        """Store as JSON with a checksum; what is not finite is null."""
        listed = {
            str(step): {
                name: {each: _listed(values) for each, values in sizes.items()} for name, sizes in table.items()
            }
            for step, table in self.sizes.items()
        }
        parts = {"conditions": asdict(self.conditions), "kinds": dict(self.kinds), "diverged": list(self.diverged)}
        made = {"code": self.code, "device": self.device, "date": self.date}
        write_document(path, {"schema": 1, **parts, **made, "sizes": listed})

    @classmethod
    def read(cls, path: Path, conditions: Conditions) -> "Updates":
        """What `write` stored; StudyError where that was made under other conditions, or is something else."""
        with refused(path, "a study of verify updates", "move it away, or give another --out", StudyError):
            content = read_document(path)
            stored, tables = content["conditions"], content["sizes"].items()
            sizes = {
                int(step): {name: {each: _array(values) for each, values in of.items()} for name, of in table.items()}
                for step, table in tables
            }
            found = cls(
                conditions,
                content["kinds"],
                sizes,
                tuple(content["diverged"]),
                content["code"],
                content["device"],
                content["date"],
            )
            differences = conditions.differences(stored)
        if differences:
            raise StudyError(
                f"{path.name} in --out was made with {'; '.join(differences)}; give another --out, or move that file"
            )
        return found


def _listed(values: Sizes) -> list[list[float | None]]:
    return [[float(f"{each:.7g}") if np.isfinite(each) else None for each in row] for row in values]


def _array(values: Any) -> Any:
    return np.array(values, dtype=float)


def train(conditions: Conditions, corpus: Corpus, progress: Callable[[], None] = lambda: None) -> Updates:
    """Train every width and seed; StudyError where all of them diverge in their first step."""
    sizes = {"context": conditions.context, "hidden_layers": conditions.hidden_layers, "vocabulary": corpus.vocabulary}
    config = Config(
        conditions.prescription(), conditions.base_width, conditions.base_rate, batch=conditions.batch, sizes=sizes
    )
    seeds = range(conditions.seeds)
    return Updates.of(conditions, exponents(config, conditions.widths, seeds, conditions.steps, corpus, progress))


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


def rows(updates: Updates) -> list[Row]:
    """Every exponent that holds at any rank of the gradient, judged; the rate's c is taken out of sizes of DW.

    Of rules for which the rank matters every exponent is shown, and open where the rank is not known.
    """
    prescription = updates.conditions.prescription()
    layers = dict(zip(layer_names(prescription), prescription.layers, strict=True))
    found = []
    for step, table in updates.sizes.items():
        for name, sizes in table.items():
            kind = updates.kinds[name]
            layer, rule = layers[kind], prescription.problem.optimizers[kind]
            with np.errstate(divide="ignore", invalid="ignore"):
                laws = list(update_laws(updates.conditions.widths, sizes, layer, rule, rank_known=step == 1))
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
                        Row(updates.conditions.optimizer, name, kind, step, shown, predicted, measured, verdict, reason)
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


def as_json(studies: Sequence[Updates], found: Sequence[Row]) -> dict[str, Any]:
    """The JSON contract of every verify command, with what is needed to repeat the study."""
    shared = asdict(studies[0].conditions)
    own = {name: shared.pop(name) for name in ("optimizer", "base_rate", "epsilon")}
    return {
        "schema": 1,
        "command": "updates",
        "version": __version__,
        "date": max(each.date for each in studies),
        "device": "; ".join(dict.fromkeys(each.device for each in studies)),
        "alignment": "full",
        "model": "mlp",
        **shared,
        "optimizers": [
            {name: getattr(each.conditions, name) for name in own}
            | {"code": each.code, "device": each.device, "date": each.date, "diverged": list(each.diverged)}
            for each in studies
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
