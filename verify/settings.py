"""Settings of a transfer study from names: each a prescription of `derive`, and which of them train alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sympy import Expr, S

from derive.emit import layer_names
from derive.errors import canonical
from derive.exponents import KINDS
from derive.parameterizations import equivalent
from derive.solve import Prescription, prescribe, solve_kinds
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
) -> Prescribed:
    """The setting of that triple; alignment "global" keeps everything of "full" but the rates, whose c is 0.

    DeriveError for unknown names, for optimizers that cannot be trained here and for exponents with symbols.
    """
    raw = canonical(alignment) == GLOBAL
    prescription = prescribe(optimizer, parameterization, "full" if raw else alignment, clip_global_norm=clip)
    check_trainable({kind: row.name for kind, row in prescription.problem.optimizers.items()})
    if prescription.problem.alignment.hidden_layers is None:
        prescription = solve_kinds(prescription.problem)
    if raw:
        flat = tuple(replace(layer, c=S.Zero, decay=S.Zero) for layer in prescription.layers)
        prescription = replace(prescription, layers=flat)
    layers = []
    for label, layer in zip(layer_names(prescription), prescription.layers, strict=True):
        rule = prescription.problem.optimizers[layer.kind].name
        exact(label, layer.c, layer.epsilon, layer.decay)
        epsilon = None if layer.epsilon is None else str(layer.epsilon)
        layers.append(LayerScaling(label, rule, str(layer.a), str(layer.b), str(layer.c), epsilon, str(layer.decay)))
    name = GLOBAL if raw else prescription.problem.alignment.name
    scheme = prescription.problem.parameterization.name
    return Prescribed(Setting(prescription.optimizer_name, scheme, name, tuple(layers), constants), prescription)


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
