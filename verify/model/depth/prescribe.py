"""The prescription for make(width, depth): that of the width at the depth that is wanted, and every row along depth."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import wraps

import jax
from sympy import Expr, Rational

from derive.axes import AxisRow, read_sizes
from derive.decays import Decay
from derive.depth import read_kappa, read_residual
from derive.errors import DeriveError, shorten
from derive.options import MAX_DEPTH
from verify.model.depth.multiply import places
from verify.model.depth.program import Program, read_program
from verify.model.depth.rates import depth_rows, missing, read_streams, stream_notes
from verify.model.make import Drawn, Make, UserModel, build, drawn, users_code
from verify.model.prescription import ModelPrescription
from verify.model.rows import ParameterRow, without_numbers
from verify.values import Tree

NAMES = ("a", "b", "c", "g", "s", "epsilon", "decay", "r")


def at_depth(make: Callable[..., Tree], depth: int) -> Make:
    """make(width) of one depth."""

    @wraps(make)
    def at(width: int) -> Tree:
        return make(width, depth)

    return at


@dataclass
class Deeper:
    """What grows: make(width, depth) from one depth to another; DeriveError for depths that do not."""

    make: Callable[..., Tree]
    width: int
    base_depth: int | None
    target: int | None
    alignment: str
    decay: Decay
    residual: str | None = None
    kappa: Expr = field(init=False)
    delta: Rational | None = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is made."""
        sizes = read_sizes("depth", self.base_depth, self.target, MAX_DEPTH)
        if sizes is not None and sizes[0] >= sizes[1]:
            raise DeriveError(f"--base-depth {sizes[0]} is not below --depth {sizes[1]}; tune on the shallower network")
        self.kappa, self.delta = read_kappa(self.alignment), None if self.residual is None else _delta(self.residual)

    @property
    def depths(self) -> tuple[int, int]:
        """(tuned, wanted)."""
        return self.base_depth or 1, self.target or 1

    @property
    def depth(self) -> int:
        """The one that is wanted."""
        return self.depths[1]

    def along_depth(self, wide: ModelPrescription) -> ModelPrescription:
        """The prescription with every row's exponents along depth, and starts as they are at both bases.

        DeriveError for blocks that do not match, and for sums that cannot stay finite.
        """
        models = [build(at_depth(self.make, depth), self.width) for depth in self.depths]
        starts = [drawn(model.params) for model in models]
        shapes = [_shapes(model) for model in models]
        twins = _twins(shapes[0], shapes[1], self.depths)
        programs = [_program(model, self.width, depth) for model, depth in zip(models, self.depths, strict=True)]
        streams = read_streams(programs[0], programs[1], self.depths, (starts[0], starts[1]))
        branches: dict[str, Fraction] = {}
        if self.delta is not None:
            branches = missing(streams, self.delta)
            places(programs[1], branches)
            streams = [stream.entered(self.delta) for stream in streams]
        rules = {without_numbers(row.path): row.rule for row in wide.parameters if row.is_trained}
        rows = depth_rows(streams, rules, self.kappa, self.decay)

        def deeper(row: ParameterRow) -> ParameterRow:
            twin, along = twins[row.path], rows.get(without_numbers(row.path))
            start: Drawn | None = starts[0][twin]
            return replace(
                row,
                base_shape=shapes[0][twin],
                mean=start and start.mean,
                std=start and start.std,
                depth=_exponents(along, row) if row.is_trained else {},
            )

        return replace(
            wide,
            base_depth=self.depths[0],
            depth=self.depths[1],
            branches=branches,
            parameters=tuple(map(deeper, wide.parameters)),
            notes=(*wide.notes, *stream_notes(streams, self.kappa)),
        )


def _delta(residual: str) -> Rational:
    """The multiplier's exponent that was asked for; DeriveError for what no multiplier does."""
    found = read_residual(residual, normed=True)
    if found.at_start or not found.delta.is_Rational or found.delta.is_negative:
        raise DeriveError(
            f"--residual {shorten(residual)}: of your own model it is the multiplier N^-delta that wrap(apply) puts on "
            "branches; give a number from 0, such as 1/2 or 1"
        )
    return found.delta  # type: ignore[return-value]


def _exponents(along: AxisRow | None, row: ParameterRow) -> Mapping[str, Fraction]:
    """By name; those of what stands outside of every branch are 0."""
    if along is None:
        return {name: Fraction(0) for name in NAMES if name != "epsilon" or row.epsilon is not None}
    known = {each.name: getattr(along, each.name) for each in fields(along) if each.name in NAMES}
    symbols = [name for name, value in known.items() if value is not None and value.free_symbols]
    if symbols:
        raise DeriveError("--depth-alignment has symbols in it; give it numbers for a model's rates")
    return {name: Fraction(str(value)) for name, value in known.items() if value is not None}


def _shapes(model: UserModel) -> dict[str, tuple[int, ...]]:
    from verify.model.graph.walk import path_name

    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(model.params)}


def _program(model: UserModel, width: int, depth: int) -> Program:
    with users_code(f"apply(params, inputs) at width {width}, depth {depth}"):
        return read_program(jax.make_jaxpr(model.apply)(model.params, model.batch(0)), model.params)


def _twins(
    few: Mapping[str, tuple[int, ...]], many: Mapping[str, tuple[int, ...]], depths: tuple[int, int]
) -> dict[str, str]:
    """For every parameter at the larger depth the one at the smaller that it is a copy of; DeriveError for none.

    Of the same path, else of that with other numbers in it, as few as can be.
    """
    kinds: dict[str, list[str]] = {}
    for path in few:
        kinds.setdefault(without_numbers(path), []).append(path)
    gone = {without_numbers(path) for path in many} ^ kinds.keys()
    if gone:
        raise DeriveError(
            f"blocks do not match: {shorten(min(gone))} is there at only one of depths {depths[0]} and {depths[1]}; "
            "let make(width, depth) repeat one block, with the same names in it"
        )
    twins = {path: _nearest(path, kinds[without_numbers(path)], few) for path in many}
    for path, twin in twins.items():
        before, after = few[twin], many[path]
        stacked = len(before) == len(after) and before[1:] == after[1:] and before[:1] == depths[:1] != after[:1]
        if before != after and not (stacked and after[0] == depths[1]):
            raise DeriveError(
                f"blocks do not match: {shorten(path)} has shape {after} at depth {depths[1]} and {shorten(twin)} "
                f"{before} at depth {depths[0]}; depth may change the leading axis of a scan, and nothing else"
            )
    if len(many) == len(few) and all(few[twin] == many[path] for path, twin in twins.items()):
        raise DeriveError(
            f"depths {depths[0]} and {depths[1]} change neither a parameter nor its shape; let the blocks go by the "
            "depth that make(width, depth) is given"
        )
    return twins


def _nearest(path: str, twins: list[str], few: Mapping[str, object]) -> str:
    if path in few:
        return path
    parts = path.split(".")
    return min(twins, key=lambda twin: sum(a != b for a, b in zip(parts, twin.split("."), strict=True)))
