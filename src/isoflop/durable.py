"""Files that are either whole or not there: whatever a crash, a kill or a full disk does in between."""

import hashlib
import json
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from isoflop.errors import WorkError


def write_bytes(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Replaces the file at `path` by `content` (one piece or many): readers see the old file or the new, never a part.

    Raises:
        WorkError: the disk is full or the folder cannot be written. What was at `path` is untouched.
    """
    part = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, document: Any) -> None:
    """`write_bytes` of a JSON document as `to_json` writes it."""
    write_text(path, to_json(document) + "\n")


SEAL = "sha256"


def write_sealed(path: Path, document: dict[str, Any]) -> None:
    """`write_json` of what `sealed` makes of the document."""
    write_json(path, sealed(document))


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """With a last key, the SHA-256 of all others: `refuse_broken_seal` sees whatever changes later."""
    plain = json.loads(to_json(document, indent=None))  # with an indent it is written in Python, not in C
    return {**plain, SEAL: _hash_of(plain)}


def refuse_broken_seal(document: Any) -> Any:
    """What was given to `sealed`, from the JSON it made; what was written without a seal is taken as it is.

    Raises:
        ValueError: it is not what was written.
    """
    if not isinstance(document, dict) or SEAL not in document:
        return document
    plain = {key: value for key, value in document.items() if key != SEAL}
    if document[SEAL] != _hash_of(plain):
        raise ValueError("its SHA-256 does not hold: it has changed since it was written")
    return plain


class SealedLines:
    """The seals of a file of JSON lines that is only appended to: each line ends with the key `crc`.

    That is the CRC-32 of all that stands in the file before its eight digits, exclusive-or that of the name of the
    file's folder. The last one speaks for the whole file, which takes one call to check; each, with the one before,
    for its own line; and none holds in another folder. Lines without it, before the first that has it, are of older
    versions and taken as they are. A reader hands all of the file to `intact`, piece by piece; a writer what is there,
    and then asks `seal` for each new line.
    """

    def __init__(self, path: Path) -> None:
        self._name = zlib.crc32(path.parent.name.encode())
        self._crc = 0  # of the file so far
        self._sealed = False
        self.lines = self.damaged = 0
        self.first_damaged: int | None = None  # a line's number, from 1

    def seal(self, document: dict[str, Any]) -> bytes:
        """The next line."""
        start = to_json(document, indent=None)[:-1].encode() + b', "crc": "'
        self._crc = zlib.crc32(start, self._crc)
        end = b'%08x"}\n' % (self._crc ^ self._name)
        self._crc, self._sealed = zlib.crc32(end, self._crc), True
        self.lines += 1
        return start + end

    def intact(self, content: bytes) -> bytes:
        """Of the next whole lines those that are what was written."""
        seal = _SEAL.search(content, max(0, len(content) - _SEAL_BYTES))
        if seal is None and not self._sealed and b', "crc": "' not in content:
            self._crc = zlib.crc32(content, self._crc)
        elif seal is not None and self._holds(content, seal):
            self._after(content, seal)
        else:
            return b"".join(line for line in content.splitlines(keepends=True) if self._line_holds(line))
        self.lines += content.count(b"\n")
        return content

    def _line_holds(self, line: bytes) -> bool:
        seal = _SEAL.search(line)
        holds = not self._sealed if seal is None else self._holds(line, seal)
        if seal is None:
            self._crc = zlib.crc32(line, self._crc)
        else:
            self._after(line, seal)
        self.lines += 1
        if not holds:
            self.damaged += 1
            self.first_damaged = self.first_damaged or self.lines
        return holds

    def _holds(self, content: bytes, seal: re.Match[bytes]) -> bool:
        crc = zlib.crc32(memoryview(content)[: seal.start(1)], self._crc)
        return crc == int(seal[1], 16) ^ self._name

    def _after(self, content: bytes, seal: re.Match[bytes]) -> None:
        """Goes on from what the seal says, so that one changed line does not speak against those after it."""
        crc = int(seal[1], 16) ^ self._name
        self._crc, self._sealed = zlib.crc32(memoryview(content)[seal.start(1) :], crc), True


_SEAL = re.compile(rb', "crc": "([0-9a-f]{8})"}\n\Z')
_SEAL_BYTES = len(b', "crc": "01234567"}\n')


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Puts a folder in place whole: `fill` writes into a temporary one, which is synced and renamed to `folder`.

    A folder that is already there is replaced: it steps aside as `folder.old`, and a process killed between the two
    renames leaves it there for the next call to put back.

    Raises:
        WorkError: the disk is full or cannot be written. What was at `folder` is untouched.
    """
    part, old = part_of(folder), folder.with_name(folder.name + ".old")
    try:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        for path in sorted(part.rglob("*")):
            if path.is_file():
                _sync_file(path)
            else:
                sync_folder(path)
        sync_folder(part)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        sync_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise cannot_write(folder, error) from error
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed `write_folder` left beside a folder that is in place and need not be written again."""
    for one in (part_of(folder), folder.with_name(folder.name + ".old")):
        shutil.rmtree(one, ignore_errors=True)


def part_of(path: Path) -> Path:
    """Where what will be at `path` is written."""
    return path.with_name(path.name + ".part")


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file of a folder that is not yet in place; on the disk when this returns.

    Raises:
        WorkError: the disk is full or the folder cannot be written.
    """
    try:
        with open(path, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def to_json(document: Any, indent: int | None = 2) -> str:
    """JSON in which every float is finite or null, as DESIGN's contract asks; keys stay in their order."""
    return json.dumps(_finite(document), indent=indent, ensure_ascii=False, allow_nan=False)


def _hash_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def cannot_write(path: Path, error: OSError) -> WorkError:
    """What to raise when `error` came of writing at `path`."""
    remedy = "free some space and run again" if error.errno == 28 else "check the folder's permissions and run again"
    return WorkError(f"{path}: cannot write ({error.strerror or error}); nothing that was there is lost; {remedy}")
