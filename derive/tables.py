"""What the sub-commands print: the whole table, constraints, equivalences, checks and listings."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sympy import Expr, latex

from derive import emit, terminal
from derive.alignments import ASSUMPTIONS
from derive.emit_latex import exponent_latex, fitted, latex_escape, lines_latex
from derive.epsilon import Onset
from derive.parameterizations import SCHEMES, Parameterization, equivalent
from derive.propagation import Optimizers, Problem, general_constraints, own_change
from derive.registry import REGISTRY
from derive.rule_language import RULE_FUNCTIONS, RULE_NAMES
from derive.solve import Prescription, residuals_at, solve, solve_kinds
from derive.words import KINDS, text

Problems = Sequence[Sequence[Problem]]


def _prescriptions(problems: Problems, listed: bool) -> list[list[Prescription]]:
    return [[(solve if listed else solve_kinds)(problem) for problem in row] for row in problems]


Cell = TypeVar("Cell")


def whole_table(
    problems: Problems, listed: bool, cell: Callable[[Expr], Cell]
) -> tuple[list[str], list[list[str | Cell]], list[int]]:
    """(columns, rows, first row of every parameterization), rows laid out as the paper lays them.

    Every row of `problems` is one parameterization; `cell` says how an exponent is written.
    """
    columns = ["parameterization", "layer", "a", "b", "gradient"]
    rows: list[list[str | Cell]] = []
    sections: list[int] = []
    for answers in _prescriptions(problems, listed):
        if not sections:
            columns += [f"{each.optimizer_name} {each.problem.alignment.name}" for each in answers]
        sections.append(len(rows))
        first = answers[0]
        for index, name in enumerate(emit.layer_names(first)):
            layer = first.layers[index]
            rates = [cell(each.layers[index].c) for each in answers]
            rows.append(
                [first.problem.parameterization.name, name, cell(layer.a), cell(layer.b), cell(layer.g), *rates]
            )
    return columns, rows, sections


def _table(problems: Problems, listed: bool) -> str:
    columns, rows, sections = whole_table(problems, listed, str)
    heading = "Multiplier n^-a, initial standard deviation n^-b, gradient n^-g, and the largest stable rates n^-c"
    return f"{heading}\n{emit.terminal_table(columns, emit.unrepeated(rows), sections, 2)}\n"


def _json(problems: Problems, listed: bool) -> str:
    answers = [emit.as_json(each) for row in _prescriptions(problems, listed) for each in row]
    return emit.dump({"schema": 1, "command": "table", "prescriptions": answers})


def _csv(problems: Problems, listed: bool) -> str:
    columns, rows, _ = whole_table(problems, listed, str)
    return emit.csv_text(columns, rows)


def _markdown(problems: Problems, listed: bool) -> str:
    columns, rows, _ = whole_table(problems, listed, str)
    return emit.markdown_text(columns, emit.unrepeated(rows))


def _latex(problems: Problems, listed: bool) -> str:
    columns, rows, sections = whole_table(problems, listed, exponent_latex)
    return fitted([latex_escape(column) for column in columns], emit.unrepeated(rows), sections, keys=2)


FORMATS: dict[str, Callable[[Problems, bool], str]] = {
    "table": _table,
    "json": _json,
    "csv": _csv,
    "markdown": _markdown,
    "latex": _latex,
}


def relation_text(relation: Any) -> str:
    """A relation of `general_constraints` as it could be typed."""
    sign = {"Equality": "=", "GreaterThan": ">=", "LessThan": "<="}[type(relation).__name__]
    return f"{text(relation.lhs)} {sign} {text(relation.rhs)}"


def relation_latex(relation: Any) -> str:
    """sympy's LaTeX, with subscripts such as {L+1} kept on Greek letters too."""
    greek = {"alpha", "omega"}
    names = {}
    for symbol in relation.free_symbols:
        letter, _, subscript = symbol.name.partition("_")
        names[symbol] = ("\\" if letter in greek else "") + f"{letter}_{{{subscript.strip('{}')}}}"
    return latex(relation, symbol_names=names, fold_short_frac=True).replace(" / ", "/")


def _constraints_table(optimizers: Optimizers) -> str:
    found = general_constraints(optimizers)
    width = max(len(meaning) for meaning, _ in found)
    lines = [f"({n}) {meaning:<{width}}  {relation_text(rel)}" for n, (meaning, rel) in enumerate(found, 1)]
    return "Sizes are n^-exponent; l is a hidden layer, L the last of them\n" + "\n".join(lines) + "\n"


def _constraints_json(optimizers: Optimizers) -> str:
    rows = [{"relation": relation_text(rel), "meaning": why} for why, rel in general_constraints(optimizers)]
    return emit.dump({"schema": 1, "command": "constraints", "rows": rows})


def _constraints_markdown(optimizers: Optimizers) -> str:
    rows = [
        [str(n), f"${relation_latex(rel)}$", why] for n, (why, rel) in enumerate(general_constraints(optimizers), 1)
    ]
    return emit.markdown_text(["number", "constraint", "meaning"], rows)


