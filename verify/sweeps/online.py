"""Rates that follow the alignments of their own run: measured in its compiled loop, where `derive` is solved again.

After steps 1, k, k^2, ..., on a fixed probe batch, for every dense op with an alignment (n = n_0 is the base width;
docs/theory.md, sections 2 and 5):

    alpha = log(RMS(DW z_0) / (RMS(DW) RMS(z_0))) / log(fan_in),   omega and u alike, at most 1 and the cap
    c = largest_rates(alpha, omega, u),   rate_l = base rate constant_l (n / n_0)^-c_l from then on

Until the first measurement the run is that of full alignment, and at n = n_0 it is for ever.

A ratio at one width holds a constant, C n^alpha, that passes for a power: alpha + log C / log n is found. A rate that
follows it is off by C^-(1 - log n_0 / log n), which is 1 at the base width and tends to 1/C: a bounded factor that
grows over the first widths, and no power of the width in the end. Slopes across widths have no such constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from sympy import Rational

from derive.alignments import FULL
from derive.decays import followed_share
from derive.parameterizations import Parameterization
from derive.propagation import Optimizers, Problem
from derive.recursion import largest_rates
from derive.registry import optimizer
from derive.words import KINDS
from verify.measuring.forward import Scalar, initial_inputs, measure
from verify.measuring.trace import trace
from verify.sweeps.records import Conditions, LayerScaling
from verify.training.data import Corpus
from verify.training.networks import Model, Params
from verify.values import Leaf, Tree

PROBE_SHARE = 4
"""The probe batch is this part of a training batch, so that its four products cost a third of a step's work."""

Ratios = Float[Array, "3 dense"]
"""alpha, omega, u of every layer but the embedding, which has none."""


@dataclass(frozen=True)
class Plan:
    """When alignments are measured, after steps 1, `growth`, growth^2, ..., and how decay follows: lambda ~ n^(x c)."""

    growth: int
    decay: str

    def steps(self, total: int) -> list[int]:
        """The steps after which alignments are measured in a run of `total` steps; none after the last one."""
        steps = [1]
        while steps[-1] * self.growth < total:
            steps.append(steps[-1] * self.growth)
        return [step for step in steps if step < total]


class ClosedForm:
    """The largest stable rates of a setting's layers as a function of traced alignments.

    `full` are the alignments of full alignment, `most` the largest that the layers' rules allow.
    """

    def __init__(self, layers: Sequence[LayerScaling], clips: bool) -> None:
        of_kind = {layer.kind: layer for layer in layers}
        rules: Optimizers = {kind: optimizer(of_kind[kind].rule) for kind in KINDS}
        a, b = (tuple(Rational(getattr(of_kind[kind], name)) for kind in KINDS) for name in ("a", "b"))
        scheme = Parameterization("the setting's", a, b)  # type: ignore[arg-type]
        self.chain = Problem(rules, scheme, FULL, len(layers) - 2, clip_global_norm=clips).chain()
        ratios = (self.chain.alpha, self.chain.omega, self.chain.u)
        self.full = np.array([[float(each) for each in row[1:]] for row in ratios], dtype=np.float32)
        self.most = np.stack([self.full[0], np.ones_like(self.full[1]), self.full[2]])

    def exponents(self, ratios: Ratios) -> Float[Array, " layers"]:
        """c of every layer, embedding first: what `derive` answers for these alignments, in float32."""
        chain = self.chain
        alpha, omega, u = ([0.0, *row] for row in ratios)  # the embedding's are not read
        a, b, s = ([float(each) for each in row] for row in (chain.a, chain.b, chain.s))
        c, _ = largest_rates(a, b, s, alpha, omega, u, chain.bounded, maximum=jnp.maximum, minimum=jnp.minimum)
        return jnp.stack(c)


def log_alignments(sizes: dict[str, Scalar], fan_in: int) -> Float[Array, "3"]:
    """alpha, omega, u of one op from its measured sizes, base fan_in; not finite where nothing has moved."""

    factors = {"alpha": ("delta_w", "input"), "omega": ("weight", "delta_input"), "u": ("delta_w", "delta_input")}
    ratios = [
        jnp.log(sizes[f"term_{name}"]) - jnp.log(sizes[left]) - jnp.log(sizes[right])
        for name, (left, right) in factors.items()
    ]
    return jnp.stack(ratios) / math.log(fan_in)


