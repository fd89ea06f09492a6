"""Table 2: what stability asks of the exponents, per family of optimizers."""

from pathlib import Path

from derive.propagation import general_constraints
from derive.registry import optimizers
from paper_figures.items import Cell, Item, Table

FAMILIES = {"SGD": "sgd", "Adam": "adam", "Adafactor": "adafactor", "Muon": "muon"}
"""One optimizer of each: degree 1 in the gradient, entrywise of degree 0, in proportion to the weights, matrix-wise."""


def item(data: Path) -> Item:  # noqa: ARG001
    """The relations of `derive constraints`, those that families share written once. Needs no study."""
    found = {name: dict(general_constraints(optimizers(rule))) for name, rule in FAMILIES.items()}
    rows: list[list[Cell]] = []
    sections: list[int] = []
    for meaning in max(found.values(), key=len):  # Adafactor's have all that others have
        layer, _, kind = meaning.partition(": ")
        named = [(name, constraints[meaning]) for name, constraints in found.items() if meaning in constraints]
        if not rows or rows[-1][0] != kind:
            sections.append(len(rows))
        for relation in dict.fromkeys(relation for _, relation in named):
            who = ", ".join(name for name, other in named if other == relation)
            rows.append([kind, layer, who, relation])
    total = sum(map(len, found.values()))
    notes = [
        "Sizes are n^-exponent; l is a hidden layer, L the last of them, L+1 the readout. RMS(Δz) of layer l is n^-r.",
        "The gradient takes the smaller exponent, so the larger of what the readout's initial weights and its update "
        "send back.",
    ]
    return Item(
        title="Stability constraints",
        claim="Training is stable where activations keep their size at initialisation and no layer's change grows "
        "with width; what an optimizer adds to these constraints is the size of its update.",
        measured=f"{total} constraints of {len(found)} families are {len(rows)} different ones. Backpropagation takes "
        "the smaller of two exponents (min), that of the larger gradient.",
        scale="Exact, in symbols; nothing is trained.",
        verdict="derived",
        tables={
            "table_2_stability_constraints": Table(["what", "layer", "optimizers", "relation"], rows, sections, notes)
        },
    )
