"""Certificates as JSON, and back: exact numbers as strings, self-contained, and nothing in a file believed.

{"schema": 1, "of": "chain" or "program", "problem": ..., "values": {"c_1": "0", ...}, "optimum": "2", ...}
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from derive.certify import Certificate, Refused, check
from derive.errors import DeriveError, shorten
from derive.programs import ChainLayer, ChainProblem, Number, Program, Row, Values, common_denominator, plain

SCHEMA = 1
MAX_BYTES = 2**26
NUMBER = re.compile(r"-?[0-9]{1,200}(/[0-9]{1,200})?", re.ASCII)
LAYER = tuple(field.name for field in fields(ChainLayer))


def as_text(certificate: Certificate) -> str:
    """The certificate as JSON."""
    problem = certificate.problem
    chain = isinstance(problem, ChainProblem)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "of": "chain" if chain else "program",
        "problem": _chain(problem) if isinstance(problem, ChainProblem) else _program(problem),
        "values": _texts(certificate.values),
        "optimum": str(certificate.optimum),
        "least": str(certificate.least),
        "duals": _texts(certificate.duals),
        "second": _texts(certificate.second),
        "binding": {rate: list(names) for rate, names in certificate.binding.items()},
        "residuals": _texts(certificate.residuals),
        "unique": certificate.unique,
        "other": None if certificate.other is None else _texts(certificate.other),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write(certificate: Certificate, path: Path) -> None:
    """Write the certificate to a new file; DeriveError where there is one already, or none can be made."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(as_text(certificate))
    except FileExistsError:
        raise DeriveError(f"--certificate {shorten(str(path))} exists already; give another file") from None
    except (OSError, ValueError) as error:
        raise DeriveError(f"--certificate {shorten(str(path))} cannot be written: {_why(error)}") from None


def certify(path: Path) -> str:
    """Check the certificate in a file: the line that says what holds. DeriveError naming what fails."""
    try:
        if path.exists() and not path.is_file():
            raise DeriveError(f"{shorten(str(path))} is no file; give what --certificate wrote")
        if path.stat().st_size > MAX_BYTES:
            raise DeriveError(f"{shorten(str(path))} is larger than {MAX_BYTES // 2**20} MiB; this is no certificate")
        text = path.read_bytes().decode("utf-8")
    except DeriveError:
        raise
    except UnicodeDecodeError:
        raise DeriveError(f"{shorten(str(path))} is not UTF-8 text; give what --certificate wrote") from None
    except (OSError, ValueError) as error:
        raise DeriveError(f"cannot read {shorten(str(path))}: {_why(error)}; give what --certificate wrote") from None
    try:
        return check(read(text))
    except Refused as error:
        printable = "".join(character if character.isprintable() else "?" for character in str(error))
        raise DeriveError(f"{shorten(str(path))} is refused: {printable[:300]}") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or "the name cannot be used"


def read(text: str) -> Certificate:
    """The certificate that the JSON spells, not yet checked; Refused naming the first part that is none."""
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_int=_small)
    except Refused:
        raise
    except (ValueError, RecursionError, MemoryError):
        raise Refused("it is not JSON; give what --certificate wrote") from None
    names = [*(field.name for field in fields(Certificate)), "schema", "of"]
    content = _object(content, "the file", names)
    if type(content["schema"]) is not int or content["schema"] != SCHEMA:
        raise Refused(f"its schema is not {SCHEMA}")
    kind = _one_of(content["of"], "of", ("chain", "program"))
    if not (content["unique"] is None or isinstance(content["unique"], bool)):
        raise Refused("unique is neither true, false nor null")
    if kind == "program" and content["unique"] is not None:
        raise Refused("of a program it is not said whether the optimum is unique, and here it is")
    binding = _mapping(content["binding"], "binding")
    certificate = Certificate(
        problem=(_read_chain if kind == "chain" else _read_program)(content["problem"]),
        optimum=_number(content["optimum"], "optimum"),
        least=_number(content["least"], "least"),
        **{name: _numbers(content[name], name) for name in ("values", "duals", "second", "residuals")},  # type: ignore[arg-type]
        binding={rate: tuple(_strings(names, f"binding of {shorten(rate)}")) for rate, names in binding.items()},
        unique=content["unique"],
        other=None if content["other"] is None else _numbers(content["other"], "other"),
    )
    if common_denominator(_all_numbers(certificate)) is None:
        raise Refused("its fractions have too many denominators for any prescription")
    return certificate


