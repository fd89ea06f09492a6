"""Base shapes of microsoft/mup, read and compared with derived exponents entry by entry.

A base shapes file is YAML: a list per parameter, with the base dimension where one grows with the width and null where
it is fixed. What the package then does, as exponents (Yang et al. 2022, 2203.03466; package 1.0): its `MuReadout`
divides its input by the width and keeps its weights' size, matrices start as n^-1/2, MuAdam divides the rate of
matrices by the width, MuSGD multiplies that of vectors by it and that of matrices by fan-out's growth over fan-in's.
Whether that is what is derived, in another gauge, comes out of `derive.parameterizations.equivalent`
(docs/theory.md, section 6):
(a, b) -> (a + theta, b - theta), c -> c - (1 + k - m) theta.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import yaml
from sympy import Expr, Rational, S

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.parameterizations import MUP_PACKAGE, equivalent
from derive.solve import Prescription
from derive.words import KINDS, Kind
from verify.model.mup_entries import (
    NOTHING,
    PACKAGE,
    QUANTITIES,
    Dims,
    Entry,
    Exponents,
    Growth,
    Role,
)
from verify.model.mup_entries import growing as count_growing


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
    growing = count_growing(dims)
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
        return a, b, S.One if count_growing(dims) == 2 else S.Zero
    if count_growing(dims) == 1:
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
