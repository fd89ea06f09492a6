"""Settings of a transfer study from names: each a prescription of `derive`, and which of them train alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sympy import Expr, S

from derive.decays import Decay
from derive.emit import layer_names
from derive.errors import DeriveError, canonical, shorten
from derive.parameterizations import equivalent
from derive.propagation import Problem
from derive.registry import spelled
from derive.solve import Prescription, prescribe, solve, solve_kinds
from derive.words import KINDS
from verify.sweeps.records import GLOBAL, GROWTH, ONLINE, LayerScaling, Setting
from verify.sweeps.settings.one_rate import at_one_rate
from verify.training.rules.directions import check_trainable
from verify.training.rules.transforms import exact

EpsilonRule = Literal["scaled", "constant"]
UNTUNED = (1.0, 1.0, 1.0)
LARGEST_GROWTH = 10**6


@dataclass(frozen=True)
class Prescribed:
    """A setting and the prescription that it came from."""

    setting: Setting
    prescription: Prescription


def prescribed(
    optimizer: str,
    parameterization: str,
    alignment: str,
    *,
    clip: bool = False,
    constants: tuple[float, float, float] = UNTUNED,
    hidden_layers: int | None = None,
    decay: Decay = "independent",
) -> Prescribed:
    """The setting of that triple; alignment "global" keeps everything of "full" but the rates, whose c is 0.

    "measured-online" begins as "full" and measures after steps 1, k, k^2, ...; k is 3, or 2 in "measured-online:2".
    `decay` is the convention of decoupled weight decay. One row stands for all hidden
    layers, or `hidden_layers` rows where depth makes them differ or the alignment names them singly. DeriveError for
    unknown names, for optimizers that cannot be trained here, for exponents with symbols and for an alignment of
    another depth.
    """
    raw, online = canonical(alignment) == GLOBAL, _growth(alignment)
    assumed = "full" if raw or online else alignment
    prescription = prescribe(optimizer, parameterization, assumed, clip_global_norm=clip)
    check_trainable({kind: spelled(row) for kind, row in prescription.problem.optimizers.items()})
    if online and hidden_layers is not None:  # the rates of layers that start alike will differ
        prescription = solve(replace(prescription.problem, hidden_layers=hidden_layers), decay)
    else:
        prescription = _of_depth(prescription.problem, hidden_layers, decay)
    if raw:
        prescription = at_one_rate(prescription)
    layers = []
    for label, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        rule = spelled(prescription.problem.optimizers[layer.kind])
        exact(label, layer.c, layer.epsilon, layer.decay)
        scaled = None if layer.epsilon is None else str(layer.epsilon)
        layers.append(LayerScaling(label, rule, str(layer.a), str(layer.b), str(layer.c), scaled, str(layer.decay)))
    name = prescription.problem.alignment.name
    if online:
        name = ONLINE if online == GROWTH else f"{ONLINE}:{online}"
        follows = f"after steps 1, {online}, {online**2}, ... alignments are measured, and the rates follow them"
        prescription = replace(prescription, notes=(*prescription.notes, f"{name} begins as full; {follows}"))
    scheme = prescription.problem.parameterization.name
    labels = (prescription.optimizer_name, scheme, name)
    setting = Setting(*labels, tuple(layers), constants, prescription.decay, online=online)
    return Prescribed(setting, prescription)


def _growth(alignment: str) -> int | None:
    """k of measured-online:k, None for every other alignment; DeriveError where k is no whole number from 2."""
    name, colon, growth = alignment.partition(":")
    if canonical(name) != canonical(ONLINE):
        return None
    if not colon:
        return GROWTH
    if not (growth.isdecimal() and 2 <= int(growth) <= LARGEST_GROWTH):
        raise DeriveError(
            f"alignment {shorten(alignment)} is not allowed; give {ONLINE}, or {ONLINE}:k with a whole number k from 2 "
            f"to {LARGEST_GROWTH}: alignments are measured after steps 1, k, k^2, ..."
        )
    return int(growth)


def _of_depth(problem: Problem, hidden_layers: int | None, decay: Decay) -> Prescription:
    named = problem.alignment.hidden_layers
    if named is not None and named != hidden_layers:
        network = "this model's layers cannot be named" if hidden_layers is None else f"the network has {hidden_layers}"
        raise DeriveError(f"alignment {problem.alignment.name} is of {named} hidden layers and {network}; give another")
    if hidden_layers is None:
        if problem.alignment.layers:
            raise DeriveError(
                f"alignment {problem.alignment.name} names single layers, which this model has not; use hidden"
            )
        return solve_kinds(problem, decay)
    listed = solve(replace(problem, hidden_layers=hidden_layers), decay)
    by_kind = solve_kinds(problem, decay)
    of_kind = {layer.kind: layer for layer in by_kind.layers}
    alike = all(
        (layer.c, layer.epsilon) == (of_kind[layer.kind].c, of_kind[layer.kind].epsilon) for layer in listed.layers
    )
    return replace(by_kind, notes=listed.notes) if alike else listed


def check_effect(settings: Sequence[Prescribed], *, epsilon: bool) -> None:
    """Raise DeriveError where an epsilon was given and no rule of any optimizer has one."""
    if epsilon and all(layer.epsilon is None for each in settings for layer in each.setting.layers):
        names = ", ".join(dict.fromkeys(each.setting.optimizer for each in settings))
        raise DeriveError(f"--epsilon has no effect on {names}, which has none; leave it out")


def check_starts(each: Prescribed, *, zero_init: bool) -> None:
    """Raise DeriveError where weights start at 0 and the optimizer's steps are in proportion to their size."""
    rows = each.prescription.problem.optimizers
    if zero_init and any(rows[kind].weight_degree.is_positive for kind in ("hidden", "readout")):
        raise DeriveError(
            f"--zero-init would leave queries and readout at 0 with {each.setting.optimizer}, whose steps are in "
            "proportion to the weights; leave it out, or give another optimizer"
        )


