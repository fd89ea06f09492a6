"""The settings of a study of epsilon: Adam with epsilons per layer and constant ones, and Adam-atan2."""

from collections.abc import Sequence
from typing import Any

from verify.sweeps.settings.named import Prescribed, prescribed


def study_settings(schemes: Sequence[str], epsilons: Sequence[float], hidden_layers: int) -> tuple[Prescribed, ...]:
    """All that is trained: Adam with its usual epsilon, with each of the others per layer and constant, and atan2."""
    shared: Any = {"alignment": "full", "hidden_layers": hidden_layers}
    listed = []
    for scheme in schemes:
        listed.append(prescribed("adam", scheme, **shared))
        listed += [
            prescribed("adam", scheme, epsilon=epsilon, constant_epsilon=constant, **shared)
            for constant in (False, True)
            for epsilon in epsilons
        ]
        listed.append(prescribed("adam-atan2", scheme, **shared))
    return tuple(listed)
