"""Measures in real networks of growing width what `derive` predicts, and prescribes for the user's own model.

`prescribe(make, base_width=..., width=..., optimizer=...)` is the way in from Python, and `coordinate_check` trains the
model to see whether the prescription holds. `trace`, `roles`, `measure` and `backward` look into any JAX function;
`slope`, `judge` and `optimum` turn sizes and losses into findings; the optimizers are those that optax lacks.
`read(folder)` is the result of a finished study, and `STUDIES` are all that are trained unit by unit, by name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from derive.errors import UserError
    from verify.fit.judging import judge
    from verify.fit.optimum import optimum
    from verify.fit.slopes import slope
    from verify.measuring.backward import backward
    from verify.measuring.forward import measure
    from verify.measuring.trace import roles, trace
    from verify.model.check.check import coordinate_check
    from verify.model.prescribe import prescribe
    from verify.model.prescription import ModelPrescription
    from verify.studies.catalogue import STUDIES, read
    from verify.studies.study import Study
    from verify.training.rules.atan2 import adam_atan2, scale_by_adam_atan2
    from verify.training.rules.preconditioners import scale_by_shampoo, scale_by_soap

_HOMES = {
    "derive.errors": ("UserError",),
    "verify.fit.judging": ("judge",),
    "verify.fit.optimum": ("optimum",),
    "verify.fit.slopes": ("slope",),
    "verify.measuring.backward": ("backward",),
    "verify.measuring.forward": ("measure",),
    "verify.measuring.trace": ("roles", "trace"),
    "verify.model.check.check": ("coordinate_check",),
    "verify.model.prescribe": ("prescribe",),
    "verify.model.prescription": ("ModelPrescription",),
    "verify.studies.catalogue": ("STUDIES", "read"),
    "verify.studies.study": ("Study",),
    "verify.training.rules.atan2": ("adam_atan2", "scale_by_adam_atan2"),
    "verify.training.rules.preconditioners": ("scale_by_shampoo", "scale_by_soap"),
}

__all__ = [
    "STUDIES",
    "ModelPrescription",
    "Study",
    "UserError",
    "adam_atan2",
    "backward",
    "coordinate_check",
    "judge",
    "measure",
    "optimum",
    "prescribe",
    "read",
    "roles",
    "scale_by_adam_atan2",
    "scale_by_shampoo",
    "scale_by_soap",
    "slope",
    "trace",
]


def __getattr__(name: str) -> Any:
    """Import on first use: most commands need no model of the user's, and some not even JAX."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'verify' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, which are not there before their first use."""
    return sorted([*globals(), *__all__])
