"""Code that emitted modules bring along for torch.optim.Muon (torch 2.9 and later); read as text, never imported here.

torch multiplies Muon's rate by sqrt(max(1, rows / columns)) with adjust_lr_fn="original", by 0.2 sqrt(max(rows,
columns)) with "match_rms_adamw"; its decay goes with the rate before that.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch  # type: ignore[import-not-found]

ADJUSTED = {"muon": "original", "muon-keller": "original", "muon-rms": "match_rms_adamw"}


def muon_factor(name: str, rule: str, fans: tuple[int, int], shape: tuple[int, ...]) -> float:
    """What the rate of a rule is times for torch.optim.Muon to step by it, whose own factor goes by rows and columns.

    The rule asks for sqrt(max(1, fan_out / fan_in)), 0.2 sqrt(max(fan_in, fan_out)), or plain "muon" for 1. A kernel
    [out, in, ...] is a matrix of out rows.
    """
    fan_in, fan_out = fans
    rows, columns = shape[0] if shape else 1, math.prod(shape[1:])
    if len(shape) < 2 or sorted((rows, columns)) != sorted(fans):
        raise ValueError(
            f"torch.optim.Muon takes matrices, and {name} of shape {tuple(shape)} is not one of fan-in {fan_in} by "
            f"fan-out {fan_out}; give it another optimizer, such as AdamW"
        )
    if rule == "muon-rms":
        return 1.0
    wanted = math.sqrt(max(1, fan_out / fan_in)) if rule == "muon-keller" else 1.0
    return wanted / math.sqrt(max(1, rows / columns))


def kernel_muon() -> Any:
    """torch.optim.Muon for kernels [out, in, ...] as well, each the matrix [out, in ...]."""
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"torch.optim has no Muon in torch {torch.__version__}; it came with torch 2.9")

    @contextlib.contextmanager
    def as_matrices(parameters: list[Any]) -> Iterator[None]:
        kept = [(each, each.shape) for each in parameters if each.ndim > 2]
        for each, _ in kept:
            gradient, each.grad = each.grad, None
            each.data = each.data.flatten(1)
            each.grad = None if gradient is None else gradient.flatten(1)
        try:
            yield
        finally:
            for each, shape in kept:
                gradient, each.grad = each.grad, None
                each.data = each.data.view(shape)
                each.grad = None if gradient is None else gradient.view(shape)

    class Muon(torch.optim.Muon):
        """torch.optim.Muon of kernels too."""

        def __init__(self, groups: list[dict[str, Any]], **keywords: Any) -> None:
            with as_matrices([each for group in groups for each in group["params"]]):
                super().__init__(groups, **keywords)

        def step(self, closure: Any = None) -> Any:
            """One step, kernels as matrices."""
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            with as_matrices([each for group in self.param_groups for each in group["params"]]):
                super().step()
            return loss

    return Muon
