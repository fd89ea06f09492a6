"""The derivation of one prescription as a person would write it on a board, as text or LaTeX."""

import re
from dataclasses import dataclass

from sympy import Expr

from derive.emit import layer_names, title, verdict
from derive.emit_latex import latex_escape, lines_latex
from derive.propagation import Constraint, constraints
from derive.recursion import least_residuals
from derive.solve import Layer, Prescription
from derive.words import text

TERMS = re.compile(r"\b(dW dz|dW z|W dz)\b")
"""What a constraint's meaning names, as formulas."""


@dataclass(frozen=True)
class Step:
    """One part of the derivation: what is done, and its lines of (formula, remark).

    Formulas within a heading or a remark stand between backticks.
    """

    heading: str
    lines: tuple[tuple[str, str], ...]


def derivation(prescription: Prescription) -> list[Step]:
    """The steps from the update rule to the rates, every line with the numbers of the constraints it uses."""
    chain = prescription.chain
    numbered = constraints(chain)
    last = chain.depth
    steps = [
        Step(
            f"Layers 1..{last} (`L = {last - 1}`); multiplier `n^-a`, initial standard deviation `n^-b`",
            tuple(
                (
                    f"a_{i} = {layer.a}, b_{i} = {layer.b}",
                    f"{name}: `a+b = {layer.a + layer.b}`, stable at initialisation",
                )
                for i, (name, layer) in enumerate(zip(layer_names(prescription), prescription.layers, strict=True), 1)
            ),
        ),
        Step("Backward: `d loss/d z_L = n^-(a+b)` of the readout, hidden layers preserve it", _gradients(prescription)),
        Step("Update: `Delta W = rate x U`, `RMS(U) = n^-s`", _updates(prescription)),
        Step(
            "Alignments (a matrix rule caps `alpha` and `u` at `p + s + (log_n fan_in - log_n fan_out)/2`)",
            tuple(
                (f"alpha_{i} = {layer.alpha}, omega_{i} = {layer.omega}, u_{i} = {layer.u}", layer.kind)
                for i, layer in enumerate(prescription.layers, 1)
                if layer.alpha is not None
            ),
        ),
        Step(
            "Constraints, with `d_l = a_l + c_l + s_l`",
            tuple((each.text, f"({each.number}) " + TERMS.sub(r"`\1`", each.meaning)) for each in numbered),
        ),
    ]
    if prescription.problem.global_rate:
        steps.append(Step("One rate for all: the smallest `c` at which every `r >= 0`", _global(prescription)))
    else:
        steps.append(Step("Targets, backward: the least `r` that later layers can bear", _targets(prescription)))
        steps.append(Step("Rates, forward: the smallest `c` that reaches the targets", _rates(prescription, numbered)))
    residuals = tuple((f"r_{i} = {layer.r}", layer.kind) for i, layer in enumerate(prescription.layers, 1))
    along = [
        Step(f"Along {axis.name} {axis.letter}, exponents of `{axis.letter}^-x`", axis.lines)
        for axis in prescription.axes
    ]
    return [
        *steps,
        Step(
            f"Residuals, `RMS(Delta z_l) = n^-r_l`: {verdict(prescription).replace('r_L = 0', '`r_L = 0`')}", residuals
        ),
        *along,
    ]


def _gradients(prescription: Prescription) -> tuple[tuple[str, str], ...]:
    chain = prescription.chain
    last = chain.depth
    signal = chain.a[-1] + chain.b[-1]
    if prescription.problem.forward_only:
        unseen = [(f"g_{i} = a_{last} + b_{last} = {layer.g}", layer.kind) for i, layer in _before(prescription)]
        return (*unseen, (f"g_{last} = 0", "readout; no multiplier is in its own weight's gradient"))
    lines = [
        (f"g_{i} = a_{last} + b_{last} + a_{i} = {signal} + {_in_sum(layer.a)} = {layer.g}", layer.kind)
        for i, layer in _before(prescription)
    ]
    return (*lines, (f"g_{last} = a_{last} = {prescription.layers[-1].g}", "readout"))


