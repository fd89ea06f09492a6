"""One parameter of a base shapes file beside the derived exponents: what differs, and the change that mends it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sympy import Expr, S

from derive.words import Kind
from verify.values import Document, Json

Dims = tuple[int | None, ...]
Role = Kind | Literal["fixed"]
Exponents = tuple[Expr, Expr, Expr]
QUANTITIES = ("multiplier", "initial std", "rate")
"""What the exponents a, b, c are of."""
PACKAGE = {"sgd": "MuSGD", "momentum": "MuSGD", "nesterov": "MuSGD", "adam": "MuAdam", "adamw": "MuAdamW"}
"""The package's optimizer for every rule it has one for."""
NOTHING: Exponents = (S.Zero, S.Zero, S.Zero)


@dataclass(frozen=True)
class Growth:
    """Target over base of fan-in and of fan-out, 1 where that does not grow; `main` is what powers of n are of.

    `main` is the last dimension that grows, so fan-in where both do, as in the package.
    """

    main: float
    fan_in: float
    fan_out: float


@dataclass(frozen=True)
class Entry:
    """One parameter beside the package.

    `role` is None where shapes leave it open, and `why` says so. `theirs` are the package's exponents a, b, c, `ours`
    the prescription's, `wanted` the latter in the package's gauge, `theta` the shift there. `differs` are the
    quantities in which `theirs` is not `wanted`, and `reason` is why no shift helps.
    """

    name: str
    dims: Dims
    role: Role | None
    why: str
    theirs: Exponents | None = None
    ours: Exponents | None = None
    wanted: Exponents | None = None
    theta: Expr | None = None
    differs: tuple[str, ...] = ()
    reason: str | None = None
    growth: Growth | None = None
    package: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether both train alike; None where the role is open."""
        return None if self.role is None else not self.differs

    def factors(self, exponents: Exponents) -> tuple[float, float, float]:
        """(multiplier, initial std, rate) relative to the base: growth^-x; 1 where the target is not known."""
        main = 1.0 if self.growth is None else self.growth.main
        a, b, c = (main ** -float(x) for x in exponents)
        return a, b, c

    @property
    def package_factors(self) -> tuple[float, float, float]:
        """What the package multiplies by; MuSGD's factor for a matrix is fan-out's growth over fan-in's."""
        a, b, c = self.factors(self.theirs or NOTHING)
        if self.growth is not None and self.package == "MuSGD" and growing(self.dims) == 2:
            c = self.growth.fan_out / self.growth.fan_in
        return a, b, c

    @property
    def cure(self) -> str:
        """What to change in the package's set-up to train as prescribed; empty where nothing is."""
        if self.theirs is None or self.wanted is None:
            return ""
        # A ratio of fan-out's growth to fan-in's is n^0 and stays; elsewhere MuSGD's factor is a power of n.
        applied = self.package_factors if None in self.dims[:2] else self.factors(self.theirs)
        rows = zip(QUANTITIES, self.theirs, self.wanted, applied, self.factors(self.wanted), strict=True)
        parts = []
        for name, there, here, is_now, should_be in rows:
            if name in self.differs:
                factor = "" if self.growth is None else f", a further x {should_be / is_now:.4g}"
                parts.append(f"{name} {power(here)} instead of {power(there)}{factor}")
        return "; ".join(parts)

    @property
    def note(self) -> str | None:
        """Where fan-in and fan-out grow by different factors, by which of them the numbers go."""
        growth = self.growth
        if growth is None or growth.fan_in == growth.fan_out or None in self.dims[:2] or len(self.dims) < 2:
            return None
        ratio = f"{growth.fan_out / growth.fan_in:.4g}"
        return f"fan-in grows x {growth.fan_in:.4g} and fan-out x {growth.fan_out:.4g}; numbers go by fan-in's" + (
            f", and MuSGD multiplies the rate by their ratio {ratio}, which is n^0" if self.package == "MuSGD" else ""
        )


def power(exponent: Expr) -> str:
    """n^-x as it is read: n^0, n^-1, n^(1/2)."""
    shown = str(-exponent)
    return f"n^{shown}" if shown.lstrip("-").isdigit() else f"n^({shown})"


def growing(dims: Dims) -> int:
    """How many dimensions grow."""
    return sum(each is not None for each in dims)


def counts(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """(agree, differ, undecided)."""
    agree, differ, undecided = (sum(entry.agrees is value for entry in entries) for value in (True, False, None))
    return agree, differ, undecided


def entries_json(entries: Sequence[Entry]) -> list[Document]:
    """Rows of the JSON contract, exponents as exact strings and factors as numbers, null without a target."""

    def exponents(values: Exponents | None) -> Json:
        return None if values is None else dict(zip("abc", map(str, values), strict=True))

    def factors(entry: Entry, values: tuple[float, float, float]) -> Json:
        known = entry.growth is not None and entry.theirs is not None
        return dict(zip(("multiplier", "init", "rate"), values, strict=True)) if known else None

    return [
        {
            "parameter": entry.name,
            "base": list(entry.dims),
            "grows": [index for index, each in enumerate(entry.dims) if each is not None],
            "role": entry.role,
            "why": entry.why,
            "package": exponents(entry.theirs),
            "derived": exponents(entry.ours),
            "derived_in_the_package_gauge": exponents(entry.wanted),
            "theta": None if entry.theta is None else str(entry.theta),
            "agrees": entry.agrees,
            "differs": list(entry.differs),
            "reason": entry.reason,
            "change": entry.cure or None,
            "growth": None if entry.growth is None else entry.growth.main,
            "package_factors": factors(entry, entry.package_factors),
            "derived_factors": factors(entry, entry.factors(entry.ours or NOTHING)),
            "note": entry.note,
        }
        for entry in entries
    ]
