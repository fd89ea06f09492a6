"""A study of epsilon as text and as JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from derive import __version__
from derive.emit import terminal_table
from verify.fit.forward import Slope
from verify.fit.optimum import Estimate
from verify.studies.epsilon.onsets import THRESHOLD, Cost, LayerOnset, Result
from verify.values import Document

SHOWN = ("gradient", "beta", "gamma")
"""The rows of the backward pass that the table shows; the JSON has all."""


def text(result: Result) -> str:
    """Gradients, onsets per layer, what constant epsilons cost, and whether the others stay flat, as four tables."""
    conditions, widths = result.study.conditions, result.widths
    rates = ", ".join(f"{name} {rate:.3g}" for name, rate in result.base_rates.items())
    seeds = len({record.seed for record in result.study.records})
    size = " x ".join(f"{name} {value}" for name, value in conditions.sizes.items())
    costly = ", ".join(f"{each.name} {epsilon_text(result.costly(each.name))}" for each in result.backward)
    lines = [
        f"mlp, {conditions.dtype}, widths {','.join(map(str, widths))}, {seeds} seeds, {conditions.steps} steps, "
        f"full alignment; base rate of width {widths[0]} at all widths: {rates}; {size}; {conditions.corpus}",
        "",
        "Gradients and backward alignments, at step 0 and after training: gradient n^-x, beta and gamma n^+x",
        _gradients(result),
        "",
        f"The width at which epsilon meets each layer's update m / (sqrt(v) + epsilon), from width {widths[0]}:",
        "sizes over entries with a gradient; RMS: where n^-g RMS(sqrt v) = epsilon; half: the same for what halves the",
        "update at the base width; seen: where the update is halved. RMS/half is 1 for entries of one size, 1.42 for "
        "normal ones",
        _layers(result),
        "",
        "Constant epsilon: the layer predicted first, from gradients at step 1 and of all steps; half update: where a",
        "layer's first update is halved; by loss: where the first and the last layer with g > 0 have the epsilon that",
        f"costs {THRESHOLD} nats per layer ({costly}); costs from: where the loss is more than {THRESHOLD} nats above",
        "that of the same seed and rate with epsilon 1e-8 per layer, beyond chance; and with the same per layer",
        _constant(result),
        "",
        "Per-layer epsilon, and none: cost in nats against epsilon 1e-8 per layer; flat where no width is "
        f"more than {THRESHOLD} from the smallest, beyond chance",
        _flat(result),
    ]
    return "\n".join(lines) + "\n"


def _gradients(result: Result) -> str:
    cells, sections = [], []
    for each in result.backward:
        sections.append(len(cells))
        rows = [row for row in each.rows() if row.quantity in SHOWN]
        for layer, quantity in dict.fromkeys((row.layer, row.quantity) for row in rows):
            own = {row.step: row for row in rows if (row.layer, row.quantity) == (layer, quantity)}
            cell = [each.name, layer, quantity]
            for step in sorted(each.gradients.tables):
                row = own.get(step)
                cell += ["-"] * 4 if row is None else [row.predicted, *_slope(row.measured), row.verdict]
            cells.append(cell)
    columns = ["parameterization", "layer", "exponent"]
    for step in sorted(result.backward[0].gradients.tables):
        columns += [f"step {step}: predicted", "measured", "95 % interval", "verdict"]
    return terminal_table(columns, cells, sections)


def _slope(measured: Slope) -> tuple[str, str]:
    value = "-" if np.isnan(measured.value) else f"{measured.value:+.3f}"
    return value, "-" if np.isnan(measured.low) else f"{measured.low:+.3f} .. {measured.high:+.3f}"


def _layers(result: Result) -> str:
    cells, sections = [], []
    listed = {(each.parameterization, each.layer, each.step, each.epsilon): each for each in result.layers}
    epsilons = list(dict.fromkeys(each.epsilon for each in result.layers))
    for scheme, layer, step in dict.fromkeys(key[:3] for key in listed):
        if not cells or cells[-1][0] != scheme:
            sections.append(len(cells))
        own = [listed[scheme, layer, step, epsilon] for epsilon in epsilons]
        first = own[0]
        share = f"{first.share:.0%}"
        sizes = [f"{first.size:.2g}", f"{first.half:.2g}", f"{first.size / first.half:.1f}"]
        widths = [text for each in own for text in _widths(each, result.widths)]
        cells.append([scheme, layer, str(step), str(first.exponent), share, *sizes, *widths])
    columns = ["parameterization", "layer", "step", "g", "entries", "RMS", "half", "RMS/half"]
    columns += [name for epsilon in epsilons for name in (f"{epsilon:g}: RMS", "half", "seen")]
    return terminal_table(columns, cells, sections)


def _widths(onset: LayerOnset, widths: Sequence[int]) -> list[str]:
    predicted = ["never" if each is None else width_text(each) for each in (onset.predicted, onset.by_half)]
    return [*predicted, width_text(onset.observed, widths)]


def width_text(width: float, widths: Sequence[int] = ()) -> str:
    """A width to two digits; where it was looked for and lies outside the widths, on which side."""
    if np.isnan(width):
        return "-"
    if width == 0:
        return f"below {widths[0]}"
    if np.isinf(width):
        return f"above {widths[-1]}"
    return f"{float(f'{width:.2g}'):,.0f}"


def epsilon_text(epsilon: float) -> str:
    """An epsilon found among those tried."""
    return "below all" if epsilon == 0 else "above all" if np.isinf(epsilon) else f"{epsilon:.2g}"


def _constant(result: Result) -> str:
    cells, sections = [], []
    for each in result.onsets:
        setting = each.cost.setting
        if not cells or cells[-1][0] != setting.parameterization:
            sections.append(len(cells))
        cell = [setting.parameterization, f"{setting.epsilon:g}"]
        for layer in (each.first, each.late):
            cell += ["-", "never"] if layer is None else [layer.layer, width_text(layer.predicted or np.nan)]
        halved = "-" if each.halved is None else width_text(each.halved.observed, result.widths)
        expected = "-" if each.expected is None else " .. ".join(map(width_text, each.expected))
        observed = [width_text(width, result.widths) for width in (each.cost.onset, each.beyond)]
        cells.append([*cell, halved, expected, *observed, *map(estimate_text, each.cost.estimates)])
    columns = ["parameterization", "epsilon", "first", "predicted", "first (trained)", "predicted", "half update"]
    columns += ["by loss", "costs from", "same per layer", *(f"cost at {n}" for n in result.widths)]
    return terminal_table(columns, cells, sections)


def _flat(result: Result) -> str:
    cells = []
    for each in result.unscaled:
        shown = "none" if each.setting.epsilon is None else f"{each.setting.epsilon:g} per layer"
        source = each.trained_as or each.setting.name
        alike = [other for other in result.costs if source in (other.trained_as, other.setting.name)]
        flat = {True: "flat", False: "not flat", None: "-"}[each.flat]
        shared = " = ".join(other.setting.parameterization for other in alike)
        cells.append([each.setting.optimizer, shared, shown, *map(estimate_text, each.estimates), flat])
    columns = ["optimizer", "parameterization", "epsilon", *(f"cost at {n}" for n in result.widths), "verdict"]
    return terminal_table(columns, cells)


def estimate_text(found: Estimate) -> str:
    """A mean and half of its interval."""
    if not np.isfinite(found.value):
        return "diverges" if np.isinf(found.value) else "-"
    half = "" if np.isnan(found.high) else f" ± {found.high - found.value:.3f}"
    return f"{found.value:+.3f}{half}"


def as_json(results: Sequence[Result]) -> Document:
    """The JSON contract of every verify command: rows are settings; what is not finite is null."""
    first = results[0].study
    return {
        "schema": 1,
        "command": "epsilon",
        "version": __version__,
        "device": "; ".join(dict.fromkeys(record.device for each in results for record in each.study.records)),
        "corpus": first.conditions.corpus,
        "code": first.conditions.code,
        "threshold": THRESHOLD,
        "studies": [
            {
                "dtype": each.study.conditions.dtype,
                "widths": list(each.widths),
                "steps": each.study.conditions.steps,
                "base_rates": dict(each.base_rates),
                "costly": {found.name: _finite(each.costly(found.name)) or None for found in each.backward},
                "gradients": [_gradient_json(found.name, row) for found in each.backward for row in found.rows()],
                "layers": [_layer_json(onset) for onset in each.layers],
            }
            for each in results
        ],
        "rows": [_row_json(each, cost) for each in results for cost in each.costs],
    }


def _gradient_json(scheme: str, row: Any) -> Document:
    return {
        "parameterization": scheme,
        "layer": row.layer,
        "kind": row.kind,
        "step": row.step,
        "quantity": row.quantity,
        "predicted": row.predicted,
        "measured": _finite(row.measured.value),
        "low": _finite(row.measured.low),
        "high": _finite(row.measured.high),
        "holds": {"holds": True, "fails": False}.get(row.verdict),
    }


def _layer_json(onset: LayerOnset) -> Document:
    return {
        "parameterization": onset.parameterization,
        "layer": onset.layer,
        "step": onset.step,
        "epsilon": onset.epsilon,
        "g": str(onset.exponent),
        "rms": _finite(onset.size),
        "half": _finite(onset.half),
        "share": _finite(onset.share),
        "predicted": onset.predicted,
        "predicted_by_half": onset.by_half,
        **_observed(onset.observed),
    }


def _row_json(result: Result, cost: Cost) -> Document:
    setting = cost.setting
    found: Document = {
        "dtype": result.study.conditions.dtype,
        "optimizer": setting.optimizer,
        "parameterization": setting.parameterization,
        "epsilon": setting.epsilon,
        "rule": None if setting.epsilon is None else setting.epsilon_rule,
        "trained_as": cost.trained_as,
        "cost": {
            str(width): {name: _finite(getattr(each, name)) for name in ("value", "low", "high")}
            for width, each in zip(cost.widths, cost.estimates, strict=True)
        },
    }
    if setting.epsilon_rule != "constant":
        return found | {"flat": cost.flat}
    (onset,) = (each for each in result.onsets if each.cost is cost)
    for name, layer in (("first", onset.first), ("first_trained", onset.late)):
        found[name] = None if layer is None else {"layer": layer.layer, "predicted": layer.predicted}
    beyond = _observed(onset.beyond)
    found["expected"] = onset.expected
    return found | _observed(cost.onset) | {"observed_beyond": beyond["observed"], "outside_beyond": beyond["outside"]}


def _observed(width: float) -> Document:
    """Null, with the side on which it lies, where the width is outside those that were trained."""
    side = "below" if width == 0 else "above" if np.isinf(width) else None
    return {"observed": _finite(width) if width else None, "outside": side}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
