"""The table of a transfer study's report: its columns, what they mean, and a row per setting."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from verify.fit.equivalence import MARGIN
from verify.fit.forward import WIDEST_INTERVAL, Slope
from verify.fit.optimum import UNKNOWN, Estimate
from verify.studies.transfer.headline import SMALL_DRIFT, interval
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.sweeps.axes import AXES
from verify.sweeps.records import Study

Cell = tuple[float | str, str]
"""What is sorted by, and what is shown; a number that is not finite is shown as a dash."""


@dataclass(frozen=True)
class Column:
    """A column of the table: its title, what it means, what it needs to be known, and the cell of a setting."""

    title: str
    meaning: str
    needs: str
    cell: Callable[[SettingResult], Cell]


def columns_of(results: Sequence[SettingResult]) -> list[Column]:
    """The columns; "smallest" and "largest" are the widths of the whole study."""
    widths = sorted({found.width for each in results for found in each.widths})
    one = results[0].axis if results else "width"
    along = AXES[one]
    first, last = (widths[0], widths[-1]) if widths else (0, 0)

    def at(each: SettingResult, width: int) -> WidthResult | None:
        return next((found for found in each.widths if found.width == width), None)

    def rate(each: SettingResult, width: int) -> Cell:
        found = at(each, width)
        return (found.best_rate, f"{found.best_rate:.3g}") if found else _interval(UNKNOWN)

    def loss(each: SettingResult) -> Cell:
        found = at(each, last)
        return _interval(found.best_loss if found else UNKNOWN)

    def lost(each: SettingResult) -> Cell:
        found = at(each, last)
        return _interval(found.lost if found else UNKNOWN)

    def diverged(each: SettingResult) -> Cell:
        runs = sum(int((~np.isnan(found.losses)).sum()) for found in each.widths)
        count = sum(found.diverged for found in each.widths)
        return (count, f"{count} of {runs}") if runs else (math.nan, "")

    def failing(each: SettingResult) -> Cell:
        if each.divergence_width is None:
            return ("", "none") if each.widths else (math.nan, "")
        return each.divergence_width, str(each.divergence_width)

    return [
        Column("setting", "Optimizer, parameterization and alignment.", "", lambda each: _text(each.setting.name)),
        Column(
            "trained as",
            "The setting whose runs these are: the two train alike, step for step.",
            "",
            lambda each: (each.trained_as or each.setting.name, each.trained_as or "itself"),
        ),
        Column(f"best rate at {first}", _BEST_RATE, f"needs runs at {one} {first}", lambda each: rate(each, first)),
        Column(f"best rate at {last}", _BEST_RATE, f"needs runs at {one} {last}", lambda each: rate(each, last)),
        Column(
            "drift",
            f"The slope of log(best base rate) on log({one}), seed by seed: 0 is perfect transfer.",
            f"needs a best rate at two {along.many}",
            lambda each: _interval(each.drift),
        ),
        Column(
            f"best loss at {last}",
            "Held-out loss in nats at the best base rate, one rate for all seeds.",
            f"needs runs at {one} {last} that do not diverge",
            loss,
        ),
        Column(
            f"lost at {last}",
            f"What using the best rate of the setting's smallest {one} costs at the largest one, in nats.",
            f"needs runs at {one} {last} around the smallest {one}'s best rate",
            lost,
        ),
        Column(
            "diverged",
            "Runs whose loss was not finite, of all runs. They are no part of any fit.",
            "no runs yet",
            diverged,
        ),
        Column(
            f"fails from {one}",
            f"The smallest {one} at which most seeds, at the rate tried nearest to the smallest {one}'s best one, "
            "diverge or end above the untrained loss.",
            "no runs yet",
            failing,
        ),
        Column(
            "fit error",
            "Root-mean-square residual of log2(best base rate) around the power law, in octaves.",
            f"needs a best rate at three {along.many}",
            lambda each: (each.fit_error, f"{each.fit_error:.3f}"),
        ),
        Column(
            "sensitivity",
            f"The slope of log S on log({one}), where S is the mean loss at twice and at half the best rate, less the "
            "best loss: above 0, a wrong rate costs more in larger networks.",
            f"needs twice and half the best rate at two {along.many}",
            lambda each: _interval(each.sensitivity),
        ),
        Column(
            "penalty",
            f"The loss at infinite {one}, from L({along.letter}) = L_inf + A {along.letter}^-p with one p for an "
            "optimizer's settings, less the "
            "lowest of these, in nats.",
            f"needs a best loss at three {along.many}",
            lambda each: _interval(each.penalty),
        ),
        Column("notes", "What is missing, left out or weak.", "", lambda each: _text("; ".join(each.notes))),
    ]


def _text(text: str) -> Cell:
    return text, text


_BEST_RATE = "The base rate with the lowest loss: the vertex of a parabola in log2(rate), geometric mean over seeds."


def _interval(found: Estimate | Slope) -> Cell:
    return found.value, interval(found)


def table(columns: Sequence[Column], results: Sequence[SettingResult]) -> str:
    """The table as HTML, a row per setting in their order; each cell says in data-value what it is sorted by.

    Settings that train as another one are behind a switch.
    """
    heads = "".join(f'<th title="{escape(each.meaning)}">{escape(each.title)}</th>' for each in columns)
    rows = []
    for result in results:
        cells = "".join(_cell(column, result) for column in columns)
        rows.append(f'<tr class="equal">{cells}</tr>' if result.trained_as else f"<tr>{cells}</tr>")
    body = "\n".join(rows)
    repeats = sum(result.trained_as is not None for result in results)
    switch = (
        f'<input type="checkbox" id="repeats"> <label for="repeats">also the {repeats} that train as another setting, '
        "step for step</label>"
    )
    rows_of = f'<table id="settings"><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table>'
    return f'{switch if repeats else ""}<div class="wide">{rows_of}</div>'


def _cell(column: Column, result: SettingResult) -> str:
    (value, text), of = column.cell(result), f'data-of="{escape(column.title)}"'
    if isinstance(value, str):
        return f'<td {of} data-value="{escape(value)}">{escape(text)}</td>'
    if math.isfinite(value):
        return f'<td {of} data-value="{value!r}">{escape(text)}</td>'
    reasons = escape("; ".join((column.needs, *result.notes)))
    return (
        f'<td {of} data-value=""><abbr title="{reasons}">&ndash;{" diverges" if math.isinf(value) else ""}</abbr></td>'
    )


def definitions(columns: Sequence[Column], study: Study) -> str:
    """What every column, and the words of the headline, mean, as HTML."""
    along = AXES[study.conditions.axis]
    meanings = {each.title: each.meaning for each in columns} | {
        "base rate": f"The rate that a setting's exponents multiply: in every layer ({along.letter} / "
        f"{study.conditions.base_width})^-c of it at {along.one} {along.letter}.",
        "intervals": "Student's 95 % interval over seeds; for the drift of a single seed, from the fit's residuals. "
        "Differences between settings are paired over seeds, which share data and initial key.",
        f"equal within {MARGIN:g} nats": "The whole interval of the paired difference lies within the margin: two "
        "one-sided tests, each at 2.5 %. Not decided: it does not, and contains 0.",
        "transfers": f"A drift's interval contains 0, or |drift| <= {SMALL_DRIFT:g}. Undecided: no interval, or one "
        f"around 0 wider than {2 * WIDEST_INTERVAL:g}.",
    }
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(said)}</dd>' for name, said in meanings.items())}</dl>"
