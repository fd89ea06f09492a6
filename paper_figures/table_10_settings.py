"""Table 10: the best losses at the largest width with the paper's settings as rows: raw and per layer, tuned or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from paper_figures.figure_13_epsilon_rates import STUDY as EPSILONS
from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import USUAL, Transfer, less, transfer
from verify.fit.equivalence import MARGIN, Relation, relation
from verify.studies.transfer.headline import interval
from verify.studies.transfer.outcomes import WidthResult

UNTUNED, TUNED = "horizons_mlp", "tuned_mlp"
SCHEMES = ("SP", "muP")


@dataclass(frozen=True)
class Row:
    """A setting of the paper by its number, and where its networks are."""

    number: str
    words: str
    study: str
    optimizer: str = "adam"
    alignment: str = "full"
    epsilon: tuple[float | None, str] = USUAL


ROWS = (
    Row("1", "one rate for all", UNTUNED, alignment="global"),
    Row("2", "one rate for all, constants tuned", TUNED, alignment="global"),
    Row("3", "per layer, full", UNTUNED),
    Row("4", "per layer, full, constants tuned", TUNED),
    Row("", "per layer, none", UNTUNED, alignment="none"),
    Row("5", "per layer, none, constants tuned", TUNED, alignment="none"),
    Row("6", "per layer, full, small epsilon per layer", EPSILONS, epsilon=(1e-8, "per layer")),
    Row("7", "per layer, full, atan2", EPSILONS, optimizer="adam-atan2"),
)
"""6 and 7 with constants 1: the paper tuned them too."""
Found = Mapping[tuple[str, str, int], WidthResult]
"""By setting's words, parameterization and steps."""
COLUMNS = ["networks", "no", "setting", "loss", "above the lowest"]


def item(data: Path) -> Item:
    """Every setting less the lowest of its parameterization and horizon, paired over seeds."""
    found = {name: transfer(data, name) for name in (UNTUNED, TUNED, EPSILONS) if (data / name).exists()}
    ends = endings(found)
    width = max(each.width for each in ends.values())
    horizons = sorted({steps for _, _, steps in ends})
    lowest = {
        (scheme, steps): min(
            (row for row in ROWS if (row.words, scheme, steps) in ends),
            key=lambda row: ends[row.words, scheme, steps].best_loss.value,
        )
        for scheme in SCHEMES
        for steps in horizons
    }
    rows = [_cells(row, ends, lowest[place], *place) for place in lowest for row in ROWS if (row.words, *place) in ends]
    starts = [index for index, row in enumerate(rows) if index and row[0] != rows[index - 1][0]]
    said = "; ".join(f"{scheme}, {steps:,} steps: {row.words}" for (scheme, steps), row in lowest.items())
    return Item(
        title="Best losses with the paper's settings",
        claim="At the largest widths rates per layer without alignment, constants tuned, end lowest.",
        measured=f"Lowest at width {width}: {said}.",
        scale=" ".join(each.scale() for each in found.values()),
        verdict=verdict([holds(ends, row, *place) for place, row in lowest.items()]),
        tables={"table_10_settings": Table(COLUMNS, rows, starts, [_note(width)])},
    )


def endings(found: Mapping[str, Transfer]) -> Found:
    """What every setting reached at the largest width of its study."""
    ends = {}
    for row in ROWS:
        if row.study not in found:
            continue
        study = found[row.study]
        last = max(each.width for each in study.study.records)
        for steps in study.study.horizons:
            for scheme in SCHEMES:
                there = study.at(steps).triple(row.optimizer, f"{scheme} {row.alignment}", row.epsilon)
                for each in there.widths if there else ():
                    if each.width == last:
                        ends[row.words, scheme, steps] = each
    return ends


def holds(ends: Found, lowest: Row, scheme: str, steps: int) -> bool | None:
    """Whether setting 5 is lowest; None where it cannot be told from what is."""
    five = next(row for row in ROWS if row.number == "5")
    if (five.words, scheme, steps) not in ends:
        return None
    if lowest is five:
        return True
    apart = relation(less(ends[five.words, scheme, steps], ends[lowest.words, scheme, steps])) is Relation.APART
    return False if apart else None


def _cells(row: Row, ends: Found, lowest: Row, scheme: str, steps: int) -> list[str]:
    found = ends[row.words, scheme, steps]
    above = "lowest" if lowest is row else interval(less(found, ends[lowest.words, scheme, steps]))
    return [f"{scheme}, {steps:,} steps", row.number or "-", row.words, f"{found.best_loss.value:.3f}", above]


def _note(width: int) -> str:
    return (
        f"Width {width}, Adam; held-out loss in nats, and how far above the lowest of its group, 95 % intervals "
        f"paired over seeds; the margin of equality is {MARGIN:g} nats. Settings 6 and 7 have constants 1 here."
    )
