"""`verify exponents --axis depth`: transformers of growing depth, measured and judged."""

from itertools import pairwise
from typing import TYPE_CHECKING

from derive.errors import DeriveError, check_positive
from verify.commands.options import read_corpus, read_numbers, write_error
from verify.commands.studies.command import Run, carry_out

if TYPE_CHECKING:
    from verify.commands.studies.exponents import ExponentsOptions

DEPTHS, WIDTH, RESIDUAL = "2,4,8,16,32", "64", "depth-mup"
BATCH, CONTEXT, PROBE, LARGEST_HEAD = 16, 32, 8, 32
MOST_BLOCKS = 4096


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


def along_depth(given: "ExponentsOptions") -> int:
    """Train every width at every depth, and judge each width along depth."""
    from derive.registry import optimizers, spelled
    from verify.studies.depth.conditions import Conditions
    from verify.studies.depth.results import DEPTH, unit
    from verify.training.rules.directions import check_trainable
    from verify.training.rules.usual import base_rate as usual_rate

    check_positive(seeds=given.seeds, steps=given.steps, batch=given.batch, context=given.context)
    check_positive(base_rate=given.base_rate, base_depth=given.base_depth)
    widths = read_numbers("--widths", given.widths or WIDTH, int, "64")
    depths = read_depths(given.depths)
    if given.base_depth is not None and given.base_depth > depths[0]:
        raise DeriveError(f"--base-depth {given.base_depth} is above the first of --depths {given.depths}")
    rules = {kind: spelled(rule) for kind, rule in optimizers(given.optimizer).items()}
    text = read_corpus(given.corpus, given.vocab)
    conditions = Conditions(
        optimizer=given.optimizer,
        residual=given.residual or RESIDUAL,
        depth_alignment=given.depth_alignment or "full",
        normed=not given.no_norm,
        base_depth=given.base_depth or 1,
        base_rate=given.base_rate or usual_rate(*rules.values()),
        seeds=given.seeds,
        steps=given.steps,
        batch=given.batch or BATCH,
        probe=PROBE,
        context=given.context or CONTEXT,
        head_dimension=min(LARGEST_HEAD, *widths),
        corpus=f"{text.name} {text.fingerprint}",
    )
    check_trainable(rules)
    for note in conditions.claim().axis.notes:
        write_error(f"note: {note}")
    for width in widths:
        conditions.config(width, depths[0], text.vocabulary).at(width)  # what does not fit is said before training
    wanted = {unit(width, depth): conditions for width in widths for depth in depths}
    carry_out(DEPTH, wanted, Run.of(given, text, given.processes), lambda _: conditions.steps)
    return 0
