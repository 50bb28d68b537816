"""Documents out of files: one at a time, however large the corpus, with every fault named by file and place.

A corpus is a file or a folder of files. A .txt file is one document; a .jsonl file (plain or as .zst) holds one JSON
object a line in the Pile's form; a .parquet file one document a row.
"""

import io
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from isoflop.data.zstd_stream import ZstdStream
from isoflop.errors import InputError

MAX_DOCUMENT_BYTES = 2**26
"""The longest line, text file or parquet value that is read: 64 MiB, some 15 million tokens."""

_MAX_CHUNK_BYTES = 2**31  # of the text column in one parquet row group, decompressed
_PARQUET_ROWS = 64  # rows decoded at once
_BOM = b"\xef\xbb\xbf"
_ABOUT_THE_CORPUS = ("notice", "license", "licence", "copying", "readme")


@dataclass(frozen=True, slots=True)
class Document:
    """A text, the file it came from (relative to the corpus) and its domain (`meta.pile_set_name`, or "")."""

    text: str
    source: str
    domain: str


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus and its name relative to it, with forward slashes."""

    path: Path
    name: str


class Reader(Protocol):
    """Yields (text, domain) of every document in a file, in the file's order."""

    def __call__(self, path: Path, text_key: str, /) -> Iterator[tuple[str, str]]: ...


def read_documents(source: Path, text_key: str) -> Iterator[Document]:
    """Every document of the corpus at `source`, files in the order of their names, empty documents included.

    Raises:
        InputError: a file cannot be read or decoded, a document has no `text_key`, or no document has any text.
    """
    any_text = False
    for file in corpus_files(source):
        try:
            for text, domain in _reader(file.path)(file.path, text_key):
                any_text = any_text or bool(text)
                yield Document(text, file.name, domain)
        except OSError as error:
            raise _cannot_read(file.path, error) from None
    if not any_text:
        raise InputError(f"{source}: no document has any text; give a corpus with text in it")


def corpus_files(source: Path) -> list[CorpusFile]:
    """The files of the corpus at `source`: itself, or all below it (without hidden ones), sorted by name.

    Files without a known suffix that speak about the corpus (NOTICE, LICENSE, README.md ...) are no part of it.

    Raises:
        InputError: nothing is there, a folder cannot be read or holds no file, or a file's suffix is unknown.
    """
    if not os.path.exists(source):
        raise InputError(f"{source}: no such file or folder; set data.source to where the text is")
    files = [CorpusFile(source, source.name)]
    if source.is_dir():
        found = [
            CorpusFile(path, path.relative_to(source).as_posix()) for path in _files_below(source) if _is_data(path)
        ]
        files = sorted(found, key=lambda file: file.name)
    if not files:
        raise InputError(f"{source}: the folder holds no file to read; put files with {_known_suffixes()} there")
    for file in files:
        _reader(file.path)
        if file.path.exists() and not file.path.is_file():
            raise InputError(f"{file.path}: is no plain file; give a file or a folder of files")
        _refuse_surrogates(file.name, f"{str(file.path)!r}: the file's name")
    return files


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise _cannot_read(Path(error.filename), error)

    for root, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root) / name for name in names if not name.startswith("."))


def _is_data(path: Path) -> bool:
    return _suffix(path) is not None or path.name.split(".")[0].lower() not in _ABOUT_THE_CORPUS


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in READERS if path.name.lower().endswith(suffix)), None)


def _reader(path: Path) -> Reader:
    suffix = _suffix(path)
    if suffix is None:
        raise InputError(f"{path}: cannot tell its format by its name; give files with {_known_suffixes()}")
    return READERS[suffix]


def _known_suffixes() -> str:
    *some, last = READERS
    return f"{', '.join(some)} or {last}"


