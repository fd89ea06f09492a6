"""`verify plan`: what a study takes on given devices, counted before anything is trained."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.terminal import wrapped
from verify.commands.options import read_choice, read_numbers, write_out
from verify.files import write_new
from verify.values import Document

WIDTHS = "128,256,512,768,1024,1536,2048,2560,3072,4096,6144,8192,12288,16384"
"""The paper's fourteen: 1 to 128 heads of 128."""
USUAL = {"transformer": {"depth": 8, "context": 512}, "mlp": {"depth": 2, "context": 16}}
HEAD_DIMENSION = 128
STEPS = 50_000
H100 = {"bfloat16": 989.0, "float32": 67.0}
H100_MEMORY = 80.0
H100_SOURCE = "H100 SXM by NVIDIA's data sheet; in bfloat16 half of the 1,979 TFLOP/s that it gives with sparsity"
LEAST, LARGEST = 1e-6, 10**7
DEEPEST = 1000
UNITS = {"memory": " of GB", "flops": " of TFLOP/s"}


def plan(
    widths: Annotated[str, typer.Option(help="Widths of the study.")] = WIDTHS,
    devices: Annotated[str, typer.Option(help="How many; several numbers for a table of each: 8,64,512.")] = "8",
    memory: Annotated[float, typer.Option(help="Of one device, in GB = 10^9 bytes.")] = H100_MEMORY,
    flops: Annotated[
        float | None,
        typer.Option(help="Peak of one device, in TFLOP/s = 10^12 a second.  [default: an H100's 989; float32 67]"),
    ] = None,
    utilisation: Annotated[float, typer.Option(help="The share of that peak that is reached.")] = 0.4,
    model: Annotated[str, typer.Option(help="transformer or mlp.")] = "transformer",
    optimizer: Annotated[str, typer.Option(help="A trainable optimizer, or one per layer kind as in derive.")] = "adam",
    dtype: Annotated[str, typer.Option(help="bfloat16, with parameters in float32, or float32.")] = "bfloat16",
    remat: Annotated[bool, typer.Option("--remat", help="Compute blocks again in the backward pass.")] = False,
    depth: Annotated[int | None, typer.Option(help="Blocks, or hidden layers.  [default: 8; mlp 2]")] = None,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 256,
    context: Annotated[int | None, typer.Option(help="Tokens read at once.  [default: 512; mlp 16]")] = None,
    vocab: Annotated[int, typer.Option(help="Vocabulary.")] = 32_101,
    head_dimension: Annotated[int | None, typer.Option(help="Of the transformer.  [default: 128]")] = None,
    probe: Annotated[int, typer.Option(help="Sequences on which is measured, after steps 1, 2, 5, 10, ...")] = 64,
    steps: Annotated[int | None, typer.Option(help="Training steps.  [default: 50000]")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens per run, in place of steps: 6.5e9.")] = None,
    rates: Annotated[int, typer.Option(help="Base rates of the study, at every width.")] = 1,
    seeds: Annotated[int, typer.Option(help="Networks per rate.")] = 1,
    out: Annotated[Path | None, typer.Option(help="A new file to write it to.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, markdown or json.")] = "table",
) -> None:
    """Count what every width takes: parameters, FLOPs, memory, a mesh of devices that fits, time and device hours."""
    shown = read_choice("--format", output_format, ("table", "markdown", "json"))
    name = read_choice("model", model, tuple(USUAL))
    precision = read_choice("--dtype", dtype, tuple(H100))
    _check_counts(batch=batch, context=context, vocab=vocab, head_dimension=head_dimension, probe=probe)
    if depth is not None and not 1 <= depth <= DEEPEST:
        raise DeriveError(f"--depth {depth} is not allowed; give a number from 1 to {DEEPEST}")
    _check_counts(steps=steps, rates=rates, seeds=seeds)
    check_positive(tokens=tokens)
    _check_counts(least=LEAST, memory=memory, flops=flops)
    if not LEAST <= utilisation <= 1:
        raise DeriveError(f"--utilisation {utilisation} is not allowed; give a share of the peak, from {LEAST:g} to 1")
    if steps and tokens:
        raise DeriveError(f"--steps {steps} and --tokens {tokens:g} both say how long; give one of them")
    if head_dimension and name == "mlp":
        raise DeriveError(f"--head-dimension {head_dimension} goes with --model transformer; leave it out")
    if remat and name == "mlp":
        raise DeriveError("--remat goes with --model transformer; leave it out")
    sizes = {"context": context or USUAL[name]["context"], "vocabulary": vocab}
    if name == "mlp":
        sizes |= {"hidden_layers": depth or USUAL[name]["depth"]}
    else:
        sizes |= {"blocks": depth or USUAL[name]["depth"], "head_dimension": head_dimension or HEAD_DIMENSION}
    length = 1 if name == "mlp" else sizes["context"]
    if tokens and tokens > LARGEST * batch * length:
        raise DeriveError(f"--tokens {tokens:g} is more than {LARGEST:,} steps of {batch * length}; give fewer")
    conditions = {
        "model": name,
        "sizes": sizes,
        "optimizer": optimizer,
        "dtype": precision,
        "remat": remat,
        "batch": batch,
        "probe": probe,
        "steps": ceil(tokens / (batch * length)) if tokens else steps or STEPS,
        "rates": rates,
        "seeds": seeds,
        "memory": memory,
        "flops": flops or H100[precision],
        "utilisation": utilisation,
        "assumed": H100_SOURCE if flops is None else None,
    }
    growing = _growing("--widths", widths, "128,256,512")
    counts = _growing("--devices", devices, "8,64")
    text = _text(shown, conditions, growing, counts)
    if out is None:
        write_out(wrapped(text) if shown == "table" else text)
        return
    write_new(out, text)
    write_out(f"written to {out}\n")


def _text(shown: str, conditions: Document, widths: Sequence[int], counts: Sequence[int]) -> str:
    from derive.emit import dump
    from verify.planning.study import planned
    from verify.planning.text import contract, markdown, table

    plans = planned(conditions, widths, counts)
    if shown == "json":
        return dump(contract(conditions, plans))
    return (markdown if shown == "markdown" else table)(conditions, plans)


def _check_counts(least: float = 1, **given: float | None) -> None:
    """Raise DeriveError for the first option given that is not between `least` and what can still be counted."""
    for name, value in given.items():
        if value is not None and not least <= value <= LARGEST:
            option = f"--{name.replace('_', '-')}"
            unit = UNITS.get(name, "")
            raise DeriveError(f"{option} {value:g} is not allowed; give a number{unit} from {least:g} to {LARGEST:,}")


def _growing(option: str, text: str, example: str) -> list[int]:
    """Numbers from 1 on that grow; DeriveError otherwise."""
    numbers = read_numbers(option, text, int, example)
    if not all(1 <= number <= LARGEST for number in numbers) or any(b <= a for a, b in pairwise(numbers)):
        raise DeriveError(
            f"{option} {shorten(text)} is not allowed; list numbers from 1 to {LARGEST:,}, small to large"
        )
    return numbers
