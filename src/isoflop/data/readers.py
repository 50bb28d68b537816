"""Records out of files: one at a time, however large the corpus, with every fault named by file and place.

A corpus is a file or a folder of files. A plain text file is one document; a .jsonl file (plain, .zst or .gz) holds
one JSON object a line in the Pile's form; .parquet and .arrow files (as `datasets` saves them) one document a row.
"""

import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from isoflop.config import DataSource
from isoflop.data.arrow import begin_of_messages, checked_batches
from isoflop.data.corpus import CorpusFile, at_work_on, suffix_of
from isoflop.data.decompression import DamageError, GzipStream, ZstdStream
from isoflop.data.records import FILE_IS_DONE, MAX_DOCUMENT_BYTES, Fault, Position, Record
from isoflop.errors import InputError

_MAX_CHUNK_BYTES = 2**31  # of the text column in one parquet row group, decompressed
_ROWS = 64  # decoded at once
_SKIPPED_AT_ONCE = 2**20
_BOM = b"\xef\xbb\xbf"

Cut = tuple[int, int, int, bytes | str, str | None]
"""(offset, number, end, content, domain), as in `Record`; content that is a `str` is the reason of a fault."""


class Reader(Protocol):
    """Cuts a file into documents from `start` on. A `DamageError` that it raises ends the file there."""

    def __call__(self, stream: BinaryIO, file: CorpusFile, start: Position, text_key: str, /) -> Iterator[Cut]: ...


def records(
    files: Sequence[CorpusFile], data: DataSource, start: Position, end_file: int | None = None
) -> Iterator[Record | Fault]:
    """What the files hold from `start` on, up to file number `end_file`.

    Raises:
        InputError: a local file cannot be opened or read, or has no column of text.
        WorkError: a remote file cannot be opened or read.
    """
    for number in range(start.file, len(files) if end_file is None else end_file):
        begin = start if number == start.file else Position(number)
        yield from _records_of(files[number], number, data, begin)


def _records_of(file: CorpusFile, number: int, data: DataSource, start: Position) -> Iterator[Record | Fault]:
    reader = READERS.get(suffix_of(file.name, data) or "", _read_text)
    offset, count = start.offset, start.number
    with at_work_on(file.address), file.open() as stream:
        try:
            for offset_of, count, end, content, domain in reader(stream, file, start, data.text_key):
                offset = end
                if isinstance(content, str):
                    yield Fault(number, offset_of, count, end, content)
                else:
                    yield Record(number, offset_of, count, end, content, domain)
        except DamageError as damage:
            yield Fault(number, max(0, offset), count, FILE_IS_DONE, str(damage), rest_of_file=True)


