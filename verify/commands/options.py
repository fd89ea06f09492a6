"""What the sub-commands of `verify` share: reading and checking options, the corpus, folders, answers and notes."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TextIO, TypeVar

from derive.errors import DeriveError, canonical, shorten, unknown_name
from derive.parsing import split_outside
from derive.terminal import wrapped
from verify.commands.progress import unshown

if TYPE_CHECKING:
    from verify.training.data import Corpus

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice", bound=str)
Given = ParamSpec("Given")
FEW = 65_536
"""Tokens among which two differ in any real text, so that the rest need not be looked at."""


def read_numbers(option: str, text: str, kind: Callable[[str], Number], example: str) -> list[Number]:
    """A list of numbers such as 128,256,512; DeriveError showing an example otherwise."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        what = "widths" if option == "--widths" else "numbers"
        raise DeriveError(f"{option} {shorten(text)} is not a list of {what}; write {example}") from None


def read_choice(what: str, given: str, allowed: Sequence[Choice]) -> Choice:
    """The allowed name that was meant; DeriveError naming all of them otherwise."""
    for name in allowed:
        if canonical(name) == canonical(given):
            return name
    raise unknown_name(what, given, allowed)


def split_values(given: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The values of an option that may be repeated, or hold several names with commas: sgd,adam.

    A value with "=" is one value, since its own parts have commas between them; those within parentheses part nothing.
    """
    values = [
        part for text in given or default for part in ([text] if "=" in text else split_outside(text, "the list"))
    ]
    return list(dict.fromkeys(value.strip() for value in values))


def read_corpus(path: Path | None, vocabulary: int | None) -> "Corpus":
    """The corpus at that path, or the default one; DeriveError for one that has no information."""
    from verify.training.data import load_corpus

    corpus = load_corpus(path, vocabulary)
    for period in (1, 2):  # a character is two half bytes
        if all((part[period:] == part[:-period]).all() for part in (corpus.tokens[:FEW], corpus.tokens)):
            raise DeriveError(
                f"corpus {shorten(corpus.name)} repeats {', '.join(map(str, corpus.tokens[:period]))} from end to end: "
                "it has no information, and there is nothing to learn; give a text"
            )
    return corpus


@contextmanager
def one_driver(folder: Path) -> Iterator[None]:
    """Hold the folder of a study against other drivers, as a store is held; StoreError where one is at work."""
    from verify.sweeps.storage.database import explained, lock

    path, connection = folder / "driver.lock", None
    with explained(folder):
        while connection is None:
            path.touch()
            before = path.stat().st_ino
            connection = lock(folder / "driver", folder)
            if not (path.exists() and path.stat().st_ino == before):  # its last holder has just removed it
                connection.close()
                connection = None
    try:
        yield
    finally:
        with suppress(OSError):  # some systems keep a file that is open
            path.unlink()
        connection.close()


_answers: list[TextIO] = []


def answer_alone(command: Callable[Given, None]) -> Callable[Given, None]:
    """The command with standard output for its answer alone: what a user's model prints goes to standard error."""

    @wraps(command)
    def alone(*given: Given.args, **options: Given.kwargs) -> None:
        _answers.append(sys.stdout)
        try:
            with redirect_stdout(sys.stderr):
                try:
                    command(*given, **options)
                finally:
                    if "jax" in sys.modules:
                        sys.modules["jax"].effects_barrier()  # what its compiled functions print comes late
        finally:
            _answers.pop()

    return alone


def write_out(text: str) -> None:
    """Write to standard output at once, so that a closed pipe shows here."""
    to = _answers[-1] if _answers else sys.stdout
    with unshown():
        to.write(text)
        to.flush()


def write_error(line: str) -> None:
    """Write a line to standard error, wrapped where there is a terminal's width."""
    with unshown():
        sys.stderr.write(wrapped(f"{line}\n"))
