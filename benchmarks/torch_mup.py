"""What microsoft/mup's base shapes, initialisers and MuAdamW say of a module, beside a prescription of it.

Both are compared as functions of their parameters: a weight W behind a multiplier m trains as m W does, with size
m x size and, by Adam, rate m x rate; rate x decay is what a decoupled decay takes off in a step.
"""

from collections.abc import Callable
from math import isclose
from typing import Any, NamedTuple

import mup  # type: ignore[import-not-found]
import torch  # type: ignore[import-not-found]

from verify.model.prescription import ModelPrescription


class Factors(NamedTuple):
    """Of one parameter, the target's over the base's: m x initial size, m x rate, rate x decay."""

    size: float
    rate: float
    shrinks: float


def with_readouts(module: Any, names: list[str]) -> Any:
    """The module with MuReadout, or MuSharedReadout where the weight is a table's, in the place of the named layers."""
    named = [each for _, each in module.named_parameters(remove_duplicate=False)]
    for name in names:
        old = module.get_submodule(name)
        has_bias = old.bias is not None
        if sum(each is old.weight for each in named) > 1:
            new = mup.MuSharedReadout(old.weight, bias=has_bias)
        else:
            new = mup.MuReadout(old.in_features, old.out_features, bias=has_bias)
        owner, _, own = name.rpartition(".")
        setattr(module.get_submodule(owner), own, new)
    return module


def readouts_of(module: Any, weights: list[str]) -> list[str]:
    """The Linear layers of these weights: mup has no readout of another class."""
    layers = [name.removesuffix(".weight") for name in weights]
    return [name for name in layers if isinstance(module.get_submodule(name), torch.nn.Linear)]


def of_mup(build: Callable[[int], Any], weights: list[str], base: int, width: int) -> dict[str, Factors]:
    """Every parameter's factors from base to width; of a shared table as a table, without the readout's multiplier."""

    def built(size: int) -> Any:
        module = build(size)
        return with_readouts(module, readouts_of(module, weights))

    module = mup.set_base_shapes(built(width), built(base), delta=built(2 * width))
    multipliers = {
        id(each.weight): 1 / each.width_mult()
        for each in module.modules()
        if isinstance(each, mup.MuReadout) and not isinstance(each, mup.MuSharedReadout)
    }
    groups = mup.MuAdamW(module.parameters(), lr=1.0, weight_decay=1.0).param_groups
    numbers = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    found = {}
    for name, parameter in module.named_parameters():
        by, (rate, decay) = multipliers.get(id(parameter), 1.0), numbers[id(parameter)]
        found[name] = Factors(by * drawn_over_plain(parameter), by * rate, rate * decay)
    return found


def drawn_over_plain(parameter: Any) -> float:
    """Size that mup.init.normal_ gives with the std that was right at the base width, over that std."""
    torch.manual_seed(0)
    ours = mup.init.normal_(parameter).detach().norm().item()
    torch.manual_seed(0)
    return ours / torch.nn.init.normal_(parameter).detach().norm().item()


def of_prescription(answer: ModelPrescription) -> dict[str, Factors]:
    """The same of a prescription without multipliers of parameters."""
    found = {}
    for row in answer.parameters:
        by, rate = answer.factor(row.a), answer.scaled(row, "c")
        found[row.path] = Factors(by * answer.scaled(row, "b"), by * rate, rate * answer.scaled(row, "decay"))
    return found


def compared(build: Callable[[int], Any], weights: list[str], answer: ModelPrescription) -> tuple[int, list[str]]:
    """How many parameters have the same factors there and here, and a line for each of the others."""
    theirs, ours = of_mup(build, weights, answer.base_width, answer.width), of_prescription(answer)
    apart = []
    for name, mine in ours.items():
        other = theirs[name]
        odd = [
            f"{what} x {theirs_is:.3g} there, x {ours_is:.3g} here"
            for what, theirs_is, ours_is in zip(Factors._fields, other, mine, strict=True)
            if not isclose(theirs_is, ours_is, rel_tol=1e-5)
        ]
        if odd:
            apart.append(f"{name}: {', '.join(odd)}")
    return len(ours) - len(apart), apart
