"""What a coordinate check measures at one width: every seed and every set-up in one compiled program.

Set-ups of one model differ in numbers alone (width of the prescription, means and stds of the start), which are
arguments; only a transform of the user's own is a program of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from derive.errors import shorten
from verify.measuring.forward import change, measure, root_mean_square
from verify.measuring.trace import DenseOp, Operands, Trace, trace
from verify.model.graph.walk import path_name
from verify.model.make import Apply, Drawn, ModelError, UserModel, users_code
from verify.model.multipliers import multiplied
from verify.model.prescription import ModelPrescription
from verify.training.runs import for_each
from verify.training.trainer import log_spaced
from verify.values import Leaf, Tree

Loss = Callable[[Tree, Tree], Leaf]
Transform = Callable[[int], optax.GradientTransformation]
Numbers = Mapping[str, Leaf]
"""The numbers of one set-up: width (and depth, where that grows), and mean and std of every parameter's start."""
Found = dict[int, dict[str, dict[str, Leaf]]]
"""Sizes by step, name and quantity, one per run: of dense ops, of parameters by path, of products of activations."""


def default_loss(outputs: Tree, _: Tree) -> Leaf:
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


@dataclass
class Coordinates:
    """One model at one width, trained by the prescription's rules, or by `transform` where it is given."""

    model: UserModel
    prescription: ModelPrescription
    epsilon: float | None = None
    transform: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        self.loss: Loss = self.model.loss or default_loss
        with users_code("loss(outputs, inputs)"):
            value = jax.eval_shape(
                lambda p, b: self.loss(self.model.apply(p, b), b), self.model.params, self.model.batch(0)
            )
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ModelError(f"loss(outputs, inputs) gives {shorten(str(value))}; it has to give one number, a mean")

    def numbers(self, width: int, starts: Sequence[Drawn], depth: int | None = None) -> Numbers:
        """Those of one set-up: `width` is that of the prescription, `starts` are by parameter at its base width.

        `depth` too where the prescription has one.
        """
        arrays = {name: np.array([getattr(start, name) for start in starts], np.float32) for name in ("mean", "std")}
        sizes = {"width": width} | ({} if depth is None else {"depth": depth})
        return {name: np.float32(size) for name, size in sizes.items()} | arrays

    def prescribed(self, numbers: Numbers) -> ModelPrescription:
        """The prescription with those numbers in it."""
        rows = tuple(
            replace(row, mean=numbers["mean"][index], std=numbers["std"][index])
            for index, row in enumerate(self.prescription.parameters)
        )
        depth = numbers.get("depth", self.prescription.depth)
        return replace(self.prescription, width=numbers["width"], depth=depth, parameters=rows)

    def wrapped(self, how: ModelPrescription) -> Apply:
        """The function with that set-up's multipliers, as `ModelPrescription.wrap`, by values that may be traced."""
        by_exponent = {x: how.factor(x) for x in how.multipliers.values()}
        products = {name: by_exponent[x] for name, x in how.multipliers.items() if x}
        branches = {name: how.deeper(x) for name, x in how.branches.items()}
        inner = multiplied(self.model.apply, products, branches) if products or branches else self.model.apply
        if not any(row.a for row in how.parameters):
            return inner
        return lambda params, inputs: inner(
            how._each(lambda row, leaf: (leaf * how.factor(row.a)).astype(leaf.dtype), params), inputs
        )

    def batches(self, steps: int) -> Tree:
        """The batches 1 to `steps` on a leading axis; ModelError where their shapes differ."""
        with users_code("inputs(step), whose batches need one shape for all steps,"):
            rows = [self.model.batch(step) for step in range(1, steps + 1)]
            return jax.tree.map(lambda *each: jnp.stack(each), *rows)

    def measured(self, setups: Sequence[Numbers], seeds: int, steps: int, rate: float) -> list[Found]:
        """What every set-up's networks show, a number per seed."""
        runs = [(setup, seed) for setup in setups for seed in range(seeds)]
        numbers = jax.tree.map(lambda *each: jnp.stack(each), *[setup for setup, _ in runs])
        keys = jnp.stack([jax.random.key(seed) for _, seed in runs])

        def run(numbers: Numbers, key: Leaf, batches: Tree) -> Tree:
            return self._run(numbers, key, batches, steps, rate)

        found = jax.device_get(jax.jit(for_each(run, (True, True, False)))(numbers, keys, self.batches(steps)))
        by_setup = jax.tree.map(lambda x: x.reshape(len(setups), seeds, -1), found)  # the last axis is of marks
        return [
            {
                step: jax.tree.map(lambda x, i=i, index=index: x[i, :, index].tolist(), by_setup)
                for index, step in enumerate(log_spaced(steps))
            }
            for i in range(len(setups))
        ]

    def _run(self, numbers: Numbers, key: Leaf, batches: Tree, steps: int, rate: float) -> Tree:
        """One network's sizes at the marks, on a leading axis."""
        how = self.prescribed(numbers)
        apply, probe = self.wrapped(how), self.model.batch(0)
        transform = self.transform or how.optimizer(rate, epsilon=self.epsilon)
        initial = how.init(key, self.model.params)
        traced = trace(apply, initial, probe)
        start = _Start.of(traced, initial, probe)
        zero = jax.tree.map(jnp.zeros_like, initial)
        with users_code("the optimizer's init and update"):
            state = transform.init(initial)
            idle, _ = transform.update(zero, state, initial)  # without a gradient only decay is left

        def look(params: Tree) -> Tree:
            return start.sizes(traced, params, idle, probe)

        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, initial))

        def step(carry: Tree, given: Tree) -> Tree:
            (params, state), (batch, marked) = carry, given
            gradients = jax.grad(lambda p: self.loss(apply(p, batch), batch))(params)
            updates, state = transform.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), jax.lax.cond(marked, look, lambda _: nothing, params)

        marks = np.array(log_spaced(steps)) - 1
        marked = np.isin(np.arange(steps), marks)
        sizes = jax.lax.scan(step, (initial, state), (batches, marked))[1]
        return jax.tree.map(lambda x: x[marks], sizes)


