"""One raw rate for all layers: what parameterizations are used with by default, as a prescription."""

from dataclasses import replace

from sympy import S

from derive.decays import decay_exponent
from derive.solve import Prescription, residuals_at
from verify.sweeps.records import GLOBAL


def at_one_rate(prescription: Prescription) -> Prescription:
    """The same network with one raw rate for all layers at every width: c = 0, and the r that this leaves.

    Its alignment is still the one assumed, and is named "global".
    """
    problem = replace(prescription.problem, alignment=replace(prescription.problem.alignment, name=GLOBAL))
    residuals = residuals_at(problem, [S.Zero] * len(prescription.layers))
    layers = tuple(
        replace(layer, c=S.Zero, decay=decay_exponent(prescription.decay, S.Zero), r=r, binding=())
        for layer, r in zip(prescription.layers, residuals, strict=True)
    )
    learning = residuals[-2].is_zero
    return replace(prescription, problem=problem, layers=layers, feature_learning=learning, certificate=None)
