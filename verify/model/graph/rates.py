"""The largest stable rates over a graph: a linear program, per parameter and per use of it (docs/theory.md, section 4).

    r of a dense op's output <= c + s + a - f alpha + e_z      (DW z)      f: its fan-in grows as n^f
                             <= b + a + r_z - f omega          (W Dz)
                             <= c + s + a + r_z - f u          (DW Dz)
    r of anything else       <= r of each of its terms
    r of what a weight, a product or a function without a degree takes >= e, its size there as constants make it, not
    what cancels in a sum at random signs: features align; of the output >= 0 (theory 11)

Under cross-entropy a readout's W Dz may diverge, and that row is left out. Minimise the sum of c over the parameters;
among ties take the smallest r. On a chain of layers it is what `derive.solve` has in closed form.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from derive.alignments import Ratios
from derive.words import Kind
from verify.measuring.axes import Axes
from verify.model.graph.graph import FAR, OUTPUT, ZERO, Graph, GraphError, Node, Requirement, Use
from verify.model.graph.start import Start, Wanted, fraction, key
from verify.model.linear_program import Row, Solution, minimise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParameterRates:
    """Exponents of one parameter, each x meaning n^-x: multiplier a (to be wrapped), initial size b, rate c, gradient
    g, update s, epsilon; `found` is the exponent of the multipliers in the user's own code and `binding` the
    constraints that fix c. `axes` are those of the matrices that its rule takes.
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
    axes: Axes | None


@dataclass(frozen=True)
class UseRates:
    """What holds for one use: alignments as exponents of n, multiplier of this use alone, and r of its output.

    `total` is a + b with the multipliers in the user's code; `size` that of the output as drawn, None for a readout
    whose input holds its own table's rows; `r` that of its change after them, the smallest of `terms`: DW z (alpha),
    W Dz (omega) and DW Dz (u), or 0 where nothing that is trained enters.
    """

    kind: Kind
    extra: Fraction
    alpha: Fraction
    omega: Fraction
    u: Fraction
    total: Fraction
    size: Fraction | None
    r: Fraction
    terms: Mapping[str, Fraction]


@dataclass(frozen=True)
class Rates:
    """The solution: exponents per parameter and per use, multipliers of products, and the program that proves it.

    `starts` are the initial sizes of all that are used, trained or not.
    """

    parameters: Mapping[str, ParameterRates]
    uses: Mapping[str, UseRates]
    products: Mapping[str, Fraction]
    objective: tuple[int, ...]
    rows: tuple[Row, ...]
    solution: Solution
    notes: tuple[str, ...]
    starts: Mapping[str, Fraction]


def solve_graph(graph: Graph, wanted: Wanted) -> Rates:
    """The largest stable rates; GraphError for what the graph could not understand, and for no stable rates."""
    if graph.problems:
        more = f" (and {len(graph.problems) - 3} more)" if len(graph.problems) > 3 else ""
        raise GraphError("; also: ".join(graph.problems[:3]) + more)
    return _Program(graph, wanted).solved()


