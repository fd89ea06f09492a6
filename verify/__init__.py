"""Measures in real networks of growing width what `derive` predicts, and prescribes for the user's own model.

`prescribe(make, base_width=..., width=..., optimizer=...)` is the way in from Python.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.prescribing import prescribe
    from verify.prescription import ModelPrescription

_HOMES = {"prescribe": "prescribing", "ModelPrescription": "prescription"}

__all__ = ["ModelPrescription", "prescribe"]


def __getattr__(name: str) -> Any:
    """Import on first use: most commands of `verify` need no model of the user's."""
    if name in _HOMES:
        return getattr(import_module(f"verify.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'verify' has no attribute {name!r}")
