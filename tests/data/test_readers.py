"""Readers: every format gives the same documents, and every fault is named by file and place."""

import contextlib
import gzip
import json
import os
import socket
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from isoflop.config import DataSource
from isoflop.data import Document, read_documents
from isoflop.data.corpus import corpus_files
from isoflop.data.readers import records
from isoflop.data.records import MAX_DOCUMENT_BYTES, Position, after
from isoflop.errors import InputError

LINE = b'{"text": "ok", "meta": {"pile_set_name": "Verse"}}\n'


def source(path: Path | str, text_key: str = "text", **settings: object) -> DataSource:
    """A family's data at `path`; no fault is allowed unless `settings` say so."""
    tokenizer = {"kind": "gpt2"}
    said = {"text_key": text_key, "faults_allowed": 0.0, "tokenizer": tokenizer, "context_length": 8, **settings}
    return DataSource.model_validate({"source": path, **said})


def read(path: Path | str, text_key: str = "text", **settings: object) -> list[Document]:
    return list(read_documents(source(path, text_key, **settings)))


def refused(path: Path, text_key: str = "text", **settings: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, text_key, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_format_gives_the_same_documents(tmp_path: Path, pocket_lines: list[str]) -> None:
    records = [json.loads(line) for line in pocket_lines]
    expected = [(record["text"], record["meta"]["pile_set_name"]) for record in records]
    lines = "".join(pocket_lines).encode()
    plain = put(tmp_path / "a.jsonl", lines)
    packed = put(tmp_path / "a.jsonl.zst", zstandard.ZstdCompressor().compress(lines))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet", row_group_size=100)
    zipped = put(tmp_path / "a.jsonl.gz", gzip.compress(lines[:99_999]) + gzip.compress(lines[99_999:]))
    table = pa.Table.from_pylist(records)
    for name, new in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with new(tmp_path / name, table.schema) as writer:
            writer.write_table(table, max_chunksize=100)
    arrows = (tmp_path / "stream.arrow", tmp_path / "file.arrow")
    for path in (plain, packed, zipped, *arrows, tmp_path / "a.parquet"):
        assert [(document.text, document.domain) for document in read(path)] == expected
        assert {document.source for document in read(path)} == {path.name}


def test_a_folder_is_read_whole_in_the_order_of_names(tmp_path: Path) -> None:
    put(tmp_path / "b" / "2.txt", b"second")
    put(tmp_path / "b" / "1.jsonl", LINE)
    put(tmp_path / "a.txt", b"first")
    put(tmp_path / "c.TXT", b"last")
    for ignored in ("NOTICE", "LICENSE", "README.md", ".hidden.txt", ".git/x.txt", "b/README"):
        put(tmp_path / ignored, b"about the corpus")
    assert read(tmp_path) == [
        Document("first", "a.txt", ""),
        Document("ok", "b/1.jsonl", "Verse"),
        Document("second", "b/2.txt", "b"),
        Document("last", "c.TXT", ""),
    ]


def test_folders_linked_into_a_corpus_are_read_and_loops_refused(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "web" / "a.txt", b"elsewhere")
    put(tmp_path / "corpus" / "b.txt", b"here")
    os.symlink(tmp_path / "disk" / "web", tmp_path / "corpus" / "web")
    assert [(one.source, one.text) for one in read(tmp_path / "corpus")] == [
        ("b.txt", "here"),
        ("web/a.txt", "elsewhere"),
    ]
    os.symlink("..", tmp_path / "corpus" / "up")
    assert "up/corpus: is a folder that holds it, by a link" in refused(tmp_path / "corpus")
    os.remove(tmp_path / "corpus" / "up")
    os.symlink(tmp_path / "corpus", tmp_path / "disk" / "web" / "back")
    assert "web/back: is a folder that holds it, by a link" in refused(tmp_path / "corpus")


def test_byte_order_marks_carriage_returns_and_blank_lines_are_no_fault(tmp_path: Path) -> None:
    marked = put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + LINE.replace(b"\n", b"\r\n") + b"\r\n\n" + LINE.rstrip())
    assert [document.text for document in read(marked)] == ["ok", "ok"]
    assert read(put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\n"))[0].text == "one\ntwo\n"
    assert read(put(tmp_path / "b.jsonl", b'{"text": "one\\r\\ntwo"}'))[0].text == "one\r\ntwo"


def test_nul_and_empty_documents_are_read_as_they_are(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"text": ""}\n{"text": "a\\u0000b", "meta": "none"}\n')
    assert [document.text for document in read(path)] == ["", "a\0b"]


def test_of_a_key_given_twice_the_last_counts(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"text": "first", "text": "last"}\n')
    assert [document.text for document in read(path)] == ["last"]


def test_any_field_can_hold_the_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"content": "ok", "meta": {"pile_set_name": 3}}\n')
    assert read(path, "content") == [Document("ok", "a.jsonl", "")]


