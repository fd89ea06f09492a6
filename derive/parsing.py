"""Text from a user to exact sympy expressions, through a whitelist over Python's `ast`.

Nothing a user types is evaluated: the text is parsed to a syntax tree and only the node types listed here
are turned into sympy objects, one by one.
"""

import ast
import re
import warnings
from collections.abc import Callable, Mapping

import sympy
from sympy import Expr, Pow, Rational, Symbol

from derive.errors import DeriveError, shorten, unknown_name

MAX_CHARACTERS = 2000
MAX_POWER = 16
MAX_ARGUMENTS = 16
"""Of a call, those of all maxima and minima in it together: sympy compares each with each."""
MAX_DIGITS = 100
"""Of a number's numerator and denominator: enough for any exponent, and sums of them can still be printed."""
NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}")
SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,20}")
READ_AS = {
    "ε": "eps",
    "ϵ": "eps",
    "²": "**2",
    "^": "**",
    "·": "*",
    "÷": "/",
    "\N{GREEK SMALL LETTER SIGMA}": "sigma",
    "\N{MULTIPLICATION SIGN}": "*",
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
}
"""A rule's signs on paper, and how they are read."""
ROOT = re.compile(r"√\s*(?:([A-Za-z_][A-Za-z0-9_]*)|(?=\())")
"""A root of a name or of what stands in parentheses."""
SPELLINGS = {"√": "sqrt(...)", "‖": "norm(...)", "[": "(...)", "{": "(...)"}
"""Signs that cannot be read by themselves, and how they are typed."""
WEIGHT_DECAYS = {"wd", "decay", "weightdecay", "lambda", "lam", "lmbda", "λ"}
"""Names that people have for weight decay."""
NO_PART = "is no part of a rule: weight decay is apart from it, --decay says how it scales"
NOT_SYMBOLS = {"n", "nan", "inf", "infinity", "oo", "zoo", "none", "true", "false"}

Names = Mapping[str, Expr]
Functions = Mapping[str, Callable[..., Expr]]


def parse_expression(text: str, what: str, *, names: Names | None = None, functions: Functions | None = None) -> Expr:
    """The sympy expression that `text` spells.

    Numbers are exact (0.1 is 1/10). With `names` only those names are known; without, any short ASCII name
    is a real symbol. Raises DeriveError, quoting the offending part, for everything else.
    """
    if len(text) > MAX_CHARACTERS:
        raise DeriveError(f"{what} {shorten(text)} is too long; at most {MAX_CHARACTERS} characters are read")
    if names is not None:
        text = _typed(text)
    foreign = next((character for character in text if names is not None and character in SPELLINGS), None)
    if foreign is not None:
        raise DeriveError(f"{what}: {foreign} in {shorten(text)} is not allowed; write {SPELLINGS[foreign]} for it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        value = _Builder(text.strip(), what, names, functions or {}).build(tree.body)
    except DeriveError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if names is not None and re.search(r"\blambda\b", text):
            raise DeriveError(f"{what}: 'lambda' in {shorten(text)} {NO_PART}") from None
        example = "1/2, 0.8 or x" if names is None else "m/(sqrt(v)+eps)"
        raise DeriveError(
            f"{what} {shorten(text)} cannot be read{_place(text.strip(), error)}; write an expression such as {example}"
        ) from None
    if value.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo):
        raise DeriveError(f"{what} {shorten(text)} divides by zero; give a finite expression")
    return value


def _typed(rule: str) -> str:
    """The rule with its signs on paper as they are typed: √v as sqrt(v), ε as eps."""
    rule = ROOT.sub(lambda found: f"sqrt({found[1]})" if found[1] else "sqrt", rule)
    return "".join(READ_AS.get(character, character) for character in rule)


def _place(text: str, error: Exception) -> str:
    """Where it stops making sense, for a message: the bracket that has no other, or the rest that cannot be read."""
    alone = _alone(text)
    if alone:
        return f": {alone}"
    if not isinstance(error, SyntaxError) or error.lineno not in (0, 1):
        return ""
    rest = text[error.offset - 1 :] if error.offset else ""
    return f" at {shorten(rest)}" if rest else " at its end"


def _alone(text: str) -> str:
    """Which parenthesis has no other, and where; nothing where all have."""
    opened: list[int] = []
    for place, character in enumerate(text, 1):
        if character == "(":
            opened.append(place)
        elif character == ")" and not opened:
            return f"the ) at character {place} closes nothing"
        elif character == ")":
            opened.pop()
    return f"the ( at character {opened[-1]} is not closed" if opened else ""


def parse_number(text: str, what: str) -> Rational:
    """The exact rational that `text` spells; DeriveError where it is not a number."""
    value = parse_expression(text, what)
    if not isinstance(value, Rational):
        raise DeriveError(f"{what} {shorten(text)} is not a number; give one such as 1/2 or 0.5")
    return value


def parse_triple(text: str, what: str) -> tuple[Expr, Expr, Expr]:
    """Three comma-separated exponents: embedding, hidden, readout."""
    parts = text.split(",")
    if len(parts) != 3:
        raise DeriveError(f"{what} {shorten(text)} has {len(parts)} entries; give three: embedding,hidden,readout")
    embedding, hidden, readout = (parse_expression(part, what) for part in parts)
    return embedding, hidden, readout


