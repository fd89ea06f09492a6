"""A prescription for the user's own model, parameter by parameter: plain numbers by path, and what applies them.

W ~ base std (n / n_0)^-b      multiplier (n / n_0)^-a      rate base rate (n / n_0)^-c      epsilon, decay alike
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.core import Tracer
from jax.tree_util import KeyPath
from jaxtyping import Array, Key

from derive import __version__
from derive.certify import Certificate
from derive.decays import Decay
from derive.errors import DeriveError, shorten, unknown_name
from derive.matrix_functions import OF_MATRICES, takes_matrices
from derive.propagation import Loss
from derive.registry import optimizer as read_optimizer
from verify.measuring.axes import Axes
from verify.model.graph.walk import path_name
from verify.model.make import Apply
from verify.model.multipliers import multiplied
from verify.model.rows import NOT_TRAINED, OpRow, ParameterRow, read_row
from verify.training.rules.directions import check_averages, check_trainable
from verify.training.rules.transforms import ScaledRule, decayed_of, is_oriented, per_layer
from verify.training.rules.usual import base_epsilon
from verify.values import Entries, Leaf, Tree

if TYPE_CHECKING:
    from verify.torch.standalone import Scaling

Gauge = Literal["0", "own"]
GAUGES: tuple[Gauge, ...] = get_args(Gauge)
SCHEMA = 1


@dataclass(frozen=True)
class ModelPrescription:
    """The prescription for one model from its base width to `width`; plain data, equal after JSON.

    `multipliers` are the exponents of single products that no parameter can carry (one table used twice, q k^T), by
    name; where there are any, or where `gauge` is "own", the function has to be wrapped. `proof` is the program with
    its answer and duals, as `derive.certify` checked it; it stays out of the JSON, which has the duals. `forward_only`:
    multipliers are in no gradient of the parameter that they multiply. `branches` are the exponents x of N^-x that
    `wrap` multiplies branches of a stream by, by the parameters that they are made of. `places` say where dense ops and
    the products with multipliers stand, by the named scopes of the code: "blocks.3.attn: linear" in a PyTorch module.
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
    certificate: Entries = field(repr=False)
    forward_only: bool = False
    places: Mapping[str, str] = field(default_factory=dict, repr=False)
    structure: Any = field(default=None, repr=False, compare=False)
    proof: Certificate | None = field(default=None, repr=False, compare=False)
    base_depth: int | None = None
    depth: int | None = None
    branches: Mapping[str, Fraction] = field(default_factory=dict)

    def factor(self, exponent: Fraction | None) -> float:
        """(width / base width)^-exponent; 1 for none."""
        return 1.0 if exponent is None else (self.width / self.base_width) ** -float(exponent)

    def deeper(self, exponent: Fraction) -> float:
        """(depth / base depth)^-exponent; 1 where depth does not grow."""
        return (
            1.0 if self.depth is None or self.base_depth is None else (self.depth / self.base_depth) ** -float(exponent)
        )

    def scaled(self, row: ParameterRow, name: str) -> float:
        """The factor of that name, b, c, epsilon or decay, from the base to the size that is wanted."""
        return self.factor(getattr(row, name)) * self.deeper(row.depth.get(name, Fraction(0)))

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
        return any(row.a != 0 for row in self.parameters) or any((*self.multipliers.values(), *self.branches.values()))

    def _each(self, function: Callable[[ParameterRow, Leaf], Leaf], params: Tree) -> Tree:
        rows = {row.path: row for row in self.parameters}

        def one(path: KeyPath, leaf: Leaf) -> Leaf:
            name = path_name(path)
            # nnx.State names its Variables' arrays NAME.value, and nnx.Optimizer hands over the arrays themselves.
            known = next((each for each in (name, f"{name}.value", name.removesuffix(".value")) if each in rows), None)
            if known is None:
                raise unknown_name("parameter", name, rows)
            return function(rows[known], leaf)

        return jax.tree_util.tree_map_with_path(one, params)

    def init(self, key: Key[Array, ""], like: Tree | None = None) -> Tree:
        """Draw every parameter at the width, N(mean, std) n^-b; the same numbers for the same key, path by path.

        `like` is a tree with the shapes (arrays or jax.ShapeDtypeStruct); by default that of make(width), which a
        prescription read from JSON does not have. DeriveError then.
        """
        like = self.structure if like is None else like
        if like is None:
            raise DeriveError("a prescription read from JSON has no shapes; give init(key, like=params)")

        def draw(row: ParameterRow, leaf: Leaf) -> Array:
            start, scale = row.start, self.scaled(row, "b")
            own = jax.random.fold_in(key, zlib.crc32(row.path.encode()) & 0x7FFFFFFF)
            normal = jax.random.normal(own, leaf.shape, jnp.float32)
            return (scale * (start.mean + start.std * normal)).astype(leaf.dtype)

        return self._each(draw, like)

    def rescale(self, params: Tree) -> Tree:
        """Parameters drawn by the model's own initialisers at the width, each multiplied to have the prescribed RMS.

        DeriveError for one that is zero here and not at the base width.
        """

        def scale(row: ParameterRow, leaf: Leaf) -> Leaf:
            if not row.is_trained:
                return leaf
            target = row.start.size * self.scaled(row, "b")
            size = jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))
            if not isinstance(size, Tracer) and target > 0 and float(size) == 0:
                raise DeriveError(
                    f"{row.path} is all zero and at the base width its RMS is {row.start.size:.3g}; draw it, or init"
                )
            return (leaf * (target / size if target else 0.0)).astype(leaf.dtype)

        return self._each(scale, params)

    def wrap(self, apply: Apply) -> Apply:
        """The function with its multipliers: n^-a before every parameter, and those of single products and branches."""
        products = (
            {} if self.width == self.base_width else {n: self.factor(x) for n, x in self.multipliers.items() if x}
        )
        branches = {} if self.depth == self.base_depth else {n: self.deeper(x) for n, x in self.branches.items() if x}
        inner = multiplied(apply, products, branches) if products or branches else apply
        if not any(row.a for row in self.parameters):
            return inner

        def scaled(row: ParameterRow, leaf: Leaf) -> Leaf:
            whole = leaf * self.factor(row.a)
            return leaf + jax.lax.stop_gradient(whole - leaf) if self.forward_only else whole

        def wrapped(params: Tree, inputs: Tree) -> Tree:
            return inner(self._each(scaled, params), inputs)

        return wrapped

    def rates(self, params: Tree) -> Tree:
        """n^-c of every parameter, in a tree like the parameters: what its rate is times the base rate; 0 untrained."""
        return self._each(lambda row, _: self.scaled(row, "c") if row.is_trained else 0.0, params)

    def epsilons(self, params: Tree) -> Tree:
        """n^-e of every parameter, in a tree like the parameters; 1 where its rule has no epsilon."""
        return self._each(lambda row, _: self.scaled(row, "epsilon"), params)

    def decays(self, params: Tree) -> Tree:
        """n^-decay of every parameter, in a tree like the parameters: its weight decay over that of the base."""
        return self._each(lambda row, _: self.scaled(row, "decay") if row.is_trained else 0.0, params)

    def multipliers_of(self, params: Tree) -> Tree:
        """n^-a of every parameter, in a tree like the parameters: what `wrap` multiplies it by."""
        return self._each(lambda row, _: self.factor(row.a), params)

    def __str__(self) -> str:
        """The table that `verify prescribe` prints."""
        from verify.model import text

        return text.table(self)

    def optimizer(
        self,
        base_rate: float | Array | optax.Schedule,
        schedule: optax.Schedule | None = None,
        *,
        weight_decay: float | Array = 0.0,
        epsilon: float | Array | None = None,
        mask: Tree = None,
        b1: float | Array | None = None,
        b2: float | Array | None = None,
        momentum: float | Array | None = None,
    ) -> optax.GradientTransformation:
        """The optax transform at the width: rate = base_rate schedule(step) n^-c, epsilon n^-e, decay n^-decay.

        All at the base width as given; `base_rate` may be a schedule, and `epsilon`, `b1`, `b2`, `momentum` are by
        default the optimizer's usual ones, each given to the rules that have it. `mask` says what is decayed, as in
        optax: a tree of bools, or a function of the parameters that gives one; by default all but vectors (biases,
        gains). Numbers may be traced, as by optax.inject_hyperparams(..., static_args="mask"). DeriveError for an
        optimizer that cannot be trained, a keyword that no rule has, and for matrix rules on parameters that are no
        matrices. Those of more axes than two are the matrices of `dimension_numbers`.
        """
        names = {row.path: row.rule for row in self.parameters if row.is_trained}
        check_trainable(names)
        averages = check_averages({*names.values()}, {"b1": b1, "b2": b2, "momentum": momentum})
        rules: dict[tuple[object, ...], ScaledRule] = {}  # exponents tell them apart also where the width is traced
        labels: dict[tuple[str, bool], str] = {}
        for row in self.parameters:
            variants = (len(row.shape) > 1,) if mask is None else (False, True)
            for decayed in variants if row.is_trained else ():
                start = base_epsilon(row.rule) if epsilon is None else epsilon
                decay = weight_decay * self.scaled(row, "decay") if decayed else 0.0
                rate, eps = self.scaled(row, "c"), start * self.scaled(row, "epsilon")
                exponents = row.c, row.epsilon, row.decay, *sorted(row.depth.items())
                group = (row.rule, *exponents, decayed, axes := self._axes(row))
                if group not in rules:
                    name, scheduled = f"group {len(rules)}", _scheduled(base_rate, rate, schedule)
                    rules[group] = ScaledRule(name, row.rule, scheduled, eps, decay, axes=axes, averages=averages)
                labels[row.path, decayed] = rules[group].label

        def label(params: Tree) -> Tree:
            decays = decayed_of(params, mask)
            return self._each(lambda row, leaf: labels.get((row.path, leaf), NOT_TRAINED), decays)

        return per_layer(list(rules.values()), label, still=NOT_TRAINED)

    def dimension_numbers(self, params: Tree) -> Tree:
        """A tree like the parameters, of optax.contrib.MuonDimensionNumbers, None where the rule takes no matrices.

        `optimizer` follows it, and optax.contrib.muon takes it as its muon_weight_dimension_numbers.
        """

        def numbers(row: ParameterRow, _: Leaf) -> Leaf:
            axes = self._axes(row) if row.is_trained else None
            return None if axes is None else optax.contrib.MuonDimensionNumbers(*axes)

        return self._each(numbers, params)

    def _axes(self, row: ParameterRow) -> Axes | None:
        """The axes of the matrices that the row's rule takes; DeriveError where it takes some and there are none."""
        rule = read_optimizer(row.rule).rule
        if not takes_matrices(rule) or (len(row.shape) < 2 and not rule.has(*OF_MATRICES)):
            return None
        if row.in_axes or row.out_axes:
            return Axes(row.in_axes, row.out_axes)
        if len(row.shape) == 2:
            return Axes((1,), (0,)) if self._is_transposed(row) else Axes((0,), (1,))
        raise DeriveError(
            f"{row.rule} updates matrices, and {row.path} has shape {row.shape}"
            + (", of which no product shows one fan-in and fan-out" if len(row.shape) > 2 else "")
            + "; give another optimizer for its kind, such as adam,hidden=muon, or reshape the parameter"
        )

    def _is_transposed(self, row: ParameterRow) -> bool:
        """Whether the matrix is stored as [fan_out, fan_in] and its rule asks for them, by the sizes of its outputs.

        DeriveError where it is used both ways, as a table that is looked up and also the readout's weight.
        """
        if not is_oriented(row.rule):
            return False
        ends = [tuple(axis) for axis in zip(row.base_shape, row.shape, strict=True)]
        outputs = {tuple(op.fan_out) for op in self.ops if op.path == row.path}
        if outputs <= {ends[1]}:
            return False
        if outputs <= {ends[0]}:
            return True
        raise DeriveError(
            f"{row.rule} asks for fan-in and fan-out, and {row.path} of shape {row.shape} has outputs of "
            f"{' and '.join(str(target) for _, target in sorted(outputs))}; give its kind a rule without them"
        )

    def of_width_alone(self, what: str) -> None:
        """DeriveError where depth grows too, of which `what` knows nothing."""
        if self.depth is not None:
            raise DeriveError(
                f"{what} goes by the width alone, and this prescription by depth {self.base_depth} -> {self.depth} "
                "too; prescribe without depth for it"
            )

    def torch(self) -> "Scaling":
        """The prescription in PyTorch's terms: `param_groups`, `optimizers`, `rescale_` and `apply_multipliers`.

        `verify prescribe --format torch` writes the same as one file. DeriveError where torch is not installed.
        """
        from verify.torch.emit import scaling

        return scaling(self)

    def to_json(self) -> str:
        """The prescription as JSON, exponents as exact strings; `from_json` reads it back."""
        content = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("structure", "proof")
        }
        content |= {name: [asdict(row) for row in content[name]] for name in ("parameters", "ops")}
        if self.depth is None:  # as it was before there was depth
            del content["depth"], content["base_depth"], content["branches"]
            for row in content["parameters"]:
                del row["depth"]
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
                content[name] = tuple(read_row(kind, entry) for entry in content[name])
            for name, known in (("multipliers", content["multipliers"]), ("branches", content.get("branches", {}))):
                content[name] = {each: Fraction(value) for each, value in known.items()}
            content["notes"] = tuple(content["notes"])
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DeriveError(
                f"this is not a prescription of schema {SCHEMA} ({shorten(str(error))}); give what to_json, or verify "
                "prescribe --format json, wrote"
            ) from None


def _scheduled(
    base_rate: float | Array | optax.Schedule, factor: float, schedule: optax.Schedule | None
) -> float | Array | optax.Schedule:
    """base_rate schedule(step) factor; a schedule of optax where either is one."""
    if callable(base_rate):
        return lambda step: base_rate(step) * factor * (1.0 if schedule is None else schedule(step))
    rate = base_rate * factor
    return rate if schedule is None else lambda step: rate * schedule(step)
