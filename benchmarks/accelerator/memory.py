"""Step 7: a width that fits the device only with remat: the bytes that `verify plan` counts, XLA's, and the peak.

The batch is the smallest power of two with which the plan without remat is more than the device has. The device's peak
is of the whole process, which has therefore done nothing before.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.accelerator.ledger import Cost, Ledger
from benchmarks.transformer import Setting, ours
from derive.words import Kind
from verify.planning.devices import Training, Usage, usage
from verify.planning.study import counted, share

RULES: Mapping[Kind, str] = {"embedding": "adam", "hidden": "adam", "readout": "adam"}
COMPILING = 18
STEPS = 3


@dataclass(frozen=True)
class Scale:
    """The transformer; `memory` is what is pretended where a device does not say how much it has."""

    width: int
    blocks: int
    context: int
    head_dimension: int
    memory: float

    @property
    def sizes(self) -> dict[str, int]:
        """The transformer's."""
        return {name: getattr(self, name) for name in ("blocks", "context", "head_dimension")} | {"vocabulary": 256}


FULL = Scale(4096, 8, 512, 128, 80e9)
TOY = Scale(32, 2, 16, 8, 3e6)


def planned(scale: Scale, sequences: int, remat: bool) -> Usage:
    """The plan of training on one device, nothing measured."""
    training = Training(RULES, sequences, 1, STEPS, 0, 1, "bfloat16", remat)
    rules = dict(RULES)
    network = counted("transformer", scale.width, scale.sizes)
    return usage(network, training, share("transformer", scale.width, scale.sizes, rules), (1, 1))


def step_bytes(plan: Usage) -> float:
    """Bytes of a training step alone."""
    return plan.parameters + plan.optimizer_state + plan.gradients + plan.activations + plan.working


def limit(scale: Scale) -> float:
    """Bytes that the device gives to this process."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit", scale.memory)


def sequences(scale: Scale) -> int:
    """The smallest power of two that without remat is planned to take more than there is."""
    count = 1
    while step_bytes(planned(scale, count, False)) <= limit(scale):
        count *= 2
    return count


def run(ledger: Ledger, toy: bool) -> None:
    """With remat first, whose peak is then its own; then without, which the plan says does not fit."""
    scale = TOY if toy else FULL
    setting = Setting(scale.width, sequences=sequences(scale), dtype="bfloat16", **scale.sizes)
    flops = (STEPS + 1) * setting.flops() * 4 / 3
    for name, remat in (("with remat", True), ("without remat", False)):
        plan = planned(scale, setting.sequences, remat)
        ledger.part(name, Cost(COMPILING, flops, "bfloat16"), lambda p=plan, r=remat: trained(setting, p, r))


def peak() -> int | None:
    """The most bytes that this process has held on the device; None where the device does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def trained(setting: Setting, plan: Usage, remat: bool) -> dict[str, Any]:
    """Bytes as planned, as XLA compiled them and as the device had them at most; whether it fits."""
    network = ours(setting, scan=True, remat=remat)
    batch, params = setting.batch(), network.shapes()
    state = jax.eval_shape(network.transform.init, params)
    found: dict[str, Any] = {
        "sequences": setting.sequences,
        "limit": (jax.devices()[0].memory_stats() or {}).get("bytes_limit"),
        "planned": step_bytes(plan),
        "planned_by_use": {name: getattr(plan, name) for name in plan.__dataclass_fields__},
    }
    before = peak()
    try:
        compiled = jax.jit(network.step, donate_argnums=(0, 1)).lower(params, state, *batch).compile()
        memory: Any = compiled.memory_analysis()
        found["compiled"] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        held = [jax.jit(network.init)(jax.random.key(0))]
        held.append(jax.jit(network.transform.init)(held[0]))
        *held[:], value = compiled(*held, *batch)
        jax.block_until_ready(value)
        start = time.perf_counter()
        for _ in range(STEPS):
            *held[:], value = compiled(*held, *batch)
        found["loss"] = float(value)
        found |= {"fits": True, "step_s": (time.perf_counter() - start) / STEPS}
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
        found |= {"fits": False, "reason": " ".join(str(error).split())[:300]}
    after = peak()
    # A peak that was there before says nothing of this step.
    found["peak"] = after if after is not None and (before is None or after > before) and found["fits"] else None
    return found


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:  # noqa: ARG001 - as all steps have it
    """Both, and the plan over the peak."""
    found = dict(parts)
    if (row := parts.get("with remat")) and row["peak"]:
        found["planned_over_peak"] = row["planned"] / row["peak"]
    return found
