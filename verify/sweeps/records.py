"""What a transfer study consists of: conditions that all its runs share, settings, batches, and records.

Plain data without JAX: a driver fills it, a store keeps it, fits and pictures read it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property

import numpy as np
from jaxtyping import Float

from derive.words import KINDS, Kind
from verify.sweeps.axes import AxisName, Held
from verify.values import Document, Entries

GLOBAL = "global"
"""The alignment's name where one raw rate is used for all layers at every width: c = 0."""
ONLINE = "measured-online"
"""The alignment's name where it is measured while training, and the rates follow it."""
LATER: Entries = {
    "schedule": "constant",
    "windows": None,
    "steps": None,
    "axis": "width",
    "held": None,
    "across": None,
}
"""Entries of conditions and settings that earlier versions did not have, with the values that these stand for."""
GROWTH = 3
"""By what the step grows after which alignments are measured online, if nothing else is said: 1, 3, 9, 27, ..."""


@dataclass(frozen=True)
class Conditions:
    """What all runs of a study share; `code` and `corpus` say which program and which text made them.

    `epsilon` and `weight_decay` are values at the base width (None: the rule's usual one), `clip` is a threshold on the
    whole gradient's norm, the same at every width; `evaluation` is the number of held-out windows on which the final
    loss is taken; `dtype` is that of activations and of the weights that meet them, parameters are float32.
    `schedule` is a text of `verify.training.schedules`; `windows` is the number of disjoint windows of the training
    text where each is used once before any is used again, None where they are drawn anywhere.
    """

    model: str
    sizes: Mapping[str, int]
    base_width: int
    steps: int
    batch: int
    evaluation: int
    corpus: str
    code: str
    epsilon: float | None = None
    weight_decay: float = 0.0
    clip: float | None = None
    dtype: str = "float32"
    schedule: str = "constant"
    windows: int | None = None
    axis: AxisName = "width"
    held: Held | None = None

    def content(self) -> Document:
        """All entries by name, but for those that came later and are as everything was before them.

        What is called base_width here is base_depth or base_batch where that is the axis.
        """
        entries = {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}
        return {f"base_{self.axis}" if name == "base_width" else name: value for name, value in entries.items()}

    @classmethod
    def of(cls, content: Entries) -> "Conditions":
        """The conditions that have that content."""
        base = f"base_{content.get('axis', 'width')}"
        return cls(**{"base_width" if name == base else name: value for name, value in content.items()})

    def at(self, size: int) -> "Conditions":
        """Those of the runs of one size: with the steps that it is trained for and, along the batch, that batch."""
        batch = size if self.axis == "batch" else self.batch
        return replace(self, batch=batch, steps=self.steps_at(size, self.steps))

    def steps_at(self, size: int, steps: int) -> int:
        """The steps of a size where the base size takes T: T B_0/B with tokens held, T (n/n_0)^2 with their ratio.

        At least one; the ratio is that of tokens to the parameters of hidden layers, which grow as n^2.
        """
        if self.held == "tokens":
            return steps * self.base_width // size
        return max(1, round(steps * size**2 / self.base_width**2)) if self.held == "ratio" else steps

    def differences(self, other: "Conditions") -> list[str]:
        """One "name: this, not that" for every entry in which the two differ."""
        ours, theirs = asdict(self), asdict(other)
        return [f"{name}: {ours[name]}, not {theirs[name]}" for name in ours if ours[name] != theirs[name]]


@dataclass(frozen=True)
class LayerScaling:
    """The update rule of one layer and its exact exponents as text: multiplier n^-a, std n^-b, rate n^-c, ...

    They are powers of the study's axis, which may be another than the width n; the label hidden.out is that of what
    writes into a residual stream.
    """

    label: str
    rule: str
    a: str
    b: str
    c: str
    epsilon: str | None
    decay: str

    @property
    def kind(self) -> Kind:
        """The kind of a layer with a label such as hidden or hidden.3."""
        return next(kind for kind in KINDS if self.label.split(".")[0] == kind)


@dataclass(frozen=True)
class Across:
    """The width of a setting whose study goes along another axis: exponents x of (width / base)^-x, by layer kind.

    Its factors and those of the axis multiply: a grid of both is a setting for every width. `scheme` is the
    parameterization of the width.
    """

    width: int
    base: int
    scheme: str
    layers: tuple[LayerScaling, ...]

    def factor(self, kind: Kind, name: str) -> float:
        """(width / base)^-x of that exponent: a, b, c, epsilon or decay."""
        layer = next(each for each in self.layers if each.kind == kind)
        return (self.width / self.base) ** -float(Fraction(getattr(layer, name) or 0))

    @property
    def label(self) -> str:
        """Such as width 64, muP."""
        return f"width {self.width}, {self.scheme}"


