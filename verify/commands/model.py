"""`verify prescribe` and `verify check`: the prescription for the user's own model, and whether it holds there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, check_positive, shorten
from derive.options import DECAY_HELP, KAPPA_HELP
from derive.terminal import wrapped
from verify.commands.check_depth import check_along_depth, refuse_others
from verify.commands.options import read_choice, read_numbers, write_out
from verify.commands.progress import Progress
from verify.files import make_folder

if TYPE_CHECKING:
    from verify.model.check.check import Check
    from verify.model.make import Make

ModelArgument = Annotated[
    str, typer.Argument(help="module:make, where make(width) returns (params, apply, inputs) or with a loss fourth.")
]
OptimizerOption = Annotated[str, typer.Option(help="A name of derive list, or one per kind: adam,hidden=muon.")]
ParameterizationOption = Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")]
AlignmentOption = Annotated[str, typer.Option(help="full, none, ... as in derive, or measured:FILE by dense op.")]
FrozenOption = Annotated[str, typer.Option(help="Paths that are not trained: base,blocks.*.norm.")]
ApartOption = Annotated[str, typer.Option(help="Matrices apart, by path=axis: *.query=1 for one per head, with muon.")]
ForwardOption = Annotated[
    bool,
    typer.Option("--forward-only", help="No parameter's gradient has its multiplier in it, as in unit scaling."),
]
FormatOption = Annotated[str, typer.Option("--format", help="table or json.")]
FrameworkOption = Annotated[str, typer.Option(help="jax, or torch: then module:build gives a torch.nn.Module.")]
ExampleOption = Annotated[
    str | None,
    typer.Option(
        help="With torch: what forward takes, module:function of the width, or shapes: 8x16<256,8xwidth.  "
        "[default: example beside build]"
    ),
]
LossFunctionOption = Annotated[
    str | None, typer.Option(help="With torch: module:function of (outputs, inputs).  [default: loss beside build]")
]
FRAMEWORKS = ("jax", "torch")
WIDTHS = "64,128,256,512"


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
    if base_depth is None and depth is None and depth_alignment != "full":
        raise DeriveError("--depth-alignment goes with --base-depth and --depth; give both")
    answer = prescribed(
        _load(model, framework, example, None),
        base_width=base_width,
        width=width,
        optimizer=optimizer,
        parameterization=parameterization,
        alignment=alignment,
        loss=read_choice("--loss", loss, LOSSES),  # type: ignore[arg-type]
        decay=decay,
        gauge=read_choice("--gauge", gauge, GAUGES),  # type: ignore[arg-type]
        frozen=_paths(frozen),
        apart=_axes(apart),
        forward_only=forward_only,
        base_depth=base_depth,
        depth=depth,
        depth_alignment=depth_alignment,
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


def _load(model: str, framework: str, example: str | None, loss: str | None) -> "Make":
    """make(width) as it was named; DeriveError for options that do not go together."""
    from verify.model.make import load_make

    if read_choice("--framework", framework, FRAMEWORKS) == "torch":
        from verify.torch.inputs import load_torch

        return load_torch(model, example, loss)
    if example is not None or loss is not None:
        raise DeriveError(
            "--example and --loss-function are for --framework torch; make(width) returns its inputs and loss"
        )
    return load_make(model)


def _paths(text: str) -> list[str]:
    return [each.strip() for each in text.split(",") if each.strip()]


def _axes(text: str) -> dict[str, int]:
    """Axes by path; DeriveError for what is not path=axis."""
    found: dict[str, int] = {}
    for each in _paths(text):
        path, _, axis = each.rpartition("=")
        if not path or not axis.isdigit():
            raise DeriveError(f"--apart takes path=axis, such as blocks.*.query=1; got {shorten(each)}")
        found[path] = int(axis)
    return found


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
    make = _load(model, framework, example, loss_function)
    given: Any = {
        "optimizer": optimizer,
        "parameterization": parameterization,
        "alignment": alignment,
        "loss": read_choice("--loss", loss, LOSSES),
        "decay": decay,
        "frozen": _paths(frozen),
        "apart": _axes(apart),
        "forward_only": forward_only,
    }
    if depths is not None:
        given |= {"depth_alignment": depth_alignment}
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
    content: dict[str, Any],
    besides: tuple[Any, str | None],
    out: Path | None,
    chosen: str,
    unseen: Sequence[str],
) -> None:
    """Write what was found, into the folder and to the terminal; `besides` are drifts and the user's own optimizer."""
    from derive.emit import dump
    from verify.commands.check_picture import changes_against_width
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
