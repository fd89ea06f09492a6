"""PyTorch modules, unmodified: prescribed for and checked through a bridge to JAX, and trained in torch alone.

make = verify.torch.from_torch(build, example, loss)
scaling = verify.prescribe(make, base_width=256, width=4096, optimizer="adamw").torch()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verify.torch.bridge import from_torch
    from verify.torch.inputs import load_torch

_HOMES = {"from_torch": "bridge", "load_torch": "inputs"}

__all__ = ["from_torch", "load_torch"]


def __getattr__(name: str) -> Any:
    """Import on first use."""
    if name in _HOMES:
        return getattr(import_module(f"verify.torch.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'verify.torch' has no attribute {name!r}")
