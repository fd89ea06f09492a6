"""g, s and r of every parameter and dense op of a model, as its prescription says and as networks show at three widths.

    g   gradients n^-g at the start        s   outputs of dense ops n^-s at the start       r   their change, n^-r

Networks are drawn as prescribed, but readouts an eighth as large: then logits are as small at these widths as they are
at great ones. r is after two steps of Adam at a rate at which the change is small. At a finite width the change of an
output is a mixture of its three terms; `expected` is the exponent of that mixture, from the measured shares of the
terms and the exponents that each is said to have. `causes` are what a term consists of: its alignment, and the
change of what enters, with the exponents measured and said.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import verify
from tests.helpers.zoo import Model
from verify.measuring.trace import trace
from verify.model.check.coordinates import default_loss
from verify.model.graph.walk import path_name
from verify.model.make import UserModel, build
from verify.model.prescription import ModelPrescription
from verify.model.rows import OpRow, ParameterRow

SEEDS, STEPS, RATE, READOUT = 16, 2, 2.0**-12, 1 / 8
STORED = Path(__file__).parent / "measured.json"
ROUNDING = 1e-6
"""A gradient of that part of the largest is 0 but for rounding, as that of a bias of keys, which no softmax sees."""


class Cause(NamedTuple):
    """alpha, omega or u as a power of n, or the input's change n^-x; `share` is that of the terms which have it."""

    what: str
    measured: float
    said: float
    share: float


@dataclass(frozen=True)
class Row:
    """One exponent: said, measured with half the 95 % interval over seeds, at the upper pair of widths alone, and
    expected of the mixture of terms.
    """

    quantity: str
    name: str
    said: float
    measured: float
    half: float
    upper: float
    expected: float | None = None
    causes: tuple[Cause, ...] = ()

    @property
    def off(self) -> float:
        """How far it is from what is said."""
        return abs(self.measured - self.said)


@dataclass(frozen=True)
class Measured:
    """All rows of one model."""

    widths: tuple[int, ...]
    seeds: int
    rows: tuple[Row, ...]


def widths_of(model: Model) -> tuple[int, ...]:
    """Three, from twice the base width on, so that parts of a fixed size weigh little; of a heavy model from it on."""
    return tuple((1 if model.heavy else 2) * model.base_width * factor for factor in (1, 2, 4))


def seeds_of(model: Model) -> int:
    """How many networks a width; of a heavy model half as many."""
    return SEEDS // 2 if model.heavy else SEEDS


def prescribed(model: Model, widths: Sequence[int]) -> ModelPrescription:
    """What is answered between the smallest and the largest width, with small readouts."""
    return with_small_readouts(verify.prescribe(model.make, base_width=widths[0], width=widths[-1]))


def said(answer: ModelPrescription) -> dict[tuple[str, str], float]:
    """The exponents that are measured: g by path, s and r by dense op."""
    found = {("g", row.path): row.g for row in answer.parameters if row.is_trained}
    found |= {("s", op.name): op.size - op.after for op in answer.ops if op.size is not None}
    found |= {("r", op.name): op.r - op.after for op in answer.ops if op.terms}
    return {which: round(float(exponent), 3) for which, exponent in found.items()}


def is_current(model: Model, found: "Measured | None") -> bool:
    """Whether that was taken in today's setting, of networks that are prescribed as today."""
    widths = widths_of(model)
    if found is None or (found.widths, found.seeds) != (widths, seeds_of(model)):
        return False
    now = said(prescribed(model, widths))
    return all(now.get((row.quantity, row.name)) == row.said for row in found.rows)


def network(model: UserModel, how: ModelPrescription, initial: Any) -> dict[str, dict[str, Any]]:
    """One network's mean squares: of gradients by path; of outputs, their changes and the terms of these by op."""
    apply, batch, loss = how.wrap(model.apply), model.batch(0), model.loss or default_loss
    gradient = jax.grad(lambda p: loss(apply(p, batch), batch))
    transform = how.optimizer(RATE)
    traced = trace(apply, initial, batch)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = transform.update(found := gradient(params), state, params)
        return (optax.apply_updates(params, updates), state), found

    (params, _), found = jax.lax.scan(step, (initial, transform.init(initial)), None, length=STEPS)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    sizes = {"g": {path_name(path): mean_square(leaf[0]) for path, leaf in leaves}}
    before, after = (traced.run(p, batch)[1] for p in (initial, params))
    for op in traced.ops:
        then, now = before[op.name], after[op.name]
        whole, end = traced.product(op, *then), traced.product(op, *now)
        changed = now.weight - then.weight
        terms, parts = {"alpha": (then.input, changed)}, {"W": then.weight, "dW": changed}
        if op.primitive != "gather":
            moved = now.input - then.input
            parts |= {"z": then.input, "dz": moved}
            terms |= {"omega": (moved, then.weight), "u": (moved, changed)}
        sizes[op.name] = {name: mean_square(traced.product(op, *pair)) for name, pair in terms.items()}
        sizes[op.name] |= {name: mean_square(part) for name, part in parts.items()}
        sizes[op.name] |= {"s": mean_square(whole), "r": mean_square(end - whole)}
    return sizes


def with_small_readouts(answer: ModelPrescription) -> ModelPrescription:
    """The same with readouts, and tables that are one, an eighth as large at the start."""
    readouts = {op.path for op in answer.ops if op.kind == "readout"}
    rows = (
        replace(row, std=row.std * READOUT) if row.path in readouts and row.std is not None else row
        for row in answer.parameters
    )
    return replace(answer, parameters=tuple(rows))


