"""The base rates of `verify transfer` as they are written, one number or one for every optimizer; and its epsilons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from derive.errors import DeriveError, shorten
from verify.commands.options import read_choice, read_numbers, split_values

if TYPE_CHECKING:
    from verify.sweeps.records import Setting
    from verify.sweeps.settings.named import EpsilonRule, Prescribed

SMALLEST_RATE = 1e-12


def read_base_rates(text: str | None, settings: "Sequence[Setting]") -> dict[str, float]:
    """The middle of the rates by optimizer: one number for all, or adam=0.01,sgd=0.2, or what suits the models here."""
    from verify.training.rules.usual import base_rate

    optimizers = list(dict.fromkeys(setting.optimizer for setting in settings))
    if text is not None:
        given = named_rates(text)
        values = read_numbers("--base-rate", ",".join(given.values()), float, "0.01, or adam=0.01,sgd=0.2")
        if not all(SMALLEST_RATE <= value <= 1 / SMALLEST_RATE for value in values):
            raise DeriveError(f"--base-rate {shorten(text)} is not allowed; give numbers from 1e-12 to 1e12")
        rates = dict(zip(given, values, strict=True))
        if set(rates) == {""}:
            return dict.fromkeys(optimizers, rates[""])
        if set(rates) != set(optimizers):
            raise DeriveError(
                f"--base-rate {shorten(text)} does not name the optimizers {', '.join(optimizers)}; give one number "
                "for all, or one for each such as adam=0.01,sgd=0.2"
            )
        return rates
    hidden = {s.optimizer: next(each.rule for each in s.layers if each.label.startswith("hidden")) for s in settings}
    # These are safe; the best ones are somewhat above them.
    return {name: 4 * base_rate(rule) for name, rule in hidden.items()}


def named_rates(text: str) -> dict[str, str]:
    """The rates as text by the optimizer's name, "" where there is none; names may have commas and = of their own."""
    from derive.parsing import split_outside
    from derive.registry import joined, optimizers

    rates, name = {}, ""
    for part in split_outside(text, "--base-rate"):
        before, equals, value = part.rpartition("=")
        if not _is_number(value):
            name += f"{part},"
            continue
        rates[joined(optimizers(f"{name}{before}")) if equals else ""] = value
        name = ""
    return rates | ({name: name} if name else {})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Epsilons:
    """The values at the base width, none for the usual one, and the rules for other sizes."""

    values: tuple[float, ...]
    rules: "tuple[EpsilonRule, ...]"

    @property
    def given(self) -> bool:
        """Whether anything was asked for."""
        return bool(self.values) or self.rules != ("scaled",)

    @property
    def shared(self) -> float | None:
        """The one value of all settings, a condition of the study; None where settings have their own."""
        return self.values[0] if len(self.values) == 1 and self.rules == ("scaled",) else None

    def of(self, settings: "Sequence[Prescribed]") -> "Sequence[Prescribed]":
        """The settings with every value by every rule, where they are not all alike."""
        from verify.sweeps.settings.named import at_epsilons

        alike = self.shared is not None or not self.given
        return settings if alike else at_epsilons(settings, self.values or (None,), self.rules)


def read_epsilons(text: str | None, rules: Sequence[str] | None) -> Epsilons:
    """--epsilon 1e-3,1e-5 and --epsilon-rule scaled,constant; DeriveError for what is no positive number or no rule."""
    values = [] if text is None else read_numbers("--epsilon", text, float, "1e-3,1e-5")
    if not all(0 < value < float("inf") for value in values):
        raise DeriveError(f"--epsilon {shorten(text or '')} is not allowed; give numbers above 0, such as 1e-3,1e-5")
    known: tuple[EpsilonRule, ...] = ("scaled", "constant")
    named: list[EpsilonRule] = [read_choice("--epsilon-rule", each, known) for each in split_values(rules, ["scaled"])]
    return Epsilons(tuple(dict.fromkeys(values)), tuple(dict.fromkeys(named)))
