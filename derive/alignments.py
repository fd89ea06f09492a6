"""Alignments: the log-alignment ratios alpha, omega, u of every layer (docs/theory.md, section 2).

    alpha_l: RMS(dW z) = n^alpha RMS(dW) RMS(z)      omega_l: RMS(W dz) = n^omega RMS(W) RMS(dz)
    u_l:     RMS(dW dz) = n^u RMS(dW) RMS(dz)

1 is perfect alignment, 1/2 is none; the embedding has none of the three.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from sympy import Expr, Rational, S

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.parsing import parse_expression
from derive.words import Kind

Quantity = Literal["alpha", "omega", "u"]
QUANTITIES: tuple[Quantity, ...] = ("alpha", "omega", "u")
HALF = Rational(1, 2)
SCHEMAS = (1, 2)
"""Of the JSON that is read; the rows of alignments are alike in both."""


@dataclass(frozen=True)
class Ratios:
    """(alpha, omega, u) of one layer."""

    alpha: Expr
    omega: Expr
    u: Expr


@dataclass(frozen=True)
class Alignment:
    """Log-alignment ratios for every layer; `layers` overrides `hidden` at single hidden layers, 0-based.

    A measured alignment knows how many hidden layers it was measured on, and its `intervals` hold the low and
    the high end of every ratio. `notes` says what was changed on reading.
    """

    name: str
    hidden: Ratios
    readout: Ratios
    layers: Mapping[int, Ratios] = field(default_factory=dict)
    hidden_layers: int | None = None
    intervals: tuple["Alignment", "Alignment"] | None = None
    notes: tuple[str, ...] = ()

    def at(self, kind: Kind, index: int = 0) -> Ratios | None:
        """The ratios of a layer (`index` counts hidden layers from 0); None on the embedding."""
        if kind == "embedding":
            return None
        return self.readout if kind == "readout" else self.layers.get(index, self.hidden)

    def replaced(self, change: Callable[[Ratios], Ratios]) -> "Alignment":
        """The same alignment with every layer's ratios changed."""
        layers = {index: change(ratios) for index, ratios in self.layers.items()}
        return replace(self, hidden=change(self.hidden), readout=change(self.readout), layers=layers)


FULL = Alignment("full", Ratios(S.One, HALF, S.One), Ratios(S.One, HALF, S.One))
"""Updates align with what enters as well as they can: alpha = u = 1, omega = 1/2."""
NONE = Alignment("none", Ratios(HALF, HALF, HALF), Ratios(HALF, HALF, HALF))
"""Updates act as random matrices do: alpha = omega = u = 1/2."""
PRIOR = Alignment("prior", Ratios(S.One, HALF, S.One), Ratios(S.One, S.One, S.One))
"""What earlier work assumed: as full, and omega = 1 on the readout."""
ASSUMPTIONS: dict[str, Alignment] = {"full": FULL, "none": NONE, "prior": PRIOR}

KEY = re.compile(r"(?:(hidden|readout)\.|hidden\.(\d{1,5})\.)?(alpha|omega|u)")


def alignment(text: str) -> Alignment:
    """Read `--alignment`: a name, `measured:FILE`, or changes such as `full,readout.omega=1,hidden.3.u=x`.

    Keys that are not given are as in `full`; a bare key means hidden and readout alike. DeriveError for
    unknown names and keys, and for values above 1.
    """
    if text.strip().lower().startswith("measured:"):
        path = text.strip()[len("measured:") :]
        if not path:
            raise DeriveError(
                "--alignment measured: names no file; give measured:FILE.json as verify exponents wrote it"
            )
        return measured(Path(path))
    parts = [part.strip() for part in text.split(",")]
    start = FULL
    if "=" not in parts[0]:
        name = canonical(parts.pop(0))
        if name not in ASSUMPTIONS:
            raise unknown_name("alignment", text, [*ASSUMPTIONS, "measured:FILE.json", "alpha=...,omega=...,u=..."])
        start = ASSUMPTIONS[name]
    return replace(_with_changes(start, parts), name=text.strip()) if parts else start


def _with_changes(start: Alignment, changes: list[str]) -> Alignment:
    ratios = {"hidden": start.hidden, "readout": start.readout}
    single: list[tuple[int, Quantity, Expr]] = []
    for change in changes:
        key, equals, text = change.partition("=")
        match = KEY.fullmatch(key.strip().lower())
        if not equals or not match:
            raise DeriveError(
                f"alignment key {shorten(change)} is not known; write alpha=, omega= or u=, alone or after hidden., "
                "readout. or hidden.INDEX. (the embedding has no alignment)"
            )
        kind, index, quantity = match.groups()
        value = _checked(parse_expression(text, f"alignment {key.strip()}"), key.strip())
        if index is not None:
            single.append((int(index), cast("Quantity", quantity), value))
            continue
        for each in [kind] if kind else ["hidden", "readout"]:
            ratios[each] = replace(ratios[each], **{quantity: value})
    layers: dict[int, Ratios] = {}
    for index, quantity, value in single:
        layers[index] = replace(layers.get(index, ratios["hidden"]), **{quantity: value})
    return replace(start, hidden=ratios["hidden"], readout=ratios["readout"], layers=layers)


