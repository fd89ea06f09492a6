"""The coordinate check of the user's own model: train it at growing widths, as it is and as prescribed, and judge.

    dense op     size of its output at initialisation n^-(a + b - f/2), its fan-in growing as n^f; change n^-r, r >= 0
    vector       its change n^-(c + s), which may not outgrow the size n^-b that it starts as
    q k^T        with the multipliers after it: neither size nor change grows
    decay        the part of the weights that a step takes away, n^-(c + decay)

All are slopes over widths with intervals over seeds. What is 0 at every width is right at the start, and is judged from
the first step at which it moves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import jax
import numpy as np
import optax

from derive.errors import DeriveError
from verify.fit.forward import TOLERANCES, Row, Slope, Table, slope
from verify.model.check.coordinates import Coordinates, Transform
from verify.model.check.rows import DECIDING, judged
from verify.model.make import Drawn, Make, UserModel, build, drawn, graph_of, users_code
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.training.rules.usual import base_rate as usual_rate
from verify.values import Tree

__all__ = ["Check", "Measured", "advice", "coordinate_check", "starts_at", "unmultiplied"]

Setup = Literal["own", "prescribed"]
SETUPS: tuple[Setup, ...] = ("own", "prescribed")


@dataclass(frozen=True)
class Measured:
    """One set-up over all widths: tables by step, and how every parameter starts, by width."""

    setup: Setup
    tables: dict[int, Table]
    starts: dict[int, Mapping[str, Drawn]]
    rows: tuple[Row, ...]

    @property
    def deciding(self) -> list[Row]:
        """The rows of sizes at initialisation, of changes and of decay."""
        return [row for row in self.rows if row.quantity in DECIDING]

    @property
    def failures(self) -> list[Row]:
        """The rows that decide and do not hold."""
        return [row for row in self.deciding if row.verdict == "fails"]

    @property
    def undecided(self) -> list[Row]:
        """The rows that could have failed and tell nothing."""
        return [row for row in self.deciding if row.verdict == "open"]

    @property
    def verdict(self) -> Literal["passes", "fails", "undecided"]:
        """Fails where one row does; undecided where none says anything."""
        if self.failures:
            return "fails"
        return "passes" if any(row.verdict == "holds" for row in self.deciding) else "undecided"

    @property
    def passes(self) -> bool:
        """Whether nothing fails and something was decided."""
        return self.verdict == "passes"


@dataclass(frozen=True)
class Check:
    """Both set-ups of one model, and what to change in its own."""

    prescription: ModelPrescription
    widths: tuple[int, ...]
    seeds: int
    measured: dict[Setup, Measured]
    advice: tuple[str, ...]


def starts_at(prescription: ModelPrescription, setup: Setup, model: UserModel, width: int) -> list[Drawn]:
    """How every parameter starts in that set-up, before the prescription's factors."""
    if setup == "prescribed":
        return [row.start for row in prescription.parameters]
    own = drawn(model.params)
    starts = [own[row.path] for row in prescription.parameters]
    if any(start is None for start in starts):
        raise DeriveError(f"make({width}) gives shapes; let it return arrays, so that its own start is known")
    return [start for start in starts if start is not None]


def coordinate_check(
    make: Make,
    prescription: ModelPrescription | None = None,
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    base_rate: float | None = None,
    seeds: int = 4,
    steps: int = 5,
    epsilon: float | None = None,
    transform: Transform | None = None,
    setups: Sequence[Setup] = SETUPS,
    progress: Callable[[], None] = lambda: None,
) -> Check:
    """Measure every set-up at every width and judge it by the prescription's predictions.

    `transform(width)` is the user's own optimizer, an optax transform with its rates, with which the model as it is
    is trained; without it, that has one rate for all. `progress` is called after every width of a program. DeriveError
    for a model or an optimizer that does not run, and a prescription for which depth grows too.
    """
    if prescription is not None:
        prescription.of_width_alone("the coordinate check")
    answer = prescription or prescribe(make, base_width=widths[0], width=widths[-1])
    rate = base_rate or usual_rate(*(row.rule for row in answer.parameters if row.is_trained))
    how = _How(rate, seeds, steps, epsilon)
    found, starts, entries = _trained(make, answer, widths, how, transform, setups, progress)
    after = _behind(make, widths, next(iter(found.values()))[widths[0]][1])
    measured: dict[Setup, Measured] = {}
    for setup in setups:
        tables = _tables(found[setup], widths)
        extra = answer.multipliers if setup == "prescribed" else {}
        behind = {name: x + extra.get(name.removeprefix("product "), 0) for name, x in after.items()}
        seen = answer if setup == "prescribed" else unmultiplied(answer)
        rows = judged(seen, widths, tables, behind, entries if setup == "own" else {})
        measured[setup] = Measured(setup, tables, starts[setup], tuple(rows))
    lines = advice(answer, widths, measured["own"], transform is not None) if "own" in measured else []
    return Check(answer, tuple(widths), seeds, measured, tuple(lines))


def unmultiplied(answer: ModelPrescription) -> ModelPrescription:
    """The same with outputs of dense ops as they are: behind no multiplier but those in the code."""
    ops = tuple(replace(op, after=op.after - answer.multipliers.get(op.name, 0)) for op in answer.ops)
    return replace(answer, ops=ops)


@dataclass(frozen=True)
class _How:
    """How long every network is trained, with which rate and epsilon at the base width, and how many there are."""

    rate: float
    seeds: int
    steps: int
    epsilon: float | None


