"""The `derive` command."""

import gc
import sys
from typing import Annotated

import typer

from derive import questions
from derive.errors import DeriveError
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
    choice,
    read_batch,
    read_depth,
    read_match,
    read_problem,
    read_scale,
)
from derive.questions import document, show
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
        show(document(emit.FORMATS[chosen](answer, scale), chosen, standalone, emit.title(answer)), chosen)
        return
    from derive import explain as explanation

    writers = {"table": explanation.as_text, "latex": explanation.as_latex}
    if chosen not in writers:
        raise DeriveError(f"--explain with --format {chosen} is not offered; use --format table or latex")
    told = writers[chosen](answer) + ("\n" + emit.as_table(answer, scale) if chosen == "table" else "")
    show(document(told, chosen, standalone), chosen)


def _before(command: str) -> list[str]:
    arguments = sys.argv[1:]
    return arguments[: arguments.index(command)] if command in arguments else []


app.command(epilog=examples("derive table --optimizer adam --alignment full"))(questions.table)
app.command(epilog=examples("derive constraints --optimizer sgd"))(questions.constraints)
app.command(epilog=examples("derive equivalent sp mup --optimizer adam"))(questions.equivalent)
app.command(epilog=examples("derive check --c=0,1/2,1 --optimizer adam"))(questions.check)
app.command(epilog=examples("derive --certificate proof.json", "derive certify proof.json"))(questions.certify)
app.command(name="epsilon", epilog=examples("derive epsilon --value 1e-8 --base-width 256 --gradient-rms 1e-4"))(
    questions.epsilon_command
)
app.command(name="list", epilog=examples("derive list optimizers"))(questions.list_command)


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
