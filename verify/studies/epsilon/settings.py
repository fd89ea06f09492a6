"""The settings of a study of epsilon: Adam with epsilons per layer and constant ones, and Adam-atan2."""

from collections.abc import Sequence

from verify.sweeps.settings.named import Prescribed, at_epsilons, prescribed


def study_settings(schemes: Sequence[str], epsilons: Sequence[float], hidden_layers: int) -> tuple[Prescribed, ...]:
    """All that is trained: Adam with its usual epsilon, with each of the others per layer and constant, and atan2."""
    listed: list[Prescribed] = []
    for scheme in schemes:
        usual, atan2 = (
            prescribed(name, scheme, "full", hidden_layers=hidden_layers) for name in ("adam", "adam-atan2")
        )
        listed += [usual, *at_epsilons([usual], epsilons, ("scaled", "constant")), atan2]
    return tuple(listed)
