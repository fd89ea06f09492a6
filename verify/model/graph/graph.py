"""The graph of any JAX function in the width: apply(params, inputs), traced at two widths and walked side by side.

Every value is a constant, made of parameters alone, or an activation. Of an activation the graph knows how its size and
its change since initialisation scale: size n^-e with e from the constants that multiply it, change n^-r with r the
minimum of its terms (docs/theory.md, section 4). What holds for single operations is in
`verify.model.graph.rules.rules`.

    product of factors x, y:  r = min(r_x + e_y, r_y + e_x)      sum: r = min(r_x, r_y)
    sum over an axis that grows as n^f:  r - f, since changes may align; constants n^-m:  r + m
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Literal

from verify.measuring.axes import Axes
from verify.measuring.jaxpr import DensePrimitive, Shape, TraceError
from verify.model.graph.drawn import NONE, DrawnExponent

ZERO = Fraction(0)
HALF = Fraction(1, 2)
OUTPUT = "the output"
FAR = Fraction(10**6)
"""An exponent that says: nothing arrives here."""


class GraphError(TraceError):
    """What cannot be decided about a model, why, and what to do, in one line."""


@dataclass(frozen=True)
class Fan:
    """One dimension, or product of some, at the base width and at the target: it grows as n^power."""

    base: int
    target: int
    power: Fraction

    @property
    def grows(self) -> bool:
        """Whether it depends on the width."""
        return self.power > 0

    def __str__(self) -> str:
        return f"{self.base} -> {self.target}" if self.base != self.target else str(self.base)


@dataclass(eq=False)
class Use:
    """One place where a parameter meets an activation: a dense op, or a vector that is added or multiplied.

    `node` is the graph's node of its output, `input_node` that of its input (None where the input never changes), with
    r of the input r_node + input_shift. `scale` is the exponent of the constants that the weight is multiplied by, and
    `input_size` that of the input, which as drawn is smaller by n^-cancelled. `trailing` is the exponent of the
    constants that its output is multiplied by before anything else; scale, input_size and trailing are multipliers in
    the user's own code, n^-found together. `address` is its place in the program: the index of its equation, within the
    equation that holds that one, and so on. `shared` is the power of n in the number of positions that this one weight
    is used at, over which its gradient sums. `asked` is the smallest exponent by which a consumer multiplies it. Where
    the code normalises the weight, `fixed` is the exponent of its size. `stopped`: this use has no gradient.
    `axes` tells which axes of the parameter are its matrix's, None where they cannot be told.
    """

    name: str
    path: str
    primitive: DensePrimitive | Literal["vector"]
    fan_in: Fan
    fan_out: Fan
    node: int
    scale: Fraction
    address: tuple[int, ...] = ()
    input_node: int | None = None
    input_shift: Fraction = ZERO
    input_back: DrawnExponent = NONE
    input_size: Fraction = ZERO
    cancelled: DrawnExponent = NONE
    shared: Fraction = ZERO
    trailing: Fraction | None = None
    asked: Fraction = FAR
    fixed: Fraction | None = None
    stopped: bool = False
    axes: Callable[[], Axes | None] = lambda: None

    @property
    def is_dense(self) -> bool:
        """Whether it is a product with a weight, rather than a vector."""
        return self.primitive != "vector"

    @property
    def narrows(self) -> bool:
        """Whether it makes a fixed number of outputs from one that grows, as a readout does."""
        return self.fan_in.grows and not self.fan_out.grows

    @property
    def found(self) -> Fraction:
        """The exponent of the multipliers that the user's own code has around this use."""
        return self.scale + self.input_size + (self.trailing or ZERO)


@dataclass(eq=False)
class Product:
    """A product of two activations, such as q k^T; where the dimension that it sums over grows, alignment counts.

    `coherent`: no entry of either is negative, so that nothing cancels.
    """

    name: str
    fan_in: Fan
    node: int
    input_size: Fraction
    address: tuple[int, ...] = ()
    trailing: Fraction | None = None
    asked: Fraction = FAR
    coherent: bool = False

    @property
    def found(self) -> Fraction:
        """The exponent of the multipliers that the user's own code has around this product."""
        return self.input_size + (self.trailing or ZERO)

    @property
    def cancelled(self) -> Fraction:
        """By how much a product that is an average, as softmax's, is smaller as drawn than where its terms align."""
        averages = self.trailing is not None and self.found >= self.fan_in.power and not self.coherent
        return self.fan_in.power / 2 if averages else ZERO


Owner = Use | Product


