"""What a module is given on the command line: functions of the user's module, or shapes in words."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from derive.errors import DeriveError, shorten
from verify.model.make import load_make
from verify.torch.bridge import Example, TorchMake, from_torch, libraries

SHAPES = "shapes, such as 8x16<256 for whole numbers below 256 and 8xwidth for normal ones, one per argument of forward"


def load_torch(build: str, example: str | None = None, loss: str | None = None, *, train: bool = True) -> TorchMake:
    """make(width) from module:build, with example and loss named alike, or the example in shapes.

    By default they are `example` and, where there is one, `loss` of the same module. DeriveError for what is missing.
    """
    libraries()
    made = load_make(build)
    module = import_module(build.partition(":")[0].removesuffix(".py").replace("/", "."))
    if loss is not None:
        measured: Callable[..., Any] | None = load_make(loss)
    else:
        measured = getattr(module, "loss", None)
    if example is None:
        given = getattr(module, "example", None)
        if not callable(given):
            raise DeriveError(
                f"{shorten(build)} has no function example(width) beside it; write one that gives what forward takes, "
                f"or give --example module:function, or {SHAPES}"
            )
        return from_torch(made, given, measured, train=train)
    return from_torch(made, load_make(example) if ":" in example else example_of(example), measured, train=train)


def example_of(text: str) -> Example:
    """An example in shapes, as a function of the width; another draw at every step."""
    parts = [_argument(each.strip()) for each in text.split(",")]

    def example(width: int) -> Any:
        torch = libraries().torch

        def at(step: int) -> tuple[Any, ...]:
            draws = torch.Generator().manual_seed(step)
            found = []
            for sizes, below in parts:
                shape = [width if size == "width" else int(size) for size in sizes]
                found.append(
                    torch.randn(shape, generator=draws)
                    if below is None
                    else torch.randint(0, below, shape, generator=draws)
                )
            return tuple(found)

        return at

    return example


def _argument(text: str) -> tuple[list[str], int | None]:
    """(sizes, limit of whole numbers or None for normal ones)."""
    match = re.fullmatch(r"((?:\d+|width)(?:x(?:\d+|width))*)(?:<(\d+))?", text)
    if match is None or any(size == "0" for size in match[1].split("x")) or match[2] == "0":
        raise DeriveError(f"--example {shorten(text)} is not understood; give module:function, or {SHAPES}")
    return match[1].split("x"), None if match[2] is None else int(match[2])
