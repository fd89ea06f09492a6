"""The sub-commands of `derive`: tables, constraints, equivalence, checks of one's own rates, and lists."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import (
    AlignmentOption,
    AOption,
    BOption,
    ClipOption,
    EpsilonOption,
    ForwardOption,
    LayersOption,
    LossOption,
    OptimizerOption,
    ParameterizationOption,
    RankOption,
    StandaloneOption,
    UpdateOption,
    check_width,
    choice,
    read_positive,
    read_problem,
)


def table(
    layers: LayersOption = None,
    optimizer: Annotated[
        list[str] | None, typer.Option(help="Repeat for several.  [default: sgd, adam, adafactor]")
    ] = None,
    alignment: Annotated[list[str] | None, typer.Option(help="Repeat for several.  [default: full, none]")] = None,
    axis: Annotated[str | None, typer.Option(help="depth or batch, instead of the width.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv, markdown or latex.")] = "table",
    standalone: StandaloneOption = False,
) -> None:
    """The paper's whole table: four parameterizations, three optimizers, two alignments; all derived.

    With --axis depth or batch: what every optimizer's settings do along that axis.
    """
    from derive import tables

    chosen = choice("--format", output_format, tuple(tables.FORMATS))
    if axis is not None:
        from derive import axis_tables, registry

        if alignment is not None or layers is not None:
            raise DeriveError("--axis is a table by optimizer alone; leave out --alignment and --layers")
        along = choice("--axis", axis, tuple(axis_tables.TABLES))
        rows = registry.REGISTRY if optimizer is None else [registry.optimizer(name) for name in optimizer]
        show(document(axis_tables.axis_table(along, rows, chosen), chosen, standalone), chosen)
        return
    problems = [
        [
            read_problem(optimizer=row, parameterization=scheme, alignment=assumed, layers=layers)
            for row in optimizer or ["sgd", "adam", "adafactor"]
            for assumed in alignment or ["full", "none"]
        ]
        for scheme in ("sp", "ntk", "mup", "mfp")
    ]
    show(document(tables.FORMATS[chosen](problems, layers is not None), chosen, standalone), chosen)


def constraints(
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    epsilon: EpsilonOption = "scaled",
    output_format: Annotated[str, typer.Option("--format", help="table, json, markdown or latex.")] = "table",
    standalone: StandaloneOption = False,
) -> None:
    """The stability constraints for an optimizer, with a, b, c and the alignments as symbols."""
    from derive import tables

    problem = read_problem(optimizer=optimizer, update=update, epsilon=epsilon)
    chosen = choice("--format", output_format, tuple(tables.CONSTRAINT_FORMATS))
    show(document(tables.CONSTRAINT_FORMATS[chosen](problem.optimizers), chosen, standalone), chosen)


def equivalent(
    first: Annotated[str, typer.Argument(help="sp, ntk, mup, mfp, mup-package, or a=0,0,1;b=0,1/2,0")],
    second: Annotated[str, typer.Argument(help="the same")],
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    epsilon: EpsilonOption = "scaled",
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """Whether two parameterizations train alike, with the shift of every layer or the layer that differs."""
    from derive import tables
    from derive.parameterizations import custom

    problem = read_problem(optimizer=optimizer, update=update, epsilon=epsilon)
    chosen = choice("--format", output_format, ("table", "json"))
    show(tables.equivalence(custom(first), custom(second), problem.optimizers, chosen), chosen)


def check(
    c: Annotated[str, typer.Option("--c", help="Your learning-rate exponents, embedding,hidden,readout: --c=0,1,1")],
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    parameterization: ParameterizationOption = None,
    a: AOption = None,
    b: BOption = None,
    alignment: AlignmentOption = "full",
    layers: LayersOption = None,
    loss: LossOption = "mse",
    clip_global_norm: ClipOption = False,
    forward_only: ForwardOption = False,
    epsilon: EpsilonOption = "scaled",
    rank: RankOption = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """What your own rates do: the residual of every layer, and what diverges or freezes."""
    from derive import tables
    from derive.parsing import parse_expression

    problem = read_problem(
        optimizer,
        update,
        parameterization,
        a,
        b,
        None,
        alignment,
        layers,
        loss,
        False,
        clip_global_norm,
        epsilon,
        rank,
        forward_only,
    )
    rates = [parse_expression(part, "--c") for part in c.split(",")]
    if len(rates) == 3:
        rates = [rates[0], *[rates[1]] * problem.hidden_layers, rates[2]]
    if len(rates) != problem.hidden_layers + 2:
        raise DeriveError(f"--c {shorten(c)} has {len(rates)} entries; give three, or one per layer with --layers")
    chosen = choice("--format", output_format, ("table", "json"))
    show(tables.checked_rates(problem, rates, chosen, listed=layers is not None), chosen)


def certify(
    file: Annotated[Path, typer.Argument(help="What derive --certificate, or verify prescribe --certificate, wrote.")],
) -> None:
    """Check a certificate by exact arithmetic alone: that it holds, or what fails."""
    from derive import certificate_file

    show(certificate_file.certify(file) + "\n", "table")


def epsilon_command(
    value: Annotated[float, typer.Option(help="The constant epsilon, such as 1e-8.")],
    base_width: Annotated[int, typer.Option(help="The width at which the gradients were measured.")],
    gradient_rms: Annotated[
        str, typer.Option(help="RMS of the gradients there: one number, or embedding,hidden,readout.")
    ],
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    parameterization: ParameterizationOption = None,
    a: AOption = None,
    b: BOption = None,
    fixed_fan: Annotated[
        int | None, typer.Option(help="Size of the dimension that does not grow, for rules that need it.")
    ] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """The width at which a constant epsilon starts to bite, per layer."""
    from derive import tables
    from derive.epsilon import onsets

    check_positive(value=value)
    check_width("--base-width", base_width)
    if fixed_fan is not None:
        check_width("--fixed-fan", fixed_fan)
    sizes = [read_positive("--gradient-rms", part) for part in gradient_rms.split(",")]
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3:
        raise DeriveError(f"--gradient-rms {shorten(gradient_rms)} has {len(sizes)} entries; give one, or three")
    problem = read_problem(optimizer, update, parameterization, a, b)
    found = onsets(problem, value, base_width, (sizes[0], sizes[1], sizes[2]), fixed_fan)
    chosen = choice("--format", output_format, ("table", "json"))
    show(tables.epsilon_onsets(found, value, base_width, chosen), chosen)


def list_command(
    what: Annotated[str, typer.Argument(help="optimizers, parameterizations, alignments or rules")] = "optimizers",
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """What is known: optimizers with their rules, parameterizations, alignments; or how to write a rule."""
    from derive import tables

    listing = choice("list", what, tuple(tables.LISTS))
    chosen = choice("--format", output_format, ("table", "json"))
    show(tables.listing(listing, chosen), chosen)


def document(text: str, output_format: str, standalone: bool, heading: str = "") -> str:
    """The answer, as a document of its own where that is asked for; DeriveError where it is no LaTeX."""
    if not standalone:
        return text
    if output_format != "latex":
        raise DeriveError(f"--standalone makes a LaTeX document, and --format is {output_format}; give --format latex")
    from derive.emit_latex import standalone as whole

    return whole(text, heading)


def show(text: str, output_format: str) -> None:
    """Write an answer; a table's long lines are wrapped at the terminal's width, and nothing else is touched."""
    from derive.terminal import wrapped

    _write(wrapped(text) if output_format == "table" else text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
