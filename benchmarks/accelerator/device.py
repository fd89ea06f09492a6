"""Step 1: the device, its software, and its ceilings: products in float32, TF32 and bfloat16, and memory bandwidth.

A ceiling is the fastest of square products, ten in flight at a time, the median of rounds. Bandwidth is that of
reading an array and writing another.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator.ledger import Cost, Ledger

PRECISIONS = {"bfloat16": "default", "float32": "highest", "tensorfloat32": "tensorfloat32"}
"""What JAX calls the precision of products whose ceiling is measured; bfloat16 is that of the arrays themselves.

The first two come first: what other steps take is foreseen from them.
"""
TUNING = {"bfloat16": 8.0, "float32": 30.0, "tensorfloat32": 8.0}
"""Seconds of a ceiling, nearly all of which XLA takes to choose a kernel; an H100 took 1, 28 and 5."""
SIZES, TOY_SIZES = (4096, 8192), (32, 64)
BYTES, TOY_BYTES = 2**30, 2**16
IN_FLIGHT, ROUNDS = 10, 5
PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax", "jaxtyping", "sympy", "scipy", "orbax-checkpoint")


def run(ledger: Ledger, toy: bool) -> None:
    """The parts: the machine, three ceilings, and bandwidth."""
    ledger.part("machine", Cost(2), machine)
    for name, precision in PRECISIONS.items():
        dtype = "bfloat16" if name == "bfloat16" else "float32"
        # each a kind of its own: one that is slow to compile says nothing of the next
        cost = Cost(TUNING[name], kind=name)
        ledger.part(name, cost, lambda d=dtype, p=precision: ceiling(d, p, TOY_SIZES if toy else SIZES))
    ledger.part("bandwidth", Cost(5, kind="bandwidth"), lambda: bandwidth(TOY_BYTES if toy else BYTES))


def machine() -> dict[str, Any]:
    """The device's name and memory, and the versions of what ran."""
    device = jax.devices()[0]
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "runtime": device.client.platform_version,
        "devices": jax.device_count(),
        "bytes_limit": (device.memory_stats() or {}).get("bytes_limit"),
        "python": platform.python_version(),
        "versions": found,
    }


def in_flight(action: Callable[[], Any]) -> float:
    """Median seconds of one action, of which ten are given to the device before it is waited for."""
    jax.block_until_ready(action())
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready([action() for _ in range(IN_FLIGHT)])
        taken.append((time.perf_counter() - start) / IN_FLIGHT)
    return statistics.median(taken)


def ceiling(dtype: str, precision: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    """FLOP/s of square products by size, and of the fastest."""
    by_size = {}
    for size in sizes:
        left, right = (jax.random.normal(jax.random.key(i), (size, size), jnp.float32).astype(dtype) for i in (0, 1))
        with jax.default_matmul_precision(precision):
            compiled = jax.jit(jnp.matmul)
            by_size[size] = 2 * size**3 / in_flight(lambda f=compiled, a=left, b=right: f(a, b))
    return {"flops": max(by_size.values()), "by_size": by_size}


def quick(dtype: str, toy: bool) -> float:
    """FLOP/s of products of one size, where a step begins before that ceiling is known."""
    return ceiling(dtype, PRECISIONS[dtype], TOY_SIZES[:1] if toy else SIZES[:1])["flops"]


def bandwidth(size: int) -> dict[str, float]:
    """Bytes a second, of so many read and as many written."""
    array = jnp.ones(size // 4, jnp.float32)
    compiled = jax.jit(lambda x: x + 1)
    return {"bytes_per_second": 2 * array.nbytes / in_flight(lambda: compiled(array))}


def summary(parts: Mapping[str, Any], toy: bool) -> dict[str, Any]:  # noqa: ARG001 - as all steps have it
    """Ceilings in FLOP/s and bandwidth in bytes a second beside the machine."""
    return {
        **parts.get("machine", {}),
        "ceilings": {name: parts[name]["flops"] for name in PRECISIONS if name in parts},
        **parts.get("bandwidth", {}),
    }
