"""Formulas as JavaScript: expressions, and the programs of functions of the engine, run on symbols and written down.

What is emitted is what the engine answers or does. Its recursions need +, -, max and min alone, so that run on symbols
with the `Recorder`'s extrema they leave their own program; what asks whether two exponents are the same is run once for
each way in which its questions can be answered.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sympy import Expr, Max, Min, Rational, Symbol
from sympy.printing.jscode import JavascriptCodePrinter

from derive.certificate import Same
from derive.errors import DeriveError

MOST_QUESTIONS = 10_000
"""Answered in all ways of one function."""


class _Printer(JavascriptCodePrinter):
    """Symbols as members of one object, or as the names that stand for them."""

    def __init__(self, names: Mapping[Symbol, str], members_of: str) -> None:
        super().__init__({"contract": False})
        self._names, self._members_of = names, members_of

    def _print_Symbol(self, expr: Any) -> str:  # noqa: N802
        return self._names.get(expr, f"{self._members_of}.{expr.name}")


def javascript(expression: Expr, names: Mapping[Symbol, str] | None = None, members_of: str = "at") -> str:
    """The expression in JavaScript; a symbol x is `at.x` where `names` has no other for it.

    DeriveError for what is no sum, product, power, maximum or minimum.
    """
    written = str(_Printer(names or {}, members_of).doprint(expression))
    if "\n" in written:  # a comment that says what the printer does not know
        raise DeriveError(f"exponent {expression} cannot be written in JavaScript; give its symbols numbers")
    return written


def listed(values: Iterable[str]) -> str:
    """An array of JavaScript."""
    return f"[{', '.join(values)}]"


@dataclass
class Recorder:
    """The program that a function leaves which calls `maximum` and `minimum` on symbols: a constant for each."""

    lines: list[str] = field(default_factory=list)
    _named: dict[str, Symbol] = field(default_factory=dict)

    @property
    def _names(self) -> dict[Symbol, str]:
        return {symbol: symbol.name for symbol in self._named.values()}

    def maximum(self, *values: Expr) -> Expr:
        """The largest."""
        return self._extremum(Max, values)

    def minimum(self, *values: Expr) -> Expr:
        """The smallest."""
        return self._extremum(Min, values)

    def _extremum(self, function: type[Max] | type[Min], values: Sequence[Expr]) -> Expr:
        if all(isinstance(value, Rational) for value in values):
            return cast("Expr", function(*values))
        written = javascript(cast("Expr", function(*dict.fromkeys(values), evaluate=False)), self._names)
        if written not in self._named:
            self._named[written] = Symbol(f"${len(self.lines)}", real=True)  # no name that a user can type
            self.lines.append(f"const {self._named[written].name} = {written};")
        return self._named[written]

    def function(self, answers: Sequence[Expr]) -> str:
        """An arrow function from the symbols' values, `at`, to the array of answers."""
        values = listed(javascript(answer, self._names) for answer in answers)
        return f"at => {{ {' '.join([*self.lines, f'return {values};'])} }}"


def decided(answer: Callable[[Same], Iterable[str]]) -> str:
    """What `answer(same)` says, as a JavaScript expression over `at` with a function `zero`.

    Every question same(x, y) that values decide becomes zero(x - y) ? ... : ...; null is for ways that cannot be.
    """
    return _decided(answer, {}, [MOST_QUESTIONS])


class _OpenError(Exception):
    def __init__(self, difference: Expr) -> None:
        self.difference = difference


def _decided(answer: Callable[[Same], Iterable[str]], known: Mapping[Expr, bool], left: list[int]) -> str:
    left[0] -= 1
    if left[0] < 0:
        raise DeriveError("too many questions are open to write their answers in JavaScript")

    def same(first: Expr, second: Expr) -> bool:
        difference = (first - second).expand()
        if isinstance(difference, Rational):
            return bool(difference == 0)
        if difference not in known and -difference not in known:
            raise _OpenError(difference)
        return known.get(difference, known.get(-difference, False))

    try:
        names = list(dict.fromkeys(answer(same)))
    except _OpenError as question:
        at = question.difference
        yes, no = (_decided(answer, {**known, at: way}, left) for way in (True, False))
        return yes if yes == no else f"zero({javascript(at)}) ? {yes} : {no}"
    except IndexError:  # past the last layer, where a true answer has ended
        return "null"
    return listed(f'"{name}"' for name in names)
