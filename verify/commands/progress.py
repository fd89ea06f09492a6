"""What a command is at, on standard error: a bar where a person watches, elsewhere a line every half minute."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from derive.streams import complain

Given = ParamSpec("Given")
Result = TypeVar("Result")
EVERY_SECONDS = 30.0
"""Between two lines where standard error is no terminal."""
COMPILING = "compiling"


class Progress:
    """How far the work has come; without a total, which step it is at. The innermost of several is shown.

    Until the first advance it is said to be compiling, which is what the first minutes of a study go to, and not to be
    at 0 %. What modules of `verify` log meanwhile, such as "tracing at width 256", becomes the step.
    """

    shown: "list[Progress]" = []  # noqa: RUF012  # one standard error, one stack

    def __init__(self, what: str, total: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
        from rich.progress import TimeRemainingColumn as Remaining

        self.what, self.total, self.done = what, total, 0
        self.step = "" if total is None else COMPILING
        self.started, self.over = time.monotonic(), threading.Event()
        console = Console(stderr=True)
        self.watched = console.is_terminal
        counted = () if total is None else (BarColumn(20), MofNCompleteColumn(), Remaining(compact=True))
        columns = (SpinnerColumn(), TextColumn("{task.description}"), *counted, TimeElapsedColumn())
        self.bar = Bar(
            *columns,
            console=console,
            transient=True,
            disable=not self.watched,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.task = self.bar.add_task(self._described(), total=None)

    def __enter__(self) -> "Progress":
        if self.shown:
            self.shown[-1].bar.stop()
        else:
            logger = logging.getLogger("verify")
            logger.addHandler(_STEPS)
            logger.setLevel(logging.INFO)
        self.shown.append(self)
        self.bar.start()
        if not self.watched:
            threading.Thread(target=self._speak, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.bar.stop()
        self.shown.remove(self)
        if self.shown:
            self.shown[-1].at("")
            self.shown[-1].bar.start()
        else:
            logging.getLogger("verify").removeHandler(_STEPS)
            logging.getLogger("verify").setLevel(logging.NOTSET)

    def advance(self, count: int = 1, total: int | None = None) -> None:
        """Add what was done since, and correct the total where it has changed."""
        self.done += count
        self.total = self.total if total is None else total
        if count and self.step == COMPILING:
            self.step = ""
        known = self.total if self.done else None
        self.bar.update(self.task, completed=self.done, total=known, description=self._described())

    def at(self, step: str) -> None:
        """Say which step it is at."""
        self.step = step
        self.bar.update(self.task, description=self._described())

    def line(self) -> str:
        """All of it in one line: what, which step, how much of how much, for how long and how long still."""
        spent = time.monotonic() - self.started
        parts = [self._described()]
        if self.done and self.total:
            parts.append(f"{self.done} of {self.total}")
        parts.append(duration(spent))
        if self.total and 0 < self.done < self.total:
            parts.append(f"about {duration(spent * (self.total - self.done) / self.done)} left")
        return ", ".join(parts)

    def _described(self) -> str:
        return f"{self.what}: {self.step}" if self.step else self.what

    def _speak(self) -> None:
        while not self.over.wait(EVERY_SECONDS):
            if self.shown[-1:] == [self] and not _silent:
                complain(self.line())


class _Steps(logging.Handler):
    """Makes what is logged the step of the progress shown."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take the message as the step."""
        if Progress.shown:
            Progress.shown[-1].at(record.getMessage())


_STEPS = _Steps(logging.INFO)


_silent: list[bool] = []


def silence() -> None:
    """Write no more lines: of several processes another one does."""
    _silent.append(True)


@contextmanager
def unshown() -> Iterator[None]:
    """Nothing is drawn meanwhile, so that something else may be written."""
    bar = Progress.shown[-1].bar if Progress.shown else None
    if bar is not None:
        bar.stop()
    yield
    if bar is not None and not bar.finished:
        bar.start()


def said(command: Callable[Given, Result]) -> Callable[Given, Result]:
    """The command with its name as what it is at, from the start on."""

    @wraps(command)
    def saying(*given: Given.args, **options: Given.kwargs) -> Result:
        with Progress(f"verify {command.__name__}") as progress:
            progress.at("loading")
            return command(*given, **options)

    return saying


def duration(seconds: float) -> str:
    """Seconds as 40 s, 3 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
