"""What a detached process runs: `isoflop` as on the command line, which leaves its exit code in the file it holds."""

import os
import runpy
import signal
import sys


def main() -> None:
    """`python -m isoflop.studio.detached DESCRIPTOR ARGUMENTS...`"""
    descriptor = int(sys.argv[1])
    # Only this process, not what it starts, holds the file.
    os.set_inheritable(descriptor, False)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    # Until the command hears signals itself: stopped before it began is stopped with everything saved.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.argv = ["isoflop", *sys.argv[2:]]
    try:
        runpy.run_module("isoflop", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        os.pwrite(descriptor, f"{os.getpid()}\n{code}\n".encode(), 0)
        raise


if __name__ == "__main__":
    main()
