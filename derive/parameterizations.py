"""Parameterizations: multiplier n^-a and initial standard deviation n^-b of every layer kind.

Gauge shifts (a, b) -> (a + theta, b - theta) leave the function unchanged; two parameterizations that differ
by them alone are equivalent, with the rates shifted to match (docs/theory.md, section 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sympy import Expr, Rational, S

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.parsing import parse_triple
from derive.words import EPSILONS, KINDS, Kind

if TYPE_CHECKING:
    from derive.optimizers import Optimizer

HALF = Rational(1, 2)
Triple = tuple[Expr, Expr, Expr]


@dataclass(frozen=True)
class Parameterization:
    """Exponents a (multiplier n^-a) and b (initial standard deviation n^-b): embedding, hidden, readout.

    Checked when built to be stable at initialisation: a + b = 0 on the embedding, 1/2 on hidden layers, at
    least 1/2 on the readout (Everett et al. 2024, section 3). DeriveError names the layer and the sum.
    """

    name: str
    a: tuple[Expr, Expr, Expr]
    b: tuple[Expr, Expr, Expr]
    source: str = "given by the user"

    def __post_init__(self) -> None:
        """Reject what is unstable at initialisation."""
        requirements: dict[Kind, Expr] = {"embedding": S.Zero, "hidden": HALF}
        for kind, required in requirements.items():
            total = self.total(kind)
            if (total - required).is_zero is not True:
                raise DeriveError(
                    f"parameterization {self.name} is unstable at initialisation: {kind} a+b = {total}, "
                    f"allowed is {required}; change a or b of that layer"
                )
        if (self.total("readout") - HALF).is_nonnegative is not True:
            raise DeriveError(
                f"parameterization {self.name} is unstable at initialisation: readout a+b = "
                f"{self.total('readout')}, allowed is 1/2 or more; raise a or b of that layer"
            )

    def at(self, kind: Kind) -> tuple[Expr, Expr]:
        """(a, b) of that layer kind."""
        index = KINDS.index(kind)
        return self.a[index], self.b[index]

    def total(self, kind: Kind) -> Expr:
        """a + b of that layer kind, the exponent of the initial effective weight."""
        a, b = self.at(kind)
        return (a + b).expand()

    def gradient(self, kind: Kind) -> Expr:
        """g of that layer at initialisation: a + b of the readout + a, and a on the readout itself (theory 3)."""
        return self.at(kind)[0] + (S.Zero if kind == "readout" else self.total("readout"))

    def gauge(self, target: Expr = S.Zero) -> "Parameterization":
        """The equivalent parameterization whose multipliers all have exponent `target`."""
        return Parameterization(
            name=f"{self.name.partition(', gauge')[0]}, gauge {target}",
            a=(target, target, target),
            b=(self.total("embedding") - target, self.total("hidden") - target, self.total("readout") - target),
            source=self.source,
        )

    def gauge_free(self) -> "Parameterization":
        """The equivalent one without multipliers: itself where it has none."""
        return self.gauge() if any(a != 0 for a in self.a) else self


SP = Parameterization("SP", (S.Zero, S.Zero, S.Zero), (S.Zero, HALF, HALF), "the standard initialisation, 1/fan_in")
"""Standard: no multipliers, initial variance 1/fan_in; a = 0, 0, 0 and b = 0, 1/2, 1/2."""
NTK = Parameterization("NTK", (S.Zero, HALF, HALF), (S.Zero, S.Zero, S.Zero), "Jacot et al. 2018, 1806.07572")
"""Neural tangent: weights of size 1 behind 1/sqrt(fan_in); a = 0, 1/2, 1/2 and b = 0, 0, 0."""
MUP = Parameterization("muP", (-HALF, S.Zero, HALF), (HALF, HALF, HALF), "Yang & Hu 2021, 2011.14522")
"""Maximal update: a = -1/2, 0, 1/2 and b = 1/2, 1/2, 1/2."""
MFP = Parameterization("MFP", (S.Zero, HALF, S.One), (S.Zero, S.Zero, S.Zero), "mean field; Bordelon & Pehlevan 2022")
"""Mean field: NTK with a readout of 1/fan_in; a = 0, 1/2, 1 and b = 0, 0, 0."""
MUP_PACKAGE = Parameterization(
    "mup-package", (S.Zero, S.Zero, S.One), (S.Zero, HALF, S.Zero), "muP in the gauge of microsoft/mup, 2203.03466"
)
DEFAULT = MUP.gauge()
"""muP without multipliers, the default here and of `verify prescribe`: for a model as it is, which is SP with a readout
that starts smaller, so that the logits stay where features align with it (omega > 1/2), as they are measured to do.
"""
SCHEMES: tuple[Parameterization, ...] = (SP, NTK, MUP, MFP)
ALIASES = {
    "sp": SP,
    "standard": SP,
    "ntk": NTK,
    "mup": MUP,
    "mfp": MFP,
    "meanfield": MFP,
    "mf": MFP,
    "muppackage": MUP_PACKAGE,
}


def parameterization(name: str) -> Parameterization:
    """The parameterization with that name or alias; DeriveError suggesting the nearest one otherwise."""
    found = ALIASES.get(canonical(name))
    if found is None:
        raise unknown_name(
            "parameterization", name, ["sp", "standard", "ntk", "mup", "mfp", "mean-field", "mup-package"]
        )
    return found


def custom(text: str) -> Parameterization:
    """A name, or exponents of one's own such as a=0,0,1;b=0,1/2,0 (embedding, hidden, readout)."""
    if "=" not in text:
        return parameterization(text)
    parts = [part.partition("=") for part in text.split(";")]
    values = {key.strip(): value.strip() for key, _, value in parts}
    if len(parts) != 2 or set(values) != {"a", "b"}:
        raise DeriveError(f"{shorten(text)} is no parameterization; write a name, or a=0,0,1;b=0,1/2,0")
    name = ";".join(f"{key}={values[key]}" for key in "ab")
    return Parameterization(name, parse_triple(values["a"], "a"), parse_triple(values["b"], "b"))