def _checked(value: Expr, key: str) -> Expr:
    if (value - 1).is_positive:
        raise DeriveError(f"alignment {key}={value} is above 1, the perfect alignment; give a value up to 1")
    return value


def measured(path: Path) -> Alignment:
    """Read the alignments that `verify` measured: the fitted alpha, omega, u of the last step, exact decimals.

    Values above 1 become 1, with a note. DeriveError where the file is missing, is not such a file, or lacks a
    layer or a quantity (a failed measurement is NaN there, and is not replaced).
    """
    rows = _measured_rows(path)
    steps = {row["step"] for row in rows}
    last = max(steps)
    values = {(row["layer"], row["quantity"]): row for row in rows if row["step"] == last}
    names = list(dict.fromkeys(layer for layer, _ in values if layer != "embedding"))
    notes: list[str] = []

    def read(end: str) -> Alignment:
        return _by_layer(path, {name: _ratios(values, name, end, path, notes) for name in names}, notes)

    best = read("measured")
    has_intervals = all(isinstance(row.get("low"), Rational) for row in values.values())
    intervals = (read("low"), read("high")) if has_intervals else None
    if len(steps) > 1:
        notes.append(f"read the last of {len(steps)} measured steps, {last}")
    return replace(best, intervals=intervals, notes=tuple(dict.fromkeys(notes)))


def measured_by_op(path: Path) -> dict[str, Ratios]:
    """The alignments of the last measured step by dense op, whatever graph they form; errors as `measured`."""
    rows = _measured_rows(path)
    last = max(row["step"] for row in rows)
    values = {(row["layer"], row["quantity"]): row for row in rows if row["step"] == last}
    names = dict.fromkeys(layer for layer, _ in values if layer != "embedding")
    return {name: _ratios(values, name, "measured", path, []) for name in names}


def _by_layer(path: Path, ratios: Mapping[str, Ratios], notes: list[str]) -> Alignment:
    """Layers hidden.0, hidden.1, ... one by one; other hidden ops together, each ratio the largest among them."""
    if "readout" not in ratios or len(ratios) < 2:
        raise DeriveError(
            f"{shorten(str(path))} has layers {', '.join(ratios)}; needed are a readout and hidden.0, hidden.1, ..."
        )
    readout = ratios["readout"]
    hidden = {name: ratio for name, ratio in ratios.items() if name != "readout"}
    if all(name == f"hidden.{index}" for index, name in enumerate(hidden)):
        layers = dict(enumerate(hidden.values()))
        return Alignment(f"measured:{path}", layers[0], readout, layers, len(layers))
    largest = Ratios(*(max(getattr(ratio, quantity) for ratio in hidden.values()) for quantity in QUANTITIES))
    notes.append(f"{len(hidden)} hidden ops that are no chain enter as one layer, with the largest alpha, omega and u")
    return Alignment(f"measured:{path}", largest, readout)


def _measured_rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_float=_exact, parse_int=_exact)
    except OSError as error:
        raise DeriveError(
            f"cannot read the measured alignments {shorten(str(path))}: {error.strerror}; "
            "give a file that verify exponents wrote"
        ) from None
    except (ValueError, RecursionError):
        raise DeriveError(f"{shorten(str(path))} is not JSON; give a file that verify exponents wrote") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(content, dict) or content.get("schema") not in SCHEMAS or not isinstance(rows, list):
        raise DeriveError(
            f"{shorten(str(path))} is not a measurement of schema 1 or 2; give the measured.json that verify exponents "
            "wrote"
        )
    kept = [row for row in rows if isinstance(row, dict) and row.get("quantity") in QUANTITIES]
    for row in kept:
        if not isinstance(row.get("layer"), str) or not isinstance(row.get("step"), Rational):
            raise DeriveError(f"{shorten(str(path))} has a row without layer and step; write it again with verify")
    if not kept:
        raise DeriveError(f"{shorten(str(path))} holds no alpha, omega or u; measure them with verify exponents")
    return kept


def _exact(text: str) -> Expr | float:
    """The number as it is written, NaN where it is no size of a ratio: above 1e9 or, but for 0, below 1e-30."""
    value = abs(float(text))
    if value == 0 and not re.search("[1-9]", re.split("[eE]", text)[0]):
        return S.Zero
    return Rational(text) if 1e-30 < value < 1e9 and len(text) < 40 else math.nan


def _ratios(values: Mapping[tuple[str, str], Any], layer: str, end: str, path: Path, notes: list[str]) -> Ratios:
    found: dict[str, Expr] = {}
    for quantity in QUANTITIES:
        value = values.get((layer, quantity), {}).get(end)
        if not isinstance(value, Rational):
            raise DeriveError(
                f"{shorten(str(path))} has no measured {quantity} for {shorten(layer)} (found "
                f"{shorten(str(value))}); measure it again, or give it by hand with --alignment"
            )
        if value > 1:
            notes.append(f"{layer} {quantity} {end} {float(value):.3g} is above 1 and enters as 1")
        found[quantity] = min(value, S.One)
    return Ratios(found["alpha"], found["omega"], found["u"])
