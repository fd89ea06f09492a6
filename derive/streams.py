"""Standard output and standard error, whatever they are: of any encoding, closed, or full.

What an encoding has no character for is written in ASCII, as a reader would: alpha for a Greek letter, lines of -, and
what has no such name as its code. cp1252, which Windows gives a redirected output, has none of the three.
"""

import codecs
import os
import sys
import unicodedata
import warnings
from pathlib import Path

READABLE = "readable"
"""The name under which `encodable` is known as a handler of encoding errors."""
SIGNS = {
    "→": "->",
    "←": "<-",
    "⇒": "=>",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "∝": "~",
    "±": "+-",
    "×": "x",
    "·": "*",
    "−": "-",
    "\N{EN DASH}": "-",
    "—": "-",
    "…": "...",
    "√": "sqrt",
    "∞": "inf",
    "Δ": "D",
    "∂": "d",
    "∈": "in",
    "“": '"',
    "”": '"',
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "²": "^2",
    "³": "^3",
    "½": "1/2",
    "‖": "||",
    "✓": "yes",
    "✗": "no",
}


def encodable(error: UnicodeError) -> tuple[str, int]:
    """The characters that cannot be encoded, written in ASCII, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(character: str) -> str:
    if character in SIGNS:
        return SIGNS[character]
    if "─" <= character <= "╿":  # the lines of tables
        name = unicodedata.name(character)
        return "-" if "HORIZONTAL" in name and "VERTICAL" not in name else "|" if "HORIZONTAL" not in name else "+"
    name = unicodedata.name(character, "")
    if name.startswith("GREEK SMALL LETTER ") and name.count(" ") == 3:
        return name.rpartition(" ")[2].lower().replace("lamda", "lambda")
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()


def prepare(program: str) -> None:
    """Make both streams take any text, errors go nowhere where there is no stream for them, and warnings one line."""
    codecs.register_error(READABLE, encodable)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=READABLE)

    def one_line(message: Warning | str, *_: object) -> str:
        return f"{program}: note: {' '.join(str(message).split())}\n"

    warnings.formatwarning = one_line  # type: ignore[assignment]


def complain(line: str) -> None:
    """Write a line to standard error, where it can be written."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.stderr = None  # type: ignore[assignment]  # so that the interpreter does not try again at its end
