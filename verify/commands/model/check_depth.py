"""`verify check --depths`: the coordinate check of make(width, depth) along depth."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from derive.errors import DeriveError, shorten
from derive.terminal import wrapped
from verify.commands.options import read_numbers, write_out
from verify.commands.progress import Progress
from verify.commands.studies.transfer.axes import LARGEST, read_sizes
from verify.values import Entries

if TYPE_CHECKING:
    from verify.model.make import Make

WIDTH, DEPTHS = "64", "2,4,8,16"


def refuse_others(given: Entries) -> None:
    """DeriveError for the first option that was given and knows nothing of depth."""
    for name, value in given.items():
        if value not in (None, "jax", ""):
            raise DeriveError(f"--{name.replace('_', '-')} goes by the width alone; leave it out, or --depths")


def check_along_depth(
    model: str,
    make: "Make",
    width: str | None,
    depths: str,
    *,
    trained: Entries,
    out: Path | None,
    shown: str,
    **given: Any,
) -> None:
    """Train the model at one width and every depth, as it is and as prescribed, and judge.

    `trained` are base_rate, seeds and steps; `given` is what `prescribe` takes.
    """
    from derive.emit import dump
    from verify.model.check.depth import depth_check, prescriptions
    from verify.model.check.depth_results import as_json, as_text
    from verify.model.depth.prescribe import at_depth
    from verify.model.make import build

    if shown == "torch":
        raise DeriveError("--format torch goes by the width alone; give table or json, or leave out --depths")
    widths = read_numbers("--widths", width or WIDTH, int, WIDTH)
    if len(widths) > 1 or widths[0] < 1:
        raise DeriveError(f"--widths {shorten(width or '')}: along --depths the width stays; give one")
    sizes = read_sizes("--depths", depths, LARGEST["depth"], DEPTHS)
    answers = prescriptions(make, widths[0], sizes, **given)
    with Progress("training and measuring", len(sizes)) as bar:
        found = depth_check(make, answers, progress=bar.advance, **trained)
    inputs = build(at_depth(make, sizes[0]), widths[0]).fingerprint(trained["steps"])
    content = as_json(model, inputs, found, trained["base_rate"])
    if out is not None:
        (out / "check.json").write_text(dump(content), encoding="utf-8")
        (out / "prescription.json").write_text(found.deepest.to_json(), encoding="utf-8")
    write_out(dump(content) if shown == "json" else wrapped(as_text(model, found, trained["base_rate"])))
