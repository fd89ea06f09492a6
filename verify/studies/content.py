"""Any dataclass of numbers, texts and arrays as JSON, and back: what is not finite is null, and reads as NaN.

The types say how JSON is read: `Mapping[int, float]` has whole numbers for keys, `tuple[str, ...]` was a list, and an
array type of jaxtyping is an array of floats. A TypeError, KeyError or ValueError says that it is of another type.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray

from verify.values import Json

Built = TypeVar("Built")


def plain(content: object, digits: int | None = None) -> Json:
    """The content as JSON has it; arrays and floats to that many significant digits, to all where None."""
    if is_dataclass(content) and not isinstance(content, type):
        return {field.name: plain(getattr(content, field.name), digits) for field in fields(content)}
    if isinstance(content, Mapping):
        return {str(key): plain(value, digits) for key, value in content.items()}
    if isinstance(content, np.ndarray | list | tuple):
        return [plain(value, digits) for value in content]
    if isinstance(content, float | np.floating):
        number = float(content)
        if not np.isfinite(number):
            return None
        return number if digits is None else float(f"{number:.{digits}g}")
    return int(content) if isinstance(content, np.integer) else content


def build(kind: type[Built], content: Json) -> Built:
    """What `plain` wrote, as that type."""
    return cast("Built", _build(kind, content))


def _build(kind: Any, content: Json) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return cast("Any", kind)(
            **{field.name: _build(hints[field.name], content[field.name]) for field in fields(kind)}
        )
    if origin is Literal:
        return _member(content, parts)
    if origin in (Union, UnionType):
        return None if content is None and NoneType in parts else _first_that_fits(parts, content)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {_key(parts[0], key): _build(parts[1], value) for key, value in content.items()}
    if origin is tuple:
        kinds = [parts[0]] * len(content) if parts[-1] is Ellipsis else parts
        return tuple(_build(each, value) for each, value in zip(kinds, content, strict=True))
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        return np.array(content, dtype=float)
    return _scalar(kind, content)


def _first_that_fits(kinds: tuple[Any, ...], content: Json) -> Any:
    *others, last = [each for each in kinds if each is not NoneType]
    for kind in others:
        with suppress(TypeError, KeyError, ValueError):
            return _build(kind, content)
    return _build(last, content)


def _key(kind: Any, key: str) -> Any:
    return int(key) if kind is int else _build(kind, key)


def _member(content: Json, allowed: tuple[Json, ...]) -> Json:
    if content not in allowed:
        raise ValueError(f"{content!r} is none of {allowed}")
    return content


def _scalar(kind: Any, content: Json) -> Any:
    if kind is float:
        return float("nan") if content is None else float(content)
    if not isinstance(content, kind) or (kind is int and isinstance(content, bool)):
        raise TypeError(f"{content!r} is not of type {kind.__name__}")
    return content
