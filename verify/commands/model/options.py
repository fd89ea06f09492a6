"""Options that `verify prescribe` and `verify check` share: the model, its prescription, and how it is loaded."""

from typing import TYPE_CHECKING, Annotated

import typer

from derive.errors import DeriveError, shorten
from verify.commands.options import read_choice

if TYPE_CHECKING:
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
ResidualOption = Annotated[
    str | None, typer.Option(help="With depth, delta of branches: wrap() puts in what the code lacks of N^-delta.")
]
FRAMEWORKS = ("jax", "torch")


def load(model: str, framework: str, example: str | None, loss: str | None) -> "Make":
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


def paths(text: str) -> list[str]:
    """The paths of a list with commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def axes(text: str) -> dict[str, int]:
    """Axes by path; DeriveError for what is not path=axis."""
    found: dict[str, int] = {}
    for each in paths(text):
        path, _, axis = each.rpartition("=")
        if not path or not axis.isdigit():
            raise DeriveError(f"--apart takes path=axis, such as blocks.*.query=1; got {shorten(each)}")
        found[path] = int(axis)
    return found
