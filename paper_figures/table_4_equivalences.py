"""Table 4: which parameterizations train alike, and what muP is without multipliers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from derive.parameterizations import MFP, MUP, NTK, SP, equivalent
from derive.registry import optimizer
from derive.solve import prescribe, solve_kinds
from derive.words import KINDS
from paper_figures.items import NONE, Cell, Item, Table

OPTIMIZERS = ("sgd", "adam", "adafactor")
PAIRS = ((SP, NTK), (MUP, MFP))


def item(data: Path) -> Item:  # noqa: ARG001
    """Shifts per pair, optimizer and layer; SP and muP in the gauge a = 0. Needs no study."""
    shifts, gauge = _shifts(), _gauge()
    differing = [(row[0], row[2], row[3]) for row in gauge.rows if row[2] != row[3]]
    listed = ", ".join(f"the {kind}'s b, {first} and {second}" for kind, first, second in differing)
    same = [name for place, name in enumerate(OPTIMIZERS) if all(_same_rate(row, place) for row in gauge.rows)]
    pairs = list(dict.fromkeys(str(row[0]) for row in shifts.rows))
    return Item(
        title="Equivalent parameterizations",
        claim="Moving a factor between a layer's multiplier and its initialisation changes nothing once the learning "
        "rate and ε move along, so SP is NTK and muP is mean field in another gauge.",
        measured=f"{' and '.join(pairs)} train alike under {', '.join(OPTIMIZERS)}, step for step. In the gauge a = 0 "
        f"SP and muP differ at initialisation in {len(differing)} entry: {listed}. Their rates are then equal under "
        f"{', '.join(same)}, and not under the others, whose updates follow the gradients or the weights.",
        scale="Exact; nothing is trained.",
        verdict="derived",
        tables={"table_4_equivalences": shifts, "table_4_gauge_zero": gauge},
    )


def _same_rate(row: Sequence[Cell], place: int) -> bool:
    first, second = row[4 + 2 * place : 6 + 2 * place]
    return first == second


def _shifts() -> Table:
    rows: list[list[Cell]] = []
    for first, second in PAIRS:
        for name in OPTIMIZERS:
            found = equivalent(first, second, optimizer(name))
            if found.theta is None or found.rate_shift is None:
                continue
            epsilons: tuple[Cell, ...] = found.epsilon_shift or (NONE,) * len(KINDS)
            for kind, *moved in zip(KINDS, found.theta, found.rate_shift, epsilons, strict=True):
                rows.append([f"{first.name} = {second.name}", name, kind, *moved])
    note = (
        "From the first to the second, a becomes a + θ and b becomes b − θ; the columns after it are what is added to "
        "the exponents of rate and ε (- where the rule has no ε)."
    )
    columns = ["pair", "optimizer", "layer", "θ", "add to c", "add to ε exponent"]
    return Table(columns, rows, range(0, len(rows), len(KINDS)), [note])


def _gauge() -> Table:
    """Initialisation and full-alignment rates of SP and of muP, both with all multipliers 1."""
    schemes = [SP.gauge(), MUP.gauge()]
    rates = [
        solve_kinds(replace(prescribe(name, SP, "full").problem, parameterization=scheme)).c
        for name in OPTIMIZERS
        for scheme in schemes
    ]
    rows = [
        [kind, schemes[0].a[index], *(scheme.b[index] for scheme in schemes), *(c[index] for c in rates)]
        for index, kind in enumerate(KINDS)
    ]
    names = [f"{name}: c of {scheme}" for name in OPTIMIZERS for scheme in ("SP", "muP")]
    note = "No multipliers (a = 0); initial standard deviation n^-b, largest stable rate n^-c under full alignment."
    return Table(["layer", "a", "initialisation: b of SP", "initialisation: b of muP", *names], rows, (), [note])