def test_frames_one_after_another_are_one_file(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(LINE * 3)
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"
    streamed = zstandard.ZstdCompressor().compressobj()
    unsized = streamed.compress(LINE) + streamed.flush()
    assert len(read(put(tmp_path / "a.jsonl.zst", frame + skippable + frame + unsized))) == 7


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": "cut', "line 3: not valid JSON: "),
        (b"text", "line 3: not valid JSON"),
        (b'["text"]', "line 3: is no JSON object"),
        (b'{"content": "x", "id": 1}', "line 3: no field 'text'; set data.text_key to one of: 'content', 'id'"),
        (b'{"text": null}', "line 3: field 'text' is null"),
        (b'{"text": [1]}', "line 3: field 'text' is a list"),
        (b'{"text": 12}', "line 3: field 'text' is a number"),
        (b'{"text": "caf\xe9"}', "line 3: not UTF-8 at byte 14 (0xe9)"),
        (b'{"text": "a\xed\xa0\x80"}', "line 3: not UTF-8 at byte 12 (0xed)"),
        (b'{"text": "a\\ud800b"}', "line 3: the text has half a character (\\ud800, a lone surrogate) at character 2"),
        (b'{"text": "a", "meta": {"pile_set_name": "\\udc00"}}', "line 3: meta.pile_set_name has half a character"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 3: not readable as JSON"),
        (b'{"text": ' + b"[" * 100_000, "line 3: not"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst"])
def test_a_bad_line_is_named(tmp_path: Path, name: str, line: bytes, says: str) -> None:
    content = LINE + b"\n" + line + b"\n" + LINE
    path = put(tmp_path / name, zstandard.ZstdCompressor().compress(content) if name.endswith("zst") else content)
    assert refused(path).startswith(f"{path}: {says}")


def test_where_a_document_begins_is_where_it_lies_in_the_file(tmp_path: Path, pocket_lines: list[str]) -> None:
    lines = "".join(pocket_lines).encode()
    packed = put(tmp_path / "a.jsonl.zst", zstandard.ZstdCompressor().compress(lines))
    for document in read(packed):
        line = lines[document.offset :].split(b"\n", 1)[0]
        assert json.loads(line)["text"] == document.text


def test_reading_goes_on_at_any_record_in_every_format(tmp_path: Path, pocket_lines: list[str]) -> None:
    rows = [json.loads(line) for line in pocket_lines[:40]]
    lines = "".join(pocket_lines[:40]).encode()
    put(tmp_path / "a.jsonl", lines + b"broken\n")
    put(tmp_path / "b.jsonl.zst", zstandard.ZstdCompressor().compress(lines))
    put(tmp_path / "c.jsonl.gz", gzip.compress(lines)[:-9])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet", row_group_size=15)
    put(tmp_path / "e.jsonl", b"")
    put(tmp_path / "f.txt", b"text")
    data = source(tmp_path)
    files = corpus_files(data)
    whole = list(records(files, data, Position()))
    assert [type(item).__name__ for item in whole].count("Fault") == 2
    for number in range(0, len(whole), 7):
        assert list(records(files, data, after(whole[number]))) == whole[number + 1 :]


def test_what_is_allowed_is_left_out_and_what_is_more_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", LINE * 98 + b"broken\n" + LINE * 99 + b'{"text": 3}\n' + LINE)
    assert len(read(path, faults_allowed=0.01)) == 198
    message = refused(path, faults_allowed=0.0099)
    assert message.startswith(f"{path}: line 99: not valid JSON")
    assert "and 1 more faults (1.00% of the documents; data.faults_allowed = 0.0099" in message


def test_a_file_that_breaks_off_counts_for_as_many_documents_as_it_gave(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", LINE * 900)
    put(tmp_path / "b.jsonl.gz", gzip.compress(LINE * 100)[:-8])
    assert len(read(tmp_path, faults_allowed=0.1)) == 1000
    assert "the gzip data stop in the middle" in refused(tmp_path, faults_allowed=0.09)


def test_a_wrong_text_key_is_told_at_once(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", LINE * 5000)
    got = read_documents(source(path, "body", faults_allowed=0.9))
    with pytest.raises(InputError, match=r"line 1: no field 'body'; set data.text_key .* and 999 more faults"):
        next(got)


def test_a_line_beyond_the_cap_is_one_fault_and_reading_goes_on_in_bounded_memory(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(LINE)
        for _ in range(200):
            file.write(b"x" * 2**20)
        file.write(b"\n" + LINE * 2)
    path = tmp_path / "a.jsonl"
    tracemalloc.start()
    got = list(records(corpus_files(source(path)), source(path), Position()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(item).__name__ for item in got] == ["Record", "Fault", "Record", "Record"]
    assert got[1].reason.startswith(f"line 2 is longer than {MAX_DOCUMENT_BYTES} bytes")
    assert peak < 3 * MAX_DOCUMENT_BYTES


def test_text_that_is_not_utf8_is_named_with_its_place(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"abc\xff")
    assert refused(path).startswith(f"{path}: not UTF-8 at byte 4 (0xff); save the text as UTF-8 or remove it (100")
    assert "not UTF-8 at byte 1" in refused(put(tmp_path / "b.txt", "abc".encode("utf-16")))


def test_a_line_or_text_beyond_the_cap_is_refused_without_being_held(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress(LINE + b'{"text": "' + os.urandom(2**20).hex().encode() * 40 + b'"}\n')
    path = put(tmp_path / "a.jsonl.zst", frame)
    assert refused(path).startswith(f"{path}: line 2 is longer than {MAX_DOCUMENT_BYTES} bytes")
    with open(tmp_path / "a.txt", "wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    assert f"a.txt: the text is longer than {MAX_DOCUMENT_BYTES} bytes" in refused(tmp_path / "a.txt")


def test_zstd_cut_short_is_no_end_of_file(tmp_path: Path, pocket_lines: list[str]) -> None:
    frame = zstandard.ZstdCompressor().compress("".join(pocket_lines).encode())
    for size in (0, 3, 100, len(frame) // 2, len(frame) - 1):
        path = put(tmp_path / "a.jsonl.zst", frame[:size])
        assert f"a.jsonl.zst: the zstd data stop in the middle, at byte {size};" in refused(path)
    path = put(tmp_path / "a.jsonl.zst", frame + frame[:200])
    assert "stop in the middle" in refused(path)


def test_gzip_cut_short_damaged_or_padded(tmp_path: Path, pocket_lines: list[str]) -> None:
    packed = gzip.compress("".join(pocket_lines).encode())
    for size in (0, 5, 100, len(packed) // 2, len(packed) - 1):
        path = put(tmp_path / "a.jsonl.gz", packed[:size])
        assert "a.jsonl.gz: the gzip data stop in the middle, at byte" in refused(path)
    broken = bytearray(packed)
    broken[len(broken) // 2] ^= 0x10
    assert "a.jsonl.gz: damaged gzip data near byte" in refused(put(tmp_path / "a.jsonl.gz", bytes(broken)))
    broken = bytearray(packed)
    broken[-6] ^= 1  # the CRC
    assert "damaged gzip data" in refused(put(tmp_path / "a.jsonl.gz", bytes(broken)))
    assert len(read(put(tmp_path / "a.jsonl.gz", packed + b"\0" * 5000))) == 150


def test_a_gzip_bomb_is_stopped_before_it_goes_off(tmp_path: Path) -> None:
    bomb = gzip.compress((b" " * 99_999 + b"\n") * 3000)
    assert "a.jsonl.gz: expands over 500-fold" in refused(put(tmp_path / "a.jsonl.gz", bomb))


def test_damaged_zstd_is_named_with_its_place(tmp_path: Path, pocket_lines: list[str]) -> None:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress("".join(pocket_lines).encode()))
    frame[len(frame) // 2] ^= 0x10
    assert "a.jsonl.zst: damaged zstd data near byte" in refused(put(tmp_path / "a.jsonl.zst", bytes(frame)))
    assert "damaged zstd data near byte 0" in refused(put(tmp_path / "b.jsonl.zst", LINE * 10))


def test_a_bomb_is_stopped_before_it_goes_off(tmp_path: Path) -> None:
    """120 MB of blank lines in a few kB: every line is short, the whole is not."""
    bomb = zstandard.ZstdCompressor().compress((b" " * 999 + b"\n") * 120_000)
    assert len(bomb) < 30_000
    assert "a.jsonl.zst: expands over 1000-fold by byte" in refused(put(tmp_path / "a.jsonl.zst", bomb))


def test_a_window_that_would_take_gigabytes_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = put(tmp_path / "a.jsonl.zst", stream.compress(LINE) + stream.flush())
    assert "a.jsonl.zst: damaged zstd data" in refused(path) or "memory" in refused(path)


def test_parquet_faults_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b", None], "id": [1, 2, 3]}), path)
    assert refused(path).startswith(f"{path}: row 3: column 'text' is null")
    assert "no column 'body'; set data.text_key to one of: 'text', 'id'" in refused(path, "body")
    assert "column 'id' holds int64, not text" in refused(path, "id")
    whole = path.read_bytes()
    for content in (whole[:-20], whole[20:], b"", b"PAR1" * 3):
        assert "a.parquet: cannot be read as parquet (" in refused(put(path, content))
    bad = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": bad}), path)
    assert refused(path).startswith(f"{path}: row 2: not UTF-8 at byte 4 (0xe9)")


def test_a_changed_letter_in_parquet_is_found_where_its_writer_left_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.table({"text": [f"text number {n}" for n in range(40)]})
    pq.write_table(texts, path, row_group_size=10, compression="none", use_dictionary=False, write_page_checksum=True)
    assert len(read(path)) == 40
    put(path, path.read_bytes().replace(b"number 25", b"number 75", 1))
    assert refused(path).startswith(f"{path}: cannot be read as parquet (")
    assert len(read(path, faults_allowed=0.9)) == 20


def test_parquet_domains_are_read_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"text": "a", "meta": {"pile_set_name": "Verse", "id": 1}}, {"text": "b", "meta": None}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == [Document("a", "a.parquet", "Verse", 0), Document("b", "a.parquet", "", 1)]


def arrow_file(path: Path, texts: list[str], compression: str | None, form: str = "stream") -> Path:
    """Two texts a record batch, and a column with a dictionary beside them."""
    kind = pa.array(["a", "b"] * len(texts)).dictionary_encode()[: len(texts)]
    table = pa.table({"text": texts, "kind": kind})
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with new(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("form", ["stream", "file"])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_record_batch_beyond_the_cap_ends_the_file_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, form: str
) -> None:
    texts = ["one", "two", "x" * 300_000, "three", "four", "five"]
    path = arrow_file(tmp_path / "a.arrow", texts, compression, form)
    assert [document.text for document in read(path)] == texts
    monkeypatch.setattr("isoflop.data.arrow.MAX_BATCH_BYTES", 200_000)
    assert "a.arrow: record batch 2 takes 30" in refused(path)
    assert [document.text for document in read(path, faults_allowed=0.7)] == texts[:2]
    assert list(records(corpus_files(source(path)), source(path), Position()))[2].offset == 2


def test_an_arrow_bomb_is_refused_by_what_it_says_to_hold(tmp_path: Path) -> None:
    """A buffer of a few bytes that says it holds a terabyte: its reader would ask for that memory."""
    path = arrow_file(tmp_path / "a.arrow", ["x" * 70_000, "y" * 70_000], "zstd")
    content = path.read_bytes()
    said = (140_000).to_bytes(8, "little")
    assert content.count(said) == 1
    put(path, content.replace(said, (2**40).to_bytes(8, "little")))
    assert f"a.arrow: record batch 1 takes {2**40}"[:40] in refused(path)
    assert "more than 1073741824; write the file with smaller batches" in refused(path)


def test_whatever_byte_of_an_arrow_file_is_another_the_end_is_a_fault_or_documents(tmp_path: Path) -> None:
    """Headers are parsed by hand, and Arrow's own reader trusts offsets: neither may fail otherwise, or crash."""
    path = arrow_file(tmp_path / "a.arrow", ["one", "two", "three"], "lz4")
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for byte in (content[at] ^ 0xFF, content[at] ^ 1):
            put(path, content[:at] + bytes([byte]) + content[at + 1 :])
            with contextlib.suppress(InputError):
                read(path)
        put(path, content[: at // 5 * 5])
        with contextlib.suppress(InputError):
            assert len(read(path)) <= 3


def test_what_cannot_be_opened_or_read_is_named(tmp_path: Path) -> None:
    assert "nowhere.txt: no such file or folder; set data.source" in refused(tmp_path / "nowhere.txt")
    os.symlink("/proc/self/mem", tmp_path / "a.txt")  # opens, but reading fails, for root too
    assert refused(tmp_path / "a.txt").startswith(f"{tmp_path / 'a.txt'}: cannot read (Input/output error)")
    os.symlink("/nowhere", tmp_path / "0.jsonl")
    assert "0.jsonl: cannot read (No such file or directory)" in refused(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"secret")
    path.chmod(0)
    assert "a.txt: cannot read (Permission denied)" in refused(path)


def test_what_is_no_plain_file_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    assert "a.txt: cannot read (no plain file" in refused(tmp_path / "a.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "b.txt"))
        assert "b.txt: cannot read (no plain file" in refused(tmp_path / "b.txt")


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    assert "the folder holds no file to read" in refused(tmp_path)
    assert "no document has any text" in refused(put(tmp_path / "a.txt", b""))
    assert "no document has any text" in refused(put(tmp_path / "b.jsonl", b'{"text": ""}\n\n'))
    assert "no document has any text" in refused(tmp_path)
    assert "c.jsonl: the file is empty" in refused(put(tmp_path / "c.jsonl", b""))


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", b"text\nx\n")
    put(tmp_path / "b.txt", b"text")
    for source in (path, tmp_path):
        known = ".txt, .jsonl, .jsonl.zst, .jsonl.gz, .parquet, .arrow or .bin"
        assert refused(source).endswith(f"a.csv: cannot tell its format by its name; give files with {known}")
    assert read(path, text_suffixes=[".csv", ".txt"])[0].text == "text\nx\n"


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")), b"text")
    assert "the file's name has half a character" in refused(tmp_path)
