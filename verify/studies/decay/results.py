"""What is kept of a study of weight decay: a file for every finished width, and one result as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from derive import __version__
from derive.errors import shorten
from derive.solve import Prescription
from verify.checksums import read_document, refused, write_document
from verify.files import file_stem
from verify.provenance import device_name, loaded_code, today
from verify.studies.decay.study import Conditions
from verify.studies.decay.theory import Network, Row, rows
from verify.studies.exponents.study import StudyError


@dataclass(frozen=True)
class Trained:
    """A finished width with the program, device and day that made it."""

    network: Network
    code: str
    device: str
    date: str

    @classmethod
    def of(cls, network: Network) -> "Trained":
        """The network, made here and now."""
        return cls(network, loaded_code("verify.studies.decay.study"), device_name(), today())

    def write(self, path: Path, conditions: Conditions) -> None:
        """Store as JSON with a checksum; what is not finite is null."""
        made = {"schema": 1, "code": self.code, "device": self.device, "date": self.date}
        write_document(path, {**made, "conditions": asdict(conditions), "network": _plain(asdict(self.network))})

    @classmethod
    def read(cls, path: Path, conditions: Conditions) -> "Trained":
        """What `write` stored; StudyError where that was made under other conditions, or is something else."""
        with refused(path, "of verify decay", "move it away, or give another --out", StudyError):
            content = read_document(path)
            stored = dict(content["conditions"])
            fields = content["network"]
            for name in ("weights", "held_out", "training"):
                fields[name] = _arrays(fields[name])
            fields["sizes"] = {layer: _arrays(sizes) for layer, sizes in fields["sizes"].items()}
            fields["diverged"] = {int(seed): step for seed, step in fields["diverged"].items()}
            network = Network(**{**fields, "marks": tuple(fields["marks"])})
            found = cls(network, content["code"], content["device"], content["date"])
            differences = conditions.differences(stored)
        if differences:
            raise StudyError(
                f"{shorten(path.name)} in --out was made with {'; '.join(differences)}; give another --out, or those"
            )
        return found


def _plain(content: Any) -> Any:
    """As JSON has it: arrays as lists of five digits, what is not finite as null."""
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return [_plain(each) if np.ndim(each) else _plain(float(each)) for each in content]
    if isinstance(content, float):
        return float(f"{content:.5g}") if np.isfinite(content) else None
    return content


def _arrays(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _arrays(each) for name, each in content.items()}
    return np.array(content, dtype=float)


def file_name(parameterization: str, decay: str, width: int) -> str:
    """Where a finished width is stored in the study's folder."""
    return f"{parameterization.lower()}_{file_stem(decay)}_{width}.json"


@dataclass(frozen=True)
class Study:
    """All networks of a study, in the order of conventions, parameterizations and widths, and what they show."""

    conditions: Conditions
    trained: tuple[Trained, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, conditions: Conditions, prescribed: Sequence[Prescription], trained: Sequence[Trained]) -> "Study":
        """The study of these prescriptions, each trained at the same widths."""
        ordered, found = [], []
        for each in prescribed:
            place = (each.decay, each.problem.parameterization.name)
            own = [one for one in trained if (one.network.decay, one.network.parameterization) == place]
            ordered += own
            found += rows(each, [one.network for one in own])
        return cls(conditions, tuple(ordered), tuple(found))

    @property
    def widths(self) -> list[int]:
        """Growing."""
        return sorted({each.network.width for each in self.trained})

    @property
    def divergences(self) -> list[str]:
        """One line per run that diverged."""
        return [
            f"{network.decay} {network.parameterization}, width {network.width}, seed {seed}: the loss was not finite "
            f"at step {step}"
            for network in (each.network for each in self.trained)
            for seed, step in sorted(network.diverged.items())
        ]

    def settings(self) -> dict[tuple[str, str], list[Network]]:
        """Networks of growing width by (convention, parameterization)."""
        found: dict[tuple[str, str], list[Network]] = {}
        for network in (each.network for each in self.trained):
            found.setdefault((network.decay, network.parameterization), []).append(network)
        return found

    def by_layer(self) -> dict[tuple[str, str, str], dict[str, Row]]:
        """The rows by (convention, parameterization, layer), then by quantity."""
        found: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in self.rows:
            found.setdefault((row.decay, row.parameterization, row.layer), {})[row.quantity] = row
        return found


def as_json(study: Study) -> dict[str, Any]:
    """The JSON contract of every verify command; `networks` says of every width how far it is from its equilibrium."""
    return {
        "schema": 1,
        "command": "decay",
        "version": __version__,
        "code": "; ".join(dict.fromkeys(each.code for each in study.trained)),
        "date": max(each.date for each in study.trained),
        "device": "; ".join(dict.fromkeys(each.device for each in study.trained)),
        "model": "mlp",
        "alignment": "full",
        **asdict(study.conditions),
        "widths": study.widths,
        "rows": [_row_json(study.conditions.steps, row) for row in study.rows],
        "networks": [_plain(_network_json(each.network)) for each in study.trained],
    }


def _row_json(step: int, row: Row) -> dict[str, Any]:
    holds = {
        "holds": True,
        "uncorrelated": True,
        "both": True,
        "open": None,
        "not measured": None,
        "not told apart": None,
    }
    return _plain(
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
        }
    )


def _network_json(network: Network) -> dict[str, Any]:
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