def drawn(how: ModelPrescription, like: Any, seeds: int) -> Any:
    """Networks as `how.init` draws them, on a leading axis, by NumPy: without random numbers programs compile soon."""

    def draw(row: ParameterRow, leaf: Any) -> Any:
        numbers = np.random.default_rng(zlib.crc32(row.path.encode())).standard_normal((seeds, *leaf.shape))
        return ((row.start.mean + row.start.std * numbers) * how.factor(row.b)).astype(leaf.dtype)

    rows = {row.path: row for row in how.parameters}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: draw(rows[path_name(path)], leaf), like)


def mean_square(x: Any) -> Any:
    """The mean of |x|^2."""
    return jnp.mean(jnp.square(jnp.abs(x)))


def measured(model: Model, seeds: int = 0, widths: Sequence[int] = ()) -> Measured:
    """Draw and train the networks of one model."""
    widths, seeds = tuple(widths) or widths_of(model), seeds or seeds_of(model)
    answer = prescribed(model, widths)
    found = []
    with jax.default_matmul_precision("highest"):
        for width in widths:
            made, how = build(model.make, width), answer.at(width)
            every = jax.jit(partial(jax.lax.map, partial(network, made, how)))
            found.append(jax.device_get(every(drawn(how, made.params, seeds))))
    rows = [*_gradient_rows(answer, widths, found), *_op_rows(answer, widths, found)]
    return Measured(widths, seeds, tuple(rows))


def _gradient_rows(answer: ModelPrescription, widths: Sequence[int], found: Sequence[Any]) -> list[Row]:
    largest = max(float(squares.mean()) for squares in found[0]["g"].values())
    rows, exponents = [], said(answer)
    for row in answer.parameters:
        squares = np.array([each["g"][row.path] for each in found])
        if row.is_trained and (squares.mean(1) > ROUNDING**2 * largest).all():
            rows.append(_row("g", row.path, exponents["g", row.path], widths, squares))
    return rows


def _op_rows(answer: ModelPrescription, widths: Sequence[int], found: Sequence[Any]) -> list[Row]:
    rows, exponents = [], said(answer)
    for op in answer.ops:
        squares = {name: np.array([each[op.name][name] for each in found]) for name in found[0][op.name]}
        if op.size is not None and (squares["s"].mean(1) > 0).all():
            rows.append(_row("s", op.name, exponents["s", op.name], widths, squares["s"]))
        if op.terms and (squares["r"].mean(1) > 0).all():
            row = _row("r", op.name, exponents["r", op.name], widths, squares["r"])
            shares = _shares(op, squares)
            mixture = sum(share * float(op.terms[term] - op.after) for term, share in shares.items())
            rows.append(replace(row, expected=round(mixture, 3), causes=_causes(op, widths, squares, shares)))
    return rows


def _shares(op: OpRow, squares: Mapping[str, Any]) -> dict[str, float]:
    """The part of the sum of squares that each of the terms has, over all widths."""
    parts = {term: squares[term].mean(1) for term in op.terms if term in squares}
    return {term: float(np.mean(part / sum(parts.values()))) for term, part in parts.items()}


def _causes(
    op: OpRow, widths: Sequence[int], squares: Mapping[str, Any], shares: Mapping[str, float]
) -> tuple[Cause, ...]:
    """Alignments from the sizes of a term and of its two factors, and how what enters changes against what is said."""
    found = []

    def exponent(name: str) -> float:
        return float(_exponent(widths, squares[name].mean(1)))

    for term, factors in (("alpha", ("dW", "z")), ("omega", ("W", "dz")), ("u", ("dW", "dz"))):
        if term in shares and all(name in squares and squares[name].all() for name in (term, *factors)):
            aligned = sum(map(exponent, factors)) - exponent(term)
            found.append(Cause(term, round(aligned, 2), float(getattr(op, term)), round(shares[term], 2)))
    if any(cause.what == "omega" for cause in found):
        said = float(op.terms["omega"] - op.after + op.omega) - exponent("W")
        share = sum(each for term, each in shares.items() if term != "alpha")
        found.append(Cause("input", round(exponent("dz"), 2), round(said, 2), round(share, 2)))
    return tuple(found)


def _row(quantity: str, name: str, said: float, widths: Sequence[int], squares: Any) -> Row:
    """The slope of the root mean square over all seeds; its error by leaving out one after the other."""
    seeds = squares.shape[1]
    without = _exponent(widths, (squares.sum(1, keepdims=True) - squares) / (seeds - 1))
    half = 2 * float(np.sqrt((seeds - 1) * np.var(without)))
    means = squares.mean(1)
    fitted, upper = _exponent(widths, means), _exponent(widths[-2:], means[-2:])
    rounded = [round(float(each), 3) for each in (said, fitted, half, upper)]
    return Row(quantity, name, rounded[0], rounded[1], rounded[2], rounded[3])


def _exponent(widths: Sequence[int], squares: Any) -> Any:
    """x of n^-x for the root of those mean squares."""
    return -np.polyfit(np.log(np.asarray(widths, float)), np.log(squares) / 2, 1)[0]


def stored(path: Path = STORED) -> dict[str, Measured]:
    """What was measured, by model."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        name: Measured(tuple(each["widths"]), each["seeds"], tuple(_read(*row) for row in each["rows"]))
        for name, each in content.items()
    }


def _read(*row: Any) -> Row:
    quantity, name, said, measured, half, upper, expected, causes = row
    return Row(quantity, name, said, measured, half, upper, expected, tuple(Cause(*cause) for cause in causes))


def store(found: dict[str, Measured], path: Path = STORED) -> None:
    """Write them, a line a model."""
    lines = [
        json.dumps(name)
        + ": "
        + json.dumps({**asdict(each), "rows": [list(asdict(row).values()) for row in each.rows]})
        for name, each in sorted(found.items())
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
