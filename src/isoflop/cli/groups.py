"""Commands of commands: in which order they are listed, and which one is meant where none is named."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup


class InOrder(TyperGroup):
    """Lists a command with subcommands where it belongs, not after all others."""

    def list_commands(self, ctx: Any) -> list[str]:
        """`data` comes between plan and train."""
        names = [name for name in self.commands if name != "data"]
        return [*names[:1], "data", *names[1:]]


class WithDefault(TyperGroup):
    """`isoflop data FAMILY.toml` is `isoflop data prepare FAMILY.toml`."""

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """Puts the first command's name before arguments that name none."""
        known = [*self.commands, "--help"]
        if not args or args[0] not in known:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, list(args))
