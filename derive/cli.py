"""The `derive` command."""

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.help_text import HELP_OPTIONS, App, Commands, examples
from derive.options import (
    BETAS_HELP,
    DECAY_HELP,
    KAPPA_HELP,
    RESIDUAL_HELP,
    AlignmentOption,
    AOption,
    BOption,
    CertificateOption,
    ClipOption,
    EpsilonOption,
    ForwardOption,
    GaugeOption,
    GlobalOption,
    LayersOption,
    LossOption,
    OptimizerOption,
    ParameterizationOption,
    RankOption,
    StandaloneOption,
    UpdateOption,
    VersionOption,
    check_width,
    choice,
    read_batch,
    read_depth,
    read_match,
    read_positive,
    read_problem,
    read_scale,
)
from derive.running import run
from derive.streams import prepare

app = App(
    name="derive",
    help="Exact width-scaling exponents for any optimizer, parameterization and alignment.",
    epilog=examples(
        "derive --optimizer adam --parameterization sp --alignment full --explain",
        "derive --base-width 256 --width 4096 --base-rate 3e-3",
        "derive --update 'm/(sqrt(v)+eps)' --explain",
        "derive --optimizer adam,hidden=muon --parameterization mup",
        "derive table",
        "derive check --c=0,1/2,1",
    ),
    cls=Commands,
    no_args_is_help=False,
    add_completion=True,
    context_settings=HELP_OPTIONS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def prescription(
    context: typer.Context,
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    parameterization: ParameterizationOption = None,
    a: AOption = None,
    b: BOption = None,
    gauge: GaugeOption = None,
    alignment: AlignmentOption = "full",
    layers: LayersOption = None,
    loss: LossOption = "mse",
    global_rate: GlobalOption = False,
    clip_global_norm: ClipOption = False,
    forward_only: ForwardOption = False,
    epsilon: EpsilonOption = "scaled",
    rank: RankOption = None,
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent",
    base_width: Annotated[int | None, typer.Option(help="The width at which you tuned.")] = None,
    width: Annotated[int | None, typer.Option(help="The width that you want.")] = None,
    base_rate: Annotated[float | None, typer.Option(help="The learning rate tuned at the base width.")] = None,
    match: Annotated[
        str | None, typer.Option(help="adamw: --base-rate was tuned with AdamW, and Muon's on hidden layers follows.")
    ] = None,
    base_depth: Annotated[int | None, typer.Option(help="Residual blocks at which you tuned.")] = None,
    depth: Annotated[int | None, typer.Option(help="Residual blocks that you want.")] = None,
    residual: Annotated[str | None, typer.Option(help=RESIDUAL_HELP)] = None,
    depth_alignment: Annotated[str, typer.Option(help=KAPPA_HELP)] = "full",
    base_batch: Annotated[int | None, typer.Option(help="Examples a step at which you tuned.")] = None,
    batch: Annotated[int | None, typer.Option(help="Examples a step that you want.")] = None,
    base_tokens: Annotated[int | None, typer.Option(help="Tokens of the run that you tuned.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of the run that you want.")] = None,
    horizon: Annotated[str | None, typer.Option(help="none: nothing moves with tokens; sde: all as B/T.")] = None,
    betas: Annotated[str, typer.Option(help=BETAS_HELP)] = "published",
    output_format: Annotated[
        str, typer.Option("--format", help="table, json, csv, markdown, latex, python, optax, torch, javascript.")
    ] = "table",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the derivation (with --format latex: as LaTeX).")
    ] = False,
    standalone: StandaloneOption = False,
    certificate: CertificateOption = None,
    version: VersionOption = False,  # noqa: ARG001
) -> None:
    """Derive a prescription: the largest stable per-layer learning rates and all that goes with them."""
    if context.invoked_subcommand is not None:
        if any(argument.startswith("--") for argument in _before(context.invoked_subcommand)):
            name = context.invoked_subcommand
            raise DeriveError(f"options stand after the sub-command: derive {name} --option ...")
        return
    from dataclasses import replace

    from derive import emit
    from derive.decays import read_decay
    from derive.solve import solve, solve_kinds

    problem = read_problem(
        optimizer,
        update,
        parameterization,
        a,
        b,
        gauge,
        alignment,
        layers,
        loss,
        global_rate,
        clip_global_norm,
        epsilon,
        rank,
        forward_only,
    )
    convention = read_decay(decay)
    axes = (
        *read_depth(problem.optimizers, residual, depth_alignment, base_depth, depth, convention),
        *read_batch(problem.optimizers, betas, horizon, (base_batch, batch), (base_tokens, tokens), convention),
    )
    scale = read_scale(base_width, width, base_rate, axes)
    chosen = choice("--format", output_format, tuple(emit.FORMATS))
    scale = read_match(match, problem.optimizers, scale, chosen)
    if chosen in emit.CODE and gauge is None and a is None:
        problem = replace(problem, parameterization=problem.parameterization.gauge_free())
    listed = layers is not None or problem.alignment.hidden_layers is not None or problem.alignment.layers
    answer = replace((solve if listed else solve_kinds)(problem, convention), axes=axes)
    if certificate is not None:
        from derive import certificate_file

        if answer.certificate is None:
            raise DeriveError("--certificate needs numbers, and symbols are left in this answer; give each a number")
        certificate_file.write(answer.certificate, certificate)
    if not explain:
        _show(_document(emit.FORMATS[chosen](answer, scale), chosen, standalone, emit.title(answer)), chosen)
        return
    from derive import explain as explanation

    writers = {"table": explanation.as_text, "latex": explanation.as_latex}
    if chosen not in writers:
        raise DeriveError(f"--explain with --format {chosen} is not offered; use --format table or latex")
    told = writers[chosen](answer) + ("\n" + emit.as_table(answer, scale) if chosen == "table" else "")
    _show(_document(told, chosen, standalone), chosen)


