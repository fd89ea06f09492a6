"""Batches trained on a Ray cluster: on this machine alone, or on as many as one `ray start` each has joined to it."""

import logging
import os
import platform
import socket
import warnings
from typing import Any

from derive.errors import shorten
from verify.sweeps.engines import EngineError, Task, available_cores, perform, use_compilation_cache
from verify.sweeps.records import Record
from verify.training.data import Corpus

RETRIES = 3
"""How often a batch is trained again after its worker or its machine was lost."""
REACHABLE = 10.0
"""Seconds to wait for an address to answer; Ray itself waits for minutes."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}
"""No usage statistics, and no word of a lost worker on standard output, where results go; read on import."""


class Ray:
    """Trains every task on a core of the cluster, or on a GPU where it has any.

    `address` is host:port of a running cluster, "auto" for the one of this machine, or "local" to start one here
    that ends with the driver; None is RAY_ADDRESS, which Ray sets within its jobs, or else "local". Workers need
    this program in the driver's version; the corpus is sent to them. A task on a GPU has a process of its own,
    since a process keeps the GPU that it had first. EngineError where there is no Ray or no cluster.
    """

    def __init__(self, address: str | None, corpus: Corpus) -> None:
        self.ray = _connect(address or os.environ.get("RAY_ADDRESS") or "local")
        self.running: dict[Any, Task] = {}
        self.resource = "GPU" if self._available("GPU") else "CPU"
        self.capacity = self._available(self.resource) + 1
        if self.capacity == 1:
            self.close()
            raise EngineError(f"the Ray cluster {shorten(str(address))} has no CPUs; start workers in it first")
        gpus = 1 if self.resource == "GPU" else 0
        self.work = self.ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(_work)
        self.corpus = self.ray.put(corpus)

    def _available(self, resource: str) -> int:
        return int(self.ray.cluster_resources().get(resource, 0))

    def submit(self, task: Task) -> None:
        """Take a task."""
        self.running[self.work.remote(task, self.corpus)] = task

    def next(self) -> tuple[Task, list[Record]]:
        """Wait for a task to finish; EngineError where it failed, or lost its worker once more than RETRIES."""
        (ready, *_), _ = self.ray.wait(list(self.running))
        task = self.running.pop(ready)
        self.capacity = self._available(self.resource) + 1  # machines come and go; one waits, so that no worker does
        try:
            return task, self.ray.get(ready)
        except self.ray.exceptions.RayError as error:
            reason = _one_line(getattr(error, "cause", None) or error)
            raise EngineError(
                f"Ray could not train {shorten(task.batch.setting)} at {task.conditions.axis} {task.batch.width}: "
                f"{reason}; what is finished is stored, and the same command goes on"
            ) from error

    def close(self) -> None:
        """Cancel what is unfinished and disconnect; a cluster that was started here ends."""
        for unfinished in self.running:
            self.ray.cancel(unfinished, force=True)
        self.ray.shutdown()


def _connect(address: str) -> Any:
    """The ray module, connected, and quiet."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise EngineError(
            "the engine ray needs the package ray; install this one with its extra: pip install '.[verify,ray]'"
        ) from None
    local: dict[str, Any] = {"num_cpus": available_cores(), "include_dashboard": False} if address == "local" else {}
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "://" not in host:
            socket.create_connection((host.strip("[]"), int(port)), REACHABLE).close()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*\bfork\(\)")  # of JAX and Python; what Ray starts is other programs
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise EngineError(
            f"--address {shorten(address, 80)} is no Ray cluster that can be used: {_one_line(error)}; give host:port "
            "as `ray start --head` prints it, and the same RAY_AUTH_MODE, or leave it out to use this machine"
        ) from error
    return ray


def _one_line(error: BaseException) -> str:
    """What it says, and its kind where that is not an error made for users."""
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:400]


def _work(task: Task, corpus: Corpus) -> list[Record]:
    """In a worker: train on one core, or on the GPU that Ray made visible to it."""
    import ray

    from verify.provenance import code_version

    if task.conditions.code != (found := code_version()):
        raise EngineError(
            f"{platform.node()} has version {found} and the driver {task.conditions.code}; "
            "install the same on all machines"
        )
    if not ray.get_gpu_ids():
        os.environ["NPROC"] = "1"  # threads that XLA starts, on a machine that has a worker on every core
    use_compilation_cache()
    return perform(task, corpus)
