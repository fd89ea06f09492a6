"""Figure 11: where full and none cross: the loss of full alignment less that of none, against steps and width."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from paper_figures.items import Item, Table, verdict
from paper_figures.transfer_results import Transfer, transfer
from verify.fit.equivalence import MARGIN, Relation
from verify.studies.transfer.headline import interval
from verify.studies.transfer.horizons import Gap, crossing, family, gaps
from verify.studies.transfer.plots import LOOK, plain_numbers
from verify.sweeps.constants import Triple
from verify.sweeps.settings.named import UNTUNED

STUDIES: Mapping[str, str] = {
    "transfer_mlp": "MLP",
    "transfer_transformer": "transformer",
    "horizons_mlp": "MLP, longer",
    "tuned_mlp": "MLP, tuned",
    "horizons_transformer": "transformer, longer",
}
"""By the name of the study, the model as it is called here; the first is needed, others are shown where they are."""
SCHEMES = ("SP", "muP")
COLOURS = ("#56b4e9", "#009e73", "#e69f00", "#d55e00", "#cc79a7", "#000000")
Key = tuple[str, str]
"""(model, parameterization)."""


def item(data: Path) -> Item:
    """A curve per width, Adam: below 0, full alignment has the lower loss."""
    first, *others = STUDIES
    studies = {name: transfer(data, name) for name in (first, *(name for name in others if (data / name).exists()))}
    found = {
        (f"{STUDIES[name]}{tuned_for}", scheme): compared(each, scheme, constants)
        for name, each in studies.items()
        for tuned_for, constants in tunings(each).items()
        for scheme in SCHEMES
    }
    return Item(
        title="Where full and none cross",
        claim="With constants tuned and 50,000 steps, rates without alignment reach the lowest losses at the largest "
        "widths; full alignment has the drift nearer 0.",
        measured=" ".join(_said(key, rows) for key, rows in found.items()),
        scale=" ".join(each.scale() for each in studies.values())
        + " Training losses on the batch of the step, which is new text; Adam, each at its own best rate; "
        "constants are 1 where nothing is said of them.",
        verdict=verdict([none_leads(rows) for rows in found.values()]),
        figures={"figure_11_horizons": _figure(found)},
        tables={"figure_11_gaps": _table(found)},
    )


def tunings(found: Transfer) -> dict[str, Triple]:
    """By what a title says of them, the constants of a study: tuned ones are those of one horizon."""
    usual = found.study.conditions.steps
    tuned = {
        f" at {each.steps or usual:,} steps": each.constants
        for each in found.study.settings.values()
        if each.constants != UNTUNED
    }
    return tuned or {"": UNTUNED}


def compared(found: Transfer, scheme: str, constants: Triple = UNTUNED) -> list[Gap]:
    """full less none of Adam in that parameterization, above the base width, where the two are one network."""
    study = found.study
    one, other = (
        family(
            study,
            next(
                each
                for name, each in study.settings.items()
                if name.startswith(f"adam {scheme} {kind}") and each.constants == constants
            ),
        )
        for kind in ("full", "none")
    )
    return [each for each in gaps(study, one, other) if each.width > study.conditions.base_width]


def none_leads(rows: Sequence[Gap]) -> bool | None:
    """Whether rates without alignment end lower at the largest width; None where they do not, at so few steps."""
    *_, own = _by_width(rows).values()
    last = [each for each in own if np.isfinite(each.difference.low)][-1:]
    leads = last and last[0].relation is Relation.APART and last[0].difference.value > 0
    return True if leads else None


def _by_width(rows: Sequence[Gap]) -> dict[int, list[Gap]]:
    return {width: list(own) for width, own in groupby(rows, lambda each: each.width)}


def _said(key: Key, rows: Sequence[Gap]) -> str:
    """Where full is furthest ahead and where it stands in the end, at the largest width; and where the sign changes."""
    model, scheme = key
    widths = _by_width(rows)
    known = {width: [each for each in own if np.isfinite(each.difference.low)] for width, own in widths.items()}
    known = {width: own for width, own in known.items() if own}
    if not known:
        return f"{model}, {scheme}: no step at which both have a best rate within those tried."
    width, own = max(known.items())
    lowest, last = min(own, key=lambda each: each.difference.value), own[-1]
    text = (
        f"{model}, {scheme}, width {width}: full less none is {interval(lowest.difference)} nats at step "
        f"{lowest.step}, its lowest, and {interval(last.difference)} at step {last.step}"
    )
    changes = {width: crossing(own) for width, own in known.items()}
    signs = [f"width {width} between steps {pair[0]} and {pair[1]}" for width, pair in changes.items() if pair]
    return f"{text}; the sign changes at {', '.join(signs)}." if signs else f"{text}; it changes sign at no width."


def _figure(found: Mapping[Key, Sequence[Gap]]) -> Figure:
    with mpl.rc_context(LOOK):
        models = list(dict.fromkeys(model for model, _ in found))
        figure = Figure(figsize=(11, 3.2 * len(models)), layout="constrained")
        axes = figure.subplots(len(models), len(SCHEMES), squeeze=False, sharey="row")
        for (model, scheme), rows in found.items():
            axis = axes[models.index(model), SCHEMES.index(scheme)]
            axis.axhline(0, color="#707070", linewidth=0.8)
            axis.axhspan(-MARGIN, MARGIN, color="#e8e8e8", zorder=0)
            for place, (width, own) in enumerate(_by_width(rows).items()):
                known = [each for each in own if np.isfinite(each.difference.value)]
                if not known:
                    continue
                x = np.array([each.step for each in known]) * 1.03 ** (place - 1)
                y, low, high = (
                    np.array([getattr(each.difference, end) for each in known]) for end in ("value", "low", "high")
                )
                axis.errorbar(
                    x, y, [y - low, high - y], marker="o", markersize=3, color=COLOURS[place], label=f"width {width}"
                )
            axis.set(xscale="log", xlabel="training steps", title=f"{model}, {scheme}")
            axis.set_ylabel("loss(full) - loss(none), nats" if scheme == SCHEMES[0] else "")
            plain_numbers(axis.xaxis)
            axis.legend(fontsize=7)
        figure.suptitle("above 0, rates without alignment have the lower loss; grey: equal within the margin")
    return figure


def _table(found: Mapping[Key, Sequence[Gap]]) -> Table:
    rows, sections = [], []
    for (model, scheme), own in found.items():
        sections.append(len(rows))
        rows += [
            [
                f"{model}, {scheme}",
                str(each.width),
                str(each.step),
                "-" if each.edge else interval(each.difference),
                "best rate at the edge" if each.edge else each.relation.value,
            ]
            for each in own
        ]
    notes = [
        "Nats, 95 % intervals paired over seeds; below 0, full is lower. Equal: the whole interval lies within "
        f"{MARGIN:g} nats of 0."
    ]
    return Table(["model", "width", "step", "full less none", "relation"], rows, sections[1:], notes)
