"""The axis of `verify transfer`: which options go with it, its sizes, and the settings that are trained along it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

from derive.errors import DeriveError, shorten
from verify.commands.options import read_choice, read_numbers, split_values
from verify.commands.studies.transfer.options import TransferOptions

if TYPE_CHECKING:
    from verify.sweeps.axes import AxisName
    from verify.sweeps.settings.named import Prescribed

SIZES = {"width": "64,128,256", "depth": "2,4,8,16,32", "batch": "16,64,256,1024"}
WIDTH = 64
"""Of networks that grow in depth or batch alone."""
HEAD, DEPTH = 32, 2
LARGEST = {"depth": 4096, "batch": 1_048_576}
GOES_WITH = {
    "parameterization": ("width", "depth"),
    "base_width": ("width", "depth"),
    "depths": ("depth",),
    "residual": ("depth",),
    "base_depth": ("depth",),
    "depth": ("width", "batch"),
    "batches": ("batch",),
    "base_batch": ("batch",),
    "hold": ("width", "batch"),
    "horizon": ("batch",),
    "batch": ("width", "depth"),
}
"""The axes that options go with; those that are not here go with all."""


@dataclass(frozen=True)
class Along:
    """One axis: its sizes, the base size, the width where that stays, and what is held along the batch.

    `widths` are those of a grid along depth, of which `width` is the base; empty where there is one.
    """

    given: TransferOptions
    name: "AxisName"
    model: str
    sizes: tuple[int, ...]
    base: int
    width: int | None
    held: Any
    horizon: Any
    widths: tuple[int, ...] = ()

    @property
    def depth(self) -> int:
        """Hidden layers or blocks, where that is not what grows."""
        return self.given.depth or DEPTH

    @property
    def head_dimension(self) -> int | None:
        """The head dimension of a transformer of one width where none was given; None where the usual one is meant."""
        return min(HEAD, self.width) if self.width is not None and self.model == "transformer" else None

    def lengths(self, depth_name: str) -> dict[str, int]:
        """What its networks have for depth and width, each where it is not what grows."""
        found = {} if self.name == "depth" else {depth_name: self.depth}
        return found if self.width is None else found | {"width": self.width}

    def check_steps(self, horizons: Sequence[int]) -> None:
        """DeriveError where a batch of as many tokens would be no whole number of steps."""
        if self.held != "tokens":
            return
        for steps in horizons:
            for batch in self.sizes:
                if steps * self.base % batch:
                    raise DeriveError(
                        f"--steps {steps} at batch {self.base} are {steps * self.base} windows of text, no whole "
                        f"number of steps at batch {batch}; give others, or --hold steps"
                    )

    def settings(
        self, optimizers: Sequence[str], constants: tuple[float, float, float], decay: str, clip: bool
    ) -> "tuple[Prescribed, ...]":
        """What is trained: every optimizer with every prescription that was asked for."""
        from verify.sweeps.settings.along import along_batch, along_depth, at_widths
        from verify.sweeps.settings.named import prescribed

        shared: Any = {"constants": constants, "decay": decay}
        asked = split_values(self.given.alignment, ["global", "rule" if self.name == "batch" else "full"])
        if self.name == "width":
            shared |= {"clip": clip, "hidden_layers": self.depth if self.model == "mlp" else None}
            schemes = split_values(self.given.parameterization, ["sp", "mup"])
            return tuple(prescribed(*each, **shared) for each in product(optimizers, schemes, asked))
        if self.name == "batch":
            pairs = product(optimizers, asked)
            found = [along_batch(name, each, self.held, self.horizon, **shared) for name, each in pairs]
        else:
            residuals = split_values(self.given.residual, ["depth-mup"])
            found = [along_depth(*each, **shared) for each in product(optimizers, residuals, asked)]
        once = tuple({each.setting.name: each for each in found}.values())  # names of one delta mean one setting
        if not self.widths or self.width is None:
            return once
        schemes = split_values(self.given.parameterization, ["mup"])
        if len(schemes) > 1:
            raise DeriveError(
                f"--parameterization {shorten(','.join(schemes))}: a grid of widths and depths takes one; give mup"
            )
        return at_widths(once, self.widths, self.width, schemes[0], clip=clip)


def read_along(given: TransferOptions) -> Along:
    """The axis that was asked for; DeriveError for options that do not go with it, and sizes that do not grow."""
    from derive.batch import HORIZONS
    from verify.studies.study import check_widths
    from verify.sweeps.axes import HELD

    axis: Any = read_choice("--axis", given.axis, tuple(SIZES))
    for name, axes in GOES_WITH.items():
        if axis not in axes and getattr(given, name) is not None:
            raise DeriveError(f"--{name.replace('_', '-')} goes with --axis {' or '.join(axes)}; leave it out")
    model = read_choice("model", given.model or ("transformer" if axis == "depth" else "mlp"), ("mlp", "transformer"))
    widths = read_numbers("--widths", given.widths or (SIZES["width"] if axis == "width" else str(WIDTH)), int, "64")
    if axis == "width":
        check_widths(widths)
        held = None if read_choice("--hold", given.hold or "steps", HELD[axis]) == "steps" else "ratio"
        return Along(given, axis, model, tuple(widths), given.base_width or widths[0], None, held, None)
    if model == "mlp" and axis == "depth":
        raise DeriveError("--model mlp has no residual stream to grow along --axis depth; give transformer")
    grid = axis == "depth" and len(widths) > 1
    if grid:
        check_widths(widths)
    elif len(widths) > 1 or widths[0] < 1:
        raise DeriveError(f"--widths {shorten(given.widths or '')}: along --axis {axis} the width stays; give one")
    elif given.parameterization is not None or given.base_width is not None:
        option = "--base-width" if given.parameterization is None else "--parameterization"
        raise DeriveError(f"{option} goes with --axis width, or along depth with several --widths; leave it out")
    option = "--depths" if axis == "depth" else "--batches"
    text = (given.depths if axis == "depth" else given.batches) or SIZES[axis]
    sizes = read_sizes(option, text, LARGEST[axis], SIZES[axis])
    base = (given.base_depth if axis == "depth" else given.base_batch) or sizes[0]
    if axis == "depth" and base > sizes[0]:
        raise DeriveError(f"--base-depth {base} is above the first of --depths {text}; tune on the shallower network")
    held = read_choice("--hold", given.hold or "tokens", HELD[axis]) if axis == "batch" else None
    horizon = read_choice("--horizon", given.horizon or "none", HORIZONS) if axis == "batch" else None
    width = given.base_width or widths[0] if grid else widths[0]
    return Along(given, axis, model, tuple(sizes), base, width, held, horizon, tuple(widths) if grid else ())


def read_sizes(option: str, text: str, largest: int, example: str) -> list[int]:
    """Growing sizes; DeriveError for fewer than two, for those that do not grow and for what is no size."""
    sizes = read_numbers(option, text, int, example)
    what = "depth" if option == "--depths" else "batch"
    if len(sizes) < 2:
        raise DeriveError(f"{option} {text}: a slope needs at least two, such as {example}")
    for size in sizes:
        if not 1 <= size <= largest:
            raise DeriveError(f"{option} {text}: {size} is not a {what}; give whole numbers from 1 to {largest}")
    if any(later <= earlier for earlier, later in pairwise(sizes)):
        raise DeriveError(f"{option} {text} do not grow; list them from small to large, once each")
    return sizes
