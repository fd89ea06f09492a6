"""`verify exponents --axis depth`: transformers of growing depth, measured and judged."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from derive.errors import DeriveError, check_positive
from derive.terminal import wrapped
from verify.commands.options import read_choice, read_corpus, read_numbers, write_error, write_out
from verify.commands.studies import answer, train_all

if TYPE_CHECKING:
    from verify.fit.judging import Row
    from verify.studies.depth.results import DepthResult

DEPTHS, WIDTH, RESIDUAL = "2,4,8,16,32", "64", "depth-mup"
BATCH, CONTEXT, PROBE, LARGEST_HEAD = 16, 32, 8, 32
MOST_BLOCKS = 4096


@dataclass(frozen=True)
class Asked:
    """The options that say what is trained, None where they were not given."""

    optimizer: str
    widths: str | None
    depths: str
    residual: str | None
    depth_alignment: str | None
    base_depth: int | None
    base_rate: float | None
    no_norm: bool
    seeds: int
    steps: int
    batch: int | None
    context: int | None


def refuse_width_options(**given: Any) -> None:
    """DeriveError for the first option that means nothing along depth."""
    for name, value in given.items():
        if value:
            raise DeriveError(
                f"--{name.replace('_', '-')} does not go with --axis depth, where widths stay as they are; leave it out"
            )


def read_depths(text: str) -> list[int]:
    """Growing depths; DeriveError for fewer than two, for those that do not grow and for none at all."""
    depths = read_numbers("--depths", text, int, DEPTHS)
    if len(depths) < 2:
        raise DeriveError(f"--depths {text}: a slope needs at least two, such as {DEPTHS}")
    for depth in depths:
        if not 1 <= depth <= MOST_BLOCKS:
            raise DeriveError(f"--depths {text}: {depth} is not a depth; give whole numbers from 1 to {MOST_BLOCKS}")
    if any(later <= earlier for earlier, later in pairwise(depths)):
        raise DeriveError(f"--depths {text} do not grow; list them from small to large, once each")
    return depths


def along_depth(asked: Asked, corpus: Path | None, vocab: int | None, out: Path | None, output_format: str) -> int:
    """Train every width at every depth, and judge each width along depth."""
    from derive.registry import optimizers, spelled
    from verify.studies.depth.results import as_json, results
    from verify.studies.depth.study import DEPTH, Conditions, unit
    from verify.studies.study import Training
    from verify.training.rules.transforms import base_rate as usual_rate

    shown = read_choice("--format", output_format, ("table", "json"))
    check_positive(seeds=asked.seeds, steps=asked.steps, batch=asked.batch, context=asked.context)
    check_positive(base_rate=asked.base_rate, base_depth=asked.base_depth)
    widths = read_numbers("--widths", asked.widths or WIDTH, int, "64")
    depths = read_depths(asked.depths)
    if asked.base_depth is not None and asked.base_depth > depths[0]:
        raise DeriveError(f"--base-depth {asked.base_depth} is above the first of --depths {asked.depths}")
    rules = [spelled(rule) for rule in optimizers(asked.optimizer).values()]
    text = read_corpus(corpus, vocab)
    conditions = Conditions(
        optimizer=asked.optimizer,
        residual=asked.residual or RESIDUAL,
        depth_alignment=asked.depth_alignment or "full",
        normed=not asked.no_norm,
        base_depth=asked.base_depth or 1,
        base_rate=asked.base_rate or usual_rate(*rules),
        seeds=asked.seeds,
        steps=asked.steps,
        batch=asked.batch or BATCH,
        probe=PROBE,
        context=asked.context or CONTEXT,
        head_dimension=min(LARGEST_HEAD, *widths),
        corpus=f"{text.name} {text.fingerprint}",
    )
    for note in conditions.claim().axis.notes:
        write_error(f"note: {note}")
    for width in widths:
        conditions.config(width, depths[0], text.vocabulary).at(width)  # what does not fit is said before training
    wanted = {unit(width, depth): conditions for width in widths for depth in depths}
    with _folder(out) as folder:
        parts = train_all(Training(DEPTH, wanted, Path(folder)), text, conditions.steps)
    found = results(conditions, widths, depths, parts)
    content = as_json(found, parts)
    if out is not None:
        answer(content, table(found), out, shown)
    else:
        from derive.emit import dump

        write_out(dump(content) if shown == "json" else wrapped(table(found)))
    return 0


def _folder(out: Path | None) -> AbstractContextManager[Any]:
    return nullcontext(out) if out is not None else TemporaryDirectory()


def table(found: "Sequence[DepthResult]") -> str:
    """A table and a verdict for every width."""
    return "\n".join(_table(result) for result in found)


COLUMNS = ["step", "layer", "quantity", "predicted", "measured", "95 % interval", "tolerance", "verdict", "why"]


def _table(result: "DepthResult") -> str:
    from derive.emit import terminal_table
    from verify.fit.four_steps import summary

    conditions, rows = result.conditions, result.rows()
    ends = {min(row.step for row in rows), max(row.step for row in rows)}
    cells, sections = [], []
    for row in (row for row in rows if row.step in ends or row.verdict == "fails"):
        if not cells or cells[-1][:2] != [str(row.step), row.layer]:
            sections.append(len(cells))
        cells.append(_cells(row))
    norms = "norms before branches" if conditions.normed else "no norms"
    lines = [
        f"{conditions.optimizer}, residual {conditions.residual}, depth alignment {conditions.depth_alignment}, "
        f"{norms}; transformer of width {result.width}, depths "
        f"{','.join(map(str, result.depths))}, {conditions.seeds} seeds; "
        f"{conditions.corpus}",
        "Sizes are N^-x; kappa and scatter, how changes of N blocks add up, N^+x; largest: a branch's change by its "
        "own weights, and of the stream the sum of them; a row fails where its interval, widened by the tolerance, "
        "excludes the prediction",
        terminal_table(COLUMNS, cells, sections),
        *summary(rows),
        *(f"diverged: {line}" for line in result.divergences),
    ]
    return "\n".join(lines) + "\n"


def _cells(row: "Row") -> list[str]:
    measured = row.measured
    return [
        str(row.step),
        row.layer,
        row.quantity,
        row.predicted or "-",
        "-" if measured.value != measured.value else f"{measured.value:+.3f}",
        "-" if measured.low != measured.low else f"{measured.low:+.2f} .. {measured.high:+.2f}",
        "-" if row.tolerance is None else f"{row.tolerance:.2f}",
        row.verdict,
        row.reason or "",
    ]
