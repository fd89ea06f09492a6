"""The `verify` command."""

import gc
import os
import signal
import sys
import threading
from typing import Any

import typer

from derive.cli import INTERRUPTED, run
from derive.streams import prepare
from verify import (
    cli_decay,
    cli_epsilon,
    cli_exponents,
    cli_fit,
    cli_model,
    cli_phase,
    cli_plan,
    cli_shapes,
    cli_transfer,
    cli_updates,
    hosts,
)
from verify.options import answer_alone

AGAIN_SECONDS = 0.05

app = typer.Typer(
    name="verify",
    help="Measures in real networks of growing width what derive predicts.",
    epilog="Examples:  verify exponents --parameterization mup   |   "
    "verify exponents --optimizer sgd --widths 128,256,512,1024 --seeds 3 --out study",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def commands() -> None:
    """Measures in real networks of growing width what derive predicts."""


app.command()(cli_exponents.exponents)
app.command()(cli_transfer.transfer)
app.command()(cli_transfer.status)
app.command()(cli_transfer.report)
app.command()(cli_transfer.merge)
app.command()(cli_fit.fit)
app.command()(cli_updates.updates)
app.command()(cli_decay.decay)
app.command()(cli_epsilon.epsilon)
app.command()(cli_phase.phase)
app.command()(answer_alone(cli_model.prescribe))
app.command()(answer_alone(cli_model.check))
app.command()(cli_shapes.shapes)
app.command()(cli_plan.plan)


def interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Deliver Ctrl-C again where it fell into code that may not raise, such as a callback of the garbage collector."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    threading.Timer(AGAIN_SECONDS, signal.raise_signal, [signal.SIGINT]).start()  # once that code is left


def main() -> None:
    """Entry point of the `verify` command."""

    def command() -> Any:
        return app(standalone_mode=False)

    prepare("verify")
    sys.unraisablehook = interrupt_again
    code = run(command, "verify", (ValueError,))
    if code == INTERRUPTED or (code and hosts.inside()):
        # XLA may still be computing on its own threads, which taking the interpreter down would crash; and one of
        # several processes would wait for the others.
        gc.collect()  # gives back what closed workers shared
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
