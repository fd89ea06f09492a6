"""Base shapes of microsoft/mup, read and compared with derived exponents entry by entry.

A base shapes file is YAML: a list per parameter, with the base dimension where one grows with the width and null where
it is fixed. What the package then does, as exponents (Yang et al. 2022, 2203.03466; package 1.0): its `MuReadout`
divides its input by the width and keeps its weights' size, hidden weights start as n^-1/2, MuAdam divides the rate of
matrices by the width, MuSGD multiplies that of everything else by it. Whether that is what is derived, in another
gauge, comes out of THEORY 6: (a, b) -> (a + theta, b - theta), c -> c - (1 + k - m) theta.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import yaml
from sympy import Expr, S

from derive.errors import DeriveError, shorten, unknown_name
from derive.exponents import KINDS, Kind
from derive.optimizers import Optimizer, optimizer
from derive.parameterizations import MUP_PACKAGE
from derive.solve import Prescription

Dims = tuple[int | None, ...]
PACKAGE_RATES: Mapping[str, Mapping[Kind, Expr]] = {
    "sgd": {"embedding": S(-1), "hidden": S.Zero, "readout": S(-1)},
    "momentum": {"embedding": S(-1), "hidden": S.Zero, "readout": S(-1)},
    "adam": {"embedding": S.Zero, "hidden": S.One, "readout": S.Zero},
    "adamw": {"embedding": S.Zero, "hidden": S.One, "readout": S.Zero},
}
"""c of MuSGD, MuAdam and MuAdamW: what the package multiplies rates by, n^-c."""


@dataclass(frozen=True)
class Entry:
    """One parameter: its dims (None: fixed), its role (None where shapes leave it open) and why, the exponents of the
    package and of the prescription, theta between them, and what differs (empty where they agree).
    """

    name: str
    dims: Dims
    role: Kind | None
    why: str
    theirs: tuple[Expr, Expr, Expr] | None
    ours: tuple[Expr, Expr, Expr] | None
    theta: Expr | None
    differs: str
    growth: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether both train alike; None where the role is open."""
        return None if self.role is None else not self.differs

    def factors(self, exponents: tuple[Expr, Expr, Expr]) -> tuple[float, float, float]:
        """(multiplier, initial std, rate) relative to the base, where the target's shapes are known."""
        a, b, c = ((self.growth or 1.0) ** -float(x) for x in exponents)
        return a, b, c


def read_shapes(path: Path, what: str) -> dict[str, Dims]:
    """A mapping of names to dims from YAML or JSON; DeriveError where it is anything else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeriveError(
            f"cannot read the {what} {shorten(str(path))}: {error.strerror}; give a file of shapes"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DeriveError(f"the {what} {shorten(str(path))} is not YAML; give what save_base_shapes wrote") from None
    if not isinstance(content, dict) or not content:
        raise DeriveError(
            f"the {what} {shorten(str(path))} has no parameters; it maps each name to a list of dimensions"
        )
    for name, dims in content.items():
        whole = isinstance(dims, list) and all(each is None or (type(each) is int and each > 0) for each in dims)
        if not whole:
            raise DeriveError(
                f"{shorten(str(name))} in the {what} has {shorten(str(dims))}; write whole numbers and null"
            )
    return {str(name): tuple(dims) for name, dims in content.items()}


def role_of(dims: Dims) -> tuple[Kind | None, str]:
    """The role that base dims show, and why; PyTorch's order is (fan_out, fan_in, taps...)."""
    if all(each is None for each in dims):
        return "embedding", "no dimension grows: nothing scales"
    if len(dims) == 1:
        return "embedding", "a vector: bias or gain"
    fan_out, fan_in = dims[0] is not None, dims[1] is not None
    if any(each is not None for each in dims[2:]):
        return None, "a dimension past the second grows, which no layer of PyTorch's has; give --role NAME=KIND"
    if fan_out and fan_in:
        return "hidden", "both dimensions grow"
    if fan_out:
        return "embedding", "fan-in is fixed"
    return None, (
        "a lookup table (rows, width) and a readout (classes, width) have the same shape; "
        "give --role NAME=embedding or NAME=readout"
    )


