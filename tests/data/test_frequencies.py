"""The loss of guessing by frequency equals the sum written out."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from isoflop.config import BpeTokenizer, DataSource
from isoflop.data import TokenStream, frequency_loss, prepare


def test_it_is_the_cross_entropy_of_held_out_tokens_under_training_frequencies(tmp_path: Path) -> None:
    texts = [f"Entry {i}: the harbour at {i * 7 % 24} o'clock, wind from the west, {i} boats. " * 60 for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = BpeTokenizer(kind="bpe", vocab_size=280)
    source = DataSource(source=tmp_path / "t.jsonl", tokenizer=tokenizer, context_length=16, held_out_fraction=0.3)
    prepare(source, tmp_path / "data", lambda *_: None)

    def tokens(split: str) -> list[int]:
        stream = TokenStream(tmp_path / "data", split)
        whole = (stream.n_tokens - 1) // 1024 * 1024  # pieces of 1,024 are counted, each from its second token on
        return [int(token) for token in stream.batch(range(whole), 1)[:, 1]]

    train, held_out = tokens("train"), tokens("held_out")
    assert len(held_out) >= 1024
    counts = Counter(train)
    total = len(train) + 280
    wanted = -sum(math.log((counts[token] + 1) / total) for token in held_out) / len(held_out)
    assert frequency_loss(tmp_path / "data") == pytest.approx(wanted, rel=1e-9)


def test_millions_of_tokens_are_counted_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": f"{i:05d} " * 5000}) + "\n" for i in range(60)))
    tokenizer = BpeTokenizer(kind="bpe", vocab_size=280)
    source = DataSource(source=tmp_path / "t.jsonl", tokenizer=tokenizer, context_length=16, held_out_fraction=0.3)
    prepare(source, tmp_path / "data", lambda *_: None)
    batch, given = TokenStream.batch, list[int]()

    def counted(stream: TokenStream, indices: npt.ArrayLike, context_length: int) -> npt.NDArray[np.int64]:
        found = batch(stream, indices, context_length)
        given.append(found.nbytes)
        return found

    monkeypatch.setattr(TokenStream, "batch", counted)
    frequency_loss(tmp_path / "data")
    assert sum(given) > 4_000_000  # of which the training side alone is 2,700,000
    assert max(given) < 2_200_000
