"""The one exception that reports a user's mistake, and the nearest-name hint it carries."""

from collections.abc import Iterable
from difflib import get_close_matches


class DeriveError(ValueError):
    """What was given, what is allowed and what to do, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


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
