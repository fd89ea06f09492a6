"""Where the benchmarks' numbers go: one JSON per device, a section for each benchmark, and the table made of it.

    python -m benchmarks.results [benchmarks/results]      prints the table that README.md shows

A benchmark run with --out FOLDER replaces its own section of FOLDER/<device>.json, with its date and versions, and
leaves the others as they are.
"""

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def arguments(description: str | None, rounds: int | None = None) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the numbers in FOLDER/<device>.json")
    return parser


def report(section: str, numbers: Mapping[str, Any], folder: Path | None) -> None:
    """Print a benchmark's numbers, and keep them in the folder where there is one."""
    print(json.dumps({section: numbers}, indent=1))
    if folder:
        print(f"{section}: in {keep(section, numbers, folder, device())}", file=sys.stderr)


def device() -> dict[str, Any]:
    """Its name and the cores of its host; a processor's is what Linux calls it, or else its architecture."""
    import jax

    first, cores = jax.devices()[0], os.cpu_count()
    if first.platform != "cpu":
        return {"device": first.device_kind, "cores": cores}
    listed = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", listed.read_text(), re.MULTILINE) if listed.exists() else []
    return {"device": f"{names[0] if names else 'CPU'}, {platform.machine()}", "cores": cores}


def slug(name: str) -> str:
    """The name in small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def keep(section: str, numbers: Mapping[str, Any], folder: Path, where: Mapping[str, Any]) -> Path:
    """Replace one section of the device's file, all at once; SystemExit where the file there is not one of these."""
    path = folder / f"{slug(where['device'])}-{where['cores']}-cores.json"
    kept = read(path) if path.exists() else {}
    stamp = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version()}
    versions = {name: version(name) for name in ("jax", "jaxlib")}
    folder.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".part")
    written.write_text(json.dumps({**kept, **where, section: {**stamp, **versions, **numbers}}, indent=1) + "\n")
    written.replace(path)
    return path


def read(path: Path) -> dict[str, Any]:
    """A device's results."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or "device" not in found:
        raise SystemExit(f"{path} holds no results of benchmarks; move it away, or give another folder to --out")
    return found


Row = tuple[str, str, str, str]
"""What was measured, ours, its floor, its peer."""


def _derive(found: Any) -> list[Row]:
    closed, process = found["recursion"], found["process"]
    floor, peer = f"`import sympy`, {process['import_sympy_s']:.2f} s", f"HiGHS, {closed['highs_ms']:.1f} ms"
    return [
        (f"largest rates of {closed['layers']} layers, exact", f"{closed['fractions_ms']:.2f} ms", "", peer),
        ("the whole `derive` process", f"{process['derive_s']:.2f} s", floor, ""),
    ]


def _symbols(found: Any) -> list[Row]:
    rows = [row for row in found["rows"] if "global" not in row["optimizer"]]
    slowest = {
        count: max((row for row in rows if row["layers"] == count), key=lambda row: row["seconds"])
        for count in sorted({row["layers"] for row in rows})
    }
    return [
        (
            f"three symbols, {count} hidden layers, the slowest optimizer",
            f"{row['seconds']:.2f} s, {max(each['bytes'] for each in rows if each['layers'] == count) / 1e3:.1f} kB",
            f"in numbers, {row['numbers_s']:.2f} s",
            "",
        )
        for count, row in slowest.items()
    ]


def _measure(found: Any) -> list[Row]:
    return [
        (
            f"a measurement, width {row['width']}, in training steps",
            f"{row['measurement_over_step']:.2f}",
            f"its products, {row['floor_over_step']:.2f}",
            "",
        )
        for row in found["cost"]
    ]


def _sweep(found: Any) -> list[Row]:
    return [
        (
            f"models a minute, width {row['width']}",
            f"{row['models_per_minute']:.0f}",
            f"training alone, {row['floor_models_per_minute']:.0f}",
            f"one process each, {row['one_process_at_a_time']:.1f}",
        )
        for row in found["rows"]
    ]


def _transformer(found: Any) -> list[Row]:
    rows = [
        (
            f"transformer, width {row['width']}, tokens a second",
            f"{row['tokens_per_second']:.0f}, {row['of_ceiling']:.0%} of the ceiling",
            f"its products alone, {row['products_tokens_per_second']:.0f}",
            f"Flax, {row['flax_tokens_per_second']:.0f}",
        )
        for row in found["rows"]
    ]
    least, most = found["compiling"][0], found["compiling"][-1]
    scanned = f"{least['scan_s']:.1f} and {most['scan_s']:.1f} s"
    without = f"without scan, {least['blocks_s']:.1f} and {most['blocks_s']:.1f} s"
    rows.append((f"compiling {least['blocks']} and {most['blocks']} blocks, with scan", scanned, "", without))
    rows.append(("matmul ceiling, float32", f"{found['ceiling_gflops']:.0f} GFLOP/s", "", ""))
    return rows


def _atan2(found: Any) -> list[Row]:
    return [
        (
            f"Adam-atan2 on {name}",
            f"{row['atan2_ms']:.2f} ms",
            f"reading and writing, {row['floor_ms']:.2f} ms",
            f"Adam, {row['adam_ms']:.2f} ms",
        )
        for name, row in found["cost"].items()
    ]


def _online(found: Any) -> list[Row]:
    return [
        (
            f"a run with measured rates, width {row['width']}",
            f"{row['online_s']:.2f} s",
            f"its measurements, {row['floor_overhead'] * row['fixed_s']:.3f} s on top",
            f"fixed rates, {row['fixed_s']:.2f} s",
        )
        for row in found["rows"]
    ]


def _prescribe(found: Any) -> list[Row]:
    seconds = found["seconds"]
    return [
        (
            f"the graph of {found['blocks']} blocks",
            f"{seconds['graph']:.2f} s",
            f"JAX's tracing, {seconds['tracing alone']:.2f} s",
            "",
        ),
        (
            "its linear program, solved and proved",
            f"{seconds['program, proved']:.2f} s",
            "",
            f"HiGHS, without proof, {seconds['HiGHS in floats']:.3f} s",
        ),
    ]


SECTIONS: Mapping[str, Callable[[Any], list[Row]]] = {
    "transformer": _transformer,
    "measure": _measure,
    "sweep": _sweep,
    "online": _online,
    "atan2": _atan2,
    "derive": _derive,
    "symbols": _symbols,
    "prescribe": _prescribe,
}


def table(found: Mapping[str, Any]) -> str:
    """The Markdown table of one device's results."""
    rows = [row for section, make in SECTIONS.items() if section in found for row in make(found[section])]
    return _markdown(f"{found['device']}, {found['cores']} cores", rows)


def _markdown(heading: str, rows: Sequence[Row]) -> str:
    lines = [heading, "", "| what | ours | floor | peer |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)])


def tables(folder: Path) -> list[str]:
    """One per device: those of `make bench`, then those that an accelerator's run was adopted from."""
    from benchmarks.accelerator.adopt import rows

    adopted = sorted(path.parent for path in folder.glob("*/1_device.json"))
    return [
        *(table(read(path)) for path in sorted(folder.glob("*.json"))),
        *(_markdown(*rows(each)) for each in adopted),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    print("\n\n".join(tables(parser.parse_args().folder)))


if __name__ == "__main__":
    main()
