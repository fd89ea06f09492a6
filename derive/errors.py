"""The exceptions that report a user's mistake, and the nearest-name hint they carry."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """What was given, what is allowed and what to do, in one line: the base of all that a user can cause.

    Commands turn it into one line and exit code 2. Any other exception is a mistake of the program, and is shown whole.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DeriveError(UserError):
    """A question that cannot be answered as it was put."""


def shorten(text: str, limit: int = 60) -> str:
    """`text` in quotes on one line, cut to `limit` characters so that a message stays readable."""
    plain = "".join(character if character.isprintable() else "?" for character in text)
    return f"'{plain}'" if len(plain) <= limit else f"'{plain[:limit]}...' ({len(plain)} characters)"


def canonical(name: str) -> str:
    """A name as it is looked up: lower case, without hyphens, underscores and spaces, μ read as mu."""
    folded = name.lower().replace("μ", "mu").replace("µ", "mu")
    return "".join(character for character in folded if character not in "-_ ")


def unknown_name(what: str, given: str, known: Iterable[str]) -> DeriveError:
    """The error for a name that is not in `known`, suggesting the nearest one."""
    known = list(known)
    by_canonical = {canonical(name): name for name in known}
    nearest = get_close_matches(canonical(given), by_canonical, n=1, cutoff=0.5)
    hint = f"; did you mean {by_canonical[nearest[0]]}?" if nearest else ""
    return DeriveError(f"unknown {what} {shorten(given)}; allowed: {', '.join(known)}{hint}")


def check_positive(**options: float | None) -> None:
    """Raise DeriveError for the first option given that is not a finite number above 0."""
    for name, value in options.items():
        if value is not None and not 0 < value < float("inf"):
            raise DeriveError(f"--{name.replace('_', '-')} {value} is not allowed; give a finite number above 0")
