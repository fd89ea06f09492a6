"""From counts to machines: bytes of one device, a mesh that fits or what is too large, time and device hours.

On a mesh data x model of p devices, each takes 1/data of the sequences and its shard of every weight:

    bytes = parameters + optimizer state + probe + max(gradients + activations + working, measuring)
    time  = steps x FLOPs / (p x FLOP/s of a device x utilisation)

working: the weights of one block, brought together from the data axis where they are used, and their gradient; what
remat computes again of it; and the loss.
probe: z_0, the inputs of dense ops on the probe batch, kept throughout; measuring: W_0, drawn again, the activations of
one block, and the matrices, inputs and products of the one op that takes most.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, prod

from derive.words import Kind
from verify.planning.counts import (
    FLOAT32,
    Network,
    activation_bytes,
    measuring_flops,
    op_bytes,
    optimizer_flops,
    part,
    probe_bytes,
    training_flops,
    working_bytes,
)
from verify.values import Document

ITEMSIZE = {"float32": 4, "bfloat16": 2}
LONGEST = 2**10
"""How many times as many devices are looked at for what would help."""


@dataclass(frozen=True)
class Devices:
    """What there is: `memory` in bytes and `flops` in FLOP/s are of one device."""

    count: int
    memory: float
    flops: float
    utilisation: float


@dataclass(frozen=True)
class Training:
    """What is trained: `rules` by kind of layer, sequences of a step and of the probe batch, how often it is measured.

    `runs` networks of each width, the study's rates times seeds.
    """

    rules: Mapping[Kind, str]
    sequences: int
    probe: int
    steps: int
    measurements: int
    runs: int
    dtype: str = "bfloat16"
    remat: bool = False


@dataclass(frozen=True)
class Usage:
    """Bytes of one device, by what they hold."""

    parameters: int
    optimizer_state: int
    gradients: float
    activations: float
    working: float
    probe: float
    measuring: float

    @property
    def total(self) -> float:
        """The most at one time: a training step or a measurement, whichever is larger."""
        step = self.gradients + self.activations + self.working
        return self.parameters + self.optimizer_state + self.probe + max(step, self.measuring)


Mesh = tuple[int, int]
"""Devices of the data axis and of the model axis."""
Share = Callable[[Mesh], tuple[int, int]]
"""Bytes of parameters and of optimizer state on one device of a mesh."""


def usage(network: Network, training: Training, share: Share, mesh: Mesh) -> Usage:
    """What one device of that mesh holds."""
    data, model = mesh
    itemsize = ITEMSIZE[training.dtype]
    kept = network, training.sequences / data, itemsize, training.remat, model
    parameters, state = share(mesh)
    computed = 2 * itemsize / FLOAT32 * parameters if itemsize < FLOAT32 else 0  # weights and gradients in `dtype`
    block = network.block.bytes(FLOAT32, model)
    # A batch that the axis does not divide is whole on every device, and so are its activations.
    sequences = part(training.probe, data)
    probe = probe_bytes(network, sequences) / model
    return Usage(
        parameters=parameters,
        optimizer_state=state,
        gradients=parameters + computed,
        activations=activation_bytes(*kept),
        working=working_bytes(*kept, gathered=data > 1),
        probe=probe,
        measuring=parameters + op_bytes(network, training.probe, *mesh) + sequences * network.length * block,
    )


def meshes(network: Network, training: Training, count: int) -> Iterator[Mesh]:
    """Meshes of that many devices, the longest data axis first, which divides the batch; the model axis divides heads.

    A multilayer perceptron has its units divided.
    """
    for model in divisors(count):
        if training.sequences % (count // model) == 0 and network.parts % model == 0:
            yield count // model, model


def divisors(number: int) -> list[int]:
    """From 1 to the number itself."""
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})


@dataclass(frozen=True)
class Plan:
    """One width on a number of devices: its mesh and what a device of it holds, and `whole`, a single device.

    Where none fits, `reason` says why and `mesh` is the one that lacks least.
    """

    network: Network
    training: Training
    devices: Devices
    mesh: Mesh
    usage: Usage
    whole: Usage
    reason: str | None = None

    @property
    def fits(self) -> bool:
        """Whether it can be trained there."""
        return self.reason is None

    @property
    def flops_per_step(self) -> float:
        """Training and the optimizer's products."""
        return training_flops(self.network, self.training.sequences, self.training.remat) + optimizer_flops(
            self.network, self.training.rules
        )

    @property
    def flops(self) -> float:
        """Of one run with its measurements."""
        measured = self.training.measurements * measuring_flops(self.network, self.training.probe)
        return self.training.steps * self.flops_per_step + measured

    @property
    def runs_at_once(self) -> int:
        """Networks trained side by side on all devices."""
        return self.devices.count // prod(self.mesh) if self.fits else 0

    @property
    def device_hours(self) -> float:
        """Of all runs of this width, whatever they run on."""
        return self.training.runs * self.flops / (self.devices.flops * self.devices.utilisation) / 3600

    @property
    def hours_per_run(self) -> float | None:
        """From the first step of a run to its last; None where no mesh fits."""
        return self.device_hours / self.training.runs / prod(self.mesh) if self.fits else None

    @property
    def hours(self) -> float | None:
        """All runs of this width, side by side and one after the other."""
        one = self.hours_per_run
        return None if one is None else one * ceil(self.training.runs / self.runs_at_once)


