"""What holds on a graph before anything is trained: roles, initial sizes, multipliers, gradients and updates.

A use's a + b is what gives its output size 1 (docs/theory.md, section 1); the gradient of a node is a root mean square
over its entries, n^-g, so that a product's way back adds squares:

    through W, fan_out growing as n^f:  g + a + b - f/2        g of W:  g of the output + a + e_z - (positions that
                                                               share it)/2, added up at random signs

A layer that makes a fixed number of outputs from one that grows is a readout, the model's last or not: what is sent
back through it changes what enters along its few rows, with which W dz aligns. Where it feeds others its role is
hidden all the same, and it starts and aligns as a readout. What it makes is n^-1/2 at the start in muP and n^0 after a
step; g is that at the start, and a rule that follows the gradient goes by the larger.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import cast

from sympy import Expr, Rational, S

from derive.alignments import Alignment, Ratios
from derive.matrix_functions import by_side, takes_matrices
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization
from derive.propagation import Loss, Optimizers
from derive.words import Kind
from verify.measuring.axes import Axes
from verify.model.graph.graph import FAR, ZERO, Graph, GraphError, Owner, Use, power


@dataclass(frozen=True)
class Wanted:
    """What is asked of the rates, as in `derive.propagation.Problem`; `own_multipliers` folds a's multipliers in.

    `measured` are alignments of single dense ops by name, in the place of the assumed ones. `apart` are axes of
    parameters, by path, along which a matrix rule takes a matrix at every index. `forward_only`: multipliers, those
    in the user's code and a's, are in no gradient of the parameter that they multiply.
    """

    optimizers: Optimizers
    parameterization: Parameterization
    alignment: Alignment
    loss: Loss = "mse"
    own_multipliers: bool = False
    measured: Mapping[str, Ratios] = field(default_factory=dict)
    apart: Mapping[str, int] = field(default_factory=dict)
    forward_only: bool = False


def fraction(value: Expr) -> Fraction:
    """The exponent as an exact number; GraphError where there are symbols in it."""
    if not isinstance(value, Rational):
        raise GraphError(f"the exponent {value} has symbols in it; give numbers for a model of your own")
    return Fraction(int(value.p), int(value.q))


def _rational(value: Fraction) -> Rational:
    return cast("Rational", Rational(value.numerator, value.denominator))


def kinds(graph: Graph) -> dict[str, Kind]:
    """The kind of every use, by name (vectors by "NAME as a vector"): its fans, and whether it feeds further layers."""
    feeds = graph.feeds_weights()
    return {key(use): kind_of(use, feeds[use.node]) for use in graph.uses}


def key(use: Use) -> str:
    """A use's name; that of a vector says so."""
    return use.name if use.is_dense else f"{use.name} as a vector"


def kind_of(use: Use, feeds: bool) -> Kind:
    """Embedding where fan_in stays; readout where it alone grows and the output goes out; hidden otherwise."""
    if not use.fan_in.grows:
        return "embedding"
    return "hidden" if feeds or use.fan_out.grows else "readout"


def started_as(use: Use, kind: Kind) -> Kind:
    """The kind as which a use starts and aligns: one that narrows is a readout, unless what enters never changes, or is
    changed by a weight's sum over positions that grow in number, which aligns with no single one's rows (token mixing).
    """
    aligns = use.narrows and use.input_node is not None and use.shared <= 0
    return "readout" if kind == "hidden" and aligns else kind


@cache
def _update(
    rule: Optimizer, fans: tuple[Fraction, Fraction], g: Fraction, b: Fraction
) -> tuple[Fraction, Fraction, Fraction, Fraction | None]:
    """(s, alignment cap, degree in the gradient, epsilon) of an update of that rule."""
    powers = (_rational(fans[0]), _rational(fans[1]))
    gradient, weight = _rational(g), _rational(b)
    epsilon = rule.epsilon(powers, gradient, weight)
    if epsilon is not None and not rule.scaled_epsilon:
        epsilon = S.Zero
    return (
        fraction(rule.size(powers, gradient, weight)),
        fraction(rule.alignment_cap(powers, gradient, weight)),
        fraction(rule.gradient_degree(powers, gradient, weight)),
        None if epsilon is None else fraction(epsilon),
    )


