"""What is kept of a study of weight decay: a file for every finished width, and one result as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from derive.decays import read_decay
from derive.solve import Prescription
from verify.files import file_stem
from verify.studies.content import plain
from verify.studies.decay.conditions import Conditions, prescription
from verify.studies.decay.text import table
from verify.studies.decay.theory import Network, Row, rows
from verify.studies.study import Answer, Part, Progress, Study, Unit, head, shared
from verify.training.data import Corpus
from verify.values import Document, Entries

DIGITS = 5


def unit(prescribed: Prescription, width: int) -> Unit:
    """(parameterization, convention of decay, width): the networks that are trained and kept together."""
    return prescribed.problem.parameterization.name, prescribed.decay, width


def file_name(unit: Unit) -> str:
    """Where a finished width is kept in the study's folder."""
    parameterization, decay, width = map(str, unit)
    return f"{parameterization.lower()}_{file_stem(decay)}_{width}.json"


@dataclass(frozen=True)
class DecayResult:
    """All networks of a study, in the order of conventions, parameterizations and widths, and what they show."""

    conditions: Conditions
    parts: tuple[Part[Network], ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(
        cls, conditions: Conditions, prescribed: Sequence[Prescription], parts: Sequence[Part[Network]]
    ) -> "DecayResult":
        """The study of these prescriptions, each trained at the same widths."""
        ordered, found = [], []
        for each in prescribed:
            place = (each.decay, each.problem.parameterization.name)
            own = [one for one in parts if (one.found.decay, one.found.parameterization) == place]
            ordered += own
            found += rows(each, [one.found for one in own])
        return cls(conditions, tuple(ordered), tuple(found))

    @property
    def widths(self) -> list[int]:
        """Growing."""
        return sorted({each.found.width for each in self.parts})

    @property
    def divergences(self) -> list[str]:
        """One line per run that diverged."""
        return [
            f"{network.decay} {network.parameterization}, width {network.width}, seed {seed}: the loss was not finite "
            f"at step {step}"
            for network in (each.found for each in self.parts)
            for seed, step in sorted(network.diverged.items())
        ]

    def settings(self) -> dict[tuple[str, str], list[Network]]:
        """Networks of growing width by (convention, parameterization)."""
        found: dict[tuple[str, str], list[Network]] = {}
        for network in (each.found for each in self.parts):
            found.setdefault((network.decay, network.parameterization), []).append(network)
        return found

    def by_layer(self) -> dict[tuple[str, str, str], dict[str, Row]]:
        """The rows by (convention, parameterization, layer), then by quantity."""
        found: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in self.rows:
            found.setdefault((row.decay, row.parameterization, row.layer), {})[row.quantity] = row
        return found


def as_json(study: DecayResult) -> Document:
    """The JSON contract of every verify command; `networks` says of every width how far it is from its equilibrium."""
    return {
        **head("decay", study.parts),
        "model": "mlp",
        "alignment": "full",
        **asdict(study.conditions),
        "widths": study.widths,
        "rows": [_row_json(study.conditions.steps, row) for row in study.rows],
        "networks": [plain(_network_json(each.found), DIGITS) for each in study.parts],
    }


def _row_json(step: int, row: Row) -> Document:
    holds = {
        "holds": True,
        "uncorrelated": True,
        "both": True,
        "open": None,
        "not measured": None,
        "not told apart": None,
    }
    return plain(
        {
            "parameterization": row.parameterization,
            "decay": row.decay,
            "layer": row.layer,
            "kind": row.kind,
            "step": step,
            "quantity": row.quantity,
            "predicted": None if row.predicted is None else str(row.predicted),
            "coherent": None if row.coherent is None else str(row.coherent),
            "measured": row.measured.value,
            "low": row.measured.low,
            "high": row.measured.high,
            "holds": holds.get(row.verdict, False),
            "verdict": row.verdict,
            "reason": row.reason,
            "widths": list(row.widths),
            "left_out": list(row.left_out),
        },
        DIGITS,
    )


def _network_json(network: Network) -> Document:
    return {
        "parameterization": network.parameterization,
        "decay": network.decay,
        "width": network.width,
        "held_out": network.held_out,
        "training": network.training,
        "diverged": dict(network.diverged),
        "layers": {
            name: {
                "rms": network.sizes[name]["now_weight"],
                "time_constants": network.paces[name] * network.marks[-1],
                "drift": network.drift(name),
                "remaining": network.remaining(name),
                "at_equilibrium": network.at_equilibrium(name),
                "persistence": network.persistence(name),
            }
            for name in network.kinds
        },
    }


def _units(content: Entries) -> list[Unit]:
    return [(each["parameterization"], each["decay"], each["width"]) for each in content["networks"]]


def _result(wanted: Mapping[Unit, Conditions], parts: Mapping[Unit, Part[Network]], _: Path) -> DecayResult:
    conditions = shared(wanted)
    settings = dict.fromkeys((str(scheme), str(decay)) for scheme, decay, _ in wanted)
    prescribed = [prescription(conditions.optimizer, scheme, read_decay(decay)) for scheme, decay in settings]
    return DecayResult.of(conditions, prescribed, list(parts.values()))


def _draw(result: DecayResult, folder: Path) -> None:
    from verify.studies.decay.plots import against_width
    from verify.studies.pictures import save

    save(against_width(result), folder / "decay")


def _train(conditions: Conditions, unit: Unit, corpus: Corpus, progress: Progress) -> Network:
    from verify.studies.decay.study import train

    scheme, decay, width = unit
    prescribed = prescription(conditions.optimizer, str(scheme), read_decay(str(decay)))
    return train(conditions, prescribed, int(width), corpus, progress)


ANSWER = Answer(Conditions, "decay.json", _units, _result, as_json, table, _draw)
DECAY = Study("decay", "verify.studies.decay.study", Network, file_name, _train, DIGITS, "network", ANSWER)
