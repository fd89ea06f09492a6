"""The paper's findings beside ours, row by row, from the committed studies: `python -m paper_figures.claims`.

docs/claims.md is what it prints. A row holds where our interval says so at our scale, failed where it says the
opposite, and is not decided otherwise, or where nothing was trained for it.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from derive.emit import markdown_text
from paper_figures import networks
from paper_figures.paths import DATA, result
from paper_figures.transfer_results import TITLES, Transfer, less, transfer
from verify.fit.equivalence import MARGIN, Relation, relation
from verify.fit.optimum import Estimate, optimum, over_seeds
from verify.studies.epsilon.results import read_result
from verify.studies.transfer.headline import interval, transfers
from verify.studies.transfer.outcomes import WidthResult
from verify.sweeps.settings.named import UNTUNED as UNTUNED_CONSTANTS

Verdict = Literal["failed", "held", "not decided"]
DECIDED: dict[bool | None, Verdict] = {True: "held", False: "failed", None: "not decided"}
SCHEMES = ("SP", "muP")


@dataclass(frozen=True)
class Trained:
    """A transfer study, what it is called here, and why its answers may differ from the paper's."""

    name: str
    label: str
    why: str


FEW = "steps few, not 50,000"
UNTUNED = f"constants are 1, not tuned, and {FEW}"
TRAINED = (
    Trained("transfer_mlp", "MLP", UNTUNED),
    Trained("transfer_transformer", "transformer", UNTUNED),
    Trained("horizons_mlp", "MLP, new text at every step", UNTUNED),
    Trained("tuned_mlp", "MLP, constants tuned", FEW),
    Trained("factored_mlp", "MLP, new text at every step", UNTUNED),
    Trained("decay_1e-4_mlp", "MLP, weight decay 1e-4", UNTUNED),
)
"""In the order of the page; what is not there is passed over."""
HEAD = f"""# The paper's claims, one by one

Made by `python -m paper_figures.claims > docs/claims.md` from the committed studies; claims are those of Everett et al.
2024, [arXiv 2407.05872](https://arxiv.org/abs/2407.05872), in our words. Intervals are 95 % over seeds, differences
paired over seeds, in nats. Equal is an equivalence test: the whole interval lies within {MARGIN:g} nats of 0 (two
one-sided tests at 2.5 %); an interval that merely contains 0 decides nothing. Failed claims come first.

"""


@dataclass(frozen=True)
class Claim:
    """One row: what the paper says, what we have on it with its interval, the verdict and why."""

    paper: str
    ours: str
    found: str
    verdict: Verdict
    why: str = ""


def claims(data: Path = DATA) -> list[Claim]:
    """All rows, failed ones first, otherwise in the order of the paper's findings."""
    rows: list[Claim] = []
    for each in TRAINED:
        if not (data / each.name).exists():
            continue
        found = transfer(data, each.name)
        for steps in found.study.horizons:
            part = found.at(steps)
            given = (f"{each.label}, {steps:,} steps", each.why, part)
            rows += [*_drifts(*given), *_none_against_full(*given), *_sensitivity(*given), *_sp_against_mup(*given)]
            rows += [*_tuned_drifts(*given), *_factored(*given)]
    rows += [*_epsilon(data), *_alignments(data), *UNTRAINED]
    order: tuple[Verdict, ...] = ("failed", "held", "not decided")
    return sorted(rows, key=lambda row: order.index(row.verdict))


UNTRAINED = (
    Claim(
        "Zero-initialised queries and readout help SP and muP", "-", "-", "not decided", "`--zero-init`; not trained"
    ),
    Claim(
        "After 50,000 steps rates without alignment are lowest", "-", "-", "not decided", "1,500 steps at most so far"
    ),
)
"""What nothing was trained for."""