def _before(prescription: Prescription) -> list[tuple[int, Layer]]:
    return list(enumerate(prescription.layers[:-1], 1))


def _updates(prescription: Prescription) -> tuple[tuple[str, str], ...]:
    lines = []
    for i, layer in enumerate(prescription.layers, 1):
        row = prescription.problem.optimizers[layer.kind]
        epsilons = (("eps", layer.epsilon), ("eps2", layer.epsilon2))
        epsilon = "".join(f", `{name} = n^-{_in_sum(value)}`" for name, value in epsilons if value is not None)
        lines.append((f"s_{i} = {layer.s}", f"{layer.kind}, {row.name}: `U = {row.rule}`{epsilon}"))
    return tuple(lines)


def _targets(prescription: Prescription) -> tuple[tuple[str, str], ...]:
    chain = prescription.chain
    if not chain.is_numeric:
        return (("t_(l-1) = max(0, t_l + omega_l - a_l - b_l)", "from `t_(L+1) = 0` downwards"),)
    t = least_residuals(chain.a, chain.b, chain.omega, cross_entropy=chain.loss == "ce")
    lines = [
        (f"t_{chain.depth} = 0", "the logits may not diverge" if chain.loss == "mse" else "the logits may diverge")
    ]
    for i in range(chain.depth, 1, -1):
        if i == chain.depth and chain.loss == "ce":
            lines.append((f"t_{i - 1} = 0", "the `omega` term of the readout drops under cross-entropy"))
            continue
        index = i - 1
        sums = f"{t[index]} + {_in_sum(chain.omega[index])} - {_in_sum(chain.a[index])} - {_in_sum(chain.b[index])}"
        lines.append((f"t_{i - 1} = max(0, t_{i} + omega_{i} - a_{i} - b_{i}) = max(0, {sums}) = {t[index - 1]}", ""))
    return tuple(lines)


def _rates(prescription: Prescription, numbered: list[Constraint]) -> tuple[tuple[str, str], ...]:
    chain = prescription.chain
    numbers = {each.text: each.number for each in numbered}
    targets = (
        least_residuals(chain.a, chain.b, chain.omega, cross_entropy=chain.loss == "ce") if chain.is_numeric else []
    )
    lines = []
    for index, layer in enumerate(prescription.layers):
        i = index + 1
        change = (layer.a + layer.c + layer.s).expand()
        general = f"t_{i}" if index == 0 else f"t_{i} + max(alpha_{i}, u_{i} - r_{i - 1})"
        filled = _filled_rate(prescription, targets, index) if chain.is_numeric else ""
        if chain.bounded[index]:
            general = f"max({general}, a_{i} + b_{i})"
        used = ", ".join(f"({numbers[text]})" for text in layer.binding)
        lines.append((f"d_{i} = {general}{filled} = {change}", f"by {used}" if used else ""))
        lines.append(
            (
                f"c_{i} = d_{i} - a_{i} - s_{i} = {change} - {_in_sum(layer.a)} - {_in_sum(layer.s)} = {layer.c}",
                layer.kind,
            )
        )
    return tuple(lines)


def _filled_rate(prescription: Prescription, targets: list[Expr], index: int) -> str:
    """The right-hand side of d_l with its numbers in place; empty where it would only repeat the result."""
    chain = prescription.chain
    if index == 0 and not chain.bounded[0]:
        return ""
    numbers = str(targets[0])
    if index > 0:
        before = _in_sum(prescription.layers[index - 1].r)
        numbers = f"{targets[index]} + max({chain.alpha[index]}, {chain.u[index]} - {before})"
    if chain.bounded[index]:
        numbers = f"max({numbers}, {chain.a[index]} + {_in_sum(chain.b[index])})"
    return f" = {numbers}"


def _global(prescription: Prescription) -> tuple[tuple[str, str], ...]:
    c = prescription.layers[0].c
    tight = ", ".join(prescription.layers[0].binding)
    return ((f"c = {c}", f"tight: `{tight}`" if tight else ""),)


