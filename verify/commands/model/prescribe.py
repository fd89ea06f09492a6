"""`verify prescribe`: the prescription for the user's own model."""

from pathlib import Path
from typing import Annotated

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import DECAY_HELP, KAPPA_HELP
from derive.terminal import wrapped
from verify.commands.model.options import (
    AlignmentOption,
    ApartOption,
    ExampleOption,
    ForwardOption,
    FrameworkOption,
    FrozenOption,
    ModelArgument,
    OptimizerOption,
    ParameterizationOption,
    ResidualOption,
    axes,
    load,
    paths,
)
from verify.commands.options import read_choice, write_out
from verify.files import make_folder


def prescribe(
    model: ModelArgument,
    base_width: Annotated[int, typer.Option(help="The width at which you tuned.")],
    width: Annotated[int, typer.Option(help="The width that you want.")],
    optimizer: OptimizerOption = "adam",
    parameterization: ParameterizationOption = "mup",
    alignment: AlignmentOption = "full",
    base_rate: Annotated[float | None, typer.Option(help="The rate tuned at the base width.")] = None,
    loss: Annotated[str, typer.Option(help="mse, or ce: with cross-entropy the logits may diverge.")] = "mse",
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent",
    gauge: Annotated[str, typer.Option(help="0: no multipliers; own: the parameterization's, by wrap().")] = "0",
    frozen: FrozenOption = "",
    apart: ApartOption = "",
    forward_only: ForwardOption = False,
    framework: FrameworkOption = "jax",
    example: ExampleOption = None,
    base_depth: Annotated[int | None, typer.Option(help="Blocks at which you tuned; make(width, depth).")] = None,
    depth: Annotated[int | None, typer.Option(help="Blocks that you want.")] = None,
    depth_alignment: Annotated[str, typer.Option(help=KAPPA_HELP)] = "full",
    residual: ResidualOption = None,
    every: Annotated[bool, typer.Option("--every", help="List every parameter, blocks that are alike too.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the prescription as JSON.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="File for the proof as JSON, which `derive certify FILE` checks.")
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, json, or torch: one file for where training runs.")
    ] = "table",
) -> None:
    """The prescription for your own model: every parameter's role, initial size, rate, epsilon and decay."""
    from derive.certificate_file import write
    from derive.propagation import LOSSES
    from verify.model.prescribe import prescribe as prescribed
    from verify.model.prescription import GAUGES
    from verify.model.text import table

    chosen = read_choice("--format", output_format, ("table", "json", "torch"))
    check_positive(base_width=base_width, width=width, base_rate=base_rate)
    if (base_depth is not None or depth is not None) and (framework != "jax" or chosen == "torch"):
        raise DeriveError("--depth is for make(width, depth) in JAX; leave it out with torch")
    if base_depth is None and depth is None:
        for option, given in (("--depth-alignment", depth_alignment != "full"), ("--residual", residual is not None)):
            if given:
                raise DeriveError(f"{option} goes with --base-depth and --depth; give both")
    answer = prescribed(
        load(model, framework, example, None),
        base_width=base_width,
        width=width,
        optimizer=optimizer,
        parameterization=parameterization,
        alignment=alignment,
        loss=read_choice("--loss", loss, LOSSES),  # type: ignore[arg-type]
        decay=decay,
        gauge=read_choice("--gauge", gauge, GAUGES),  # type: ignore[arg-type]
        frozen=paths(frozen),
        apart=axes(apart),
        forward_only=forward_only,
        base_depth=base_depth,
        depth=depth,
        depth_alignment=depth_alignment,
        residual=residual,
    )
    if certificate is not None and answer.proof is not None:
        write(answer.proof, certificate)
    if out is not None:
        make_folder(out.parent)
        if out.exists():
            raise DeriveError(f"--out {shorten(str(out))} exists already; give another file, or move that one")
        out.write_text(answer.to_json(), encoding="utf-8")
    if chosen == "torch":
        from verify.torch.emit import as_torch

        write_out(as_torch(answer))
        return
    write_out(answer.to_json() if chosen == "json" else wrapped(table(answer, base_rate, every)))
