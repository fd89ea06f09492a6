"""The `verify` command."""

import gc
import os
import sys
from typing import Any

import typer

from derive.cli import INTERRUPTED, run
from verify import (
    cli_decay,
    cli_epsilon,
    cli_exponents,
    cli_model,
    cli_phase,
    cli_plan,
    cli_shapes,
    cli_transfer,
    cli_updates,
    hosts,
)

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
app.command()(cli_updates.updates)
app.command()(cli_decay.decay)
app.command()(cli_epsilon.epsilon)
app.command()(cli_phase.phase)
app.command()(cli_model.prescribe)
app.command()(cli_model.check)
app.command()(cli_shapes.shapes)
app.command()(cli_plan.plan)


def main() -> None:
    """Entry point of the `verify` command."""

    def command() -> Any:
        return app(standalone_mode=False)

    code = run(command, "verify", (ValueError,))
    if code == INTERRUPTED or (code and hosts.inside()):
        # XLA may still be computing on its own threads, which taking the interpreter down would crash; and one of
        # several processes would wait for the others.
        gc.collect()  # gives back what closed workers shared
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
