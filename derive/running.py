"""How a command ends: an answer, one line for what its user can mend, or a traceback for a mistake of the program."""

import errno
import sys
from collections.abc import Callable
from typing import TypeVar

from derive.errors import UserError, shorten
from derive.streams import complain

LONGEST_QUOTE = 200
"""Of what was given, in an error's one line."""
LONGEST_USAGE = 400
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
DISK = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EBADF])
"""What a disk, or whatever standard output goes to, says when it takes no more."""

Result = TypeVar("Result")


def run(command: Callable[[], Result], name: str) -> int:
    """Run a command: 0 or its own code; 2 and one line for a UserError, a usage error or a file that cannot be used.

    130 after Ctrl-C, and 1 without a word where nobody reads the output any more. Everything else is raised again.
    """
    if sys.stdout is None:
        return _fail(name, "standard output is closed; send it to a file or to a terminal")
    try:
        code = command()
    except UserError as error:
        return _fail(name, str(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        return _fail(name, _file_trouble(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "Abort":  # of the command line library, which has not been loaded where this is not
            return INTERRUPTED
        told = _usage(error)
        if told is None:
            raise
        return _fail(name, f"{told} (see {name} --help)")
    return code if isinstance(code, int) else 0


def _file_trouble(error: OSError) -> str:
    """What is wrong with a file or with the output; an OSError of anything else is raised again."""
    if error.filename is not None:
        return f"{shorten(str(error.filename), LONGEST_QUOTE)}: {error.strerror}; see to the file and its folder"
    if error.errno in DISK:
        return f"cannot write the output: {error.strerror}; send it somewhere else"
    raise error


def _usage(error: Exception) -> str | None:
    """What was wrong with the command line or its numbers; None for any other exception."""
    if isinstance(error, ValueError) and "int_max_str_digits" in str(error):
        return f"a number has more than {sys.get_int_max_str_digits()} digits; give smaller ones"
    usage = getattr(error, "format_message", None)  # every usage error of the command line library has it
    if usage is None:
        return None
    told = " ".join(usage().split())
    return told if len(told) <= LONGEST_USAGE else f"{told[:LONGEST_QUOTE]}... ({len(told)} characters)"


def _fail(name: str, message: str) -> int:
    complain(f"{name}: {message}")
    return 2
