"""The options of `derive` and what they mean: each declared once, read into a problem, a scale and axes.

Nothing of sympy is loaded before an option is read, so that help is quick.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from derive.errors import DeriveError, canonical, check_positive, shorten, unknown_name

if TYPE_CHECKING:
    from sympy import Rational

    from derive.axes import Axis
    from derive.propagation import Optimizers, Problem
    from derive.scale import Scale

MAX_LAYERS = 10_000
MAX_WIDTH = 10**12
MAX_DEPTH = 10**6
MAX_TOKENS = 10**18

DECAY_HELP = "Decoupled decay: independent, sqrt, constant, or a power n^-1 that rate x lambda goes with."

RESIDUAL_HELP = "Branch multiplier N^-delta: depth-mup (1/2), completep (1), delta; init:delta where drawn smaller."
KAPPA_HELP = "How N blocks' changes add up, N^kappa: full (1), none (1/2) or kappa."
BETAS_HELP = "1 - beta along the batch: scaled, constant, or published: scaled where it leaves the rate."

OptimizerOption = Annotated[
    str | None,
    typer.Option(
        help="A name of `derive list`, a rule as in --update, or one per layer kind: adam,hidden=muon.  [default: adam]"
    ),
]
UpdateOption = Annotated[
    str | None, typer.Option(help="An update rule of your own, such as 'm/(sqrt(v)+eps)'; see `derive list rules`.")
]
ParameterizationOption = Annotated[
    str | None, typer.Option(help="sp, ntk, mup or mfp.  [default: mup without multipliers]")
]
AOption = Annotated[str | None, typer.Option("--a", help="Multiplier exponents embedding,hidden,readout: --a=0,0,1")]
BOption = Annotated[str | None, typer.Option("--b", help="Initialisation exponents, with --a: --b=0,1/2,0")]
GaugeOption = Annotated[str | None, typer.Option(help="Shift every multiplier to this exponent: 0 needs none.")]
AlignmentOption = Annotated[
    str,
    typer.Option(help="full, none, prior, alpha=0.8,readout.omega=1, none,hidden.3.u=x, or measured:FILE.json."),
]
LayersOption = Annotated[int | None, typer.Option(help="List this many hidden layers one by one.")]
LossOption = Annotated[str, typer.Option(help="mse, or ce: with cross-entropy the logits may diverge.")]
GlobalOption = Annotated[bool, typer.Option("--global-rate", help="One learning rate for all layers.")]
ClipOption = Annotated[bool, typer.Option("--clip-global-norm", help="Gradients are clipped by their global norm.")]
ForwardOption = Annotated[
    bool, typer.Option("--forward-only", help="No weight's gradient has its multiplier in it, as in unit scaling.")
]
EpsilonOption = Annotated[str, typer.Option(help="scaled: eps carries its exponent; constant: it does not.")]
CertificateOption = Annotated[
    Path | None, typer.Option(help="File for the proof as JSON, which `derive certify FILE` checks.")
]
StandaloneOption = Annotated[
    bool, typer.Option("--standalone", help="With --format latex: a whole document, ready to compile.")
]
RankOption = Annotated[
    str | None,
    typer.Option(
        help="The gradient's rank on hidden layers, for rules that depend on it: one (a fixed batch), full (a batch "
        "beyond the width), or beta of n^beta.  [default: the one of the smallest rate]"
    ),
]


def show_version(wanted: bool) -> None:
    """Print the version of both commands and leave."""
    if wanted:
        from derive import __version__

        sys.stdout.write(f"{__version__}\n")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]


Name = TypeVar("Name", bound=str)


def choice(what: str, given: str, allowed: tuple[Name, ...]) -> Name:
    """The one of the allowed names that is given, however it is spelled; DeriveError for another."""
    for name in allowed:
        if canonical(name) == canonical(given):
            return name
    raise unknown_name(what, given, allowed)


def read_problem(
    optimizer: str | None = None,
    update: str | None = None,
    parameterization: str | None = None,
    a: str | None = None,
    b: str | None = None,
    gauge: str | None = None,
    alignment: str = "full",
    layers: int | None = None,
    loss: str = "mse",
    global_rate: bool = False,
    clip_global_norm: bool = False,
    epsilon: str = "scaled",
    rank: str | None = None,
    forward_only: bool = False,
) -> "Problem":
    """What is asked, from the options by their names; DeriveError for what does not go together."""
    from dataclasses import replace

    from derive import alignments, optimizers, parameterizations, propagation, registry
    from derive.parsing import parse_number, parse_triple

    if update is not None and optimizer is not None:
        raise DeriveError("--optimizer and --update are both given; keep the one to derive for")
    rows: propagation.Optimizers
    if update is not None:
        rows = registry.optimizers(optimizers.Optimizer("custom", update))
    else:
        rows = registry.optimizers("adam" if optimizer is None else optimizer)
    if choice("--epsilon", epsilon, ("scaled", "constant")) == "constant":
        rows = {kind: replace(row, scaled_epsilon=False) for kind, row in rows.items()}
    if rank is not None:
        rows = {kind: replace(row, rank=read_rank(rank)) for kind, row in rows.items()}
    if (a is None) != (b is None):
        raise DeriveError("--a and --b belong together; give both, or --parameterization")
    if a is not None and b is not None:
        if parameterization is not None:
            raise DeriveError("--parameterization and --a, --b are both given; keep one of them")
        scheme = parameterizations.Parameterization("custom", parse_triple(a, "--a"), parse_triple(b, "--b"))
    elif parameterization is None:
        scheme = parameterizations.DEFAULT
    else:
        scheme = parameterizations.parameterization(parameterization)
    if gauge is not None:
        scheme = scheme.gauge(parse_number(gauge, "--gauge"))
    assumed = alignments.alignment(alignment)
    if layers is not None and not 0 <= layers <= MAX_LAYERS:
        raise DeriveError(f"--layers {layers} is not allowed; give a number from 0 to {MAX_LAYERS}")
    return propagation.Problem(
        optimizers=rows,
        parameterization=scheme,
        alignment=assumed,
        hidden_layers=count_hidden_layers(layers, assumed),
        loss=choice("--loss", loss, propagation.LOSSES),
        global_rate=global_rate,
        clip_global_norm=clip_global_norm,
        forward_only=forward_only,
    )


def read_rank(given: str) -> "Rational":
    """beta of a gradient of rank n^beta."""
    from sympy import S

    from derive.parsing import parse_number

    named = {"one": S.Zero, "full": S.One}.get(canonical(given))
    if named is not None:
        return named
    beta = parse_number(given, "--rank")
    if not 0 <= beta <= 1:
        raise DeriveError(f"--rank {shorten(given)} is not allowed; give one, full, or beta from 0 to 1")
    return beta


def count_hidden_layers(layers: int | None, alignment: Any) -> int:
    """As many as are asked for, or as the alignments were measured on, or 1."""
    if layers is None:
        return alignment.hidden_layers or 1
    if alignment.hidden_layers not in (None, layers):
        raise DeriveError(
            f"--layers {layers} given, but the alignments were measured on {alignment.hidden_layers} hidden layers; "
            "leave --layers out"
        )
    return layers


def read_scale(
    base_width: int | None, width: int | None, base_rate: float | None, axes: "tuple[Axis, ...]"
) -> "Scale | None":
    """The sizes to give numbers at; None where none are asked for."""
    from derive.scale import Scale

    sized = any(axis.sizes is not None for axis in axes)
    if base_width is None and width is None and not sized:
        if base_rate is not None:
            raise DeriveError("--base-rate needs --base-width and --width; give the widths as well")
        return None
    if (base_width is None) != (width is None):
        raise DeriveError("--base-width and --width belong together; give both")
    if base_width is not None and width is not None:
        check_width("--base-width", base_width)
        check_width("--width", width)
        if width < base_width:
            raise DeriveError(
                f"--width {width} is below --base-width {base_width}, where the rate was tuned; swap them"
            )
    if base_rate is not None:
        check_positive(base_rate=base_rate)
    return Scale(base_width, width, base_rate)


def read_match(
    match: str | None, optimizers: "Optimizers", scale: "Scale | None", output_format: str
) -> "Scale | None":
    """The scale with the layer kinds whose rates are matched to AdamW's; DeriveError where that means nothing."""
    from dataclasses import replace

    from derive.scale import MATCHED

    if match is None:
        return scale
    choice("--match", match, ("adamw",))
    rules = {kind: row.name for kind, row in optimizers.items() if row.name in MATCHED}
    if [*rules] != ["hidden"]:
        raise DeriveError(
            "--match adamw takes the rate of Muon on hidden layers from AdamW's; give --optimizer adamw,hidden=muon"
        )
    if scale is None or scale.base_width is None:
        raise DeriveError("--match adamw goes by the base width; give --base-width, --width and AdamW's --base-rate")
    if output_format in ("python", "optax", "javascript"):
        raise DeriveError(
            f"--match adamw is for tables and --format torch; multiply Muon's rate yourself in {output_format}"
        )
    return replace(scale, matched=rules)


