"""Figure 10: what adopted runs of the accelerator benchmark found, by device: exponents at large widths, transfer.

Read from benchmarks/results/<device>/, where `python -m benchmarks.accelerator --adopt FOLDER` puts them; a device
whose folder is taken away is shown no more. Exponents are judged from the stored sizes by the rule of today.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from derive.parameterizations import parameterization
from paper_figures.items import NONE, Cell, Item, Table, verdict
from paper_figures.paths import ADOPTED
from paper_figures.table_7_measured_exponents import QUANTITIES, VERDICTS
from verify.fit.four_steps import rejected_by
from verify.fit.judging import Row, row_json
from verify.studies.exponents.measured import Measured, judged_again
from verify.studies.transfer.plots import COLOURS, LOOK, plain_numbers

WIDTHS, STUDY = "2_widths.json", "6_study.json"
SHOWN = ("alpha", "omega", "u", "delta_w", "delta_z")
ALIGNMENTS = {"full": ("-", "rates of full alignment"), "global": ("--", "one raw rate")}
EDGE = "A best rate at the edge is the end of what was tried, not an optimum; the picture leaves it out."
Found = Mapping[str, Mapping[str, Any]]
"""By device, the content of a step's file."""


def item(data: Path) -> Item:  # noqa: ARG001
    """Every adopted device: exponents after the first step, and the best rate and loss of every width."""
    return item_of(ADOPTED)


def item_of(folder: Path) -> Item:
    """The same from any folder of adopted runs."""
    widths, studies = _read(folder, WIDTHS), _read(folder, STUDY)
    series = [each for device, kept in widths.items() for each in _series(device, kept)]
    first = [(each, row_json(row)) for each in series for row in each.rows if row.step == 1 and row.quantity in SHOWN]
    changes = [(each, row) for each, row in first if row["quantity"] == "delta_z"]
    held = sum(row["holds"] is True for _, row in changes)
    largest = max((each.widths[-1] for each in series), default=0)
    failing = "".join(f"; {_failing(each, row)}" for each, row in changes if row["holds"] is False)
    rejected = [f"{each.title} by step {' and '.join(found)}" for each in series if (found := rejected_by(each.rows))]
    return Item(
        title="On an accelerator",
        claim="Exponents are statements about large widths: what is predicted is to hold at widths that a processor "
        "does not reach.",
        measured=f"After the first step {held} of {len(changes)} changes Δz are as predicted, widths to {largest:,}"
        f"{failing}. Over all measured steps the theory is rejected for {'; '.join(rejected) or 'none'}.",
        scale="; ".join(_scale(device, series, studies.get(device)) for device in {**widths, **studies})
        or "No run was adopted.",
        verdict=verdict([row["holds"] for _, row in changes]),
        figures={"figure_10_transfer": _figure(studies)} if studies else {},
        tables={"figure_10_exponents": _exponent_table(first), "figure_10_best_rates": _rate_table(studies)},
    )


@dataclass(frozen=True)
class Series:
    """One study of exponents on one device, judged again from its sizes."""

    device: str
    title: str
    widths: tuple[int, ...]
    rows: Sequence[Row]


