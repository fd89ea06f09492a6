"""Help that can be read and copied: summaries whole, options in panels by what they are about, examples one a line."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
PANELS = {
    "Model": "model framework example frozen apart role axis parameterization a b gauge forward_only alignment layers "
    "residual depth_alignment depth no_norm zero_init head_dimension context vocab",
    "Training": "optimizer update rank loss loss_function global_rate clip_global_norm epsilon epsilon_rule decay "
    "weight_decay betas horizon schedule own base_rate match rates halvings stop_above disjoint constants "
    "tune_constants c c_hidden c_readout c_embedding value gradient_rms fixed_fan seeds steps drift_steps batch "
    "evaluation corpus dtype tokens train_equivalents",
    "Sizes": "base_width width widths base_depth depths base_batch batches base_tokens hold target",
    "Devices": "devices memory flops utilisation probe engine address processes process coordinator mesh scan remat "
    "part checkpoint checkpoint_every",
    "Output": "output_format explain standalone every predict margin measured certificate out report watch salvage",
}
"""Options by what they are about, in the order in which they are shown; what is in none comes last."""
OF_COMMANDS = {
    "derive": {"Sizes": "base_width width base_depth depth base_batch batch base_tokens tokens base_rate match"},
    "verify fit": {"Columns of the table": "width rate loss seed group depth batch tokens steps names"},
}
"""What some commands have in another panel, or in one of their own."""
REST = "Options"


def panels(command: str) -> dict[str, str]:
    """The panel of every option of that command, by its parameter's name, in the order in which panels are shown."""
    own = OF_COMMANDS.get(command, {})
    found = {option: name for name, options in PANELS.items() for option in options.split()}
    found |= {option: name for name, options in own.items() for option in options.split()}
    order = [*(name for name in own if name not in PANELS), *PANELS]
    return dict(sorted(found.items(), key=lambda each: order.index(each[1])))


def _write_panels(command: Any, ctx: Any, formatter: Any) -> None:
    """Write arguments, then the options panel by panel."""
    by_option = panels(ctx.command_path)
    rows: dict[str, list[Any]] = {name: [] for name in ("Arguments", *by_option.values(), REST)}
    for parameter in command.get_params(ctx):
        row = parameter.get_help_record(ctx)
        if row is not None:
            is_option = parameter.param_type_name == "option"
            rows[by_option.get(parameter.name, REST) if is_option else "Arguments"].append(row)
    for name, found in rows.items():
        if found:
            with formatter.section(name):
                formatter.write_dl(found)


class Command(TyperCommand):
    """A command whose options are shown in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in panels."""
        _write_panels(self, ctx, formatter)


class Commands(TyperGroup):
    """A group that lists each of its commands with the whole first paragraph of its help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options in panels, and then the commands."""
        _write_panels(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write name and summary of every command, the summary wrapped rather than cut."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _summary(each.help or "")) for name, each in found if each is not None and not each.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class App(typer.Typer):
    """An application whose commands have panels."""

    def command(self, *given: Any, **options: Any) -> Callable[[Any], Any]:
        """What registers a command, as typer has it."""
        return super().command(*given, cls=Command, **options)


def _summary(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split())


def examples(*commands: str) -> str:
    """An epilog with one command a line, which no wrapping may touch."""
    return "\b\n" + "\n".join(["Example:" if len(commands) == 1 else "Examples:", *(f"  {each}" for each in commands)])
