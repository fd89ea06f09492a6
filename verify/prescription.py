"""A prescription for the user's own model, parameter by parameter: plain numbers by path, and what applies them.

    W ~ base std (n / n_0)^-b      multiplier (n / n_0)^-a      rate base rate (n / n_0)^-c      epsilon, decay alike
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from derive import __version__
from derive.alignments import Alignment, Ratios, measured_by_op
from derive.alignments import alignment as read_alignment
from derive.errors import DeriveError, shorten, unknown_name
from derive.exponents import KINDS, Kind
from derive.optimizers import Optimizer
from derive.optimizers import optimizers as read_optimizers
from derive.parameterizations import Parameterization
from derive.parameterizations import parameterization as read_parameterization
from derive.propagation import LOSSES, Loss, Optimizers
from derive.solve import DECAYS, Decay
from verify.graph import ZERO, Fan, Graph, Use, roles_note
from verify.graph_rates import Rates, Wanted, key, solve_graph
from verify.graph_walk import path_name
from verify.multipliers import multiplied
from verify.optimizers import ScaledRule, base_epsilon, check_trainable, per_layer
from verify.trace import Shape, Tree
from verify.user_model import Apply, Drawn, Make, drawn, graph_of

Gauge = Literal["0", "own"]
GAUGES: tuple[Gauge, ...] = get_args(Gauge)
SCHEMA = 1


@dataclass(frozen=True)
class ParameterRow:
    """One parameter: what it is and why, how it starts at the base width, and its exponents (size n^-x).

    `a` is the multiplier to put before it, `found` that of the multipliers in the model's own code, `b` the initial
    size, `c` the rate, `g` the gradient, `s` the update, `epsilon` and `decay` those of Adam's epsilon and of lambda.
    `mean` and `std` are None where the model at the base width had shapes instead of numbers.
    """

    path: str
    base_shape: Shape
    shape: Shape
    role: Kind
    why: str
    rule: str
    mean: float | None
    std: float | None
    a: Fraction
    found: Fraction
    b: Fraction
    c: Fraction
    g: Fraction
    s: Fraction
    epsilon: Fraction | None
    decay: Fraction
    binding: tuple[str, ...]
    uses: tuple[str, ...]

    @property
    def start(self) -> Drawn:
        """How it is drawn at the base width; DeriveError where that is not known."""
        if self.mean is None or self.std is None:
            raise DeriveError(
                f"how {self.path} starts is not known, since make(base width) gave shapes; let it return arrays"
            )
        return Drawn(self.mean, self.std)


@dataclass(frozen=True)
class OpRow:
    """What is predicted for one dense op: its role, alignments as powers of n, size at initialisation, and r.

    r is the smallest of `terms`, the exponents of DW z (alpha), W Dz (omega) and DW Dz (u); `size` is None where the
    weight and its input are not independent. All are of its output with the multipliers that follow it, n^-after, in the model's code or put in by `wrap`.
    """

    name: str
    path: str
    kind: Kind
    fan_in: tuple[int, int]
    fan_out: tuple[int, int]
    alpha: Fraction
    omega: Fraction
    u: Fraction
    size: Fraction | None
    r: Fraction
    after: Fraction
    terms: Mapping[str, Fraction]


@dataclass(frozen=True)
class ModelPrescription:
    """The prescription for one model from its base width to `width`; plain data, equal after JSON.

    `multipliers` are the exponents of single products that no parameter can carry (one table used twice, q k^T), by
    name; where there are any, or where `gauge` is "own", the function has to be wrapped.
    """

    base_width: int
    width: int
    optimizer_name: str
    parameterization: str
    alignment: str
    loss: Loss
    decay: Decay
    gauge: Gauge
    parameters: tuple[ParameterRow, ...]
    ops: tuple[OpRow, ...]
    multipliers: Mapping[str, Fraction]
    notes: tuple[str, ...]
    certificate: Mapping[str, Any] = field(repr=False)
    structure: Any = field(default=None, repr=False, compare=False)

    def factor(self, exponent: Fraction | None) -> float:
        """(width / base width)^-exponent; 1 for none."""
        return 1.0 if exponent is None else (self.width / self.base_width) ** -float(exponent)

    def at(self, width: int) -> "ModelPrescription":
        """The same exponents at another width; shapes stay those of the width they were derived for."""
        return replace(self, width=width)

    def row(self, path: str) -> ParameterRow:
        """The row of that parameter; DeriveError suggesting the nearest one otherwise."""
        for row in self.parameters:
            if row.path == path:
                return row
        raise unknown_name("parameter", path, [row.path for row in self.parameters])

    @property
    def needs_wrapping(self) -> bool:
        """Whether `wrap` changes the function."""
        return any(row.a != 0 for row in self.parameters) or any(self.multipliers.values())

    def _each(self, function: Callable[[ParameterRow, Any], Any], params: Tree) -> Tree:
        rows = {row.path: row for row in self.parameters}

        def one(path: Any, leaf: Any) -> Any:
            name = path_name(path)
            if name not in rows:
                raise unknown_name("parameter", name, rows)
            return function(rows[name], leaf)

        return jax.tree_util.tree_map_with_path(one, params)

    def init(self, key: Key[Array, ""], like: Tree | None = None) -> Tree:
        """Draw every parameter at the width, N(mean, std) n^-b; the same numbers for the same key, path by path.

        `like` is a tree with the shapes (arrays or jax.ShapeDtypeStruct); by default that of make(width), which a
        prescription read from JSON does not have. DeriveError then.
        """
        like = self.structure if like is None else like
        if like is None:
            raise DeriveError("a prescription read from JSON has no shapes; give init(key, like=params)")

        def draw(row: ParameterRow, leaf: Any) -> Array:
            start, scale = row.start, self.factor(row.b)
            own = jax.random.fold_in(key, zlib.crc32(row.path.encode()) & 0x7FFFFFFF)
            normal = jax.random.normal(own, leaf.shape, jnp.float32) if start.std else jnp.zeros(leaf.shape, jnp.float32)
            return (scale * (start.mean + start.std * normal)).astype(leaf.dtype)

        return self._each(draw, like)

    def rescale(self, params: Tree) -> Tree:
        """Parameters drawn by the model's own initialisers at the width, each multiplied to have the prescribed RMS.

        DeriveError for one that is zero here and not at the base width.
        """

        def scale(row: ParameterRow, leaf: Any) -> Any:
            target = row.start.size * self.factor(row.b)
            size = jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))
            if not isinstance(size, jax.core.Tracer) and target > 0 and float(size) == 0:
                raise DeriveError(
                    f"{row.path} is all zero and at the base width its RMS is {row.start.size:.3g}; draw it, or use init"
                )
            return (leaf * (target / size if target else 0.0)).astype(leaf.dtype)

        return self._each(scale, params)

    def wrap(self, apply: Apply) -> Apply:
        """The function with its multipliers: n^-a before every parameter, and those of single products."""
        products = {name: self.factor(x) for name, x in self.multipliers.items() if x}
        inner = multiplied(apply, products) if products and self.width != self.base_width else apply
        if not any(row.a for row in self.parameters):
            return inner

        def wrapped(params: Tree, inputs: Tree) -> Tree:
            return inner(self._each(lambda row, leaf: leaf * self.factor(row.a), params), inputs)

        return wrapped

    def optimizer(
        self,
        base_rate: float | Array,
        schedule: optax.Schedule | None = None,
        *,
        weight_decay: float = 0.0,
        epsilon: float | None = None,
    ) -> optax.GradientTransformation:
        """The optax transform at the width: rate = base_rate schedule(step) n^-c, epsilon n^-e, decay n^-decay.

        All at the base width as given; `epsilon` is by default the optimizer's usual one. DeriveError for an optimizer
        that cannot be trained, and for matrix rules on parameters that are no matrices.
        """
        check_trainable({row.path: row.rule for row in self.parameters})
        self._check_matrices()
        rules: dict[tuple[Any, ...], ScaledRule] = {}
        labels: dict[str, str] = {}
        for row in self.parameters:
            start = base_epsilon(row.rule) if epsilon is None else epsilon
            numbers = (self.factor(row.c), start * self.factor(row.epsilon), weight_decay * self.factor(row.decay))
            group = (row.rule, *numbers)
            if group not in rules:
                rate = base_rate * numbers[0]
                scheduled = rate if schedule is None else lambda step, rate=rate: rate * schedule(step)
                rules[group] = ScaledRule(f"group {len(rules)}", row.rule, scheduled, *numbers[1:])
            labels[row.path] = rules[group].label

        def label(params: Tree) -> Tree:
            return self._each(lambda row, _: labels[row.path], params)

        return per_layer(list(rules.values()), label)

    def _check_matrices(self) -> None:
        rules = {row.name: row for row in read_rules(self.optimizer_name).values()}
        for row in self.parameters:
            if rules[row.rule].is_spectral and len(row.shape) != 2:
                raise DeriveError(
                    f"{row.rule} updates matrices, and {row.path} has shape {row.shape}; give another optimizer for "
                    f"its kind, such as adam,hidden=muon, or reshape the parameter"
                )

    def to_json(self) -> str:
        """The prescription as JSON, exponents as exact strings; `from_json` reads it back."""
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "structure"}
        content |= {name: [asdict(row) for row in content[name]] for name in ("parameters", "ops")}
        head = {"schema": SCHEMA, "command": "prescribe", "version": __version__}
        return json.dumps({**head, **content}, indent=1, default=str) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ModelPrescription":
        """Read what `to_json` wrote; DeriveError for anything else."""
        try:
            content = json.loads(text)
            if content.pop("schema") != SCHEMA or content.pop("command") != "prescribe":
                raise ValueError("another schema")
            content.pop("version")
            for name, kind in (("parameters", ParameterRow), ("ops", OpRow)):
                content[name] = tuple(_row(kind, entry) for entry in content[name])
            content["multipliers"] = {name: Fraction(value) for name, value in content["multipliers"].items()}
            content["notes"] = tuple(content["notes"])
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DeriveError(
                f"this is not a prescription of schema {SCHEMA} ({shorten(str(error))}); give what to_json, or verify "
                "prescribe --format json, wrote"
            ) from None


def _row(kind: type[Any], entry: Mapping[str, Any]) -> Any:
    """A row from its JSON: exponents are strings, tuples lists."""
    exponents = {"a", "found", "b", "c", "g", "s", "epsilon", "decay", "alpha", "omega", "u", "size", "r", "after"}

    def read(name: str, value: Any) -> Any:
        if name in exponents and value is not None:
            return Fraction(value)
        if name == "terms":
            return {term: Fraction(exponent) for term, exponent in value.items()}
        return tuple(value) if isinstance(value, list) else value

    return kind(**{name: read(name, value) for name, value in entry.items()})


def read_rules(text: str | Optimizer) -> Optimizers:
    """Optimizers per layer kind from names or from an object."""
    return dict.fromkeys(KINDS, text) if isinstance(text, Optimizer) else read_optimizers(text)


def prescribe(
    make: Make,
    *,
    base_width: int,
    width: int,
    optimizer: str | Optimizer = "adam",
    parameterization: str | Parameterization = "mup",
    alignment: str | Alignment | Mapping[str, Ratios] = "full",
    loss: Loss = "mse",
    decay: Decay = "independent",
    gauge: Gauge = "0",
) -> ModelPrescription:
    """The prescription for make(width) -> (params, apply, inputs), tuned at `base_width` and wanted at `width`.

    Roles come from how dimensions grow between the two widths, rates from the linear program over the function's
    graph (THEORY 4). `alignment` may be a mapping from names of dense ops to Ratios, or `measured:FILE` as `verify
    check` wrote it. `gauge` "0" leaves the model's own multipliers as they are and asks for none; "own" puts the
    parameterization's in, and `wrap` applies them. DeriveError, or TraceError of the same kind, for what cannot be
    decided: nothing is guessed.
    """
    if loss not in LOSSES or decay not in DECAYS or gauge not in GAUGES:
        raise DeriveError(f"loss is one of {LOSSES}, decay of {tuple(DECAYS)}, gauge of {GAUGES}; got {loss}, {decay}, {gauge}")
    graph, model, shapes = graph_of(make, base_width, width)
    measured: Mapping[str, Ratios] = {}
    if isinstance(alignment, str) and alignment.strip().lower().startswith("measured:"):
        measured, name = measured_by_op(Path(alignment.strip()[len("measured:") :])), alignment.strip()
        assumed = read_alignment("full")
    elif isinstance(alignment, Mapping):
        measured, name, assumed = alignment, "measured", read_alignment("full")
    else:
        assumed = read_alignment(alignment) if isinstance(alignment, str) else alignment
        name = assumed.name
    unknown = measured.keys() - {use.name for use in graph.uses if use.is_dense}
    if unknown:
        raise unknown_name("dense op in the alignments", min(unknown), [use.name for use in graph.uses if use.is_dense])
    scheme = read_parameterization(parameterization) if isinstance(parameterization, str) else parameterization
    rules = read_rules(optimizer)
    wanted = Wanted(rules, scheme, assumed, loss, gauge == "own", measured)
    rates = solve_graph(graph, wanted)
    return _assembled(graph, rates, wanted, drawn(model.params), shapes, base_width, width, name, decay, gauge)


def _assembled(
    graph: Graph,
    rates: Rates,
    wanted: Wanted,
    starts: Mapping[str, Drawn | None],
    structure: Tree,
    base_width: int,
    width: int,
    alignment: str,
    decay: Decay,
    gauge: Gauge,
) -> ModelPrescription:
    uses = graph.of_path()
    share = Fraction(*map(int, DECAYS[decay].as_numer_denom()))
    rows = []
    for path, found in rates.parameters.items():
        start = starts[path]
        rows.append(
            ParameterRow(
                path,
                *graph.shapes[path],
                found.role,
                _why(uses[path], rates),
                wanted.optimizers[found.role].name,
                start and start.mean,
                start and start.std,
                found.a,
                found.found,
                found.b,
                found.c,
                found.g,
                found.s,
                found.epsilon,
                -share * found.c,
                found.binding,
                tuple(key(use) for use in uses[path]),
            )
        )
    ops = []
    for use in graph.uses:
        if use.is_dense:
            it = rates.uses[use.name]
            after = (use.trailing or ZERO) + it.extra
            size = None if it.tied else it.total - use.fan_in.power / 2
            fan_in, fan_out = ((fan.base, fan.target) for fan in (use.fan_in, use.fan_out))
            ops.append(
                OpRow(use.name, use.path, it.kind, fan_in, fan_out, it.alpha, it.omega, it.u, size, it.r, after, it.terms)
            )
    multipliers = {key(use): rates.uses[key(use)].extra for use in graph.uses if rates.uses[key(use)].extra}
    multipliers |= {name: extra for name, extra in rates.products.items() if extra}
    names = {kind: row.name for kind, row in wanted.optimizers.items()}
    joined = ",".join(f"{kind}={name}" for kind, name in names.items())
    solution = rates.solution
    certificate = {
        "optimum": str(solution.optimum),
        "variables": len(rates.objective),
        "constraints": len(rates.rows),
        "duals": {f"{index}: {rates.rows[index].name}": str(y) for index, y in enumerate(solution.duals) if y},
    }
    return ModelPrescription(
        base_width,
        width,
        names["hidden"] if len(set(names.values())) == 1 else joined,
        wanted.parameterization.name,
        alignment,
        wanted.loss,
        decay,
        gauge,
        tuple(rows),
        tuple(ops),
        multipliers,
        (*rates.notes, *_odd_fans(graph), *_multiplier_notes(graph, rates, multipliers)),
        certificate,
        structure,
    )


def _why(uses: list[Use], rates: Rates) -> str:
    """What shows the role: the fans and where the output goes."""
    reasons = []
    for use in uses:
        kind = rates.uses[key(use)].kind
        if not use.is_dense:
            reasons.append("added or multiplied entry by entry" if use.fan_out.grows else "a vector that does not grow")
        elif use.primitive == "gather":
            reasons.append(f"a lookup of rows of {use.fan_out}")
        else:
            where = {
                "embedding": "its fan-in stays",
                "hidden": "feeds further layers",
                "readout": "goes to the output",
            }[kind]
            reasons.append(f"fan-in {use.fan_in}, fan-out {use.fan_out}, {where}")
    counted = {reason: reasons.count(reason) for reason in reasons}
    return "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counted.items())


def _odd_fans(graph: Graph) -> list[str]:
    """A line for every dimension that grows neither as the width nor not at all."""
    found: dict[str, list[str]] = {}
    for use in graph.uses:
        for side, fan in (("fan-in", use.fan_in), ("fan-out", use.fan_out)):
            for line in roles_note([fan]):
                found.setdefault(f"{side} {line}", []).append(use.path)
    return [
        f"{paths[0]}" + (f" and {len(set(paths)) - 1} more" if len(set(paths)) > 1 else "")
        + f": {line}, not as the width or not at all; its exponents are by that power"
        for line, paths in found.items()
    ]


def _multiplier_notes(graph: Graph, rates: Rates, multipliers: Mapping[str, Fraction]) -> list[str]:
    fans: dict[str, Fan] = {product.name: product.fan_in for product in graph.products}
    lines = []
    for name, extra in multipliers.items():
        if name in fans:
            lines.append(
                f"the product of activations {name} sums over {fans[name]}: with aligned factors it needs n^{-extra} more "
                "than the code divides by; wrap(apply) multiplies it, or change the code's scale"
            )
        else:
            path = cast("Any", next(use for use in graph.uses if key(use) == name)).path
            lines.append(
                f"the product {name} needs the multiplier n^{-extra} of its own, since {path} has another use; "
                "wrap(apply) multiplies it, or multiply its output by hand"
            )
    return lines