def _read(folder: Path, file: str) -> Found:
    """The step's files under `folder` that have a result, by device."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*/{file}"))]
    return {content["device"]: content for content in contents if content.get("result")}


def _series(device: str, kept: Mapping[str, Any]) -> list[Series]:
    return [
        Series(device, _title(name), study.widths, judged_again(study))
        for name, found in kept["result"].items()
        for study in [Measured(found, tuple(found["rows"]), _tables(kept["parts"], name, found["widths"]))]
    ]


def _tables(parts: Mapping[str, Any], name: str, widths: Sequence[int]) -> dict[int, dict[str, dict[str, Any]]]:
    """tables[step][layer][quantity] as [width, seed], from the parts "name, width W, seeds F to L"."""
    own = [part["result"] for each, part in parts.items() if each.startswith(f"{name}, width ")]
    by_width = [sorted((each for each in own if each["width"] == width), key=itemgetter("seeds")) for width in widths]
    return {
        int(step): {
            layer: {
                quantity: np.array(
                    [[size for each in found for size in each["steps"][step][layer][quantity]] for found in by_width],
                    dtype=float,
                )
                for quantity in sizes
            }
            for layer, sizes in layers.items()
        }
        for step, layers in by_width[0][0]["steps"].items()
    }


def _title(name: str) -> str:
    optimizer, scheme = name.split()
    return f"{'Adam' if optimizer == 'adam' else optimizer.upper()} {parameterization(scheme).name}"


def _failing(series: Series, row: Mapping[str, Any]) -> str:
    found = f"{row['measured']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{series.title} {row['layer']} {found}, not {row['predicted']}"


def _scale(device: str, series: Sequence[Series], study: Mapping[str, Any] | None) -> str:
    ranges = [f"{each.title} {each.widths[0]} to {each.widths[-1]:,}" for each in series if each.device == device]
    parts = [f"multilayer perceptrons, {', '.join(ranges)}"] if ranges else []
    if study:
        left = f", {len(study['left'])} batch without time" if study["left"] else ""
        parts.append(f"{study['result']['networks']} networks of the transfer study{left}")
    return f"{device}: {'; '.join(parts)}."


def _exponent_table(first: Sequence[tuple[Series, Mapping[str, Any]]]) -> Table:
    rows: list[list[Cell]] = []
    for series, row in first:
        numbers = [NONE if row[each] is None else f"{row[each]:.3f}" for each in ("measured", "low", "high")]
        what = [series.device, series.title, f"{series.widths[0]} to {series.widths[-1]:,}", row["layer"]]
        judged = [str(row["predicted"] or NONE), *numbers, VERDICTS[row["holds"]]]
        rows.append([*what, QUANTITIES[row["quantity"]], *judged])
    columns = ["device", "study", "widths", "layer", "exponent", "predicted", "measured", "low", "high", "verdict"]
    return Table(columns, rows, (), ["After the first step, under full alignment's rates; as in table 7."])


def _rate_table(studies: Found) -> Table:
    rows: list[list[Cell]] = []
    for device, kept in studies.items():
        for setting in kept["result"]["settings"]:
            for width, found in setting["widths"].items():
                loss = f"{found['best_loss']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
                where = "at the edge of those tried" if found["at_edge"] else "within those tried"
                rows.append([device, _setting(setting), width, f"{found['best_rate']:.3g}", where, loss])
    columns = ["device", "setting", "width", "best rate", "which lies", "loss (nats)"]
    return Table(columns, rows, (), [EDGE])


def _setting(setting: Mapping[str, Any]) -> str:
    return f"{setting['parameterization']} {setting['alignment']}"


def _figure(studies: Found) -> Figure:
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=(8, 3.2 * len(studies)), layout="constrained")
        axes = figure.subplots(len(studies), 2, squeeze=False)
        for (rates, losses), (device, kept) in zip(axes, studies.items(), strict=True):
            settings = kept["result"]["settings"]
            _draw(rates, settings, "best_rate")
            _draw(losses, settings, "best_loss")
            rates.set_title(f"{device}: best base rate", loc="left")
            losses.set_title("loss at it (nats)", loc="left")
            rates.set_yscale("log")
            rates.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            plain_numbers(rates.yaxis)
            losses.legend(fontsize="small")
    return figure


def _draw(axis: Any, settings: Sequence[Mapping[str, Any]], quantity: str) -> None:
    """A line per setting over the widths whose best rate lies within those tried."""
    shown: set[int] = set()
    for setting in settings:
        inside = {int(width): found for width, found in setting["widths"].items() if not found["at_edge"]}
        shown.update(inside)
        style, label = ALIGNMENTS[setting["alignment"]]
        axis.plot(
            list(inside),
            [found[quantity] for found in inside.values()],
            f"o{style}",
            color=COLOURS[parameterization(setting["parameterization"]).name],
            label=f"{setting['parameterization']}, {label}",
        )
    axis.set(xscale="log", xlabel="width n")
    axis.set_xticks(sorted(shown), [str(width) for width in sorted(shown)])
    axis.minorticks_off()
