"""The base rates of `verify transfer` as they are written: one number, or one for every optimizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from derive.errors import DeriveError, shorten
from verify.commands.options import read_numbers

if TYPE_CHECKING:
    from verify.sweeps.records import Setting

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
