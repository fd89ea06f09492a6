"""Figure 6: what a constant epsilon does to updates and loss as width grows, beside a per-layer one and atan2."""

from pathlib import Path

import numpy as np

from paper_figures.epsilon_left import updates_left
from paper_figures.items import Item, Table, verdict
from paper_figures.paths import result
from verify.studies.epsilon.onsets import Result
from verify.studies.epsilon.plots import cost_against_width
from verify.studies.epsilon.results import read_result
from verify.studies.epsilon.text import width_text


def item(data: Path) -> Item:
    """Both figures, a table of every onset, and whether constant epsilons cost and the others do not."""
    study = read_result(result(data, "epsilon", "float32"))
    short = read_result(result(data, "epsilon_bfloat16", "bfloat16"))
    constant = [onset.cost for onset in study.onsets]
    costly = [each for each in constant if np.isfinite(each.onset)]
    beyond = [each for each in study.onsets if np.isfinite(each.beyond)]
    early = [each for each in study.onsets if each.first is not None and each.cost.onset < (each.first.predicted or 0)]
    flat = [each for each in study.unscaled if each.flat]
    resolved = max(each.high - each.value for cost in study.unscaled for each in cost.changes[1:])
    conditions, last = study.study.conditions, study.widths[-1]
    largest = max(study.onsets, key=lambda each: each.cost.estimates[-1].value).cost
    return Item(
        title="Epsilon",
        claim="A constant epsilon stops updates from some width on and costs loss; an epsilon that follows the "
        "gradients per layer, or Adam-atan2, which has none, does not.",
        measured=f"{len(costly)} of {len(constant)} constant epsilons cost loss by width {last}, at most "
        f"{largest.estimates[-1].value:.2f} nats ({largest.setting.parameterization}, {largest.setting.epsilon:g}); "
        f"{len(beyond)} cost more than the same value per layer, paired over seeds. Of per-layer epsilons and atan2, "
        f"{len(flat)} of {len(study.unscaled)} have no change of cost with the width that can be resolved (95 % "
        f"intervals of ± {resolved:.2f} nats at most). Updates are halved where n^-g predicts it from the value that "
        f"halves them at the base width: {_halving(study)}. Loss is lost before: {len(early)} of {len(constant)} cost "
        "at a width below that at which n^-g times the gradients of the base width meets epsilon in the first layer. "
        f"In bfloat16 {_short(short)}.",
        scale=f"MLP with {conditions.sizes['hidden_layers']} hidden layers, widths {study.widths[0]} to {last}, "
        f"{len({record.seed for record in study.study.records})} seeds, {conditions.steps} steps, {conditions.dtype}.",
        verdict=verdict([each in beyond for each in study.onsets] + [each.flat for each in study.unscaled]),
        tables={"figure_6_epsilon": table(study)},
        figures={
            "figure_6_epsilon_loss": cost_against_width(study),
            "figure_6_epsilon_updates": updates_left(study),
            "figure_6_epsilon_loss_bfloat16": cost_against_width(short),
        },
    )


def _short(study: Result) -> str:
    constant = [onset.cost for onset in study.onsets]
    costly, flat = sum(np.isfinite(each.onset) for each in constant), sum(bool(each.flat) for each in study.unscaled)
    beyond = sum(np.isfinite(each.beyond) for each in study.onsets)
    kept = f"{flat} of {len(study.unscaled)} of the others have no change that can be resolved"
    counted = f"{costly} of {len(constant)} constant ones cost loss by width {study.widths[-1]}"
    return f"{counted}, {beyond} more than the same per layer, and {kept}"


def _steps(study: Result) -> list[int]:
    return sorted(study.backward[0].sizes)


def _halving(study: Result) -> str:
    """At each step, the factor between predicted and seen widths of the layers and epsilons halved amid the widths."""
    told = []
    for step in _steps(study):
        seen = [each for each in study.layers if each.step == step and each.by_half and 0 < each.observed < np.inf]
        off = [2 ** abs(np.log2(each.observed / (each.by_half or np.nan))) for each in seen]
        factors = f"off by a factor of {np.median(off):.2f} in the median, {max(off):.1f} at most" if off else "none"
        told.append(f"step {step}, {len(off)} layers and epsilons, {factors}")
    return "; ".join(told)


def table(study: Result) -> Table:
    """Every layer's onset after the last step: predicted by g, and where its update is halved."""
    rows, sections = [], []
    for each in study.layers:
        if each.step != _steps(study)[-1]:
            continue
        if not rows or rows[-1][0] != each.parameterization:
            sections.append(len(rows))
        predicted = [width_text(each.by_half or np.inf, study.widths) if each.by_half else "never"]
        sizes = [f"{each.epsilon:g}", f"{each.half:.2g}"]
        observed = width_text(each.observed, study.widths)
        rows.append([each.parameterization, each.layer, each.exponent, *sizes, *predicted, observed])
    columns = ["parameterization", "layer", "g", "ε", "ε that halves at the base width", "half predicted", "observed"]
    return Table(columns, rows, sections[1:])