def _read_text(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    if start.offset:
        return
    content = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        yield 0, 1, FILE_IS_DONE, too_long("the text", "cut it into several files"), None
        return
    # The ends of lines are the file system's, not the author's: a corpus saved on Windows gives the same tokens.
    yield 0, 1, FILE_IS_DONE, content.removeprefix(_BOM).replace(b"\r\n", b"\n"), folder_of(file.name)


def _read_jsonl(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    if start.offset:
        stream.seek(start.offset)
    yield from _lines(stream, start)


def _read_jsonl_zst(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    yield from _lines(_skipped(io.BufferedReader(ZstdStream(stream), 2**20), start.offset), start)


def _read_jsonl_gz(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    yield from _lines(_skipped(io.BufferedReader(GzipStream(stream), 2**20), start.offset), start)


def _skipped(stream: BinaryIO, offset: int) -> BinaryIO:
    while offset and (piece := stream.read(min(offset, _SKIPPED_AT_ONCE))):
        offset -= len(piece)
    return stream


def _lines(stream: BinaryIO, start: Position) -> Iterator[Cut]:
    offset, number = start.offset, start.number
    while line := stream.readline(MAX_DOCUMENT_BYTES + 1):
        number += 1
        begin, offset = offset, offset + len(line)
        if len(line) > MAX_DOCUMENT_BYTES:
            while not line.endswith(b"\n") and (line := stream.readline(_SKIPPED_AT_ONCE)):
                offset += len(line)
            remedy = "check that documents are separated by line ends, or cut this one"
            yield begin, number, offset, too_long(f"line {number}", remedy), None
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield begin, number, offset, line, None
    if offset == 0:
        raise DamageError("the file is empty; fetch it again or remove it")


def _read_parquet(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    # Imported here: pyarrow takes a third of a second, and most corpora are not parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(stream, buffer_size=2**20, pre_buffer=False, page_checksum_verification=True)
        columns = _columns(table.schema_arrow, file, text_key)
        row = 0
        for group in range(table.metadata.num_row_groups):
            first, row = row, row + table.metadata.row_group(group).num_rows
            if row <= start.offset:
                continue
            if (size := _text_bytes(table.metadata.row_group(group), text_key)) > _MAX_CHUNK_BYTES:
                reason = f"row group {group + 1} holds {size} bytes of text, more than {_MAX_CHUNK_BYTES}"
                yield first, first + 1, row, f"{reason}; write the file with smaller row groups", None
                continue
            batches = table.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False)
            yield from _cells(batches, first, start.offset, file, text_key)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise _damaged("parquet", error) from None


def _read_arrow(stream: BinaryIO, file: CorpusFile, start: Position, text_key: str) -> Iterator[Cut]:
    import pyarrow as pa

    try:
        # `datasets` writes the streaming form, other tools the random-access form: the same with a frame around it.
        stream.seek(begin_of_messages(stream))
        opened = pa.ipc.open_stream(stream)
        columns = [name.partition(".")[0] for name in _columns(opened.schema, file, text_key)]
        with file.open() as headers:
            rows = (part for batch in _batches(opened, headers, columns) for part in _parts(batch))
            yield from _cells(rows, 0, start.offset, file, text_key)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8
        raise _damaged("arrow", error) from None


def _batches(opened: Any, headers: BinaryIO, columns: list[str]) -> Iterator[Any]:
    """Those columns, text first, of the record batches, each read when its header has been looked at."""
    import pyarrow as pa

    checked = checked_batches(headers)
    while True:
        is_more = next(checked, False)
        try:
            batch = opened.read_next_batch()
        except StopIteration:
            return
        if not is_more:
            raise DamageError("cannot be read as arrow (a header is damaged); fetch or write the file again")
        selected = batch.select(columns)
        # Nobody else looks whether offsets lie in the batch. That a text is UTF-8 is looked at text by text.
        text = selected.column(0)
        text.view(pa.binary() if text.type == pa.string() else pa.large_binary()).validate(full=True)
        for column in selected.columns[1:]:
            column.validate(full=True)
        yield selected


def _parts(batch: Any) -> Iterator[Any]:
    for first in range(0, batch.num_rows, _ROWS):
        yield batch.slice(first, _ROWS)


def _cells(batches: Iterator[Any], row: int, start: int, file: CorpusFile, text_key: str) -> Iterator[Cut]:
    """The rows of the batches from number `start` on, the first batch beginning at number `row`."""
    for batch in batches:
        names = batch.schema.names
        metas = batch.column("meta") if "meta" in names else itertools.repeat(None, batch.num_rows)
        for text, meta in zip(batch.column(text_key), metas, strict=True):
            row += 1
            if row > start:
                yield row - 1, row, row, _cell(text, text_key, f"row {row}"), _domain_of(meta, file)


def _cell(text: Any, text_key: str, where: str) -> bytes | str:
    """The UTF-8 of one value; a `str` is what is wrong with it."""
    buffer = text.as_buffer()
    if buffer is None:
        return f"{where}: column {text_key!r} is null; fill it or remove the row"
    return buffer.to_pybytes() if buffer.size <= MAX_DOCUMENT_BYTES else too_long(where, "cut this document")


def _domain_of(meta: Any, file: CorpusFile) -> str:
    said = meta.as_py() if meta is not None else None
    domain = said.get("pile_set_name") if isinstance(said, dict) else None
    return domain if isinstance(domain, str) else folder_of(file.name)


def _columns(schema: Any, file: CorpusFile, text_key: str) -> list[str]:
    """The columns to read: the text, and the domain where there is one."""
    import pyarrow as pa

    if schema.names.count(text_key) > 1:
        raise InputError(f"{file.address}: two columns are named {text_key!r}; rename one")
    if text_key not in schema.names:
        raise InputError(f"{file.address}: no column {text_key!r}; set data.text_key to one of: {some(schema.names)}")
    kind = schema.field(text_key).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"{file.address}: column {text_key!r} holds {kind}, not text; set data.text_key to a column of strings"
        )
    has_domain = "meta" in schema.names and pa.types.is_struct(schema.field("meta").type)
    has_domain = has_domain and schema.field("meta").type.get_field_index("pile_set_name") >= 0
    return [text_key, "meta.pile_set_name"] if has_domain else [text_key]


def _text_bytes(group: Any, text_key: str) -> int:
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == text_key)


def _damaged(form: str, error: Exception) -> DamageError:
    reason = str(error).splitlines()[0][:200]
    return DamageError(f"cannot be read as {form} ({reason}); fetch or write the file again")


def folder_of(name: str) -> str:
    """The domain of a document that tells none: the corpus's top folder that its file lies in, or ""."""
    return name.split("/")[0] if "/" in name else ""


def too_long(what: str, remedy: str) -> str:
    """What to say of a document beyond the cap."""
    return f"{what} is longer than {MAX_DOCUMENT_BYTES} bytes, the most a document may have; {remedy}"


def some(names: list[str]) -> str:
    """The first few of them, for a message."""
    shown = ", ".join(repr(name) for name in names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown or "(there is none)"


READERS: dict[str, Reader] = {
    ".jsonl": _read_jsonl,
    ".jsonl.zst": _read_jsonl_zst,
    ".jsonl.gz": _read_jsonl_gz,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
"""How a file is read, by the end of its name; all others are plain text."""
