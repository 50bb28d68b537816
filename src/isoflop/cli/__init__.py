"""The command line: one function a command; results on standard output, progress on standard error."""

from isoflop.cli.main import main

__all__ = ["main"]
