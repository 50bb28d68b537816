"""A command with a subcommand: what is no name of one goes to the first."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup


class WithDefault(TyperGroup):
    """`isoflop data FAMILY.toml` is `isoflop data prepare FAMILY.toml`."""

    def parse_args(self, ctx: Any, args: Sequence[str]) -> list[str]:
        """Puts the first command's name before arguments that name none."""
        known = [*self.commands, "--help"]
        if args and args[0] not in known:
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, list(args))
