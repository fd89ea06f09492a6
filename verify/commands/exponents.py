"""`verify exponents`: networks of growing width, measured and judged; on one device or many, on one host or several."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from derive.errors import DeriveError, canonical, check_positive, shorten
from derive.options import KAPPA_HELP, RESIDUAL_HELP
from derive.terminal import wrapped
from verify.commands import updates as cli_updates
from verify.commands.depth import DEPTHS, Asked, along_depth, refuse_width_options
from verify.commands.options import read_choice, read_corpus, read_numbers, write_error, write_out
from verify.commands.progress import Progress, silence
from verify.files import make_folder
from verify.training import hosts as hosts

WIDTHS, BATCH = "128,256,512,1024", 256


def exponents(
    optimizer: Annotated[str, typer.Option(help="A trainable optimizer: adam, sgd, adam-ps, lion, ...")] = "adam",
    parameterization: Annotated[str, typer.Option(help="sp, ntk, mup or mfp.")] = "sp",
    alignment: Annotated[
        str, typer.Option(help="The assumption to test: full, none, ... as in derive; global: one rate for all layers.")
    ] = "full",
    model: Annotated[str, typer.Option(help="mlp or transformer.")] = "mlp",
    axis: Annotated[str, typer.Option(help="What grows: width, or depth, the blocks of a transformer.")] = "width",
    widths: Annotated[
        str | None, typer.Option(help="Growing widths.  [default: 128,256,512,1024; along depth 64]")
    ] = None,
    depths: Annotated[str, typer.Option(help="Growing depths, along depth.")] = DEPTHS,
    residual: Annotated[str | None, typer.Option(help=f"{RESIDUAL_HELP}  [default: depth-mup]")] = None,
    depth_alignment: Annotated[str | None, typer.Option(help=f"{KAPPA_HELP}  [default: full]")] = None,
    base_depth: Annotated[
        int | None, typer.Option(help="Where the rate is the base rate and multipliers are 1.  [default: 1]")
    ] = None,
    no_norm: Annotated[
        bool, typer.Option("--no-norm", help="Along depth: no norms before branches and readout.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Networks per width, trained side by side.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps; measured at 1, 2, 5, 10, ...")] = 10,
    base_width: Annotated[
        int | None, typer.Option(help="Where all parameterizations agree.  [default: the first]")
    ] = None,
    base_rate: Annotated[float | None, typer.Option(help="Learning rate at the base width.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Examples per training step.  [default: 256; along depth 16]")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(help="Text file, folder, or *.bin token shards.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Vocabulary of token shards; 16 reads text as half bytes.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens read at once.  [default: 16; transformer 64; along depth 32]")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Hidden layers, or blocks of the transformer.  [default: 2]")
    ] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Blocks as one loop: compiling takes as long at any depth.")
    ] = False,
    remat: Annotated[bool, typer.Option("--remat", help="Compute blocks again on the way back: less memory.")] = False,
    dtype: Annotated[str, typer.Option(help="What training computes in; parameters are float32.")] = "float32",
    mesh: Annotated[
        str | None, typer.Option(help="Devices as data x model, 4x2: all is split over them.  [default: one device]")
    ] = None,
    coordinator: Annotated[str | None, typer.Option(help="HOST:PORT of process 0 of several, or auto.")] = None,
    processes: Annotated[int | None, typer.Option(help="How many processes run this command.")] = None,
    process: Annotated[int | None, typer.Option(help="Which of them this is, from 0.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Folder in which the run is kept, to go on from.")] = None,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder for measured.json, sizes.csv and pictures.")] = None,
    output_format: Annotated[str, typer.Option("--format", help="table or json.")] = "table",
) -> int:
    """Train networks of growing width or depth, measure how they change, and say which exponents hold."""
    if read_choice("--axis", axis, ("width", "depth")) == "depth":
        refuse_width_options(
            alignment=alignment != "full",
            parameterization=parameterization != "sp",
            base_width=base_width,
            depth=depth,
            scan=scan,
            remat=remat,
            dtype=dtype != "float32",
            mesh=mesh,
            coordinator=coordinator,
            processes=processes,
            process=process,
            checkpoint=checkpoint,
        )
        asked = Asked(
            optimizer,
            widths,
            depths,
            residual,
            depth_alignment,
            base_depth,
            base_rate,
            no_norm,
            seeds,
            steps,
            batch,
            context,
        )
        return along_depth(asked, corpus, vocab, out, output_format)
    if any(each is not None for each in (residual, depth_alignment, base_depth)) or no_norm or depths != DEPTHS:
        raise DeriveError("--depths, --residual, --depth-alignment, --base-depth and --no-norm go with --axis depth")
    again = (
        f"start all of them again, and they go on from --checkpoint {shorten(str(checkpoint))}"
        if checkpoint
        else "start all of them again; with --checkpoint FOLDER they would go on where they were"
    )
    several = hosts.read_hosts(coordinator, processes, process)
    if process or (several and not hosts.inside()):
        silence()
    if several and not hosts.inside():
        return hosts.supervise(several, sys.argv[1:], again)

    from derive.registry import spelled
    from derive.solve import prescribe, solve_kinds
    from verify.provenance import loaded_code
    from verify.studies.exponents.study import as_json
    from verify.studies.exponents.study import exponents as measured_exponents
    from verify.studies.study import check_widths
    from verify.sweeps.one_rate import at_one_rate
    from verify.sweeps.records import GLOBAL
    from verify.training.checkpoint import Checkpoints
    from verify.training.mesh import over_devices, read_mesh
    from verify.training.networks.mlp import MLP
    from verify.training.rules.transforms import base_rate as usual_rate
    from verify.training.rules.transforms import check_trainable
    from verify.training.trainer import Config

    loaded_code()

    name = read_choice("model", model, ("mlp", "transformer"))
    chosen = read_choice("--format", output_format, ("table", "json"))
    compute = read_choice("--dtype", dtype, ("float32", "bfloat16"))
    check_positive(seeds=seeds, steps=steps, base_width=base_width, base_rate=base_rate, batch=batch, context=context)
    check_positive(depth=depth, checkpoint_every=checkpoint_every)
    examples = BATCH if batch is None else batch
    if name == "mlp" and (scan or remat):
        raise DeriveError("--scan and --remat are for blocks, which the mlp has not; give --model transformer")
    sizes = read_numbers("--widths", WIDTHS if widths is None else widths, int, "128,256,512")
    check_widths(sizes)
    raw = canonical(alignment) == GLOBAL
    # One rate leaves every hidden layer an r of its own.
    listed = (depth or MLP.hidden_layers) if raw and name == "mlp" else None
    prescription = prescribe(optimizer, parameterization, "full" if raw else alignment, hidden_layers=listed)
    rules = {kind: spelled(row) for kind, row in prescription.problem.optimizers.items()}
    check_trainable(rules)
    hidden_layers = prescription.problem.alignment.hidden_layers
    if hidden_layers is None and listed is None:
        prescription = solve_kinds(prescription.problem)
    if hidden_layers and depth and hidden_layers != depth and name == "mlp":
        raise DeriveError(f"--depth {depth} and an alignment of {hidden_layers} hidden layers; leave --depth out")
    if raw:
        prescription = at_one_rate(prescription)
    text = read_corpus(corpus, vocab)
    config = Config(
        prescription,
        base_width or sizes[0],
        base_rate or usual_rate(*rules.values()),
        model=name,  # type: ignore[arg-type]
        batch=examples,
        dtype=compute,
        sizes={"vocabulary": text.vocabulary}
        | ({"context": context} if context else {})
        | ({"hidden_layers": hidden_layers} if hidden_layers and name == "mlp" else {})
        | ({{"mlp": "hidden_layers", "transformer": "blocks"}[name]: depth} if depth else {})
        | {option: True for option, given in (("scan", scan), ("remat", remat)) if given},
    )
    shape = read_mesh(mesh) if mesh else None
    if out is not None:
        make_folder(out)
        if (out / "measured.json").exists():
            raise DeriveError(f"--out {shorten(str(out))} already holds a study; give another folder, or move that one")
    if name == "mlp" and any(rule.is_matrix_rule for rule in prescription.problem.optimizers.values()):
        cli_updates.note_fixed_dimensions(config.at(sizes[0]).context * text.vocabulary, sizes[0])  # type: ignore[attr-defined]
    kept = Checkpoints(checkpoint, checkpoint_every, _tell) if checkpoint else None
    if several:
        hosts.join(several)
        if not hosts.is_first():
            silence()
    try:
        with Progress("training and measuring", len(sizes) * steps) as bar:
            devices = over_devices(shape)
            result = measured_exponents(config, sizes, range(seeds), steps, text, bar.advance, devices, kept)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DeriveError(
                "a device ran out of memory; --mesh, --remat or a smaller --batch need less, and verify plan counts it"
            ) from None
        if several:
            raise hosts.lost(several, error, again) from None
        raise
    if hosts.is_first():
        if out is not None:
            _write_study(result, out)
        _print(as_json(result), result, chosen, out)
    return 0


def _tell(line: str) -> None:
    """Of checkpoints, where no bar is drawn."""
    if hosts.is_first() and not sys.stderr.isatty():
        write_error(line)


def _write_study(result: Any, out: Path) -> None:
    from derive.emit import dump, title
    from verify.studies.exponents.study import as_json, write_sizes
    from verify.studies.pictures import alignments_against_step, save, sizes_against_width

    (out / "measured.json").write_text(dump(as_json(result)), encoding="utf-8")
    write_sizes(result, out / "sizes.csv")
    heading = f"{title(result.config.prescription)}, {result.config.model}"
    last = max(result.tables)
    if result.config.model == "mlp":
        a = result.config.prescription.layers[-1].a
        for step in dict.fromkeys((min(result.tables), last)):
            figure = sizes_against_width(result.rows, result.widths, result.tables[step], step, heading, a)
            save(figure, out / f"sizes_step_{step}")
    fans = result.runs[0].fan_in
    save(alignments_against_step(result.tables, result.widths, fans, heading), out / "alignments")


def _print(content: dict[str, Any], result: Any, output_format: str, out: Path | None) -> None:
    from derive.emit import dump, terminal_table, title
    from verify.fit.four_steps import summary

    if output_format == "json":
        write_out(dump(content))
        return
    cells, sections = [], []
    ends = {min(result.tables), max(result.tables)}
    for row in (row for row in result.rows if row.step in ends or row.verdict == "fails"):
        if not cells or (cells[-1][0], cells[-1][1]) != (str(row.step), row.layer):
            sections.append(len(cells))
        measured = row.measured
        interval = "-" if measured.low != measured.low else f"{measured.low:+.2f} .. {measured.high:+.2f}"
        implied = "-" if row.implied is None else f"{row.implied:+.2f}"
        value = "-" if measured.value != measured.value else f"{measured.value:+.3f}"
        reason = row.reason or ""
        cells.append(
            [
                str(row.step),
                row.layer,
                row.quantity,
                row.predicted or "-",
                implied,
                value,
                interval,
                "-" if row.tolerance is None else f"{row.tolerance:.2f}",
                row.verdict,
                reason,
            ]
        )
    columns = [
        "step",
        "layer",
        "quantity",
        "predicted",
        "implied",
        "measured",
        "95 % interval",
        "tolerance",
        "verdict",
        "why",
    ]
    lines = [
        f"{title(result.config.prescription)}, {content['model']}, widths {','.join(map(str, result.widths))}, "
        f"{len(result.seeds)} seeds, on {content['device']}; {content['corpus']}",
        "Sizes are n^-x (ratios, such as alignments, n^+x); implied: from the measured alignments and the sizes of the "
        "terms; a row fails where its interval, widened by the tolerance, excludes the prediction",
        terminal_table(columns, cells, sections),
        *summary(result.rows),
        *(f"diverged: {line}" for line in result.divergences),
        *([f"written to {out}: measured.json, sizes.csv, pictures"] if out else []),
    ]
    write_out(wrapped("\n".join(lines) + "\n"))
