"""Documents larger than memory should be: left out, listed, and never held."""

import os
import tracemalloc
from pathlib import Path

import zstandard

from isoflop.config import DataSource
from isoflop.data import prepare
from isoflop.data.records import MAX_DOCUMENT_BYTES


def test_documents_beyond_the_cap_are_left_out_and_listed_and_never_held(corpus: DataSource, tmp_path: Path) -> None:
    """A line and a text of 2 GiB do as these of 128 MiB: no more is held than the cap (docs/data.md has real ones)."""
    assert isinstance(corpus.source, Path)
    folder, before = corpus.source.parent, b'{"text": "before"}\n'
    with open(folder / "long.jsonl.zst", "wb") as file, zstandard.ZstdCompressor(1).stream_writer(file) as packed:
        packed.write(before + b'{"text": "')
        for _ in range(128):
            packed.write(os.urandom(2**19).hex().encode())
        packed.write(b'"}\n{"text": "after"}\n')
    with open(folder / "long.txt", "wb") as file:
        file.truncate(2**27)
    data = corpus.model_copy(update={"source": folder, "faults_allowed": 0.02})
    tracemalloc.start()
    manifest = prepare(data, tmp_path / "data", lambda line: None, workers=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    listed = [(fault.file, fault.offset, fault.rest_of_file) for fault in manifest.faults]
    assert listed == [("long.jsonl.zst", len(before), False), ("long.txt", 0, False)]
    assert manifest.faults[0].reason.startswith(f"line 2 is longer than {MAX_DOCUMENT_BYTES} bytes")
    assert manifest.documents_read == 152
    assert peak < 2.5 * MAX_DOCUMENT_BYTES
