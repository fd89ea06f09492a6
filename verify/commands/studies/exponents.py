"""`verify exponents`: networks of growing width, measured and judged; on one device or many, on one host or several."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from derive.errors import DeriveError, canonical, check_positive, shorten
from derive.options import KAPPA_HELP, RESIDUAL_HELP
from verify.commands.options import one_driver, read_choice, read_corpus, read_numbers, write_error
from verify.commands.progress import Progress, silence
from verify.commands.studies import shared
from verify.commands.studies.command import WHOLE, Run, answer, carry_out, command
from verify.commands.studies.depth import DEPTHS, along_depth
from verify.commands.studies.updates import note_fixed_dimensions
from verify.training import hosts

if TYPE_CHECKING:
    from verify.studies.exponents.conditions import Conditions
    from verify.studies.study import AnyStudy, Unit
    from verify.training.hosts import Hosts

WIDTHS, BATCH = "128,256,512,1024", 256


@dataclass(frozen=True)
class ExponentsOptions:
    """Train networks of growing width or depth, measure how they change, and say which exponents hold."""

    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adam, sgd, adam-ps, lion, ...")] = "adam"
    parameterization: Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")] = "sp"
    alignment: Annotated[
        str, typer.Option(help="The assumption to test: full, none, ... as in derive; global: one rate for all layers.")
    ] = "full"
    model: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp"
    axis: Annotated[str, typer.Option(help="What grows: width, or depth, the blocks of a transformer.")] = "width"
    widths: Annotated[str | None, typer.Option(help="Growing widths.  [default: 128,256,512,1024; along depth 64]")] = (
        None
    )
    depths: Annotated[str, typer.Option(help="Growing depths, along depth.")] = DEPTHS
    residual: Annotated[str | None, typer.Option(help=f"{RESIDUAL_HELP}  [default: depth-mup]")] = None
    depth_alignment: Annotated[str | None, typer.Option(help=f"{KAPPA_HELP}  [default: full]")] = None
    base_depth: Annotated[
        int | None, typer.Option(help="Where the rate is the base rate and multipliers are 1.  [default: 1]")
    ] = None
    no_norm: Annotated[bool, typer.Option("--no-norm", help="Along depth: no norms before branches and readout.")] = (
        False
    )
    seeds: Annotated[int, typer.Option(help="Networks per width, trained side by side.")] = 3
    steps: Annotated[int, typer.Option(help="Training steps; measured at 1, 2, 5, 10, ...")] = 10
    base_width: Annotated[int | None, typer.Option(help="Where all parameterizations agree.  [default: the first]")] = (
        None
    )
    base_rate: Annotated[float | None, typer.Option(help="Learning rate at the base width.")] = None
    batch: Annotated[int | None, typer.Option(help="Examples per training step.  [default: 256; along depth 16]")] = (
        None
    )
    corpus: shared.CorpusOption = None
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards; 16 reads text as half bytes.")] = None
    context: Annotated[
        int | None, typer.Option(help="Tokens read at once.  [default: 16; transformer 64; along depth 32]")
    ] = None
    depth: Annotated[int | None, typer.Option(help="Hidden layers, or blocks of the transformer.  [default: 2]")] = None
    scan: Annotated[bool, typer.Option("--scan", help="Blocks as one loop: compiling takes as long at any depth.")] = (
        False
    )
    remat: Annotated[bool, typer.Option("--remat", help="Compute blocks again on the way back: less memory.")] = False
    dtype: Annotated[str, typer.Option(help="What training computes in; parameters are float32.")] = "float32"
    mesh: Annotated[
        str | None, typer.Option(help="Devices as data x model, 4x2: all is split over them.  [default: one device]")
    ] = None
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of process 0 of several, or auto.")] = None
    processes: Annotated[
        int | None,
        typer.Option(help="How many processes run this command; without --coordinator, workers on this machine."),
    ] = None
    process: Annotated[int | None, typer.Option(help="Which of them this is, from 0.")] = None
    checkpoint: Annotated[Path | None, typer.Option(help="Folder in which the run is kept, to go on from.")] = None
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100
    part: shared.PartOption = WHOLE
    out: Annotated[Path | None, typer.Option(help="Folder for measured.json, sizes.csv and pictures.")] = None
    output_format: shared.FormatOption = "table"


OF_WIDTH = (
    *("alignment", "parameterization", "base_width", "depth", "scan", "remat", "dtype", "mesh", "coordinator"),
    *("process", "checkpoint"),
)
OF_DEPTH = ("depths", "residual", "depth_alignment", "base_depth", "no_norm")
"""Options that mean nothing along the other axis."""


def run(given: ExponentsOptions) -> int:
    """Train and answer; the exit code of the process that did it where there are several."""
    defaults = {each.name: each.default for each in fields(given)}
    if read_choice("--axis", given.axis, ("width", "depth")) == "depth":
        for name in OF_WIDTH:
            if getattr(given, name) != defaults[name]:
                option = f"--{name.replace('_', '-')}"
                raise DeriveError(
                    f"{option} does not go with --axis depth, where widths stay as they are; leave it out"
                )
        return along_depth(given)
    if any(getattr(given, name) != defaults[name] for name in OF_DEPTH):
        raise DeriveError("--depths, --residual, --depth-alignment, --base-depth and --no-norm go with --axis depth")
    alone = given.coordinator is None and given.process is None
    several = hosts.read_hosts(given.coordinator, None if alone else given.processes, given.process)
    if given.process or (several and not hosts.inside()):
        silence()
    if several and not hosts.inside():
        return hosts.supervise(several, sys.argv[1:], _again(given))

    name = read_choice("model", given.model, ("mlp", "transformer"))
    if name == "mlp" and (given.scan or given.remat):
        raise DeriveError("--scan and --remat are for blocks, which the mlp has not; give --model transformer")
    growing, conditions, config, text = _read(given, name)
    plan = Run.of(given, text, given.processes if alone else None)
    _refuse_several(given, plan)
    if plan.out is not None:
        from verify.files import make_folder

        make_folder(plan.out)
    rules = config.prescription.problem.optimizers
    if name == "mlp" and any(rule.is_matrix_rule for rule in rules.values()):
        note_fixed_dimensions(config.at(growing[0]).context * text.vocabulary, growing[0])  # type: ignore[attr-defined]
    with _failures(several, given):
        _train(given, conditions, growing, plan, several)
    return 0


def _read(given: ExponentsOptions, model: str) -> "tuple[list[int], Conditions, Any, Any]":
    """The widths, under which conditions each is trained, the same as a network's configuration, and the text."""
    from derive.registry import optimizers, spelled
    from verify.studies.exponents.conditions import Conditions, prescription
    from verify.studies.study import check_widths
    from verify.sweeps.records import GLOBAL
    from verify.training.config import Config
    from verify.training.networks.mlp import MLP
    from verify.training.rules.directions import check_trainable
    from verify.training.rules.usual import base_rate as usual_rate

    compute = read_choice("--dtype", given.dtype, ("float32", "bfloat16"))
    check_positive(seeds=given.seeds, steps=given.steps, base_width=given.base_width, base_rate=given.base_rate)
    check_positive(batch=given.batch, context=given.context, depth=given.depth)
    check_positive(checkpoint_every=given.checkpoint_every)
    growing = read_numbers("--widths", WIDTHS if given.widths is None else given.widths, int, "128,256,512")
    check_widths(growing)
    depth, alignment = given.depth, GLOBAL if canonical(given.alignment) == GLOBAL else given.alignment
    # One rate leaves every hidden layer an r of its own.
    listed = (depth or MLP.hidden_layers) if alignment == GLOBAL and model == "mlp" else None
    check_trainable({kind: spelled(row) for kind, row in optimizers(given.optimizer).items()})
    found = prescription(given.optimizer, given.parameterization, alignment, listed)
    rules = [spelled(row) for row in found.problem.optimizers.values()]
    layers = found.problem.alignment.hidden_layers
    if layers and depth and layers != depth and model == "mlp":
        raise DeriveError(f"--depth {depth} and an alignment of {layers} hidden layers; leave --depth out")
    text = read_corpus(given.corpus, given.vocab)
    conditions = Conditions(
        optimizer=found.optimizer_name,
        parameterization=found.problem.parameterization.name,
        alignment=found.problem.alignment.name,
        c=tuple(map(str, found.c)),
        listed=listed,
        model=model,  # type: ignore[arg-type]
        sizes={"vocabulary": text.vocabulary}
        | ({"context": given.context} if given.context else {})
        | ({"hidden_layers": layers} if layers and model == "mlp" else {})
        | ({{"mlp": "hidden_layers", "transformer": "blocks"}[model]: depth} if depth else {})
        | {option: True for option in ("scan", "remat") if getattr(given, option)},
        base_width=given.base_width or growing[0],
        base_rate=given.base_rate or usual_rate(*rules),
        batch=BATCH if given.batch is None else given.batch,
        probe=Config.probe,
        dtype=compute,
        seeds=given.seeds,
        steps=given.steps,
        corpus=f"{text.name} {text.fingerprint}",
    )
    config = conditions.config()
    for width in growing:
        config.at(width)  # sizes that do not fit are an error before anything is trained
    return growing, conditions, config, text


