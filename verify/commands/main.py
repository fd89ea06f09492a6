"""The `verify` command."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from derive.errors import DeriveError
from derive.help_text import HELP_OPTIONS, App, Commands, examples
from derive.options import VersionOption
from derive.running import INTERRUPTED, run
from derive.streams import prepare
from verify.commands import explore, fit, plan, stores
from verify.commands.model import check, prescribe, shapes
from verify.commands.options import answer_alone
from verify.commands.progress import said
from verify.commands.studies import decay, epsilon, exponents, phase, updates
from verify.commands.studies.transfer.run import transfer
from verify.training import hosts

AGAIN_SECONDS = 0.05
NEEDED = ("jax", "jaxlib", "jaxtyping", "matplotlib", "numpy", "optax", "scipy", "yaml")
"""What the `verify` extra brings."""

app = App(
    name="verify",
    help="Measures in real networks of growing width what derive predicts.",
    epilog=examples(
        "verify exponents --parameterization mup",
        "verify exponents --optimizer sgd --widths 128,256,512 --seeds 3 --out study",
    ),
    cls=Commands,
    add_completion=True,
    context_settings=HELP_OPTIONS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def commands(context: typer.Context, version: VersionOption = False) -> None:  # noqa: ARG001
    """Measures in real networks of growing width what derive predicts."""
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help().rstrip()}\n")


COMMANDS: tuple[tuple[Callable[..., int | None], str], ...] = (
    (exponents.exponents, "verify exponents --optimizer sgd --widths 64,128,256 --out study"),
    (transfer, "verify transfer --optimizer adam --widths 64,128,256 --out study"),
    (stores.status, "verify status study"),
    (stores.report, "verify report study --out report"),
    (stores.merge, "verify merge study.sqlite part1.sqlite part2.sqlite"),
    (fit.fit, "verify fit examples/torch_nanogpt.csv --group setup"),
    (updates.updates, "verify updates --out updates"),
    (decay.decay, "verify decay --out decay"),
    (epsilon.epsilon, "verify epsilon --out epsilon"),
    (phase.phase, "verify phase --out phase"),
    (
        answer_alone(prescribe.prescribe),
        "verify prescribe examples.gated_mlp:make --base-width 128 --width 2048 --base-rate 3e-3",
    ),
    (answer_alone(check.check), "verify check examples.gated_mlp:make --widths 64,128,256,512 --out checked"),
    (shapes.shapes, "verify shapes base.bsh --optimizer adamw --role readout.weight=readout"),
    (explore.explore, "verify explore --out page.html"),
    (plan.plan, "verify plan --widths 1024,4096,16384 --devices 64 --remat"),
)
"""Each with an example for its help."""


def _offer(command: Callable[..., int | None], example: str) -> None:
    """Make it a sub-command, which says what it is at; the one that goes on showing something does so itself."""
    app.command(epilog=examples(example))(command if command is stores.status else said(command))


for _command, _example in COMMANDS:
    _offer(_command, _example)


def interrupt_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Deliver Ctrl-C again where it fell into code that may not raise, such as a callback of the garbage collector."""
    if unraisable.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(unraisable)
        return
    threading.Timer(AGAIN_SECONDS, signal.raise_signal, [signal.SIGINT]).start()  # once that code is left


def main() -> None:
    """Entry point of the `verify` command."""

    def command() -> Any:
        try:
            return app(prog_name="verify", standalone_mode=False)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in NEEDED:
                raise
            raise DeriveError(f"{missing} is not installed; run: pip install '.[verify]' where its source is") from None

    prepare("verify")
    sys.unraisablehook = interrupt_again
    code = run(command, "verify")
    if code == INTERRUPTED or (code and hosts.inside()):
        # XLA may still be computing on its own threads, which taking the interpreter down would crash; and one of
        # several processes would wait for the others.
        gc.collect()  # gives back what closed workers shared
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
