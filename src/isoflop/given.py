"""Files that a user gives: read whole, if they are files."""

import errno
import os
import stat
from pathlib import Path


def read_given(path: Path) -> bytes:
    """The content of the plain file at `path`. A pipe would be waited for, a device read without end.

    Raises:
        OSError: there is none, or it is something else; `strerror` says which.
    """
    refuse_unless_plain(path)
    return path.read_bytes()


def refuse_unless_plain(path: Path) -> None:
    """The same for files that others read.

    Raises:
        OSError: as above.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
