"""What a transfer study answers, in sentences computed from its numbers, and how settings and numbers are written."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from verify.fit.equivalence import MARGIN, Relation, relation
from verify.fit.forward import WIDEST_INTERVAL, Slope
from verify.fit.optimum import Estimate
from verify.studies.transfer.analysis import Comparison, Ranked
from verify.studies.transfer.outcomes import SettingResult
from verify.sweeps.axes import AXES
from verify.sweeps.records import GLOBAL, Setting, Study

SMALL_DRIFT = 0.1
"""|drift| up to which a best rate counts as transferring: 7 % per doubling, less than any grid of rates resolves."""

EARLIER: tuple[tuple[str, Callable[[Setting], bool]], ...] = (
    ("one raw rate for all layers", lambda setting: setting.alignment == GLOBAL),
    ("the alignment assumed before (prior)", lambda setting: setting.alignment == "prior"),
    ("muP alone", lambda setting: setting.parameterization == "muP"),
)
"""What a study would have been restricted to under earlier assumptions, and the settings that remain."""


@dataclass(frozen=True)
class Group:
    """Settings that train alike: the result that stands for all, its own name, and the settings."""

    result: SettingResult
    name: str
    members: tuple[Setting, ...]

    @property
    def label(self) -> str:
        """All members without the optimizer, the trained one first: "SP none = NTK global/none"."""
        return together(self.members)


def short(setting: Setting) -> str:
    """The setting's name without what all of a comparison share, optimizer and horizon: "muP full"."""
    name = setting.name.removeprefix(f"{setting.optimizer} ").removesuffix(f", {setting.steps} steps")
    return name if setting.across is None else name.removesuffix(f", {setting.across.label}")


def variant(setting: Setting) -> str:
    """The alignment, with the constants where they are not all 1."""
    return short(setting).removeprefix(f"{setting.parameterization} ")


def together(settings: Sequence[Setting]) -> str:
    """Settings that train alike as one text: "SP none = NTK global/none"."""
    schemes = dict.fromkeys(setting.parameterization for setting in settings)
    alike = {scheme: [variant(each) for each in settings if each.parameterization == scheme] for scheme in schemes}
    return " = ".join(f"{scheme} {'/'.join(variants)}" for scheme, variants in alike.items())


def distinct(results: Iterable[SettingResult]) -> list[Group]:
    """The settings that train alike, together, in the order of the results."""
    found: dict[str, list[SettingResult]] = {}
    for each in results:
        found.setdefault(each.trained_as or each.setting.name, []).append(each)
    groups: list[Group] = []
    for name, members in found.items():
        members.sort(key=lambda each: each.trained_as is not None)
        groups.append(Group(members[0], name, tuple(each.setting for each in members)))
    return groups


