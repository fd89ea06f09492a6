"""What the judge of `verify exponents` says of every plant and of right theories, from stored sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from scipy.stats import beta

from benchmarks.plants.sizes import LAYERS, WIDTHS, Sizes
from benchmarks.plants.theories import DEFAULT_SEEDS, MORE_SEEDS, OPTIMIZERS, SCHEMES, Plant, plants, right, trained_as
from derive.certify import Refused, check
from derive.solve import Prescription
from derive.words import Kind
from verify.fit.forward import Row, Table, verdicts
from verify.fit.four_steps import of_step, rejected_by, resolution

KINDS: dict[str, Kind] = dict(zip(LAYERS, ("embedding", "hidden", "hidden", "readout"), strict=True))
CERTIFICATE = "certificate"


@dataclass(frozen=True)
class Verdict:
    """What is said of one plant; `evidence` is the row by which the expected step fails, None where none does.

    `told_by_default` are of how many groups of three seeds, and how many there are, in which it is rejected so too.
    """

    plant: str
    optimizer: str
    seeds: int
    named: tuple[str, ...]
    expected: str
    evidence: str | None
    told_by_default: tuple[int, int]

    @property
    def missed(self) -> bool:
        """Whether it passed, or was rejected for something else."""
        return not self.named or self.evidence is None


@dataclass(frozen=True)
class Alarms:
    """In how many groups of `seeds` a right theory was judged, and by what it was rejected in which of them.

    `apart` is what the command says that it can tell apart, the median over groups.
    """

    optimizer: str
    scheme: str
    seeds: int
    groups: int
    rejected: Mapping[int, str]
    apart: float


def rows_of(theory: Prescription, tables: Mapping[int, Table], widths: Sequence[int] = WIDTHS) -> list[Row]:
    """Every row that the command would print of those tables by step."""
    return [row for step, table in tables.items() for row in verdicts(theory, widths, step, table, KINDS)]


def evidence(plant: Plant, rows: Sequence[Row]) -> Row | None:
    """The first row by which the expected step fails, of the quantities in which the plant has to show."""
    failing = [row for row in of_step(rows, plant.step) if row.verdict == "fails" and row.quantity in plant.quantities]
    return min(failing, key=lambda row: row.step, default=None)


def said_of(optimizer: str, plant: Plant, stored: Sizes, by_default: bool = True) -> Verdict:
    """The verdict on a plant by its seeds and, unless that is left out, by every three of them."""
    trained = trained_as(plant.theory)

    def judged(seeds: slice) -> tuple[tuple[str, ...], Row | None]:
        rows = rows_of(plant.theory, stored.tables(trained, seeds))
        return tuple(rejected_by(rows)), evidence(plant, rows)

    named, row = judged(slice(plant.seeds))
    starts = range(0, plant.seeds if by_default else 0, DEFAULT_SEEDS)
    told = [all(judged(slice(start, start + DEFAULT_SEEDS))) for start in starts]
    shown = None if row is None else text(row)
    return Verdict(plant.name, optimizer, plant.seeds, named, plant.step, shown, (sum(told), len(told)))


def text(row: Row) -> str:
    """A failing row in a few words."""
    return f"{row.layer} {row.quantity} {row.measured.value:+.2f}, not {row.reference:+.2f}, after {row.step}"


def of_certificate(optimizer: str) -> Verdict:
    """The right answer's certificate, said to be that of another program: the same layers with the other's updates."""
    own, other = (right(each).certificate for each in (optimizer, _other(optimizer)))
    assert own is not None and other is not None
    try:
        check(replace(own, problem=other.problem))
        refused = None
    except Refused as error:
        refused = str(error)
    named = (CERTIFICATE,) if refused else ()
    return Verdict("certificate of another program", optimizer, 0, named, CERTIFICATE, refused, (0, 0))


def _other(optimizer: str) -> str:
    return next(each for each in OPTIMIZERS if each != optimizer)


def of_plants(stored: Mapping[str, Sizes], by_default: bool = True) -> list[Verdict]:
    """The verdict on every plant."""
    found = []
    for optimizer in OPTIMIZERS:
        found += [said_of(optimizer, plant, stored[optimizer], by_default) for plant in plants(optimizer)]
        found.append(of_certificate(optimizer))
    return found


def of_right(stored: Mapping[str, Sizes]) -> list[Alarms]:
    """Every group of seeds of the right theories: as many as the default has, and as many as some plants need."""
    return [
        alarms(optimizer, scheme, stored[optimizer], seeds)
        for seeds in (DEFAULT_SEEDS, MORE_SEEDS)
        for scheme in SCHEMES
        for optimizer in OPTIMIZERS
    ]


def alarms(optimizer: str, scheme: str, stored: Sizes, seeds: int = DEFAULT_SEEDS, every: int = 1) -> Alarms:
    """Which groups of seeds, or which of every so many, reject the right theory."""
    theory = right(optimizer, scheme)
    trained = trained_as(theory)
    rejected, apart = {}, []
    groups = range(0, stored.seeds(trained) // seeds, every)
    for group in groups:
        rows = rows_of(theory, stored.tables(trained, slice(seeds * group, seeds * (group + 1))))
        apart.append(resolution(rows))
        if found := rejected_by(rows):
            rejected[group] = "; ".join(f"step {name}: {text(each[0])}" for name, each in found.items())
    return Alarms(optimizer, scheme, seeds, len(groups), rejected, median(apart) if apart else float("nan"))


def interval(count: int, among: int) -> tuple[float, float]:
    """The 95 % interval of a rate by Clopper and Pearson (Biometrika 26, 1934)."""
    low = float(beta.ppf(0.025, count, among - count + 1)) if count else 0.0
    high = float(beta.ppf(0.975, count + 1, among - count)) if count < among else 1.0
    return low, high