def _refuse_several(given: ExponentsOptions, plan: Run) -> None:
    """Workers and shares are of the widths, which devices and checkpoints are not."""
    for option, value in (("--mesh", given.mesh), ("--checkpoint", given.checkpoint)):
        if value is not None and plan.processes not in (None, 1):
            raise DeriveError(f"{option} goes with --processes and --coordinator, or without --processes")
    if given.coordinator is not None and plan.share != (0, 1):
        raise DeriveError(f"--part {given.part} and --coordinator divide the work in two ways; keep one of them")


def _train(
    given: ExponentsOptions, conditions: "Conditions", growing: list[int], plan: Run, several: "Hosts | None"
) -> None:
    from verify.studies.exponents.results import EXPONENTS
    from verify.training.checkpoint import Checkpoints
    from verify.training.mesh import over_devices, read_mesh

    shape = read_mesh(given.mesh) if given.mesh else None
    kept = Checkpoints(given.checkpoint, given.checkpoint_every, _tell) if given.checkpoint else None
    if several:
        hosts.join(several)
        if not hosts.is_first():
            silence()
    study: AnyStudy = EXPONENTS
    if shape is not None or kept is not None or several:
        from verify.studies.exponents.study import begin, train

        seeds = range(given.seeds)
        begin(conditions.config(), growing, seeds, given.steps, plan.corpus, kept)
        study = replace(EXPONENTS, train=partial(train, mesh=over_devices(shape), checkpoints=kept))
    wanted: dict[Unit, Conditions] = {(width,): conditions for width in growing}
    if several:
        _together(study, wanted, plan, given.steps)
    else:
        carry_out(study, wanted, plan, lambda _: given.steps)