def _all_numbers(certificate: Certificate) -> Iterator[Number]:
    yield from (certificate.optimum, certificate.least, *certificate.problem.numbers())
    for values in (certificate.values, certificate.duals, certificate.second, certificate.residuals):
        yield from values.values()
    yield from (certificate.other or {}).values()
    if isinstance(certificate.problem, Program):
        for values in (certificate.problem.objective, certificate.problem.then):
            yield from values.values()
        for row in certificate.problem.rows:
            yield from row.coefficients.values()


def _chain(problem: ChainProblem) -> dict[str, Any]:
    def entry(layer: ChainLayer) -> dict[str, str | None]:
        return {name: None if (x := getattr(layer, name)) is None else str(x) for name in LAYER}

    layers = [entry(layer) for layer in problem.layers]
    return {"loss": problem.loss, "global_rate": problem.global_rate, "layers": layers}


def _program(problem: Program) -> dict[str, Any]:
    rows = [
        {"name": row.name, "coefficients": _texts(row.coefficients), "bound": str(row.bound)} for row in problem.rows
    ]
    return {"objective": _texts(problem.objective), "then": _texts(problem.then), "rows": rows}


def _texts(values: Values) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _read_chain(content: Any) -> ChainProblem:
    content = _object(content, "problem", ("loss", "global_rate", "layers"))
    if type(content["global_rate"]) is not bool:
        raise Refused("global_rate is neither true nor false")
    layers = []
    for index, entry in enumerate(_list(content["layers"], "layers")):
        entry = _object(entry, f"layer {index + 1}", LAYER)
        aligned = {"alpha", "omega", "u"} if index == 0 else set()
        if odd := [name for name in LAYER if (entry[name] is None) != (name in aligned)]:
            raise Refused(f"{odd[0]} of layer {index + 1} is {'given' if odd[0] in aligned else 'missing'}")
        layers.append(
            ChainLayer(
                **{
                    name: None if entry[name] is None else _number(entry[name], f"{name} of layer {index + 1}")
                    for name in LAYER
                }  # type: ignore[arg-type]
            )
        )
    if len(layers) < 2:
        raise Refused("a chain has an embedding and a readout, two layers or more")
    loss = cast("Literal['mse', 'ce']", _one_of(content["loss"], "loss", ("mse", "ce")))
    return ChainProblem(tuple(layers), loss, content["global_rate"])


def _read_program(content: Any) -> Program:
    content = _object(content, "problem", ("objective", "then", "rows"))
    rows = []
    for index, entry in enumerate(_list(content["rows"], "rows")):
        what = f"row {index + 1}"
        entry = _object(entry, what, ("name", "coefficients", "bound"))
        name = _strings([entry["name"]], f"name of {what}")[0]
        coefficients = _numbers(entry["coefficients"], f"coefficients of {what}")
        rows.append(Row(name, coefficients, _number(entry["bound"], f"bound of {what}")))
    return Program(_numbers(content["objective"], "objective"), _numbers(content["then"], "then"), tuple(rows))


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused(f"{shorten(name)} is there twice")
        found[name] = value
    return found


def _no_constant(text: str) -> Any:
    raise Refused(f"{text} is no exact number")


def _small(text: str) -> int:
    if len(text) > 9:
        raise Refused(f"{shorten(text)} is no number of this file; exact numbers are strings")
    return int(text)


def _object(value: Any, what: str, names: Iterable[str]) -> dict[str, Any]:
    value, names = _mapping(value, what), list(names)
    for name in names:
        if name not in value:
            raise Refused(f"{what} lacks {name}")
    for name in value:
        if name not in names:
            raise Refused(f"{what} has {shorten(name)}, which is not known")
    return value


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Refused(f"{what} is no JSON object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(f"{what} is no list")
    return value


def _strings(value: Any, what: str) -> list[str]:
    for each in _list(value, what):
        if not isinstance(each, str):
            raise Refused(f"{what} is no text")
    return value


def _one_of(value: Any, what: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise Refused(f"{what} is not one of {', '.join(allowed)}")
    return value


def _numbers(value: Any, what: str) -> Mapping[str, Number]:
    return {name: _number(each, f"{shorten(name)} in {what}") for name, each in _mapping(value, what).items()}


def _number(value: Any, what: str) -> Number:
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        raise Refused(f"{what} is no exact number, a string such as '-1/2' of up to 200 digits")
    try:
        return plain(Fraction(value))
    except ZeroDivisionError:
        raise Refused(f"{what} divides by zero") from None
