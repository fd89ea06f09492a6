"""The coordinate check that runs in torch alone: written out as one file, and its CSV judged."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from derive.emit_torch_muon import emitted_source
from derive.errors import DeriveError, shorten
from verify.model.check.check import Check, Measured, Setup, advice, unmultiplied
from verify.model.check.rows import judged
from verify.model.make import Drawn
from verify.model.prescription import ModelPrescription
from verify.torch.emit import as_torch

SOURCE = Path(__file__).parent / "coordinates.py"
COLUMNS = ("setup", "step", "layer", "quantity", "width", "seed", "value")
CODE = Template('''

# The coordinate check: python THIS_FILE --out sizes.csv, and where JAX is
# verify check $build --framework torch --measured sizes.csv

$imports

from $module import $names


$source


OPS = {
$ops
}


def optimizers_of(setup, model, width, rate, decay):
    """The optimizers of a set-up: the model's own has one rate for all. Put yours here, to see whether it is right."""
    at = scaling.at(width if setup == "prescribed" else BASE_WIDTH)
    return at.optimizers(model, rate, decay, multipliers_applied=True)


if __name__ == "__main__":
    given = arguments("$widths", $seeds, $steps, $rate, 0.1)
    sizes = [int(each) for each in given.widths.split(",")]
    make = lambda setup, model, width: optimizers_of(setup, model, width, given.base_rate, given.weight_decay)
    rows = measure(scaling, OPS, $call, sizes, (given.seeds, given.steps))
    write_sizes(rows, given.out)