def _trained(
    make: Make,
    answer: ModelPrescription,
    widths: Sequence[int],
    how: _How,
    transform: Transform | None,
    setups: Sequence[Setup],
    progress: Callable[[], None],
) -> tuple[dict[Setup, dict[int, Tree]], dict[Setup, dict[int, Mapping[str, Drawn]]], dict[str, list[int]]]:
    """(sizes and starts of every set-up by width, entries of every parameter).

    Set-ups share a program, unless one has a transform of its own.
    """
    found: dict[Setup, dict[int, Tree]] = {setup: {} for setup in setups}
    starts: dict[Setup, dict[int, Mapping[str, Drawn]]] = {setup: {} for setup in setups}
    entries: dict[str, list[int]] = {}
    together: list[list[Setup]] = [list(setups)] if transform is None else [[setup] for setup in setups]
    with jax.default_matmul_precision("highest"):
        for width in widths:
            model = build(make, width)
            for path, count in entries_of(model.params).items():
                entries.setdefault(path, []).append(count)
            for group in together:
                numbers = []
                own = _transform(transform, width) if group == ["own"] else None
                network = Coordinates(model, answer, how.epsilon, own)
                for setup in group:
                    drawing = starts_at(answer, setup, model, width)
                    at = width if setup == "prescribed" else answer.base_width
                    numbers.append(network.numbers(at, drawing))
                    starts[setup][width] = {
                        row.path: Drawn(start.mean * f, start.std * f)
                        for row, start in zip(answer.parameters, drawing, strict=True)
                        for f in [answer.at(at).factor(row.b)]
                    }
                for setup, sizes in zip(group, network.measured(numbers, how.seeds, how.steps, how.rate), strict=True):
                    found[setup][width] = sizes
                progress()
    return found, starts, entries


def _behind(make: Make, widths: Sequence[int], names: Mapping[str, object]) -> dict[str, Fraction]:
    """The exponents of the multipliers behind products of activations whose sum grows, by the row's name."""
    if not any(name.startswith("product ") for name in names):
        return {}
    graph = graph_of(make, widths[0], widths[-1])[0]
    return {f"product {product.name}": product.trailing or Fraction(0) for product in graph.products}


def _transform(transform: Transform | None, width: int) -> optax.GradientTransformation | None:
    if transform is None:
        return None
    with users_code(f"the optimizer at width {width}"):
        made = transform(width)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise DeriveError(
            f"the optimizer at width {width} is {type(made).__name__}; give a function of the width that returns an "
            "optax.GradientTransformation"
        )
    return made


def entries_of(params: Tree) -> dict[str, int]:
    """How many numbers every parameter's start is read from, by path; 0 for a constant."""
    starts = drawn(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return {
        path: 0 if start is None or start.std == 0 else size
        for (path, start), size in zip(starts.items(), sizes, strict=True)
    }


def _tables(by_width: Mapping[int, Tree], widths: Sequence[int]) -> dict[int, Table]:
    """Measurements by step as [width, seed]."""
    return {
        step: {
            op: {quantity: np.array([by_width[width][step][op][quantity] for width in widths]) for quantity in sizes}
            for op, sizes in ops.items()
        }
        for step, ops in by_width[widths[0]].items()
    }


def advice(answer: ModelPrescription, widths: Sequence[int], own: Measured, has_transform: bool) -> list[str]:
    """What to change in the model's own set-up: starts and rates that go by another power, where it shows.

    Only where the interval of what was measured leaves out the power that is prescribed.
    """
    failing: dict[str, list[str]] = {}
    paths = {op.name: op.path for op in answer.ops}
    for row in own.failures:
        name = row.layer.removeprefix("parameter ")
        subject = "it" if name != row.layer else "its product"
        what = {"size": "starts", "decay": "decays"}.get(row.quantity, f"changes at step {row.step}")
        seen = "without end" if not np.isfinite(row.measured.value) else f"as n^{-row.measured.value:.2f}"
        failing.setdefault(paths.get(name, name), []).append(f"{subject} {what} {seen}")
    if not own.failures:
        return []
    lines: list[str] = []
    for row in answer.parameters:
        if not row.is_trained:
            continue
        changes = []
        sizes = np.array([own.starts[width][row.path].size for width in widths])[:, None]
        if (sizes > 0).all():
            start = slope(widths, sizes).negated()
            if _differs(start, float(row.b), TOLERANCES["size"]):
                changes.append(f"initial size n^-{start.value:.2f} -> n^-{row.b}")
        update = _first_move(widths, own, f"parameter {row.path}")
        wanted = float(row.c + row.s)
        if update is not None and _differs(update, wanted, 0.1) and (has_transform or row.c != 0):
            old = f"n^-{update.value - float(row.s):.2f}" if has_transform else "n^0"
            changes.append(f"rate {old} -> n^-{row.c}")
        changes += [
            f"decay per step n^-{failure.measured.value:.2f} -> n^-{failure.predicted}"
            for failure in own.failures
            if failure.quantity == "decay" and failure.layer == f"parameter {row.path}"
        ]
        if changes:
            why = failing.get(row.path, ["what it feeds drifts"])[0]
            lines.append(f"{row.path} ({row.role}): {', '.join(changes)}; {why}".replace("--", "+"))
    return lines


def _first_move(widths: Sequence[int], own: Measured, name: str) -> Slope | None:
    """The exponent of a parameter's change at the first step at which it moves."""
    for table in own.tables.values():
        sizes = table[name]["delta_w"]
        if (sizes > 0).any():
            return slope(widths, sizes).negated()
    return None


def _differs(measured: Slope, wanted: float, tolerance: float) -> bool:
    """Whether it lies off by more than the tolerance, and its interval leaves out what is wanted."""
    if not np.isfinite(measured.value):
        return False
    outside = not (measured.low <= wanted <= measured.high)
    return outside and abs(measured.value - wanted) > tolerance