@dataclass(frozen=True)
class _Start:
    """What is kept of the initial network."""

    params: Tree
    inputs: dict[str, Leaf]
    outputs: dict[str, Leaf]
    products: dict[str, Leaf]

    @classmethod
    def of(cls, traced: Trace, params: Tree, probe: Tree) -> "_Start":
        outputs: dict[str, Leaf] = {}

        def evaluate(op: DenseOp, operands: Operands) -> Leaf:
            product = traced.product(op, *operands)
            outputs[op.name] = root_mean_square(product)
            return product

        operands = traced.run(params, probe, evaluate=evaluate)[1]
        products = traced.product_values(params, probe) if traced.products else {}
        return cls(params, {name: each.input for name, each in operands.items()}, outputs, products)

    def sizes(self, traced: Trace, params: Tree, idle: Tree, probe: Tree) -> dict[str, dict[str, Leaf]]:
        """Sizes of every dense op, parameter (at "parameter PATH") and product ("product NAME") by quantity."""
        found = measure(traced, self.params, self.inputs, params, probe)
        for name, size in self.outputs.items():
            found[name]["output"] = size
        rms = root_mean_square
        leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in (self.params, params, idle)]
        for (path, then), (_, now), (_, left) in zip(*leaves, strict=True):
            size = rms(then)
            found[f"parameter {path_name(path)}"] = {
                "weight": size,
                "delta_w": rms(change(now.astype(jnp.float32), then.astype(jnp.float32), ulps=1)),
                "decay": rms(left) / jnp.where(size > 0, size, 1),
            }
        present = traced.product_values(params, probe) if self.products else {}
        for name, then in self.products.items():
            found[f"product {name}"] = {"output": rms(then), "delta_output": rms(change(present[name], then))}
        return found