''')


def check_as_torch(
    answer: ModelPrescription,
    build: str,
    example: str | None,
    loss: str | None,
    widths: Sequence[int],
    seeds: int,
    steps: int,
    rate: float,
) -> str:
    """One file for torch: the prescription, and what measures it. DeriveError for an example in shapes."""
    module, _, function = build.partition(":")
    given = example or f"{module}:example"
    if ":" not in given:
        raise DeriveError("--format torch reads the inputs where training runs; give --example module:function")
    wanted = [(module, function, "build"), (*_split(given), "example")]
    if loss is not None:
        wanted.append((*_split(loss), "loss"))
    dotted = [(each.removesuffix(".py").replace("/", "."), name, alias) for each, name, alias in wanted]
    imports, source = emitted_source(SOURCE)
    lines = [line for line in imports.split("\n") if line and not line.startswith("from verify.")]
    first = dotted[0][0]
    others = [f"from {each} import {name} as {alias}" for each, name, alias in dotted[1:]]
    return as_torch(answer).rstrip() + CODE.substitute(
        build=build,
        imports="\n".join(lines),
        module=first,
        names="\n".join([f"{function} as build", *others]),
        source=source,
        ops="\n".join(f'    "{name}": {at},'.replace("'", '"') for name, at in ops_of(answer).items()),
        widths=",".join(map(str, widths)),
        seeds=seeds,
        steps=steps,
        rate=rate,
        call=f"build, example, {'loss' if len(dotted) > 2 else 'default_loss'}, make",
    )


def _split(text: str) -> tuple[str, str]:
    module, _, name = text.partition(":")
    return module, name


def ops_of(answer: ModelPrescription) -> dict[str, tuple[str, str]]:
    """(module, parameter) of every dense op that stands in a module's own call."""
    found = {}
    for op in answer.ops:
        if op.name in answer.places:
            found[op.name] = (answer.places[op.name].partition(": ")[0], op.path.rpartition(".")[2])
    return found


def judge_measured(answer: ModelPrescription, path: Path) -> tuple[Check, str, list[str]]:
    """(check, digest of the file, dense ops and products that hooks do not see) from a CSV of sizes.

    DeriveError naming the column, row or width that is missing, or a parameter that is not the prescription's.
    """
    rows = _read(path)
    widths = sorted({row[4] for row in rows})
    seeds = sorted({row[5] for row in rows})
    if len(widths) < 2:
        raise DeriveError(f"{shorten(str(path))} has {len(widths)} width; slopes need two at least, better four")
    measured: dict[Setup, Measured] = {}
    setups: list[Setup] = [each for each in ("own", "prescribed") if any(row[0] == each for row in rows)]
    missing: list[str] = []
    seen = unmultiplied(answer)  # hooks see outputs with what was put in
    for setup in setups:
        tables = _tables([row for row in rows if row[0] == setup], widths, seeds, path)
        first = tables[min(tables)]
        names = {f"parameter {row.path}" for row in answer.parameters if row.is_trained}
        if not names <= {*first}:
            raise DeriveError(
                f"{shorten(str(path))} has no sizes of {min(names - {*first})}; measure the model that is checked"
            )
        missing = [op.name for op in answer.ops if op.name not in first]
        missing += [name for name in answer.multipliers if name not in {op.name for op in answer.ops}]
        part = replace(seen, ops=tuple(op for op in seen.ops if op.name in first))
        entries = {row.path: _entries(first, row.path) for row in answer.parameters if row.is_trained}
        found = judged(part, widths, tables, {}, entries if setup == "own" else {})
        starts: dict[int, Mapping[str, Drawn]] = {
            width: {
                row.path: Drawn(0.0, float(first[f"parameter {row.path}"]["weight"][at].mean()))
                for row in answer.parameters
                if row.is_trained
            }
            for at, width in enumerate(widths)
        }
        measured[setup] = Measured(setup, tables, starts, tuple(found))
    lines = advice(answer, widths, measured["own"], False) if "own" in measured else []
    shown = replace(answer, ops=tuple(op for op in answer.ops if op.name not in missing))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return Check(shown, tuple(widths), len(seeds), measured, tuple(lines)), digest, missing


def _entries(table: Any, path: str) -> list[int]:
    sizes = table[f"parameter {path}"].get("entries")
    return [] if sizes is None else [int(each) for each in sizes[:, 0]]


def _read(path: Path) -> list[tuple[str, int, str, str, int, int, float]]:
    """The rows; DeriveError for what is no such CSV."""
    name = shorten(str(path))
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [each for each in COLUMNS if each not in (reader.fieldnames or ())]
            if lacking:
                raise DeriveError(
                    f"{name} has no column {lacking[0]}; give the CSV that the file of --format torch wrote"
                )
            rows = []
            for line, row in enumerate(reader, 2):
                try:
                    numbers = [int(row[each]) for each in ("step", "width", "seed")]
                    value = float(row["value"])
                except (TypeError, ValueError):
                    raise DeriveError(f"{name}, line {line}: {shorten(str(row))} has text for a number") from None
                if row["setup"] not in ("own", "prescribed"):
                    raise DeriveError(f"{name}, line {line}: setup is own or prescribed, not {shorten(row['setup'])}")
                rows.append((row["setup"], numbers[0], row["layer"], row["quantity"], numbers[1], numbers[2], value))
    except (OSError, UnicodeDecodeError) as error:
        raise DeriveError(f"cannot read {name}: {shorten(str(error))}") from None
    if not rows:
        raise DeriveError(f"{name} has no rows; run the file of --format torch to its end")
    return rows


def _tables(rows: Sequence[Any], widths: Sequence[int], seeds: Sequence[int], path: Path) -> dict[int, Any]:
    """Tables by step, [width, seed]; DeriveError where a width or seed is missing."""
    at = {width: place for place, width in enumerate(widths)}, {seed: place for place, seed in enumerate(seeds)}
    tables: dict[int, dict[str, dict[str, Any]]] = {}
    counts: dict[tuple[int, str, str], int] = {}
    for _, step, layer, quantity, width, seed, value in rows:
        array = tables.setdefault(step, {}).setdefault(layer, {})
        if quantity not in array:
            array[quantity] = np.zeros((len(widths), len(seeds)))
        array[quantity][at[0][width], at[1][seed]] = value
        counts[step, layer, quantity] = counts.get((step, layer, quantity), 0) + 1
    for (step, layer, quantity), count in counts.items():
        if count != len(widths) * len(seeds):
            raise DeriveError(
                f"{shorten(str(path))}: {quantity} of {layer} at step {step} has {count} rows for {len(widths)} widths "
                f"and {len(seeds)} seeds; each has one, so run the file to its end"
            )
    return tables