class _Program(Start):
    """The program in c of every parameter and r of every node whose change something bounds."""

    def alignments(self, use: Use) -> tuple[Fraction, Fraction, Fraction]:
        """(alpha, omega, u) of the use as powers of n, capped by what its optimizer's updates can align."""
        kind, power = self.kind[use], use.fan_in.power
        if not use.is_dense or kind == "embedding":
            return ZERO, ZERO, ZERO
        ratios = self.wanted.measured.get(use.name) or cast("Ratios", self.wanted.alignment.at(self.started_as[use]))
        if use.path not in self.update:
            return ZERO, power * fraction(ratios.omega), ZERO
        # What ||U||_op allows hangs on the way round in which the weight is used.
        main = self.main[use.path]
        turned = use.fan_in.power - use.fan_out.power - main.fan_in.power + main.fan_out.power
        cap = self.update[use.path][1] + turned / 2
        alpha, omega, u = (power * fraction(each) for each in (ratios.alpha, ratios.omega, ratios.u))
        return min(alpha, cap), omega, min(u, cap)

    def _held(self, required: Sequence[Requirement]) -> list[bool]:
        """For every node whether one of those requirements bounds its change, at once or further on."""
        held = [False] * len(self.graph.nodes)
        for each in required:
            held[each.node] = True
        for index in reversed(range(len(held))):
            if held[index]:
                node = self.graph.nodes[index]
                for edge in node.edges:
                    held[edge.source] = True
                if node.use is not None and node.use.input_node is not None:
                    held[node.use.input_node] = True
        return held

    def _free(self) -> list[bool]:
        """For every node whether it is a readout's output of which W Dz may diverge: logits under cross-entropy.

        The readout's own update stays bounded (theory 4), and so does whatever else reaches the output.
        """
        inner = self._held([each for each in self.graph.requirements if each.what != OUTPUT])
        nodes = zip(self.graph.nodes, inner, strict=True)
        logits = [node.use is not None and self.kind[node.use] == "readout" and not held for node, held in nodes]
        return [self.wanted.loss == "ce" and each for each in logits]

    def solved(self) -> Rates:
        """State the program, solve it, and read the answer."""
        held, free = self._held(self.graph.requirements), self._free()
        paths = list(self.gradient)
        variables: dict[str | int, int] = {name: index for index, name in enumerate(paths)}
        variables |= {index: len(paths) + place for place, index in enumerate(i for i, each in enumerate(held) if each)}
        rows: list[Row] = []

        def row(name: str, bound: Fraction, *terms: tuple[str | int, int]) -> None:
            rows.append(Row({variables[variable]: sign for variable, sign in terms}, bound, name))

        for index, node in enumerate(self.graph.nodes):
            use = node.use
            if not held[index]:
                continue
            for edge in node.edges:
                name = f"{node.product.name}: x dy" if node.product else "sum or product"
                row(name, edge.forward + self._aligned(node), (index, 1), (edge.source, -1))
            if use is None:
                continue
            alpha, omega, u = self.alignments(use)
            trained, change = use.path in self.update, ZERO
            if trained:
                change = self.update[use.path][0] + self.multiplier(use)
                row(f"{key(use)}: dW z", change + use.input_size - alpha, (index, 1), (use.path, -1))
            if use.input_node is not None and held[use.input_node]:
                z, arriving = use.input_node, use.input_shift
                if not free[index]:
                    forward = self.b[use.path] + self.multiplier(use) + arriving
                    row(f"{key(use)}: W dz", forward - omega, (index, 1), (z, -1))
                if trained:
                    row(f"{key(use)}: dW dz", change + arriving - u, (index, 1), (use.path, -1), (z, -1))
        kept = any(self.update[path][2] > 0 for path in paths if self.role[path] != "readout")
        for path in paths:
            outgrows = self.wanted.optimizers[self.role[path]].weight_degree > 0
            if outgrows or (kept and any(self.started_as[use] == "readout" for use in self.uses[path])):
                row(f"{path}: the update stays below the weights", self.update[path][0] - self.b[path], (path, -1))
        for each in self.graph.requirements:
            row(f"finite at {each.what}", each.shift, (each.node, -1))
        objective = tuple([1] * len(paths) + [0] * (len(variables) - len(paths)))
        names = [f"c of {name}" if isinstance(name, str) else f"r of node {name}" for name in variables]
        log.info("solving for %s rates under %s constraints, in exact numbers", len(paths), len(rows))
        solution = minimise(objective, rows, [1 - each for each in objective], names)
        return self._answer(paths, variables, rows, objective, solution)

    def _aligned(self, node: Node) -> Fraction:
        """What a product adds to the exponents of its edges: its multiplier, less the power that its sum aligns to."""
        if node.product is None:
            return ZERO
        return self.extra[node.product] - node.product.fan_in.power * fraction(self.wanted.alignment.hidden.alpha)

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
                axes=self.matrices(path),
            )
            for path in paths
        }
        uses = {}
        for use in self.graph.uses:
            trailing = use.trailing or ZERO
            total = self.b[use.path] + self.multiplier(use) + use.input_size + trailing
            terms = {name: value + trailing for name, value in self.terms(use, c, r).items()}
            uses[key(use)] = UseRates(
                self.kind[use],
                self.extra[use],
                *self.alignments(use),
                total,
                None if self.tied(use) else total + use.cancelled.at(self.smaller) - use.fan_in.power / 2,
                r[use.node] + trailing if r[use.node] < FAR / 2 else ZERO,
                terms,
            )
        products = {product.name: self.extra[product] for product in self.graph.products}
        return Rates(parameters, uses, products, objective, tuple(rows), solution, tuple(self.notes), self.b)

    def residuals(self, c: Mapping[str, Fraction]) -> list[Fraction]:
        """r of every node at the rates n^-c: the smallest of its terms, in the order of computation."""
        found: list[Fraction] = []
        for node in self.graph.nodes:
            terms = [found[edge.source] + edge.forward + self._aligned(node) for edge in node.edges]
            if node.use is not None:
                terms += self.terms(node.use, c, found).values()
            found.append(min(terms, default=FAR))  # where nothing that is trained enters, nothing changes
        return found

    def terms(self, use: Use, c: Mapping[str, Fraction], r: Sequence[Fraction]) -> dict[str, Fraction]:
        """The exponents of DW z, W Dz and DW Dz of one use at the rates n^-c, from r of the nodes before it."""
        alpha, omega, u = self.alignments(use)
        found: dict[str, Fraction] = {}
        trained, change = use.path in c, ZERO
        if trained:
            change = c[use.path] + self.update[use.path][0] + self.multiplier(use)
            found["alpha"] = change + use.input_size - alpha
        if use.input_node is not None and r[use.input_node] < FAR / 2:
            arriving = r[use.input_node] + use.input_shift
            found["omega"] = self.b[use.path] + self.multiplier(use) + arriving - omega
            if trained:
                found["u"] = change + arriving - u
        return found