def split_outside(text: str, what: str) -> list[str]:
    """The parts between commas that stand outside of parentheses; DeriveError where these do not match."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        example = "write rules such as polar(m)*sqrt(fan_out/fan_in)"
        raise DeriveError(f"{what} {shorten(text)} cannot be read: {_alone(text)}; {example}")
    return parts


class _Builder:
    def __init__(self, text: str, what: str, names: Names | None, functions: Functions) -> None:
        self.text, self.what, self.names, self.functions = text, what, names, functions

    def error(self, node: ast.AST, problem: str) -> DeriveError:
        part = ast.get_source_segment(self.text, node) if isinstance(node, ast.expr) else None
        return DeriveError(f"{self.what}: {shorten(part or self.text)} {problem}")

    def build(self, node: ast.expr) -> Expr:
        """The expression of a node, with no number in it that is too long to go on with."""
        value = self.built(node)
        if isinstance(node, ast.Constant | ast.Name):
            return value
        if any(map(_is_long, value.atoms(Rational))):
            raise self.error(node, f"has a number of more than {MAX_DIGITS} digits; give smaller ones")
        if any(isinstance(part.exp, Rational) and abs(part.exp) > MAX_POWER for part in value.atoms(Pow)):
            raise self.error(node, f"has a power above {MAX_POWER}; give a smaller one")
        if value.has(sympy.I):
            raise self.error(node, "is not real; give a root of something that is not negative")
        return value

    def built(self, node: ast.expr) -> Expr:
        if isinstance(node, ast.Constant):
            return self.number(node)
        if isinstance(node, ast.Name):
            return self.name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
            operand = self.build(node.operand)
            return -operand if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp):
            return self.binary(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        raise self.error(node, "is not allowed; use numbers, names, + - * / ** and the listed functions")

    def number(self, node: ast.Constant) -> Expr:
        source = ast.get_source_segment(self.text, node) or ""
        if not NUMBER.fullmatch(source):
            in_rule = self.names is not None and "eps" in self.names
            raise self.error(
                node,
                "is not a plain number; write "
                + ("eps for what keeps a denominator from 0, or " if in_rule else "")
                + "digits such as 3, 0.25 or 1/4",
            )
        return Rational(source)

    def name(self, node: ast.Name) -> Expr:
        if self.names is not None:
            if node.id in self.names:
                return self.names[node.id]
            if node.id.lower().replace("_", "") in WEIGHT_DECAYS:
                raise self.error(node, NO_PART)
            raise unknown_name(f"name in {self.what}", node.id, [*self.names, *(f"{f}()" for f in self.functions)])
        if node.id.lower() in NOT_SYMBOLS or not SYMBOL.fullmatch(node.id):
            raise self.error(node, "is not a number or a name for a symbol; give one such as 1/2 or x")
        return Symbol(node.id, real=True)

    def binary(self, node: ast.BinOp) -> Expr:
        left, right = self.build(node.left), self.build(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            if right.is_zero:
                raise self.error(node, "divides by zero; give a finite expression")
            return left / right
        if isinstance(node.op, ast.Pow):
            if not (isinstance(right, Rational) and abs(right) <= MAX_POWER):
                raise self.error(node.right, f"is not a power that can be sized; use a number up to {MAX_POWER}")
            if left.is_zero and right <= 0:
                raise self.error(node, "divides by zero; give a finite expression")
            return left**right
        raise self.error(node, "is not allowed; use + - * / **")

    def call(self, node: ast.Call) -> Expr:
        if not self.functions:
            raise self.error(node, "is not allowed; give a number or a name for a symbol, without calls")
        if not isinstance(node.func, ast.Name):
            raise self.error(node, "is not allowed; call a listed function by its name")
        function = self.functions.get(node.func.id)
        if function is None:
            raise unknown_name(f"function in {self.what}", node.func.id, self.functions)
        count = max(len(node.args), _compared(node))
        if count > MAX_ARGUMENTS:
            raise self.error(node, f"has {count} arguments; give at most {MAX_ARGUMENTS}")
        arguments = [self.build(argument) for argument in node.args]
        options = dict(self.option(node, keyword, function) for keyword in node.keywords)
        try:
            return function(*arguments, **options)
        except TypeError:
            raise self.error(node, f"has {len(arguments)} arguments, which {node.func.id} does not take") from None

    def option(
        self, call: ast.Call, keyword: ast.keyword, function: Callable[..., Expr]
    ) -> tuple[str, tuple[Expr, ...]]:
        """name=(expression, ...), of a function that has an option of that name."""
        known = getattr(function, "__kwdefaults__", None) or {}
        if keyword.arg is None or keyword.arg not in known:
            allowed = "".join(f", or {name}=(2, 4)" for name in known)
            raise self.error(call, f"is not allowed; call a listed function by its name, with plain arguments{allowed}")
        if not isinstance(keyword.value, ast.Tuple):
            raise self.error(keyword.value, f"is not a pair; write {keyword.arg}=(2, 4)")
        return keyword.arg, tuple(map(self.build, keyword.value.elts))


def _compared(node: ast.Call) -> int:
    """How many arguments the maxima and minima in it have together."""
    calls = (part for part in ast.walk(node) if isinstance(part, ast.Call) and isinstance(part.func, ast.Name))
    return sum(len(call.args) for call in calls if call.func.id in ("max", "min"))  # type: ignore[attr-defined]


def _is_long(number: Rational) -> bool:
    return max(abs(number.p), number.q) >= 10**MAX_DIGITS
