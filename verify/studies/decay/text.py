"""A study of weight decay as a table: every layer's exponents, and the loss at every width."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derive.emit import terminal_table

if TYPE_CHECKING:
    from verify.fit.forward import Slope
    from verify.studies.decay.results import DecayResult
    from verify.studies.decay.theory import Row


def table(study: "DecayResult") -> str:
    """A row per layer: exponents predicted and measured, alignment, features; and below the loss at every width."""
    conditions = study.conditions
    lines = [
        f"{conditions.optimizer}, full alignment, mlp, {conditions.seeds} seeds, {conditions.steps} steps; base rate "
        f"{conditions.base_rate:g}, lambda {conditions.weight_decay:g} at width {conditions.base_width}; "
        f"{conditions.corpus}",
        "RMS(W) = n^-x: predicted for uncorrelated .. coherent updates; RMS(W z) = n^a RMS(W) RMS(z), needed to keep "
        "features; RMS(z) = n^-x after the layer",
        terminal_table(LAYER_COLUMNS, *_layers(study)),
        "held-out loss (nats), mean of seeds; *: some layer not at equilibrium",
        terminal_table(["decay", "parameterization", *map(str, study.widths)], *_losses(study)),
        *(f"diverged: {line}" for line in study.divergences),
    ]
    return "\n".join(lines) + "\n"


LAYER_COLUMNS = (
    *("decay", "parameterization", "layer", "W predicted", "W measured", "95 % interval", "updates"),
    *("a needed", "a measured", "95 % interval", "z", "alpha", "why"),
)


def _layers(study: "DecayResult") -> tuple[list[list[str]], list[int]]:
    cells, sections = [], []
    for place, rows in study.by_layer().items():
        if not cells or cells[-1][:2] != list(place[:2]):
            sections.append(len(cells))
        weight, feature = rows["weight"], rows["feature"]
        span = "both " + str(weight.predicted)
        if weight.predicted != weight.coherent:
            span = f"{weight.predicted} .. {weight.coherent}"
        alignment = rows.get("alignment")
        cells.append(
            [
                *place,
                *(span, *_measured(weight.measured), weight.verdict),
                *(["-"] * 3 if alignment is None else [str(alignment.predicted), *_measured(alignment.measured)]),
                _measured(feature.measured)[0],
                _measured(rows["alpha"].measured)[0] if "alpha" in rows else "-",
                _why(weight, feature),
            ]
        )
    return cells, sections


def _why(*rows: "Row") -> str:
    return "; ".join(dict.fromkeys(row.reason for row in rows if row.reason))


def _measured(measured: "Slope") -> tuple[str, str]:
    value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
    return value, "-" if measured.low != measured.low else f"{measured.low:+.3f} .. {measured.high:+.3f}"


def _losses(study: "DecayResult") -> tuple[list[list[str]], Sequence[int]]:
    cells = []
    for (convention, scheme), networks in study.settings().items():
        shown = []
        for network in networks:
            there = all(network.at_equilibrium(layer) for layer in network.kinds)
            shown.append(f"{network.held_out.mean():.4f}{' ' if there else '*'}")
        cells.append([convention, scheme, *shown])
    return cells, ()
