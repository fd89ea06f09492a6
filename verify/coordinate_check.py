"""The coordinate check of the user's own model: train it at growing widths, as it is and as prescribed, and judge.

For every dense op: the size of its output at initialisation (n^-(a + b - f/2), its fan-in growing as n^f), its change
n^-r, and in between update sizes and alignments, as slopes over widths with intervals over seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from derive.errors import shorten
from verify.fit import TOLERANCES, Quantity, Row, Slope, Table, Verdict, alignment_slopes, judge, shares, slope
from verify.measure import initial_inputs, measure, root_mean_square
from verify.prescription import ModelPrescription, OpRow
from verify.trace import Tree, trace
from verify.train import log_spaced
from verify.user_model import Drawn, Make, ModelError, UserModel, build, drawn, users_code

Setup = Literal["own", "prescribed"]
SETUPS: tuple[Setup, ...] = ("own", "prescribed")
Loss = Callable[[Tree, Tree], Any]
PARTIAL = "shrinks, since its update aligns less than assumed, by n^{:.2f}"


@dataclass(frozen=True)
class Measured:
    """One set-up over all widths: tables by step, and how every parameter starts, by width."""

    setup: Setup
    tables: dict[int, Table]
    starts: dict[int, Mapping[str, Drawn]]
    rows: tuple[Row, ...]

    @property
    def passes(self) -> bool:
        """Whether sizes at initialisation and all changes are as predicted."""
        return not self.failures

    @property
    def failures(self) -> list[Row]:
        """The rows that decide and do not hold."""
        return [
            row for row in self.rows if row.quantity in ("size", "delta_z") and row.verdict not in ("holds", "open")
        ]


@dataclass(frozen=True)
class Check:
    """Both set-ups of one model, and what to change in its own."""

    prescription: ModelPrescription
    widths: tuple[int, ...]
    seeds: int
    measured: dict[Setup, Measured]
    advice: tuple[str, ...]


def default_loss(outputs: Tree, _: Tree) -> Any:
    """For models that come without a loss: fixed random targets.

    Cross-entropy with classes where the last axis has two entries or more, else half the mean square to N(0, 1).
    """
    total = jnp.zeros(())
    for index, leaf in enumerate(each for each in jax.tree.leaves(outputs) if jnp.issubdtype(each.dtype, jnp.inexact)):
        key = jax.random.key(index)
        if leaf.ndim and leaf.shape[-1] > 1:
            targets = jax.random.randint(key, leaf.shape[:-1], 0, leaf.shape[-1])
            total += optax.softmax_cross_entropy_with_integer_labels(leaf.astype(jnp.float32), targets).mean()
        else:
            total += 0.5 * jnp.square(leaf - jax.random.normal(key, leaf.shape)).mean()
    return total


def setup_at(prescription: ModelPrescription, setup: Setup, model: UserModel, width: int) -> ModelPrescription:
    """What draws parameters and makes the optimizer: the prescription at that width, or the model's own start at the
    base rate, which is the prescription of the base width with the starts seen at this one.
    """
    if setup == "prescribed":
        return prescription.at(width)
    starts = drawn(model.params)
    rows = []
    for row in prescription.parameters:
        start = starts[row.path]
        rows.append(replace(row, mean=start and start.mean, std=start and start.std))
    return replace(prescription, width=prescription.base_width, parameters=tuple(rows))


@dataclass
class Runner:
    """One width of one set-up: everything compiled, for any seed and base rate."""

    model: UserModel
    how: ModelPrescription
    epsilon: float | None = None

    def __post_init__(self) -> None:
        self.apply = self.how.wrap(self.model.apply)
        self.loss: Loss = self.model.loss or default_loss
        with users_code("loss(outputs, inputs)"):
            value = jax.eval_shape(lambda p, b: self.loss(self.apply(p, b), b), self.model.params, self.model.batch(0))
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ModelError(f"loss(outputs, inputs) gives {shorten(str(value))}; it has to give one number, a mean")
        self.init = jax.jit(lambda key: self.how.init(key, self.model.params))
        self.start = jax.jit(lambda params, rate: self.transform(rate).init(params))
        self.step = jax.jit(self._step)
        self.evaluate = jax.jit(lambda params, batch: self.loss(self.apply(params, batch), batch))

    def transform(self, rate: Any) -> optax.GradientTransformation:
        """The optimizer at that base rate."""
        return self.how.optimizer(rate, epsilon=self.epsilon)

    def _step(self, params: Tree, state: Any, rate: Any, batch: Tree) -> Any:
        value, gradients = jax.value_and_grad(lambda p: self.loss(self.apply(p, batch), batch))(params)
        updates, state = self.transform(rate).update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    def measured(self, seeds: int, steps: int, rate: float, progress: Callable[[], None]) -> dict[int, Any]:
        """Sizes by step, op and quantity, a number per seed."""
        probe = self.model.batch(0)
        traced = trace(self.apply, self.model.params, probe)
        first = jax.jit(partial(initial_inputs, traced))
        sizes = jax.jit(partial(measure, traced))

        @jax.jit
        def outputs(params: Tree) -> Any:
            operands = traced.run(params, probe)[1]
            return {
                op.name: root_mean_square(traced.product(op, operands[op.name].input, operands[op.name].weight))
                for op in traced.ops
            }

        found: dict[int, Any] = {}
        for seed in range(seeds):
            initial = params = self.init(jax.random.key(seed))
            inputs, start, state = first(params, probe), outputs(params), self.start(params, rate)
            for step in range(1, steps + 1):
                params, state, _ = self.step(params, state, rate, self.model.batch(step))
                if step in log_spaced(steps):
                    now = jax.device_get(sizes(initial, inputs, params, probe))
                    for op, quantities in now.items():
                        quantities["output"] = jax.device_get(start[op])
                        for quantity, value in quantities.items():
                            found.setdefault(step, {}).setdefault(op, {}).setdefault(quantity, []).append(float(value))
                progress()
        return found


def coordinate_check(
    make: Make,
    prescription: ModelPrescription,
    widths: Sequence[int],
    *,
    base_rate: float,
    seeds: int = 4,
    steps: int = 5,
    epsilon: float | None = None,
    setups: Sequence[Setup] = SETUPS,
    progress: Callable[[], None] = lambda: None,
) -> Check:
    """Measure every set-up at every width and judge it by the prescription's predictions."""
    found: dict[Setup, Measured] = {}
    with jax.default_matmul_precision("highest"):
        for setup in setups:
            by_width: dict[int, Any] = {}
            starts: dict[int, Mapping[str, Drawn]] = {}
            for width in widths:
                model = build(make, width)
                how = setup_at(prescription, setup, model, width)
                starts[width] = {
                    row.path: Drawn(row.start.mean * f, row.start.std * f)
                    for row in how.parameters
                    for f in [how.factor(row.b)]
                }
                by_width[width] = Runner(model, how, epsilon).measured(seeds, steps, base_rate, progress)
            tables = _tables(by_width, widths)
            rows = [row for step, table in tables.items() for row in _judged(prescription, widths, step, table)]
            found[setup] = Measured(setup, tables, starts, tuple(rows))
    advice = _advice(prescription, widths, found["own"]) if "own" in found else ()
    return Check(prescription, tuple(widths), seeds, found, tuple(advice))