def at_horizons(settings: Sequence[Prescribed], horizons: Sequence[int]) -> tuple[Prescribed, ...]:
    """The settings once for every number of steps, the fewest first; as they are where there is only one."""
    if len(horizons) == 1:
        return tuple(settings)
    return tuple(replace(each, setting=replace(each.setting, steps=steps)) for steps in horizons for each in settings)


def at_epsilons(
    settings: Sequence[Prescribed], values: Sequence[float | None], rules: Sequence[EpsilonRule]
) -> tuple[Prescribed, ...]:
    """The settings once for every epsilon of the base width (None: the usual one) with every rule for larger ones.

    scaled is what `derive` prescribes per layer; constant keeps the value (e = 0) and the rates as they are. Settings
    of an optimizer that has no epsilon are there once.
    """
    found: list[Prescribed] = []
    for each in settings:
        if all(layer.epsilon is None for layer in each.setting.layers):
            found.append(each)
            continue
        for rule in rules:
            ruled = each if rule == "scaled" else _with_constant_epsilon(each)
            found += [replace(ruled, setting=replace(ruled.setting, epsilon=value)) for value in values]
    return tuple(found)


def _with_constant_epsilon(each: Prescribed) -> Prescribed:
    """The same with e = 0 in all layers that have an epsilon."""
    rows = tuple(row if row.epsilon is None else replace(row, epsilon=S.Zero) for row in each.prescription.layers)
    layers = tuple(layer if layer.epsilon is None else replace(layer, epsilon="0") for layer in each.setting.layers)
    across = each.setting.across
    if across is not None:  # the width of a grid has factors of its own
        across = replace(across, layers=tuple(replace(layer, epsilon=None) for layer in across.layers))
    setting = replace(each.setting, layers=layers, epsilon_rule="constant", across=across)
    return Prescribed(setting, replace(each.prescription, layers=rows))


def train_alike(first: Prescribed, second: Prescribed, *, decays: bool, clips: bool) -> bool:
    """Whether the two train alike, step for step: the shifts of `derive equivalent` turn one into the other.

    c' = c + rate shift, e' = e + epsilon shift and, where weights decay, eta lambda unchanged. A clipping threshold
    does not follow a gauge shift of the gradients, so that with clipping only equal exponents are alike. Alignments
    measured online are ratios, which no gauge shift changes: what is alike at first stays so. Along other axes than the
    width only equal exponents are.
    """
    if first.setting.content() == second.setting.content():
        return True
    if first.prescription.axes or second.prescription.axes:  # shifts are those of the width
        return False
    if (first.setting.online, first.setting.steps) != (second.setting.online, second.setting.steps):
        return False
    if decays and first.setting.online and first.setting.decay != second.setting.decay:
        return False
    one, other = first.prescription, second.prescription
    rules = [layer.rule for layer in first.setting.layers]
    if clips or first.setting.constants != second.setting.constants or first.setting.epsilon != second.setting.epsilon:
        return False
    if rules != [layer.rule for layer in second.setting.layers]:
        return False
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        index = KINDS.index(ours.kind)
        shifts = equivalent(
            one.problem.parameterization, other.problem.parameterization, one.problem.optimizers[ours.kind]
        )
        if shifts.rate_shift is None:
            return False
        moved = shifts.rate_shift[index]
        if not _equal(theirs.c, ours.c + moved) or (decays and not _equal(theirs.decay, ours.decay - moved)):
            return False
        scaled = shifts.epsilon_shift
        if scaled and ours.epsilon is not None and theirs.epsilon is not None:
            alike = _equal(theirs.epsilon, ours.epsilon + scaled[index])
            if not alike:
                return False
    return True


def _equal(left: Expr, right: Expr) -> bool:
    return (left - right).is_zero is True


def representatives(settings: Sequence[Prescribed], *, decays: bool, clips: bool) -> Mapping[str, str]:
    """For every setting that trains like an earlier one of the list, the name of that one."""
    kept: list[Prescribed] = []
    trained_as: dict[str, str] = {}
    for each in settings:
        twin = next((one for one in kept if train_alike(one, each, decays=decays, clips=clips)), None)
        if twin is None:
            kept.append(each)
        else:
            trained_as[each.setting.name] = twin.setting.name
    return trained_as
