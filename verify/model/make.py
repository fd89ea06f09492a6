"""The user's own model: make(width) -> (params, apply, inputs), or with a fourth, loss(outputs, inputs).

`params` is any tree of arrays, `apply(params, inputs)` pure, `inputs` an example of what it reads or a function of the
step that gives one. Flax, Equinox, Haiku and plain functions all come to this in a line or two.
"""

import hashlib
import logging
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr

import verify
from derive.errors import DeriveError, UserError, shorten, unknown_name
from verify.measuring.places import places
from verify.model.graph.graph import Graph
from verify.model.graph.start import key
from verify.model.graph.walk import path_name, walk
from verify.training.networks import ModelError
from verify.values import Leaf, Tree

log = logging.getLogger(__name__)

Make = Callable[[int], Tree]
Apply = Callable[[Tree, Tree], Tree]


LARGEST_MODEL = 2**28
"""Entries of parameters: up to here a model is made whole at the larger width for the values of what it closes over."""


@dataclass(frozen=True)
class UserModel:
    """What make(width) returned; `loss` is None where it gave none."""

    params: Tree
    apply: Apply
    inputs: Tree
    loss: Callable[[Tree, Tree], Leaf] | None = None

    def batch(self, step: int) -> Tree:
        """The inputs of that step; batch 0 is the example."""
        return self.inputs(step) if callable(self.inputs) else self.inputs

    def fingerprint(self, steps: int) -> str:
        """A short digest of batches 0 to `steps`, by which the data of two studies are told apart."""
        digest = hashlib.sha256()
        for step in range(steps + 1):
            for leaf in jax.tree.leaves(self.batch(step)):
                digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Drawn:
    """How a parameter starts: N(mean, std); std is 0 for a constant."""

    mean: float
    std: float

    @property
    def size(self) -> float:
        """Its RMS."""
        return float(np.hypot(self.mean, self.std))


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn whatever the user's own code raises into ModelError with its place, in one line; it stays the cause."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours, library = Path(verify.__file__).parent, "site-packages"
        own = [f for f in frames if library not in (path := Path(f.filename)).parts and ours not in path.parents]
        place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        reason = shorten(str(error).strip().partition("\n")[0], 120)
        raise ModelError(
            f"{what} raised {type(error).__name__}{place}: {reason}; make it run by itself first"
        ) from error


def build(make: Make, width: int) -> UserModel:
    """Call make(width) and check what it returns; ModelError says what is missing."""
    with users_code(f"make({width})"):
        given = make(width)
    return _checked(given, width)


def _checked(given: object, width: int) -> UserModel:
    if not isinstance(given, tuple) or len(given) not in (3, 4) or not callable(given[1]):
        of_torch = "; a PyTorch module wants --framework torch" if hasattr(given, "named_parameters") else ""
        raise ModelError(
            f"make({width}) returned {_described(given)}; it has to return (params, apply, inputs), "
            f"or (params, apply, inputs, loss) with loss(outputs, inputs){of_torch}"
        )
    model = UserModel(*given)
    if model.loss is not None and not callable(model.loss):
        raise ModelError(
            f"make({width}) returned {_described(model.loss)} as the loss; give a function loss(outputs, inputs), or "
            "three values"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        kind = getattr(leaf, "dtype", None)
        if kind is None or not jnp.issubdtype(kind, jnp.floating):
            raise ModelError(
                f"parameter {path_name(path)} is {kind or type(leaf).__name__} and cannot be trained; keep it out of "
                "params, for example with equinox.is_inexact_array or flax.nnx.Param"
            )
    if not jax.tree.leaves(model.params):
        raise ModelError(f"make({width}) returned no parameters; give the tree of arrays that is trained first")
    return model


def _described(given: object) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else shorten(type(given).__name__)


def abstract(make: Make, width: int) -> UserModel:
    """The model with shapes in the place of arrays, so that a large one takes no memory; whole where that fails.

    A make that has `shapes(width)` gives them itself, with what it closes over whole.
    """
    shapes_alone = getattr(make, "shapes", None)
    if shapes_alone is not None:
        return _checked(shapes_alone(width), width)
    kept: list[UserModel] = []

    def shapes() -> Tree:
        model = _checked(make(width), width)
        kept.append(model)
        return model.params, model.batch(0)

    try:
        params, inputs = jax.eval_shape(shapes)
        model = UserModel(params, kept[0].apply, inputs)
        jax.eval_shape(model.apply, params, inputs)  # what it closes over must not belong to the trace above
    except (jax.errors.JAXTypeError, jax.errors.UnexpectedTracerError):
        return build(make, width)
    return model


def graph_of(make: Make, base_width: int, width: int, frozen: Sequence[str] = ()) -> tuple[Graph, UserModel, Tree]:
    """(graph between the two widths, model at the base width, shapes of the parameters at the width).

    `frozen` are paths, beginnings of paths or patterns with * of parameters that are not trained.
    """
    if base_width == width:
        raise ModelError(f"both widths are {width}; the roles show between two widths, so give two that differ")
    if not 0 < base_width < width:
        raise ModelError(f"widths {base_width} -> {width} do not grow; give the smaller one as the base width")
    log.info("tracing the model at width %s", base_width)
    small = build(make, base_width)
    narrow = _program(small, base_width)  # first, so that mistakes show before anything wide is made
    log.info("tracing the model at width %s", width)
    with users_code(f"make({width})"):
        large = abstract(make, width)
        if _kinds(_program(large, width)) != _kinds(narrow):  # arrays that make left abstract count as operations
            large = build(make, width)
        elif _leaked(_program(large, width)) and _entries(large.params) <= LARGEST_MODEL:
            large = build(make, width)  # the values of what apply closes over are needed
    paths = matching(small.params, frozen)
    if [leaf.shape for leaf in jax.tree.leaves(small.params)] == [leaf.shape for leaf in jax.tree.leaves(large.params)]:
        raise ModelError(
            f"widths {base_width} and {width} change no parameter's shape; let the model's sizes go by the width given"
        )
    log.info("finding the role of every parameter")
    graph = walk((narrow, _program(large, width)), (small.params, large.params), (base_width, width), paths)
    values = graph.stopped and _abstract(large.params) and not _abstract(small.params)
    if values and _entries(large.params) <= LARGEST_MODEL:
        large = build(make, width)  # and of what is frozen
        graph = walk((narrow, _program(large, width)), (small.params, large.params), (base_width, width), paths)
    addresses = {key(use): use.address for use in graph.uses if use.is_dense}
    graph.places = places(narrow, addresses | {product.name: product.address for product in graph.products})
    return graph, small, jax.eval_shape(lambda tree: tree, large.params)


def matching(params: Tree, frozen: Sequence[str], argument: str = "frozen") -> list[str]:
    """The paths of the parameters that are meant; DeriveError for one that means none."""
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    found: list[str] = []
    for each in frozen:
        meant = [path for path in paths if fnmatchcase(path, each) or path.startswith(f"{each}.")]
        if not meant:
            raise unknown_name(f"parameter in {argument}", each, paths)
        found += meant
    return found


def _abstract(params: Tree) -> bool:
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))


