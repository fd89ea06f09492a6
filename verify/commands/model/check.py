"""`verify check`: whether the user's own model scales as prescribed, and which parameter to change how."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import DECAY_HELP, KAPPA_HELP
from derive.terminal import wrapped
from verify.commands.model.check_depth import check_along_depth, refuse_others
from verify.commands.model.options import (
    AlignmentOption,
    ApartOption,
    ExampleOption,
    ForwardOption,
    FrameworkOption,
    FrozenOption,
    LossFunctionOption,
    ModelArgument,
    OptimizerOption,
    ParameterizationOption,
    ResidualOption,
    axes,
    load,
    paths,
)
from verify.commands.options import read_choice, read_numbers, write_out
from verify.commands.progress import Progress
from verify.files import make_folder
from verify.values import Document

if TYPE_CHECKING:
    from verify.model.check.check import Check

WIDTHS = "64,128,256,512"


def check(
    model: ModelArgument,
    widths: Annotated[
        str | None,
        typer.Option(help="Growing widths; the first is the base width.  [default: 64,128,256,512; along depth 64]"),
    ] = None,
    depths: Annotated[
        str | None, typer.Option(help="Growing depths of make(width, depth), at one width: 2,4,8,16.")
    ] = None,
    depth_alignment: Annotated[str, typer.Option(help=KAPPA_HELP)] = "full",
    residual: ResidualOption = None,
    optimizer: OptimizerOption = "adam",
    parameterization: ParameterizationOption = "mup",
    alignment: AlignmentOption = "full",
    seeds: Annotated[int, typer.Option(help="Networks per width.")] = 4,
    steps: Annotated[int, typer.Option(help="Training steps; measured at 1, 2, 5, 10, ...")] = 5,
    base_rate: Annotated[float | None, typer.Option(help="Learning rate at the base width.")] = None,
    drift_steps: Annotated[
        int | None, typer.Option(help="Also train this long over a grid of base rates, for how the best one drifts.")
    ] = None,
    own: Annotated[
        str | None, typer.Option(help="Your optimizer, module:transform: width -> optax transform. Is it right?")
    ] = None,
    decay: Annotated[str, typer.Option(help=DECAY_HELP)] = "independent",
    loss: Annotated[str, typer.Option(help="mse, or ce: with cross-entropy the logits may diverge.")] = "mse",
    frozen: FrozenOption = "",
    apart: ApartOption = "",
    forward_only: ForwardOption = False,
    framework: FrameworkOption = "jax",
    example: ExampleOption = None,
    loss_function: LossFunctionOption = None,
    measured: Annotated[
        Path | None, typer.Option(help="Train nothing: judge the CSV that the file of --format torch wrote.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for check.png, check.json and measured.json.")] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="table, json, or torch: a file that measures where training runs.")
    ] = "table",
) -> None:
    """The coordinate check of your own model, as it is and as prescribed; and which parameter to change how."""
    from derive.propagation import LOSSES
    from derive.registry import optimizers, spelled
    from verify.model.check.check import coordinate_check
    from verify.model.check.drift import rate_drift
    from verify.model.check.results import as_json
    from verify.model.make import build, load_make
    from verify.model.prescribe import prescribe as prescribed
    from verify.studies.study import check_widths
    from verify.training.rules.directions import check_trainable
    from verify.training.rules.usual import base_rate as usual_rate

    chosen = read_choice("--format", output_format, ("table", "json", "torch"))
    check_positive(seeds=seeds, steps=steps, base_rate=base_rate, drift_steps=drift_steps)
    if depths is None and depth_alignment != "full":
        raise DeriveError("--depth-alignment goes with --depths; give both")
    if depths is None and residual is not None:
        raise DeriveError("--residual goes with --depths; give both")
    if depths is not None:
        refuse_others({"drift_steps": drift_steps, "own": own, "measured": measured, "framework": framework})
    sizes = read_numbers("--widths", widths or WIDTHS, int, WIDTHS)
    if depths is None:
        check_widths(sizes)
    rules = {kind: spelled(row) for kind, row in optimizers(optimizer).items()}
    check_trainable(rules)
    rate = base_rate or usual_rate(*rules.values())
    if out is not None:
        make_folder(out)
        if (out / "check.json").exists():
            raise DeriveError(f"--out {shorten(str(out))} already holds a check; give another folder, or move that one")
    make = load(model, framework, example, loss_function)
    given: Any = {
        "optimizer": optimizer,
        "parameterization": parameterization,
        "alignment": alignment,
        "loss": read_choice("--loss", loss, LOSSES),
        "decay": decay,
        "frozen": paths(frozen),
        "apart": axes(apart),
        "forward_only": forward_only,
    }
    if depths is not None:
        given |= {"depth_alignment": depth_alignment, "residual": residual}
        trained = {"seeds": seeds, "steps": steps, "base_rate": rate}
        check_along_depth(model, make, widths, depths, trained=trained, out=out, shown=chosen, **given)
        return
    answer = prescribed(make, base_width=sizes[0], width=sizes[-1], **given)
    if chosen == "torch":
        if framework != "torch" or measured is not None:
            raise DeriveError("--format torch writes a file for --framework torch, and reads no --measured")
        from verify.torch.measured import check_as_torch

        beside = f"{model.partition(':')[0]}:loss" if getattr(make, "loss", None) is not None else None
        write_out(check_as_torch(answer, model, example, loss_function or beside, sizes, seeds, steps, rate))
        return
    if measured is not None:
        from verify.torch.measured import judge_measured

        if own is not None or drift_steps is not None:
            raise DeriveError("--measured trains nothing; leave out --own and --drift-steps")
        judged, inputs, unseen = judge_measured(answer, measured)
        _report(model, judged, as_json(model, inputs, judged, rate, None), (None, None), out, chosen, unseen)
        return
    transform = None if own is None else load_make(own)
    with Progress("training and measuring", len(sizes) * (1 if own is None else 2)) as bar:
        found: Check = coordinate_check(
            make,
            answer,
            sizes,
            base_rate=rate,
            seeds=seeds,
            steps=steps,
            transform=transform,
            progress=bar.advance,
        )
    drifts = None
    if drift_steps is not None:
        with Progress("training over base rates", 1) as bar:
            drifts = rate_drift(
                make, answer, sizes, base_rate=rate, seeds=seeds, steps=drift_steps, progress=bar.advance
            )
    inputs = build(make, sizes[0]).fingerprint(max(steps, drift_steps or 0))
    _report(model, found, as_json(model, inputs, found, rate, drifts), (drifts, own), out, chosen, [])


def _report(
    model: str,
    found: "Check",
    content: Document,
    besides: tuple[Any, str | None],
    out: Path | None,
    chosen: str,
    unseen: Sequence[str],
) -> None:
    """Write what was found, into the folder and to the terminal; `besides` are drifts and the user's own optimizer."""
    from derive.emit import dump
    from verify.commands.model.check_picture import changes_against_width
    from verify.model.check.results import as_text, measured_json

    answer = found.prescription
    if out is not None:
        (out / "check.json").write_text(dump(content), encoding="utf-8")
        (out / "measured.json").write_text(dump(measured_json(content, "prescribed")), encoding="utf-8")
        (out / "prescription.json").write_text(answer.to_json(), encoding="utf-8")
        changes_against_width(found, model).savefig(out / "check.png")
    text = as_text(model, found, content, *besides)
    if unseen:
        text += f"not measured, as no module of its own has it: {', '.join(unseen)}\n"
    write_out(dump(content) if chosen == "json" else wrapped(text))
