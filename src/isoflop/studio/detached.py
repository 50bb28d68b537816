"""What a detached process runs: `isoflop` as on the command line, which leaves its exit code in the file it holds.

It imports nothing of isoflop before it hears signals.
"""

import os
import runpy
import signal
import sys

WORDS_BYTES = 64


def words(pid: int | None, code: int | None) -> bytes:
    """What stands in the file: the process and how it ended, as far as known. It never grows, so needs no room."""
    known = [str(one) for one in (pid, code) if one is not None]
    return "\n".join(known).ljust(WORDS_BYTES - 1).encode() + b"\n"


def main() -> None:
    """`python -m isoflop.studio.detached DESCRIPTOR ARGUMENTS...`, begun with SIGTERM blocked."""
    descriptor = int(sys.argv[1])
    # Only this process, not what it starts, holds the file.
    os.set_inheritable(descriptor, False)
    # Until the command hears signals itself: stopped before it began is stopped with everything saved.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.pwrite(descriptor, words(os.getpid(), None), 0)
    sys.argv = ["isoflop", *sys.argv[2:]]
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        runpy.run_module("isoflop", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        os.pwrite(descriptor, words(os.getpid(), code), 0)
        raise


if __name__ == "__main__":
    main()
