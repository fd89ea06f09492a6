"""Base shapes of microsoft/mup, read and compared with derived exponents entry by entry.

A base shapes file is YAML: a list per parameter, with the base dimension where one grows with the width and null where
it is fixed. What the package then does, as exponents (Yang et al. 2022, 2203.03466; package 1.0): its `MuReadout`
divides its input by the width and keeps its weights' size, matrices start as n^-1/2, MuAdam divides the rate of
matrices by the width, MuSGD multiplies that of vectors by it and that of matrices by fan-out's growth over fan-in's.
Whether that is what is derived, in another gauge, comes out of `derive.parameterizations.equivalent`
(docs/theory.md, section 6):
(a, b) -> (a + theta, b - theta), c -> c - (1 + k - m) theta.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from sympy import Expr, Rational, S

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.exponents import KINDS, Kind
from derive.parameterizations import MUP_PACKAGE, equivalent
from derive.solve import Prescription

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
        if self.growth is not None and self.package == "MuSGD" and _growing(self.dims) == 2:
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


def rule_name(name: str) -> str:
    """The rule whose optimizer the package has, by its name here or there; DeriveError naming them otherwise."""
    known = {canonical(rule): rule for rule in PACKAGE} | {"musgd": "sgd", "muadam": "adam", "muadamw": "adamw"}
    if canonical(name) not in known:
        raise DeriveError(
            f"microsoft/mup has no optimizer for {shorten(name)}, it has MuSGD (sgd, momentum, nesterov), MuAdam "
            "(adam) and MuAdamW (adamw); give one of these"
        )
    return known[canonical(name)]


def read_shapes(path: Path, what: str) -> dict[str, Dims]:
    """A mapping of names to dims from YAML or JSON; DeriveError where it is anything else."""
    given = f"the {what} {shorten(str(path))}"
    cure = "write {name: list(p.shape)} as JSON" if "target" in what else "give what save_base_shapes wrote"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeriveError(f"cannot read {given}: {error.strerror}; {cure}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise DeriveError(f"{given} is not plain YAML or JSON; {cure}") from None
    if not isinstance(content, dict) or not content:
        raise DeriveError(f"{given} has no parameters, it should map each name to a list of dimensions; {cure}")
    for name, dims in content.items():
        if not isinstance(name, str):
            raise DeriveError(f"{given} has the name {shorten(str(name))}, which is no text; {cure}")
        if not isinstance(dims, list):
            raise DeriveError(f"{shorten(name)} in the {what} is no list; write one entry per dimension, or []")
        for each in dims:
            if each is not None and not (type(each) is int and each > 0):
                shown = shorten(str(each)) if isinstance(each, int | float | str) else f"a {type(each).__name__}"
                raise DeriveError(f"{shorten(name)} in the {what} has the dimension {shown}; write a number or null")
    return {name: tuple(dims) for name, dims in content.items()}


def role_of(dims: Dims) -> tuple[Role | None, str]:
    """The role that base dims show, and why; PyTorch's order is (fan_out, fan_in, taps...).

    None where they leave it open: (fixed, growing) is a table of vectors as well as a readout.
    """
    grows = [each is not None for each in dims]
    if not any(grows):
        return "fixed", "no dimension grows: nothing scales"
    if sum(grows) > 2:
        return None, "more than two dimensions grow, for which microsoft/mup has no rule; change its base shape"
    if len(dims) == 1:
        return "embedding", "a vector: bias or gain"
    if any(grows[2:]):
        return None, "what grows is not, or not only, one of the first two dimensions"
    if all(grows[:2]):
        return "hidden", "fan-in and fan-out grow"
    if grows[0]:
        return "embedding", "fan-in is fixed"
    return None, "(rows, width) of a lookup table and (classes, width) of a readout read alike"


def roles_for(dims: Dims) -> tuple[Kind, ...]:
    """The roles a parameter of these base dims can be given: one dimension grows or two, for which rules differ."""
    growing = _growing(dims)
    return ("embedding", "readout") if growing == 1 else ("hidden",) if growing == 2 else ()


def compare(
    base: Mapping[str, Dims],
    prescription: Prescription,
    given: Mapping[str, str] | None = None,
    target: Mapping[str, Dims] | None = None,
) -> list[Entry]:
    """Every parameter's exponents in the package beside the derived ones.

    `given` are roles by name, for those that shapes leave open. DeriveError for optimizers that the package does not
    have, symbols, roles that contradict the shapes, and a target that does not fit the base.
    """
    rule = rule_name(prescription.optimizer_name)
    if not all(isinstance(x, Rational) for layer in prescription.layers for x in (layer.a, layer.b, layer.c)):
        raise DeriveError(
            f"alignment {shorten(prescription.problem.alignment.name)} or the parameterization leaves symbols in the "
            "exponents; give numbers to compare"
        )
    given = dict(given or {})
    for name in given:
        _known("--role", name, base, "name one of its parameters")
    for name in target or {}:
        _known("the target", name, base, "give the shapes of the same model")
    growth = {} if target is None else {name: _growth(name, dims, target) for name, dims in base.items()}
    return [_entry(name, dims, given.get(name), prescription, rule, growth.get(name)) for name, dims in base.items()]


def _known(where: str, name: str, base: Iterable[str], cure: str) -> None:
    names = list(base)
    if name not in names:
        nearest = get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else cure
        raise DeriveError(f"{where} has {shorten(name)}, which is none of the {len(names)} of the base shapes; {hint}")


def _growing(dims: Dims) -> int:
    return sum(each is not None for each in dims)


def _shown(dims: Dims) -> str:
    """As the file has it, such as [null, 256]."""
    return "[" + ", ".join("null" if each is None else str(each) for each in dims) + "]"


def _growth(name: str, dims: Dims, target: Mapping[str, Dims]) -> Growth:
    if name not in target:
        raise DeriveError(
            f"the target has no {shorten(name)}, which the base shapes have; give the shapes of the whole model"
        )
    wide = target[name]
    if len(dims) != len(wide) or None in wide:
        raise DeriveError(
            f"{shorten(name)} is {_shown(dims)} in the base and {_shown(wide)} in the target; give its full shape there"
        )
    factors = [
        1.0 if small is None or large is None else large / small for small, large in zip(dims, wide, strict=True)
    ]
    if any(each < 1 for each in factors):
        raise DeriveError(
            f"{shorten(name)} shrinks from {_shown(dims)} to {_shown(wide)}, but the base is the smaller model; "
            "swap them"
        )
    main = next((each for small, each in zip(dims[::-1], factors[::-1], strict=True) if small is not None), 1.0)
    fan_out, fan_in = [*factors, 1.0, 1.0][:2]
    return Growth(main, fan_in, fan_out)


def _role(name: str, dims: Dims, given: str | None) -> tuple[Role | None, str]:
    role, why = role_of(dims)
    allowed = roles_for(dims)
    if given is None:
        cures = " or ".join(f"--role {name}={kind}" for kind in allowed)
        return role, f"{why}; give {cures}" if role is None and allowed else why
    kind = next((kind for kind in KINDS if canonical(kind) == canonical(given)), None)
    if kind is None:
        raise unknown_name("layer kind", given, KINDS)
    if role is None and kind in allowed:
        return kind, "as given, a MuReadout" if kind == "readout" else "as given"
    if kind != role:
        raise DeriveError(
            f"--role {name}={kind} contradicts its base shape {_shown(dims)}: "
            + (f"allowed is {' or '.join(allowed)}" if role is None and allowed else f"{why}; leave --role out")
        )
    return role, why


def _package_exponents(role: Kind, dims: Dims, optimizer: str) -> Exponents:
    """(a, b, c) of the package, whose rates go by how many dimensions grow; the first two are (fan_out, fan_in)."""
    a, b = MUP_PACKAGE.at(role)
    if PACKAGE[optimizer] != "MuSGD":
        return a, b, S.One if _growing(dims) == 2 else S.Zero
    if _growing(dims) == 1:
        return a, b, S(-1)
    return a, b, S(int(dims[1] is not None) - int(dims[0] is not None))


def _entry(
    name: str, dims: Dims, given: str | None, prescription: Prescription, optimizer: str, growth: Growth | None
) -> Entry:
    role, why = _role(name, dims, given)
    package = PACKAGE[optimizer]
    if role is None:
        return Entry(name, dims, None, why, growth=growth, package=package)
    if role == "fixed":
        return Entry(name, dims, role, why, NOTHING, NOTHING, NOTHING, S.Zero, growth=growth, package=package)
    theirs = _package_exponents(role, dims, optimizer)
    layer = next(each for each in prescription.layers if each.kind == role)
    scheme, rule = prescription.problem.parameterization, prescription.problem.optimizers[role]
    index = KINDS.index(role)

    def with_layer(a: Expr, b: Expr) -> tuple[Exponents, Exponents]:
        """The scheme's a and b with this layer's replaced, so that no other layer is an obstacle."""
        first, second = ([*scheme.a], [*scheme.b])
        first[index], second[index] = a, b
        return (first[0], first[1], first[2]), (second[0], second[1], second[2])

    a, b = with_layer(theirs[0], scheme.total(role) - theirs[0])
    shift = equivalent(scheme, replace(scheme, a=a, b=b), rule)
    if shift.theta is None or shift.rate_shift is None:
        raise DeriveError(f"{shift.obstacle}; microsoft/mup cannot be compared with a constant eps")
    theta = shift.theta[index]
    wanted = (theirs[0], b[index], layer.c + shift.rate_shift[index])
    differs = tuple(quantity for quantity, there, here in zip(QUANTITIES, theirs, wanted, strict=True) if there != here)
    a, b = with_layer(theirs[0], theirs[1])
    reason = equivalent(scheme, replace(MUP_PACKAGE, a=a, b=b), rule).obstacle
    return Entry(
        name,
        dims,
        role,
        why,
        theirs,
        (layer.a, layer.b, layer.c),
        wanted,
        None if reason else theta,
        differs,
        reason,
        growth,
        package,
    )


def counts(entries: Sequence[Entry]) -> tuple[int, int, int]:
    """(agree, differ, undecided)."""
    agree, differ, undecided = (sum(entry.agrees is value for entry in entries) for value in (True, False, None))
    return agree, differ, undecided


def entries_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Rows of the JSON contract, exponents as exact strings and factors as numbers, null without a target."""

    def exponents(values: Exponents | None) -> Any:
        return None if values is None else dict(zip("abc", map(str, values), strict=True))

    def factors(entry: Entry, values: tuple[float, float, float]) -> Any:
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