@dataclass(frozen=True)
class Edge:
    """How a node's change follows that of another: r <= r_source + forward; gradient exponents flow back by `back`."""

    source: int
    forward: Fraction
    back: DrawnExponent


@dataclass
class Node:
    """A value whose change is the largest of several terms; `uses` and `product` add theirs to the edges'.

    `layer`: it is what a matrix that is not trained makes of its source.
    """

    edges: list[Edge] = field(default_factory=list)
    use: Use | None = None
    product: Product | None = None
    layer: bool = False


@dataclass(frozen=True)
class Requirement:
    """A place where the change must not outgrow what is there: r_node + shift >= 0, the shift less the size of the
    value for whoever consumes it (theory 11); `what` says where.
    """

    node: int
    shift: Fraction
    what: str


@dataclass
class Graph:
    """All that the width does to a function: nodes in order of computation, uses of parameters, what must stay finite.

    `outputs` are (node, shift, back, power of n in their number) of the function's results. `untrained` are the
    parameters without a use, with the exponents of the sizes that they have, `stopped` those that are frozen in some
    use. `places` are the scopes of the code that dense ops and products stand in, by name. `problems` are what could
    not be understood, `notes` what was decided and is worth saying.
    """

    ratio: Fraction
    shapes: Mapping[str, tuple[Shape, Shape]]
    nodes: list[Node] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    all_products: list[Product] = field(default_factory=list)
    requirements: list[Requirement] = field(default_factory=list)
    outputs: list[tuple[int, Fraction, DrawnExponent, Fraction]] = field(default_factory=list)
    untrained: dict[str, Fraction] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    places: Mapping[str, str] = field(default_factory=dict)

    def add(self, node: Node) -> int:
        """Append the node; its index."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def problem(self, text: str) -> None:
        """Say what is not understood, once."""
        if text not in self.problems:
            self.problems.append(text)

    def fan(self, base: int, target: int) -> Fan:
        """The dimension with its power of the width; one that shrinks is a problem."""
        if target < base:
            self.problem(
                f"a dimension shrinks from {base} to {target} while the width grows; give widths at which every "
                "dimension grows or stays, such as multiples of the heads' size"
            )
        return Fan(base, target, power(base, target, self.ratio))

    @property
    def products(self) -> list[Product]:
        """The products that sum over a dimension that grows."""
        return [product for product in self.all_products if product.fan_in.grows]

    def of_path(self) -> dict[str, list[Use]]:
        """The uses of every parameter, in order."""
        found: dict[str, list[Use]] = {path: [] for path in self.shapes}
        for use in self.uses:
            found[use.path].append(use)
        return found

    def feeds_weights(self) -> list[bool]:
        """For every node whether its value enters a later dense op or product."""
        feeds = [False] * len(self.nodes)
        for index in reversed(range(len(self.nodes))):
            node = self.nodes[index]
            if node.use is not None and node.use.input_node is not None:
                feeds[node.use.input_node] = True
            for edge in node.edges:
                # A product with data is linear; one of two values that change is not.
                feeds[edge.source] |= feeds[index] or (node.product is not None and len(node.edges) > 1) or node.layer
        # A use whose output feeds a later one feeds through its input as well; one sweep reached all, in order.
        return feeds


@cache
def power(base: int, target: int, ratio: Fraction) -> Fraction:
    """p with target / base = ratio^p: 0, 1 and other simple fractions exactly, anything else to six decimals."""
    if base == target:
        return ZERO
    if ratio == 1:
        raise GraphError("both widths are the same; give two that differ")
    growth = Fraction(target, base)
    if growth == ratio:
        return Fraction(1)
    exponent = math.log(growth) / math.log(ratio)
    simple = Fraction(exponent).limit_denominator(24)
    return simple if abs(float(simple) - exponent) < 1e-12 else Fraction(round(exponent * 10**6), 10**6)


def scalar_power(base: float, target: float, ratio: Fraction) -> Fraction:
    """m with target / base = ratio^-m, as `power` for any positive numbers."""
    if base == target:
        return ZERO
    exponent = -math.log(target / base) / math.log(ratio)
    # Constants are stored in float32, or in bfloat16 with 8 bits.
    simple = Fraction(exponent).limit_denominator(24)
    return simple if abs(float(simple) - exponent) < 2e-3 else Fraction(round(exponent * 10**4), 10**4)


def roles_note(fans: Sequence[Fan]) -> list[str]:
    """What to say of dimensions that grow neither with the width nor not at all."""
    return [
        f"{fan} grows as n^{fan.power}" + ("" if fan.power.denominator <= 24 else " (to six decimals)")
        for fan in fans
        if fan.power not in (0, 1)
    ]
