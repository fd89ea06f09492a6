"""What the learning rate is multiplied by, step by step: constant, warm-up and cosine, or warm-up, stable and decay.

    warm-up   step / W                                     W = share of the T steps, rounded up; a twentieth by default
    cosine    (1 + cos(pi (step - 1 - W) / (T - W))) / 2   after it
    wsd       1, and (T + 1 - step) / (D + 1) in the last D = T/5 steps, rounded up

Steps count from 1; no factor is 0, so that every step is one. wsd: Hu et al. 2024, 2404.06395, section 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from derive.errors import UserError, canonical, shorten

WARM_UP = 0.05
DECAY = 0.2
Step = int | Int[Array, "*steps"]
Factor = Float[Array, "*steps"]


def _cosine(step: Step, warm: int, total: int) -> Factor:
    return (1 + jnp.cos(jnp.pi * (step - 1 - warm) / max(1, total - warm))) / 2


def _stable_and_decay(step: Step, warm: int, total: int) -> Factor:  # noqa: ARG001
    decay = math.ceil(DECAY * total)
    return jnp.minimum(1.0, (total + 1 - step) / (decay + 1))


SCHEDULES: dict[str, Callable[[Step, int, int], Factor]] = {"cosine": _cosine, "wsd": _stable_and_decay}
CONSTANT = "constant"


class ScheduleError(UserError):
    """A schedule that is not one of those here."""


@dataclass(frozen=True)
class Schedule:
    """A schedule by its name, with the share of steps in which the rate rises to its full height."""

    name: str
    warm_up: float = 0.0

    @property
    def text(self) -> str:
        """As `read_schedule` reads it: "constant", "cosine:0.05"."""
        return self.name if self.name == CONSTANT else f"{self.name}:{self.warm_up:g}"

    def factor(self, step: Step, total: int) -> Factor | float:
        """What the rate is multiplied by at `step`, 1 to `total`; 1.0 exactly, and no array, where it is constant."""
        if self.name == CONSTANT:
            return 1.0
        warm = math.ceil(self.warm_up * total)
        rising = step / max(1, warm)
        return jnp.where(step <= warm, rising, SCHEDULES[self.name](step, warm, total))


def read_schedule(text: str) -> Schedule:
    """The schedule of "constant", "cosine", "wsd", or "cosine:0.02" with its share of warm-up.

    ScheduleError for any other name, and a share outside 0 to 0.5.
    """
    given, colon, share = text.partition(":")
    name = canonical(given)
    allowed = f"give constant, cosine or wsd, or cosine:{WARM_UP:g} with the share of the steps that warm up"
    if name == CONSTANT and not colon:
        return Schedule(CONSTANT)
    if name not in SCHEDULES:
        raise ScheduleError(f"schedule {shorten(text)} is not known; {allowed}")
    try:
        warm_up = float(share) if colon else WARM_UP
    except ValueError:
        warm_up = math.nan
    if not 0 <= warm_up <= 0.5:
        raise ScheduleError(f"schedule {shorten(text)} is not allowed: warm-up is a share from 0 to 0.5; {allowed}")
    return Schedule(name, warm_up)