def _in_sum(value: Expr | None) -> str:
    """A number as it stands inside a sum: negative ones and sums in brackets."""
    written = text(value) if value is not None else ""
    return f"({written})" if written.startswith("-") or " " in written else written


def as_text(prescription: Prescription) -> str:
    """The derivation as plain text."""
    parts = [f"Derivation: {title(prescription)}"]
    for number, step in enumerate(derivation(prescription), 1):
        parts.append(f"\n{number}. {step.heading}")
        width = min(64, max((len(formula) for formula, _ in step.lines), default=0))
        parts += [f"   {formula:<{width}}   {remark}".rstrip() for formula, remark in step.lines]
    return _lower_case("\n".join(parts)).replace("`", "") + "\n"


def as_latex(prescription: Prescription) -> str:
    """The derivation as LaTeX paragraphs; it compiles without packages."""
    pieces = [f"\\subsection*{{{latex_escape(title(prescription))}}}"]
    for number, step in enumerate(derivation(prescription), 1):
        lines = [(formula_latex(formula), _prose_latex(remark)) for formula, remark in step.lines]
        pieces.append(f"\\medskip\\noindent{{\\raggedright {number}. {_prose_latex(step.heading)}\\par}}\\smallskip\n")
        pieces.append(lines_latex(lines))
    return "\n".join(pieces)


def _lower_case(written: str) -> str:
    return written.replace("Max(", "max(").replace("Min(", "min(")


def _prose_latex(plain: str) -> str:
    """A remark or heading as LaTeX, in which what stands between backticks is a formula."""
    pieces = plain.split("`")
    return "".join(f"${formula_latex(each)}$" if at % 2 else latex_escape(each) for at, each in enumerate(pieces))


def formula_latex(formula: str) -> str:
    """A formula of this module as LaTeX: subscripts, powers, roots, Greek letters, relations; 1/2 stays in line."""
    written = _roots(_lower_case(formula))
    written = re.sub(r"\^(-?(?:\([^()]*\)|[\w/]+))", r"^{\1}", written)
    written = re.sub(r"_\(([^)]*)\)|_(\d+)", lambda match: f"_{{{match[1] or match[2]}}}", written)
    written = re.sub(r"\b([a-z]+)_([a-z]{2,})\b", r"\\mathrm{\1}_{\\mathrm{\2}}", written)
    written = re.sub(r"\blog_", r"\\log_", written)
    written = re.sub(r"\bd(?=[Wz]\b)|\bDelta (?=\w)", r"\\Delta ", written)
    written = re.sub(r"\bd (?=[a-z])", r"\\partial ", written)
    written = re.sub(r"\b(alpha|beta|delta|kappa|omega|sigma)(?![a-z])", r"\\\1", written)
    written = re.sub(r"\beps2\b", r"\\epsilon_2", written)
    written = re.sub(r"\beps\b", r"\\epsilon", written)
    written = re.sub(r"\b(max|min)\(", r"\\\1(", written)
    written = re.sub(r"(?<![\\{A-Za-z])([a-z]{3,}\d?|RMS)(?=[\s(/]|$)", r"\\mathrm{\1}", written)
    written = re.sub(r"\*\*(\d+|\([^()]*\))", lambda match: f"^{{{match[1].strip('()')}}}", written)
    return written.replace(" x ", r" \times ").replace("<=", r"\le").replace(">=", r"\ge").replace("*", r"\,")


def _roots(formula: str) -> str:
    """sqrt(...) as a root over what its parentheses hold."""
    start = formula.find("sqrt(")
    if start < 0:
        return formula
    depth, end = 1, start + len("sqrt(")
    while depth:
        depth += (formula[end] == "(") - (formula[end] == ")")
        end += 1
    inner = _roots(formula[start + len("sqrt(") : end - 1])
    return f"{formula[:start]}\\sqrt{{{inner}}}{_roots(formula[end:])}"