def _together(study: "AnyStudy", wanted: "dict[Unit, Conditions]", plan: Run, steps: int) -> None:
    """Train as one of several processes: the first keeps the parts and answers, and all train what it lacks."""
    from verify.studies.training import Training

    first = hosts.is_first()
    with (plan if first else replace(plan, out=None)).folder() as folder:
        training = Training(study, wanted, folder, keeps=first)
        with (
            one_driver(folder) if first else nullcontext(),
            Progress("training and measuring", len(wanted) * steps) as bar,
        ):
            left = hosts.agreed(training.take_stock(), list(wanted))
            bar.advance((len(wanted) - len(left)) * steps)
            training.run(left, plan.corpus, bar.advance)
        if first:
            answer(study, study.answers.result(wanted, training.parts, folder), plan.out, plan.shown)


@contextmanager
def _failures(several: "Hosts | None", given: ExponentsOptions) -> Iterator[None]:
    """Memory that ran out, and another process that was lost, as one line."""
    try:
        yield
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DeriveError(
                "a device ran out of memory; --mesh, --remat or a smaller --batch need less, and verify plan counts it"
            ) from None
        if several:
            raise hosts.lost(several, error, _again(given)) from None
        raise


def _again(given: ExponentsOptions) -> str:
    if given.checkpoint:
        return f"start all of them again, and they go on from --checkpoint {shorten(str(given.checkpoint))}"
    return "start all of them again; with --checkpoint FOLDER they would go on where they were"


def _tell(line: str) -> None:
    """Of checkpoints, where no bar is drawn."""
    if hosts.is_first() and not sys.stderr.isatty():
        write_error(line)


exponents = command(ExponentsOptions, run, "exponents")