def _constraints_latex(optimizers: Optimizers) -> str:
    found = enumerate(general_constraints(optimizers), 1)
    return lines_latex([(relation_latex(rel), f"({n}) {latex_escape(why)}") for n, (why, rel) in found])


CONSTRAINT_FORMATS: dict[str, Callable[[Optimizers], str]] = {
    "table": _constraints_table,
    "json": _constraints_json,
    "markdown": _constraints_markdown,
    "latex": _constraints_latex,
}


def equivalence(first: Parameterization, second: Parameterization, optimizers: Optimizers, output: str) -> str:
    """Whether the two train alike under these optimizers, with the shift of every layer kind."""
    per_kind = [equivalent(first, second, optimizers[kind], [kind]) for kind in KINDS]
    obstacle = next((answer.obstacle for answer in per_kind if answer.obstacle), None)
    rows: list[dict[str, str | None]] = []
    if obstacle is None:
        for index, (kind, answer) in enumerate(zip(KINDS, per_kind, strict=True)):
            assert answer.theta is not None and answer.rate_shift is not None  # noqa: S101
            epsilons = {"epsilon": answer.epsilon_shift, "epsilon2": answer.epsilon2_shift}
            shown = {name: str(shift[index]) if shift else None for name, shift in epsilons.items()}
            rows.append({"kind": kind, "theta": str(answer.theta[index]), "c": str(answer.rate_shift[index]), **shown})
    two = any(row["epsilon2"] is not None for row in rows)
    rows = rows if two else [{name: cell for name, cell in row.items() if name != "epsilon2"} for row in rows]
    if output == "json":
        return emit.dump(
            {
                "schema": 1,
                "command": "equivalent",
                "first": first.name.lower(),
                "second": second.name.lower(),
                "equivalent": obstacle is None,
                "obstacle": obstacle,
                "shifts": rows,
            }
        )
    if obstacle is not None:
        return f"{first.name} and {second.name} are not equivalent: {obstacle}.\n"
    grid = emit.terminal_table(
        ["layer", "theta", "add to c", "add to e", *(["add to e of eps2"] if two else [])],
        [[cell or "-" for cell in row.values()] for row in rows],
    )
    alike = "at large width" if any(row.has_threshold for row in optimizers.values()) else "step for step"
    return (
        f"{first.name} and {second.name} train alike, {alike}: from {first.name} to {second.name}, "
        f"(a, b) becomes (a + theta, b - theta)\n{grid}\n"
    )


UNDECIDED = "depends on the symbols"


def checked_rates(problem: Problem, rates: Sequence[Expr], output: str, *, listed: bool) -> str:
    """The residuals at the user's own rates beside the largest stable ones, and what they mean."""
    residuals = residuals_at(problem, rates)
    best = solve(problem)
    names = emit.layer_names(best) if listed else _generic_names(problem)
    rows: list[dict[str, str]] = []
    for index, (name, rate, r) in enumerate(zip(names, rates, residuals, strict=True)):
        free = problem.loss == "ce" and index == len(rates) - 1
        verdict = _verdict(
            r, own_change(problem.chain(), problem.changes(rates), residuals, index), free, len(set(rates)) > 1
        )
        rows.append({"layer": name, "c": text(rate), "largest": text(best.c[index]), "r": text(r), "verdict": verdict})
    diverging = any(row["verdict"].startswith("diverges") for row in rows)
    stable = False if diverging else None if any(row["verdict"] == UNDECIDED for row in rows) else True
    causes = [row["layer"] for row in rows if row["verdict"].startswith("diverges:")]
    learning = (
        "learns features" if residuals[-2].is_zero else "does not learn features" if residuals[-2].is_number else ""
    )
    summary = (
        f"unstable: lower the rate of {', '.join(dict.fromkeys(causes))}"
        if diverging
        else f"{'stable' if stable else 'stable or not, by the value of the symbols'}; {learning}".rstrip("; ")
    )
    if output == "json":
        return emit.dump({"schema": 1, "command": "check", "stable": stable, "summary": summary, "rows": rows})
    columns = ["layer", "your c", "largest stable c", "change r", "verdict"]
    body = emit.terminal_table(columns, [list(row.values()) for row in rows])
    return f"{emit.title(best)}: RMS(Delta z_l) = n^-r\n{body}\n{summary}.\n"


def _generic_names(problem: Problem) -> list[str]:
    return ["embedding", *["hidden"] * problem.hidden_layers, "readout"]


