"""The table of plants and the count of false alarms, as docs/plants.md has them."""

from collections.abc import Sequence

from benchmarks.plants.theories import DEFAULT_SEEDS
from benchmarks.plants.verdicts import Alarms, Verdict, interval


def report(plants: Sequence[Verdict], right: Sequence[Alarms]) -> str:
    """Markdown: a row per plant and optimizer, what was missed, and how often right theories were rejected."""
    lines = [
        "| plant | optimizer | seeds | verdict | by step | expected | by which row | three seeds |",
        "|---|---|---|---|---|---|---|---|",
        *map(row, plants),
        "",
        f"{len(plants)} plants, {sum(each.missed for each in plants)} missed.",
        _by_default(plants),
        "",
        "| right theory | seeds | groups | rejected | 95 % interval | can tell apart |",
        "|---|---|---|---|---|---|",
        *(_alarms(f"{each.optimizer}, {each.scheme}", [each]) for each in right if each.groups),
        _alarms("all by three seeds", [each for each in right if each.seeds == DEFAULT_SEEDS]),
    ]
    wrongly = [
        f"- {each.optimizer}, {each.scheme}, seeds {each.seeds * group} to {each.seeds * (group + 1) - 1}: {why}"
        for each in right
        for group, why in each.rejected.items()
    ]
    return "\n".join([*lines, *(["", "Rejected wrongly:", "", *wrongly] if wrongly else [])]) + "\n"


def row(verdict: Verdict) -> str:
    said = "rejected" if verdict.named else "passed"
    told, groups = verdict.told_by_default
    cells = (
        verdict.plant,
        verdict.optimizer,
        str(verdict.seeds or "-"),
        f"**missed** ({said})" if verdict.missed else said,
        ", ".join(verdict.named) or "-",
        verdict.expected,
        verdict.evidence or "-",
        f"{told} of {groups}" if groups else "-",
    )
    return f"| {' | '.join(cells)} |"


def _by_default(plants: Sequence[Verdict]) -> str:
    """What the default of three seeds tells, of the plants that were given more."""
    more = [each for each in plants if each.told_by_default[1] > 1]
    told, groups = (sum(each.told_by_default[index] for each in more) for index in (0, 1))
    short = [each for each in more if each.told_by_default[0] < each.told_by_default[1]]
    named = ", ".join(f"{each.plant} ({each.optimizer}, {each.told_by_default[0]})" for each in short)
    told_all = f"Of those off by 1/4, three seeds tell {told} of {groups} groups"
    return f"{told_all}; not all of: {named}." if named else f"{told_all}."


def _alarms(name: str, found: Sequence[Alarms]) -> str:
    rejected, groups = sum(len(each.rejected) for each in found), sum(each.groups for each in found)
    low, high = interval(rejected, groups)
    apart = f"{found[0].apart:.2f}" if len(found) == 1 else ""
    return f"| {name} | {found[0].seeds} | {groups} | {rejected} | {low:.1%} to {high:.1%} | {apart} |"