def _tables(by_width: Mapping[int, Any], widths: Sequence[int]) -> dict[int, Table]:
    """Measurements by step as [width, seed]."""
    return {
        step: {
            op: {quantity: np.array([by_width[width][step][op][quantity] for width in widths]) for quantity in sizes}
            for op, sizes in ops.items()
        }
        for step, ops in by_width[widths[0]].items()
    }


def _judged(prescription: ModelPrescription, widths: Sequence[int], step: int, table: Table) -> list[Row]:
    """Every prediction of one step: sizes at initialisation, updates, alignments and changes."""
    predicted = {op.name: op for op in prescription.ops}
    updates = {row.path: row.c + row.s for row in prescription.parameters}
    rows: list[Row] = []
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for name, sizes in table.items():
            op = predicted[name]

            def add(
                quantity: Any, measured: Slope, value: Any, partial: Slope | None = None, reference: float | None = None
            ) -> None:
                # A sum may go as its smallest term, or still as a mixture of all three.
                target = float(value) if reference is None else float(np.clip(measured.value, float(value), reference))
                verdict, reason = _verdict(quantity, measured, target, partial)
                rows.append(Row(name, op.kind, step, quantity, str(value), measured, target, verdict, reason))  # noqa: B023

            if step == 1 and op.size is not None:
                add("size", slope(widths, sizes["output"]).negated().plus(float(op.after)), op.size)
            add("delta_w", slope(widths, sizes["delta_w"]).negated(), updates[op.path])
            aligned = alignment_slopes(widths, sizes) if op.kind != "embedding" else {}
            for quantity, measured in aligned.items():
                add(quantity, measured, getattr(op, quantity))
            alpha = aligned.get("alpha")
            partial = alpha.plus(-float(op.alpha)) if alpha is not None else None
            add(
                "delta_z",
                slope(widths, sizes["delta_output"]).negated().plus(float(op.after)),
                op.r,
                partial,
                _expected(op, sizes),
            )
    return rows