def _drifts(label: str, why: str, found: Transfer) -> Iterator[Claim]:
    """Finding 1, for the two alignments of the paper."""
    for optimizer in found.by_optimizer():
        for name in (f"{scheme} {kind}" for kind in ("full", "none") for scheme in SCHEMES):
            there = found.triple(optimizer, name)
            if there is None:
                continue
            verdict = DECIDED[transfers(there.drift)]
            yield Claim(
                "With rates per layer, of either alignment, the best rate transfers",
                f"drift of {TITLES[optimizer]}, {name}; {label}",
                interval(there.drift),
                verdict,
                "" if verdict == "held" else "wide interval" if verdict == "not decided" else why,
            )


def _tuned_drifts(label: str, why: str, found: Transfer) -> Iterator[Claim]:
    """Finding 1 with constants: the drifts of the paper's best settings."""
    low, high = -0.06, -0.02
    for optimizer in found.by_optimizer():
        for name in (f"{scheme} {kind}" for kind in ("full", "none") for scheme in SCHEMES):
            there = found.triple(optimizer, name)
            if there is None or there.setting.constants == UNTUNED_CONSTANTS:
                continue
            drift = there.drift
            inside, outside = low <= drift.low <= drift.high <= high, drift.high < low or drift.low > high
            yield Claim(
                "With tuned constants, best rates drift by -0.02 to -0.06",
                f"drift of {TITLES[optimizer]}, {name}; {label}",
                interval(drift),
                DECIDED[True if inside else False if outside else None],
                why if outside else "" if inside else "wide interval",
            )


def _none_against_full(label: str, why: str, found: Transfer) -> Iterator[Claim]:
    """Finding 2: full less none at the largest width."""
    for optimizer in found.by_optimizer():
        for scheme in SCHEMES:
            one, other = (largest(found, optimizer, f"{scheme} {kind}") for kind in ("full", "none"))
            if one and other:
                yield _signed(
                    "At the largest widths rates without alignment reach lower losses than those of full",
                    f"full less none, {TITLES[optimizer]}, {scheme}, width {one.width}; {label}",
                    less(one, other),
                    f"{why}; the lead of full falls as training goes on (figure 11)",
                )


def _sensitivity(label: str, why: str, found: Transfer) -> Iterator[Claim]:
    """Finding 2: what a rate twice or half as large costs, full less none."""
    for scheme in SCHEMES:
        one, other = (largest(found, "adam", f"{scheme} {kind}") for kind in ("full", "none"))
        if one and other:
            yield _signed(
                "Full alignment is more sensitive to the rate",
                f"nats lost at twice and half the best rate, full less none, Adam, {scheme}, width {one.width}; "
                f"{label}",
                over_seeds(_aside(one) - _aside(other)),
                why,
            )


def _sp_against_mup(label: str, why: str, found: Transfer) -> Iterator[Claim]:
    """Finding 3: muP less SP, both with rates per layer of full alignment."""
    for optimizer in found.by_optimizer():
        one, other = (largest(found, optimizer, f"{scheme} full") for scheme in ("muP", "SP"))
        if one and other:
            yield _signed(
                "SP with rates per layer ends lower than muP with its own",
                f"muP full less SP full, {TITLES[optimizer]}, width {one.width}; {label}",
                less(one, other),
                why,
            )


def _factored(label: str, _: str, found: Transfer) -> Iterator[Claim]:
    """The paper's stand-in for Adafactor."""
    for scheme in SCHEMES:
        one, other = (largest(found, name, f"{scheme} full") for name in ("adafactor", "adam-ps"))
        if one and other:
            said = less(one, other)
            known = {Relation.EQUAL: True, Relation.APART: False}.get(relation(said))
            yield Claim(
                "Adam with parameter scaling may stand for Adafactor",
                f"Adafactor less Adam + parameter scaling, {scheme} full, width {one.width}; {label}",
                interval(said),
                DECIDED[known],
                "" if known else "not equal within the margin",
            )


