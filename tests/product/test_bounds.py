"""Files, functions and folders stay small enough to be read: the house's bounds, and what is excepted by name."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("derive", "verify", "paper_figures", "benchmarks")
FILE, FUNCTION, PARAMETERS, FOLDER = 350, 60, 8, 12
UNTYPED = 10
"""`Any`, per 1,000 lines of verify; `verify.values` has names for what is different every time."""
AS_OPTIONS = {
    *("derive.options.read_problem", "derive.solve.prescribe", "verify.model.prescribe.prescribe"),
    *("verify.model.check.check.coordinate_check", "verify.sweeps.settings.named.prescribed"),
}
"""Called from Python as a command is from a terminal: a parameter for every option."""
OF_NUMBERS = {"derive.recursion.largest_rates", "verify.sweeps.loop._record"}
"""Taken apart on purpose: jitted code has no chain and no record to hand over."""
LONG = {"verify.studies.transfer.report_table.columns_of"}
"""A table's columns, one after another."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions(source: str, module: str) -> Iterator[tuple[str, Function]]:
    """(name with its module, function) of every function in the source, nested ones too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield f"{module}.{node.name}", node


def is_command(node: Function) -> bool:
    """Whether its parameters are a command's options: annotated by typer, in place or by an alias of that name."""
    annotations = [ast.unparse(each.annotation) for each in node.args.args if each.annotation is not None]
    return any("typer." in each or each.strip("'\"").endswith(("Option", "Argument")) for each in annotations)


def too_large(source: str, module: str) -> list[str]:
    """What is beyond the bounds, with by how much."""
    lines = len(source.splitlines())
    found = [f"{module}: {lines} lines"] if lines > FILE else []
    for name, node in functions(source, module):
        if is_command(node):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([each for each in given if each.arg not in ("self", "cls")])
        if length > FUNCTION and name not in LONG:
            found.append(f"{name}: {length} lines")
        if count > PARAMETERS and name not in AS_OPTIONS | OF_NUMBERS:
            found.append(f"{name}: {count} parameters")
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_files_and_functions_are_within_the_bounds() -> None:
    found = [each for path in files() for each in too_large(path.read_text(encoding="utf-8"), module_of(path))]
    assert not found, "\n".join(found)


def modules(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")


def crowded(root: Path) -> list[str]:
    """The folders at and under root with more modules than the bound, `__init__` not counted."""
    counts = {folder: len(modules(folder)) for folder in (root, *root.rglob("*/"))}
    return [f"{folder.relative_to(root.parent)}: {count} modules" for folder, count in counts.items() if count > FOLDER]


def test_no_room_is_crowded() -> None:
    """Of verify alone: derive is flat on purpose."""
    assert not crowded(ROOT / "verify")


@pytest.mark.parametrize(("count", "caught"), [(12, []), (13, ["house/room: 13 modules"])])
def test_a_crowded_room_is_caught(tmp_path: Path, count: int, caught: list[str]) -> None:
    room = tmp_path / "house" / "room"
    room.mkdir(parents=True)
    for name in ("__init__", *map(str, range(count))):
        (room / f"{name}.py").touch()
    assert crowded(tmp_path / "house") == caught


def count_any(source: str) -> int:
    """How often the code says `Any`: in imports, in annotations, and in those that are texts; prose is not counted."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = [each.string for each in tokens if each.type == tokenize.NAME or _is_short_text(each)]
    return sum(len(re.findall(r"\bAny\b", text)) for text in code)


def _is_short_text(token: tokenize.TokenInfo) -> bool:
    return token.type == tokenize.STRING and not token.string.endswith('"""')


def test_types_say_what_things_are() -> None:
    sources = [path.read_text(encoding="utf-8") for path in files() if path.is_relative_to(ROOT / "verify")]
    share = 1000 * sum(map(count_any, sources)) / sum(len(source.splitlines()) for source in sources)
    assert share < UNTYPED, f"Any {share:.1f} times in 1,000 lines"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from typing import Any\n", 1),
        ("def f(x: Any, y: dict[str, Any]) -> 'tuple[Any, int]': ...\n", 3),
        ('"""Any function."""\nx = 1  # Any number\nAnything = many\n', 0),
    ],
)
def test_any_is_counted_where_it_is_code(source: str, count: int) -> None:
    assert count_any(source) == count


def test_every_exception_is_needed() -> None:
    there = {name for path in files() for name, _ in functions(path.read_text(encoding="utf-8"), module_of(path))}
    assert there >= AS_OPTIONS | OF_NUMBERS | LONG


PARAMETERS_OF_NINE = ", ".join("abcdefghi")


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("x = 1\n" * 351, ["m: 351 lines"]),
        ("x = 1\n" * 350, []),
        ("def f():\n" + "    x = 1\n" * 60, ["m.f: 61 lines"]),
        ("def f():\n" + "    x = 1\n" * 59, []),
        (f"def f({PARAMETERS_OF_NINE}): ...", ["m.f: 9 parameters"]),
        (f"def f(*, {PARAMETERS_OF_NINE}): ...", ["m.f: 9 parameters"]),
        (f"class C:\n    def f(self, {PARAMETERS_OF_NINE[3:]}): ...", []),
        (f"def outer():\n    def f({PARAMETERS_OF_NINE}): ...", ["m.f: 9 parameters"]),
        (f"def f({PARAMETERS_OF_NINE}, j: 'Annotated[int, typer.Option()]'): ...", []),
    ],
)
def test_what_is_too_large_is_caught(source: str, caught: list[str]) -> None:
    assert too_large(source, "m") == caught
