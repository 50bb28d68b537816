"""Runs a command and ends the process: every way to end has its exit code and at most one line about it."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from isoflop import interrupts
from isoflop.cli.streams import guard_streams, let_go_streams
from isoflop.errors import InputError, Interrupted, LostError, WorkError
from isoflop.outcome import ended_already, tell_launcher

DONE, FAULT, BAD_INPUT = 0, 1, 2


def main() -> NoReturn:
    """The command `isoflop`. Exit codes: 0 done, 1 a fault while working, 2 bad input, 130 or 143 interrupted."""
    arguments = sys.argv[1:]
    guard_streams()
    if ended_already():
        sys.exit(DONE)
    try:
        interrupts.install()
        code = _run(arguments)
        sys.stdout.flush()
    except BaseException as error:
        code, line = _told(error)
        told = tell_launcher(code, _one_line(line), lost=isinstance(error, LostError))
        if told is not None:
            code = told
        elif line:
            if "--debug" in arguments:
                traceback.print_exc()
            print(f"isoflop: {_one_line(line)}", file=sys.stderr)
    let_go_streams()
    if any(thread.name == "join" for thread in threading.enumerate()):
        os._exit(code)  # it waits for other systems inside a library, and the interpreter's end would wait for it
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    from isoflop.cli.app import app

    code = app(list(arguments) or ["--help"], prog_name="isoflop", standalone_mode=False)
    if code == _of_signal(signal.SIGINT):
        raise KeyboardInterrupt  # typer has made an exit code of it
    return code if isinstance(code, int) else DONE


def _told(error: BaseException) -> tuple[int, str]:
    """The exit code for what went wrong, and what to say of it."""
    import typer

    match error:
        case Interrupted():
            kept = "everything is saved" if error.saved else "everything up to the last checkpoint is kept"
            return _of_signal(error.signal_number), f"interrupted; {kept}: run the same command to go on"
        case KeyboardInterrupt():
            return _of_signal(signal.SIGINT), "interrupted; run the same command to go on"
        case SystemExit():
            return error.code if isinstance(error.code, int) else FAULT, ""
        case typer.TyperException():
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "isoflop"
            return BAD_INPUT, f"{error.format_message().rstrip('.')}; see {command} --help"
        case InputError():
            return BAD_INPUT, str(error)
        case WorkError():
            return FAULT, str(error)
        case OSError(errno=errno.ENOSPC):
            where = f"{error.filename}: " if error.filename else ""
            return FAULT, f"{where}no space left on the disk; nothing that was there is lost; free some and run again"
        case OSError() if error.filename:
            return (
                FAULT,
                f"{error.filename}: {error.strerror}; check the path and its permissions (--debug shows where)",
            )
        case _:
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            return FAULT, f"{said}; this is a fault of isoflop: run again with --debug to see where"


def _of_signal(number: int) -> int:
    return 128 + number


def _one_line(text: str) -> str:
    """The text without line breaks and without what a terminal would obey."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