def _epsilon(data: Path) -> Iterator[Claim]:
    """Finding 4: what the largest constant epsilon costs, and what one per layer and atan2 do."""
    study = read_result(result(data, "epsilon", "float32"))
    scale = f"width {study.widths[-1]}, MLP, {study.study.conditions.steps} steps"
    largest = max(each.cost.setting.epsilon or 0.0 for each in study.onsets)
    for cost in (each.cost for each in study.onsets if each.cost.setting.epsilon == largest):
        yield _signed(
            "A constant epsilon costs loss from some width on",
            f"epsilon {largest:g}, {cost.setting.parameterization}; {scale}",
            cost.estimates[-1],
        )
    for cost in study.unscaled:
        if cost.setting.epsilon in (None, largest):
            treated = "atan2" if cost.setting.epsilon is None else f"epsilon {largest:g} per layer"
            yield Claim(
                "Epsilon per layer, or atan2, mends it",
                f"change of the cost from the base width, {treated}, {cost.setting.parameterization}; {scale}",
                interval(cost.changes[-1]),
                "held" if relation(cost.changes[-1]) is Relation.EQUAL else "not decided",
                "" if relation(cost.changes[-1]) is Relation.EQUAL else "not equal within the margin",
            )


def _alignments(data: Path) -> Iterator[Claim]:
    """Finding 7: the slopes across widths at the first and at the last measured step."""
    found = json.loads(result(data, "alignments_adam_sp", "measured.json").read_text(encoding="utf-8"))
    rows = {(row["layer"], row["quantity"], row["step"]): row for row in found["rows"]}
    last = max(step for _, _, step in rows)
    for layer in ("hidden.1", "readout"):
        for quantity in ("alpha", "omega"):
            first, end = (rows[layer, quantity, step] for step in (1, last))
            apart = end["low"] > first["high"] or end["high"] < first["low"]
            yield Claim(
                "Alignment changes much while training",
                f"{quantity} of {layer} at steps 1 and {last}, Adam, SP, MLP",
                " to ".join(f"{row['measured']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in (first, end)),
                "held" if apart else "not decided",
                "" if apart else f"slopes across widths hardly move in {last} steps, and intervals overlap",
            )


def _signed(paper: str, ours: str, found: Estimate, why: str = "") -> Claim:
    """A claim that a difference is above 0."""
    said = relation(found)
    if said is Relation.APART:
        verdict: Verdict = "held" if found.value > 0 else "failed"
        return Claim(paper, ours, interval(found), verdict, "" if verdict == "held" else why)
    if said is Relation.EQUAL:
        return Claim(paper, ours, interval(found), "failed", f"equal within {MARGIN:g} nats")
    if not np.isfinite(found.low):
        return Claim(paper, ours, "-", "not decided", "rates that it needs were not tried, or diverge")
    return Claim(paper, ours, interval(found), "not decided", "neither told apart nor equal within the margin")


def largest(found: Transfer, optimizer: str, name: str) -> WidthResult | None:
    """None where that setting, or the study's largest width of it, is not there."""
    there, last = found.triple(optimizer, name), max(each.width for each in found.study.records)
    return next((each for each in there.widths if each.width == last), None) if there else None


def _aside(found: WidthResult) -> np.ndarray:
    """(L(2 rho) + L(rho / 2)) / 2 - L(rho) of every seed at its best rate."""
    best = optimum(found.rates, found.losses)
    return (best.at(2 * best.best_rate) + best.at(best.best_rate / 2)) / 2 - best.best_losses


def text(rows: list[Claim], counts: dict[str, int]) -> str:
    """The page."""
    table = markdown_text(
        ["the paper", "here", "found", "verdict", "why"],
        [[row.paper, row.ours, row.found, row.verdict, row.why] for row in rows],
    )
    tally = ", ".join(
        f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in ("failed", "held", "not decided")
    )
    counted = "\n## Networks trained\n\nCounted by `python -m paper_figures.networks`.\n\n" + networks.text(counts)
    return f"{HEAD}{len(rows)} rows: {tally}.\n\n{table}{counted}"


if __name__ == "__main__":
    sys.stdout.write(text(claims(), networks.counted()))