class Start:
    """Roles, sizes, multipliers, gradients g and updates s of every parameter, and the notes on them."""

    def __init__(self, graph: Graph, wanted: Wanted) -> None:
        self.graph, self.wanted = graph, wanted
        feeds = graph.feeds_weights()
        self.kind: dict[Owner, Kind] = {use: kind_of(use, feeds[use.node]) for use in graph.uses}
        self.started_as: dict[Owner, Kind] = {use: started_as(use, self.kind[use]) for use in graph.uses}
        self.uses = {path: uses for path, uses in graph.of_path().items() if uses}
        self.notes: list[str] = list(graph.notes)
        self.extra: dict[Owner, Fraction] = {}
        self.a: dict[str, Fraction] = {}
        self.b: dict[str, Fraction] = {}
        self.role: dict[str, Kind] = {}
        self.main: dict[str, Use] = {}
        for path, uses in self.uses.items():
            self._initialise(path, uses)
        for product in graph.all_products:
            aligned = product.fan_in.power * fraction(wanted.alignment.hidden.alpha)
            self.extra[product] = max(ZERO, aligned - product.found) if product.fan_in.grows else ZERO
        found, later = self._gradients(self.smaller), self._gradients(lambda _: ZERO)
        self.gradient = {path: g for path, g in found.items() if g < FAR}
        self.largest = {path: min(g, later[path]) for path, g in self.gradient.items()}
        self._untrained([path for path in graph.shapes if path not in self.gradient])
        self.axes = {path: self._matrix(path) for path in self.gradient}
        self.update = {path: self._update_of(path) for path in self.gradient}
        self._rarely_seen()

    def _matrix(self, path: str) -> Axes | None:
        """The axes of the matrices that the parameter's rule takes; None where it takes none or uses differ in them."""
        rule = self.wanted.optimizers[self.role[path]].rule
        if not takes_matrices(rule) or len(self.graph.shapes[path][0]) < 2:
            return None
        found = [use.axes() for use in self.uses[path] if use.is_dense]
        alike = {axes and (axes if by_side(rule) else frozenset(axes.inputs + axes.outputs)) for axes in found}
        return self.main[path].axes() if len(alike) == 1 else None

    def matrices(self, path: str) -> Axes | None:
        """The same with the axis of those that are apart counting matrices."""
        axes, axis = self.axes[path], self.wanted.apart.get(path)
        return axes if axes is None or axis is None else axes.without(axis)

    def _update_of(self, path: str) -> tuple[Fraction, Fraction, Fraction, Fraction | None]:
        """(s, alignment cap, degree in the gradient, epsilon) of the parameter's update."""
        main, rule = self.main[path], self.wanted.optimizers[self.role[path]]
        fan_in, fan_out, parts = main.fan_in.power, main.fan_out.power, ZERO
        if path in self.wanted.apart:
            axis, axes = self.wanted.apart[path], self.axes[path]
            if axes is None or axis not in (*axes.inputs, *axes.outputs):
                takes = f"its rule, {rule.name}, takes no matrices of it" if axes is None else f"that is none of {axes}"
                raise GraphError(
                    f"{path} is to have matrices apart along axis {axis}, and {takes}; give an axis of the fan-in or "
                    "fan-out of a parameter that has a rule such as muon"
                )
            sizes = (shape[axis] for shape in self.graph.shapes[path])
            grown = power(*sizes, self.graph.ratio)
            if axis in axes.inputs:
                fan_in, parts = fan_in - grown, grown
            else:
                fan_out -= grown
        size, cap, degree, _ = _update(rule, (fan_in, fan_out), self.largest[path], self.b[path])
        *_, epsilon = _update(rule, (fan_in, fan_out), self.gradient[path], self.b[path])
        return size, cap + parts, degree, epsilon  # what n^parts matrices make of their inputs is added up

    def _untrained(self, paths: Sequence[str]) -> None:
        """Say to which parameters no gradient flows; GraphError where there is none that is trained."""
        if not self.gradient:
            raise GraphError(
                f"no parameter is trained: none of {len(paths)} reaches the output by steps that pass on small changes "
                "and gradients (sign, argmax and stop_gradient do not); give one that does"
            )
        if paths:
            self.notes.append(
                f"not trained, since no gradient reaches {'it' if len(paths) == 1 else 'them'} (unused, frozen, or "
                f"behind sign, argmax or stop_gradient): {', '.join(paths[:8])}"
                + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
            )

    def _rarely_seen(self) -> None:
        """Say which rows are seen ever less often; GraphError where a step's size follows from how often."""
        rare = [f"{use.path} has rows" for use in self.graph.uses if use.shared < 0]
        if self.wanted.loss == "ce" and any(count > 0 for *_, count in self.graph.outputs):
            rare.append("the output has classes")
        if not rare:
            return
        seen = f"{rare[0]} that grow in number, of which a batch sees a smaller share at every width"
        if any(degree > 0 for _, _, degree, _ in self.update.values()):
            raise GraphError(
                f"{seen}: how far a rule whose steps follow the gradient may move one that is seen cannot be told from "
                "root mean squares; use one that normalises, such as adam, or keep their number"
            )
        self.notes.append(f"{seen}: g and epsilon are by the mean over all, seen and unseen")

    def total(self, use: Use) -> Fraction:
        """What a + b of that use has to be: for activations of size 1 at the start, or the scheme's on a readout."""
        if self.started_as[use] == "embedding":
            return ZERO
        total = fraction(self.wanted.parameterization.total(self.started_as[use]))
        if self.tied(use):
            # Its input holds rows of the same table, whose products with themselves add up as n.
            total = max(total, Fraction(1))
        return use.fan_in.power * total

    def smaller(self, use: Hashable) -> Fraction:
        """By how much the output of a use is smaller as drawn than once it has aligned."""
        if not isinstance(use, Use) or self.tied(use):
            return ZERO
        half = use.fan_in.power / 2
        if use.fixed is None:
            return max(ZERO, self.total(use) - half)
        return min(half, max(ZERO, use.fixed + use.input_size - half))

    def tied(self, use: Use) -> bool:
        """Whether this is the readout of a table that is the embedding as well."""
        return self.kind[use] == "readout" and any(self.kind[other] == "embedding" for other in self.uses[use.path])

    def _initialise(self, path: str, uses: Sequence[Use]) -> None:
        """A parameter's role, multiplier and initial size; uses that want another size get a multiplier."""
        order: list[Kind] = ["embedding", "hidden", "readout"]
        main = min(uses, key=lambda use: (order.index(self.kind[use]), not use.is_dense))
        role = self.kind[main]
        self.main[path], self.role[path] = main, role
        free = [use for use in uses if use.fixed is None]
        multiplier = ZERO
        if self.wanted.own_multipliers and len(free) == len(uses):
            powers = {"embedding": main.fan_out.power, "hidden": main.fan_in.power, "readout": main.fan_in.power}
            start = self.started_as[main]
            multiplier = fraction(self.wanted.parameterization.at(start)[0]) * powers[start] - main.found
        self.a[path] = multiplier
        demands = {use: self.total(use) - use.found - multiplier for use in uses}
        # What is normalised starts at any size; that which normalising leaves as it is.
        self.b[path] = min((demands[use] for use in free), default=main.fixed or ZERO)
        for use, demand in demands.items():
            self.extra[use] = demand - self.b[path] if use.fixed is None else max(ZERO, demand - use.fixed)
        if not free:
            self.notes.append(f"{path} is divided by its own norm: its rate is for a start of size n^{-self.b[path]}")
            return
        if len(uses) > 1 and len(set(demands.values())) > 1:
            wants = ", ".join(f"{self.kind[use]} wants n^{-demand}" for use, demand in demands.items())
            tied = "; its readout aligns with what it embedded, as n^1" if any(map(self.tied, uses)) else ""
            self.notes.append(
                f"{path} is used {len(uses)} times, and no one initial size fits ({wants}{tied}); it takes the "
                f"largest, and the other products are multiplied apart"
            )
        elif len({self.kind[use] for use in uses}) > 1:
            self.notes.append(f"{path} is used as {' and as '.join(sorted({self.kind[use] for use in uses}))}")

    def multiplier(self, use: Use) -> Fraction:
        """The exponent of all that multiplies the weight in this use, before what trails it."""
        normalising = ZERO if use.fixed is None else use.fixed - self.b[use.path]
        return use.scale + self.a[use.path] + self.extra[use] + normalising

    def _unseen(self, use: Use) -> Fraction:
        """The exponent of the multipliers around a use that its gradient lacks where they act forward only."""
        return use.scale + self.a[use.path] + (use.trailing or ZERO)

    def _gradients(self, smaller: Callable[[Hashable], Fraction]) -> dict[str, Fraction]:
        """g of every parameter where what readouts make is `smaller` by that: back through the graph, the largest
        gradient that arrives counts.
        """
        back = [FAR] * len(self.graph.nodes)
        # A loss is a mean over entries; under cross-entropy one of them has a gradient of order 1.
        share = Fraction(1, 2) if self.wanted.loss == "ce" else Fraction(1)
        for node, _, offset, count in self.graph.outputs:
            back[node] = min(back[node], offset.at(smaller) + share * count)
        found = dict.fromkeys(self.uses, FAR)
        for index in reversed(range(len(back))):
            node, now = self.graph.nodes[index], back[index]
            if now >= FAR:
                continue
            product = self.extra[node.product] if node.product else ZERO
            for edge in node.edges:
                back[edge.source] = min(back[edge.source], now + edge.back.at(smaller) + product)
            use = node.use
            if use is None:
                continue
            # A vector's own scale is part of the way back from its node already.
            scale = self.multiplier(use) - (ZERO if use.is_dense else use.scale)
            if not use.stopped:
                unseen = self._unseen(use) if self.wanted.forward_only else ZERO
                sums = use.input_size + use.cancelled.at(smaller) - use.shared / 2
                found[use.path] = min(found[use.path], now + scale + sums - unseen)
            if use.input_node is not None:
                forward = self.b[use.path] + self.multiplier(use)
                arriving = now + forward - use.fan_out.power / 2 + use.input_back.at(smaller)
                back[use.input_node] = min(back[use.input_node], arriving)
        return found
