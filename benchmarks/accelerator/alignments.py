"""Step 4: alignments of a transformer at the paper's three widths, D = 1024, 2048 and 4096, over 200 steps.

Two blocks, heads of 128, sequences of 512 bytes of text, Adam in SP with the rates of full alignment; trained in
bfloat16, measured in float32.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax

from benchmarks.accelerator.job import separate
from benchmarks.accelerator.ledger import Cost, Job, Ledger
from benchmarks.accelerator.runs import judge, trained
from derive.solve import prescribe, solve_kinds
from verify.fit.forward import alignment_ratios, single_width_ratio
from verify.planning.counts import Network, activation_bytes, measuring_flops, training_flops, transformer
from verify.studies.exponents.judged import as_json
from verify.studies.exponents.study import Result
from verify.training.config import Config
from verify.training.data import load_corpus
from verify.training.rules.usual import BASE_RATES
from verify.training.trainer import log_spaced

NAME = "adam sp"


@dataclass(frozen=True)
class Scale:
    """What is trained, here and where speed is measured."""

    widths: tuple[int, ...]
    steps: int
    batch: int
    probe: int
    blocks: int
    context: int
    head_dimension: int

    @property
    def sizes(self) -> dict[str, int]:
        """The transformer's."""
        return {name: getattr(self, name) for name in ("blocks", "context", "head_dimension")} | {"vocabulary": 256}

    def counted(self, width: int) -> Network:
        """The network as `verify plan` counts it."""
        return transformer(width, **self.sizes)


FULL = Scale((1024, 2048, 4096), 200, 16, 4, 2, 512, 128)
TOY = Scale((16, 32), 2, 2, 2, 1, 8, 8)
COMPILING = 35
"""Seconds to start a process, and to trace and compile a width's five programs."""


@cache
def configuration(toy: bool) -> Config:
    """What is trained at every width."""
    scale = TOY if toy else FULL
    return Config(
        solve_kinds(prescribe("adam", "sp", "full").problem),
        scale.widths[0],
        BASE_RATES["adam"],
        model="transformer",
        batch=scale.batch,
        probe=scale.probe,
        dtype="bfloat16",
        sizes=dict(scale.sizes),
    )


def run(ledger: Ledger, toy: bool) -> None:
    """A part for every width, each in a process, side by side."""
    scale, jobs = TOY if toy else FULL, []
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    for width in scale.widths:
        network = scale.counted(width)
        training = training_flops(network, scale.batch, False) * scale.steps
        measuring = measuring_flops(network, scale.probe) * len(log_spaced(scale.steps))
        ceiling = {name: ledger.ceilings.get(name, 1.0) for name in ("float32", "bfloat16")}
        as_training = measuring * ceiling["bfloat16"] / ceiling["float32"]
        cost = Cost(COMPILING, training + as_training, "bfloat16")
        room = 16 * network.parameters + activation_bytes(network, scale.batch, 2, False)
        jobs.append(Job(f"{NAME}, width {width}", cost, partial(separate, "alignments", width, toy), room))
    ledger.parts(jobs, len(jobs), limit)


def job(width: int, toy: bool) -> dict[str, Any]:
    """A part, in a process of its own."""
    return trained(configuration(toy), width, [0], (TOY if toy else FULL).steps)


def study(parts: Mapping[str, Any], toy: bool) -> Result | None:
    """The judged study; None where fewer than two widths are there."""
    return judge(configuration(toy), parts, NAME, load_corpus())


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:
    """The study as `verify exponents` writes it, and alpha, omega and u of every layer at each width alone."""
    found = study(parts, toy)
    if found is None:
        return {}
    alone = {
        str(step): {
            layer: {
                name: {str(width): single_width_ratio(ratio[row], width) for row, width in enumerate(found.widths)}
                for name, ratio in alignment_ratios(sizes).items()
            }
            for layer, sizes in table.items()
            if "input" in sizes
        }
        for step, table in found.tables.items()
    }
    return {"study": as_json(found), "single_width": alone}
