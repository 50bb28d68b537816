"""The texts of downstream tasks: a file or a folder each, as their data sets are published.

All strings count that a row holds, whatever they are called: questions, choices, answers.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isoflop.data.arrow import begin_of_messages
from isoflop.errors import InputError
from isoflop.given import read_given, refuse_unless_plain


def task_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each task in `folder`: one of the task's name, or all that can be read in a folder of its name.

    Raises:
        InputError: there is no task, a folder of one has nothing to read, or a file is no plain one.
    """
    found: dict[str, list[Path]] = {}
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                found[entry.name] = mine = sorted(path for path in entry.rglob("*") if _is_task(path, entry))
                if not mine:
                    raise InputError(f"{entry}: holds no text of a task; give {', '.join(READERS)} or remove it")
            elif suffix := _suffix(entry.name):
                found.setdefault(entry.name[: -len(suffix)], []).append(entry)
        for path in (path for mine in found.values() for path in mine):
            refuse_unless_plain(path)
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"{where}: cannot read ({error.strerror}); set data.decontaminate to a folder") from None
    if not found:
        raise InputError(f"{folder}: holds no task; set data.decontaminate to a folder of {', '.join(READERS)} files")
    return found


def texts_of(path: Path) -> Iterator[str]:
    """The text of each row of a task's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        for row in READERS[_suffix(path.name) or ""](read_given(path)):
            yield " ".join(_strings(row))
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0][:200]
        raise InputError(f"{path}: cannot read ({reason}); fetch it again or check its permissions") from None
    except (ValueError, EOFError, RecursionError) as error:  # pyarrow's errors are ValueErrors
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not what its name says ({reason}); correct it") from None


def _is_task(path: Path, entry: Path) -> bool:
    # `hf download` leaves its books in .cache; a data set's README and infos are no questions.
    hidden = any(part.startswith(".") for part in path.relative_to(entry).parts)
    infos = path.name in ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
    return not (hidden or infos or path.is_dir()) and _suffix(path.name) is not None


def _suffix(name: str) -> str | None:
    return next((suffix for suffix in READERS if name.lower().endswith(suffix)), None)


def _lines(content: bytes) -> Iterator[Any]:
    for line in content.decode().splitlines():
        if line.strip():
            yield json.loads(line)


def _zipped(content: bytes) -> Iterator[Any]:
    return _lines(gzip.decompress(content))


def _whole(content: bytes) -> Iterator[Any]:
    yield content.decode()


def _json(content: bytes) -> Iterator[Any]:
    document = json.loads(content)
    yield from document if isinstance(document, list) else [document]


def _parquet(content: bytes) -> Iterator[Any]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches():
        yield from batch.to_pylist()


def _arrow(content: bytes) -> Iterator[Any]:
    import pyarrow as pa

    stream = io.BytesIO(content)
    stream.seek(begin_of_messages(stream))
    for batch in pa.ipc.open_stream(stream):
        yield from batch.to_pylist()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


READERS: dict[str, Callable[[bytes], Iterator[Any]]] = {
    ".jsonl": _lines,
    ".jsonl.gz": _zipped,
    ".json": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".csv": _whole,
    ".tsv": _whole,
    ".txt": _whole,
}
"""How the rows of a file are read, by the end of its name. Words are all that counts, so a table is read as it is."""