@dataclass(frozen=True)
class Equivalence:
    """The shifts that turn one parameterization into another, or the layer where there are none.

    `theta` is (a, b) -> (a + theta, b - theta) per layer kind, `rate_shift` what is added to c, and
    `epsilon_shift` what is added to the exponent of eps (None where the rule has none), `epsilon2_shift` to that of
    eps2. `obstacle` says why
    there is no such shift.
    """

    first: Parameterization
    second: Parameterization
    theta: tuple[Expr, Expr, Expr] | None
    rate_shift: tuple[Expr, Expr, Expr] | None
    epsilon_shift: tuple[Expr, Expr, Expr] | None
    obstacle: str | None
    epsilon2_shift: tuple[Expr, Expr, Expr] | None = None


def equivalent(
    first: Parameterization, second: Parameterization, optimizer: "Optimizer", kinds: Sequence[Kind] = KINDS
) -> Equivalence:
    """Whether the layers of these kinds train alike: theta = a' - a, c' = c - (1 + k - m) theta (theory 6)."""
    for kind in kinds:
        if (first.total(kind) - second.total(kind)).is_zero is not True:
            obstacle = (
                f"{kind}: a+b is {first.total(kind)} in {first.name} and {second.total(kind)} in {second.name}, "
                "and no shift of the multiplier changes that sum"
            )
            return Equivalence(first, second, None, None, None, obstacle)
    embedding, hidden, readout = (new - old for old, new in zip(first.a, second.a, strict=True))
    theta = (embedding, hidden, readout)
    if not optimizer.scaled_epsilon and optimizer.epsilon_companions and any(shift != 0 for shift in theta):
        moved = KINDS[next(index for index, shift in enumerate(theta) if shift != 0)]
        obstacle = f"{moved}: a constant eps does not follow the gradient when the multiplier shifts; scale eps too"
        return Equivalence(first, second, None, None, None, obstacle)
    degrees = [_gauge_degree(optimizer, kind, first, second) for kind in KINDS]
    for kind, shift, degree in zip(KINDS, theta, degrees, strict=True):
        if kind in kinds and degree is None and shift != 0:
            obstacle = f"{kind}: the threshold of {shorten(optimizer.update)} stays where the gradient moves past it"
            return Equivalence(first, second, None, None, None, obstacle)
    epsilons = (optimizer.epsilon_gauge_degree(symbol) for symbol in EPSILONS)
    first_epsilon, second_epsilon = (
        each if each is None else tuple(each * shift for shift in theta) for each in epsilons
    )
    return Equivalence(
        first,
        second,
        theta,
        cast("Triple", tuple(-(degree or 0) * shift for degree, shift in zip(degrees, theta, strict=True))),
        cast("Triple | None", first_epsilon),
        None,
        cast("Triple | None", second_epsilon),
    )


def _gauge_degree(optimizer: "Optimizer", kind: Kind, first: Parameterization, second: Parameterization) -> Expr | None:
    """1 + k - m of that layer where both parameterizations have the same one, at their gradients' initial sizes."""
    first_degree, second_degree = (
        optimizer.gauge_degree(kind, scheme.gradient(kind), scheme.at(kind)[1]) for scheme in (first, second)
    )
    return first_degree if first_degree == second_degree else None
