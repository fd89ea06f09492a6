"""Help that can be read and copied: summaries whole, examples one a line."""

from typing import Any

from typer.core import TyperGroup

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """A group that lists each of its commands with the whole first paragraph of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write name and summary of every command, the summary wrapped rather than cut."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, _summary(each.help or "")) for name, each in found if each is not None and not each.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def _summary(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split())


def examples(*commands: str) -> str:
    """An epilog with one command a line, which no wrapping may touch."""
    return "\b\n" + "\n".join(["Example:" if len(commands) == 1 else "Examples:", *(f"  {each}" for each in commands)])
