"""Figure 9: over the plane of rate exponents, where changes stay finite, diverge or freeze: predicted and measured."""

from pathlib import Path

from paper_figures.items import Item, verdict
from paper_figures.paths import result
from paper_figures.phase_plane import LAYERS, Study, agreement, plane

STUDIES = {
    "phase_adam_sp": "SP, the embedding at its prescribed rate",
    "phase_adam_sp_frozen": "SP, the embedding slowed by a further 1/n",
    "phase_adam_mup": "muP, the embedding at its prescribed rate",
}


def item(data: Path) -> Item:
    """The Item of figure 9."""
    studies = {name: Study.read(result(data, name, "phase.json")) for name in STUDIES}
    figures = {}
    for name, study in studies.items():
        title = f"Adam, {STUDIES[name]}; after the first step"
        figures[name.replace("phase_adam", "figure_9")] = plane(study, study.steps[0], title)
    sp, frozen, mup = studies.values()
    figures["figure_9_agreement"] = agreement(sp, f"Adam, {STUDIES['phase_adam_sp']}: features and logits")
    made = sp.content
    return Item(
        title="Phase diagram of rate exponents",
        claim="Alignment decides which learning-rate exponents keep features and logits finite. Under full alignment, "
        "the embedding at its prescribed rate, features diverge where hidden rates fall slower than prescribed and "
        "learn everywhere else; in SP logits stay finite where no rate falls slower than prescribed.",
        measured=" ".join((_regions(sp, frozen, mup), _features(sp, frozen), _logits(sp), _later(sp))),
        scale=f"Perceptrons with {made['hidden_layers']} hidden layers, widths {made['widths'][0]} to "
        f"{made['widths'][-1]}, {made['seeds']} seeds, {made['steps']} steps of {made['batch']} examples.",
        verdict=verdict([_all_right(study, layer) for study in (sp, frozen, mup) for layer in LAYERS]),
        figures=figures,
    )


def _regions(sp: Study, frozen: Study, mup: Study) -> str:
    named = {"SP": sp, "SP with a slowed embedding": frozen, "muP": mup}
    counts = [
        f"{name} {layer} {_right(study, layer, 'predicted')} and {_right(study, layer, 'predicted_finite')}"
        for name, study in named.items()
        for layer in LAYERS
    ]
    return (
        f"After the first step r is on the predicted side of 0 (within {sp.content['tolerance']:g} counts as 0) by "
        "full alignment for n to infinity, and by the measured alignments with the sizes of the terms at these widths, "
        f"at: {'; '.join(counts)} points. (After one step features do not depend on the readout's rate yet, so that "
        "their points are the hidden rates, each counted once for every readout rate.)"
    )


def _all_right(study: Study, layer: str) -> bool:
    found = study.agreement(study.steps[0], layer, "predicted")
    return found["same_region"] == found["points"]


def _right(study: Study, layer: str, prediction: str) -> str:
    found = study.agreement(study.steps[0], layer, prediction)
    return f"{found['same_region']} of {found['points']}"


def _features(sp: Study, frozen: Study) -> str:
    found = sp.r[sp.steps[0], "features"]
    said, seen = (sp.signs(found[name]) == -1 for name in ("predicted", "measured"))
    return (
        f"Features of SP diverge at {(said & seen).sum()} of the {said.sum()} points where full alignment has them "
        f"diverge, and at {(~said & seen).sum()} others. Where hidden rates fall faster than prescribed the embedding "
        "should keep features moving, but at these widths its part is small beside the hidden layers' own, whose decay "
        "is what one sees; with the embedding slowed there is no such competition "
        f"({_right(frozen, 'features', 'predicted')}). Measured alignments alone do not help "
        f"({_right(sp, 'features', 'predicted_measured')} in SP), the sizes of the terms do."
    )


def _logits(sp: Study) -> str:
    omega = next(
        each["measured"]
        for each in sp.content["alignments"]
        if (each["step"], each["layer"], each["quantity"]) == (sp.steps[0], "readout", "omega")
    )
    return (
        f"The logits' boundary is elsewhere because ω of the readout is {omega:.2f} and not 1/2: at SP's prescribed "
        f"point they grow as n^{-sp.logits:.2f}."
    )


def _later(sp: Study) -> str:
    first, last = (
        " and ".join(str(sp.agreement(step, layer, "predicted_finite")["within"]) for layer in LAYERS)
        for step in sp.steps
    )
    unstable = next(
        row
        for row in sp.content["rows"]
        if (row["step"], row["layer"], row["c_hidden"], row["c_readout"]) == (sp.steps[1], "hidden.1", "0", "1")
    )
    return (
        f"With sizes r is predicted to {sp.content['tolerance']:g} at {first} points (features and logits of SP) after "
        f"the first step, and at {last} after {sp.steps[1]}: where training is unstable its steps cancel (hidden "
        f"updates at c = 0 fall as n^{-unstable['update']:.2f}, their α to {unstable['alpha']:.2f}) and "
        "divergence is slower."
    )
