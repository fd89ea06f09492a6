"""Settings of a transfer study from names: each a prescription of `derive`, and which of them train alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, S

from derive.emit import layer_names
from derive.errors import DeriveError, canonical
from derive.exponents import KINDS
from derive.parameterizations import equivalent
from derive.propagation import Problem
from derive.solve import Decay, Prescription, prescribe, solve, solve_kinds
from verify.optimizers import check_trainable, exact
from verify.studies import GLOBAL, LayerScaling, Setting

UNTUNED = (1.0, 1.0, 1.0)


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
    epsilon: float | None = None,
    constant_epsilon: bool = False,
) -> Prescribed:
    """The setting of that triple; alignment "global" keeps everything of "full" but the rates, whose c is 0.

    `epsilon` is its value at the base width, the same at every width with `constant_epsilon` (e = 0; the rates stay
    those of a negligible one); `decay` is the convention of decoupled weight decay. One row stands for all hidden
    layers, or `hidden_layers` rows where depth makes them differ or the alignment names them singly. DeriveError for
    unknown names, for optimizers that cannot be trained here, for exponents with symbols and for an alignment of
    another depth.
    """
    raw = canonical(alignment) == GLOBAL
    prescription = prescribe(optimizer, parameterization, "full" if raw else alignment, clip_global_norm=clip)
    check_trainable({kind: row.name for kind, row in prescription.problem.optimizers.items()})
    prescription = _of_depth(prescription.problem, hidden_layers, decay)
    if raw:
        flat = tuple(replace(layer, c=S.Zero, decay=S.Zero) for layer in prescription.layers)
        prescription = replace(prescription, layers=flat)
    if constant_epsilon:
        fixed = tuple(
            layer if layer.epsilon is None else replace(layer, epsilon=S.Zero) for layer in prescription.layers
        )
        prescription = replace(prescription, layers=fixed)
    layers = []
    for label, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        rule = prescription.problem.optimizers[layer.kind].name
        exact(label, layer.c, layer.epsilon, layer.decay)
        scaled = None if layer.epsilon is None else str(layer.epsilon)
        layers.append(LayerScaling(label, rule, str(layer.a), str(layer.b), str(layer.c), scaled, str(layer.decay)))
    name = GLOBAL if raw else prescription.problem.alignment.name
    scheme = prescription.problem.parameterization.name
    width_rule = "constant" if constant_epsilon else "per layer"
    setting = Setting(prescription.optimizer_name, scheme, name, tuple(layers), constants, decay, epsilon, width_rule)
    return Prescribed(setting, prescription)


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


def check_effect(each: Prescribed, *, epsilon: bool) -> None:
    """Raise DeriveError where an epsilon was given and no rule of the optimizer has one."""
    if epsilon and all(layer.epsilon is None for layer in each.setting.layers):
        raise DeriveError(f"--epsilon has no effect on {each.setting.optimizer}, which has none; leave it out")


def train_alike(first: Prescribed, second: Prescribed, *, decays: bool, clips: bool) -> bool:
    """Whether the two train alike, step for step: the shifts of `derive equivalent` turn one into the other.

    c' = c + rate shift, e' = e + epsilon shift and, where weights decay, eta lambda unchanged. A clipping threshold
    does not follow a gauge shift of the gradients, so that with clipping only equal exponents are alike.
    """
    if first.setting.content() == second.setting.content():
        return True
    one, other = first.prescription, second.prescription
    rules = [layer.rule for layer in first.setting.layers]
    if clips or first.setting.constants != second.setting.constants:
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
