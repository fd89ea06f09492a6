"""What is answered for a model of the zoo: by muP with Adam and with SGD, from one graph."""

from dataclasses import dataclass
from fractions import Fraction

from derive.alignments import FULL
from derive.parameterizations import MUP
from derive.registry import optimizers
from tests.helpers.zoo import Model
from verify.model.graph.graph import GraphError
from verify.model.graph.rates import solve_graph
from verify.model.graph.start import Wanted
from verify.model.make import graph_of
from verify.model.rows import without_numbers

UNTRAINED = "not trained"
ROLES = ("embedding", "hidden", "readout", UNTRAINED)


@dataclass(frozen=True)
class Parameter:
    """One parameter: its role, the exponents c of Adam's and of SGD's rate, and g of its gradient."""

    role: str
    adam: Fraction
    sgd: Fraction
    gradient: Fraction


@dataclass(frozen=True)
class Answer:
    """All parameters by path and the multipliers of single products, or the line that refuses."""

    parameters: dict[str, Parameter]
    multipliers: dict[str, Fraction]
    refusal: str = ""


def answer(model: Model) -> Answer:
    """Trace the model between its two widths and solve for both rules."""
    try:
        graph, *_ = graph_of(model.make, model.base_width, model.width)
        adam, sgd = (solve_graph(graph, Wanted(optimizers(rule), MUP, FULL)) for rule in ("adam", "sgd"))
    except GraphError as error:
        return Answer({}, {}, str(error))
    found = {path: Parameter(UNTRAINED, Fraction(0), Fraction(0), Fraction(0)) for path in graph.shapes}
    for path, row in adam.parameters.items():
        found[path] = Parameter(row.role, row.c, sgd.parameters[path].c, row.g)
    extra = {name: use.extra for name, use in adam.uses.items()} | dict(adam.products)
    return Answer(found, {name: x for name, x in extra.items() if x})


def by_hand(model: Model, paths: list[str]) -> Answer:
    """The same as it should be; what is normalised by Adam follows the gradient with SGD: c - g."""
    found = {}
    for path in paths:
        adam = model.rate(path)
        found[path] = Parameter(model.role(path), adam, adam - model.followed(path), model.gradient(path))
    return Answer(found, {name: Fraction(x) for name, x in model.multipliers.items()})


def cells(given: Answer) -> list[str]:
    """By role the names of the parameters, those of blocks that are alike once, with both rates."""
    columns = []
    for role in ROLES:
        groups: dict[tuple[Fraction, Fraction], list[str]] = {}
        for path, each in given.parameters.items():
            if each.role == role:
                groups.setdefault((each.adam, each.sgd), []).append(without_numbers(path))
        texts = []
        for (adam, sgd), names in sorted(groups.items(), key=lambda pair: -len(pair[1])):
            rates = "" if role == UNTRAINED else f": {number(adam)}; {number(sgd)}"
            texts.append(f"{', '.join(dict.fromkeys(names))}{rates}")
        columns.append("<br>".join(texts) or "-")
    columns.append(", ".join(f"{name} n^-{x}" for name, x in given.multipliers.items()) or "-")
    return columns


def number(exponent: Fraction) -> str:
    """An exact exponent, or three decimals of an odd one."""
    return str(exponent) if exponent.denominator <= 24 else f"{float(exponent):.3f}"