def _expected(op: OpRow, sizes: Mapping[str, Any]) -> float:
    """r from the predicted exponents of the three terms, averaged by their measured shares of |Dh|^2 (THEORY 8)."""
    return sum(share * float(op.terms[term]) for term, share in shares(sizes).items() if term in op.terms)


def _verdict(quantity: Quantity, measured: Slope, value: float, partial: Slope | None) -> tuple[Verdict, str | None]:
    """As `fit.judge`, but an interval too wide to confirm may still refute; what has no number has diverged.

    A change that shrinks is open where its update aligns that much less than was assumed (`partial`, the measured less
    the assumed alpha): then the assumption fails, in its own row, and nothing grows.
    """
    tolerance = TOLERANCES[quantity]
    if not np.isfinite(measured.value):
        return "fails", "not finite: diverged, or zero"
    verdict, reason = judge(measured, value, tolerance)
    half = measured.high - measured.value
    away = abs(measured.value - value) > tolerance + (half if np.isfinite(half) else 0.0)
    if away and partial is not None and measured.value > value and partial.value < -tolerance:
        return "open", PARTIAL.format(partial.value)
    return ("fails", reason) if away else (verdict, reason)


def _advice(prescription: ModelPrescription, widths: Sequence[int], own: Measured) -> list[str]:
    """What to change in the model's own set-up: parameters whose start or rate go by another power, where it shows."""
    failing: dict[str, list[str]] = {}
    paths = {op.name: op.path for op in prescription.ops}
    for row in own.failures:
        what = "starts" if row.quantity == "size" else f"changes at step {row.step}"
        seen = "without end" if not np.isfinite(row.measured.value) else f"as n^{-row.measured.value:.2f}"
        failing.setdefault(paths[row.layer], []).append(f"its product {what} {seen}")
    lines: list[str] = []
    for row in prescription.parameters:
        sizes = np.array([own.starts[width][row.path].size for width in widths])[:, None]
        b = -slope(widths, sizes).value if (sizes > 0).all() else float(row.b)
        changes = []
        if abs(b - float(row.b)) > TOLERANCES["size"]:
            changes.append(f"initial size n^{-b:.2f} -> n^{-row.b}")
        if row.c != 0:
            changes.append(f"rate n^0 -> n^{-row.c}")
        if changes and (row.path in failing or not own.passes):
            why = failing.get(row.path, ["what it feeds drifts"])[0]
            lines.append(f"{row.path} ({row.role}): {', '.join(changes)}; {why}")
    return lines
