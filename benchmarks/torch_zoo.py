"""PyTorch modules as libraries have them, unmodified: against torch's function, a person's rows, microsoft/mup's.

    python -m benchmarks.torch_zoo --out benchmarks/torch_zoo.md

needs torch, torchax, transformers, timm, torchvision and mup, which nothing else here does.
"""

import argparse
import time
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # type: ignore[import-not-found]

from benchmarks.torch_libraries import LIBRARIES
from benchmarks.torch_mup import compared
from derive.emit import markdown_text
from tests.helpers.torch_modules import CASES, Case
from verify.model.prescribe import prescribe
from verify.model.prescription import ModelPrescription
from verify.torch import from_torch

BASE, WIDTH = 32, 64
EXPONENTS = {
    "embedding": (Fraction(0), Fraction(0)),
    "hidden": (Fraction(1, 2), Fraction(1)),
    "readout": (Fraction(1), Fraction(1)),
}
USED = ("torch", "torchax", "jax", "mup", "transformers", "timm", "torchvision")
HEAD = """# PyTorch modules, unmodified

`python -m benchmarks.torch_zoo` with {used}.
Widths {base} -> {width}, AdamW, muP. Largest difference of an output from torch's, relative to the largest output above
1; parameters whose role, initial size and rate are those written down by hand; parameters whose initial size, rate and
decay are those of microsoft/mup (base shapes, `mup.init`, `MuAdamW`, the readout replaced by its `MuReadout` or
`MuSharedReadout`), both with their multipliers; and products that need a multiplier beside the code's.

"""
TAIL = """
With mup a person names the readouts and rewrites the scale of attention where heads grow; here both are found. Its
`MuSharedReadout` is the n^-1 of tied tables. T5's own code has n^-1/2 of that, so that n^-1/2 is left; the
package's class in its place would have n^-3/2 in all.
"""
WHY = "mup's readouts are Linear, and a convolution has none of its classes: it starts, and steps, too large"


def forward_apart(make: Any) -> float:
    """Largest difference of an output from torch's own, relative to the largest output above 1."""
    params, apply, inputs = make(BASE)
    module = make._module(BASE)
    given = jax.tree.map(lambda x: torch.tensor(np.asarray(x)), inputs)
    given = jax.tree.map(lambda x: x if x.is_floating_point() else x.long(), given)
    with torch.no_grad():
        outputs = module(**given) if isinstance(given, dict) else module(given)
    theirs = [
        each.numpy()
        for each in torch.utils._pytree.tree_leaves(outputs)
        if isinstance(each, torch.Tensor) and each.is_floating_point()
    ]
    ours = jax.tree.leaves(jax.jit(apply)(params, inputs))
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in zip(ours, theirs, strict=True))


def modules_of(answer: ModelPrescription) -> dict[str, str]:
    """Exponent of the multiplier that it needs beside the code's, by module."""
    return {answer.places[each].partition(": ")[0]: str(x) for each, x in answer.multipliers.items()}


def by_hand(case: Case, answer: ModelPrescription) -> list[str]:
    """What differs from the rows written down."""
    wrong = []
    for row in answer.parameters:
        role = case.role(row.path, row.shape)
        if row.is_trained and (row.role, (row.b, row.c)) != (role, EXPONENTS[role]):
            wrong.append(f"{row.path}: {row.role}, n^-{row.b}, n^-{row.c}")
    found = modules_of(answer)
    if found != case.multipliers:
        wrong.append(f"multipliers {found}")
    return wrong


def checked(name: str, case: Case, train: bool) -> tuple[list[str], list[str]]:
    """One row of the table, and what is to be said of it below."""
    start = time.perf_counter()
    make = from_torch(case.build, case.example, train=train)
    apart = forward_apart(make)
    answer = prescribe(make, base_width=BASE, width=WIDTH, optimizer="adamw")
    wrong, total = by_hand(case, answer), len(answer.parameters)
    readouts = [row.path for row in answer.parameters if row.role == "readout"]
    same, odd = compared(case.build, readouts + [f"{each}.weight" for each in modules_of(answer)], answer)
    needed = "; ".join(f"{module}: n^-{x}" for module, x in modules_of(answer).items()) or "none"
    right = f"{total - len(wrong)} of {total}" + (f" ({'; '.join(wrong)})" if wrong else "")
    print(f"{name}: {apart:.1e}, {right}, {same} as mup's, {time.perf_counter() - start:.0f} s", flush=True)
    return [name, f"{apart:.1e}", right, f"{same} of {total}", needed], [f"{name}: {line}" for line in odd]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/torch_zoo.md"))
    parser.add_argument("--only", default="", help="names that begin so")
    given = parser.parse_args()
    cases: dict[str, tuple[Case, bool]] = {f"own {name}": (case, True) for name, case in CASES.items()} | LIBRARIES
    rows, said = [], []
    for name, (case, train) in cases.items():
        if name.startswith(given.only):
            row, odd = checked(name, case, train)
            rows.append(row)
            said += odd
    used = ", ".join(f"{each} {version(each)}" for each in USED)
    columns = ["module", "forward differs by", "rows as by hand", "as mup's", "multipliers"]
    apart = "".join(f"\n{line}\n" for line in said) + (f"({WHY}.)\n" if said else "")
    text = HEAD.format(used=used, base=BASE, width=WIDTH) + markdown_text(columns, rows) + apart + TAIL
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
