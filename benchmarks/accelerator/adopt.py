"""Takes over an accelerator's results: `--adopt FOLDER` puts its files where the tables read them, by device.

    benchmarks/results/<device>/1_device.json ...      one per step, as `python -m benchmarks.accelerator` wrote them

`python -m benchmarks.results` shows them beside the processors' results, each under its device; a folder that is taken
away again is shown no more.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.accelerator.ledger import read, results, tell
from benchmarks.accelerator.steps import STEPS

FOLDER = Path(__file__).parents[1] / "results"
Row = tuple[str, str, str, str]
"""What was measured, ours, its floor, its peer; as in `benchmarks.results`."""
SHOWN = (("readout", "omega"), ("readout", "delta_z"), ("hidden.0", "alpha"), ("hidden.0", "delta_z"))
"""Layers and quantities after the first step, of the exponents' tables."""


def adopt(source: Path, folder: Path = FOLDER) -> int:
    """Copy the steps that are there; 2 where there are none, where they are toys, or of several devices.

    A stored step that has parts which the new file has not is left as it is, and said.
    """
    from benchmarks.results import slug

    found = {step: read(step.path(source)) for step in STEPS if step.path(source).exists()}
    devices = {kept.get("device") for kept in found.values()}
    if len(devices) != 1:
        tell(f"{source} holds {'no step' if not found else 'steps of several devices'}; give what --out had")
        return 2
    if any(kept.get("check") for kept in found.values()):
        tell(f"{source} was made with --check: toys are not taken over")
        return 2
    target = folder / slug(str(devices.pop()))
    target.mkdir(parents=True, exist_ok=True)
    for step, kept in found.items():
        path = step.path(target)
        lost = set(read(path)["parts"]) - set(kept["parts"]) if path.exists() else set()
        if lost:
            tell(f"{step.name}: {path} stays, it has {len(lost)} parts more")
            continue
        draft = path.with_suffix(".part")
        shutil.copyfile(step.path(source), draft)
        draft.replace(path)
        tell(f"{step.name}: {len(kept['parts'])} parts in {path}")
    return 0


def _device(parts: Mapping[str, Any], _kept: Mapping[str, Any]) -> list[Row]:
    names = ("float32", "tensorfloat32", "bfloat16")
    rows = [(f"matmul ceiling, {n}", f"{parts[n]['flops'] / 1e12:.0f} TFLOP/s", "", "") for n in names if n in parts]
    if "bandwidth" in parts:
        rows.append(("reading and writing", f"{parts['bandwidth']['bytes_per_second'] / 1e12:.2f} TB/s", "", ""))
    return rows


def _widths(_parts: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, study in kept.get("result", {}).items():
        for row in study["rows"]:
            if row["step"] == 1 and (row["layer"], row["quantity"]) in SHOWN and row["measured"] is not None:
                interval = f"{row['measured']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
                what = (
                    f"{row['quantity']} of {row['layer']}, {name}, widths {study['widths'][0]} to {study['widths'][-1]}"
                )
                rows.append((what, interval, f"predicted {row['predicted']}", ""))
    return rows


def _speed(parts: Mapping[str, Any], _kept: Mapping[str, Any]) -> list[Row]:
    return [
        (
            f"transformer, {part['dtype']}, width {part['width']}, tokens a second",
            f"{part['tokens_per_second']:.0f}",
            "",
            f"Flax, {part['flax_tokens_per_second']:.0f}",
        )
        if "flax_tokens_per_second" in part
        else (
            f"measuring in 1,000 steps, width {part['width']}",
            f"{part['overhead_by_steps']['1000']:.1%} of training",
            "",
            "",
        )
        for part in parts.values()
    ]


def _networks(_parts: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Row]:
    found = kept.get("result") or {}
    if "networks_per_minute" not in found:
        return []
    one = found.get("one_process_per_minute")
    ours = f"{found['networks_per_minute']:.0f}"
    return [("models a minute, widths to 512", ours, "", f"one process each, {one:.1f}" if one else "")]


def _parts(what: str) -> Any:
    def rows(parts: Mapping[str, Any], kept: Mapping[str, Any]) -> list[Row]:
        return [(what, f"{len(parts)} parts, {len(kept['left'])} left", "", "")]

    return rows


ROWS = {
    "device": _device,
    "widths": _widths,
    "speed": _speed,
    "alignments": _parts("alignments of a transformer"),
    "networks": _networks,
    "study": _parts("the transfer study"),
    "memory": _parts("memory with and without remat"),
}


def rows(folder: Path) -> tuple[str, list[Row]]:
    """The device's name and what its steps show, in order."""
    found = {step: read(step.path(folder)) for step in STEPS if step.path(folder).exists()}
    heading = next(iter(found.values()))
    shown = [row for step, kept in found.items() for row in ROWS[step.name](results(kept), kept)]
    return f"{heading['device']}, {heading['cores']} cores, JAX {heading['jax']}", shown