@dataclass(frozen=True)
class Setting:
    """One prescription to be trained: names to show, and exponents per layer, which alone decide what is trained.

    `constants` multiply the base rate on embedding, hidden and readout layers; `decay` names the convention that the
    layers' decay exponents come from; `epsilon` is the value at the base width where the setting has one of its own,
    and `epsilon_rule` says whether it follows the layers' gradients or is constant. `online` is k where alignments are
    measured while training, after steps 1, k, k^2, ..., and the rates follow; the exponents are then the first ones.
    `steps` is the horizon of this setting's runs, None where it is that of the conditions; `across` its width where
    the study has several beside its axis.
    """

    optimizer: str
    parameterization: str
    alignment: str
    layers: tuple[LayerScaling, ...]
    constants: tuple[float, float, float] = (1.0, 1.0, 1.0)
    decay: str = "independent"
    epsilon: float | None = None
    epsilon_rule: str = "per layer"
    online: int | None = None
    steps: int | None = None
    across: Across | None = None

    @property
    def name(self) -> str:
        """Such as "adam muP full", with constants, decay, epsilon and horizon where they are not the usual ones."""
        tuned = "" if self.constants == (1.0, 1.0, 1.0) else " x " + ",".join(f"{each:g}" for each in self.constants)
        decay = "" if self.decay == "independent" else f", {self.decay} decay"
        value = "" if self.epsilon is None else f" {self.epsilon:g}"
        usual = self.epsilon is None and self.epsilon_rule == "per layer"
        epsilon = "" if usual else f", epsilon{value} {self.epsilon_rule}"
        shown = " ".join(filter(None, (self.optimizer, self.parameterization, self.alignment)))
        horizon = "" if self.steps is None else f", {self.steps} steps"
        return f"{shown}{tuned}{decay}{epsilon}{'' if self.across is None else f', {self.across.label}'}{horizon}"

    def stored(self) -> Document:
        """All entries by name, as they are written; `steps` only where the setting has a horizon of its own."""
        return {name: value for name, value in asdict(self).items() if name not in LATER or value != LATER[name]}

    def content(self) -> Document:
        """Everything that decides what is trained, and no name."""
        layers = [asdict(layer) for layer in self.layers]
        content = {"layers": layers, "constants": list(self.constants), "epsilon": self.epsilon}
        if self.online is not None:  # where exponents change, what decay follows does not show in them
            content["online"] = [self.online, self.decay]
        if self.steps is not None:
            content["steps"] = self.steps
        if self.across is not None:
            content["across"] = asdict(self.across)
        return content


@dataclass(frozen=True)
class Batch:
    """Runs trained side by side, every seed with every rate, in one compiled call of exactly this shape.

    `width` is the size along the study's axis, here and in `Record`.
    """

    setting: str
    width: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def runs(self) -> list[tuple[float, int]]:
        """(base rate, seed) of every run."""
        return [(rate, seed) for rate in self.rates for seed in self.seeds]


@dataclass(frozen=True)
class Record:
    """One finished run.

    `loss` is the mean cross-entropy in nats on held-out text after the last step, NaN or inf where the run diverged;
    `diverged` is the first step whose training loss was not finite (the number of steps, where only the held-out
    loss is not); `curve` is the training loss as (step, loss) at log-spaced steps.
    """

    setting: str
    width: int
    base_rate: float
    seed: int
    loss: float
    diverged: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    device: str = ""
    finished: str = ""


def run_key(conditions: Conditions, setting: Setting, width: int, base_rate: float, seed: int) -> str:
    """The run's identity: sha256 over conditions, exponents, width, rate and seed; names do not enter."""
    content = {
        "conditions": conditions.content(),
        "setting": setting.content(),
        "width": width,
        "base_rate": float(base_rate).hex(),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Study:
    """A study as read from its store or export, finished or not.

    `trained_as` names, for every setting that equals another one step for step, the one whose runs stand for both.
    """

    conditions: Conditions
    settings: Mapping[str, Setting]
    trained_as: Mapping[str, str]
    records: tuple[Record, ...]
    planned: int = 0
    """Runs of all batches handed out so far, finished or not."""

    @cached_property
    def _by_setting(self) -> dict[str, dict[int, dict[float, dict[int, Record]]]]:
        table: dict[str, dict[int, dict[float, dict[int, Record]]]] = {}
        for record in self.records:
            rates = table.setdefault(record.setting, {}).setdefault(record.width, {})
            rates.setdefault(record.base_rate, {})[record.seed] = record
        return table

    @property
    def horizons(self) -> list[int]:
        """The numbers of steps that its settings are trained for, growing."""
        return sorted({setting.steps or self.conditions.steps for setting in self.settings.values()})

    def uses(self) -> dict[int, float]:
        """How often every window of the training text is used, by horizon; empty where windows are drawn anywhere.

        At the largest size, where steps or batches grow with it.
        """
        windows = self.conditions.windows
        if not windows:
            return {}
        last = max((record.width for record in self.records), default=self.conditions.base_width)
        at = self.conditions.at(last)
        return {steps: self.conditions.steps_at(last, steps) * at.batch / windows for steps in self.horizons}

    def source(self, setting: str) -> str:
        """The setting whose runs stand for this one: itself, or the equivalent one that was trained."""
        return self.trained_as.get(setting, setting)

    def widths(self, setting: str) -> list[int]:
        """Widths at which the setting has runs, growing."""
        return sorted(self._by_setting.get(self.source(setting), {}))

    def runs(self, setting: str, width: int) -> dict[float, dict[int, Record]]:
        """Finished runs of one width: by base rate, growing, then by seed."""
        found = self._by_setting.get(self.source(setting), {}).get(width, {})
        return {rate: dict(sorted(found[rate].items())) for rate in sorted(found)}

    def losses(self, setting: str, width: int) -> tuple[Float[np.ndarray, " rates"], Float[np.ndarray, "rates seeds"]]:
        """(base rates, held-out losses) with NaN for runs that diverged or have not been made."""
        runs = self.runs(setting, width)
        seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
        table = np.full((len(runs), len(seeds)), np.nan)
        for row, by_seed in enumerate(runs.values()):
            for seed, record in by_seed.items():
                if record.diverged is None:
                    table[row, seeds.index(seed)] = record.loss
        return np.array(list(runs)), table

    def divergences(self) -> Iterator[Record]:
        """The records of runs whose loss was not finite."""
        return (record for record in self.records if record.diverged is not None)

    @property
    def untrained_loss(self) -> float:
        """The loss of guessing every token alike, ln(vocabulary), inf where it is not known.

        A run that ends above it has learnt nothing.
        """
        return math.log(self.conditions.sizes.get("vocabulary", math.inf))
