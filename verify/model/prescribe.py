"""The prescription for make(width) -> (params, apply, inputs): from its graph and the program's solution to rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from sympy import Rational

from derive.alignments import Alignment, Ratios, measured_by_op
from derive.alignments import alignment as read_alignment
from derive.decays import Decay, decay_exponent, read_decay
from derive.errors import DeriveError, unknown_name
from derive.optimizers import Optimizer
from derive.parameterizations import Parameterization
from derive.parameterizations import parameterization as read_parameterization
from derive.propagation import LOSSES, Loss
from derive.registry import joined, spelled
from derive.registry import optimizers as read_optimizers
from verify.model.graph.graph import ZERO, Graph, Use, roles_note
from verify.model.graph.rates import Rates, solve_graph
from verify.model.graph.start import Wanted, key, started_as
from verify.model.make import Drawn, Make, drawn, graph_of, matching
from verify.model.prescription import GAUGES, Gauge, ModelPrescription
from verify.model.rows import NOT_TRAINED, OpRow, ParameterRow, every_turn
from verify.values import Tree


def prescribe(
    make: Make,
    *,
    base_width: int,
    width: int,
    optimizer: str | Optimizer | Mapping[str, str | Optimizer] = "adam",
    parameterization: str | Parameterization = "mup",
    alignment: str | Alignment | Mapping[str, Ratios] = "full",
    loss: Loss = "mse",
    decay: Decay = "independent",
    gauge: Gauge = "0",
    frozen: Sequence[str] = (),
    apart: Mapping[str, int] | None = None,
    forward_only: bool = False,
    base_depth: int | None = None,
    depth: int | None = None,
    depth_alignment: str = "full",
    residual: str | None = None,
) -> ModelPrescription:
    """The prescription for make(width) -> (params, apply, inputs), tuned at `base_width` and wanted at `width`.

    Roles come from how dimensions grow between the two widths, rates from the linear program over the function's
    graph (docs/theory.md, section 4). `alignment` may be a mapping from names of dense ops to Ratios, or
    `measured:FILE` as `verify check` wrote it. `gauge` "0" leaves the model's own multipliers as they are and asks for
    none; "own" puts the parameterization's in, and `wrap` applies them. `frozen` are paths of parameters that are not
    trained, beginnings of paths or patterns with `*`; they and those that no gradient reaches are rows "not trained".
    A matrix rule, such as Muon, takes [in, heads, d] as one matrix; `apart` names axes along which every index is a
    matrix of its own, by paths as in `frozen`: `{"*.query": 1}` for one per head. `forward_only` says that multipliers,
    those in the code and the parameterization's, are in no gradient of the parameter that they multiply, as in unit
    scaling. With `base_depth` and `depth` it is make(width, depth), whose blocks match by their paths without numbers
    or by the leading axis of a scan, and rates follow depth too: `depth_alignment` as in derive (docs/theory.md,
    section 9); `residual` is the delta of every branch, put in by `wrap`. DeriveError for the undecided.
    """
    _check(loss, gauge, residual, base_depth, depth)
    deeper = None
    if base_depth is not None or depth is not None:
        from verify.model.depth.prescribe import Deeper, at_depth

        deeper = Deeper(make, base_width, base_depth, depth, depth_alignment, read_decay(decay), residual)
        make = at_depth(make, deeper.depth)
    graph, model, shapes = graph_of(make, base_width, width, frozen)
    measured, name, assumed = _alignments(alignment, graph)
    scheme = read_parameterization(parameterization) if isinstance(parameterization, str) else parameterization
    axes = {path: axis for each, axis in (apart or {}).items() for path in matching(model.params, [each], "apart")}
    wanted = Wanted(read_optimizers(optimizer), scheme, assumed, loss, gauge == "own", measured, axes, forward_only)
    asked = _Asked(base_width, width, name, read_decay(decay), gauge)
    found = _assembled(graph, solve_graph(graph, wanted), wanted, drawn(model.params), shapes, asked)
    return found if deeper is None else deeper.along_depth(found)


def _check(loss: str, gauge: str, residual: str | None, *depths: int | None) -> None:
    """DeriveError for names that are not known, and a multiplier without a depth."""
    if loss not in LOSSES or gauge not in GAUGES:
        raise DeriveError(f"loss is one of {LOSSES}, gauge of {GAUGES}; got {loss}, {gauge}")
    if residual is not None and depths == (None, None):
        raise DeriveError("--residual goes with --base-depth and --depth; give both")


def _alignments(
    alignment: str | Alignment | Mapping[str, Ratios], graph: Graph
) -> tuple[Mapping[str, Ratios], str, Alignment]:
    """(those measured by dense op, what they are called, those assumed where none were); DeriveError for other ops."""
    if isinstance(alignment, str) and alignment.strip().lower().startswith("measured:"):
        name = alignment.strip()
        measured, assumed = measured_by_op(Path(name[len("measured:") :])), read_alignment("full")
    elif isinstance(alignment, Mapping):
        measured, name, assumed = alignment, "measured", read_alignment("full")
    else:
        assumed = read_alignment(alignment) if isinstance(alignment, str) else alignment
        measured, name = {}, assumed.name
    dense = [use.name for use in graph.uses if use.is_dense]
    unknown = measured.keys() - {*dense}
    if unknown:
        raise unknown_name("dense op in the alignments", min(unknown), dense)
    return measured, name, assumed


@dataclass(frozen=True)
class _Asked:
    """What the prescription is for, beside what the program was solved with."""

    base_width: int
    width: int
    alignment: str
    decay: Decay
    gauge: Gauge


def _assembled(
    graph: Graph,
    rates: Rates,
    wanted: Wanted,
    starts: Mapping[str, Drawn | None],
    structure: Tree,
    asked: _Asked,
) -> ModelPrescription:
    multipliers = {key(use): rates.uses[key(use)].extra for use in graph.uses if rates.uses[key(use)].extra}
    multipliers |= {name: extra for name, extra in rates.products.items() if extra}
    solution = rates.solution
    certificate = {
        "optimum": str(solution.optimum),
        "variables": len(rates.objective),
        "constraints": len(rates.rows),
        "duals": {name: str(y) for name, y in solution.certificate.duals.items()},
    }
    return ModelPrescription(
        asked.base_width,
        asked.width,
        joined({kind: replace(row, name=spelled(row)) for kind, row in wanted.optimizers.items()}),
        wanted.parameterization.name,
        asked.alignment,
        wanted.loss,
        asked.decay,
        asked.gauge,
        _parameter_rows(graph, rates, wanted, starts, asked.decay),
        _op_rows(graph, rates),
        multipliers,
        (*rates.notes, *_odd_fans(graph), *_multiplier_notes(graph, multipliers)),
        certificate,
        wanted.forward_only,
        graph.places,
        structure,
        solution.certificate,
    )


def _parameter_rows(
    graph: Graph, rates: Rates, wanted: Wanted, starts: Mapping[str, Drawn | None], decay: Decay
) -> tuple[ParameterRow, ...]:
    """What is said of every parameter, trained or not."""
    uses = graph.of_path()
    rows = []
    for path in graph.shapes:
        found = rates.parameters.get(path)
        start = starts[path]
        if found is None:
            rows.append(_untrained(graph, rates, path, start, [key(use) for use in uses[path]]))
            continue
        rows.append(
            ParameterRow(
                path,
                *graph.shapes[path],
                found.role,
                _why(uses[path], rates),
                spelled(wanted.optimizers[found.role]),
                start and start.mean,
                start and start.std,
                found.a,
                found.found,
                found.b,
                found.c,
                found.g,
                found.s,
                found.epsilon,
                Fraction(str(decay_exponent(decay, Rational(found.c)))),
                found.binding,
                tuple(key(use) for use in uses[path]),
                *(found.axes or ((), ())),
            )
        )
    return tuple(rows)


def _op_rows(graph: Graph, rates: Rates) -> tuple[OpRow, ...]:
    """What is said of every dense op, in the order of execution."""
    rows = []
    for use in graph.uses:
        if use.is_dense:
            it = rates.uses[use.name]
            fans = (use.fan_in.base, use.fan_in.target), (use.fan_out.base, use.fan_out.target)
            ratios, after = (it.alpha, it.omega, it.u), (use.trailing or ZERO) + it.extra
            rows.append(OpRow(use.name, use.path, it.kind, *fans, *ratios, it.size, it.r, after, it.terms))
    return tuple(rows)


def _untrained(graph: Graph, rates: Rates, path: str, start: Drawn | None, uses: list[str]) -> ParameterRow:
    """The row of a parameter to which no gradient flows."""
    why = "frozen" if path in graph.stopped else "no gradient reaches it" if uses else "not used"
    size = graph.untrained[path] if path in graph.untrained else rates.starts[path]
    exponents = (ZERO, ZERO, size, ZERO, ZERO, ZERO, None, ZERO)  # a, found, b, c, g, s, epsilon, decay
    drawn = (start and start.mean, start and start.std)
    return ParameterRow(path, *graph.shapes[path], NOT_TRAINED, why, "none", *drawn, *exponents, (), tuple(uses))


def _why(uses: list[Use], rates: Rates) -> str:
    """What shows the role: the fans and where the output goes."""
    reasons = []
    for use in uses:
        kind = rates.uses[key(use)].kind
        if not use.is_dense:
            reasons.append("added or multiplied entry by entry" if use.fan_out.grows else "a vector that does not grow")
        elif use.primitive == "gather":
            reasons.append(f"a lookup of rows of {use.fan_out}")
        else:
            where = {
                "embedding": "its fan-in stays",
                "hidden": "feeds further layers",
                "readout": "goes to the output",
            }[kind]
            as_readout = ", starts as a readout" if started_as(use, kind) != kind else ""
            reasons.append(f"fan-in {use.fan_in}, fan-out {use.fan_out}, {where}{as_readout}")
    counted = {reason: reasons.count(reason) for reason in reasons}
    return "; ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counted.items())


def _odd_fans(graph: Graph) -> list[str]:
    """A line for every dimension that grows neither as the width nor not at all."""
    found: dict[str, list[str]] = {}
    for use in graph.uses:
        for side, fan in (("fan-in", use.fan_in), ("fan-out", use.fan_out)):
            for line in roles_note([fan]):
                found.setdefault(f"{side} {line}", []).append(use.path)
    return [
        f"{paths[0]}"
        + (f" and {len(set(paths)) - 1} more" if len(set(paths)) > 1 else "")
        + f": {line}, not as the width or not at all; its exponents are by that power"
        for line, paths in found.items()
    ]


def _multiplier_notes(graph: Graph, multipliers: Mapping[str, Fraction]) -> list[str]:
    """Why single products need multipliers; those of a loop's turns are one line."""
    fans = {product.name: product.fan_in for product in graph.products}
    paths = {key(use): use.path for use in graph.uses}
    lines = []
    for name, extra in multipliers.items():
        if name in fans:
            why = f"sums {fans[name]} entries of two activations, which may align"
        else:
            why = f"is of {paths[name]}, whose other use rules its size"
        needed = f"it needs n^{-extra} beside what the code has, which wrap(apply) puts in"
        lines.append(f"the product {every_turn(name)} {why}: {needed}")
    return list(dict.fromkeys(lines))
