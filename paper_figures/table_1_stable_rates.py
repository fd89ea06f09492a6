"""Table 1: the parameterizations, their gradients at initialisation, and the largest stable rates."""

from pathlib import Path

from derive.parameterizations import SCHEMES
from derive.solve import prescribe, solve_kinds
from derive.tables import whole_table
from paper_figures.items import Item, Table

OPTIMIZERS = ("sgd", "adam", "adafactor")
ALIGNMENTS = ("full", "none")


def item(data: Path) -> Item:  # noqa: ARG001
    """The exponents a, b, g and c as `derive table` lays them out; size n^-x for entry x. Needs no study."""
    problems = [
        [prescribe(optimizer, scheme, alignment).problem for optimizer in OPTIMIZERS for alignment in ALIGNMENTS]
        for scheme in SCHEMES
    ]
    columns, rows, sections = whole_table(problems, listed=False, cell=lambda exponent: exponent)
    answers = [solve_kinds(problem) for row in problems for problem in row]
    learning = sum(answer.feature_learning is True for answer in answers)
    unique = sum(answer.unique is True for answer in answers)
    note = (
        "An entry x means size n^-x, n the width: multiplier a, initial standard deviation b, gradient at "
        "initialisation, largest stable learning rate under full alignment and under none."
    )
    return Item(
        title="Gradients at initialisation and largest stable rates",
        claim="Every parameterization has per-layer learning-rate exponents, set by the optimizer and by how well "
        "updates align with data, at which training is stable and features are learned at any width.",
        measured=f"All {len(answers)} prescriptions follow from the update rules: {learning} learn features, "
        f"and {unique} are the only optimum.",
        scale="Exact, for any depth; nothing is trained.",
        verdict="derived",
        tables={"table_1_stable_rates": Table(columns, rows, sections, [note])},
    )
