"""The coordinate check along depth: make(width, depth) trained at one width and growing depths, and judged.

    in a branch   what its weights change by themselves, DW z_0:  N^-(r' - a'),  r' = max(kappa, delta), a' = delta
    outside       as much at every depth, N^0: embedding, readout, and the stream's change that the readout sees
    anywhere      no output may grow with depth, at the start or by a change

a' is the branch's multiplier behind it. r' comes from the sums of the program and kappa alone, not from the rate: a
rate off by N^x shows as DW z_0 off by N^x. Sizes of blocks that are alike are taken together, as their root mean
square. docs/theory.md, section 9.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

import jax
import numpy as np

from verify.fit.forward import TOLERANCES, Quantity, Row
from verify.model.check.check import SETUPS, Measured, Setup, entries_of, starts_at
from verify.model.check.coordinates import Coordinates
from verify.model.check.rows import STILL, WIDTH_OF, measured_slope, said_of, settled, widened
from verify.model.depth.prescribe import at_depth
from verify.model.make import Drawn, build
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.model.rows import ParameterRow, without_numbers
from verify.training.rules.usual import base_rate as usual_rate
from verify.values import Leaf, Tree

ZERO = "0 at every depth"
TOLERANCE = 0.2
"""Of changes: two blocks are few, and sums over them are not yet powers."""
NONE = Fraction(0)
GROWS = "grows with depth, which nothing may"


@dataclass(frozen=True)
class DepthCheck:
    """Both set-ups of one model along depth; `prescriptions` are by depth, the first without factors."""

    prescriptions: Mapping[int, ModelPrescription]
    width: int
    seeds: int
    measured: Mapping[Setup, Measured]

    @property
    def depths(self) -> tuple[int, ...]:
        """Growing."""
        return tuple(self.prescriptions)

    @property
    def deepest(self) -> ModelPrescription:
        """The prescription of the largest depth, which has the exponents."""
        return self.prescriptions[self.depths[-1]]


def prescriptions(
    make: Callable[..., Tree], width: int, depths: Sequence[int], **given: Any
) -> dict[int, ModelPrescription]:
    """One for every depth at that width, tuned at the first depth; what is `given` goes to `prescribe`.

    DeriveError as there.
    """
    shared = {"base_width": width, "width": 2 * width, **given}  # the larger width shows the roles, and is not used
    found = {depth: prescribe(make, **shared, base_depth=depths[0], depth=depth).at(width) for depth in depths[1:]}
    plain = {name: value for name, value in shared.items() if name not in ("depth_alignment", "residual")}
    return {depths[0]: prescribe(at_depth(make, depths[0]), **plain).at(width), **found}


def depth_check(
    make: Callable[..., Tree],
    answers: Mapping[int, ModelPrescription],
    *,
    base_rate: float | None = None,
    seeds: int = 4,
    steps: int = 5,
    epsilon: float | None = None,
    setups: Sequence[Setup] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> DepthCheck:
    """Train every set-up at every depth of `answers` (as `prescriptions` makes them), and judge it.

    `own` is the model as it is with one rate for all, multipliers in its code and all; by default it is left out where
    `wrap` puts multipliers on branches, of which its own predictions know nothing. DeriveError for a model that does
    not run.
    """
    deepest = answers[max(answers)]
    setups = setups or (("prescribed",) if deepest.branches else SETUPS)
    width = deepest.base_width
    rate = base_rate or usual_rate(*(row.rule for row in deepest.parameters if row.is_trained))
    tables: dict[Setup, dict[int, Tree]] = {setup: {} for setup in setups}
    starts: dict[Setup, dict[int, Mapping[str, Drawn]]] = {setup: {} for setup in setups}
    read_from: dict[str, dict[int, list[int]]] = {}
    with jax.default_matmul_precision("highest"):
        for depth, answer in answers.items():
            model = build(at_depth(make, depth), width)
            for path, count in entries_of(model.params).items():
                read_from.setdefault(without_numbers(path), {}).setdefault(depth, []).append(count)
            network, numbers = Coordinates(model, answer, epsilon), []
            for setup in setups:
                drawing = starts_at(answer, setup, model, width)
                at = answer.depth if setup == "prescribed" else answer.base_depth  # where all factors are 1
                numbers.append(network.numbers(width, drawing, at))
                starts[setup][depth] = {row.path: start for row, start in zip(answer.parameters, drawing, strict=True)}
            for setup, found in zip(setups, network.measured(numbers, seeds, steps, rate), strict=True):
                tables[setup][depth] = {step: _together(sizes, answer) for step, sizes in found.items()}
            progress()
    measured = {}
    for setup in setups:
        counts = {name: [sum(each) for each in by_depth.values()] for name, by_depth in read_from.items()}
        rows = tuple(judged(deepest, tables[setup], counts if setup == "own" else {}))
        measured[setup] = Measured(setup, {}, starts[setup], rows)
    return DepthCheck(answers, width, seeds, measured)


def _together(sizes: Mapping[str, Mapping[str, Leaf]], answer: ModelPrescription) -> dict[str, dict[str, Leaf]]:
    """Root mean squares over what is alike in all blocks, [seed]; dense ops by the path of their weight."""
    names = {op.name: without_numbers(op.path) for op in answer.ops}
    found: dict[str, dict[str, list[Leaf]]] = {}
    for name, quantities in sizes.items():
        shared = names.get(name, without_numbers(name))
        for quantity, value in quantities.items():
            found.setdefault(shared, {}).setdefault(quantity, []).append(np.asarray(value, float))
    return {
        name: {quantity: np.sqrt(np.mean(np.square(each), axis=0)) for quantity, each in quantities.items()}
        for name, quantities in found.items()
    }


def judged(
    answer: ModelPrescription, by_depth: Mapping[int, Mapping[int, Tree]], entries: Mapping[str, Sequence[int]]
) -> list[Row]:
    """Every row of one set-up; what has not moved at a step is left to the later ones.

    `entries` counts the numbers that starts were read from, by name and depth.
    """
    depths = list(by_depth)
    rows: list[Row] = []
    growth = _growth(answer)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for step in by_depth[depths[0]]:
            table = _table([by_depth[depth][step] for depth in depths])
            for name, row in _parameters(answer).items():
                rows += _rows_of(name, row, depths, step, table, entries.get(name, ()), growth)
    return settled(rows, max(by_depth[depths[0]]))


def _table(by_depth: Sequence[Mapping[str, Mapping[str, Leaf]]]) -> dict[str, dict[str, Leaf]]:
    """[depth, seed] by name and quantity."""
    return {
        name: {each: np.array([sizes[name][each] for sizes in by_depth]) for each in quantities}
        for name, quantities in by_depth[0].items()
    }


def _parameters(answer: ModelPrescription) -> dict[str, ParameterRow]:
    """What is trained, once for all blocks that are alike."""
    return {without_numbers(row.path): row for row in answer.parameters if row.is_trained}


def _rows_of(
    name: str,
    row: ParameterRow,
    depths: Sequence[int],
    step: int,
    table: Mapping[str, Mapping[str, Leaf]],
    entries: Sequence[int],
    growth: Fraction,
) -> Iterator[Row]:
    """The rows of one parameter, or of those that are alike in all blocks."""
    along, kind = row.depth, cast("Any", row.role)
    wanted = along.get("r", NONE) - along.get("a", NONE)
    decay, sizes = table[f"parameter {name}"]["decay"], table.get(name)

    def judge(quantity: Quantity, values: Leaf, target: Fraction, tolerance: float, zero: str) -> Row:
        measured, said = measured_slope(depths, values, 0.0, zero, "depth")
        if said is None:
            measured = widened(measured, depths, entries) if quantity == "size" else measured
            said = said_of(measured, float(target), tolerance)
        return Row(name, kind, step, quantity, str(target), measured, float(target), *said)

    if step == 1 and np.isfinite(decay).all() and (decay > 0).any():
        moved = along.get("c", NONE) + along.get("decay", NONE)
        yield judge("decay", decay, moved, WIDTH_OF["decay"], ZERO)
    if sizes is None:
        yield judge("vector", table[f"parameter {name}"]["delta_w"], wanted, TOLERANCE, STILL)
        return
    if step == 1 and "output" in sizes:
        yield judge("size", sizes["output"], along.get("b", NONE), TOLERANCES["size"], ZERO)
    yield judge("own change", sizes["term_alpha"], wanted, TOLERANCE, STILL)
    in_blocks = name != row.path or row.shape[:1] == (depths[-1],)  # numbered, or stacked along the depth
    arriving = _arriving(depths)[:, None] if in_blocks else 1.0
    yet_to_grow = (np.asarray(depths, float) / depths[0])[:, None] ** float(growth)
    yield _bounded(judge("delta_z", sizes["delta_output"] / arriving / yet_to_grow, NONE, TOLERANCE, STILL))


def _growth(answer: ModelPrescription) -> Fraction:
    """1/2 - delta of the branch with the smallest delta, 0 where that is 1/2 or more.

    Rates of such a stream count on its growth by N^(1/2 - delta), which norms divide by. Until branches outweigh what
    the stream begins with it does not grow, and changes in it grow by as much.
    """
    inside = [row.depth for row in answer.parameters if row.is_trained and row.depth.get("r")]
    return max([NONE, *(Fraction(1, 2) - along.get("a", NONE) - along.get("b", NONE) for along in inside)])


def _arriving(depths: Sequence[int]) -> Leaf:
    """1 - 1/N, what of a stream's whole change enters the blocks at most: those before one of them change it, not all.

    It settles as N grows, but from 2 to 8 it goes as N^0.4, which is no growth of what is scaled wrongly. A single
    block is entered by none, and taken as if by a quarter.
    """
    return np.maximum(1 - 1 / np.asarray(depths, float), 0.25)


def _bounded(row: Row) -> Row:
    """A whole change may be smaller than N^0, where the own change is judged; only that it does not grow is asked."""
    if row.reason == STILL or row.verdict == "open":
        return row
    grows = row.measured.value < -TOLERANCE and row.verdict == "fails"
    shrinks = row.verdict == "fails" and not grows and row.measured.value > 0
    if shrinks:
        return replace(row, verdict="holds", reason=None)
    return replace(row, reason=GROWS) if grows else row
