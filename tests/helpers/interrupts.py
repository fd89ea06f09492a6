"""Starting `verify` such that it can be interrupted."""

import sys

LISTENING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from verify.commands.main import main; main()"
)
VERIFY = (sys.executable, "-c", LISTENING)
"""A shell's background jobs ignore interrupts, and so does what they start, unless told otherwise."""
