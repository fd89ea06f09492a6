"""Exact width-scaling exponents for any optimizer, parameterization and alignment.

`prescribe("adam", "sp", "full")` takes names, or the objects that they stand for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from derive.alignments import FULL, NONE, PRIOR, Alignment, Ratios, alignment
    from derive.decays import DECAYS
    from derive.errors import DeriveError, UserError
    from derive.optimizers import Optimizer
    from derive.parameterizations import MFP, MUP, NTK, SP, Parameterization, equivalent, parameterization
    from derive.propagation import Chain, Problem, constraints, residuals
    from derive.recursion import largest_rates
    from derive.registry import REGISTRY, optimizer
    from derive.solve import Layer, Prescription, prescribe, solve_kinds, trained_gradients

__version__ = "0.1.0"

_HOMES = {
    "alignments": ("FULL", "NONE", "PRIOR", "Alignment", "Ratios", "alignment"),
    "decays": ("DECAYS",),
    "errors": ("DeriveError", "UserError"),
    "optimizers": ("Optimizer",),
    "parameterizations": ("MFP", "MUP", "NTK", "SP", "Parameterization", "equivalent", "parameterization"),
    "propagation": ("Chain", "Problem", "constraints", "residuals"),
    "registry": ("REGISTRY", "optimizer"),
    "solve": ("Layer", "Prescription", "largest_rates", "prescribe", "solve_kinds", "trained_gradients"),
}

__all__ = [
    "DECAYS",
    "FULL",
    "MFP",
    "MUP",
    "NONE",
    "NTK",
    "PRIOR",
    "REGISTRY",
    "SP",
    "Alignment",
    "Chain",
    "DeriveError",
    "Layer",
    "Optimizer",
    "Parameterization",
    "Prescription",
    "Problem",
    "Ratios",
    "UserError",
    "__version__",
    "alignment",
    "constraints",
    "equivalent",
    "largest_rates",
    "optimizer",
    "parameterization",
    "prescribe",
    "residuals",
    "solve_kinds",
    "trained_gradients",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `derive --help` does not wait for sympy."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"derive.{home}"), name)
    raise AttributeError(f"module 'derive' has no attribute {name!r}")
