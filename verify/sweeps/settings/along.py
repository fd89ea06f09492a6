"""Settings of a study along depth or along the batch: what `derive` says of that axis, or one raw rate everywhere.

The width stays as it is, so that exponents are those of the axis alone, and all settings agree at its base size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sympy import Expr, S

from derive.axes import Axis, AxisRow
from derive.batch import Horizon, batch_axis, tokens_axis
from derive.decays import DECAYS, Decay, decay_exponent
from derive.depth import Residual, depth_axis, read_kappa, read_residual
from derive.emit import parts
from derive.errors import DeriveError, canonical, shorten
from derive.parameterizations import HALF
from derive.propagation import Optimizers
from derive.registry import spelled
from derive.solve import prescribe, solve_kinds
from derive.words import text
from verify.sweeps.axes import Held
from verify.sweeps.records import GLOBAL, Across, LayerScaling, Setting
from verify.sweeps.settings.named import UNTUNED, Prescribed, prescribed
from verify.training.rules.transforms import check_trainable, exact

RULE = "rule"
"""The alignment's name along the batch, which has none: the prescribed rates."""


def along_depth(
    optimizer: str,
    residual: str,
    alignment: str,
    *,
    constants: tuple[float, float, float] = UNTUNED,
    decay: Decay = "independent",
) -> Prescribed:
    """The setting of a residual network with a norm before every branch; alignment full, none, kappa or global.

    `residual` as in `derive --residual`. "global" keeps the multiplier and everything else of "full" but the rates,
    which are those of the base depth at every depth. DeriveError for a delta that cannot be, and unknown names.
    """
    raw = canonical(alignment) == GLOBAL
    entered, kappa = read_residual(residual, normed=True), S.One if raw else read_kappa(alignment)
    names = (_named(entered), GLOBAL if raw else _named_alignment(kappa))

    def axis(optimizers: Optimizers) -> Axis:
        return depth_axis(optimizers, entered, kappa, decay)

    return _prescribed(optimizer, axis, names, constants, decay, raw)


def along_batch(
    optimizer: str,
    rule: str,
    held: Held,
    horizon: Horizon = "none",
    *,
    constants: tuple[float, float, float] = UNTUNED,
    decay: Decay = "independent",
) -> Prescribed:
    """The setting along the batch, betas held: "rule", as derive prescribes, or "global", one raw rate.

    Where steps are held, tokens grow as the batch does, and what `horizon` says of them comes on top. DeriveError for
    another rule, and for a horizon where tokens do not move.
    """
    raw = canonical(rule) == GLOBAL
    if not raw and canonical(rule) != RULE:
        raise DeriveError(f"--alignment {shorten(rule)} is not known along the batch; give {RULE}, {GLOBAL} or both")
    if horizon != "none" and held == "tokens":
        raise DeriveError(f"--horizon {horizon} goes with --hold steps: where tokens are held, no run gets longer")

    def axis(optimizers: Optimizers) -> Axis:
        batch = batch_axis(optimizers, "constant", decay)
        if held == "tokens":
            return batch
        tokens = tokens_axis(batch, horizon)
        rows = {kind: _sum(row, tokens.rows[kind]) for kind, row in batch.rows.items()}
        return replace(batch, rows=rows, lines=(*batch.lines, *tokens.lines), notes=(*batch.notes, *tokens.notes))

    shown = RULE if horizon == "none" else f"{RULE} {horizon}"
    return _prescribed(optimizer, axis, ("batch", GLOBAL if raw else shown), constants, decay, raw)


def at_widths(
    settings: Sequence[Prescribed], widths: Sequence[int], base: int, parameterization: str, *, clip: bool = False
) -> tuple[Prescribed, ...]:
    """The settings once for every width, the smallest first: their factors times those of the width.

    These are of full alignment, or none on the rates where a setting is global. At the base width there are none.
    """

    def at(each: Prescribed, width: int) -> Prescribed:
        setting = each.setting
        kind = GLOBAL if setting.alignment == GLOBAL else "full"
        wide = prescribed(setting.optimizer, parameterization, kind, decay=setting.decay, clip=clip).setting  # type: ignore[arg-type]
        layers = wide.layers
        if width == base:  # where all settings agree, and so that those which do are trained once
            layers = tuple(replace(layer, a="0", b="0", c="0", epsilon=None, decay="0") for layer in layers)
        across = Across(width, base, wide.parameterization, layers)
        return replace(each, setting=replace(setting, across=across))

    return tuple(at(each, width) for width in widths for each in settings)


def _prescribed(
    optimizer: str,
    axis_of: Callable[[Optimizers], Axis],
    names: tuple[str, str],
    constants: tuple[float, float, float],
    decay: Decay,
    raw: bool,
) -> Prescribed:
    """The setting of what an axis says of an optimizer, at the one width where factors of the width are 1."""
    if decay not in DECAYS:
        raise DeriveError(f"--decay {decay} is a power of the width, which stays; give {', '.join(DECAYS)}")
    base = solve_kinds(prescribe(optimizer, "sp").problem)
    rules = base.problem.optimizers
    check_trainable({kind: spelled(row) for kind, row in rules.items()})
    axis = axis_of(rules)
    if raw:
        axis = _at_one_rate(axis, decay)
    prescription = replace(base, axes=(axis,), notes=axis.notes)
    layers = tuple(
        _scaling(label, spelled(rules[layer.kind]), axis.row(layer.kind, part))
        for label, layer, part in parts(prescription)
    )
    return Prescribed(Setting(prescription.optimizer_name, *names, layers, constants, decay), prescription)


def _scaling(label: str, rule: str, row: AxisRow) -> LayerScaling:
    """One layer's exponents along the axis, as text; those that the axis does not have are 0."""
    exact(label, row.a, row.b, row.c, row.epsilon, row.decay)
    a, b = (S.Zero if each is None else each for each in (row.a, row.b))
    epsilon = None if row.epsilon is None else str(row.epsilon)
    return LayerScaling(label, rule, str(a), str(b), str(row.c), epsilon, str(row.decay))


def _at_one_rate(axis: Axis, decay: Decay) -> Axis:
    """The same network with the raw rate of the base size everywhere; what follows the gradient stays."""

    def raw(row: AxisRow) -> AxisRow:
        kept = row.decay + DECAYS[decay] * row.c  # what decay follows beside the rate: the memory in examples
        return replace(row, c=S.Zero, decay=kept + decay_exponent(decay, S.Zero))

    rows = {kind: raw(row) for kind, row in axis.rows.items()}
    return replace(axis, rows=rows, out=None if axis.out is None else raw(axis.out), notes=())


def _sum(one: AxisRow, other: AxisRow) -> AxisRow:
    """The row where both sizes grow alike: their exponents add up."""

    def both(name: str) -> Expr | None:
        values = [getattr(row, name) for row in (one, other)]
        return None if None in values else sum(values, S.Zero)

    named = {name: both(name) for name in ("c", "decay", "epsilon", "epsilon2", "beta")}
    return replace(one, **named)  # type: ignore[arg-type]


def _named(residual: Residual) -> str:
    """Such as CompleteP, depth-muP, delta 3/4, init 1/2."""
    if residual.at_start:
        return f"init {text(residual.delta)}"
    names = {HALF: "depth-muP", S.One: "CompleteP"}
    return names.get(residual.delta, f"delta {text(residual.delta)}")


def _named_alignment(kappa: Expr) -> str:
    return {S.One: "full", HALF: "none"}.get(kappa, f"kappa {text(kappa)}")