def compare(
    base: Mapping[str, Dims],
    prescription: Prescription,
    given: Mapping[str, str] | None = None,
    target: Mapping[str, Dims] | None = None,
) -> list[Entry]:
    """Every parameter's exponents in the package beside the derived ones.

    `given` are roles by name, for those that shapes leave open. DeriveError for optimizers that the package does not
    have, for roles that contradict the shapes, and for a target that does not fit the base.
    """
    rule = prescription.optimizer_name
    if rule not in PACKAGE_RATES:
        raise DeriveError(
            f"microsoft/mup has no optimizer for {shorten(rule)}; it has rules for {', '.join(PACKAGE_RATES)}"
        )
    given = dict(given or {})
    for name in given:
        if name not in base:
            raise unknown_name("parameter in --role", name, base)
    growth = {} if target is None else {name: _growth(name, base, target) for name in base}
    for name in target or {}:
        if name not in base:
            raise unknown_name("parameter of the target", name, base)
    return [
        _entry(name, dims, given.get(name), prescription, optimizer(rule), growth.get(name))
        for name, dims in base.items()
    ]


def _growth(name: str, base: Mapping[str, Dims], target: Mapping[str, Dims]) -> float:
    """How much the fan-in grows, or where that is fixed the fan-out."""
    if name not in target:
        raise DeriveError(f"the target has no parameter {shorten(name)}; give the shapes of the whole model")
    dims, wide = base[name], target[name]
    if len(dims) != len(wide) or None in wide:
        raise DeriveError(
            f"{shorten(name)} is {list(dims)} in the base and {list(wide)} in the target; give its full shape"
        )
    growths = [
        large / small for small, large in zip(dims, wide, strict=True) if small is not None and large is not None
    ]
    if any(each < 1 for each in growths):
        raise DeriveError(f"{shorten(name)} shrinks from {list(dims)} to {list(wide)}; the base is the smaller model")
    both = len(dims) > 1 and dims[0] is not None and dims[1] is not None
    return growths[1] if both else prod(growths)


def _entry(
    name: str, dims: Dims, given: str | None, prescription: Prescription, rule: Optimizer, growth: float | None
) -> Entry:
    role, why = role_of(dims)
    if given is not None:
        if given not in KINDS:
            raise unknown_name("layer kind", given, KINDS)
        if role is not None and role != given:
            raise DeriveError(
                f"--role {name}={given}, but its base shape {list(dims)} shows {role}: {why}; leave it out"
            )
        role, why = given, "as given"
    if role is None:
        return Entry(name, dims, None, why, None, None, None, "", growth)
    layer = next(each for each in prescription.layers if each.kind == role)
    ours = (layer.a, layer.b, layer.c)
    if all(each is None for each in dims):
        return Entry(name, dims, role, why, (S.Zero,) * 3, (S.Zero,) * 3, S.Zero, "", growth)  # type: ignore[arg-type]
    theirs = (*MUP_PACKAGE.at(role), PACKAGE_RATES[rule.name][role])
    theta = theirs[0] - ours[0]
    rate = ours[2] - rule.gauge_degree() * theta
    scheme, differences = prescription.problem.parameterization.name, []
    if theirs[1] != ours[1] - theta:
        differences.append(
            f"a + b is {theirs[0] + theirs[1]} in the package and {ours[0] + ours[1]} in {scheme}, "
            "and no shift changes that sum"
        )
    if theirs[2] != rate:
        differences.append(f"the rate is n^{-theirs[2]} in the package and n^{-rate} here in its gauge")
    return Entry(name, dims, role, why, theirs, ours, theta, "; ".join(differences), growth)


def entries_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Rows of the JSON contract, exponents as exact strings."""

    def exponents(values: tuple[Expr, Expr, Expr] | None) -> Any:
        return None if values is None else dict(zip("abc", map(str, values), strict=True))

    return [
        {
            "parameter": entry.name,
            "base": list(entry.dims),
            "role": entry.role,
            "why": entry.why,
            "package": exponents(entry.theirs),
            "derived": exponents(entry.ours),
            "theta": None if entry.theta is None else str(entry.theta),
            "agrees": entry.agrees,
            "differs": entry.differs or None,
            "growth": entry.growth,
        }
        for entry in entries
    ]