def _document(text: str, output_format: str, standalone: bool, heading: str = "") -> str:
    """The answer, as a document of its own where that is asked for; DeriveError where it is no LaTeX."""
    if not standalone:
        return text
    if output_format != "latex":
        raise DeriveError(f"--standalone makes a LaTeX document, and --format is {output_format}; give --format latex")
    from derive.emit_latex import standalone as document

    return document(text, heading)


def _before(command: str) -> list[str]:
    arguments = sys.argv[1:]
    return arguments[: arguments.index(command)] if command in arguments else []


@app.command(epilog=examples("derive table --optimizer adam --alignment full"))
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
        _show(_document(axis_tables.axis_table(along, rows, chosen), chosen, standalone), chosen)
        return
    problems = [
        [
            read_problem(optimizer=row, parameterization=scheme, alignment=assumed, layers=layers)
            for row in optimizer or ["sgd", "adam", "adafactor"]
            for assumed in alignment or ["full", "none"]
        ]
        for scheme in ("sp", "ntk", "mup", "mfp")
    ]
    _show(_document(tables.FORMATS[chosen](problems, layers is not None), chosen, standalone), chosen)


@app.command(epilog=examples("derive constraints --optimizer sgd"))
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
    _show(_document(tables.CONSTRAINT_FORMATS[chosen](problem.optimizers), chosen, standalone), chosen)


@app.command(epilog=examples("derive equivalent sp mup --optimizer adam"))
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
    _show(tables.equivalence(custom(first), custom(second), problem.optimizers, chosen), chosen)


@app.command(epilog=examples("derive check --c=0,1/2,1 --optimizer adam"))
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
    _show(tables.checked_rates(problem, rates, chosen, listed=layers is not None), chosen)


@app.command(epilog=examples("derive --certificate proof.json", "derive certify proof.json"))
def certify(
    file: Annotated[Path, typer.Argument(help="What derive --certificate, or verify prescribe --certificate, wrote.")],
) -> None:
    """Check a certificate by exact arithmetic alone: that it holds, or what fails."""
    from derive import certificate_file

    _show(certificate_file.certify(file) + "\n", "table")


@app.command(name="epsilon", epilog=examples("derive epsilon --value 1e-8 --base-width 256 --gradient-rms 1e-4"))
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
    _show(tables.epsilon_onsets(found, value, base_width, chosen), chosen)


@app.command(name="list", epilog=examples("derive list optimizers"))
def list_command(
    what: Annotated[str, typer.Argument(help="optimizers, parameterizations, alignments or rules")] = "optimizers",
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """What is known: optimizers with their rules, parameterizations, alignments; or how to write a rule."""
    from derive import tables

    listing = choice("list", what, tuple(tables.LISTS))
    chosen = choice("--format", output_format, ("table", "json"))
    _show(tables.listing(listing, chosen), chosen)


def _show(text: str, output_format: str) -> None:
    """Write an answer; a table's long lines are wrapped at the terminal's width, and nothing else is touched."""
    from derive.terminal import wrapped

    _write(wrapped(text) if output_format == "table" else text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    """Entry point of the `derive` command."""
    prepare("derive")
    gc.disable()  # a short process: collecting garbage while sympy loads would cost a tenth of its start
    code = run(lambda: app(prog_name="derive", standalone_mode=False), "derive")
    try:
        if sys.stdout is not None:
            sys.stdout.close()
    except OSError:
        sys.stdout = None  # type: ignore[assignment]
    raise SystemExit(code)