class Followed(NamedTuple):
    """What one run carries from step to step: what measuring needs of its start, and what was found last."""

    key: Key[Array, ""]
    probe: Int[Array, "probe context"]
    inputs: dict[str, Array]
    ratios: Ratios
    c: Float[Array, " layers"]


class Online:
    """Measures and solves again inside a compiled loop: functions of one run, to be mapped over many.

    `layers` come at their rates of full alignment; `shapes` and `labels` are the trees of the parameters' shapes and
    layer names. The ops of one layer count as one, each ratio the largest among them, as `derive` reads a measurement.
    """

    def __init__(
        self,
        plan: Plan,
        layers: Sequence[LayerScaling],
        conditions: Conditions,
        model: Model,
        shapes: Params,
        labels: Params,
    ) -> None:
        self.plan, self.model = plan, model
        self.ratio = model.scaling.width / model.scaling.base_width
        self.steps = np.array(plan.steps(conditions.steps), dtype=np.int32)
        self.solver = ClosedForm(layers, conditions.clip is not None)
        self.full_c = np.array([float(Fraction(layer.c)) for layer in layers], dtype=np.float32)
        self.probe_size = max(1, conditions.batch // PROBE_SHARE)
        tokens = jax.ShapeDtypeStruct((self.probe_size, model.context), jnp.int32)  # type: ignore[attr-defined]
        with jax.default_matmul_precision("highest"):
            traced = trace(model.apply, shapes, tokens)
        named = jax.tree_util.tree_leaves_with_path(labels)
        self.layer_of = {jax.tree_util.keystr(path, simple=True, separator="."): label for path, label in named}
        # Compiled, nothing is drawn or computed for the ops left out here: the embedding has most of the weights.
        self.trace = replace(traced, ops=tuple(op for op in traced.ops if self.layer_of[op.path] != "embedding"))
        self.layers = [layer.label for layer in layers[1:]]

    def probe(self, corpus: Corpus, targets: Tree) -> Int[np.ndarray, "probe context"]:
        """The probe batch: fixed, the same for all runs, and of training text, so that no rate comes from the held-out.

        Training starts at step 1; this is what its step 0 would have been.
        """
        return corpus.batch("train", self.probe_size, self.model.context, 0, 0, targets)[0]  # type: ignore[attr-defined]

    def start(self, key: Key[Array, ""], params: Params, probe: Int[Array, "probe context"]) -> Followed:
        """What is carried from the first step on: z_0, and full alignment with its rates."""
        inputs = initial_inputs(self.trace, params, probe)
        kept = {op.name: inputs[op.name] for op in self.trace.ops}
        return Followed(key, probe, kept, jnp.asarray(self.solver.full), jnp.asarray(self.full_c))

    def scaled(self, rates: Float[Array, " layers"], followed: Followed) -> tuple[Float[Array, " layers"], Leaf]:
        """The rates for what was found last, from those of full alignment, and the factors of the layers' decays."""
        moved = followed.c - self.full_c
        share = float(followed_share(self.plan.decay))
        return rates * self.ratio**-moved, self.ratio ** (share * moved)

    def follow(self, step: Int[Array, ""], params: Tree, before: Followed) -> Followed:
        """After that step: measure and solve again where it is time to, which is a branch of its own."""

        def again() -> tuple[Array, Array]:
            found = jnp.minimum(self.measured(params, before), self.solver.most)
            ratios = jnp.where(jnp.isfinite(found), found, before.ratios)
            return ratios, self.solver.exponents(ratios)

        ratios, c = jax.lax.cond(jnp.any(step == self.steps), again, lambda: (before.ratios, before.c))
        return before._replace(ratios=ratios, c=c)

    def measured(self, params: Tree, followed: Followed) -> Ratios:
        """The layers' alignments now; not finite where nothing has moved."""
        initial = self.model.init(followed.key)
        sizes = measure(self.trace, initial, followed.inputs, params, followed.probe)
        ratios = {op.name: log_alignments(sizes[op.name], op.fan_in) for op in self.trace.ops}
        by_layer = [
            [ratios[op.name] for op in self.trace.ops if self.layer_of[op.path] == layer] for layer in self.layers
        ]
        return jnp.stack([reduce(jnp.fmax, each) for each in by_layer], axis=1)
