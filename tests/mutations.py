"""The small faults that can be planted in a module: cosmic-ray's, and two kinds of our own.

Places are drawn, not mutants: an operator that has twelve replacements is one place, as a number is. Left alone are
annotations and decorators, which say nothing that a test could see, and replacements between numbers and bits, which
no test could miss.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast  # pyright: ignore[reportMissingImports]
from cosmic_ray.mutating import mutate_code  # pyright: ignore[reportMissingImports]
from cosmic_ray.plugins import get_operator, operator_names  # pyright: ignore[reportMissingImports]
from parso.python.tree import Name  # pyright: ignore[reportMissingImports]

SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}
BITS = {"BitOr", "BitAnd", "BitXor", "LShift", "RShift"}


class SwapName:
    """The least for the largest, any for all, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """The names themselves."""
        if node.type == "name" and node.value in SWAPPED:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002
        """The other name in its place."""
        return Name(SWAPPED[node.value], node.start_pos, prefix=node.prefix)


class RemoveStatement:
    """A call for its effect (a check, say), or `x += y`, left out."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        """Where the first word is, so that leaving out is a place of its own."""
        if node.type != "simple_stmt":
            return
        first = node.children[0]
        updates = first.type == "expr_stmt" and first.children[1].type == "operator" and first.children[1].value != "="
        if first.type == "atom_expr" or updates:
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:  # noqa: ARG002
        """`pass` in its place."""
        first = node.children[0]
        node.children[0] = Name("pass", first.start_pos, prefix=first.get_first_leaf().prefix)
        return node


@dataclass(frozen=True)
class Mutant:
    """One fault: the module's text with it, and the line where it is, before and after."""

    path: str
    text: str
    line: str
    becomes: str

    @property
    def module(self) -> str:
        """The name by which it is imported."""
        return self.path.removesuffix(".py").replace("/", ".")


def drawn(path: str, count: int | None, seed: int) -> list[Mutant]:
    """One fault at each of that many places of the module, the same ones for the same seed; all faults for None."""
    source = Path(path).read_text()
    by_place: dict[tuple[Any, Any], list[tuple[Any, int]]] = {}
    nodes = list(ast_nodes(get_ast(source)))
    silent = {id(node) for node in nodes if _says_nothing(node)}
    for operator in _operators():
        places = [(node, place) for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (node, place) in enumerate(places):
            if id(node) not in silent:
                by_place.setdefault(place, []).append((operator, occurrence))
    if count is None:
        return [_mutant(path, source, *each) for place in by_place.values() for each in place]
    chance = random.Random(f"{seed} {path}")
    chosen = chance.sample(sorted(by_place), min(count, len(by_place)))
    return [_mutant(path, source, *chance.choice(by_place[place])) for place in chosen]


def _operators() -> list[Any]:
    classes = [get_operator(name) for name in operator_names() if not _between_numbers_and_bits(name)]
    known = [each() for each in classes if not each.arguments() and each.__name__ not in ("NoOp", "RemoveDecorator")]
    return [*known, SwapName(), RemoveStatement()]


def _between_numbers_and_bits(name: str) -> bool:
    _, _, pair = name.partition("ReplaceBinaryOperator_")
    return bool(pair) and len(BITS & set(pair.split("_"))) == 1


def _says_nothing(node: Any) -> bool:
    """Whether the node is part of an annotation or of a decorator."""
    while (above := node.parent) is not None:
        annotates = above.type in ("annassign", "tfpdef") and above.children.index(node) in (1, 2)
        value = above.type == "annassign" and above.children.index(node) > 1
        if (annotates and not value) or above.type == "decorator":
            return True
        if above.type == "funcdef" and node is above.annotation:
            return True
        node = above
    return False


def _mutant(path: str, source: str, operator: Any, occurrence: int) -> Mutant:
    text: str = mutate_code(source, operator, occurrence) or source
    before, after = source.splitlines(), text.splitlines()
    first = next((i for i, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), 0)
    return Mutant(path, text, before[first].strip(), after[first].strip())