def interval(found: Estimate | Slope) -> str:
    """A value with its interval, with as many decimals as the interval supports: "0.412 [0.391, 0.433]"."""
    half = (found.high - found.low) / 2
    if not math.isfinite(half):
        return f"{found.value:.3f}"
    decimals = min(max(1 - math.floor(math.log10(half)), 2), 4) if half > 0 else 4
    value, low, high = (f"{round(each, decimals) + 0.0:.{decimals}f}" for each in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"  # adding 0 turns -0.0 into 0.0


def transfers(drift: Slope) -> bool | None:
    """Whether a best rate transfers: its drift's interval contains 0, or |drift| <= SMALL_DRIFT.

    None, undecided, where there is no interval, or one around 0 so wide that it does not tell 0 from 1/2.
    """
    if not math.isfinite(drift.high - drift.low):
        return None
    if drift.low <= 0 <= drift.high:
        return True if drift.high - drift.low <= 2 * WIDEST_INTERVAL else None
    return abs(drift.value) <= SMALL_DRIFT


def overview(study: Study, results: Sequence[SettingResult], compared: Sequence[Comparison]) -> str:
    """The size of the study, and the lowest loss of every optimizer, in two or three sentences."""
    trained = {study.source(key) for key in study.settings}
    copies = len(study.settings) - len(trained)
    sizes = [
        f"{_count(len(study.settings), 'setting')}"
        + (f" ({len(trained)} distinct, {copies} equal to one of those step for step)" if copies else ""),
        _sizes(study, len({found.width for each in results for found in each.widths})),
        _count(len({record.seed for record in study.records}), "seed"),
        f"{_count(len(study.records), 'run')}, {sum(1 for _ in study.divergences())} of them diverged",
    ]
    text = f"{', '.join(sizes)}."
    if len(study.records) < study.planned:
        text += f" In progress: {len(study.records)} of the {study.planned} runs planned so far are finished."
    if waiting := sum(not each.widths for each in results):
        text += f" {_count(waiting, 'setting')} without a run yet."
    best = [(each, each.ranking[0]) for each in compared if math.isfinite(each.ranking[0].best_loss.value)]
    best.sort(key=lambda entry: entry[1].best_loss.value)
    lowest = (
        f"{first.setting.name} {interval(first.best_loss)} nats at {each.axis} {each.width}" for each, first in best
    )
    return f"{text} Lowest losses: {'; '.join(lowest)}." if best else text


def answers(comparison: Comparison, results: Sequence[SettingResult]) -> list[tuple[str, str]]:
    """(question, answer) for one optimizer, from its comparison and the results of its settings."""
    groups = distinct(results)
    found = [
        ("Lowest loss", _lowest(comparison, groups)),
        ("Transfer", _transfer(groups)),
        ("Divergence", _divergence(groups)),
        ("Earlier assumptions", _earlier(comparison, groups)),
    ]
    return [(question, answer) for question, answer in found if answer]


def _lowest(comparison: Comparison, groups: Sequence[Group]) -> str:
    entries = _by_group(comparison.ranking, groups)
    known = [(group, entry) for group, entry in entries if math.isfinite(entry.best_loss.value)]
    if not known:
        return f"No setting has a best loss at {comparison.axis} {comparison.width} yet."
    (best, first), others = known[0], known[1:]
    text = f"At {comparison.axis} {comparison.width}, {best.label} ends lowest, at {interval(first.best_loss)} nats."
    if others:
        paired = " (paired over seeds)" if math.isfinite(others[0][1].difference.low) else ""
        text += f" Next is {others[0][0].label}, {interval(others[0][1].difference)} nats higher{paired}."
    for wanted, says in ((Relation.EQUAL, f"Equal to it within {MARGIN:g} nats"), (Relation.OPEN, "Not decided")):
        alike = [group.label for group, entry in others if relation(entry.difference) is wanted]
        text += f" {says}: {'; '.join(alike)}." if alike else ""
    if others[1:]:
        text += f" Last is {others[-1][0].label}, {interval(others[-1][1].difference)} nats higher."
    if missing := len(entries) - len(known):
        text += f" Without a best loss there: {missing} of {_count(len(entries), 'distinct setting')}."
    return text


def _transfer(groups: Sequence[Group]) -> str:
    """Which best rates transfer and which do not, by size of the drift."""
    ordered = sorted(groups, key=lambda group: abs(group.result.drift.value))
    parts: list[str] = []
    for verdict, says in ((True, "transfers for"), (False, "does not transfer for"), (None, "is undecided for")):
        alike = [group for group in ordered if transfers(group.result.drift) is verdict and group.result.widths]
        names = (
            f"{group.label} ({interval(group.result.drift)})"
            if math.isfinite(group.result.drift.value)
            else group.label
            for group in alike
        )
        if alike:
            parts.append(f"{says} {'; '.join(names)}")
    return f"The best base rate (drift with interval) {'. It '.join(parts)}." if parts else ""


def _divergence(groups: Sequence[Group]) -> str:
    failing = [
        f"{group.label} from {group.result.axis} {group.result.divergence_width}"
        for group in groups
        if group.result.divergence_width is not None
    ]
    axis = next((group.result.axis for group in groups), "width")
    runs = sum(int((~np.isnan(found.losses)).sum()) for group in groups for found in group.result.widths)
    diverged = sum(found.diverged for group in groups for found in group.result.widths)
    if not runs:
        return ""
    text = f"{diverged} of {_count(runs, 'run')} diverged." if diverged else f"None of {_count(runs, 'run')} diverged."
    if failing:
        text += f" At the smallest {axis}'s best rate, training fails for {'; '.join(failing)}."
    elif diverged:
        text += f" At the smallest {axis}'s best rate, no {axis} fails in any setting."
    partly = [
        group.label
        for group in groups
        if group.result.divergence_width is None and any(found.lost_diverged for found in group.result.widths)
    ]
    if partly:
        text += f" Right at or beside that rate, some seeds diverge for {'; '.join(partly)}."
    return text


def _earlier(comparison: Comparison, groups: Sequence[Group]) -> str:
    """What the best setting that each earlier assumption allows loses against the best of all."""
    labels = {setting.name: group.label for group in groups for setting in group.members}
    known = [entry for entry in comparison.ranking if math.isfinite(entry.best_loss.value)]
    parts: list[str] = []
    for assumption, allows in EARLIER:
        allowed = [entry for entry in known if allows(entry.setting)]
        if allowed and len(allowed) < len(known):
            best = allowed[0]
            same = labels[best.setting.name] == labels[known[0].setting.name]
            cost = "the best of all itself" if same else f"{interval(best.difference)} nats above the best of all"
            parts.append(f"With {assumption}, the best is {short(best.setting)}, {cost}.")
    return " ".join(parts)


def _by_group(ranking: Sequence[Ranked], groups: Sequence[Group]) -> list[tuple[Group, Ranked]]:
    """Every group once, in the order of the ranking."""
    of = {setting.name: group for group in groups for setting in group.members}
    found: dict[str, tuple[Group, Ranked]] = {}
    for entry in ranking:
        group = of[entry.setting.name]
        found.setdefault(group.name, (group, entry))
    return list(found.values())


def _sizes(study: Study, count: int) -> str:
    along = AXES[study.conditions.axis]
    return f"{count} {along.one if count == 1 else along.many}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
