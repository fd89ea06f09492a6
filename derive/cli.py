"""The `derive` command."""

import gc
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.help_text import HELP_OPTIONS, Commands, examples
from derive.streams import complain, prepare

if TYPE_CHECKING:
    from sympy import Rational

    from derive.axes import Axis
    from derive.propagation import Optimizers, Problem
    from derive.scale import Scale

MAX_LAYERS = 10_000
MAX_WIDTH = 10**12
MAX_DEPTH = 10**6
MAX_TOKENS = 10**18

app = typer.Typer(
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

LONGEST_QUOTE = 200
"""Of what was given, in an error's one line."""
LONGEST_USAGE = 400
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

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
ParameterizationOption = Annotated[str | None, typer.Option(help="sp, ntk, mup or mfp.  [default: sp]")]
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

        _write(f"{__version__}\n")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
]
FormatOption = Annotated[str, typer.Option(help="table, json, csv, markdown, latex, python, optax or torch.")]


Name = TypeVar("Name", bound=str)


def _choice(what: str, given: str, allowed: tuple[Name, ...]) -> Name:
    for name in allowed:
        if canonical(name) == canonical(given):
            return name
    raise unknown_name(what, given, allowed)


def _problem(
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
    if _choice("--epsilon", epsilon, ("scaled", "constant")) == "constant":
        rows = {kind: replace(row, scaled_epsilon=False) for kind, row in rows.items()}
    if rank is not None:
        rows = {kind: replace(row, rank=_rank(rank)) for kind, row in rows.items()}
    if (a is None) != (b is None):
        raise DeriveError("--a and --b belong together; give both, or --parameterization")
    if a is not None and b is not None:
        if parameterization is not None:
            raise DeriveError("--parameterization and --a, --b are both given; keep one of them")
        scheme = parameterizations.Parameterization("custom", parse_triple(a, "--a"), parse_triple(b, "--b"))
    else:
        scheme = parameterizations.parameterization("sp" if parameterization is None else parameterization)
    if gauge is not None:
        scheme = scheme.gauge(parse_number(gauge, "--gauge"))
    assumed = alignments.alignment(alignment)
    if layers is not None and not 0 <= layers <= MAX_LAYERS:
        raise DeriveError(f"--layers {layers} is not allowed; give a number from 0 to {MAX_LAYERS}")
    return propagation.Problem(
        optimizers=rows,
        parameterization=scheme,
        alignment=assumed,
        hidden_layers=_hidden_layers(layers, assumed),
        loss=_choice("--loss", loss, propagation.LOSSES),
        global_rate=global_rate,
        clip_global_norm=clip_global_norm,
        forward_only=forward_only,
    )


def _rank(given: str) -> "Rational":
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


def _hidden_layers(layers: int | None, alignment: Any) -> int:
    if layers is None:
        return alignment.hidden_layers or 1
    if alignment.hidden_layers not in (None, layers):
        raise DeriveError(
            f"--layers {layers} given, but the alignments were measured on {alignment.hidden_layers} hidden layers; "
            "leave --layers out"
        )
    return layers


def _scale(
    base_width: int | None, width: int | None, base_rate: float | None, axes: "tuple[Axis, ...]"
) -> "Scale | None":
    from derive.scale import Scale

    sized = any(axis.sizes is not None for axis in axes)
    if base_width is None and width is None and not sized:
        if base_rate is not None:
            raise DeriveError("--base-rate needs --base-width and --width; give the widths as well")
        return None
    if (base_width is None) != (width is None):
        raise DeriveError("--base-width and --width belong together; give both")
    if base_width is not None and width is not None:
        _check_width("--base-width", base_width)
        _check_width("--width", width)
    if base_rate is not None:
        _check_positive("--base-rate", base_rate)
    return Scale(base_width, width, base_rate)


def _depth(
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


def _batch(
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
    known: Betas = _choice("--betas", betas, BETAS)
    assumed: Horizon = _choice("--horizon", "none" if horizon is None else horizon, HORIZONS)
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


def _check_width(option: str, width: int) -> None:
    if not 1 <= width <= MAX_WIDTH:
        raise DeriveError(f"{option} {width} is not a width; give a whole number from 1 to {MAX_WIDTH}")


def _check_positive(option: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise DeriveError(f"{option} {value} is not allowed; give a finite number above 0")


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
        str, typer.Option("--format", help="table, json, csv, markdown, latex, python, optax, torch.")
    ] = "table",
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the derivation (with --format latex: as LaTeX).")
    ] = False,
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

    problem = _problem(
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
        *_depth(problem.optimizers, residual, depth_alignment, base_depth, depth, convention),
        *_batch(problem.optimizers, betas, horizon, (base_batch, batch), (base_tokens, tokens), convention),
    )
    scale = _scale(base_width, width, base_rate, axes)
    chosen = _choice("--format", output_format, tuple(emit.FORMATS))
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
        _show(emit.FORMATS[chosen](answer, scale), chosen)
        return
    from derive import explain as explanation

    writers = {"table": explanation.as_text, "latex": explanation.as_latex}
    if chosen not in writers:
        raise DeriveError(f"--explain with --format {chosen} is not offered; use --format table or latex")
    _show(writers[chosen](answer) + ("\n" + emit.as_table(answer, scale) if chosen == "table" else ""), chosen)


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
) -> None:
    """The paper's whole table: four parameterizations, three optimizers, two alignments; all derived.

    With --axis depth or batch: what every optimizer's settings do along that axis.
    """
    from derive import tables

    chosen = _choice("--format", output_format, tuple(tables.FORMATS))
    if axis is not None:
        from derive import axis_tables, registry

        if alignment is not None or layers is not None:
            raise DeriveError("--axis is a table by optimizer alone; leave out --alignment and --layers")
        along = _choice("--axis", axis, tuple(axis_tables.TABLES))
        rows = registry.REGISTRY if optimizer is None else [registry.optimizer(name) for name in optimizer]
        _show(axis_tables.axis_table(along, rows, chosen), chosen)
        return
    problems = [
        [
            _problem(optimizer=row, parameterization=scheme, alignment=assumed, layers=layers)
            for row in optimizer or ["sgd", "adam", "adafactor"]
            for assumed in alignment or ["full", "none"]
        ]
        for scheme in ("sp", "ntk", "mup", "mfp")
    ]
    _show(tables.FORMATS[chosen](problems, layers is not None), chosen)


@app.command(epilog=examples("derive constraints --optimizer sgd"))
def constraints(
    optimizer: OptimizerOption = None,
    update: UpdateOption = None,
    epsilon: EpsilonOption = "scaled",
    output_format: Annotated[str, typer.Option("--format", help="table, json, markdown or latex.")] = "table",
) -> None:
    """The stability constraints for an optimizer, with a, b, c and the alignments as symbols."""
    from derive import tables

    problem = _problem(optimizer=optimizer, update=update, epsilon=epsilon)
    chosen = _choice("--format", output_format, tuple(tables.CONSTRAINT_FORMATS))
    _show(tables.CONSTRAINT_FORMATS[chosen](problem.optimizers), chosen)


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

    problem = _problem(optimizer=optimizer, update=update, epsilon=epsilon)
    chosen = _choice("--format", output_format, ("table", "json"))
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

    problem = _problem(
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
    chosen = _choice("--format", output_format, ("table", "json"))
    _show(tables.checked_rates(problem, rates, chosen, listed=layers is not None), chosen)


@app.command(epilog=examples("derive certify proof.json"))
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

    _check_positive("--value", value)
    _check_width("--base-width", base_width)
    if fixed_fan is not None:
        _check_width("--fixed-fan", fixed_fan)
    sizes = [_float("--gradient-rms", part) for part in gradient_rms.split(",")]
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3:
        raise DeriveError(f"--gradient-rms {shorten(gradient_rms)} has {len(sizes)} entries; give one, or three")
    problem = _problem(optimizer, update, parameterization, a, b)
    found = onsets(problem, value, base_width, (sizes[0], sizes[1], sizes[2]), fixed_fan)
    chosen = _choice("--format", output_format, ("table", "json"))
    _show(tables.epsilon_onsets(found, value, base_width, chosen), chosen)


def _float(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise DeriveError(f"{option} {shorten(text)} is not a number; give one such as 1e-4") from None
    _check_positive(option, value)
    return value


@app.command(name="list", epilog=examples("derive list optimizers"))
def list_command(
    what: Annotated[str, typer.Argument(help="optimizers, parameterizations, alignments or rules")] = "optimizers",
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> None:
    """What is known: optimizers with their rules, parameterizations, alignments; or how to write a rule."""
    from derive import tables

    listing = _choice("list", what, tuple(tables.LISTS))
    chosen = _choice("--format", output_format, ("table", "json"))
    _show(tables.listing(listing, chosen), chosen)


def _show(text: str, output_format: str) -> None:
    """Write an answer; a table's long lines are wrapped at the terminal's width, and nothing else is touched."""
    from derive.terminal import wrapped

    _write(wrapped(text) if output_format == "table" else text)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


Result = TypeVar("Result")


def run(command: Callable[[], Result], name: str, errors: tuple[type[Exception], ...] = (DeriveError,)) -> int:
    """Run a command and turn what a user can cause into one line on standard error and exit code 2."""
    if sys.stdout is None:
        return _fail(name, "standard output is closed; send it to a file or to a terminal")
    try:
        code = command()
    except errors as error:
        return _fail(name, _described(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.filename is not None:
            what = f"{shorten(str(error.filename), LONGEST_QUOTE)}: {error.strerror}"
            return _fail(name, f"{what}; see to the file and its folder")
        return _fail(name, f"cannot write the output: {error.strerror}; send it somewhere else")
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, ValueError) and "int_max_str_digits" in str(error):
            return _fail(name, _described(error))
        usage = getattr(error, "format_message", None)  # every usage error of the command line library has it
        if usage is None:
            raise
        said = " ".join(usage().split())
        said = said if len(said) <= LONGEST_USAGE else f"{said[:LONGEST_QUOTE]}... ({len(said)} characters)"
        return _fail(name, f"{said} (see {name} --help)")
    return code if isinstance(code, int) else 0


def _described(error: Exception) -> str:
    """The error in one line; what is not of this project, and may quote anything, cut short."""
    message = " ".join(str(error).split())
    if "int_max_str_digits" in message:
        return f"a number has more than {sys.get_int_max_str_digits()} digits; give smaller ones"
    ours = type(error).__module__.partition(".")[0] in (__name__.partition(".")[0], "verify")
    return message if ours else shorten(message, LONGEST_QUOTE)


def _fail(name: str, message: str) -> int:
    complain(f"{name}: {message}")
    return 2


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
