"""Real text for the tests of the data room: a slice of the pocket corpus."""

import io
import itertools
from pathlib import Path

import pytest
import zstandard

from isoflop.config import BpeTokenizer, DataSource

POCKET = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"


@pytest.fixture(scope="session")
def pocket_lines() -> list[str]:
    """The first 150 documents of the pocket corpus, a JSON line each."""
    with open(POCKET, "rb") as file:
        stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="\n")
        return list(itertools.islice(stream, 150))


@pytest.fixture
def corpus(tmp_path: Path, pocket_lines: list[str]) -> DataSource:
    """The slice as a corpus of its own, with a small trained tokenizer."""
    source = tmp_path / "corpus" / "slice.jsonl"
    source.parent.mkdir()
    source.write_text("".join(pocket_lines), encoding="utf-8")
    (source.parent / "NOTICE").write_text("Public domain, all of it.\n")
    return DataSource(
        source=source,
        licence="public domain",
        tokenizer=BpeTokenizer(kind="bpe", vocab_size=384),
        context_length=64,
        held_out_fraction=0.1,
    )
