"""Several processes, on one machine or many, as one mesh of devices: `jax.distributed`, and how such a run ends.

Every process runs the same command and says which one it is. When one of them dies, JAX ends the others from threads of
its own, with pages of text or by an abort; so the work is done in a process below this one, which says in a line what
happened.
"""

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO, TypeVar

from derive.errors import DeriveError, check_positive, shorten
from verify.values import Entries

Item = TypeVar("Item")
INSIDE = "VERIFY_INSIDE"
"""Set in the environment of the process that does the work."""

AUTOMATIC = "auto"
NOISE = re.compile(
    r".*(\[Gloo\] |connected peer ranks)|[IWEF]\d{4} \d\d:\d\d:\d\d|\*\*\* Check failure|    @ "
    r"|Additional GRPC error|:UNKNOWN:"
)
"""How lines begin that JAX's libraries write from below Python; Gloo's threads write into each other's lines."""


@dataclass(frozen=True)
class Hosts:
    """The address of process 0, how many processes there are and which this is; all None where a cluster says so."""

    coordinator: str
    processes: int | None
    process: int | None

    @property
    def name(self) -> str:
        """This process among all."""
        return "this process" if self.process is None else f"process {self.process} of {self.processes}"


def read_hosts(coordinator: str | None, processes: int | None, process: int | None) -> Hosts | None:
    """The processes of the three options, None where none is given; DeriveError for a part of them."""
    if coordinator is None and processes is None and process is None:
        return None
    if coordinator == AUTOMATIC and processes is None and process is None:
        return Hosts(AUTOMATIC, None, None)
    if coordinator is None or processes is None or process is None:
        raise DeriveError(
            "several processes need --coordinator HOST:PORT --processes N --process I, all three, "
            f"or --coordinator {AUTOMATIC} alone on a cluster that JAX knows"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise DeriveError(
            f"--coordinator {shorten(coordinator)} is not an address; write host and port of process 0: 10.0.0.1:1234"
        )
    check_positive(processes=processes)
    if not 0 <= process < processes:
        raise DeriveError(f"--process {process} of --processes {processes}: they count from 0 to {processes - 1}")
    return Hosts(coordinator, processes, process)


def inside() -> bool:
    """Whether this is the process that does the work."""
    return INSIDE in os.environ


def supervise(hosts: Hosts, arguments: Sequence[str], again: str) -> int:
    """Run this command in a process below and say in one line if it is ended from outside; its exit code.

    `again` is what to do then.
    """
    work = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "verify", *arguments],
        env={**os.environ, INSIDE: "1"},
        stdin=subprocess.PIPE,  # closed by the end of this process, whatever ends it
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    pairs = ((work.stdout, sys.stdout), (work.stderr, sys.stderr))
    readers = [threading.Thread(target=_pass_on, args=pair, daemon=True) for pair in pairs]
    try:
        for reader in readers:
            reader.start()
        code = work.wait()
        for reader in readers:
            reader.join()
    except BaseException:
        work.kill()
        raise
    if code < 0:
        raise DeriveError(f"{hosts.name} was ended with another process, or by its loss (signal {-code}); {again}")
    return code


def _pass_on(lines: Iterable[str], to: TextIO) -> None:
    for line in lines:
        if not NOISE.match(line):
            to.write(line)
            to.flush()


def join(hosts: Hosts) -> None:
    """Become one of the processes; DeriveError where they do not come together."""
    import jax

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if hosts.process is None:
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(hosts.coordinator, hosts.processes, hosts.process)
    except (RuntimeError, ValueError) as error:
        raise DeriveError(
            f"{hosts.name} could not join the others at {hosts.coordinator} ({shorten(str(error))}); "
            "start all of them within five minutes, with the same address"
        ) from None


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def lost(hosts: Hosts, error: Exception, again: str) -> DeriveError:
    """What to say where JAX failed in the midst of a run of several processes."""
    return DeriveError(f"{hosts.name} lost another process, or failed itself ({shorten(str(error))}); {again}")


def check_same(conditions: Entries) -> None:
    """Raise DeriveError where another process was given another study."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    from derive.emit import dump

    if jax.process_count() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(dump(conditions).encode()).digest(), np.uint8)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(mine), mine):
        raise DeriveError("this process was given other options, text or code than process 0; give all the same")


def agreed(left: Sequence[Item], among: Sequence[Item]) -> list[Item]:
    """What process 0 has left, of what all have: the others may not see its folder."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    mine = np.array([each in left for each in among])
    decided = multihost_utils.broadcast_one_to_all(mine) if jax.process_count() > 1 else mine
    return [each for each, is_left in zip(among, decided, strict=True) if is_left]


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    import jax

    return jax.process_index() == 0
