"""Files that a user gives: read whole, if they are files."""

import errno
import os
import stat
from pathlib import Path

from isoflop.errors import InputError


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
        raise OSError(errno.EINVAL, "no plain file", str(path))


def csv_text(path: Path) -> str:
    """The text of a CSV file, its lines ended by a line feed.

    Raises:
        InputError: there is no such file, it is no plain one, or it is not UTF-8.
    """
    try:
        text = read_given(path).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); give a CSV file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8 CSV") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")
