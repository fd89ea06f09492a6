"""The largest stable rates over a graph: THEORY 4 as a linear program, per parameter and per use of it.

    r of a dense op's output <= c + s + a - f alpha + e_z      (DW z)      f: its fan-in grows as n^f
                             <= b + a + r_z - f omega          (W Dz)
                             <= c + s + a + r_z - f u          (DW Dz)
    r of anything else       <= r of each of its terms         r >= 0 wherever a change has to stay finite

Minimise the sum of c over the parameters; among ties take the smallest r. On a chain of layers it is what
`derive.solve` has in closed form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import cast

from sympy import Expr, Rational, S

from derive.alignments import Alignment, Ratios
from derive.exponents import Kind
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization
from derive.propagation import Loss, Optimizers
from verify.graph import FAR, OUTPUT, ZERO, Graph, GraphError, Node, Owner, Requirement, Use
from verify.linear_program import Row, Solution, minimise


@dataclass(frozen=True)
class Wanted:
    """What is asked of the rates, as in `derive.propagation.Problem`; `own_multipliers` folds a's multipliers in.

    `measured` are alignments of single dense ops by name, in the place of the assumed ones.
    """

    optimizers: Optimizers
    parameterization: Parameterization
    alignment: Alignment
    loss: Loss = "mse"
    own_multipliers: bool = False
    measured: Mapping[str, Ratios] = field(default_factory=dict)


@dataclass(frozen=True)
class ParameterRates:
    """Exponents of one parameter, each x meaning n^-x: multiplier a (to be wrapped), initial size b, rate c, gradient
    g, update s, epsilon; `found` is the exponent of the multipliers in the user's own code and `binding` the
    constraints that fix c.
    """

    role: Kind
    a: Fraction
    found: Fraction
    b: Fraction
    c: Fraction
    g: Fraction
    s: Fraction
    epsilon: Fraction | None
    binding: tuple[str, ...]


@dataclass(frozen=True)
class UseRates:
    """What holds for one use: alignments as exponents of n, multiplier of this use alone, and r of its output.

    `total` is a + b with the multipliers in the user's code; `r` that of the output after them, the smallest of
    `terms`: DW z (alpha), W Dz (omega) and DW Dz (u). `tied`: a readout whose input holds its own table's rows.
    """

    kind: Kind
    extra: Fraction
    alpha: Fraction
    omega: Fraction
    u: Fraction
    total: Fraction
    r: Fraction
    tied: bool
    terms: Mapping[str, Fraction]


@dataclass(frozen=True)
class Rates:
    """The solution: exponents per parameter and per use, multipliers of products, and the program that proves it."""

    parameters: Mapping[str, ParameterRates]
    uses: Mapping[str, UseRates]
    products: Mapping[str, Fraction]
    objective: tuple[int, ...]
    rows: tuple[Row, ...]
    solution: Solution
    notes: tuple[str, ...]


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


def solve_graph(graph: Graph, wanted: Wanted) -> Rates:
    """The largest stable rates; GraphError for what the graph could not understand, and for no stable rates."""
    if graph.problems:
        more = f" (and {len(graph.problems) - 3} more)" if len(graph.problems) > 3 else ""
        raise GraphError("; also: ".join(graph.problems[:3]) + more)
    return _Program(graph, wanted).solved()


def _fraction(value: Expr) -> Fraction:
    if not isinstance(value, Rational):
        raise GraphError(f"the exponent {value} has symbols in it; give numbers for a model of your own")
    return Fraction(int(value.p), int(value.q))


def _rational(value: Fraction) -> Rational:
    return cast("Rational", Rational(value.numerator, value.denominator))


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
        _fraction(rule.size(powers, gradient, weight)),
        _fraction(rule.alignment_cap(powers, gradient, weight)),
        _fraction(rule.gradient_degree(powers, gradient, weight)),
        None if epsilon is None else _fraction(epsilon),
    )


class _Program:
    def __init__(self, graph: Graph, wanted: Wanted) -> None:
        self.graph, self.wanted = graph, wanted
        feeds = graph.feeds_weights()
        self.kind: dict[Owner, Kind] = {use: kind_of(use, feeds[use.node]) for use in graph.uses}
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
            aligned = product.fan_in.power * _fraction(wanted.alignment.hidden.alpha)
            self.extra[product] = max(ZERO, aligned - product.found) if product.fan_in.grows else ZERO
        self.gradient = self._gradients()
        self.update = {
            path: _update(
                wanted.optimizers[self.role[path]],
                (self.main[path].fan_in.power, self.main[path].fan_out.power),
                self.gradient[path],
                self.b[path],
            )
            for path in self.uses
        }

    def total(self, use: Use) -> Fraction:
        """What a + b of that use has to be: for activations of size 1 at the start, or the scheme's on a readout."""
        if self.kind[use] == "embedding":
            return ZERO
        total = _fraction(self.wanted.parameterization.total(self.kind[use]))
        if self.tied(use):
            # Its input holds rows of the same table, whose products with themselves add up as n.
            total = max(total, Fraction(1))
        return use.fan_in.power * total

    def tied(self, use: Use) -> bool:
        """Whether this is the readout of a table that is the embedding as well."""
        return self.kind[use] == "readout" and any(self.kind[other] == "embedding" for other in self.uses[use.path])

    def _initialise(self, path: str, uses: Sequence[Use]) -> None:
        """A parameter's role, multiplier and initial size; uses that want another size get a multiplier."""
        order: list[Kind] = ["embedding", "hidden", "readout"]
        main = min(uses, key=lambda use: (order.index(self.kind[use]), not use.is_dense))
        role = self.kind[main]
        self.main[path], self.role[path] = main, role
        multiplier = ZERO
        if self.wanted.own_multipliers:
            powers = {"embedding": main.fan_out.power, "hidden": main.fan_in.power, "readout": main.fan_in.power}
            multiplier = _fraction(self.wanted.parameterization.at(role)[0]) * powers[role] - main.found
        self.a[path] = multiplier
        demands = {use: self.total(use) - use.found - multiplier for use in uses}
        self.b[path] = min(demands.values())
        for use, demand in demands.items():
            self.extra[use] = demand - self.b[path]
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
        return use.scale + self.a[use.path] + self.extra[use]

    def _gradients(self) -> dict[str, Fraction]:
        """g of every parameter at initialisation: back through the graph, the largest gradient that arrives counts."""
        back = [FAR] * len(self.graph.nodes)
        for node, _, offset in self.graph.outputs:
            back[node] = min(back[node], offset)
        found = dict.fromkeys(self.uses, FAR)
        for index in reversed(range(len(back))):
            node, now = self.graph.nodes[index], back[index]
            if now >= FAR:
                continue
            product = self.extra[node.product] if node.product else ZERO
            for edge in node.edges:
                back[edge.source] = min(back[edge.source], now + edge.back + product)
            use = node.use
            if use is None:
                continue
            # A vector's own scale is part of the way back from its node already.
            scale = self.multiplier(use) - (ZERO if use.is_dense else use.scale)
            found[use.path] = min(found[use.path], now + scale + use.input_size)
            if use.input_node is not None:
                forward = self.b[use.path] + self.multiplier(use)
                arriving = now + forward - use.fan_out.power / 2 + use.input_back
                back[use.input_node] = min(back[use.input_node], arriving)
        lost = [path for path in self.graph.shapes if found.get(path, FAR) >= FAR]
        if lost:
            raise GraphError(
                f"{lost[0]} does not reach the output"
                + (f" (nor do {len(lost) - 1} others)" if lost[1:] else "")
                + " by steps that pass on small changes and gradients (sign, argmax and stop_gradient do not), so "
                "nothing fixes its rate; leave it out of params"
            )
        return found

    def alignments(self, use: Use) -> tuple[Fraction, Fraction, Fraction]:
        """(alpha, omega, u) of the use as powers of n, capped by what its optimizer's updates can align."""
        kind, power = self.kind[use], use.fan_in.power
        if not use.is_dense or kind == "embedding":
            return ZERO, ZERO, ZERO
        ratios = self.wanted.measured.get(use.name) or cast("Ratios", self.wanted.alignment.at(kind))
        # What ||U||_op allows hangs on the way round in which the weight is used.
        main = self.main[use.path]
        turned = use.fan_in.power - use.fan_out.power - main.fan_in.power + main.fan_out.power
        cap = self.update[use.path][1] + turned / 2
        alpha, omega, u = (power * _fraction(each) for each in (ratios.alpha, ratios.omega, ratios.u))
        return min(alpha, cap), omega, min(u, cap)

    def _required(self) -> list[Requirement]:
        """Where changes stay finite; for cross-entropy not at the output, since logits may diverge (THEORY 4)."""
        free = self.wanted.loss == "ce"
        return [each for each in self.graph.requirements if not (free and each.what == OUTPUT)]

    def _alive(self, required: Sequence[Requirement]) -> list[bool]:
        """For every node whether something asks for its change to stay finite, at once or further on."""
        alive = [False] * len(self.graph.nodes)
        for each in required:
            alive[each.node] = True
        for index in reversed(range(len(alive))):
            if alive[index]:
                node = self.graph.nodes[index]
                for edge in node.edges:
                    alive[edge.source] = True
                if node.use is not None and node.use.input_node is not None:
                    alive[node.use.input_node] = True
            # Free logits still bound the readout's own update, whose input then matters.
            elif (use := self.graph.nodes[index].use) and self.kind[use] == "readout" and use.input_node is not None:
                alive[use.input_node] = True
        return alive

    def solved(self) -> Rates:
        """State the program, solve it, and read the answer."""
        required = self._required()
        alive = self._alive(required)
        paths = list(self.uses)
        variables: dict[str | int, int] = {name: index for index, name in enumerate(paths)}
        for index, needed in enumerate(alive):
            if needed:
                variables[index] = len(variables)
        rows: list[Row] = []

        def row(name: str, bound: Fraction, *terms: tuple[str | int | None, int]) -> None:
            coefficients = {variables[variable]: sign for variable, sign in terms if variable is not None}
            rows.append(Row(coefficients, bound, name))

        for index, node in enumerate(self.graph.nodes):
            use = node.use
            bounded_logits = use is not None and self.kind[use] == "readout"
            if not alive[index] and not bounded_logits:
                continue
            r = index if alive[index] else None  # what is free counts as 0
            for edge in node.edges:
                name = f"{node.product.name}: x dy" if node.product else "sum or product"
                row(name, edge.forward + self._aligned(node), (r, 1), (edge.source, -1))
            if use is None:
                continue
            alpha, omega, u = self.alignments(use)
            change = self.update[use.path][0] + self.multiplier(use)
            row(f"{key(use)}: dW z", change + use.input_size - alpha, (r, 1), (use.path, -1))
            if use.input_node is not None:
                z, arriving = use.input_node, use.input_shift
                if alive[index]:
                    forward = self.b[use.path] + self.multiplier(use) + arriving
                    row(f"{key(use)}: W dz", forward - omega, (r, 1), (z, -1))
                row(f"{key(use)}: dW dz", change + arriving - u, (r, 1), (use.path, -1), (z, -1))
        kept = any(self.update[path][2] > 0 for path in paths if self.role[path] != "readout")
        for path in paths:
            outgrows = self.wanted.optimizers[self.role[path]].weight_degree > 0
            if outgrows or (kept and any(self.kind[use] == "readout" for use in self.uses[path])):
                row(f"{path}: the update stays below the weights", self.update[path][0] - self.b[path], (path, -1))
        for each in required:
            row(f"r >= 0 at {each.what}", each.shift, (each.node, -1))
        objective = tuple([1] * len(paths) + [0] * (len(variables) - len(paths)))
        names = [f"c of {name}" if isinstance(name, str) else f"r of node {name}" for name in variables]
        solution = minimise(objective, rows, [1 - each for each in objective], names)
        return self._answer(paths, variables, rows, objective, solution)

    def _aligned(self, node: Node) -> Fraction:
        """What a product adds to the exponents of its edges: its multiplier, less the power that its sum aligns to."""
        if node.product is None:
            return ZERO
        return self.extra[node.product] - node.product.fan_in.power * _fraction(self.wanted.alignment.hidden.alpha)

    def _answer(
        self,
        paths: Sequence[str],
        variables: Mapping[str | int, int],
        rows: list[Row],
        objective: tuple[int, ...],
        solution: Solution,
    ) -> Rates:
        c = {path: solution.values[variables[path]] for path in paths}
        r = self.residuals(c)
        binding: dict[int, list[str]] = {}
        for index in solution.tight:
            if solution.duals[index] > 0:
                for variable in rows[index].coefficients:
                    binding.setdefault(variable, []).append(rows[index].name)
        parameters = {
            path: ParameterRates(
                role=self.role[path],
                a=self.a[path],
                found=self.main[path].found,
                b=self.b[path],
                c=c[path],
                g=self.gradient[path],
                s=self.update[path][0],
                epsilon=self.update[path][3],
                binding=tuple(dict.fromkeys(binding.get(variables[path], ()))),
            )
            for path in paths
        }
        uses = {}
        for use in self.graph.uses:
            trailing = use.trailing or ZERO
            total = self.b[use.path] + self.a[use.path] + self.extra[use] + use.found
            terms = {name: value + trailing for name, value in self.terms(use, c, r).items()}
            uses[key(use)] = UseRates(
                self.kind[use],
                self.extra[use],
                *self.alignments(use),
                total,
                r[use.node] + trailing,
                self.tied(use),
                terms,
            )
        products = {product.name: self.extra[product] for product in self.graph.products}
        return Rates(parameters, uses, products, objective, tuple(rows), solution, tuple(self.notes))

    def residuals(self, c: Mapping[str, Fraction]) -> list[Fraction]:
        """r of every node at the rates n^-c: the smallest of its terms, in the order of computation."""
        found: list[Fraction] = []
        for node in self.graph.nodes:
            terms = [found[edge.source] + edge.forward + self._aligned(node) for edge in node.edges]
            if node.use is not None:
                terms += self.terms(node.use, c, found).values()
            found.append(min(terms))
        return found

    def terms(self, use: Use, c: Mapping[str, Fraction], r: Sequence[Fraction]) -> dict[str, Fraction]:
        """The exponents of DW z, W Dz and DW Dz of one use at the rates n^-c, from r of the nodes before it."""
        alpha, omega, u = self.alignments(use)
        change = c[use.path] + self.update[use.path][0] + self.multiplier(use)
        found = {"alpha": change + use.input_size - alpha}
        if use.input_node is not None:
            arriving = r[use.input_node] + use.input_shift
            found["omega"] = self.b[use.path] + self.multiplier(use) + arriving - omega
            found["u"] = change + arriving - u
        return found