def _verdict(r: Expr, own: Expr, free: bool, per_layer: bool) -> str:
    """One layer's fate; `free` logits may diverge, but with rates per layer not by the readout's own update, or
    nothing would bound its rate (docs/theory.md, section 4)."""
    if r.is_negative:
        grows = f"grows as n^{-r}" if (-r).is_Integer else f"grows as n^({-r})"
        if free and per_layer and own.is_negative:
            return f"diverges: the change {grows} by the readout's own update; cross-entropy bears only W dz"
        if free:
            return f"logits diverge, {grows}, which cross-entropy bears"
        return f"diverges with the layers before it, {grows}" if own.is_nonnegative else f"diverges: the change {grows}"
    if r.is_positive:
        return f"freezes: the change shrinks as n^({-r})"
    if not r.is_zero:
        return (
            "stays finite; whether it moves depends on the symbols"
            if (free and not per_layer) or r.is_nonnegative
            else UNDECIDED
        )
    if own.is_positive:
        return f"moves with the layers before it; its own update shrinks as n^({-own})"
    return "moves at order one"


def epsilon_onsets(found: Sequence[Onset], value: float, base_width: int, output: str) -> str:
    """The width at which epsilon starts to bite, per layer kind."""
    if output == "json":
        rows = [
            {"kind": each.kind, "exponent": str(each.exponent), "size_at_base": each.size, "width": each.width}
            for each in found
        ]
        return emit.dump({"schema": 1, "command": "epsilon", "value": value, "base_width": base_width, "rows": rows})

    def width(each: Onset) -> str:
        if each.width is None:
            return "never" if each.size > value else "at every width"
        return f"{each.width:.4g}" + (" (already below the base width)" if each.width < base_width else "")

    rows = [[each.kind, str(each.exponent), f"{each.size:.3g}", width(each)] for each in found]
    columns = ["layer", "shrinks as n^-", "size at base width", f"meets {value:g} at width"]
    return f"What epsilon is added to, and the width at which they meet\n{emit.terminal_table(columns, rows)}\n"


def _optimizer_rows() -> list[dict[str, str]]:
    return [
        {
            "name": row.name,
            "trained by verify": "yes" if row.trainable else "derive only",
            "update": row.update,
            "source": row.source,
        }
        for row in REGISTRY
    ]


def _scheme_rows() -> list[dict[str, str]]:
    def triple(values: Sequence[Expr]) -> str:
        return ", ".join(map(str, values))

    return [{"name": row.name, "a": triple(row.a), "b": triple(row.b), "source": row.source} for row in SCHEMES]


def _alignment_rows() -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "hidden alpha, omega, u": f"{row.hidden.alpha}, {row.hidden.omega}, {row.hidden.u}",
            "readout alpha, omega, u": f"{row.readout.alpha}, {row.readout.omega}, {row.readout.u}",
        }
        for name, row in ASSUMPTIONS.items()
    ]


MEANINGS = {
    "g": "gradient",
    "g_prev": "gradient of the step before",
    "m": "first moment, degree 1 in the gradient",
    "v": "second moment, degree 2",
    "w": "weights",
    "w0": "initial weights; w - w0 is dw",
    "dw": "w - w0: zero at the first step, and then what the rule has made it",
    "eps": "carries the prescribed exponent, or is constant with --epsilon constant",
    "eps2": "a second eps, with an exponent of its own",
    "sigma": "a singular value, inside spectral",
    "fan_in": "number of inputs",
    "fan_out": "number of outputs",
    "rms": "root mean square of the entries",
    "norm": "Frobenius norm",
    "rownorm": "of each row, the fan_in weights of one output, its norm",
    "colnorm": "of each column, the fan_out weights of one input, its norm",
    "opnorm": "operator norm, the largest singular value",
    "nucnorm": "nuclear norm, the sum of the singular values",
    "first": "moving average of X over steps: first(g) is m",
    "second": "moving average of X**2 over steps, entry by entry: second(g) is v",
    "lowrank": "lowrank(X, r): X with none but its r largest singular values",
    "polar": "orthogonal polar factor; polar(X, blocks=(p, q)) of every block of X, p of rows and q of columns",
    "spectral": "spectral(X, f(sigma)): every singular value sigma of X becomes f(sigma); blocks=(p, q) as in polar",
    "clip": "entries clipped to [-1, 1]",
}


def _rule_rows() -> list[dict[str, str]]:
    names = [*RULE_NAMES, *(f"{function}(...)" for function in RULE_FUNCTIONS)]
    return [{"name": name, "meaning": MEANINGS.get(name.removesuffix("(...)"), "as usual")} for name in names]


LISTS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "optimizers": _optimizer_rows,
    "parameterizations": _scheme_rows,
    "alignments": _alignment_rows,
    "rules": _rule_rows,
}


def listing(what: str, output: str) -> str:
    """Names with what they stand for."""
    rows = LISTS[what]()
    if output == "json":
        return emit.dump({"schema": 1, "command": "list", "rows": rows})
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    limit = terminal.columns()
    if limit is not None and sum(widths.values()) + 2 * (len(widths) - 1) > limit:
        widths = dict.fromkeys(widths, 0)  # aligned columns would not fit; wrapped rows are read one by one
    lines = ["  ".join(text.ljust(widths[key]) for key, text in row.items()).rstrip() for row in rows]
    return "\n".join(["  ".join(key.ljust(width) for key, width in widths.items()).rstrip(), *lines]) + "\n"