def _leaked(program: ClosedJaxpr) -> bool:
    """Whether the program has arrays that belong to the abstract run of make, so that nobody knows their values."""
    return any(isinstance(each, Tracer) for each in program.consts) or any(
        _leaked(body)
        for eqn in program.jaxpr.eqns
        for value in eqn.params.values()
        for body in (value if isinstance(value, tuple | list) else (value,))
        if isinstance(body, ClosedJaxpr)
    )


def _entries(tree: Tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _kinds(program: ClosedJaxpr) -> tuple[int, list[str]]:
    """What both widths of one program have alike: how many constants, and which operations."""
    return len(program.consts), [eqn.primitive.name for eqn in program.jaxpr.eqns]


def _program(model: UserModel, width: int) -> ClosedJaxpr:
    with users_code(f"apply(params, inputs) at width {width}"):
        return jax.make_jaxpr(model.apply)(model.params, model.batch(0))


def drawn(params: Tree) -> dict[str, Drawn | None]:
    """How every parameter was drawn, from its entries; None where there are only shapes.

    A mean within four of its standard errors counts as 0.
    """
    found: dict[str, Drawn | None] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if isinstance(leaf, jax.ShapeDtypeStruct):
            found[path_name(path)] = None
            continue
        entries = np.asarray(leaf, dtype=np.float64)
        if not np.isfinite(entries).all():
            raise ModelError(f"parameter {path_name(path)} starts with entries that are not finite; draw it anew")
        if entries.size == 0:  # nothing is drawn
            found[path_name(path)] = Drawn(0.0, 0.0)
            continue
        mean, std = float(entries.mean()), float(entries.std())
        chance = abs(mean) <= 4 * std / max(entries.size, 1) ** 0.5
        found[path_name(path)] = Drawn(
            0.0 if chance and std > 0 else mean, float(np.sqrt(np.mean(entries**2))) if chance else std
        )
    return found


def load_make(text: str) -> Make:
    """The function that module:name names, imported with the current folder on the path; DeriveError otherwise.

    What ends in .json is a decoder's config (`verify.model.decoder_config`).
    """
    if text.endswith(".json"):
        from verify.model.decoder_config import make_from_config

        return make_from_config(Path(text))
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name.isidentifier():
        raise DeriveError(
            f"{shorten(text)} does not name a function; write module:make, such as examples.gated_mlp:make"
        )
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    dotted = module_name.removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise DeriveError(f"{shorten(module_name)} is no module below this folder; run where it lies, as module:make")
    try:
        with users_code(f"importing {shorten(dotted)}"):
            module = import_module(dotted)
    except ModelError as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise DeriveError(
            f"cannot import {shorten(module_name)}: {error.__cause__}; run where it lies, or install what it needs"
        ) from None
    make = getattr(module, name, None)
    if not callable(make):
        raise DeriveError(f"{shorten(module_name)} has no function {name}; name one that takes a width")
    return make
