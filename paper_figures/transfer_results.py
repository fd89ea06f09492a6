"""The analysis of a transfer study, made once for all figures that show it, and words that they share."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from paper_figures.paths import result
from verify.fit.optimum import Estimate, over_seeds
from verify.studies.transfer.analysis import analyse, paired
from verify.studies.transfer.headline import Group, distinct
from verify.studies.transfer.outcomes import SettingResult, WidthResult
from verify.sweeps.axes import AXES
from verify.sweeps.records import Study
from verify.sweeps.storage.export import DESCRIPTION, STORE, load

TITLES = {
    "adam": "Adam",
    "sgd": "SGD",
    "adafactor": "Adafactor",
    "adam-ps": "Adam + parameter scaling",
    "adam-atan2": "Adam-atan2",
}

USUAL = (None, "per layer")
"""(epsilon, its rule) of the settings that have none of their own."""


@dataclass(frozen=True)
class Transfer:
    """A study and what came of every setting."""

    study: Study
    results: tuple[SettingResult, ...]

    def by_optimizer(self) -> dict[str, list[SettingResult]]:
        """The results of each optimizer, in the order of the study."""
        found: dict[str, list[SettingResult]] = {}
        for each in self.results:
            found.setdefault(each.setting.optimizer, []).append(each)
        return found

    def at(self, steps: int) -> "Transfer":
        """The settings of that horizon alone."""
        usual = self.study.conditions.steps
        return Transfer(self.study, tuple(each for each in self.results if (each.setting.steps or usual) == steps))

    def triple(self, optimizer: str, name: str, epsilon: tuple[float | None, str] = USUAL) -> SettingResult | None:
        """The result of "SP full" and the like, whatever its constants; None where the study has not got it."""
        found = (
            each
            for each in self.results
            for setting in (each.setting,)
            if (setting.optimizer, f"{setting.parameterization} {setting.alignment}") == (optimizer, name)
            and (setting.epsilon, setting.epsilon_rule) == epsilon
        )
        return next(found, None)

    def groups(self, alignment: str) -> list[Group]:
        """The distinct settings of that alignment, those that train alike as one."""
        groups = [group for results in self.by_optimizer().values() for group in distinct(results)]
        return [group for group in groups if any(each.alignment == alignment for each in group.members)]

    def named(self, name: str) -> SettingResult:
        """The result of the setting with that name, such as "adam SP full"."""
        return next(each for each in self.results if each.setting.name == name)

    def scale(self) -> str:
        """The size of the study in one sentence."""
        conditions, records = self.study.conditions, self.study.records
        grown = sorted({record.width for record in records})
        sizes = {"hidden layers": "hidden_layers", "blocks": "blocks"}
        held = [f"{conditions.sizes[size]} {name}" for name, size in sizes.items() if size in conditions.sizes]
        if conditions.axis != "width":
            held.append(f"width {conditions.sizes['width']}")
        tokens = f" at batch {grown[0]} and as much text at others" if conditions.held == "tokens" else ""
        batch = "" if conditions.axis == "batch" else f" of {conditions.batch}"
        return (
            f"{len(records):,} networks ({', '.join([conditions.model, *held])}) of {AXES[conditions.axis].many} "
            f"{grown[0]} to {grown[-1]}, {len({record.seed for record in records})} seeds, {conditions.steps} "
            f"steps{batch}{tokens} on real text, code {conditions.code}."
        )


def less(one: WidthResult, other: WidthResult) -> Estimate:
    """The best loss of one less that of the other, in nats, paired over the seeds that both have."""
    return over_seeds(paired(*(dict(zip(each.seeds, each.best_losses, strict=True)) for each in (one, other))))


def transfer(data: Path, name: str) -> Transfer:
    """The study of that name under `data` with its analysis; MissingResultError where it is not there."""
    store = data / name / STORE
    return _analysed(store if store.exists() else result(data, name, DESCRIPTION).parent)


@cache
def _analysed(path: Path) -> Transfer:
    study = load(path)
    return Transfer(study, tuple(analyse(study)))
