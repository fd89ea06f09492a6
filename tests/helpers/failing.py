"""What trains and fails: by a mistake of the program, or by what its user can mend. Worker processes find both here."""

from typing import Any, NoReturn

from verify.studies.study import StudyError


def mistake(*_: Any, **__: Any) -> NoReturn:
    """As numpy does."""
    raise ValueError("operands could not be broadcast together")


def refusal(*_: Any, **__: Any) -> NoReturn:
    """As a study does."""
    raise StudyError("every network diverged; give a smaller --base-rate")