def plan(network: Network, training: Training, share: Share, devices: Devices) -> Plan:
    """The mesh of most devices that fits, and of those with the longest data axis; else what is too large."""
    whole = usage(network, training, share, (1, 1))
    tried = [(mesh, usage(network, training, share, mesh)) for mesh in _all_meshes(network, training, devices.count)]
    for mesh, used in tried:
        if used.total <= devices.memory:
            return Plan(network, training, devices, mesh, used, whole)
    mesh, used = min(tried, key=lambda each: each[1].total)
    return Plan(network, training, devices, mesh, used, whole, _reason(network, training, share, devices, mesh, used))


def _all_meshes(network: Network, training: Training, count: int) -> Iterator[Mesh]:
    for used in reversed(divisors(count)):
        yield from meshes(network, training, used)


def _fits(network: Network, training: Training, share: Share, devices: Devices) -> bool:
    return any(
        usage(network, training, share, mesh).total <= devices.memory
        for mesh in _all_meshes(network, training, devices.count)
    )


def _reason(network: Network, training: Training, share: Share, devices: Devices, mesh: Mesh, used: Usage) -> str:
    """What is too large on the mesh that lacks least, and what alone would help."""
    parts = {"weights": used.parameters, "optimizer": used.optimizer_state, "probe": used.probe}
    step = {"gradients": used.gradients, "activations": used.activations, "working": used.working}
    parts |= step if sum(step.values()) >= used.measuring else {"measuring": used.measuring}
    largest = ", ".join(f"{name} {_gb(size)}" for name, size in sorted(parts.items(), key=lambda each: -each[1])[:3])
    remedies = _remedies(network, training, share, devices)
    helps = f"give {' or '.join(remedies)}" if remedies else "no smaller batch or probe and no more devices help alone"
    undivided = (
        ""
        if any(meshes(network, training, devices.count))
        else f", as no mesh of {devices.count} divides {training.sequences} sequences and {network.parts} "
        f"{'heads' if network.again else 'units'},"
    )
    return (
        f"width {network.width} takes {_gb(used.total)} GB a device on {mesh[0]} x {mesh[1]}{undivided} and there are "
        f"{_gb(devices.memory)}: {largest}; {helps}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:,.0f}" if size >= 100e9 else f"{size / 1e9:.3g}"


def _remedies(network: Network, training: Training, share: Share, devices: Devices) -> list[str]:
    found = []
    if network.again and not training.remat and _fits(network, replace(training, remat=True), share, devices):
        found.append("--remat")
    for option, name in (("--batch", "sequences"), ("--probe", "probe")):
        size = getattr(training, name) // 2
        while size and not _fits(network, replace(training, **{name: size}), share, devices):
            size //= 2
        if size:
            found.append(f"{option} {size}")
    least, doublings = devices.count, range(LONGEST.bit_length())
    counts = sorted({least << times for times in doublings} | {1 << least.bit_length() + times for times in doublings})
    enough = (each for each in counts[1:] if _fits(network, training, share, replace(devices, count=each)))
    if (count := next(enough, None)) is not None:
        found.append(f"--devices {count}")
    return found


def as_json(found: Plan) -> Document:
    """One row of the JSON contract; where no mesh fits, bytes are of the one that lacks least."""
    network = found.network
    mesh = {"data": found.mesh[0], "model": found.mesh[1]}
    return {
        "width": network.width,
        "devices": found.devices.count,
        "parameters": network.parameters,
        "flops_per_step": round(found.flops_per_step),
        "flops": round(found.flops),
        "fits": found.fits,
        "reason": found.reason,
        "mesh": mesh,
        "bytes": _bytes(found, found.whole, (1, 1)),
        "bytes_per_device": _bytes(found, found.usage, found.mesh),
        "runs_at_once": found.runs_at_once,
        "hours_per_run": found.hours_per_run,
        "hours": found.hours,
        "device_hours": found.device_hours,
    }


def _bytes(found: Plan, used: Usage, mesh: Mesh) -> dict[str, int]:
    data, model = mesh
    share, itemsize = found.training.sequences / data, ITEMSIZE[found.training.dtype]
    return {
        "parameters": used.parameters,
        "optimizer_state": used.optimizer_state,
        "gradients": round(used.gradients),
        "activations_without_remat": round(activation_bytes(found.network, share, itemsize, False, model)),
        "activations_with_remat": round(activation_bytes(found.network, share, itemsize, True, model)),
        "working": round(used.working),
        "probe": round(used.probe),
        "measuring": round(used.measuring),
        "total": round(used.total),
    }


def study_hours(plans: Sequence[Plan]) -> float:
    """Device hours of all widths that fit."""
    return sum(each.device_hours for each in plans if each.fits)