def read_depth(
    optimizers: "Optimizers", residual: str | None, kappa: str, base: int | None, target: int | None, decay: str
) -> "list[Axis]":
    """The depth axis where it was asked for."""
    from derive.axes import read_sizes
    from derive.depth import depth_axis, read_kappa, read_residual

    sizes = read_sizes("depth", base, target, MAX_DEPTH)
    if residual is None:
        if sizes is not None or canonical(kappa) != "full":
            raise DeriveError(
                "--depth needs --residual: how your model scales a branch, h + N^-delta f(h); give depth-mup (1/2), "
                "completep (1), delta, or init:delta"
            )
        return []
    if sizes is not None and sizes[0] > sizes[1]:
        raise DeriveError(f"--base-depth {sizes[0]} is above --depth {sizes[1]}; tune on the shallower network")
    return [depth_axis(optimizers, read_residual(residual), read_kappa(kappa), decay, sizes)]


def read_batch(
    optimizers: "Optimizers",
    betas: str,
    horizon: str | None,
    batches: tuple[int | None, int | None],
    tokens: tuple[int | None, int | None],
    decay: str,
) -> "list[Axis]":
    """The axes of batch and tokens where they were asked for."""
    from derive.axes import read_sizes
    from derive.batch import BETAS, HORIZONS, Betas, Horizon, batch_axis, tokens_axis

    batch_sizes = read_sizes("batch", *batches, MAX_WIDTH)
    token_sizes = read_sizes("tokens", *tokens, MAX_TOKENS)
    known: Betas = choice("--betas", betas, BETAS)
    assumed: Horizon = choice("--horizon", "none" if horizon is None else horizon, HORIZONS)
    wanted = None if horizon is None and token_sizes is None else assumed
    if batch_sizes is None and wanted is None:
        if known != "published":
            raise DeriveError("--betas says how they go with the batch; give --base-batch and --batch as well")
        return []
    along_batch = batch_axis(optimizers, known, decay, batch_sizes)
    found = [] if batch_sizes is None else [along_batch]
    if wanted is not None:
        found.append(tokens_axis(along_batch, wanted, token_sizes))
    return found


def check_width(option: str, width: int) -> None:
    """DeriveError for what is no width."""
    if not 1 <= width <= MAX_WIDTH:
        raise DeriveError(f"{option} {width} is not a width; give a whole number from 1 to {MAX_WIDTH}")


def read_positive(option: str, text: str) -> float:
    """A finite number above 0; DeriveError for anything else."""
    try:
        value = float(text)
    except ValueError:
        raise DeriveError(f"{option} {shorten(text)} is not a number; give one such as 1e-4") from None
    check_positive(**{option.removeprefix("--"): value})
    return value