def _read_text(path: Path, text_key: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise _too_long(f"{path}: the text", "cut it into several files")
    # The ends of lines are the file system's, not the author's: a corpus saved on Windows gives the same tokens.
    yield _decoded(content.removeprefix(_BOM), f"{path}").replace("\r\n", "\n"), ""


def _read_jsonl(path: Path, text_key: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        yield from _read_lines(file, path, text_key)


def _read_jsonl_zst(path: Path, text_key: str) -> Iterator[tuple[str, str]]:
    with open(path, "rb") as file:
        yield from _read_lines(io.BufferedReader(ZstdStream(file, path), 2**20), path, text_key)


def _read_lines(file: BinaryIO, path: Path, text_key: str) -> Iterator[tuple[str, str]]:
    number = 0
    while line := file.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        where = f"{path}: line {number}"
        if len(line) > MAX_DOCUMENT_BYTES:
            raise _too_long(where, "check that documents are separated by line ends, or cut this one")
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield _parsed(_decoded(line, where), text_key, where)


def _parsed(line: str, text_key: str, where: str) -> tuple[str, str]:
    """(text, domain) of one line of JSON."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}; correct or remove it"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise InputError(f"{where}: not readable as JSON ({error}); correct or remove it") from None
    if not isinstance(record, dict):
        raise InputError(f'{where}: is no JSON object; every line must look like {{"{text_key}": "..."}}')
    if text_key not in record:
        raise InputError(f"{where}: no field {text_key!r}; set data.text_key to one of: {_some(list(record))}")
    text = record[text_key]
    if not isinstance(text, str):
        raise InputError(
            f"{where}: field {text_key!r} is {_json_kind(text)}, not a text; correct it or set data.text_key"
        )
    domain = _domain(record.get("meta"))
    _refuse_surrogates(text, f"{where}: the text")
    _refuse_surrogates(domain, f"{where}: meta.pile_set_name")
    return text, domain


def _domain(meta: object) -> str:
    """The Pile's name for where a document comes from, or "" if it is not told."""
    domain = meta.get("pile_set_name") if isinstance(meta, dict) else None
    return domain if isinstance(domain, str) else ""


def _read_parquet(path: Path, text_key: str) -> Iterator[tuple[str, str]]:
    # Imported here: pyarrow takes a third of a second, and most corpora are not parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as file:
        try:
            table = pq.ParquetFile(file)
            row = 0
            for batch in table.iter_batches(_PARQUET_ROWS, columns=_columns(table, path, text_key), use_threads=False):
                metas = batch.column("meta") if "meta" in batch.schema.names else itertools.repeat(None, batch.num_rows)
                for text, meta in zip(batch.column(text_key), metas, strict=True):
                    row += 1
                    yield _cell(text, text_key, f"{path}: row {row}"), _domain(meta.as_py() if meta else None)
        except UnicodeDecodeError as error:
            raise _not_utf8(f"{path}: row {row}", error) from None
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise InputError(f"{path}: cannot be read as parquet ({reason}); fetch or write the file again") from None


def _columns(table: Any, path: Path, text_key: str) -> list[str]:
    """The parquet columns to read: the text, and the domain where there is one."""
    import pyarrow as pa

    schema = table.schema_arrow
    if schema.names.count(text_key) > 1:
        raise InputError(f"{path}: two columns are named {text_key!r}; rename one")
    if text_key not in schema.names:
        raise InputError(f"{path}: no column {text_key!r}; set data.text_key to one of: {_some(schema.names)}")
    kind = schema.field(text_key).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"{path}: column {text_key!r} holds {kind}, not text; set data.text_key to a column of strings"
        )
    for group in range(table.metadata.num_row_groups):
        chunks = table.metadata.row_group(group)
        for chunk in (chunks.column(index) for index in range(chunks.num_columns)):
            if chunk.path_in_schema == text_key and chunk.total_uncompressed_size > _MAX_CHUNK_BYTES:
                raise InputError(
                    f"{path}: row group {group + 1} holds {chunk.total_uncompressed_size} bytes of text, more than "
                    f"{_MAX_CHUNK_BYTES}; write the file with smaller row groups"
                )
    has_domain = "meta" in schema.names and pa.types.is_struct(schema.field("meta").type)
    has_domain = has_domain and schema.field("meta").type.get_field_index("pile_set_name") >= 0
    return [text_key, "meta.pile_set_name"] if has_domain else [text_key]


def _cell(cell: Any, text_key: str, where: str) -> str:
    """The text of one parquet value."""
    text = cell.as_py()
    if text is None:
        raise InputError(f"{where}: column {text_key!r} is null; fill it or remove the row")
    if len(text.encode()) > MAX_DOCUMENT_BYTES:
        raise _too_long(where, "cut this document")
    return str(text)


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _refuse_surrogates(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise InputError(
            f"{what} has half a character (\\u{code:04x}, a lone surrogate) at character {error.start + 1}; "
            "correct or remove it"
        ) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> InputError:
    byte = error.object[error.start]
    return InputError(
        f"{where}: not UTF-8 at byte {error.start + 1} (0x{byte:02x}); save the text as UTF-8 or remove it"
    )


def _too_long(where: str, remedy: str) -> InputError:
    return InputError(f"{where} is longer than {MAX_DOCUMENT_BYTES} bytes, the most a document may have; {remedy}")


def _cannot_read(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot read ({error.strerror or error}); check the file, its permissions and its disk")


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "(there is none)"


READERS: dict[str, Reader] = {
    ".txt": _read_text,
    ".jsonl": _read_jsonl,
    ".jsonl.zst": _read_jsonl_zst,
    ".parquet": _read_parquet,
}
"""How a file is read, by the end of its name."""
