"""Matrices that are computed: what is understood as a layer is a parameter, and what is none is said."""

from verify.model.graph.rules.rules import Rules
from verify.model.graph.value import Activation, Weight
from verify.model.graph.weights import shape_text


class Computed(Rules):
    """The rules with what they say of matrices that are no parameters."""

    def computed_weight(self, weight: Weight, label: str, what: str) -> None:
        """Say of which parameters a weight is computed, and how."""
        paths = {*weight.terms, *(path for gain in weight.gains for path in gain.terms)}
        made = " and ".join(f"parameter {each}" for each in sorted(paths))
        self.graph.problem(
            f"the weight of a {label}, {shape_text(weight.shapes)}, is computed from {made} by {what}; a weight "
            "has to be parameters times constants, side by side or added, times vectors or divided by their norms: "
            "multiply by one at a time, or make the computed weight the parameter"
        )

    def no_matrix(self, name: str, value: Activation) -> None:
        """Say where a factor whose both axes grow is made of parameters otherwise than by layers."""
        if self.of_turned(value):
            self.graph.problem(
                f"a factor of {name}, {shape_text(value.shapes)}, may be a matrix that is computed from parameters "
                "alone, of which no rule tells; make it a parameter"
            )
        path = self.matrix_in(value)
        if path is not None:
            self.graph.problem(
                f"a factor of {name}, {shape_text(value.shapes)}, is a matrix that activations make of parameter "
                f"{path}, of which no rule tells; multiply by the parameter itself and let activations scale, "
                "choose or mix what goes into the product or comes out of it"
            )

    def of_turned(self, value: Activation) -> bool:
        """Whether parameters that met others as vectors enter a value."""
        waiting, seen = [value.node], set[int]()
        while self.turned and waiting:
            index = waiting.pop()
            if index in self.turned:
                return True
            if index is not None and index not in seen:
                seen.add(index)
                node = self.graph.nodes[index]
                waiting += [*(edge.source for edge in node.edges), node.use and node.use.input_node]
        return False

    def matrix_in(self, value: Activation) -> str | None:
        """The path of a parameter as many of whose entries as a matrix has are in a value one by one."""
        waiting, seen = [value.node], set[int]()
        while waiting:
            index = waiting.pop()
            if index is None or index in seen:
                continue
            seen.add(index)
            node = self.graph.nodes[index]
            if node.use is not None and node.use.fan_out.power >= 2:
                return node.use.path
            if node.use is None and node.product is None:
                waiting += [edge.source for edge in node.edges]
        return None
